"""Ways of writing a network that end in the same few nodes: each is imported and compared with the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from frontend_helpers import bound, imported, kinds, random
from jax import lax

from slth_compile.errors import UnsupportedModelError
from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import evaluate

IMAGE = (8, 8, 3)


class Written(nn.Module):
    """A linen module that is one function, which may call others."""

    call: Callable[[jax.Array], Any]

    @nn.compact
    def __call__(self, x):
        return self.call(x)


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, x.shape[-1:])


def tied(x):
    layer = nn.Dense(4)
    return layer(nn.relu(layer(nn.relu(layer(x)))))


def weight_norm(x):
    x = nn.WeightNorm(nn.Conv(4, (3, 3)))(x)
    return nn.WeightNorm(nn.Dense(3))(x.mean((1, 2)))


def depthwise_block(x):
    """As in ConvNeXt, but for its layer norm: a wide depthwise convolution, two dense layers, a scale, a sum."""
    x = nn.Conv(6, (4, 4), (4, 4))(x)
    y = nn.gelu(nn.Dense(8)(nn.Conv(6, (7, 7), feature_group_count=6)(x)))
    y = Scale()(nn.Dense(6)(y))
    return nn.Dense(3)((x + nn.Dropout(0.3, deterministic=True, broadcast_dims=(1, 2))(y)).mean((1, 2)))


def groups_and_pools(x):
    x = nn.relu(nn.Conv(8, (3, 3))(x))
    x = nn.max_pool(nn.Conv(8, (3, 3), feature_group_count=4, kernel_dilation=2)(x), (3, 3), (2, 2), "SAME")
    size, height, width, channels = x.shape
    x = x.reshape(size, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    x = nn.relu(nn.Conv(3, (1, 1))(x.reshape(size, height // 2, width // 2, 4 * channels)))
    return jnp.concatenate([x.max((1, 2)), jnp.mean(x, (1, 2)), x.sum((1, 2))], -1)


def squeeze_excite(x):
    x = nn.Conv(4, (3, 3))(x)
    gate = nn.sigmoid(nn.Conv(4, (1, 1))(nn.silu(nn.Conv(2, (1, 1))(x.mean((1, 2), keepdims=True)))))
    return x * jnp.broadcast_to(gate, x.shape)


def encoder_decoder(x):
    """As in U-nets: down by a pool, up by a transposed convolution, joined with what was there before."""
    first = nn.relu(nn.Conv(3, (3, 3))(x))
    inner = nn.relu(nn.Conv(4, (3, 3))(nn.max_pool(first, (2, 2), (2, 2))))
    second = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(inner)
    return nn.Conv(2, (1, 1))(
        jnp.concatenate([first, second, jax.image.resize(inner, (*first.shape[:3], 4), "linear")], -1)
    )


def pixel_shuffle(x):
    size, height, width, _ = x.shape
    x = nn.Conv(8, (3, 3))(x).reshape(size, height, width, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(size, 2 * height, 2 * width, 2)


def einsums(x):
    x = nn.relu(nn.Einsum((8, 3, 2, 4), "bhwc,wcnd->bhnd")(x))
    return nn.DenseGeneral(3, axis=(-2, -1, -3))(x)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
        return nn.relu(x), x.sum(-1)


def scanned(x):
    axes = {"variable_axes": {"params": 0, "batch_stats": 0}, "split_rngs": {"params": True}}
    return nn.Dense(2)(nn.scan(Step, length=3, **axes)()(nn.Dense(4)(x), None)[0])


def repeated_layers(x):
    return nn.Sequential([nn.Dense(4), nn.relu, nn.remat(nn.Dense)(4), nn.hard_swish, nn.Dense(2), nn.softmax])(x)


SPELLINGS = {
    "tied weights": (tied, (4,), ["Dense", "Relu", "Dense", "Relu", "Dense"]),
    "weight norm": (weight_norm, IMAGE, ["Convolution", "Mean", "Dense"]),
    "depthwise block": (depthwise_block, IMAGE, None),
    "groups, pools, space to depth": (groups_and_pools, IMAGE, None),
    "squeeze and excite, broadcast by hand": (squeeze_excite, IMAGE, None),
    "encoder and decoder": (encoder_decoder, IMAGE, None),
    "depth to space": (pixel_shuffle, (4, 5, 2), ["Convolution", "Reshape", "Transpose", "Reshape"]),
    "einsum and dense over several axes": (einsums, IMAGE, None),
    "features over two axes": (nn.DenseGeneral((2, 3), axis=(-1, 1)), IMAGE, None),
    "scan": (scanned, (4,), ["Dense", *["Dense", "BatchNorm", "Relu"] * 3, "Dense"]),
    "sequential": (repeated_layers, (4,), ["Dense", "Relu", "Dense", "HardSwish", "Dense", "Softmax"]),
    "circular padding": (nn.Conv(3, (3, 3), padding="CIRCULAR"), IMAGE, None),
    "reflected padding": (nn.Conv(3, (3, 3), padding="REFLECT"), IMAGE, None),
    "causal padding": (nn.Conv(3, (3,), padding="CAUSAL"), (8, 3), ["Pad", "Convolution"]),
    "transposed, circular": (nn.ConvTranspose(3, (3, 3), strides=(2, 2), padding="CIRCULAR"), IMAGE, None),
    "glu": (lambda x: nn.glu(nn.Dense(6)(x)), (4,), ["Dense", "Slice", "Slice", "Sigmoid", "Multiply"]),
    "magnitudes": (lambda x: nn.Dense(2)(jnp.abs(nn.Dense(3)(x))), (4,), ["Dense", "Prelu", "Dense"]),
}


SLOW = {
    "depthwise block",
    "groups, pools, space to depth",
    "encoder and decoder",
    "weight norm",
    "transposed, circular",
}


@pytest.mark.parametrize("name", [pytest.param(s, marks=pytest.mark.slow if s in SLOW else ()) for s in SPELLINGS])
def test_spellings(name: str) -> None:
    call, shape, expected = SPELLINGS[name]
    graph = imported(bound(call if isinstance(call, nn.Module) else Written(call), shape), shape)
    assert expected is None or kinds(graph) == expected
    assert graph.layers


class Stack(nnx.Module):
    """Three layers whose parameters lie along one axis."""

    def __init__(self) -> None:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Linear(4, 4, rngs=rngs)

        self.layers = make(nnx.Rngs(0))

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return nnx.relu(layer(x))

        return forward(x, self.layers)


KERNELS = random(3, 4, 4)
LOOPS = {
    "states": (lambda x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, KERNELS)[0], (4,)),
    "states, reversed": (lambda x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, KERNELS, reverse=True)[0], (4,)),
    "what steps put out": (
        lambda x: lax.scan(lambda c, w: ((y := jnp.tanh(c @ w)), y), x, KERNELS, reverse=True)[1].swapaxes(0, 1),
        (4,),
    ),
    "rows of the input": (
        lambda x: lax.scan(
            lambda c, row: (jnp.tanh(c @ KERNELS[0] + row @ KERNELS[1]), None), x[:, 0], x[:, 1:].swapaxes(0, 1)
        )[0],
        (3, 4),
    ),
    "a counter": (lambda x: lax.fori_loop(0, 3, lambda i, c: jax.nn.relu(c @ jnp.asarray(KERNELS)[i]), x), (4,)),
    "one in another": (
        lambda x: lax.fori_loop(0, 2, lambda _, c: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), c, KERNELS)[0], x),
        (4,),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_unrolled(name: str) -> None:
    model, shape = LOOPS[name]
    assert kinds(imported(model, shape)).count("Dense") >= 3


@pytest.mark.slow
def test_a_loop_of_nnx_is_unrolled() -> None:
    model, x = Stack(), random(3, 4)
    graph = import_model(model, (4,))
    assert kinds(graph) == ["Dense", "Relu"] * 3
    # Flax refuses modules of outside in a program of its own loops.
    np.testing.assert_allclose(evaluate(graph, x)[0], model(x), rtol=1e-5, atol=1e-5)


REFUSED = {
    "loop of 100000 steps of": lambda x: lax.fori_loop(0, 100000, lambda _, c: jax.nn.relu(c @ KERNELS[0]), x),
    "a loop over the samples of a batch; use jax.vmap": lambda x: lax.map(lambda row: row @ KERNELS[0], x),
    "a loop over activations (lax.while_loop, fori_loop); unroll it in Python": lambda x: lax.while_loop(
        lambda c: jnp.sum(c) > 0, lambda c: c @ KERNELS[0], x
    ),
    "elu [gt, select_n, expm1]": lambda x: jax.nn.elu(x @ KERNELS[0]),
    "celu [expm1]": lambda x: jax.nn.celu(x @ KERNELS[0]),
    "an exponential linear unit; use leaky_relu, silu or gelu": lambda x: jax.nn.selu(x @ KERNELS[0]),
    "a softened relu; use relu, silu or gelu": lambda x: jax.nn.softplus(x @ KERNELS[0]),
    "mish": lambda x: jax.nn.mish(x @ KERNELS[0]),
    "write it as jnp.clip(x, -1, 1)": lambda x: jax.nn.hard_tanh(x @ KERNELS[0]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_refused_says_why_in_one_line(reason: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        import_model(REFUSED[reason], (4,))
    _, line = str(refused.value).split("\n  ")
    assert reason in line and "test_frontend_spellings.py" in line


def mixed(dtype: Any) -> Callable[[jax.Array], jax.Array]:
    def call(x):
        x = nn.Conv(4, (3, 3), param_dtype=jnp.bfloat16, dtype=dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, dtype=dtype)(x))
        return nn.Dense(3, param_dtype=jnp.float32, dtype=dtype)(x.mean((1, 2)))

    return call


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_activations_in_few_bits_are_taken_as_real_numbers(dtype: Any) -> None:
    """Parameters at the values that the model computes with, in their own type; no activation is rounded."""
    module = Written(mixed(dtype))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32))
    variables = jax.tree.map(lambda leaf: jnp.asarray(abs(random(*leaf.shape)) + 0.1, leaf.dtype), shapes)
    graph = import_model(module.bind(variables), IMAGE)
    kernels = [np.asarray(graph.nodes[i].kernel) for i in graph.layers]
    assert [np.array_equal(k, k.astype(jnp.bfloat16)) for k in kernels] == [True, dtype == jnp.bfloat16]
    x = random(3, *IMAGE, scale=1.0)
    (found,) = evaluate(graph, x)
    np.testing.assert_allclose(found, np.asarray(module.apply(variables, x), np.float32), rtol=0.05, atol=0.05)
    if dtype == jnp.bfloat16:  # the model rounds this layer's parameters, which are float32, on their way in
        variables["params"]["Dense_0"] = jax.tree.map(lambda v: v.astype(dtype), variables["params"]["Dense_0"])
    np.testing.assert_allclose(found, Written(mixed(jnp.float32)).apply(variables, x), rtol=1e-5, atol=1e-5)


def test_names_of_a_pytrees_leaves_are_names_of_layers() -> None:
    model = jax.tree_util.Partial(lambda w, x: jax.nn.relu(x @ w["a"]["kernel"]) @ w["b"]["kernel"], {})
    weights = {"a": {"kernel": random(4, 3)}, "b": {"kernel": random(3, 2)}}
    graph = imported(jax.tree_util.Partial(model.func, weights), (4,))
    assert [node.name.rpartition("/")[2] for node in graph.nodes if isinstance(node, n.Dense)] == ["a", "b"]
    unused = jax.tree_util.Partial(model.func, weights | {"c": random(2)})
    with pytest.raises(UnsupportedModelError, match="c' reaches no node"):
        import_model(unused, (4,))
