"""Both networks as a machine evaluates them: every rounding a relative error of a weight or of an element.

In floating point with unit roundoff `u`, sums in any order and fused or not, a layer evaluates

    fl(W x + b) = W' x + b' + t,   |W' - W| <= gamma_n |W|,   |b' - b| <= gamma_n |b|,   |t| <= n s,

`gamma_n = n u / (1 - n u)`, n the roundings that a term can meet and `s` the smallest normal number, below which
results may be flushed (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapters 2 and 3). `W'` may be
another one at every position. So bounds over all networks this close to the two contain every evaluation of them, and
real arithmetic too; the engines need not know.

Not covered: products by transforms (FFT, Winograd), formats with fewer bits than stated (TF32), and overflow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.rounded import Rounded
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

# Covers the few roundings of the figures below.
_ABOVE = 1 + 2.0**-40
# Roundings of an operation on few numbers: four are possible, those of its constants among them, and a checker that
# allows for six must find the bound true.
_FEW = 8


class Format(NamedTuple):
    """A floating-point format: its unit roundoff, and its smallest normal number."""

    unit: float
    smallest: float


FLOAT64 = Format(2.0**-53, 2.0**-1022)
FLOAT32 = Format(2.0**-24, 2.0**-126)


class Evaluated(NamedTuple):
    """Both networks with what evaluating them rounds; as the engines take them."""

    graph: Graph
    errors: dict[int, LayerErrors]


def evaluated(graph: Graph, errors: Mapping[int, LayerErrors], format: Format) -> Evaluated | None:
    """All networks near the two that contain their evaluations in a format, on inputs that are numbers of it.

    The target has its weights rounded to the format, batch norms folded; the ticket its effective weights. None where
    the evaluation of a node is not known this well (exponentials, and what is made of them; sums of more than
    `1 / (2 u)` terms), or a weight of the target is below the smallest normal number.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        format: Of the evaluation.
    """
    nodes: list[n.Node] = []
    found: dict[int, LayerErrors] = {}
    places: list[int] = []

    def add(node: n.Node) -> int:
        nodes.append(node)
        return len(nodes) - 1

    def rounded(place: int, roundings: int, absolute: np.ndarray | float = 0.0) -> int:
        off = np.asarray(absolute) * _ABOVE + 8 * format.smallest
        return add(Rounded(inputs=(place,), relative=gamma(roundings, format), absolute=off))

    for position, node in enumerate(graph.nodes):
        inputs = tuple(places[i] for i in node.inputs)
        match node:
            case n.Convolution() | n.Dense():
                if _is_subnormal(node, format) or 2 * math.prod(node.kernel.shape[:-1]) + _FEW > _most(format):
                    return None
                changed, own = _layer(node, errors[position], format)
                found[len(nodes)] = own
                places.append(add(dataclasses.replace(changed, inputs=inputs)))
            case n.AveragePool() | n.Mean() | n.Resample():
                terms = _terms(node, graph.shapes[node.inputs[0]])
                if isinstance(node, n.Resample) and _has_small(node.matrix, format):
                    return None
                if terms + _FEW > _most(format):
                    return None
                # Sums cancel: their error is relative to what they add up.
                before = rounded(inputs[0], terms + _FEW)
                places.append(rounded(add(dataclasses.replace(node, inputs=(before,))), 0))
            case n.Affine() | n.HardSigmoid():
                before = rounded(inputs[0], _FEW)
                offset = node.shift if isinstance(node, n.Affine) else node.offset
                size = 0.0 if offset is None else np.abs(np.asarray(offset, np.float64))
                # A hard sigmoid may be a quotient in the end, of at most one.
                size = gamma(_FEW, format) * (size + (1.0 if isinstance(node, n.HardSigmoid) else 0.0))
                places.append(rounded(add(dataclasses.replace(node, inputs=(before,))), 0, size))
            case n.Add() | n.Multiply() | n.LeakyRelu() | n.Prelu() | n.Clip() | n.HardSwish():
                places.append(rounded(add(dataclasses.replace(node, inputs=inputs)), _FEW))
            case _ if isinstance(node, _EXACT):
                places.append(add(dataclasses.replace(node, inputs=inputs)))
            case _:
                return None
    return Evaluated(Graph(tuple(nodes), tuple(places[i] for i in graph.outputs), graph.output_names), found)


def widened(regions: tuple[np.ndarray, np.ndarray], format: Format) -> tuple[np.ndarray, np.ndarray]:
    """The regions with what their inputs are rounded to in a format, zero for the smallest; no end changes its sign."""
    lower, upper = regions
    off, small = 2 * format.unit, 2 * format.smallest
    lower = np.where((lower > 0) & (lower < small), 0.0, np.where((lower < 0) & (lower > -small), -small, lower))
    upper = np.where((upper < 0) & (upper > -small), 0.0, np.where((upper > 0) & (upper < small), small, upper))
    return lower - off * np.abs(lower), upper + off * np.abs(upper)


_EXACT = (n.Input, n.Relu, n.MaxPool, n.Maximum, n.Concatenate, n.Slice, n.Pad, n.Dilate, n.Reshape, n.Transpose)


def gamma(roundings: int, format: Format) -> float:
    """`n u / (1 - n u)` rounded up, for `n <= 1 / (2 u)` roundings."""
    size = roundings * format.unit
    assert roundings <= _most(format)
    return size / (1 - size) * _ABOVE


def _most(format: Format) -> float:
    return 0.5 / format.unit


def _is_subnormal(node: n.Weighted, format: Format) -> bool:
    return any(_has_small(array, format) for array in (node.kernel, node.bias) if array is not None)


def _has_small(array: np.ndarray, format: Format) -> bool:
    size = np.abs(np.asarray(array, np.float64))
    return bool(np.any((size > 0) & (size < format.smallest)))


def _layer(node: n.Weighted, errors: LayerErrors, format: Format) -> tuple[n.Weighted, LayerErrors]:
    """The target's layer with its weights and those of the ticket known up to `gamma` of them."""
    fan_in = math.prod(node.kernel.shape[:-1])
    # Each input may meet two weights, one of them times zero.
    share = gamma((1 if errors.negative_radius is None else 2) * fan_in + _FEW, format)
    flushed = 4 * (2 * fan_in + _FEW) * format.smallest
    kernel = np.abs(np.asarray(node.kernel, np.float64)) * (1 + node.kernel_error)
    bias = np.zeros(kernel.shape[-1]) if node.bias is None else np.asarray(node.bias, np.float64)
    bias_error = np.zeros(bias.shape) if node.bias_error is None else node.bias_error

    def radius_of(own: np.ndarray, center: np.ndarray | None, radius: np.ndarray | float) -> np.ndarray:
        """For `|K' - W'|`: `share` of `|W|` and of `|K| <= |W| + |center| + radius` more."""
        size = 2 * own + (0.0 if center is None else np.abs(center)) + radius
        return (radius + share * size) * _ABOVE + format.smallest

    negative = errors.negative_radius
    off = 0.0 if errors.bias_radius is None else errors.bias_radius
    own_bias = np.abs(bias) + bias_error
    return dataclasses.replace(
        node,
        kernel_error=(node.kernel_error + share * (1 + node.kernel_error)) * _ABOVE,
        bias=bias,
        bias_error=(bias_error + share * own_bias) * _ABOVE + flushed,
    ), dataclasses.replace(
        errors,
        positive_radius=radius_of(kernel, errors.positive_center, errors.positive_radius),
        negative_radius=None if negative is None else radius_of(kernel, errors.negative_center, negative),
        bias_radius=radius_of(own_bias, errors.bias_center, off) + 2 * flushed,
    )


def _terms(node: n.Node, shape: tuple[int, ...]) -> int:
    if isinstance(node, n.AveragePool):
        return math.prod(node.window)
    if isinstance(node, n.Resample):
        return node.matrix.shape[1]
    assert isinstance(node, n.Mean)
    return math.prod(shape[axis] for axis in node.axes)
