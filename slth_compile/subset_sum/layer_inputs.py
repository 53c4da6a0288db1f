"""What the layers of a ticket read on calibration inputs, on grids so coarse that all sums of products are exact.

Activations are rounded to 15 bits, weights to as many as leave every sum below 2^53 steps. So no order of summation,
number of threads or device changes a bit of it, and masks that are chosen by it are the same everywhere. What other
nodes round (means, smooth activations) is rounded again to the grid, where a last bit is all but never seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from slth_compile.graph.evaluate import LayerWeights, apply_node, linear
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Convolution, Dense, Weighted
from slth_compile.graph.shapes import window_positions
from slth_compile.source.network import kernel_shape

ACTIVATION_BITS = 15
ROWS = 1 << 15
"""Positions that moments are taken over, at most: of every image as many, drawn once and for all."""

_EXACT_BITS = 53
_ELEMENTS = 1 << 24


def on_grid(x: np.ndarray, bits: int) -> np.ndarray:
    """`x` rounded to multiples of the power of two that leaves its largest entry `bits` binary digits, float64."""
    largest = float(np.abs(x).max(initial=0.0))
    steps = bits - int(np.frexp(largest)[1])
    return np.ldexp(np.rint(np.ldexp(x.astype(np.float64), steps)), -steps)


class LayerInputs:
    """The inputs of a ticket's layers, one layer after the other as their weights become known.

    Args:
        graph: The folded target.
        x: Calibration inputs, `(samples, *input_shape)`.
    """

    def __init__(self, graph: Graph, x: np.ndarray) -> None:
        self._graph = graph
        self._values = {0: on_grid(x, ACTIVATION_BITS)}
        self._last = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
        self._next = 1

    def of(self, position: int) -> np.ndarray:
        """What the layer at a node position reads, float64; `set_weights` was called for all layers before it."""
        while self._next < position:
            node = self._graph.nodes[self._next]
            with jax.enable_x64(True):
                operands = [jax.device_put(self._values[j]) for j in node.inputs]
                self._advance(np.asarray(apply_node(node, operands)))
        return self._values[self._graph.nodes[position].inputs[0]]

    def set_weights(self, position: int, weights: LayerWeights) -> None:
        """The output of the layer at a node position, now that its weights are known."""
        node, x = self._graph.nodes[position], self.of(position)
        assert isinstance(node, Convolution | Dense)
        shape = kernel_shape(node)
        bits = _EXACT_BITS - 1 - ACTIVATION_BITS - (shape.taps * shape.inputs // shape.groups - 1).bit_length()
        parts = [(np.maximum(x, 0) if weights.clip or weights.negative is not None else x, weights.positive)]
        if weights.negative is not None:
            parts.append((np.minimum(x, 0), weights.negative))
        with jax.enable_x64(True):
            y = [np.asarray(linear(node, jax.device_put(part), on_grid(np.asarray(k), bits))) for part, k in parts]
        bias = 0.0 if weights.bias is None else np.asarray(weights.bias)
        self._advance(sum(y[1:], y[0]) + bias)

    def _advance(self, value: np.ndarray) -> None:
        self._values[self._next] = on_grid(value, ACTIVATION_BITS)
        for j in self._graph.nodes[self._next].inputs:
            if self._last[j] == self._next:
                self._values.pop(j, None)
        self._next += 1


def moments(node: Weighted, x: np.ndarray, *, signed: bool) -> np.ndarray:
    """Second moments of what a layer's weights multiply, with the constant 1 as the last feature.

    Features are (tap, input channel of the group); in a signed layer those of the positive part of the input come
    first, those of its negative part follow.

    Args:
        node: The layer.
        x: What it reads, `(samples, ..., C)`, on a grid.
        signed: Whether it serves both signs.

    Returns:
        float64 `(groups, features + 1, features + 1)`: means over samples and positions, exact up to their division.
    """
    total, rows = np.zeros(()), 0
    for features in _features(node, x, signed):
        ones = np.ones((*features.shape[:2], 1))
        features = np.concatenate([features, ones], -1)
        total = total + np.matmul(features.transpose(0, 2, 1), features)
        rows += features.shape[1]
    return total / rows


def _features(node: Weighted, x: np.ndarray, signed: bool) -> Iterator[np.ndarray]:
    """Rows of features `(groups, rows, features)`, some samples at a time."""
    shape = kernel_shape(node)
    generator = np.random.default_rng(0)
    width = shape.taps * shape.inputs
    positions = np.prod(_places(node, x.shape[1:]), dtype=int)
    kept = min(positions, max(1, ROWS // len(x)))
    together = max(1, _ELEMENTS // max(1, width * positions))
    samples = np.arange(len(x)) if len(x) <= ROWS else np.sort(generator.choice(len(x), ROWS, replace=False))
    for start in range(0, len(samples), together):
        patches = _patches(node, x[samples[start : start + together]])
        chosen = np.sort(generator.choice(positions, kept, replace=False))
        part = patches[:, chosen].reshape(-1, shape.taps, shape.groups, shape.inputs // shape.groups)
        part = part.transpose(2, 0, 1, 3).reshape(shape.groups, part.shape[0], -1)
        yield np.concatenate([np.maximum(part, 0), np.minimum(part, 0)], -1) if signed else np.maximum(part, 0)


def _places(node: Weighted, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the output's position axes."""
    if isinstance(node, Dense):
        return shape[:-1]
    geometry = zip(shape, node.kernel.shape[:-2], node.stride, node.padding, node.dilation, strict=False)
    return tuple(window_positions(*axis) for axis in geometry)


def _patches(node: Weighted, x: np.ndarray) -> np.ndarray:
    """What every position of the output reads, `(samples, positions, taps, C)`."""
    if isinstance(node, Dense):
        return x.reshape(len(x), -1, 1, x.shape[-1])
    places = _places(node, x.shape[1:])
    padded = np.pad(x, ((0, 0), *node.padding, (0, 0)))
    found = []
    for tap in itertools.product(*(range(k) for k in node.kernel.shape[:-2])):
        where = [
            slice(t * d, t * d + (count - 1) * s + 1, s)
            for t, d, count, s in zip(tap, node.dilation, places, node.stride, strict=True)
        ]
        found.append(padded[(slice(None), *where)].reshape(len(x), -1, x.shape[-1]))
    return np.stack(found, 2)
