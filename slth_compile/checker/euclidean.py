"""Euclidean norms of a pair (x, d) over regions, one step a node.

A state bounds `|x|`, `|x - c|` and `|d|` over all elements of a node, c being the target's value at one point of the
region. With z = x + d, a weighted layer's difference is

    W d + [E_p, E_n] (max(z, 0), min(z, 0)) + e_b

and the pair of parts is as long as z. Where both errors are within R of one E it is, up to `R |z|`,

    (W + E) d + E x + e_b

whose norms, `|R|` added to those of W + E and of E, make up for it: `|z| <= |x| + |d|`. The part that is there without
d and x - c is `s = |E_p max(c, 0) + E_n min(c, 0) + e_b|`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import UNIT, Interval, gamma, up
from slth_compile.checker.graph import Node
from slth_compile.checker.matrices import Matrix, PairLayer
from slth_compile.checker.pooling import window_counts
from slth_compile.checker.spectral import layer_norm, most_reads, row_norms, vector_norms
from slth_compile.errors import VerificationError


class Lengths(NamedTuple):
    """Bounds on `|x|`, `|x - c|` and `|d|`, each of shape `(n,)`."""

    x: np.ndarray
    apart: np.ndarray
    d: np.ndarray


class Norms(NamedTuple):
    """Norms of a layer's maps: scalars of shape `()` for the layer, or `(S,)` for the rows of its output channels.

    Attributes:
        target: Of W.
        ticket: Of W + E, and R; infinite, like `error`, where E_p and E_n have centres of their own.
        error: Of E, and R.
        both: Of `[E_p, E_n]`, or of E_p where there is no E_n; infinite where the two share their centre.
        bias: Of b at all places.
        bias_error: Of e_b at all places.
    """

    target: np.ndarray
    ticket: np.ndarray
    error: np.ndarray
    both: np.ndarray
    bias: np.ndarray
    bias_error: np.ndarray


def norms_of(pair: PairLayer, shape: tuple[int, ...], places: int) -> tuple[Norms, Norms]:
    """The norms of a layer, and those of its rows.

    Args:
        pair: The layer in both networks.
        shape: Of its input.
        places: How many positions its output has.
    """
    features = pair.target.centre.shape[0] * pair.target.centre.shape[2]
    nothing = np.array(math.inf), np.full(features, math.inf)

    def map_norms(centre: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array(layer_norm(pair.layer, shape, centre, radius)), row_norms(centre, radius)

    w, positive, negative = pair.target, pair.error_positive, pair.error_negative
    ticket = error = both = nothing
    if negative is not None and not np.array_equal(positive.centre, negative.centre):
        stacked = _beside(positive, negative, math.prod(pair.layer.taps))
        both = map_norms(*stacked)
    else:
        radius = _radius(positive) if negative is None else np.maximum(_radius(positive), _radius(negative))
        centre = w.centre + positive.centre
        ticket = map_norms(centre, up(up(_radius(w) + radius) + np.abs(centre) * (2 * UNIT)))
        error = map_norms(positive.centre, radius)
        both = error if negative is None else nothing
    whole, rows = zip(map_norms(w.centre, _radius(w)), ticket, error, both, strict=True)
    offsets = [np.zeros(features) if b is None else up(np.abs(b[0]) + b[1]) for b in (pair.bias, pair.bias_error)]
    everywhere = [up(vector_norms(b[None])[0] * up(np.sqrt(np.array(float(places))))) for b in offsets]
    return Norms._make((*whole, *everywhere)), Norms._make((*rows, *offsets))


def cut(lengths: Lengths, x: Interval | None, d: Interval | None, centre: Interval | None) -> Lengths:
    """The lengths, none more than enclosures of the elements say; `centre` encloses c and is read together with `x`."""
    length, apart, difference = lengths
    if x is not None:
        length = np.minimum(length, longest(x))
        if centre is not None:
            apart = np.minimum(apart, longest(Interval(up(centre.upper - x.lower), up(x.upper - centre.lower))))
            length = np.minimum(length, up(longest(centre) + apart))
    if d is not None:
        difference = np.minimum(difference, longest(d))
    return Lengths(length, apart, difference)


def longest(values: Interval) -> np.ndarray:
    """At least the norm of everything in an enclosure of shape `(n, ...)`, sample by sample."""
    reach = np.maximum(np.abs(values.lower), np.abs(values.upper))
    return vector_norms(reach.reshape(len(reach), -1))


def weighted(norms: Norms, lengths: Lengths, z: np.ndarray | None = None, s: np.ndarray | None = None) -> Lengths:
    """Lengths behind a weighted layer, or bounds on single elements if `norms` are those of rows.

    Args:
        norms: Of the layer.
        lengths: Of its input, of shape `(n,)`; `(n, 1)` with the norms of rows.
        z: Bounds on `|z|`, where better ones than `|x| + |d|` are known.
        s: Bounds on the error at c, see above; None where it is not known.
    """
    x, apart, d = lengths
    sum_of = up(x + d)
    z = sum_of if z is None else np.minimum(sum_of, z)
    moved = up(apart + d)
    joint = up(_times(norms.both, z) + norms.bias_error)
    shared = up(_times(norms.error, x) + norms.bias_error)
    if s is not None:
        joint = np.minimum(joint, up(s + _times(norms.both, moved)))
        shared = np.minimum(shared, up(s + _times(norms.error, apart)))
    first, second = up(_times(norms.target, d) + joint), up(_times(norms.ticket, d) + shared)
    return Lengths(up(_times(norms.target, x) + norms.bias), _times(norms.target, apart), np.minimum(first, second))


def unweighted(node: Node, shapes: Sequence[tuple[int, ...]], lengths: Sequence[Lengths]) -> Lengths:
    """Lengths behind an operation without weights, from the shapes and lengths of its operands."""
    shape, one, fields = shapes[0], lengths[0], node.fields
    match node.op:
        case "add":
            return Lengths(*(up(a + b) for a, b in zip(*lengths, strict=True)))
        case "layer_norm":
            # Vectors of length one behind vectors of lengths l and l' are no further apart than those over sqrt(l l');
            # no length is below sqrt(epsilon), none of the first over sqrt(features).
            length = up(np.sqrt(np.array(float(math.prod(shape)))))
            stretch = up(1.0 / (np.sqrt(np.array(fields["epsilon"])) * (1 - 2.0**-50)))
            apart, d = (np.minimum(_times(stretch, v), 2 * length) for v in (one.apart, one.d))
            return Lengths(np.full(one.x.shape, length), apart, d)
        case "multiply" | "matrix_product":
            # |a db + zb da| <= |a| |db| + (|b| + |db|) |da|, as no element is longer than all of them together,
            # and no product of matrices longer than the product of their lengths
            a, b = lengths
            apart = up(_times(a.x, b.apart) + _times(b.x, a.apart))
            return Lengths(_times(a.x, b.x), apart, up(_times(a.x, b.d) + _times(up(b.x + b.d), a.d)))
        case op if op in _STEEPEST:
            slope = np.array(_steepest(node))
            moved = Lengths(*(_times(slope, v) for v in one))
            root = up(np.sqrt(np.array(float(math.prod(shape)))))
            return moved._replace(x=up(moved.x + up(np.abs(_at_zero(node)) * root)))
        case "concatenate":
            return Lengths(*(vector_norms(np.stack(parts, axis=1)) for parts in zip(*lengths, strict=True)))
        case "affine":
            scale, shift = node.arrays.get("scale"), node.arrays.get("shift")
            if scale is not None:
                one = Lengths(*(_times(np.abs(scale).max(), v) for v in one))
            if shift is not None:
                one = one._replace(x=up(one.x + vector_norms(np.broadcast_to(shift, shape).reshape(1, -1))))
            return one
        case "softmax":
            # Its derivative diag(p) - p p^T has a norm of at most 1/2; two distributions are at most sqrt(2) apart.
            count = float(math.prod(shape) // shape[fields["axis"]])
            length, most = (up(np.sqrt(np.array(k * count))) for k in (1, 2))
            apart, d = (np.minimum(_times(np.array(0.5), v), most) for v in (one.apart, one.d))
            return Lengths(np.full(one.x.shape, length), apart, d)
        case "log_softmax":
            # Its derivative 1 - 1 p^T projects along 1; such a projection is as long as 1 p^T, at most sqrt(n).
            n, size = shape[fields["axis"]], float(math.prod(shape))
            stretched = Lengths(*(_times(up(np.sqrt(np.array(float(n)))), v) for v in one))
            at_zero = up(np.array(math.log(n) * (1 + 2.0**-40)) * up(np.sqrt(np.array(size))))
            return stretched._replace(x=up(stretched.x + at_zero))
        case _:
            square = _squared_stretch(node, shape)
            return one if square == 1 else Lengths(*(_times(up(np.sqrt(square)), v) for v in one))


_STEEPEST = {
    "prelu": 1.0,
    "clip": 1.0,
    "sigmoid": 0.25,
    "tanh": 1.0,
    "hard_sigmoid": 0.0,
    "hard_swish": 1.5,
    "silu": 1.1,
    "gelu": 1.13,
}


def _steepest(node: Node) -> float:
    """No activation of these moves two numbers further apart than this many times."""
    slopes = node.arrays.get("slopes")
    own = abs(node.fields.get("slope", 0.0)) if slopes is None else float(np.abs(slopes).max())
    return max(_STEEPEST[node.op], own)


def _at_zero(node: Node) -> float:
    if node.op == "sigmoid":
        return 0.5
    if node.op == "hard_sigmoid":
        return min(max(node.fields["offset"], 0.0), 1.0)
    if node.op == "clip":
        return min(max(0.0, node.fields.get("low", 0.0)), node.fields.get("high", np.inf))
    return 0.0


def _squared_stretch(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    """The square of how many times longer than its operand the output of an operation can be."""
    fields = node.fields
    match node.op:
        case "relu" | "leaky_relu" | "maximum" | "slice" | "pad" | "dilate" | "reshape" | "transpose":
            return np.array(1.0)
        case "max_pool" | "average_pool":
            axes = zip(shape[:-1], fields["window"], fields["stride"], fields["padding"], strict=True)
            reads = np.array(float(math.prod(most_reads(*axis) for axis in axes)))
            # A mean of k elements has a square of at most 1/k of the sum of theirs.
            return reads if node.op == "max_pool" else up(reads / window_counts(fields, shape).min())
        case "resample":
            # The square of a matrix's norm is at most the product of its largest sums of a row and of a column.
            size = np.abs(node.arrays["matrix"])
            rows, columns = (up(size.sum(axis=axis).max() * (1 + gamma(size.shape[axis]))) for axis in (1, 0))
            return up(rows * columns)
        case "mean":
            return up(np.array(1.0 / math.prod(shape[axis] for axis in fields["axes"])))
    raise VerificationError("target", f"no Euclidean bound is known for the operation '{node.op}'")


def _times(factor: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Their product; 0 times a length of which nothing is known is not known."""
    with np.errstate(all="ignore"):
        found = up(factor * length)
    found = np.where(np.isnan(found), np.inf, found)
    return np.where((factor == 0) & np.isfinite(length), 0.0, found)


def _radius(matrix: Matrix) -> np.ndarray:
    """At least the radius, without the rounding of products, which norms are not made of."""
    return up(matrix.magnitude - np.abs(matrix.centre))


def _beside(positive: Matrix, negative: Matrix, taps: int) -> list[np.ndarray]:
    """Centre and radius of the layer that reads both parts of every channel: twice the channels at every tap."""
    groups, _, outputs = positive.centre.shape
    pairs = ((positive.centre, negative.centre), (_radius(positive), _radius(negative)))
    split = ([part.reshape(groups, taps, -1, outputs) for part in pair] for pair in pairs)
    return [np.concatenate(pair, axis=2).reshape(groups, -1, outputs) for pair in split]
