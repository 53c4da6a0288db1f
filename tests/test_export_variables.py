"""A ticket's effective weights in the target's own parameters: exactly those, read back by the model, or refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import linen as nn
from flax import nnx
from helpers import save_checkpoint
from targets import bound, drawer

import slth_compile as slth
from slth_compile.domain import Box
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.export.export import export_variables
from slth_compile.export.network import Network
from slth_compile.export.variables import effective_leaves
from slth_compile.frontends.checkpoint import load_model
from slth_compile.frontends.flax import import_model
from slth_compile.frontends.leaves import parameters_of
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

SHAPE = (4, 4, 2)
PROPERTIES = {"ticket_id": "ab" * 32, "bound_0_box": "1.0"}


class Plain(nn.Module):
    """Convolutions of two groups and a dense layer on a flattened image; one of them has no bias."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        options = {"param_dtype": self.dtype, "dtype": jnp.float32}
        x = nn.relu(nn.Conv(4, (2, 3), feature_group_count=2, **options)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(3, (1, 1), use_bias=False, **options)(x))
        return nn.Dense(3, **options)(x.reshape(x.shape[0], -1))


def plain() -> Plain:
    return Plain()


class PlainNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.drop = nnx.Conv(2, 3, (2, 2), rngs=rngs), nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.last = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.first(x))).mean((1, 2)))


def partial(function: Callable, **parameters: np.ndarray) -> jax.tree_util.Partial:
    """A callable pytree: `function(parameters, x)` with its parameters."""
    return jax.tree_util.Partial(function, {name: jnp.asarray(array) for name, array in parameters.items()})


def transposed(p, x):
    """Kernels as PyTorch keeps them, `(S, C, H, W)` and `(S, C)`; one leaf cut in two."""
    dims = ("NHWC", "OIHW", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "VALID", dimension_numbers=dims))
    x = x.mean((1, 2))
    return x @ p["both"][:2].T + p["bias"], x @ p["both"][2:].T


def tied(p, x):
    x = jax.nn.relu(x.reshape(x.shape[0], -1)[:, :4] @ p["w"])
    return jax.nn.relu(x @ p["w"])


def tied_to_a_slope(p, x):
    x = x.reshape(x.shape[0], -1)[:, :4] @ p["w"]
    return jnp.where(x >= 0, x, x * p["w"][0])


def normalised(p, x):
    kernel = p["v"] / jnp.sqrt(jnp.sum(p["v"] ** 2, 0)) * p["g"]
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ kernel)


def doubled(p, x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ (2 * p["w"]))


def scaled(p, x):
    return (x.reshape(x.shape[0], -1) @ p["w"]) * 0.5


def spread(p, x):
    """One number is the bias of every channel."""
    return x.reshape(x.shape[0], -1) @ p["w"] + jnp.broadcast_to(p["b"], (3,))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(2, (2, 2), name="conv")(x))


draw = drawer(5)
MODELS: dict[str, Callable[[], Any]] = {
    "linen": lambda: bound(Plain(), SHAPE, drawer(1)),
    "bfloat16": lambda: bound(Plain(jnp.bfloat16), SHAPE, drawer(1)),
    "nnx": PlainNnx,
    "transposed": lambda: partial(transposed, conv=draw(3, 2, 2, 2), both=draw(5, 3), bias=draw(2)),
}


def ticket_of(graph: Graph, signed: bool = False) -> dict[int, LayerWeights]:
    """Made-up effective weights: the target's with a small error each."""
    rng, found = np.random.default_rng(9), {}
    for i in graph.layers:
        node = graph.nodes[i]
        kernel, bias = (
            None if a is None else np.asarray(a, np.float64) + rng.uniform(-1e-3, 1e-3, np.shape(a))
            for a in (node.kernel, node.bias)
        )
        found[i] = LayerWeights(kernel, kernel if signed else None, bias, clip=not signed)
    return found


def network_of(graph: Graph) -> Network:
    folded = fold(graph)
    exact = ticket_of(folded)
    return Network(folded, exact, exact, None, (Box(0.0, 1.0).with_shape(graph.input_shape), None), PROPERTIES)


@pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.slow if m == "nnx" else ()) for m in MODELS])
def test_the_model_with_the_new_parameters_has_the_tickets_weights(name: str) -> None:
    model = MODELS[name]()
    parameters, graph = parameters_of(model, SHAPE), import_model(model, SHAPE)
    weights = ticket_of(fold(graph))
    leaves, made = effective_leaves(graph, fold(graph), weights, parameters)
    kind = jnp.bfloat16 if name == "bfloat16" else np.float32
    for i in graph.layers:
        np.testing.assert_array_equal(
            np.asarray(made.nodes[i].kernel, np.float64), weights[i].positive.astype(kind).astype(np.float64)
        )
    assert [a.dtype for a in leaves] == [a.dtype for a in parameters.arrays]
    x = np.random.default_rng(0).uniform(0, 1, (3, *SHAPE)).astype(np.float32)
    rounded = {
        i: LayerWeights(*(None if a is None else a.astype(kind).astype(np.float32) for a in w[:3]))
        for i, w in weights.items()
    }
    for a, b in zip(parameters.outputs(leaves, x), evaluate(graph, x, rounded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    again = parameters_of(parameters.model(parameters.variables(leaves)), SHAPE)
    assert again.names == parameters.names
    assert jax.tree.structure(parameters.variables(leaves)) == jax.tree.structure(
        parameters.variables(parameters.arrays)
    )


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "tied": (lambda: partial(tied, w=draw(4, 4)), r"its weights are tied to those of .* by '.*w'"),
    "tied to a slope": (lambda: partial(tied_to_a_slope, w=draw(4, 4)), "its slopes is of a layer's weights too"),
    "weight norm": (lambda: partial(normalised, v=draw(32, 3), g=draw(3)), "its kernel is computed from parameters"),
    "doubled": (lambda: partial(doubled, w=draw(32, 3)), "its kernel is computed from parameters"),
    "scaled": (lambda: partial(scaled, w=draw(32, 3)), "a scale or shift, which the ticket has folded"),
    "spread": (lambda: partial(spread, w=draw(32, 3), b=draw(1)), "its bias is computed from parameters"),
    "batch norm": (lambda: bound(Normed(), SHAPE, drawer(2)), "'norm': a live batch norm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_no_such_network_exists_it_is_refused_by_name(name: str) -> None:
    build, reason = REFUSED[name]
    model = build()
    graph = import_model(model, SHAPE)
    with pytest.raises(UnsupportedModelError, match=reason):
        effective_leaves(graph, fold(graph), ticket_of(fold(graph)), parameters_of(model, SHAPE))


def test_signed_layers_are_refused_by_name() -> None:
    model = MODELS["linen"]()
    graph = import_model(model, SHAPE)
    with pytest.raises(UnsupportedModelError, match="'Conv_0': a signed layer") as refused:
        effective_leaves(graph, fold(graph), ticket_of(fold(graph), signed=True), parameters_of(model, SHAPE))
    assert str(refused.value).count("a signed layer") == 3


def test_tied_weights_of_one_value_are_kept() -> None:
    model = partial(tied, w=draw(4, 4))
    graph = import_model(model, SHAPE)
    weights = ticket_of(graph)
    first, second = graph.layers
    (found,), _ = effective_leaves(graph, graph, weights | {second: weights[first]}, parameters_of(model, SHAPE))
    np.testing.assert_array_equal(found, weights[first].positive.astype(np.float32))


def test_another_model_and_no_model() -> None:
    one, other = (bound(Plain(), SHAPE, drawer(seed)) for seed in (1, 2))
    graph = import_model(one, SHAPE)
    with pytest.raises(InputError, match="the ticket is of target"):
        effective_leaves(graph, fold(graph), ticket_of(graph), parameters_of(other, SHAPE))
    for model in (graph, lambda x: x, Plain()):
        with pytest.raises(InputError, match="no variables by name"):
            parameters_of(model, SHAPE)


def test_models_of_single_samples() -> None:
    kernel = draw(32, 3)
    model = jax.tree_util.Partial(lambda p, x: jax.nn.relu(x.reshape(-1) @ p), jnp.asarray(kernel))
    graph = import_model(model, SHAPE, batch_axis=None)
    parameters = parameters_of(model, SHAPE, None)
    leaves, _ = effective_leaves(graph, graph, ticket_of(graph), parameters)
    x = np.ones((2, *SHAPE), np.float32)
    np.testing.assert_allclose(parameters.outputs(leaves, x)[0], np.maximum(x.reshape(2, -1) @ leaves[0], 0), rtol=1e-5)


@pytest.mark.parametrize("ending", ["orbax", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_files_are_read_by_the_models_own_loader(ending: str, tmp_path: Path) -> None:
    """The certified line is that of `certify`; the ticket's own bound is not in the file."""
    model, path = MODELS["linen"](), tmp_path / f"net.{ending}"
    graph = import_model(model, SHAPE)
    network, parameters = network_of(graph), parameters_of(model, SHAPE)
    said = export_variables(network, graph, path, parameters, effort="quick")
    loaded = load_model(path, f"{__name__}:plain", input_shape=SHAPE)
    leaves, _ = effective_leaves(graph, network.graph, network.exact, parameters)
    for name, array, leaf in zip(parameters.names, parameters_of(loaded, SHAPE).arrays, leaves, strict=True):
        np.testing.assert_array_equal(array, leaf, err_msg=name)
    (certificate,) = said.certificates
    if ending == "safetensors":
        (rung,) = slth.certify(model, loaded, network.domains[0], effort="quick", attack=False).rungs
        assert certificate.bound == rung.bound > 0
    x = np.random.default_rng(0).uniform(0, 1, (64, *SHAPE)).astype(np.float32)
    assert np.abs(np.asarray(model(x)) - np.asarray(loaded(x))).max() <= certificate.bound + 1e-5
    if ending == "safetensors":
        with safetensors.safe_open(path, "numpy") as file:
            properties = file.metadata()
    else:
        properties = json.loads((path / "slth_compile.json").read_text())
    assert properties == {"ticket_id": "ab" * 32, "bound_0_box": repr(certificate.bound)}
    assert f"certified for these rounded weights (box): <= {certificate.bound:.4g}" in said.to_text()
    with pytest.raises(InputError, match="exists already"):
        export_variables(network, graph, path, parameters)
    export_variables(network, graph, path, parameters, effort="quick", force=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError, match="effort is 'slow'"):
        export_variables(network, graph, tmp_path / "other.orbax", parameters, effort="slow")


def test_a_file_that_does_not_hold_what_was_written_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    from slth_compile.export import checkpoints

    def changed(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {name: array * (1 + 1e-3) for name, array in read(path, names).items()}

    read = checkpoints.read_safetensors
    monkeypatch.setattr(checkpoints, "read_safetensors", changed)
    model = MODELS["linen"]()
    graph = import_model(model, SHAPE)
    with pytest.raises(slth.ExportError):
        export_variables(
            network_of(graph), graph, tmp_path / "a.safetensors", parameters_of(model, SHAPE), effort="quick"
        )
    assert not list(tmp_path.iterdir())


def test_interfering_names(tmp_path: Path) -> None:
    model = jax.tree_util.Partial(lambda p, x: x.reshape(x.shape[0], -1) @ p["a/b"] + p["a"]["b"], {
        "a/b": jnp.asarray(draw(32, 3)), "a": {"b": jnp.asarray(draw(3))},
    })  # fmt: skip
    graph = import_model(model, SHAPE)
    with pytest.raises(InputError, match="have one name once"):
        export_variables(
            network_of(graph), graph, tmp_path / "a.safetensors", parameters_of(model, SHAPE), effort="quick"
        )


@pytest.mark.slow
def test_the_command_and_python(cli, tmp_path: Path, monkeypatch) -> None:
    """A compiled ticket of one-signed layers, from the command line and from Python."""
    monkeypatch.setitem(sys.modules, "plain_models", sys.modules[__name__])
    model = bound(Plain(), SHAPE, drawer(1))
    checkpoint = save_checkpoint(tmp_path / "net.safetensors", dict(model.variables))
    options = ["--factory", "plain_models:plain", "--input-shape", "4,4,2"]
    out = tmp_path / "out"
    done = cli("compile", checkpoint, out, *options, "--eps", "8", "--no-attack", "--effort", "quick")
    assert done.code == 0, done.err
    path = tmp_path / "exported.safetensors"
    done = cli("export", out, path, "--like", checkpoint, *options, "--json", "--effort", "quick")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    ticket = slth.load(out)
    assert said["certificates"][0]["bound"] == pytest.approx(ticket.certificate.bound, rel=1e-3)
    loaded = load_model(path, "plain_models:plain", input_shape=SHAPE)
    variables = ticket.variables(model)
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    x = np.random.default_rng(0).uniform(0, 1, (16, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(loaded(x), ticket(x), rtol=1e-4, atol=1e-5)
    done = cli("export", out, tmp_path / "x.onnx", "--factory", "plain_models:plain")
    assert done.code == 2 and "--factory goes with --like" in done.message
    done = cli("export", out, tmp_path / "x.safetensors")
    assert done.code == 2 and "pass like=model (--like CHECKPOINT --factory ...)" in done.message
