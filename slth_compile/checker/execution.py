"""Both networks as a machine evaluates them in a floating-point format, in terms that bounds of real numbers hold for.

A sum of `w_i x_i` and `b`, in any order, fused or not, is `sum w_i (1 + e_i) x_i + b (1 + e) + t`, every `|e|` at most
`n u / (1 - n u)` for n roundings and `|t|` at most n times the smallest normal number (Higham, "Accuracy and Stability
of Numerical Algorithms", chapters 2, 3). So the layer is one whose weights are known less closely, and a `rounded`
operation stands behind, or before, any other that rounds. The same holds for real arithmetic, all e and t being zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.matrices import Ball, Matrix, PairLayer


class Format(NamedTuple):
    """Unit roundoff and smallest normal number."""

    unit: float
    smallest: float


FORMATS = {"float64": Format(2.0**-53, 2.0**-1022), "float32": Format(2.0**-24, 2.0**-126)}

_EXACT = ("input", "relu", "max_pool", "maximum", "concatenate", "slice", "pad", "dilate", "reshape", "transpose")
_AFTER = ("add", "multiply", "leaky_relu", "prelu", "clip", "hard_swish")
_ROUNDINGS = 6
"""Most roundings of an operation on few numbers, those of its constants among them."""


class Evaluated(NamedTuple):
    """The networks, their layers by position in the graph."""

    folded: Folded
    layers: dict[int, PairLayer]


def evaluated(folded: Folded, layers: Mapping[int, PairLayer], format: Format) -> Evaluated | None:
    """The networks with all that evaluating them in a format rounds; None where that is not known.

    It is for sums, of up to `1 / (2 u)` terms, and products; exponentials are left to libraries. A target with weights
    below the smallest normal number is left out too: they may be flushed.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph.
        format: Of weights and activations, both networks' inputs among them.
    """
    build = _Builder(format)
    where: list[int] = []
    found: dict[int, PairLayer] = {}
    for position, node in enumerate(folded.graph.nodes):
        inputs = tuple(where[i] for i in node.inputs)
        if position in layers:
            if _flushes(layers[position], format) or 2 * layers[position].target.centre.shape[1] > _most(format):
                return None
            where.append(build.add(dataclasses.replace(node, inputs=inputs)))
            found[where[-1]] = _layer(layers[position], format)
        elif node.op in _EXACT:
            where.append(build.add(dataclasses.replace(node, inputs=inputs)))
        elif node.op in _AFTER:
            place = build.add(dataclasses.replace(node, inputs=inputs))
            where.append(build.rounded(place, _ROUNDINGS))
        elif node.op in ("average_pool", "mean", "resample"):
            if node.op == "resample" and _has_small(node.arrays["matrix"], format):
                return None
            if _terms(node, build.nodes[inputs[0]].shape) > _most(format):
                return None
            where.append(build.around(node, inputs[0], _terms(node, build.nodes[inputs[0]].shape) + 4))
        elif node.op == "affine":
            shift = node.arrays.get("shift", np.zeros(()))
            where.append(build.around(node, inputs[0], _ROUNDINGS, np.abs(shift) * gamma(_ROUNDINGS, format)))
        elif node.op == "hard_sigmoid":
            off = (abs(node.fields["offset"]) + 1.0) * gamma(_ROUNDINGS, format)
            where.append(build.around(node, inputs[0], _ROUNDINGS, np.array(off)))
        else:
            return None
    outputs = tuple(where[i] for i in folded.graph.outputs)
    return Evaluated(dataclasses.replace(folded, graph=Graph(tuple(build.nodes), outputs)), found)


def rounded_inputs(lower: np.ndarray, upper: np.ndarray, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a region moved to hold what its inputs are rounded to, zero where they are subnormal."""
    off, least = 2 * format.unit, format.smallest
    lower = np.where(np.abs(lower) < least, np.where(lower < 0, -least, 0.0), lower)
    upper = np.where(np.abs(upper) < least, np.where(upper > 0, least, 0.0), upper)
    return lower - off * np.abs(lower), upper + off * np.abs(upper)


def gamma(roundings: int, format: Format) -> float:
    """`n u / (1 - n u)`, rounded up, for n u well below 1."""
    share = roundings * format.unit
    return share / (1 - share) * (1 + 2.0**-45)


def _most(format: Format) -> float:
    return 0.5 / format.unit


def moved_by(x: Interval, d: Interval | None, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """How far a `rounded` operation moves x and d at most."""
    relative, absolute = node.fields["relative"], node.arrays["absolute"]
    own = np.maximum(np.abs(x.lower), np.abs(x.upper))
    other = own if d is None else up(own + np.maximum(np.abs(d.lower), np.abs(d.upper)))
    off_x, off_z = (up(up(size * relative) + absolute) for size in (own, other))
    return off_x, up(off_x + off_z)


def rounded(x: Interval, d: Interval | None, node: Node) -> tuple[Interval, Interval]:
    """Enclosures of x and d behind a `rounded` operation."""
    off_x, off_d = moved_by(x, d, node)
    low, high = (0.0, 0.0) if d is None else d
    return Interval(down(x.lower - off_x), up(x.upper + off_x)), Interval(down(low - off_d), up(high + off_d))


class _Builder:
    """Operations so far."""

    def __init__(self, format: Format) -> None:
        self.nodes: list[Node] = []
        self.format = format

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def rounded(self, operand: int, roundings: int, absolute: np.ndarray | float = 0.0) -> int:
        """Every element of the operand, known up to `roundings` of it and up to `absolute`."""
        fields = {"relative": gamma(roundings, self.format)}
        arrays = {"absolute": up(np.asarray(absolute, np.float64) + 4 * self.format.smallest)}
        return self.add(Node("rounded", (operand,), fields, arrays, self.nodes[operand].shape))

    def around(self, node: Node, operand: int, roundings: int, absolute: np.ndarray | float = 0.0) -> int:
        """An operation that adds up: relative to what goes in, not to what comes out."""
        before = self.rounded(operand, roundings)
        return self.rounded(self.add(dataclasses.replace(node, inputs=(before,))), 0, absolute)


def _layer(pair: PairLayer, format: Format) -> PairLayer:
    """Weights of both networks known up to a share of them, and a bias in each for what is flushed."""
    terms = pair.target.centre.shape[1]
    both = terms if pair.error_negative is None else 2 * terms
    share, flushed = gamma(both + _ROUNDINGS, format), 2 * (both + _ROUNDINGS) * format.smallest

    def error(matrix: Matrix | None) -> Matrix | None:
        # |K| <= |W| + |E|, and W's own share stands in E = K - W as well.
        return matrix and _wider(matrix, share * (2 * pair.target.magnitude + matrix.magnitude) + format.smallest)

    features = pair.target.centre.shape[0] * pair.target.centre.shape[2]
    zero = np.zeros(features), np.zeros(features)
    bias, bias_error = pair.bias or zero, pair.bias_error or zero
    size, moved = (np.abs(centre) + radius for centre, radius in (bias, bias_error))
    positive = error(pair.error_positive)
    assert positive is not None
    return dataclasses.replace(
        pair,
        target=_wider(pair.target, share * pair.target.magnitude),
        error_positive=positive,
        error_negative=error(pair.error_negative),
        bias=_known(bias, share * size + flushed),
        bias_error=_known(bias_error, share * (2 * size + moved) + 2 * flushed),
    )


def _wider(matrix: Matrix, radius: np.ndarray) -> Matrix:
    radius = up(up(radius))
    return Matrix(matrix.centre, up(matrix.noise + radius), up(matrix.magnitude + radius))


def _known(ball: Ball, radius: np.ndarray) -> Ball:
    return ball[0], up(ball[1] + up(up(up(radius))))


def _flushes(pair: PairLayer, format: Format) -> bool:
    arrays = [pair.target.centre] if pair.bias is None else [pair.target.centre, pair.bias[0]]
    return any(_has_small(array, format) for array in arrays)


def _has_small(array: np.ndarray, format: Format) -> bool:
    return bool(np.any((array != 0) & (np.abs(array) < format.smallest)))


def _terms(node: Node, shape: tuple[int, ...]) -> int:
    if node.op == "mean":
        return math.prod(shape[axis] for axis in node.fields["axes"])
    if node.op == "resample":
        return node.arrays["matrix"].shape[1]
    return math.prod(node.fields["window"])
