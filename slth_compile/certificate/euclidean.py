"""Euclidean bounds on a pair (target activation x, difference d) over regions, one step a node.

With c the target's activations at a point of the region, every node carries `|x|`, `|x - c|` and `|d|`, Euclidean norms
over all of its elements. A weighted layer of errors `E_p`, `E_n` for positive and negative `z = x + d` gives

    d_out = W d + E_p max(z, 0) + E_n min(z, 0) + e_b,

and as `|(max(z, 0), min(z, 0))| = |z|` and no part of z - c moves further than z - c, this is at most

    |W| |d| + min(|[E_p, E_n]| |z| + |e_b|, s + |[E_p, E_n]| (|x - c| + |d|)),
    s = |E_p max(c, 0) + E_n min(c, 0) + e_b|.

Where E_p and E_n lie within R of one E, or E_n is absent because the layer is one-signed, it is also at most

    (|W + E| + |R|) |d| + min((|E| + |R|) |x| + |e_b|, s + (|E| + |R|) |x - c|),

since what R does to z is no longer than `|R| (|x| + |d|)`. For one output element the norm of its row takes the place
of the matrix's.

A step is no worse than what is known elementwise once it is cut with `within`. On the host, rounded outward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.derivatives import steepest
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.rounding import UNIT_ROUNDOFF, up
from slth_compile.certificate.spectral import axes_of, matrix_sums, norms_of, operator_norm, row_norms
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts


class Euclidean(NamedTuple):
    """What is known of a node, each of shape `(regions,)`: bounds on `|x|`, on `|x - c|` and on `|d|`."""

    norm: np.ndarray
    spread: np.ndarray
    difference: np.ndarray


class Gains(NamedTuple):
    """Norms of a layer's maps, scalars for the whole layer or of shape `(S,)` for one output element of each channel.

    Attributes:
        target: Of W.
        changed: Of W + E, and R; infinite where E_p and E_n have centres of their own, as is the next.
        error: Of E, and R.
        paired: Of `[E_p, E_n]`, which is E in a one-signed layer; infinite where the two share their centre.
        bias: Of b over all outputs.
        bias_error: Of e_b over all outputs.
    """

    target: np.ndarray
    changed: np.ndarray
    error: np.ndarray
    paired: np.ndarray
    bias: np.ndarray
    bias_error: np.ndarray


class LayerNorms(NamedTuple):
    """The norms of a layer as a whole, and of its rows."""

    whole: Gains
    rows: Gains


def layer_norms(node: n.Weighted, shape: tuple[int, ...], output: tuple[int, ...], errors: LayerErrors) -> LayerNorms:
    """The norms of a weighted layer in target and ticket.

    Args:
        node: The folded layer.
        shape: Of its input.
        output: Of its output.
        errors: Of the ticket's weights.
    """
    kernel = np.asarray(node.kernel, np.float64)
    folding = up(np.abs(kernel) * node.kernel_error) if node.kernel_error else np.zeros(())
    positive = _error(errors.positive_center, errors.positive_radius, kernel)
    negative = (
        None if errors.negative_radius is None else _error(errors.negative_center, errors.negative_radius, kernel)
    )

    def both(center: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array(operator_norm(node, shape, center, radius)), row_norms(center, radius)

    unknown = np.array(math.inf), np.full(kernel.shape[-1], math.inf)
    changed = error = paired = unknown
    if negative is None or np.array_equal(positive[0], negative[0]):
        radius = positive[1] if negative is None else np.maximum(positive[1], negative[1])
        moved = kernel + positive[0]
        changed = both(moved, up(up(folding + radius) + np.abs(moved) * (2 * UNIT_ROUNDOFF)))
        error = both(positive[0], radius)
        paired = error if negative is None else unknown
    else:
        paired = _paired(node, shape, positive, negative)
    places = math.prod(output[:-1])
    bias = _offsets(node.bias, node.bias_error, kernel.shape[-1])
    bias_error = _offsets(errors.bias_center, errors.bias_radius, kernel.shape[-1])
    whole, rows = zip(both(kernel, folding), changed, error, paired, strict=True)
    return LayerNorms(
        Gains._make((*whole, _repeated(bias, places), _repeated(bias_error, places))),
        Gains._make((*rows, bias, bias_error)),
    )


def entered(lower: np.ndarray, upper: np.ndarray, centre: np.ndarray) -> Euclidean:
    """What is known of the input: regions and a point of each, `(regions, *shape)`."""
    zero = np.zeros(len(lower))
    start = Euclidean(zero + math.inf, zero + math.inf, zero)
    return within(start, x=(lower, upper), centre=(centre, centre))


def within(
    state: Euclidean,
    *,
    x: tuple[np.ndarray, np.ndarray] | None = None,
    d: tuple[np.ndarray, np.ndarray] | None = None,
    centre: tuple[np.ndarray, np.ndarray] | None = None,
) -> Euclidean:
    """The state, cut with elementwise enclosures `(lower, upper)`, `(regions, *shape)`; infinities say nothing.

    Args:
        state: What the steps gave.
        x: Of the target's activations.
        d: Of the difference.
        centre: Of the activations at c; read with `x`.
    """
    norm, spread, difference = state
    if x is not None:
        norm = np.minimum(norm, sizes(*x))
        if centre is not None:
            spread = np.minimum(spread, sizes(up(x[1] - centre[0]), up(centre[1] - x[0])))
            norm = np.minimum(norm, up(sizes(*centre) + spread))
    if d is not None:
        difference = np.minimum(difference, sizes(*d))
    return Euclidean(norm, spread, difference)


def sizes(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """At least the norm of every array between two, `(regions, *shape)` -> `(regions,)`."""
    with np.errstate(invalid="ignore"):
        return norms_of(np.maximum(np.abs(lower), np.abs(upper)).reshape(len(lower), -1))


def weighted_step(
    norms: LayerNorms, state: Euclidean, *, ticket: np.ndarray | None = None, injected: np.ndarray | None = None
) -> Euclidean:
    """What a weighted layer makes of a state.

    Args:
        norms: Of the layer.
        state: Of its input.
        ticket: Bounds on `|z|` of the ticket's input, `(regions,)`, where better than `|x| + |d|` is known.
        injected: Bounds on `s`, the norm of what the errors alone put out at c, `(regions,)`.
    """
    return _image(norms.whole, state, ticket, injected)


def element_bounds(norms: LayerNorms, state: Euclidean, *, ticket: np.ndarray | None = None) -> Euclidean:
    """Bounds on `|x_i|`, `|x_i - c_i|` and `|d_i|` of every output element of a channel, each `(regions, S)`.

    Args:
        norms: Of the layer.
        state: Of its input.
        ticket: As for `weighted_step`.
    """
    return _image(
        norms.rows, Euclidean(*(v[:, None] for v in state)), None if ticket is None else ticket[:, None], None
    )


def moved_elements(norms: LayerNorms, state: Euclidean) -> np.ndarray:
    """Bounds on how far `d_i` of an output element can be from what the errors alone put out at c, `(regions, S)`.

    Args:
        norms: Of the layer.
        state: Of its input.
    """
    state = Euclidean(*(v[:, None] for v in state._replace(norm=np.full_like(state.norm, math.inf))))
    return _image(norms.rows, state, None, np.zeros(())).difference


def unweighted_step(node: n.Node, shapes: Sequence[tuple[int, ...]], states: Sequence[Euclidean]) -> Euclidean:
    """What a node without weights makes of the states of its operands.

    Every such map but affine and softmax keeps or averages elements: `|h(x + d) - h(x)| <= factor * |d|`, and
    `|h(x)| <= factor * |x|` as h(0) = 0.

    Args:
        node: The node.
        shapes: Of its operands.
        states: Of its operands.
    """
    state, shape = states[0], shapes[0]
    match node:
        case n.Add():
            return Euclidean(*(up(a + b) for a, b in zip(*states, strict=True)))
        case n.LayerNorm():
            # |y| <= sqrt(n) a position. Behind vectors of lengths s, s' unit vectors are at most |v - v'| / sqrt(s s')
            # apart, and s^2 >= epsilon.
            most = up(np.sqrt(np.float64(math.prod(shape))))
            factor = float(up(1.0 / (np.sqrt(np.float64(node.epsilon)) * (1 - 8 * UNIT_ROUNDOFF))))
            _, spread, difference = _times(state, factor)
            twice = 2 * most
            return Euclidean(np.full_like(spread, most), np.minimum(spread, twice), np.minimum(difference, twice))
        case n.Multiply() | n.MatrixProduct():
            # No element exceeds the norm: |a db + (b + db) da| <= |a| |db| + (|b| + |db|) |da|, broadcast or not;
            # of matrices likewise.
            (a, apart, da), (b, other, db) = states
            return Euclidean(
                _product(a, b),
                _plus(_product(a, other), _product(b, apart)),
                _plus(_product(a, db), _product(up(b + db), da)),
            )
        case n.Prelu() | n.Clip() | n.Sigmoid() | n.Tanh() | n.HardSigmoid() | n.HardSwish() | n.Silu() | n.Gelu():
            norm, spread, difference = _times(state, steepest(node))
            zero = abs(_at_zero(node)) * up(np.sqrt(np.float64(math.prod(shape))))
            return Euclidean(up(norm + up(zero)), spread, difference)
        case n.Concatenate():
            return Euclidean(*(norms_of(np.stack(parts, 1)) for parts in zip(*states, strict=True)))
        case n.Affine():
            scale = 1.0 if node.scale is None else float(np.abs(np.asarray(node.scale, np.float64)).max())
            norm, spread, difference = _times(state, scale)
            if node.shift is not None:
                shift = np.broadcast_to(np.asarray(node.shift, np.float64), shape)
                norm = up(norm + norms_of(shift.reshape(1, -1)))
            return Euclidean(norm, spread, difference)
        case n.Softmax():
            # The Jacobian diag(p) - p p^T has row sums of magnitudes 2 p (1 - p) <= 1/2, and |p - q|^2 <= 2.
            slices = math.prod(shape) // shape[node.axis]
            most, apart = (up(np.sqrt(np.float64(k * slices))) for k in (1, 2))
            _, spread, difference = _times(state, 0.5)
            return Euclidean(np.full_like(spread, most), np.minimum(spread, apart), np.minimum(difference, apart))
        case n.LogSoftmax():
            # The Jacobian 1 - 1 p^T is a projection, of the norm of its complement: sqrt(n) |p| <= sqrt(n).
            terms, size = shape[node.axis], math.prod(shape)
            norm, spread, difference = _times(state, up(np.sqrt(np.float64(terms))))
            at_zero = up(math.log(terms) * (1 + 2.0**-40) * up(np.sqrt(np.float64(size))))
            return Euclidean(up(norm + at_zero), spread, difference)
        case _:
            return _times(state, _factor(node, shape))


def _at_zero(node: n.Activation) -> float:
    """An activation's value at zero."""
    match node:
        case n.Sigmoid():
            return 0.5
        case n.HardSigmoid():
            return min(max(node.offset, 0.0), 1.0)
        case n.Clip():
            above = 0.0 if node.low is None else max(0.0, node.low)
            return above if node.high is None else min(above, node.high)
        case _:
            return 0.0


def _factor(node: n.Node, shape: tuple[int, ...]) -> float:
    """How much further apart two operands of a node may be after it."""
    match node:
        case n.MaxPool() | n.AveragePool():
            axes = axes_of(node, shape)
            if any(axis is None for axis in axes):
                return 0.0
            factor = float(math.prod(axis.overlap for axis in axes if axis is not None))
            if isinstance(node, n.AveragePool):
                factor = up(factor / float(pool_counts(node, shape).min()))
        case n.Mean():
            factor = up(1.0 / math.prod(shape[a] for a in node.axes))
        case n.Resample():
            # |M|^2 <= |M|_1 |M|_inf
            rows, columns = matrix_sums(node.matrix)
            factor = float(up(rows * columns))
        case n.Relu() | n.LeakyRelu() | n.Maximum() | n.Slice() | n.Pad() | n.Dilate() | n.Reshape() | n.Transpose():
            return 1.0
        case _:
            raise TypeError(f"no Euclidean bound for {type(node).__name__}")
    return 1.0 if factor == 1.0 else float(up(np.sqrt(factor)))


def _image(gains: Gains, state: Euclidean, ticket: np.ndarray | None, injected: np.ndarray | None) -> Euclidean:
    norm, spread, difference = state
    z = up(norm + difference)
    z = z if ticket is None else np.minimum(z, ticket)
    apart = up(spread + difference)
    second = [_plus(_product(gains.error, norm), gains.bias_error)]
    first = [_plus(_product(gains.paired, z), gains.bias_error)]
    if injected is not None:
        second.append(_plus(injected, _product(gains.error, spread)))
        first.append(_plus(injected, _product(gains.paired, apart)))
    return Euclidean(
        _plus(_product(gains.target, norm), gains.bias),
        _product(gains.target, spread),
        np.minimum(
            _plus(_product(gains.target, difference), np.minimum.reduce(first)),
            _plus(_product(gains.changed, difference), np.minimum.reduce(second)),
        ),
    )


def _product(gain: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`gain * size`; zero times infinity, of which nothing is known, is infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = up(gain * size)
    return np.where((gain == 0) & np.isfinite(size), 0.0, np.where(np.isnan(found), np.inf, found))


def _plus(*parts: np.ndarray) -> np.ndarray:
    total = parts[0]
    for part in parts[1:]:
        total = up(total + part)
    return total


def _times(state: Euclidean, factor: float) -> Euclidean:
    return state if factor == 1.0 else Euclidean(*(_product(np.asarray(factor), v) for v in state))


def _error(center: np.ndarray | None, radius: np.ndarray | float, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radius, of the kernel's shape."""
    center = np.zeros(kernel.shape) if center is None else np.asarray(center, np.float64)
    return center, np.broadcast_to(np.asarray(radius, np.float64), kernel.shape)


def _paired(
    node: n.Weighted, shape: tuple[int, ...], *errors: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Norms of `[E_p, E_n]`: a layer of twice the input channels, both halves of each group side by side."""
    center, radius = (np.concatenate(parts, -2) for parts in zip(*errors, strict=True))
    doubled = (*shape[:-1], 2 * shape[-1])
    return np.array(operator_norm(node, doubled, center, radius)), row_norms(center, radius)


def _offsets(center: np.ndarray | None, radius: np.ndarray | float | None, features: int) -> np.ndarray:
    """Bounds on the magnitudes of a bias, `(S,)`."""
    size = np.zeros(features) if center is None else np.abs(np.broadcast_to(np.asarray(center, np.float64), features))
    return size if radius is None else up(size + radius)


def _repeated(offsets: np.ndarray, places: int) -> np.ndarray:
    """The norm of a bias at all places."""
    return up(norms_of(offsets.reshape(1, -1))[0] * up(np.sqrt(np.float64(places))))
