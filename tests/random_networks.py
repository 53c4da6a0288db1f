"""Small folded networks with random weights and errors, for tests against exact arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from slth_compile.certificate.difference import LayerErrors
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph

Draw = Callable[..., np.ndarray]


def strided(draw: Draw) -> Graph:
    """Strided padded convolution, relu, overlapping padded max pool, dense."""
    nodes = (
        n.Input(shape=(5, 5, 2)),
        _convolution(draw, 0, (3, 3, 2, 3), stride=(2, 1), padding=((1, 1), (0, 2))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2, 3), stride=(1, 2), padding=((0, 1), (1, 0))),
        n.Reshape(inputs=(3,), shape=(18,)),
        n.Dense(inputs=(4,), kernel=draw(18, 3), bias=draw(3)),
    )
    return Graph(nodes, (5,))


def depthwise(draw: Draw) -> Graph:
    """Depthwise convolution with two outputs a channel, leaky relu, average pool of real elements, pad, slice."""
    nodes = (
        n.Input(shape=(4, 3, 2)),
        _convolution(draw, 0, (2, 2, 1, 4), padding=((1, 0), (0, 1)), groups=2),
        n.LeakyRelu(inputs=(1,), slope=0.1),
        n.AveragePool(inputs=(2,), window=(3, 2), stride=(2, 1), padding=((1, 1), (0, 1)), count_padding=False),
        n.Pad(inputs=(3,), padding=((0, 1), (1, 0), (0, 0))),
        n.Slice(inputs=(4,), start=(0, 1, 0), limit=(3, 4, 4), stride=(2, 1, 1)),
        _convolution(draw, 5, (1, 2, 4, 2), bias=False),
        n.Relu(inputs=(6,)),
        n.Mean(inputs=(7,), axes=(0, 1)),
    )
    return Graph(nodes, (8, 6), ("mean", "map"))


def residual(draw: Draw) -> Graph:
    """Two branches added and concatenated, one of them free of weights; affine with a negative scale."""
    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=draw(3, 3), bias=draw(3)),
        n.LeakyRelu(inputs=(1,), slope=0.5),
        n.Affine(inputs=(0,), scale=draw(3), shift=draw(3)),
        n.Add(inputs=(2, 3)),
        n.Relu(inputs=(4,)),
        n.Concatenate(inputs=(0, 5, 4), axis=0),
        n.Dense(inputs=(6,), kernel=draw(9, 2)),
        n.Maximum(inputs=(7,), axes=(0,)),
    )
    return Graph(nodes, (8, 7))


def grouped(draw: Draw) -> Graph:
    """Dilated grouped convolution on one axis, an average pool that counts padding, a dense layer on positions."""
    nodes = (
        n.Input(shape=(7, 4)),
        _convolution(draw, 0, (2, 2, 4), stride=(2,), padding=((2, 1),), dilation=(2,), groups=2),
        n.Relu(inputs=(1,)),
        n.AveragePool(inputs=(2,), window=(3,), stride=(1,), padding=((1, 1),)),
        n.Dense(inputs=(3,), kernel=draw(4, 2), bias=draw(2)),
        n.Transpose(inputs=(4,), permutation=(1, 0)),
        n.MaxPool(inputs=(5,), window=(2,), stride=(1,), padding=((0, 0),)),
    )
    return Graph(nodes, (6,))


def volume(draw: Draw) -> Graph:
    """Three spatial axes; a layer of one weight a channel, as a batch norm that stands alone leaves it."""
    nodes = (
        n.Input(shape=(3, 3, 2, 1)),
        _convolution(draw, 0, (2, 3, 2, 1, 2), padding=((0, 0), (1, 1), (0, 1))),
        _convolution(draw, 1, (1, 1, 1, 1, 2), groups=2),
        n.Relu(inputs=(2,)),
        _convolution(draw, 3, (2, 2, 1, 2, 2), dilation=(1, 2, 1)),
        n.Maximum(inputs=(4,), axes=(1, 2)),
    )
    return Graph(nodes, (5,))


def excited(draw: Draw) -> Graph:
    """PReLU, clips, hard sigmoid and hard swish, a gate for every channel, a product of two maps."""
    nodes = (
        n.Input(shape=(3, 2)),
        n.Dense(inputs=(0,), kernel=draw(2, 3), bias=draw(3)),
        n.Prelu(inputs=(1,), slopes=np.array([-0.5, 0.25, 1.75])),
        n.HardSwish(inputs=(1,)),
        n.Mean(inputs=(3,), axes=(0,)),
        n.Dense(inputs=(4,), kernel=draw(3, 3)),
        n.HardSigmoid(inputs=(5,), slope=0.3, offset=0.5),
        n.Reshape(inputs=(6,), shape=(1, 3)),
        n.Multiply(inputs=(2, 7)),
        n.Clip(inputs=(3,), low=-0.25, high=0.75),
        n.Multiply(inputs=(9, 8)),
        _convolution(draw, 10, (2, 3, 2)),
        n.Clip(inputs=(11,), low=0.0),
        n.Clip(inputs=(8,), high=0.5),
        n.Prelu(inputs=(13,), slopes=np.array(-2.0)),
    )
    return Graph(nodes, (12, 14))


def attended(draw: Draw) -> Graph:
    """A head of attention between norms, every smooth activation behind it, a softmax that is an output and read."""
    nodes = (
        n.Input(shape=(3, 2)),
        n.Dense(inputs=(0,), kernel=draw(2, 3), bias=draw(3)),
        n.Silu(inputs=(1,)),
        n.LayerNorm(inputs=(2,), epsilon=0.25),
        n.Dense(inputs=(3,), kernel=draw(3, 2)),
        n.Transpose(inputs=(4,), permutation=(1, 0)),
        n.MatrixProduct(inputs=(4, 5)),
        n.Softmax(inputs=(6,), axis=1),
        n.MatrixProduct(inputs=(7, 2)),
        n.Dense(inputs=(8,), kernel=draw(3, 3), bias=draw(3)),
        n.Sigmoid(inputs=(9,)),
        n.Tanh(inputs=(9,)),
        n.Multiply(inputs=(10, 11)),
        n.Add(inputs=(12, 2)),
        n.Dense(inputs=(13,), kernel=draw(3, 3), bias=draw(3)),
        n.Gelu(inputs=(14,), approximate=False),
        n.LayerNorm(inputs=(15,), epsilon=0.5, centred=False),
        n.Dense(inputs=(16,), kernel=draw(3, 2)),
        n.Gelu(inputs=(17,), approximate=True),
        n.Dense(inputs=(18,), kernel=draw(2, 2)),
        n.Softmax(inputs=(19,), axis=1),
        n.Dense(inputs=(20,), kernel=draw(2, 2)),
        n.HardSwish(inputs=(21,)),
    )
    return Graph(nodes, (22, 20))


def upsampled(draw: Draw) -> Graph:
    """A transposed convolution as a dilated map and a plain one; interpolation of both signs and of one."""
    nodes = (
        n.Input(shape=(3, 2, 2)),
        n.Resample(inputs=(0,), axis=1, matrix=np.array([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75]])),
        _convolution(draw, 1, (2, 2, 2, 3)),
        n.Relu(inputs=(2,)),
        n.Dilate(inputs=(3,), factors=(2, 3, 1)),
        _convolution(draw, 4, (2, 2, 3, 2), padding=((1, 1), (0, 1))),
        n.LeakyRelu(inputs=(5,), slope=0.25),
        n.Resample(inputs=(6,), axis=0, matrix=np.array([[-0.125, 0.875, 0.375, -0.125], [0.3, 0.0, 0.0, 0.7]])),
        _convolution(draw, 7, (2, 2, 2, 2), stride=(1, 2)),
        n.Dilate(inputs=(8,), factors=(3, 2, 2)),
    )
    return Graph(nodes, (9, 7), ("apart", "mixed"))


NETWORKS = (strided, depthwise, residual, grouped, volume, upsampled)
ALL_NETWORKS = (*NETWORKS, excited)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network, errors for the engine, and exact weights of a target and a ticket that those errors allow."""

    graph: Graph
    errors: Mapping[int, LayerErrors]
    target: Mapping[int, LayerWeights]
    ticket: Mapping[int, LayerWeights]
    signed: Mapping[int, bool]


def drawer(rng: np.random.Generator, coarse: bool, scale: float = 1.0) -> Draw:
    """Arrays of small multiples of 1/4, with zeros and ties, or of normal numbers."""
    if coarse:
        return lambda *shape: rng.integers(-4, 5, shape) / 4 * scale
    return lambda *shape: rng.normal(0, 0.7, shape) * scale


def random_case(graph: Graph, rng: np.random.Generator, size: float, draw: Draw, nonnegative: bool) -> Case:
    """Random errors up to about `size`, and exact weights anywhere within every stated radius, its ends included."""
    flags = nonnegative_nodes(graph, nonnegative)
    nodes, errors, target, ticket, signs = list(graph.nodes), {}, {}, {}, {}
    for i in graph.layers:
        node = nodes[i]
        relative = float(rng.choice([0.0, 2.0**-50, 1e-3]))
        unsure = None if node.bias is None or rng.random() < 0.5 else np.abs(draw(*node.bias.shape)) * 2.0**-40
        nodes[i] = node = dataclasses.replace(node, kernel_error=relative, bias_error=unsure)
        signs[i] = not flags[node.inputs[0]]
        true = _within(rng, node.kernel, np.abs(node.kernel) * Fraction(relative))
        true_bias = None if node.bias is None else _within(rng, node.bias, 0.0 if unsure is None else unsure)
        parts = []
        for _ in range(1 + signs[i]):
            center = draw(*node.kernel.shape) * size
            radius = _radius(rng, center)
            parts.append((center, radius, true + _within(rng, center, radius)))
        center_b, radius_b, bias = None, None, None
        if node.bias is not None:
            center_b, radius_b = draw(*node.bias.shape) * size, float(rng.choice([0.0, 2.0**-60]))
            bias = true_bias + _within(rng, center_b, radius_b)
        negative = parts[1] if signs[i] else (None, None, None)
        errors[i] = LayerErrors(
            positive_center=parts[0][0],
            positive_radius=parts[0][1],
            negative_center=negative[0],
            negative_radius=negative[1],
            bias_center=center_b,
            bias_radius=radius_b,
        )
        target[i] = LayerWeights(true, None, true_bias)
        ticket[i] = LayerWeights(parts[0][2], negative[2], bias, clip=not signs[i])
    return Case(Graph(tuple(nodes), graph.outputs, graph.output_names), errors, target, ticket, signs)


def _radius(rng: np.random.Generator, center: np.ndarray) -> np.ndarray:
    """A full array: one entry a weight, an output channel or a layer would compile programs of their own."""
    return np.abs(center) * float(rng.choice([0.0, 2.0**-52, 1e-2]))


def _within(rng: np.random.Generator, center: np.ndarray, radius: object) -> np.ndarray:
    share = np.vectorize(lambda v: Fraction(int(v), 4), otypes=[object])(rng.integers(-4, 5, center.shape))
    exact = np.vectorize(Fraction, otypes=[object])(center)
    return exact + share * np.vectorize(Fraction, otypes=[object])(np.broadcast_to(np.asarray(radius), center.shape))


def _convolution(draw: Draw, place: int, shape: tuple[int, ...], bias: bool = True, **geometry) -> n.Convolution:
    rank = len(shape) - 2
    fixed = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank} | geometry
    return n.Convolution(inputs=(place,), kernel=draw(*shape), bias=draw(shape[-1]) if bias else None, **fixed)
