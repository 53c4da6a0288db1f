"""Two networks of one graph: their errors in exact rationals, what is refused, and the statements of a comparison."""

from __future__ import annotations

import dataclasses
import json
import types
from fractions import Fraction

import flax.linen as nn
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from exact import exact as exact_of
from exact import exact_evaluate, fractions_of, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, drawer
from test_difference import REGIONS, inputs_of, random_regions

import slth_compile as slth
from slth_compile.certificate import pair as pairs
from slth_compile.certificate.difference import bound_difference
from slth_compile.certificate.pair import enclosed_difference, pair_of, pair_with_ticket
from slth_compile.domain import Balls, Box, Points
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph
from slth_compile.source.network import from_canonical
from slth_compile.source.source import Generated
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

seeds = st.integers(0, 2**32 - 1)


def changed(graph: Graph, rng: np.random.Generator, size: float) -> Graph:
    """The graph with other weights: moved, rounded to float16, pruned, a bias less or more, other constants."""
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        if isinstance(node, n.Weighted):
            way = rng.integers(4)
            kernel = node.kernel + size * rng.normal(size=node.kernel.shape)
            kernel = [kernel, node.kernel.astype(np.float16), np.where(kernel > 0, node.kernel, 0.0), node.kernel][way]
            bias = [node.bias, None, size * rng.normal(size=node.kernel.shape[-1])][rng.integers(3)]
            nodes[i] = dataclasses.replace(node, kernel=kernel, bias=bias, name="other")
        elif isinstance(node, n.Affine) and rng.random() < 0.5:
            shift = [node.shift, None][rng.integers(2)]
            nodes[i] = dataclasses.replace(node, scale=node.scale * (1 + size), shift=shift)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def domain_of(nonnegative: bool) -> types.SimpleNamespace:
    """All that `errors_on` asks of a domain."""
    return types.SimpleNamespace(is_nonnegative=lambda: nonnegative)


# ---------------------------------------------------------------- errors


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1.0, 1e-2, 1e-12]))
@settings(max_examples=50, deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    f = network(drawer(rng, coarse))
    g = changed(f, rng, size)
    pair = pair_of(f, g)
    lower, upper = random_regions(rng, f.input_shape, nonnegative, coarse)
    errors = pair.errors_on(domain_of(nonnegative))
    for region in range(REGIONS):
        found = bound_difference(pair.graph, errors, lower[region : region + 1], upper[region : region + 1])
        for x in inputs_of(rng, lower[region], upper[region])[: 2 if region < 2 else 1]:
            for leaf, a, b in zip(found, exact_evaluate(f, x), exact_evaluate(g, x), strict=True):
                assert is_inside(leaf, 0, np.asarray(b - a, object))
                assert is_inside(dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper), 0, a)


def _is_enclosed(seed: int, scale: float) -> bool:
    """Whether a layer's errors hold all differences of weights that two folds allow, in exact rationals."""
    rng = np.random.default_rng(seed)
    nodes = []
    for _ in range(2):
        bias = rng.normal(size=3) * scale
        nodes.append(
            n.Dense(
                inputs=(0,),
                kernel=rng.normal(size=(4, 3)) * scale,
                bias=bias,
                kernel_error=float(rng.choice([0.0, 2.0**-50, 1e-3])),
                bias_error=np.abs(bias) * 2.0**-49 if rng.random() < 0.5 else None,
            )
        )
    f, g = nodes
    errors = pairs._layer_errors(f, g)
    assert errors.negative_center is errors.positive_center and errors.negative_radius is errors.positive_radius
    kernel_errors = [fractions_of(exact_of(abs(node.kernel))) * Fraction(node.kernel_error) for node in nodes]
    bias_errors = [exact_of(0 * node.bias if node.bias_error is None else node.bias_error) for node in nodes]
    parts = (
        (f.kernel, g.kernel, sum(kernel_errors), errors.positive_center, errors.positive_radius),
        (f.bias, g.bias, sum(map(fractions_of, bias_errors)), errors.bias_center, errors.bias_radius),
    )
    for a, b, error, center, radius in parts:
        f_exact, g_exact, center, radius = (fractions_of(exact_of(v)) for v in (a, b, center, radius))
        if np.any(abs(g_exact - f_exact - center) + error > radius):
            return False
    return True


@given(seeds, st.sampled_from([1.0, 1e-300, 1e-310, 1e200]))
@settings(max_examples=100, deadline=None)
def test_errors_hold_what_both_folds_rounded(seed: int, scale: float) -> None:
    assert _is_enclosed(seed, scale)


@pytest.mark.parametrize("forget", ["f", "g", "subtraction"])
def test_a_forgotten_error_is_seen(forget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(g, g_error, f, f_error):
        center, radius = enclosed_difference(g, 0 * g_error if forget == "g" else g_error, f, 0 * f_error if forget == "f" else f_error)  # fmt: skip # noqa: E501
        return center, radius - 2.0**-52 * np.abs(center) if forget == "subtraction" else radius

    monkeypatch.setattr(pairs, "enclosed_difference", careless)
    assert not all(_is_enclosed(seed, 1.0) for seed in range(20))


def test_equal_weights_have_no_error() -> None:
    value = np.array([0.1, -3.0, 0.0, 5e-324])
    center, radius = enclosed_difference(value, 0.0, value, 0.0)
    assert not center.any() and not radius.any()


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_error_is_of_both_signs_unless_the_input_is_nonnegative(nonnegative: bool) -> None:
    graph = Graph(
        (
            n.Input(shape=(2,)),
            n.Dense(inputs=(0,), kernel=np.ones((2, 2))),
            n.Relu(inputs=(1,)),
            n.Dense(inputs=(2,), kernel=np.ones((2, 2))),
            n.Dense(inputs=(3,), kernel=np.ones((2, 2))),
        ),
        (4,),
    )
    errors = pair_of(graph, graph).errors_on(domain_of(nonnegative))
    assert [errors[i].negative_radius is None for i in (1, 3, 4)] == [nonnegative, True, False]


# ---------------------------------------------------------------- one graph or not


def line(**changes: object) -> Graph:
    """A convolution, a relu, pooling, a dense layer; some of it changed."""
    kernel = np.asarray(changes.pop("kernel", np.full((2, 2, 1, 2), 0.5)))
    nodes = [
        n.Input(shape=(4, 4, 1)),
        n.Convolution(inputs=(0,), name="conv", kernel=kernel, stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1)),
        n.LeakyRelu(inputs=(1,), slope=float(changes.pop("slope", 0.1))),  # type: ignore[arg-type]
        n.Mean(inputs=(2,), axes=(0, 1)),
        n.Dense(inputs=(3,), name="last", kernel=np.ones((kernel.shape[-1], 2))),
        *changes.pop("more", ()),  # type: ignore[misc]
    ]
    for i, node in changes.pop("nodes", {}).items():  # type: ignore[attr-defined]
        nodes[i] = node
    outputs = changes.pop("outputs", (len(nodes) - 1,))
    return Graph(tuple(nodes), outputs, changes.pop("names", ("",)))  # type: ignore[arg-type]


DIFFERENT = {
    "operation": (line(nodes={2: n.Relu(inputs=(1,))}), "node 2: leaky relu in the first, relu in the second"),
    "attribute": (line(slope=0.2), "node 2: leaky relu with slope 0.1 in the first, leaky relu with slope 0.2"),
    "kernel": (
        line(kernel=np.ones((3, 3, 1, 2))),
        "node 1 'conv': convolution with kernel of shape (2, 2, 1, 2) in the first, convolution with kernel of shape "
        "(3, 3, 1, 2) in the second",
    ),
    "longer": (line(more=(n.Relu(inputs=(4,)),)), "node 5: relu in the second, nothing in the other"),
    "reads": (
        line(more=(n.Add(inputs=(4, 4)),), outputs=(5,)),
        "node 5: add in the second, nothing in the other",
    ),
    "outputs": (line(outputs=(4, 3), names=("a", "b")), "outputs: node 4 in the first, 'a' = node 4, 'b' = node 3"),
    "input": (line(nodes={0: n.Input(shape=(5, 5, 1))}), "node 0: input with shape (4, 4, 1) in the first"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_networks_of_two_graphs_are_refused(name: str) -> None:
    other, expected = DIFFERENT[name]
    with pytest.raises(UnsupportedModelError) as refused:
        pair_of(line(), other)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


ARRAYS = {
    "slopes": [n.Prelu(inputs=(1,), slopes=np.array(slope)) for slope in (0.25, 0.5)],
    "matrix": [n.Resample(inputs=(1,), axis=0, matrix=np.full((2, 3), size)) for size in (0.25, 0.5)],
}


@pytest.mark.parametrize("field", ARRAYS)
def test_arrays_of_nodes_without_weights_are_the_same_in_both(field: str) -> None:
    """No engine carries a difference of these: a bound would leave it out."""
    one, other = (line(nodes={2: node}) for node in ARRAYS[field])
    assert pair_of(one, line(nodes={2: ARRAYS[field][0]})).graph.nodes
    with pytest.raises(UnsupportedModelError, match=f"with its {field} in the first"):
        pair_of(one, other)


def test_a_folded_batch_norm_is_no_difference() -> None:
    """What a network with batch norm and its folded form may differ in is the rounding of the fold."""
    norm = {name: np.array(value) for name, value in (("mean", [0.1, -0.2]), ("variance", [2.0, 0.3]))}
    layer = n.Convolution(
        inputs=(0,), kernel=np.full((1, 1, 1, 2), 0.7), stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1)
    )
    f = Graph((n.Input(shape=(3, 3, 1)), layer, n.BatchNorm(inputs=(1,), epsilon=1e-5, **norm)), (2,))
    factor = 1 / np.sqrt(norm["variance"] + 1e-5)
    folded = dataclasses.replace(layer, kernel=layer.kernel * factor, bias=-norm["mean"] * factor)
    found = slth.certify(f, Graph((f.nodes[0], folded), (1,)), Box(0.0, 1.0))
    assert 0 < found.bound < 1e-14
    moved = dataclasses.replace(layer, kernel=layer.kernel * factor, bias=-norm["mean"] * factor + [0.0, 0.125])
    found = slth.certify(f, Graph((f.nodes[0], moved), (1,)), Box(0.0, 1.0))
    assert 0.125 <= found.bound < 0.125 * (1 + 1e-8)
    assert found.rungs[0].attack is not None and found.rungs[0].attack.value == pytest.approx(0.125)


# ---------------------------------------------------------------- tickets


def test_a_ticket_and_its_target_have_the_tickets_certificates(shared) -> None:
    out = slth.load(shared.ticket)
    for sides in ((out.graph, str(shared.ticket)), (out, out.graph)):
        found = slth.certify(*sides, out.domains, attack=False, names=("one", "two"))
        assert (found.first, found.second) == (("one", "two") if sides[0] is out.graph else ("two", "one"))
        for rung, own in zip(found.rungs, out.certificates, strict=True):
            assert (rung.bound, rung.lower, rung.kind) == (own.bound, own.lower, own.kind)
            assert all(np.array_equal(a, b) for a, b in zip(rung.per_output, own.per_output, strict=True))


def test_a_ticket_and_another_network_are_bounded_exactly(shared) -> None:
    """Against another network of the graph, of which the ticket is not one: exact sums, exact rationals."""
    out = slth.load(shared.ticket)
    rng = np.random.default_rng(0)
    exact_ticket = {
        i: LayerWeights(*_exact_parts(out.folded.nodes[i], layer, layout), clip=not layout.signed)
        for i, layer, layout in zip(out.folded.layers, out.layers, out.layout.layers, strict=True)
    }
    for seed in range(6):
        f = changed(out.graph, np.random.default_rng(seed), 0.1)
        pair = pair_with_ticket(f, out.folded, out.ticket, out.layers)
        lower, upper = random_regions(rng, f.input_shape, False, False)
        for region in range(REGIONS):
            ends = lower[region : region + 1], upper[region : region + 1]
            (found,) = bound_difference(pair.graph, pair.errors_on(domain_of(False)), *ends)
            for x in inputs_of(rng, lower[region], upper[region]):
                (a,), (b,) = exact_evaluate(f, x), exact_evaluate(out.folded, x, exact_ticket)
                assert is_inside(found, 0, np.asarray(b - a, object))


def _exact_parts(node: n.Node, layer: EffectiveLayer, layout) -> list[np.ndarray | None]:
    def exact(sums: np.ndarray | None, gain: int) -> np.ndarray | None:
        unit = Fraction(2) ** (gain - 46)
        return None if sums is None else np.vectorize(lambda k: int(k) * unit, otypes=[object])(sums)

    kernels = [None if s is None else from_canonical(node, s) for s in (layer.positive, layer.negative)]
    bias = None if layer.bias is None else exact(layer.bias.reshape(-1), layout.bias.gain)
    return [*(exact(kernel, layout.kernel.gain) for kernel in kernels), bias]


def test_a_bias_that_the_ticket_lacks() -> None:
    """`e_b = 0 - b`, with its sign."""
    without = Graph((n.Input(shape=(1,)), n.Dense(inputs=(0,), kernel=np.ones((1, 2)))), (1,))
    node = dataclasses.replace(without.nodes[1], bias=np.array([0.25, -0.5]))
    gadget = types.SimpleNamespace(gain=0)
    layout = types.SimpleNamespace(
        construction="da-cunha",
        layers=(types.SimpleNamespace(kernel=gadget, bias=None, signed=False, copies=1, direct=False),),
    )
    sums = np.full((1, 1, 2), 2**46, np.int64)
    ticket = Ticket(layout, Generated(0), ())  # type: ignore[arg-type]
    pair = pair_with_ticket(Graph((without.nodes[0], node), (1,)), without, ticket, (EffectiveLayer(sums, None, None),))
    (leaf,) = bound_difference(pair.graph, pair.errors_on(domain_of(True)), np.array([[0.0]]), np.array([[1.0]]))
    np.testing.assert_allclose(leaf.lower[0], [-0.25, 0.5], atol=1e-12)
    np.testing.assert_allclose(leaf.upper[0], [-0.25, 0.5], atol=1e-12)
    with pytest.raises(InputError, match="compiled for inputs >= 0"):
        pair.errors_on(domain_of(False))


def test_two_tickets_are_refused(shared) -> None:
    with pytest.raises(UnsupportedModelError, match="both networks are tickets"):
        slth.certify(shared.ticket, slth.load(shared.ticket))


# ---------------------------------------------------------------- the comparison


class Small(nn.Module):
    """A convolution and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (2, 2))(x)).reshape(x.shape[0], -1)
        return nn.Dense(4)(nn.relu(nn.Dense(6)(x)))


@pytest.fixture(scope="module")
def rounded() -> tuple[nn.Module, nn.Module, np.ndarray]:
    """A flax model, the same with its weights rounded to float16, and inputs."""
    x = np.random.default_rng(0).uniform(0, 1, (12, 4, 4, 1)).astype(np.float32)
    variables = Small().init(jax.random.key(0), x)
    halves = jax.tree.map(lambda a: np.asarray(a, np.float16).astype(np.float32), variables)
    return Small().bind(variables), Small().bind(halves), x


def test_a_model_and_its_float16_weights(rounded) -> None:
    f, g, x = rounded
    domains = [Points(x), Balls(x, 0.01, 0.0, 1.0), Box(0.0, 1.0)]
    found = slth.certify(f, g, domains, data=(x, np.zeros(12, np.int64)), names=("full", "half"))
    assert [rung.kind for rung in found.rungs] == ["points", "balls", "box"]
    bounds = [rung.bound for rung in found.rungs]
    assert bounds == sorted(bounds) and found.bound == bounds[0]
    for rung in found.rungs:
        assert rung.attack is not None and rung.ratio is not None
        assert 0 < rung.attack.value <= rung.bound and 1 <= rung.ratio < 50
        assert rung.attack.per_output[0].shape == rung.per_output[0].shape == (4,)
        assert np.all(rung.attack.per_output[0] <= rung.per_output[0])
        assert rung.attack.per_output[0].max() == rung.attack.value
        assert not rung.is_vacuous and rung.seconds >= 0 and rung.arithmetic
    points, balls, box = found.rungs
    assert points.lower <= points.attack.value <= points.bound < points.attack.value * (1 + 1e-6)
    assert balls.attack.value >= points.attack.value  # the centres are in the balls
    assert box.top1 is None and points.top1.proved.all()
    assert balls.top1.unchanged <= points.top1.unchanged
    assert found.statistical.largest == points.attack.value
    assert found.statistical.agreeing == 12
    assert found.statistical.accuracies[0] == found.statistical.accuracies[1]
    assert sum(layer.changed for layer in found.layers) > 0
    for text in (str(found), json.dumps(found.to_json())):
        assert "Prediction provably unchanged on 12 of 12 points" in text
        assert "95 % confidence, P(|full - half| > " in text


def test_identical_networks_do_not_differ(rounded) -> None:
    f, _, x = rounded
    found = slth.certify(f, f, [Points(x[:2])])
    found = dataclasses.replace(
        found, rungs=(*found.rungs, *slth.certify(f, f, Box(0.0, 1.0, (4, 4, 1)), attack=False).rungs)
    )
    # What is left is that two evaluations of one network may round differently.
    assert all(rung.bound < 1e-12 < rung.float32 < 1e-4 for rung in found.rungs)
    assert all(layer.changed == 0 and layer.largest_change == 0 for layer in found.layers)
    assert found.rungs[0].attack is not None and found.rungs[0].ratio is None


def test_a_box_bound_above_all_outputs_is_vacuous(rounded) -> None:
    f, _, x = rounded
    variables = jax.tree.map(lambda a: np.asarray(a) * 100, f.unbind()[1])
    found = slth.certify(f, Small().bind(variables), [Box(0.0, 1.0, (4, 4, 1)), Points(x)], attack=False)
    box, points = found.rungs
    assert box.is_vacuous and not points.is_vacuous and box.attack is None and box.ratio is None
    assert "vacuous" in str(found).splitlines()[0] and "vacuous" not in str(found).splitlines()[1]
    assert box.bound > max(map(abs, box.output_range))


def test_wrong_arguments(rounded) -> None:
    f, g, x = rounded
    with pytest.raises(InputError, match="input shape is unknown"):
        slth.certify(f, g)
    with pytest.raises(InputError, match="expected one integer a sample"):
        slth.certify(f, g, Points(x), data=(x, np.zeros(3, np.int64)))
    with pytest.raises(InputError, match="samples have shape"):
        slth.certify(f, g, Points(x), data=x[:, :2])
    with pytest.raises(InputError, match="domain is of type int"):
        slth.certify(f, g, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"an nnx\.Module, a bound linen module"):
        slth.certify(f, 3, Points(x))
