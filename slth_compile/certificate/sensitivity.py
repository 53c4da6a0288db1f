"""To first order, how far an error in each layer can move an output at a point: what shapes the tolerances.

For errors `|E| <= eta`, `|e_b| <= eta_b` in one layer and small eta, an output moves by at most

    s eta + s_b eta_b,   s = sum over positions and features of |A| * (sum of |x| over the window),   s_b = sum of |A|

with A the output's derivative by that layer's own output. One backward pass an output gives s of every layer. In
NumPy: a large network is through before XLA has compiled its first layers. Nothing is promised by these numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from slth_compile.certificate.activations import activations, by_group, part_of
from slth_compile.certificate.derivatives import derivative
from slth_compile.certificate.enclosure import Window, slices
from slth_compile.certificate.propagate import window_of
from slth_compile.certificate.resampling import along
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts
from slth_compile.graph.graph import Graph

WORK = 2**34
"""Multiplications spent on backward passes; of more outputs than that allows, some evenly spread ones are taken."""

FEWEST_ROWS = 2

Values = list[np.ndarray]


@np.errstate(over="ignore", invalid="ignore")  # the bound that is checked in the end is not finite either
def sensitivities(graph: Graph, x: np.ndarray) -> dict[int, tuple[float, float]]:
    """The largest `(s, s_b)` over points and outputs, by position of the layer.

    Args:
        graph: The folded target.
        x: Points, `(samples, *input_shape)`.
    """
    largest = dict.fromkeys(graph.layers, (0.0, 0.0))
    outputs = sum(math.prod(graph.shapes[i]) for i in graph.outputs)
    count = min(outputs, max(FEWEST_ROWS, WORK // (multiplications(graph) * len(x))))
    rows = np.unique(np.linspace(0, outputs - 1, count).astype(np.int64))
    for point in np.asarray(x, np.float32):
        values = activations(graph, point[None])
        sums = {i: window_sums(graph.nodes[i], np.abs(values[graph.nodes[i].inputs[0]])) for i in graph.layers}
        for row in rows:
            for i, pulled in _derivatives(graph, values, int(row)).items():
                size = np.abs(pulled)
                found = float((size * sums[i]).sum(dtype=np.float64)), float(size.sum(dtype=np.float64))
                largest[i] = (max(largest[i][0], found[0]), max(largest[i][1], found[1]))
    return largest


def multiplications(graph: Graph) -> int:
    """Multiplications of one pass through the weighted layers, for one sample."""
    return sum(math.prod(graph.shapes[i][:-1]) * graph.nodes[i].kernel.size for i in graph.layers)  # type: ignore[attr-defined]


def window_sums(node: n.Node, z: np.ndarray) -> np.ndarray:
    """Sum of `z` over every window of a layer, each group apart, `(batch, spatial'..., S)` or broadcastable."""
    assert isinstance(node, n.Weighted)
    if isinstance(node, n.Dense):
        return z.sum(-1, keepdims=True)
    grouped = z.reshape(*z.shape[:-1], node.groups, -1).sum(-1)
    parts = slices(grouped, window_of(node), first=1)
    sums = functools.reduce(np.add, parts)
    return sums if node.groups == 1 else np.repeat(sums, node.kernel.shape[-1] // node.groups, -1)


def _derivatives(graph: Graph, values: Values, row: int) -> dict[int, np.ndarray]:
    """Derivatives of one output element by the output of every layer."""
    gradients: list[np.ndarray | None] = [None] * len(values)

    def give(i: int, gradient: np.ndarray) -> None:
        known = gradients[i]
        gradients[i] = gradient if known is None else known + gradient

    for i in graph.outputs:
        size = math.prod(graph.shapes[i])
        if 0 <= row < size:
            one = np.zeros(values[i].shape, np.float32)
            one.reshape(-1)[row] = 1
            give(i, one)
        row -= size
    found = {}
    for i in range(len(values) - 1, 0, -1):
        gradient, node = gradients[i], graph.nodes[i]
        gradients[i] = None
        if gradient is None:
            continue
        if isinstance(node, n.Convolution | n.Dense):
            found[i] = gradient
        if not any(node.inputs):
            continue
        for j, part in zip(node.inputs, _pulled(node, [values[j] for j in node.inputs], gradient), strict=True):
            give(j, part)
    return found


def _pulled(node: n.Node, operands: Sequence[np.ndarray], gradient: np.ndarray) -> Sequence[np.ndarray]:
    """Derivatives by the operands, from those by the node's output."""
    x = operands[0]
    match node:
        case n.Convolution() | n.Dense():
            return (_linear_transposed(node, gradient, x.shape),)
        case n.Affine():
            return (gradient if node.scale is None else gradient * node.scale.astype(np.float32),)
        case n.Relu():
            return (np.where(x > 0, gradient, 0),)
        case n.Prelu():
            return (gradient * derivative(node, x, node.slopes.astype(np.float32)),)
        case n.LeakyRelu() | n.Clip() | n.Sigmoid() | n.Tanh() | n.HardSigmoid() | n.HardSwish() | n.Silu() | n.Gelu():
            return (gradient * derivative(node, x).astype(np.float32, copy=False),)
        case n.MaxPool():
            window = window_of(node)
            parts = slices(x, window, -np.inf, first=1)
            winner = np.argmax(parts, 0)
            return (_scattered([np.where(winner == k, gradient, 0) for k in range(len(parts))], window, x.shape),)
        case n.AveragePool():
            window = window_of(node)
            share = gradient / pool_counts(node, x.shape[1:]).astype(np.float32)
            return (_scattered([share] * math.prod(window.taps), window, x.shape),)
        case n.Mean() | n.Maximum():
            axes = tuple(a + 1 for a in node.axes)
            spread = np.broadcast_to(np.expand_dims(gradient, axes), x.shape)
            if isinstance(node, n.Mean):
                return (spread / np.float32(math.prod(x.shape[a] for a in axes)),)
            return (np.where(x == x.max(axes, keepdims=True), spread, 0),)
        case n.Add():
            return (gradient, gradient)
        case n.Multiply():
            other = operands[1]
            spread = tuple(axis for axis, size in enumerate(other.shape) if size != x.shape[axis])
            return gradient * other, (gradient * x).sum(spread, keepdims=True)
        case n.Concatenate():
            ends = np.cumsum([v.shape[node.axis + 1] for v in operands])[:-1]
            return np.split(gradient, ends, node.axis + 1)
        case n.Slice():
            whole = np.zeros(x.shape, np.float32)
            whole[part_of(node)] = gradient
            return (whole,)
        case n.Pad():
            inside = (slice(low, low + size) for (low, _), size in zip(node.padding, x.shape[1:], strict=True))
            return (gradient[(slice(None), *inside)],)
        case n.Dilate():
            return (gradient[(slice(None), *(slice(None, None, factor) for factor in node.factors))],)
        case n.Resample():
            return (along(node.matrix.astype(np.float32).T, gradient, node.axis + 1),)
        case n.Reshape():
            return (gradient.reshape(x.shape),)
        case n.Transpose():
            return (gradient.transpose(0, *(int(a) + 1 for a in np.argsort(node.permutation))),)
        case _:
            # A softmax is at an output, and moves outputs no further than what it reads, up to a factor of all alike.
            return (gradient,)


def _linear_transposed(node: n.Weighted, gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(node, n.Dense):
        return gradient @ node.kernel.astype(np.float32).T
    window, kernel = window_of(node), by_group(node, node.kernel, gradient.dtype)
    flat = gradient.reshape(-1, node.groups, kernel.shape[-1]).transpose(1, 0, 2)
    patches = (flat @ kernel.transpose(0, 2, 1)).transpose(1, 0, 2)
    taps = math.prod(window.taps)
    parts = patches.reshape(*gradient.shape[:-1], node.groups, taps, -1)
    return _scattered([parts[..., k, :].reshape(*gradient.shape[:-1], -1) for k in range(taps)], window, shape)


def _scattered(parts: Sequence[np.ndarray], window: Window, shape: tuple[int, ...]) -> np.ndarray:
    """The transpose of `enclosure.slices`: what every tap saw, added up where it saw it."""
    padding = (*window.padding, (0, 0))
    whole = np.zeros((shape[0], *(size + low + high for size, (low, high) in zip(shape[1:], padding, strict=True))))
    whole = whole.astype(np.float32)
    for part, where in zip(parts, _places(window, whole.shape), strict=True):
        whole[where] += part
    inside = (slice(low, low + size) for size, (low, _) in zip(shape[1:], padding, strict=True))
    return whole[(slice(None), *inside)]


def _places(window: Window, shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Which elements of the padded array each tap sees, taps in C order."""
    for tap in np.ndindex(*window.taps):
        axes = zip(tap, window.taps, window.stride, window.dilation, shape[1:], strict=False)
        ends = (slice(t * d, t * d + size - (k - 1) * d, s) for t, k, s, d, size in axes)
        yield (slice(None), *ends)
