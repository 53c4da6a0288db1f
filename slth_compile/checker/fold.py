"""Normalisations folded into the layers before them, without a rounding error that is not enclosed."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np

from slth_compile.checker import rational
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.rational import Enclosure, Triple, exact, exact_triple, to_triple
from slth_compile.errors import VerificationError

MAX_CHANNELS = 1 << 20
"""Most channels of a normalisation."""

_Channels = list[Enclosure]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer of the folded target, as a convolution (a dense layer has one tap on every axis).

    Attributes:
        node: Its position in the folded graph.
        kernel: Kernel before folding, float64, shape `(P, C/groups, S)`.
        scale: What folding multiplies each output channel by, shape `(S,)`; None where nothing was folded.
        bias: The folded bias, shape `(S,)`; None where there is none.
        taps: Kernel size on every spatial axis; `P` is their product.
        stride: Stride on every spatial axis.
        padding: (low, high) zeros on every spatial axis.
        dilation: Distance of neighbouring taps on every spatial axis.
        groups: Number of groups.
        exact_scale: The scale before it was cut to float64, one enclosure a channel; None where `scale` is.
        exact_bias: Likewise; None where `bias` is, or is a float64 as it stands.
    """

    node: int
    kernel: np.ndarray
    scale: Triple | None
    bias: Triple | None
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    exact_scale: _Channels | None = None
    exact_bias: _Channels | None = None

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """`(P, C, S/groups)`: taps, input channels, output channels that read an input channel."""
        taps, inputs, outputs = self.kernel.shape
        return taps, inputs * self.groups, outputs // self.groups

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """An array of the kernel's shape with `[p, t, s] = array[p, t % (C/g), (t // (C/g)) * (S/g) + s]`."""
        taps, inputs, outputs = array.shape
        split = array.reshape(taps, inputs, self.groups, outputs // self.groups)
        return split.transpose(0, 2, 1, 3).reshape(self.canonical_shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Folded:
    """The folded target.

    Attributes:
        graph: Its graph; `batch_norm` is gone, weighted nodes carry no arrays.
        layers: The weighted nodes in topological order.
    """

    graph: Graph
    layers: tuple[Layer, ...]


def fold(graph: Graph) -> Folded:
    """The target with every normalisation merged into the layer before it, or made a depthwise layer of its own."""
    consumers = graph.consumers()
    where: list[int] = []  # position of each original node in the folded graph
    nodes: list[Node] = []
    merged: dict[int, list[Node]] = {}  # folded position of a layer -> what it takes in, in order
    for node in graph.nodes:
        source = where[node.inputs[0]] if node.inputs else -1
        scales = node.op in ("batch_norm", "affine")
        if scales and source in merged and consumers[node.inputs[0]] == 1:
            merged[source].append(node)
            where.append(source)
            continue
        where.append(len(nodes))
        if node.op in ("convolution", "dense"):
            merged[len(nodes)] = []
        elif node.op == "batch_norm" or (node.op == "affine" and node.fields["trained"]):
            merged[len(nodes)] = [node]
            node = _identity(node)
        nodes.append(dataclasses.replace(node, inputs=tuple(where[i] for i in node.inputs)))
    layers = tuple(_layer(position, nodes[position], taken) for position, taken in merged.items())
    bare = (dataclasses.replace(n, arrays={}) if i in merged else n for i, n in enumerate(nodes))
    return Folded(Graph(tuple(bare), tuple(where[i] for i in graph.outputs)), layers)


def _identity(node: Node) -> Node:
    """The depthwise 1x1 convolution that a normalisation on its own is merged into."""
    if not node.shape:
        raise VerificationError("target", f"a '{node.op}' acts on a scalar, expected a channel axis")
    rank = len(node.shape) - 1
    fields = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank, "groups": node.shape[-1]}
    kernel = np.ones((1,) * rank + (1, node.shape[-1]))
    return Node("convolution", node.inputs, fields, {"kernel": kernel}, node.shape)


def _layer(position: int, node: Node, taken: list[Node]) -> Layer:
    kernel, bias = node.arrays["kernel"], node.arrays.get("bias")
    taps = kernel.shape[:-2]
    if node.op == "dense":
        rank = len(node.shape) - 1
        taps = stride = dilation = (1,) * rank
        padding, groups = ((0, 0),) * rank, 1
    else:
        stride, padding, dilation, groups = (node.fields[k] for k in ("stride", "padding", "dilation", "groups"))
    kernel = kernel.reshape(math.prod(taps), *kernel.shape[-2:])
    scale_triple, bias_triple = None, None if bias is None else exact_triple(bias)
    scale = shift = None
    if taken:
        scale, shift = _chain(taken, kernel.shape[-1], bias)
        scale_triple, bias_triple = to_triple(scale), None if shift is None else to_triple(shift)
    geometry = taps, stride, padding, dilation, groups
    return Layer(position, kernel, scale_triple, bias_triple, *geometry, exact_scale=scale, exact_bias=shift)


def _chain(taken: list[Node], channels: int, bias: np.ndarray | None) -> tuple[_Channels, _Channels | None]:
    """Scale and bias of every channel after all of `taken`."""
    if channels > MAX_CHANNELS:
        raise VerificationError("target", f"a normalisation has {channels} channels, expected at most {MAX_CHANNELS}")
    scale = [exact(1.0)] * channels
    shift = None if bias is None else [exact(b) for b in bias.tolist()]
    for node in taken:
        factor, mean, offset = _normalisation(node, channels)
        scale = _each(rational.multiply, scale, factor)
        if mean is not None:
            shift = _each(rational.subtract, shift or [exact(0.0)] * channels, mean)
        shift = shift and _each(rational.multiply, shift, factor)
        if offset is not None:
            shift = offset if shift is None else _each(rational.add, shift, offset)
    return scale, shift


def _normalisation(node: Node, channels: int) -> tuple[_Channels | None, _Channels | None, _Channels | None]:
    """`(factor, mean, offset)` of `(x - mean) * factor + offset`; None for 1, 0, 0."""
    lists = {key: np.broadcast_to(array, (channels,)).tolist() for key, array in node.arrays.items()}
    enclosed = {key: [exact(v) for v in values] for key, values in lists.items()}
    if node.op == "affine":
        return enclosed.get("scale"), None, enclosed.get("shift")
    factor = []
    for variance in lists["variance"]:
        positive = Fraction(variance) + Fraction(node.fields["epsilon"])
        if positive <= 0:
            raise VerificationError("weights", "variance + epsilon of a batch normalisation is not positive")
        factor.append(rational.inverse_root(positive))
    return _each(rational.multiply, factor, enclosed.get("scale")), enclosed["mean"], enclosed.get("bias")


def _each(operation, a: _Channels, b: _Channels | None) -> _Channels:
    return a if b is None else [operation(p, q) for p, q in zip(a, b, strict=True)]
