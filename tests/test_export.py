"""Tickets in other formats: what a runtime makes of the file is what the ticket computes; the rest is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import factories
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from helpers import OPTIONS, save_checkpoint
from onnx import numpy_helper
from targets import TARGETS, Target, convolution, drawer

import slth_compile as slth
from slth_compile.domain import Box
from slth_compile.errors import ExportError, InputError
from slth_compile.export import check, export, files, onnx_builder, stablehlo
from slth_compile.export.export import export_network
from slth_compile.export.network import Network
from slth_compile.export.onnx import load_onnx, onnx_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.network import kernel_shape
from slth_compile.ticket.materialise import PrunedRandomNetwork

QUICK = ("strided", "signal", "volume", "rearranged", "bent", "smooth", "trained affine", "upsampled", "transformer")
LITERAL_QUICK = ("strided", "signal", "rearranged", "trained affine")
WIDTH = 3
PROPERTIES = {"ticket_id": "0123456789abcdef" * 4, "seed": "7"}


def cases(quick: tuple[str, ...]) -> list:
    return [pytest.param(t, id=t.name, marks=() if t.name in quick else pytest.mark.slow) for t in TARGETS]


def made_up(graph: Graph, literal: bool = False) -> Network:
    """A network of a folded graph with drawn weights, signed wherever structure allows; nothing is compiled."""
    draw, signs, weights, layouts, variables = drawer(7), nonnegative_nodes(graph, False), {}, [], {}
    for index, i in enumerate(graph.layers):
        node = graph.nodes[i]
        signed = not signs[node.inputs[0]] and index != 1
        biases = None if node.bias is None else draw(*node.bias.shape)
        kernels = [draw(*node.kernel.shape) for _ in range(2)]
        weights[i] = LayerWeights(kernels[0], kernels[1] if signed else None, biases, clip=not signed)
        shape = kernel_shape(node)
        *taps, fan_in, outputs = node.kernel.shape
        variables[f"layer{index}"] = {"U": draw(shape.inputs, WIDTH), "V": draw(*taps, fan_in * WIDTH, outputs)}
        if node.bias is not None:
            variables[f"layer{index}"] |= {"u": draw(4), "v": draw(4, outputs)}
        gadget = Gadget(width=4, gain=0, window=2, tolerance=1.0, failure=0.1)
        bias = None if node.bias is None else gadget
        layouts.append(LayerLayout(signed=signed, kernel=gadget, bias=bias))
    random = PrunedRandomNetwork(graph, tuple(layouts), (WIDTH,) * len(layouts)).bind({"params": variables})
    box = Box(-1.0, 1.0).with_shape(graph.input_shape)
    return Network(graph, weights, weights, random if literal else None, (box,), PROPERTIES)


def channels_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """A file's outputs in onnxruntime, nothing of ours between."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def assert_close(found, expected) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        b = np.asarray(b)
        assert a.dtype == np.float32 and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


# ---------------------------------------------------------------- ONNX


@pytest.mark.parametrize("target", cases(QUICK))
def test_effective_network(target: Target, tmp_path: Path) -> None:
    """Every node type; channels last, channels first, and a batch of one."""
    network = made_up(fold(target.graph()))
    x, path = target.inputs(4), tmp_path / "net.onnx"
    expected = jax.jit(network.outputs)(x)
    path.write_bytes(onnx_model(network))
    assert_close(run(path, x), expected)
    assert_close(run(path, x[:1]), [leaf[:1] for leaf in expected])
    path.write_bytes(onnx_model(network, nchw=True))
    assert_close(run(path, channels_first(x)), [channels_first(np.asarray(leaf)) for leaf in expected])


@pytest.mark.parametrize("target", cases(LITERAL_QUICK))
def test_literal_network(target: Target, tmp_path: Path) -> None:
    """Two convolutions a layer with a relu between them, and a bias computed from its own constants."""
    network = made_up(fold(target.graph()), literal=True)
    x, path = target.inputs(4), tmp_path / "net.onnx"
    path.write_bytes(onnx_model(network))
    assert_close(run(path, x), jax.jit(network.outputs)(x))
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") == 2 * len(network.graph.layers)
    layers = [network.graph.nodes[i] for i in network.graph.layers]
    held = [array.name.rpartition("/")[2].partition("_")[0] for array in graph.initializer]
    biases = sum(node.bias is not None for node in layers)
    assert [held.count(name) for name in "UVuv"] == [len(layers), len(layers), biases, biases]
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1].rpartition("/")[2][:1] == "v"]
    assert len(products) == biases


def odd() -> Graph:
    """Reductions and softmaxes along any axis, an average that counts padding, several outputs, one of them twice."""
    draw = drawer(0)
    nodes = (
        n.Input(shape=(4, 3, 2)),
        n.AveragePool(inputs=(0,), window=(2, 2), stride=(1, 1), padding=((1, 0), (0, 1)), count_padding=True),
        convolution(draw, 1, (1, 1, 2, 5)),
        n.Mean(inputs=(2,), axes=(0, 2)),
        n.Mean(inputs=(2,), axes=()),
        n.Maximum(inputs=(2,), axes=(1,)),
        n.Softmax(inputs=(2,), axis=1),
        n.LogSoftmax(inputs=(5,), axis=0),
        n.Maximum(inputs=(4,), axes=(0, 1, 2)),
        n.Reshape(inputs=(8,), shape=(1,)),
    )
    return Graph(nodes, (3, 6, 7, 9, 3, 0), ("a", "b/c", "x", "", "e", "f"))


def test_any_axis_and_any_number_of_outputs(tmp_path: Path) -> None:
    network, path = made_up(odd()), tmp_path / "net.onnx"
    x = np.random.default_rng(0).normal(size=(3, 4, 3, 2)).astype(np.float32)
    path.write_bytes(onnx_model(network))
    expected = jax.jit(network.outputs)(x)
    assert_close(run(path, x), expected)
    names = [output.name for output in onnx.load(path).graph.output]
    assert names == ["a", "b/c", "x_2", "y3", "e", "f"]
    path.write_bytes(onnx_model(network, nchw=True))
    assert_close(run(path, channels_first(x)), [channels_first(np.asarray(leaf)) for leaf in expected])


def test_the_quick_targets_hold_every_node_type() -> None:
    graphs = [odd(), *(fold(t.graph()) for t in TARGETS if t.name in QUICK)]
    found = {type(node) for graph in graphs for node in graph.nodes}
    assert found == set(n.NODE_TYPES.values()) - {n.BatchNorm}


def test_transposes_are_written_only_where_two_operators_want_different_orders() -> None:
    draw = drawer(0)
    nodes = (
        n.Input(shape=(3, 6, 6)),
        n.Transpose(inputs=(0,), permutation=(1, 2, 0)),
        n.Convolution(
            inputs=(1,), kernel=draw(3, 3, 3, 4), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), bias=draw(4)
        ),
        n.Relu(inputs=(2,)),
        n.MaxPool(inputs=(3,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
        n.Transpose(inputs=(4,), permutation=(2, 0, 1)),
        n.Reshape(inputs=(5,), shape=(36,)),
        n.Dense(inputs=(6,), kernel=draw(36, 2)),
    )
    model = onnx.load_from_string(onnx_model(made_up(Graph(nodes, (7,)))))
    assert "Transpose" not in [node.op_type for node in model.graph.node]


def test_one_tensor_read_in_two_orders(tmp_path: Path) -> None:
    """A square value and its transpose, which is the same tensor read otherwise."""
    draw = drawer(0)
    nodes = (
        n.Input(shape=(4, 4)),
        n.Transpose(inputs=(0,), permutation=(1, 0)),
        n.Dense(inputs=(0,), kernel=draw(4, 3)),
        n.Dense(inputs=(1,), kernel=draw(4, 3)),
        n.Concatenate(inputs=(1, 0), axis=1),
        n.Add(inputs=(2, 3)),
    )
    network = made_up(Graph(nodes, (5, 4), ("sum", "both")))
    path, x = tmp_path / "net.onnx", np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    path.write_bytes(onnx_model(network))
    assert_close(run(path, x), network.outputs(x))
    names = [output.name for output in onnx.load(path).graph.output]
    assert names == ["sum", "both"]


def test_a_signed_layer_is_two_convolutions_and_a_sum() -> None:
    network = made_up(fold(next(t for t in TARGETS if t.name == "strided").graph()))
    kinds = [node.op_type for node in onnx.load_from_string(onnx_model(network)).graph.node]
    assert kinds.count("Conv") == 2 and kinds.count("Min") == 1 and kinds.count("Add") == 1


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("literal", [False, True], ids=["effective", "literal"])
def test_onnx_command(literal: bool, shared, cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    done = cli("export", shared.ticket, path, "--json", *(["--literal"] if literal else []))
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["network"] == ("literal" if literal else "effective") and said["bytes"] == path.stat().st_size
    agreement = said["agreement"]
    assert agreement["runtime"].startswith("onnxruntime ") and agreement["difference"] <= agreement["allowed"]
    assert agreement["allowed"] < 1e-4 * agreement["largest"]
    out = slth.load(shared.ticket)
    x = np.random.default_rng(0).normal(size=(7, *factories.SHAPE)).astype(np.float32)
    assert_close(run(path, x), [out(x)])
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["ticket_id"] == out.ticket_id and properties["seed"] == "0"
    assert float(properties["bound_0_box"]) == out.certificate.bound
    assert model.opset_import[0].version == onnx_builder.OPSET
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    if literal:
        own = out.compact_network().variables["params"]["layer1"]
        held = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
        np.testing.assert_array_equal(held["last/V"][..., 0].T, np.asarray(own["V"]))
        np.testing.assert_array_equal(held["last/u"], np.asarray(own["u"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx"]


def test_stablehlo_command(shared, cli, tmp_path: Path) -> None:
    path = tmp_path / "net.stablehlo"
    done = cli("export", shared.ticket, path)
    assert (done.code, done.err) == (0, "")
    assert "effective network, (batch, 3, 3, 1) -> (batch, 2)" in done.out and "loaded back with jax" in done.out
    module = jax.export.deserialize(bytearray(path.read_bytes()))
    out = slth.load(shared.ticket)
    assert module.platforms == ("cpu", "cuda", "tpu")
    assert module.fun_name == f"effective_ticket_{out.ticket_id[:16]}"
    for count in (1, 5):
        x = np.random.default_rng(0).normal(size=(count, *factories.SHAPE)).astype(np.float32)
        assert_close([np.asarray(module.call(x))], [out(x)])


def test_python_interface(shared, tmp_path: Path) -> None:
    out = slth.load(shared.ticket)
    said = out.export(tmp_path / "net.stablehlo", literal=True)
    assert said.network == "literal" and said.agreement.difference <= said.agreement.allowed
    with pytest.raises(InputError, match="channels first is for"):
        out.export(tmp_path / "net.stablehlo", nchw=True, force=True)
    with pytest.raises(InputError, match=r"need the target's model; pass like=model"):
        out.export(tmp_path / "net.safetensors")
    model = factories.tiny().bind(factories.variables())
    with pytest.raises(InputError, match="goes without the target's model"):
        out.export(tmp_path / "net.onnx", like=model)
    with pytest.raises(InputError, match="of the effective network"):
        out.export(tmp_path / "net.safetensors", like=model, literal=True)
    with pytest.raises(slth.UnsupportedModelError, match="'conv': a signed layer"):
        out.variables(model)
    assert [p.name for p in tmp_path.iterdir()] == ["net.stablehlo"]


def test_parameters_command_refuses_a_signed_layer_by_name(shared, cli, tmp_path: Path) -> None:
    done = cli("export", shared.ticket, tmp_path / "net.orbax", "--like", shared.checkpoint, *OPTIONS)
    assert done.code == 4 and "'conv': a signed layer" in done.err
    changed = factories.variables()
    changed["params"]["last"]["bias"] = jnp.asarray([0.25, 0.5], jnp.float32)
    other = save_checkpoint(tmp_path / "other.safetensors", changed)
    done = cli("export", shared.ticket, tmp_path / "net.orbax", "--like", other, *OPTIONS)
    assert done.code == 2 and done.message.startswith("the ticket is of target ")
    assert [p.name for p in tmp_path.iterdir()] == ["other.safetensors"]


# ---------------------------------------------------------------- what stands in the way


def test_places_that_cannot_be_written(shared, cli, tmp_path: Path, monkeypatch) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    kept = tmp_path / "kept.orbax"
    kept.mkdir()
    (kept / "thesis.txt").write_text("mine")
    refusals = {
        taken: "exists already; choose another name, or replace it with --force",
        folder: "is a directory, expected a place for a file",
        tmp_path / "none" / "net.onnx": "there is no directory",
        tmp_path / "net.onxx": "did you mean '.onnx'?",
        tmp_path / "net": "the ending chooses the form; expected one of .onnx (an ONNX model), .stablehlo",
        taken / "net.onnx": "there is no directory",
    }
    for path, reason in refusals.items():
        done = cli("export", shared.ticket, path)
        assert done.code == 2 and reason in done.message, path
    done = cli("export", shared.ticket, kept, "--force", "--like", shared.checkpoint, *OPTIONS)
    assert done.code == 2 and "is no orbax checkpoint and is not replaced" in done.message
    assert taken.read_text() == "mine" and (kept / "thesis.txt").read_text() == "mine"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        done = cli("export", shared.ticket, taken, "--force")
    assert done.code == 2 and "cannot be written (No space left on device); nothing was left behind" in done.message
    assert sorted(tmp_path.iterdir()) == before and taken.read_text() == "mine"
    assert cli("export", shared.ticket, taken, "--force").code == 0
    assert taken.read_bytes()[:1] != b"m" and sorted(tmp_path.iterdir()) == before


def single(scale: float = 1.0) -> Network:
    """A dense layer, relu, a dense layer; `scale` multiplies one weight."""
    draw = drawer(3)
    kernel = draw(5, 4)
    nodes = (
        n.Input(shape=(5,)),
        n.Dense(inputs=(0,), kernel=kernel, bias=draw(4), name="first"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(4, 3), name="second"),
    )
    changed = kernel.copy()
    changed[2, 1] *= scale
    weights = {1: LayerWeights(changed, None, nodes[1].bias), 3: LayerWeights(nodes[3].kernel)}
    return Network(Graph(nodes, (3,)), weights, weights, None, (Box(0.0, 1.0).with_shape((5,)),), PROPERTIES)


@pytest.mark.parametrize("form", ["onnx", pytest.param("stablehlo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1 + 1e-3, -1.0, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(form: str, scale: float, tmp_path: Path, monkeypatch) -> None:
    """One of 32 weights is wrong in the file, by a thousandth, in sign, or no number."""
    write = {"onnx": onnx_model, "stablehlo": stablehlo.stablehlo_module}[form]
    monkeypatch.setattr(export, write.__name__, lambda _, *rest: write(single(scale), *rest))
    path = tmp_path / f"net.{form}"
    with pytest.raises(ExportError, match="nothing was kept"):
        export_network(single(), path)
    monkeypatch.setattr(export, write.__name__, lambda _, *rest: write(single(), *rest))
    assert not list(tmp_path.iterdir())
    export_network(single(), path)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_network(single(), tmp_path / "net.onnx", progress=interrupted)
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_reference_runs_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = export_network(single(), tmp_path / "net.onnx", nchw=True)
    assert said.agreement.runtime == f"onnx.reference {onnx.__version__}"
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"install slth-compile\[onnx\]"):
        export_network(single(), tmp_path / "other.onnx")


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_more_weights_than_a_file_can_hold(form: str, tmp_path: Path, monkeypatch) -> None:
    module = {"onnx": onnx_builder, "stablehlo": stablehlo}[form]
    assert module.LARGEST == 2**31 - 1
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(InputError, match="more than 100"):
        export_network(single(), tmp_path / f"net.{form}")
    assert not list(tmp_path.iterdir())


def test_a_node_without_operators_is_named(tmp_path: Path) -> None:
    class Unknown(n.Node):
        pass

    n.OPERATION_NAMES[Unknown] = "unknown_thing"
    try:
        network = single()
        nodes = (*network.graph.nodes[:2], Unknown(inputs=(1,), name="odd"), network.graph.nodes[3])
        network = dataclasses.replace(network, graph=Graph(nodes, (3,)))
        with pytest.raises(slth.UnsupportedModelError, match=r"'odd' \(unknown thing\)"):
            onnx_model(network)
    finally:
        del n.OPERATION_NAMES[Unknown]


def test_comparison_inputs_are_of_every_domain_and_of_none() -> None:
    points = slth.Points(np.full((3, 2), 5.0))
    x = check.inputs_of((points, None, slth.Box(2.0, 3.0, (2,))), (2,))
    assert x.dtype == np.float32 and np.any(x < 0)
    assert np.sum(x == 5.0) == 6
    inside = x[(x > 2) & (x < 3)]
    assert inside.size >= 2 * check.SAMPLES


def test_what_an_orbax_directory_of_that_name_holds_decides(tmp_path: Path) -> None:
    directory = tmp_path / "old.orbax"
    directory.mkdir()
    files.refuse_occupied(directory, force=True)
    (directory / "_METADATA").write_text("")
    files.refuse_occupied(directory, force=True)
    with pytest.raises(InputError, match="exists already"):
        files.refuse_occupied(directory, force=False)


def test_load_onnx_takes_channels_last_whatever_the_file_takes(tmp_path: Path) -> None:
    target = next(t for t in TARGETS if t.name == "strided")
    network, path = made_up(fold(target.graph())), tmp_path / "net.onnx"
    path.write_bytes(onnx_model(network, nchw=True))
    function, _ = load_onnx(path, nchw=True)
    x = target.inputs(2)
    assert_close(function(x), jax.jit(network.outputs)(x))
