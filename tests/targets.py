"""The one table of target networks: small, and together with every node type, geometry and kind of model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check
from slth_compile.graph.graph import Graph

Draw = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A network to compile.

    Attributes:
        name: For test ids.
        model: Makes the model from a drawer of weights: a linen or nnx module, a function or a `Graph`.
        shape: Per-sample input shape.
        domains: Where it is certified.
        eps: What it is compiled to: loose, so that windows stay small.
    """

    name: str
    model: Callable[[Draw], Any]
    shape: tuple[int, ...]
    domains: tuple[Domain, ...]
    eps: float

    def build(self) -> Any:
        """The model, the same one every time."""
        return self.model(drawer(sum(self.name.encode())))

    def graph(self) -> Graph:
        """The model as a checked graph."""
        return check(import_model(self.build(), self.shape))

    def inputs(self, count: int, seed: int = 0) -> np.ndarray:
        """Inputs of every sign, in and out of the domains, float32 `(count, *shape)`."""
        return np.random.default_rng(seed).normal(0, 1, (count, *self.shape)).astype(np.float32)


def drawer(seed: int) -> Draw:
    """Weights of the size that keeps activations near 1, float32."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4
        return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    return draw


def convolution(draw: Draw, place: int, shape: tuple[int, ...], *, bias: bool = True, **geometry: Any) -> n.Convolution:
    """A convolution node that reads node `place`; plain geometry where none is given."""
    rank = len(shape) - 2
    plain = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank} | geometry
    return n.Convolution(inputs=(place,), kernel=draw(*shape), bias=draw(shape[-1]) if bias else None, **plain)


def points(*shape: int, low: float = 0.0) -> Points:
    """Five inputs from `low` to 1."""
    return Points(np.random.default_rng(1).uniform(low, 1, (5, *shape)).astype(np.float32))


def balls(*shape: int, **clip: float) -> Balls:
    """Three balls of radius 0.01 around inputs in [0, 1]."""
    return Balls(np.random.default_rng(2).uniform(0, 1, (3, *shape)).astype(np.float32), 0.01, **clip)


def bound(module: nn.Module, shape: tuple[int, ...], draw: Draw) -> nn.Module:
    """A linen module with drawn variables, variances positive."""
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))

    def fill(path: Any, leaf: Any) -> jax.Array:
        value = draw(*leaf.shape)
        name = jax.tree_util.keystr(path)
        return jnp.asarray(np.abs(value) + 0.5 if "var" in name or "scale" in name else value, leaf.dtype)

    return module.bind(jax.tree_util.tree_map_with_path(fill, variables))


def strided(draw: Draw) -> Graph:
    nodes = (
        n.Input(shape=(5, 4, 2)),
        convolution(draw, 0, (3, 2, 2, 3), stride=(2, 1), padding=((1, 0), (0, 2))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2, 3), stride=(1, 2), padding=((0, 1), (1, 0))),
        n.Reshape(inputs=(3,), shape=(12,)),
        n.Dense(inputs=(4,), kernel=draw(12, 3), bias=draw(3)),
    )
    return Graph(nodes, (5,))


def signal(draw: Draw) -> Graph:
    """One spatial axis: dilation, groups, an average that leaves padding out, a layer free of bias."""
    nodes = (
        n.Input(shape=(9, 4)),
        convolution(draw, 0, (3, 2, 4), padding=((2, 1),), dilation=(2,), groups=2),
        n.LeakyRelu(inputs=(1,), slope=0.1),
        n.AveragePool(inputs=(2,), window=(3,), stride=(2,), padding=((1, 1),), count_padding=False),
        n.Reshape(inputs=(3,), shape=(16,)),
        n.Dense(inputs=(4,), kernel=draw(16, 3)),
    )
    return Graph(nodes, (5,))


def volume(draw: Draw) -> Graph:
    """Three spatial axes, global maximum, parameters of all four types."""
    first = convolution(draw, 0, (2, 2, 2, 1, 2), padding=((0, 1), (0, 0), (1, 0)))
    first = dataclasses.replace(first, kernel=first.kernel.astype(np.float16))
    nodes = (
        n.Input(shape=(3, 3, 2, 1)),
        first,
        n.Relu(inputs=(1,)),
        n.Maximum(inputs=(2,), axes=(0, 1, 2)),
        n.Dense(inputs=(3,), kernel=draw(2, 2).astype(np.float64), bias=draw(2).astype(jnp.bfloat16)),
    )
    return Graph(nodes, (4,))


def rearranged(draw: Draw) -> Graph:
    """Slices padded, transposed, concatenated and added; a dense layer on every position."""
    nodes = (
        n.Input(shape=(3, 4)),
        n.Dense(inputs=(0,), kernel=draw(4, 4), bias=draw(4)),
        n.Relu(inputs=(1,)),
        n.Slice(inputs=(2,), start=(0, 1), limit=(3, 4), stride=(1, 1)),
        n.Transpose(inputs=(3,), permutation=(1, 0)),
        n.Pad(inputs=(4,), padding=((0, 0), (1, 0))),
        n.Add(inputs=(2, 2)),
        n.Concatenate(inputs=(5, 6), axis=0),
        n.Reshape(inputs=(7,), shape=(24,)),
        n.Dense(inputs=(8,), kernel=draw(24, 2), bias=draw(2)),
    )
    return Graph(nodes, (9,))


def sparse(draw: Draw) -> Graph:
    """Half of the weights zero, a bias of zeros, a layer of zeros."""
    kernel = draw(6, 5)
    kernel[::2] = 0
    nodes = (
        n.Input(shape=(6,)),
        n.Dense(inputs=(0,), kernel=kernel, bias=np.zeros(5, np.float32)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(5, 3), bias=draw(3)),
        n.Dense(inputs=(2,), kernel=np.zeros((5, 3), np.float32)),
        n.Add(inputs=(3, 4)),
    )
    return Graph(nodes, (5,))


class Depthwise(nn.Module):
    """Two outputs a channel, batch norm behind it, an average that counts padding, global average."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), feature_group_count=2, padding=((1, 0), (1, 1)), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME")
        return nn.Dense(3)(x.mean((1, 2)))


class StandingAlone(nn.Module):
    """A batch norm on the input, one behind a residual sum: depthwise layers of their own."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(x)
        y = nn.relu(nn.Conv(2, (2, 2))(x))
        x = nn.relu(nn.BatchNorm(use_running_average=True, use_bias=False)(x + y))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


class Heads(nn.Module):
    """Two output leaves, one of them read again, one of probabilities."""

    @nn.compact
    def __call__(self, x):
        features = nn.relu(nn.Dense(4)(x))
        scores = nn.Dense(3)(features)
        return {"scores": scores, "inner": [nn.softmax(nn.Dense(2)(scores))]}


class Half(nn.Module):
    """Parameters in bfloat16, used in float32."""

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.Dense(4, param_dtype=jnp.bfloat16, dtype=jnp.float32)(x), 0.25)
        return nn.Dense(2, param_dtype=jnp.bfloat16, dtype=jnp.float32)(x)


class Separable(nnx.Module):
    """An nnx module: depthwise and 1x1 convolutions, batch norms, log-softmax."""

    def __init__(self, draw: Draw):
        rngs = nnx.Rngs(0)
        self.depthwise = nnx.Conv(2, 2, (3, 3), feature_group_count=2, strides=2, use_bias=False, rngs=rngs)
        self.first = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.pointwise = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.second = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.last = nnx.Linear(3, 3, rngs=rngs)
        for norm, size in ((self.first, 2), (self.second, 3)):
            norm.mean[...], norm.var[...] = jnp.asarray(draw(size)), jnp.abs(draw(size)) + 0.5

    def __call__(self, x):
        x = nnx.relu(self.first(self.depthwise(x)))
        x = nnx.relu(self.second(self.pointwise(x)))
        return nnx.log_softmax(self.last(jnp.max(x, (1, 2))))


def normalised(draw: Draw) -> Callable[[jax.Array], jax.Array]:
    """A plain function that normalises its input by a constant, which makes a first layer of two signs."""
    first, second, bias = draw(6, 4), draw(4, 2), draw(2)

    def model(x):
        x = (x - 0.4) / 0.5
        x = jax.nn.relu(x.reshape(-1, 6) @ first)
        return jax.nn.softmax(x @ second + bias)

    return model


def trained_affine(draw: Draw) -> Graph:
    """A trained scale that two nodes read becomes a layer; trained ones behind a layer are folded, one on the other."""
    nodes = (
        n.Input(shape=(4,)),
        n.Affine(inputs=(0,), scale=draw(4), shift=draw(4), trained=True),
        n.Dense(inputs=(1,), kernel=draw(4, 3)),
        n.Affine(inputs=(2,), scale=np.float32(0.75), trained=True),
        n.Affine(inputs=(3,), shift=draw(3)),
        n.Affine(inputs=(4,), scale=draw(3), shift=draw(3), trained=True),
        n.Relu(inputs=(5,)),
        n.Affine(inputs=(6,), scale=np.float32(0.5), shift=np.full(3, 0.25, np.float32)),
        n.Concatenate(inputs=(1, 7), axis=0),
        n.Dense(inputs=(8,), kernel=draw(7, 2), bias=draw(2)),
    )
    return Graph(nodes, (9,))


def bent(draw: Draw) -> Graph:
    """Every activation that is linear on pieces, slopes of every kind; a product that is broadcast."""
    nodes = (
        n.Input(shape=(4, 2)),
        n.Dense(inputs=(0,), kernel=draw(2, 3), bias=draw(3)),
        n.Prelu(inputs=(1,), slopes=np.array([-0.5, 0.25, 1.5], np.float32)),
        n.Clip(inputs=(1,), low=-0.25, high=0.5),
        n.Add(inputs=(2, 3)),
        n.Dense(inputs=(4,), kernel=draw(3, 3)),
        n.HardSigmoid(inputs=(5,), slope=0.5, offset=0.25),
        n.HardSwish(inputs=(5,)),
        n.Clip(inputs=(5,), high=0.25),
        n.Multiply(inputs=(7, 6)),
        n.Add(inputs=(8, 9)),
        n.Dense(inputs=(10,), kernel=draw(3, 2), bias=draw(2)),
        n.Clip(inputs=(11,), low=0.0),
        n.Slice(inputs=(12,), start=(0, 0), limit=(1, 2), stride=(1, 1)),
        n.Multiply(inputs=(12, 13)),
        n.Prelu(inputs=(14,), slopes=np.float64(0.125)),
        n.Reshape(inputs=(15,), shape=(8,)),
        n.Dense(inputs=(16,), kernel=draw(8, 2)),
    )
    return Graph(nodes, (17,))


def smooth(draw: Draw) -> Graph:
    """Every smooth activation, one behind the other."""
    nodes: list[n.Node] = [n.Input(shape=(3,))]
    activations = (
        n.Sigmoid(inputs=(2,)),
        n.Tanh(inputs=(4,)),
        n.Silu(inputs=(6,)),
        n.Gelu(inputs=(8,), approximate=False),
        n.Gelu(inputs=(10,), approximate=True),
    )
    for activation in activations:
        place = len(nodes)
        nodes += [
            n.Dense(inputs=(place - 1,), kernel=draw(3, 3), bias=draw(3)),
            dataclasses.replace(activation, inputs=(place,)),
        ]
    return Graph((*nodes, n.Dense(inputs=(len(nodes) - 1,), kernel=draw(3, 2))), (len(nodes),))


class SqueezeExcite(nn.Module):
    """A block as mobile networks have it: hard swish, a gate for every channel by two layers, gelu at the head."""

    @nn.compact
    def __call__(self, x):
        x = nn.hard_swish(nn.Conv(4, (2, 2))(x))
        gate = nn.relu(nn.Dense(2)(x.mean((1, 2))))
        x = x * nn.hard_sigmoid(nn.Dense(4)(gate))[:, None, None, :]
        x = nn.silu(nn.Conv(3, (1, 1))(x)).mean((1, 2))
        return nn.Dense(2)(nn.gelu(nn.Dense(3)(x)))


def upsampled(draw: Draw) -> Graph:
    """A transposed convolution as a dilated map and a plain one; interpolation of every sign, once behind a relu."""
    nodes = (
        n.Input(shape=(2, 2, 2)),
        n.Resample(inputs=(0,), axis=0, matrix=np.array([[1, 0], [0.75, 0.25], [0.25, 0.75]], np.float32)),
        convolution(draw, 1, (2, 1, 2, 2)),
        n.Relu(inputs=(2,)),
        n.Resample(inputs=(3,), axis=1, matrix=np.array([[0.75, 0.25], [0, 1]], np.float16)),
        n.Dilate(inputs=(4,), factors=(2, 3, 1)),
        convolution(draw, 5, (2, 2, 2, 2), padding=((1, 1), (0, 1))),
        n.Resample(inputs=(6,), axis=0, matrix=np.array([[-0.125, 0.875, 0.375, -0.125]])),
        convolution(draw, 7, (1, 2, 2, 2), stride=(1, 2)),
        n.Dilate(inputs=(8,), factors=(3, 2, 1)),
    )
    return Graph(nodes, (9,))


def single(draw: Draw) -> Callable[[jax.Array], jax.Array]:
    kernel, bias = draw(3, 2), draw(2)
    return lambda x: x @ kernel + bias


def signed(shape: tuple[int, ...]) -> Box:
    """A box around zero."""
    return Box(-0.5, 1.0, shape)


UNIT = (Box(0.0, 1.0),)

TARGETS = (
    Target("strided", strided, (5, 4, 2), UNIT, 16.0),
    Target("signal", signal, (9, 4), (points(9, 4, low=-1.0),), 4.0),
    Target("volume", volume, (3, 3, 2, 1), (balls(3, 3, 2, 1, lower=0.0, upper=1.0),), 4.0),
    Target("rearranged", rearranged, (3, 4), UNIT, 8.0),
    Target("sparse", sparse, (6,), UNIT, 4.0),
    Target("depthwise", lambda draw: bound(Depthwise(), (4, 4, 2), draw), (4, 4, 2), (points(4, 4, 2), *UNIT), 8.0),
    Target("alone", lambda draw: bound(StandingAlone(), (3, 3, 2), draw), (3, 3, 2), (signed((3, 3, 2)),), 128.0),
    Target("heads", lambda draw: bound(Heads(), (5,), draw), (5,), UNIT, 16.0),
    Target("half", lambda draw: bound(Half(), (4,), draw), (4,), (balls(4),), 2.0),
    Target("separable", Separable, (5, 5, 2), UNIT, 128.0),
    Target("normalised", normalised, (2, 3), (points(2, 3),), 0.5),
    Target("trained affine", trained_affine, (4,), (signed((4,)), balls(4)), 4.0),
    Target("bent", bent, (4, 2), (signed((4, 2)), balls(4, 2)), 32.0),
    Target("smooth", smooth, (3,), (signed((3,)), points(3)), 8.0),
    Target("excite", lambda draw: bound(SqueezeExcite(), (3, 3, 2), draw), (3, 3, 2), (balls(3, 3, 2), *UNIT), 32.0),
    Target("upsampled", upsampled, (2, 2, 2), (*UNIT, balls(2, 2, 2)), 16.0),
    Target("single", single, (3,), (signed((3,)), points(3)), 2.0),
)
