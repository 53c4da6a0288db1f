"""Burkholz's construction: one random layer for each behind the first, on copies of channels."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from fractions import Fraction

import jax
import numpy as np
import pytest
from exact import exact_evaluate
from helpers import as_json, sha256
from targets import TARGETS
from typer.testing import CliRunner

import slth_compile as slth
from slth_compile.certificate.activations import activations
from slth_compile.certificate.attack import attack
from slth_compile.certificate.copies import ticket_pair
from slth_compile.certificate.difference import bound_difference
from slth_compile.checker import copies as checker_copies
from slth_compile.checker import fold as checker_fold
from slth_compile.checker import verify
from slth_compile.checker.graph import DTYPES, parse_graph
from slth_compile.checker.manifest import Gadget as CheckerGadget
from slth_compile.checker.manifest import LayerPlan
from slth_compile.checker.safetensors import Tensor
from slth_compile.cli.frame import app
from slth_compile.constructions.burkholz import families
from slth_compile.constructions.copies import SINGLE, channel_groups, node_copies, repeated, widened
from slth_compile.errors import InputError, UnreachableError, UnsupportedModelError, VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph, graph_json, target_arrays
from slth_compile.plan import copies as plan_copies
from slth_compile.report.plan_text import plan_text
from slth_compile.source.layout import BURKHOLZ, Gadget, LayerLayout, Layout
from slth_compile.source.network import hidden_kernel, kernel_shape, to_canonical
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.source.threefry import TENSOR_V
from slth_compile.ticket.apply import effective_layers, effective_weights
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.materialise import network
from slth_compile.ticket.ticket import Ticket

SEED, WINDOW, COPIES, WIDTH = 3, 2, 4, 24
RNG = np.random.default_rng(4)


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.4, shape)


def convolution(place: int, shape: tuple[int, ...], **fields) -> n.Convolution:
    rank = len(shape) - 2
    plain = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank, "bias": draw(shape[-1])}
    return n.Convolution(inputs=(place,), kernel=draw(*shape), **(plain | fields))


RESIDUAL = Graph(
    (
        n.Input(shape=(4, 3, 1)),
        convolution(0, (2, 2, 1, 2)),
        n.LeakyRelu(inputs=(1,), slope=0.25),
        convolution(2, (1, 3, 1, 2), groups=2, padding=((0, 0), (1, 1)), bias=None),
        n.Prelu(inputs=(3,), slopes=np.array([0.5, -0.25])),
        n.Add(inputs=(2, 4)),
        n.MaxPool(inputs=(5,), window=(2, 1), stride=(1, 1), padding=((0, 0), (0, 0))),
        n.AveragePool(inputs=(6,), window=(1, 2), stride=(1, 1), padding=((0, 0), (0, 0))),
        n.Relu(inputs=(7,)),
        n.Reshape(inputs=(8,), shape=(4,)),
        n.Dense(inputs=(9,), kernel=draw(4, 2), bias=draw(2)),
    ),
    (10,),
)
"""Groups, a residual, signed inputs; a direct layer without bias."""


def copied_layout(graph: Graph, copies: int = COPIES) -> Layout:
    """Every group of channels as often as asked, gadgets as a plan might make them."""
    groups, layers = channel_groups(graph), []
    for i in graph.layers:
        node, direct = graph.nodes[i], groups[graph.nodes[i].inputs[0]] != SINGLE
        gadget = Gadget(width=copies if direct else WIDTH, gain=-1, window=WINDOW, tolerance=9.0, failure=0.0)
        bias = None if node.bias is None else dataclasses.replace(gadget, width=WIDTH, gain=0)
        built = 1 if groups[i] == SINGLE else copies
        layers.append(LayerLayout(signed=True, kernel=gadget, bias=bias, copies=built, direct=direct))
    return Layout(eps=1.0, delta=0.5, layers=tuple(layers), construction=BURKHOLZ)


def random_ticket(graph: Graph, layout: Layout) -> Ticket:
    masks, rng = [], np.random.default_rng(0)
    for index, i in enumerate(graph.layers):
        found = {}
        for family in families(Generated(SEED), index, graph.nodes[i], layout.layers[index]):
            shape = family.weights.shape
            subsets = rng.integers(0, 2**WINDOW, shape).astype(np.uint32)
            windows = np.where(subsets == 0, 0, rng.integers(0, 2, shape)).astype(np.uint16)
            found[family.part] = SubsetMask(windows, subsets)
        masks.append(found)
    return Ticket(layout, Generated(SEED), tuple(masks))


def exactly(weights: dict[int, LayerWeights]) -> dict[int, LayerWeights]:
    """Float weights as fractions, whose sums are not rounded."""
    fractions = np.vectorize(Fraction, otypes=[object])
    return {
        i: w._replace(
            **{k: None if (a := getattr(w, k)) is None else fractions(a) for k in ("positive", "negative", "bias")}
        )
        for i, w in weights.items()
    }


def test_channels_are_grouped_by_what_mixes_them():
    groups = channel_groups(RESIDUAL)
    assert groups == (SINGLE, 1, 1, 1, 1, 1, 1, 1, 1, 1, SINGLE)
    mixed = n.Softmax(inputs=(1,), axis=0), n.Dense(inputs=(2,), kernel=draw(2, 2))
    graph = Graph((n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=draw(2, 2)), *mixed), (3,))
    # What reads a softmax reads single channels, and is two random layers again.
    assert channel_groups(graph) == (SINGLE,) * 4 and copied_layout(graph).depth == 4
    assert copied_layout(RESIDUAL).depth == len(RESIDUAL.layers) + 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_of_copies_is_the_target_in_compiler_and_checker(target):
    """Two copies of every channel that can be copied, weights split in halves: the same function, up to rounding."""
    unfolded = target.graph()
    graph = fold(unfolded)
    layout = copied_layout(graph, 2)
    layers = {}
    for i, layer in zip(graph.layers, layout.layers, strict=True):
        node = layers[i] = repeated(graph.nodes[i], layer.copies)
        if layer.direct:
            halves = np.stack([to_canonical(node, np.asarray(node.kernel, np.float64)) / 2] * 2)
            layers[i] = dataclasses.replace(node, kernel=hidden_kernel(node, halves))
    wide = widened(graph, layout, layers)
    x = target.inputs(2).astype(np.float64)
    own, other = activations(graph, x), activations(wide, x)
    # Copies of a channel are equal, and side by side.
    for value, found, times in zip(own, other, node_copies(graph, layout), strict=True):
        np.testing.assert_allclose(np.repeat(value, times, -1) if times > 1 else value, found, rtol=1e-9, atol=1e-9)
    tensors = {
        name: Tensor(DTYPES[str(a.dtype)], a.shape, np.frombuffer(a.tobytes(), np.uint8))
        for name, a in target_arrays(unfolded).items()
    }
    gadget = {layer.kernel: CheckerGadget(**dataclasses.asdict(layer.kernel)) for layer in layout.layers}
    plans = tuple(LayerPlan(True, gadget[layer.kernel], None, layer.copies, layer.direct) for layer in layout.layers)
    folded = checker_copies.widen(checker_fold.fold(parse_graph(graph_json(unfolded), tensors)[0]), plans)
    assert [node.shape for node in folded.graph.nodes] == list(wide.shapes)


def test_every_weight_of_a_direct_layer_is_an_entry_of_the_seed_where_the_mask_keeps_it():
    ticket = random_ticket(RESIDUAL, copied_layout(RESIDUAL))
    params = network(RESIDUAL, ticket).variables["params"]
    assert [sorted(params[f"layer{i}"]) for i in range(3)] == [["U", "V", "u", "v"], ["V"], ["V", "u", "v"]]
    sums = effective_layers(RESIDUAL, ticket)
    for index in (1, 2):
        node = RESIDUAL.nodes[RESIDUAL.layers[index]]
        layout, mask = ticket.layout.layers[index], ticket.masks[index]["positive"]
        shape = kernel_shape(repeated(node, layout.copies))
        literal = np.asarray(params[f"layer{index}"]["V"], np.float64).reshape(shape.taps, -1, shape.outputs)
        inputs, outputs = shape.inputs // shape.groups, shape.outputs // shape.groups
        for p, t, s in np.ndindex(shape.shape):
            total = 0
            for k in range(COPIES):
                at = ((k * shape.taps + p) * shape.inputs + t) * outputs + s
                entry = int(read_entries(Generated(SEED).tensor(index, TENSOR_V), np.array([at]))[0])
                window, rank = divmod(k, WINDOW)
                kept = window == mask.windows[p, t, s] and mask.subsets[p, t, s] >> rank & 1
                total += entry * bool(kept)
                found = literal[p, (t % inputs) * COPIES + k, t // inputs * outputs + s]
                assert Fraction(found) == Fraction(entry * bool(kept), 1 << 24)
            # Sums are in units of 2^(gain - 46), entries of 2^(gain - 23).
            assert total << 23 == int(sums[index].positive[p, t, s])


def test_literal_and_effective_are_one_function():
    ticket = random_ticket(RESIDUAL, copied_layout(RESIDUAL))
    layers = effective_layers(RESIDUAL, ticket)
    wide, _ = ticket_pair(RESIDUAL, ticket, layers)
    weights = exactly(effective_weights(RESIDUAL, ticket, layers))
    for i, layer in zip(RESIDUAL.layers, ticket.layout.layers, strict=True):
        assert wide.shapes[i][-1] == RESIDUAL.shapes[i][-1] * layer.copies
    x = np.random.default_rng(1).integers(-4, 5, (4, *RESIDUAL.input_shape)) / 4
    exact = np.stack([exact_evaluate(wide, row, weights)[0].astype(np.float64) for row in x])
    with jax.enable_x64(True):
        found = np.asarray(network(RESIDUAL, ticket)(x))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"dense": True}, {"compact": True}])
def test_full_matrices_and_fewer_copies_are_the_same_function(form):
    ticket = random_ticket(RESIDUAL, copied_layout(RESIDUAL))
    x = np.random.default_rng(1).normal(size=(4, *RESIDUAL.input_shape)).astype(np.float32)
    np.testing.assert_allclose(network(RESIDUAL, ticket, **form)(x), network(RESIDUAL, ticket)(x), rtol=1e-5, atol=1e-5)


def test_the_split_target_is_the_target_and_its_errors_enclose_those_of_the_ticket():
    ticket = random_ticket(RESIDUAL, copied_layout(RESIDUAL))
    wide, errors = ticket_pair(RESIDUAL, ticket, layers := effective_layers(RESIDUAL, ticket))
    for index, (i, layer) in enumerate(zip(RESIDUAL.layers, ticket.layout.layers, strict=True)):
        if not layer.direct:
            continue
        node, kernel = repeated(RESIDUAL.nodes[i], layer.copies), np.asarray(wide.nodes[i].kernel)
        literal = np.asarray(network(RESIDUAL, ticket).variables["params"][f"layer{index}"]["V"], np.float64)
        rows, columns = node.kernel.reshape(-1, node.kernel.shape[-1]), kernel.shape[-1]
        copies = (a.reshape(len(rows), COPIES, columns) for a in (kernel, literal, errors[i].positive_center))
        for own, split, kept, center in zip(rows, *copies, strict=True):
            for s in range(columns):
                last = [k for k in range(COPIES) if split[k, s] != kept[k, s]]
                true = Fraction(own[s]) - sum(Fraction(v) for v in kept[:, s]) + sum(Fraction(kept[k, s]) for k in last)
                if not last:
                    continue
                (k,) = last
                assert abs(kept[k, s]) == np.abs(kept[:, s]).max()
                # w_k* is what is missing, up to the stated rounding; the error is that of the sum.
                assert abs(Fraction(split[k, s]) - true) <= Fraction(wide.nodes[i].kernel_error) * abs(
                    Fraction(split[k, s])
                )
                error = sum(Fraction(v) for v in kept[:, s]) - Fraction(own[s])
                assert abs(error - Fraction(center[k, s])) <= abs(error) * Fraction(1, 1 << 50)
        assert layers[index].negative is None and errors[i].negative_center is errors[i].positive_center


def test_bounds_hold_for_exact_differences_on_points_and_regions():
    ticket = random_ticket(RESIDUAL, copied_layout(RESIDUAL))
    layers = effective_layers(RESIDUAL, ticket)
    wide, errors = ticket_pair(RESIDUAL, ticket, layers)
    weights = exactly(effective_weights(RESIDUAL, ticket, layers))
    x = np.random.default_rng(2).uniform(-1, 1, (2, *RESIDUAL.input_shape))
    for radius in (0.0, 2.0**-6):
        (leaf,) = bound_difference(wide, errors, x - radius, x + radius)
        for region, middle in enumerate(x):
            for sign in (-1, 0, 1):
                at = np.vectorize(Fraction, otypes=[object])(middle + sign * radius)
                (f,), (g,) = exact_evaluate(RESIDUAL, at), exact_evaluate(wide, at, weights)
                ends = zip(leaf.lower[region], (g - f).tolist(), leaf.upper[region], strict=True)
                assert all(Fraction(low) <= value <= Fraction(high) for low, value, high in ends)
                if radius == 0:
                    np.testing.assert_allclose(leaf.upper[region], leaf.lower[region], rtol=1e-9)


# ---------------------------------------------------------------- the whole way

SHAPE = (3,)
BOX, POINTS = (
    slth.Box(-0.5, 1.0, SHAPE),
    slth.Points(np.random.default_rng(3).uniform(-1, 1, (5, 3)).astype(np.float32)),
)


@functools.cache
def perceptron() -> Graph:
    """Three layers, a signed input, a bias that is zero in part."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(0, 0.4, shape).astype(np.float32) for shape in ((3, 3), (3,), (3, 2), (2, 2), (2,))]
    weights[2][0, 0] = 0
    nodes = (
        n.Input(shape=SHAPE),
        n.Dense(inputs=(0,), kernel=weights[0], bias=weights[1], name="first"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=weights[2], name="second"),
        n.LeakyRelu(inputs=(3,), slope=0.125),
        n.Dense(inputs=(4,), kernel=weights[3], bias=weights[4], name="third"),
    )
    return Graph(nodes, (5,))


@functools.cache
def compiled() -> slth.Compiled:
    options = {"domain": (BOX, POINTS), "construction": "burkholz", "window": 12}
    return slth.compile(perceptron(), 0.5, 0.05, attack=False, effort="quick", **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("burkholz") / "ticket"
    compiled().save(folder)
    return folder


def test_a_dense_network_is_certified_verified_and_literal(saved, tmp_path):
    out = compiled()
    verdict = verify(saved, expected_id=out.ticket_id)
    assert dict(verdict.checks)["construction"] == "of burkholz: layers read as many copies of channels as there are"
    layers = out.layout.layers
    assert out.layout.depth == 4 and [layer.direct for layer in layers] == [False, True, True]
    assert [layers[0].copies, layers[1].copies, layers[2].copies] == [layers[1].kernel.width, layers[2].kernel.width, 1]
    assert out.plan.promise == "typical" and out.layout.failure <= 0.05
    # W has r_in r_out random weights for each of the target's.
    v = [layers[1].kernel.width * layers[1].copies * 6, layers[2].kernel.width * 4]
    biases = [layers[0].bias.width * 3 * layers[0].copies, 0, layers[2].bias.width * 2]
    first = layers[0].kernel.width * 9 * layers[0].copies
    assert [size.parameters_v for size in out.plan.layers] == [first + biases[0], v[0], v[1] + biases[2]]
    assert [size.parameters_u for size in out.plan.layers][1] == 0
    assert (verdict.parameters_v, verdict.weights) == (
        sum(size.parameters_v for size in out.plan.layers),
        9 + 3 + 6 + 4 + 2,
    )
    for domain, certificate in zip(out.domains, out.certificates, strict=True):
        seen = attack(out.pair, target_weights(out.pair), out.weights, domain, steps=10, restarts=1)
        assert 0 < seen.value <= certificate.bound <= 0.5
        # Of the target as it is, not split over copies.
        x = domain.regions()[1]
        target, ticket = activations(out.folded, x)[-1], activations(out.pair, x, out.weights)[-1]
        assert np.abs(target - ticket).max() <= certificate.bound
    again = slth.load(saved)
    assert again.layout == out.layout and again.certificate.bound == out.certificate.bound
    np.testing.assert_array_equal(again(POINTS.x), out(POINTS.x))
    np.testing.assert_allclose(out.network(POINTS.x), out(POINTS.x), atol=1e-4)
    assert slth.certify(perceptron(), out, POINTS).bound == pytest.approx(out.certificates[1].bound, rel=1e-6)
    assert "4 random layers" in plan_text(out.plan) and "4 layers" in (saved / "README.md").read_text()
    with pytest.raises(UnsupportedModelError, match="every channel several times"):
        out.export(tmp_path / "weights.safetensors", like=lambda x: x)


def signed_again(good, bad, change) -> str:
    """The check that refuses a ticket after a change of its manifest and certificate, every digest made to agree."""
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    manifest, claims = (json.loads((bad / name).read_bytes()) for name in ("manifest.json", "certificate.json"))
    change(manifest, claims)
    (bad / "certificate.json").write_bytes(as_json(claims))
    manifest["files"]["certificate.json"] = sha256((bad / "certificate.json").read_bytes())
    (bad / "manifest.json").write_bytes(as_json(manifest))
    names = sorted(path.name for path in bad.iterdir() if path.name != "SHA256SUMS")
    (bad / "SHA256SUMS").write_text("".join(f"{sha256((bad / name).read_bytes())}  {name}\n" for name in names))
    with pytest.raises(VerificationError) as found:
        verify(bad)
    return found.value.check


def lower(claims, share):
    claims[1] |= {"per_output": [[v * share for v in claims[1]["per_output"][0]]], "bound": claims[1]["bound"] * share}
    claims[1]["lower"] = 0.0


def put(*path):
    def change(manifest, claims):
        *most, key, value = path
        functools.reduce(lambda found, step: found[step], most, manifest)[key] = value

    return change


LIES = {
    "a lower bound": (lambda manifest, claims: lower(claims, 1 - 1e-6), "bound"),
    "another seed": (put("seed", 1), "masks|tolerance"),
    "fewer copies": (put("layers", 0, "copies", 12), "construction"),
    "fewer candidates": (put("layers", 1, "kernel", "width", 12), "construction"),
    "copies of the output": (put("layers", 2, "copies", 2), "construction"),
    "two layers where there is one": (put("layers", 1, "direct", False), "construction"),
    "one layer where there are two": (put("layers", 0, "direct", True), "construction"),
    "no copies": (put("layers", 1, "copies", 0), "construction"),
    "copies beyond memory": (put("layers", 0, "copies", 2**15 - 1), "construction"),
    "another construction": (put("construction", "pensia"), "format"),
    "evaluated exactly": (
        lambda manifest, claims: claims[1].update(method="exact", arithmetic="real", float32=None),
        "bound",
    ),
    "one-signed behind a leaky relu": (put("layers", 2, "signed", False), "sign"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_named(name, saved, tmp_path):
    change, check = LIES[name]
    assert signed_again(saved, tmp_path / "bad", change) in check.split("|")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_flipped_mask_bit_is_found(layer, tmp_path):
    out = compiled()
    mask = out.ticket.masks[layer]["positive"]
    subsets = mask.subsets.copy()
    at = np.unravel_index(np.argmax(subsets != 0), subsets.shape)
    subsets[at] ^= np.uint32(1 << 5)
    masks = list(out.ticket.masks)
    masks[layer] = masks[layer] | {"positive": SubsetMask(mask.windows.copy(), subsets)}
    dataclasses.replace(out, ticket=dataclasses.replace(out.ticket, masks=tuple(masks))).save(tmp_path / "bad")
    with pytest.raises(VerificationError) as found:
        verify(tmp_path / "bad")
    assert found.value.check in ("tolerance", "bound")


def test_a_small_cnn_on_the_command_line(tmp_path):
    """A convolution, a max-pool, a dense layer; the plan alone and the whole way."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(6)
    arrays = {"k": rng.normal(0, 0.4, (2, 1, 2, 2)), "w": rng.normal(0, 0.4, (2, 2))}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalMaxPool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, str(tmp_path / "net.onnx"))
    asked = ["compile", str(tmp_path / "net.onnx"), str(tmp_path / "out"), "--construction", "burkholz", "--eps", "0.5"]
    asked += ["--delta", "0.05", "--window", "12", "--no-attack", "--quiet"]
    planned = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert planned.exit_code == 0 and "3 random layers" in planned.output, planned.output
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0 and "3 random layers by burkholz" in made.output, made.output
    assert verify(tmp_path / "out").parameters_v > 0


def test_what_does_not_go_with_it_is_refused(monkeypatch):
    others = (
        ({"feedback": POINTS.x}, "feedback"),
        ({"source": lambda *_: 0.5}, "a supplied source"),
        ({"promise": "all"}, "a promise for all errors"),
    )
    for wrong, message in others:
        with pytest.raises(InputError, match=f"construction burkholz does not go with {message}"):
            slth.compile(perceptron(), 0.5, construction="burkholz", domain=POINTS, **wrong)
    monkeypatch.setattr(plan_copies, "LARGEST_LAYER", 1000)
    with pytest.raises(UnreachableError, match=r"'second' would have .* and 1,000 are allowed"):
        slth.compile(perceptron(), 0.5, construction="burkholz", domain=POINTS)


def test_copies_settle_at_what_layers_need_and_tolerances_are_nearer_in_front():
    layout = compiled().layout
    assert node_copies(perceptron(), layout) == (1, *(layout.layers[0].copies,) * 2, *(layout.layers[1].copies,) * 2, 1)
    again = slth.dry_run(perceptron(), 0.5, 0.05, domain=(BOX, POINTS), construction="burkholz", window=12)
    assert again.layout == layout
    plain = slth.dry_run(perceptron(), 0.5, 0.05, domain=(BOX, POINTS), window=12, promise="typical").layout
    shares = [a.kernel.tolerance / b.kernel.tolerance for a, b in zip(plain.layers, layout.layers, strict=True)]
    assert shares[0] > shares[1] > shares[2] == 1


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["closest", "sparsest", "fewest-bits"])
@pytest.mark.parametrize("name", ["strided", "signal", "rearranged", "alone", "depthwise", "bent", "convnext"])
def test_targets_go_the_whole_way(name, objective, tmp_path):
    target = next(target for target in TARGETS if target.name == name)
    for eps in (target.eps * 2**k for k in range(0, 40, 4)):
        try:
            out = slth.compile(
                target.build(), eps, 0.05, domain=target.domains, construction="burkholz", objective=objective
            )
            break
        except UnreachableError:
            continue
    out.save(tmp_path / "out")
    verify(tmp_path / "out")
    assert all(seen.value <= c.bound for seen, c in zip(out.measured.attacks, out.certificates, strict=True))
    x = target.inputs(4)
    np.testing.assert_allclose(out.network(x), out(x), rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_planned_misses_are_no_more_frequent_than_stated():
    """Sixty seeds at delta = .1: more than 15 with a miss have a probability below 1e-3."""
    missed = 0
    for seed in range(60):
        try:
            options = {"construction": "burkholz", "window": 12, "attack": False, "effort": "quick"}
            slth.compile(perceptron(), 0.5, 0.1, domain=POINTS, seed=seed, **options)
        except UnreachableError as error:
            missed += "missed" in str(error)
    assert missed <= 15
