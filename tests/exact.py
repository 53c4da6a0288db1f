"""Networks evaluated without any rounding: a tensor is an array of integers over one common denominator."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from random_networks import Case

from slth_compile.certificate.difference import Difference
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, pool_counts, target_weights
from slth_compile.graph.graph import Graph


class Exact(NamedTuple):
    """The rational tensor `numerators / denominator`; `denominator` is positive."""

    numerators: np.ndarray
    denominator: int


def exact(array: object) -> Exact:
    """Floats, integers or fractions, at exactly their values."""
    values = np.asarray(array)
    values = values if values.dtype == object else values.astype(np.float64)
    fractions = [Fraction(v) for v in values.reshape(-1).tolist()]
    denominator = math.lcm(1, *(f.denominator for f in fractions))
    integers = np.empty(len(fractions), object)
    integers[:] = [f.numerator * (denominator // f.denominator) for f in fractions]
    return Exact(integers.reshape(values.shape), denominator)


def fractions_of(value: Exact) -> np.ndarray:
    """The tensor as an object array of `Fraction`."""
    found = np.empty(value.numerators.size, object)
    found[:] = [Fraction(v, value.denominator) for v in value.numerators.reshape(-1).tolist()]
    return found.reshape(value.numerators.shape)


def exact_evaluate(
    graph: Graph,
    x: np.ndarray,
    weights: Mapping[int, LayerWeights] | None = None,
    kinks: list[Fraction] | None = None,
) -> tuple[np.ndarray, ...]:
    """Every output of a folded network at one input, in rational arithmetic.

    Args:
        graph: The network; no batch norm, no softmax.
        x: One input, shape `input_shape`: floats or fractions.
        weights: As for `graph.evaluate.evaluate`; arrays hold floats or fractions.
        kinks: Collects every number whose sign decides which linear piece `x` lies on, in a fixed order.

    Returns:
        One object array of `Fraction` an output leaf.
    """
    weights = target_weights(graph) if weights is None else weights
    values: list[Exact] = []
    for i, node in enumerate(graph.nodes):
        operands = [values[j] for j in node.inputs]
        values.append(_apply(node, operands, weights.get(i), kinks) if i else exact(x))
    return tuple(fractions_of(values[i]) for i in graph.outputs)


def difference_at(case: Case, x: np.ndarray) -> list[np.ndarray]:
    """Ticket minus target at `x`, exactly."""
    pair = (exact_evaluate(case.graph, x, weights) for weights in (case.ticket, case.target))
    return [np.asarray(g - f, object) for g, f in zip(*pair, strict=True)]


def is_inside(leaf: Difference, region: int, values: np.ndarray) -> bool:
    """Whether exact values lie within the enclosures of one region, with no tolerance."""
    ends = zip(leaf.lower[region].flat, values.flat, leaf.upper[region].flat, strict=True)
    return all(_at_most(low, value) and _at_most(-high, -value) for low, value, high in ends)


def _at_most(bound: float, value: Fraction) -> bool:
    return bound == -np.inf or Fraction(float(bound)) <= value


def _apply(node: n.Node, operands: Sequence[Exact], weights: LayerWeights | None, kinks: list | None) -> Exact:
    if isinstance(node, n.Add | n.Concatenate):
        parts, denominator = _common(operands)
        joined = parts[0] + parts[1] if isinstance(node, n.Add) else np.concatenate(parts, node.axis)
        return Exact(joined, denominator)
    x = operands[0]
    v, denominator = x
    match node:
        case n.Multiply():
            return _times(*operands)
        case n.Prelu():
            _record(kinks, x)
            above, below = (Exact(part(v, 0), denominator) for part in (np.maximum, np.minimum))
            return _plus(above, _times(below, exact(node.slopes)))
        case n.Clip():
            return _clipped(x, node.low, node.high, kinks)
        case n.HardSigmoid():
            return _clipped(_plus(_times(x, exact(node.slope)), exact(node.offset)), 0.0, 1.0, kinks)
        case n.HardSwish():
            share = _clipped(_plus(x, exact(3.0)), 0.0, 6.0, kinks)
            return _times(x, Exact(share.numerators, share.denominator * 6))
        case n.Convolution() | n.Dense():
            assert weights is not None
            return _layer(node, x, weights, kinks)
        case n.Affine():
            scaled = x if node.scale is None else _times(x, exact(node.scale))
            return scaled if node.shift is None else _plus(scaled, exact(node.shift))
        case n.Relu():
            _record(kinks, x)
            return Exact(np.maximum(v, 0), denominator)
        case n.LeakyRelu():
            _record(kinks, x)
            slope = Fraction(node.slope)
            numerators = np.maximum(v * slope.denominator, v * slope.numerator)
            return Exact(numerators, denominator * slope.denominator)
        case n.MaxPool():
            low = v.min() - 1
            taps = windows(v, node.window, node.stride, node.padding, (1,) * len(node.window), low)
            _record_pairs(kinks, taps, denominator, low)
            return Exact(functools.reduce(np.maximum, taps), denominator)
        case n.Maximum():
            front = np.moveaxis(v, node.axes, range(len(node.axes)))
            taps = front.reshape(math.prod(front.shape[: len(node.axes)]), -1)
            _record_pairs(kinks, list(taps), denominator, None)
            return Exact(taps.max(0).reshape(front.shape[len(node.axes) :]), denominator)
        case n.AveragePool():
            taps = windows(v, node.window, node.stride, node.padding, (1,) * len(node.window), 0)
            counts = np.vectorize(int, otypes=[object])(pool_counts(node, v.shape))
            shared = math.lcm(*counts.reshape(-1).tolist())
            return Exact(sum(taps) * (shared // counts), denominator * shared)
        case n.Mean():
            size = math.prod(v.shape[a] for a in node.axes)
            rest = [size for axis, size in enumerate(v.shape) if axis not in node.axes]
            sums = np.moveaxis(v, node.axes, range(len(node.axes))).reshape(size, -1).sum(0)
            return Exact(sums.reshape(rest), denominator * size)
        case n.Slice():
            where = tuple(slice(*ends) for ends in zip(node.start, node.limit, node.stride, strict=True))
            return Exact(v[where], denominator)
        case n.Pad():
            return Exact(_padded(v, node.padding, 0), denominator)
        case n.Dilate():
            spaced = np.zeros([(size - 1) * k + 1 for size, k in zip(v.shape, node.factors, strict=True)], object)
            spaced[tuple(slice(None, None, k) for k in node.factors)] = v
            return Exact(spaced, denominator)
        case n.Resample():
            matrix = exact(node.matrix)
            product = np.tensordot(matrix.numerators, v, (1, node.axis))
            return Exact(np.moveaxis(product, 0, node.axis), matrix.denominator * denominator)
        case n.Reshape():
            return Exact(v.reshape(node.shape), denominator)
        case n.Transpose():
            return Exact(v.transpose(node.permutation), denominator)
        case _:
            raise TypeError(f"no exact evaluation for {type(node).__name__}")


def _clipped(x: Exact, low: float | None, high: float | None, kinks: list | None) -> Exact:
    for end, part in ((low, np.maximum), (high, np.minimum)):
        if end is not None:
            (v, limit), denominator = _common([x, exact(end)])
            _record(kinks, Exact(v - limit, denominator))
            x = Exact(part(v, limit), denominator)
    return x


def _layer(node: n.Weighted, x: Exact, weights: LayerWeights, kinks: list | None) -> Exact:
    positive, negative, bias, clip = weights
    if negative is None:
        v = np.maximum(x.numerators, 0) if clip else x.numerators
        y = _linear(node, Exact(v, x.denominator), exact(positive))
    else:
        _record(kinks, x)
        above, below = (Exact(part(x.numerators, 0), x.denominator) for part in (np.maximum, np.minimum))
        y = _plus(_linear(node, above, exact(positive)), _linear(node, below, exact(negative)))
    return y if bias is None else _plus(y, exact(bias))


def _linear(node: n.Weighted, x: Exact, kernel: Exact) -> Exact:
    v, k = x.numerators, kernel.numerators
    denominator = x.denominator * kernel.denominator
    if isinstance(node, n.Dense):
        return Exact(np.dot(v, k), denominator)
    taps = windows(v, k.shape[:-2], node.stride, node.padding, node.dilation, 0)
    k = k.reshape(-1, *k.shape[-2:])
    size, features = k.shape[1], k.shape[2] // node.groups
    results = [
        sum(
            np.dot(tap[..., g * size : (g + 1) * size], k[i, :, g * features : (g + 1) * features])
            for i, tap in enumerate(taps)
        )
        for g in range(node.groups)
    ]
    return Exact(np.concatenate(results, -1), denominator)


def windows(v: np.ndarray, window: Sequence[int], stride, padding, dilation, fill: int) -> list[np.ndarray]:
    """What each tap sees from every position: arrays `(spatial'..., C)`, taps in C order."""
    v = _padded(v, (*padding, (0, 0)), fill)
    found = []
    for tap in itertools.product(*map(range, window)):
        axes = zip(v.shape, tap, window, stride, dilation, strict=False)
        found.append(v[tuple(slice(t * d, t * d + size - (k - 1) * d, s) for size, t, k, s, d in axes)])
    return found


def _padded(v: np.ndarray, padding: Sequence[tuple[int, int]], fill: int) -> np.ndarray:
    """`np.pad` for Python integers: that one would fill with NumPy integers, which overflow."""
    padded = np.full([size + low + high for size, (low, high) in zip(v.shape, padding, strict=True)], fill, object)
    padded[tuple(slice(low, low + size) for size, (low, _) in zip(v.shape, padding, strict=True))] = v
    return padded


def _common(values: Sequence[Exact]) -> tuple[list[np.ndarray], int]:
    denominator = math.lcm(*(v.denominator for v in values))
    return [v.numerators * (denominator // v.denominator) for v in values], denominator


def _plus(a: Exact, b: Exact) -> Exact:
    (left, right), denominator = _common([a, b])
    return Exact(left + right, denominator)


def _times(a: Exact, b: Exact) -> Exact:
    return Exact(a.numerators * b.numerators, a.denominator * b.denominator)


def _record(kinks: list | None, x: Exact) -> None:
    if kinks is not None:
        kinks.extend(fractions_of(x).reshape(-1).tolist())


def _record_pairs(kinks: list | None, taps: Sequence[np.ndarray], denominator: int, absent: int | None) -> None:
    for a, b in itertools.combinations(taps, 2):
        if kinks is not None:
            real = 0 if absent is None else 1
            both = (a != absent) & (b != absent) if real else np.ones(a.shape, bool)
            _record(kinks, Exact(np.where(both, a - b, 0), denominator))
