"""Planes around the maximum of a few elements, of weights that add up to one, from what encloses their differences.

With `u_ij >= x_i - x_j` on the region, `l_j >= 0` and `sum l_j = 1`, and where i is the largest,

    sum_j l_j x_j <= max x <= sum_j l_j x_j + c,    max x - sum_j l_j x_j = sum_j l_j (x_i - x_j) <= sum_j l_j u_ij,

so `c = max_i sum_j l_j u_ij` over the i that may be the largest. Between the two networks, with `z = x + d`,

    max z - max x <= d_i, i the largest of z,    max z - max x >= d_j, j the largest of x,

which planes over d bound in the same way, from bounds `v_ij >= d_i - d_j`. A tree of `relu(a - b) + b` pays for each of
its levels: a quarter more for four elements that are alike, and more where the maxima of two are not known as well as
the elements are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, up

_STEEPNESS = 16.0
# Of the largest difference: what the elements of a pair that are one and the same share.
_SHARED = 2.0**-20
# Of the largest element: so far below zero no difference of elements that are alike is rounded, by anybody.
_ALIKE = 2.0**-30


class Planes(NamedTuple):
    """`sum_j lower_j v_j + lower_intercept <= value <= sum_j upper_j v_j + upper_intercept`, elements first.

    Weights add up to one but for rounding, which the intercepts have room for.
    """

    upper: Any
    upper_intercept: Any
    lower: Any
    lower_intercept: Any


def planes_of(
    operands: Sequence[Pair], among: Mapping[tuple[int, int], Pair], top: Pair | None = None
) -> tuple[Planes, Planes | None]:
    """Planes around the maximum, and around what it moves by, which is None where nothing moves.

    Args:
        operands: Enclosures of what the maximum is taken of.
        among: Enclosures of the differences of all pairs, `walk.Walk.among`.
        top: Where a relu waits behind the maximum and the last operand is its zero, enclosures of the maximum of the
            others.
    """
    u = _matrix([pair.x for pair in among.values()], list(among), len(operands))
    size = np.max([_size(pair.x) for pair in operands], 0)
    old = _wins(u, size)
    if top is not None:
        old = _above_zero(old, top.x)
    value = value_planes(u, size, old)
    ds = [pair.d for pair in among.values() if pair.d is not None]
    if len(ds) < len(among):
        return value, None
    v = _matrix(ds, list(among), len(operands))
    moved = np.max([_size(pair.d) for pair in operands if pair.d is not None], 0)
    new = _wins(up(u + v), size)
    if top is not None and top.d is not None:
        new = _above_zero(new, e.added(top.x, top.d))
    return value, difference_planes(v, moved, old, new)


def with_zero(operands: Sequence[Pair]) -> list[Pair]:
    """The operands, and a zero behind them that does not move."""
    level = np.zeros_like(operands[0].x.lower)
    zero = e.Interval(level, level)
    return [*operands, Pair(zero, None if operands[0].d is None else zero)]


def _matrix(differences: Sequence[e.Interval], places: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """Upper bounds of all `v_i - v_j`, `(count, count, ...)`."""
    found = np.zeros((count, count, *differences[0].lower.shape))
    for (i, j), difference in zip(places, differences, strict=True):
        found[i, j], found[j, i] = difference.upper, -difference.lower
    return found


def _size(v: e.Interval) -> np.ndarray:
    return np.maximum(abs(v.lower), abs(v.upper))


def value_planes(u: np.ndarray, size: np.ndarray, wins: np.ndarray) -> Planes:
    """Planes around `max x`.

    Above, an element weighs as much as it may be above the others; below, the one that the others exceed by least.

    Args:
        u: Upper bounds of `x_i - x_j`, `(n, n, ...)`, zeros on the diagonal.
        size: Upper bounds of all `|x_i|`, shape `(...)`.
        wins: Which may be the largest, `(n, ...)`.
    """
    share = _shares(u)
    upper = _weights(share, wins)
    lower = _weights(np.clip(_STEEPNESS * (share - 0.5) + 0.5, 0.0, 1.0), wins)
    room = _room(size)
    return Planes(upper, up(_most(u, upper, wins) + room), lower, -room)


def difference_planes(v: np.ndarray, size: np.ndarray, old: np.ndarray, new: np.ndarray) -> Planes:
    """Planes over d around `max z - max x`.

    Args:
        v: Upper bounds of `d_i - d_j`, `(n, n, ...)`, zeros on the diagonal.
        size: Upper bounds of all `|d_i|`, shape `(...)`.
        old: Which may be the largest of x, `(n, ...)`.
        new: Which may be the largest of z.
    """
    turned = np.swapaxes(v, 0, 1)
    upper, lower = _weights(_shares(v), new), _weights(_shares(turned), old)
    room = _room(size)
    return Planes(upper, up(_most(v, upper, new) + room), lower, -up(_most(turned, lower, old) + room))


def _wins(u: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which elements may be the largest, `(n, ...)`: no other one is clearly above them."""
    return np.all(u >= -_ALIKE * size, axis=1)


def _above_zero(wins: np.ndarray, top: e.Interval) -> np.ndarray:
    """The same with what is known of the maximum of all but the last one, which is zero."""
    some, zero = wins[:-1] & (top.upper > 0), wins[-1] & ((top.lower < 0) | (top.upper <= 0))
    return np.concatenate([some, zero[None]])


def _shares(u: np.ndarray) -> np.ndarray:
    """How much of the range of `x_i - x_j` is above zero, `(n, n, ...)`; near a half where there is no range."""
    above = np.maximum(u, 0.0)
    least = _SHARED * above.max((0, 1)) + TINY
    return (above + least) / (above + np.swapaxes(above, 0, 1) + 2 * least)


def _weights(share: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """Products of an element's shares with the others that may win, scaled; what is left over goes to the first one."""
    count = len(share)
    each = [
        np.prod([np.where(wins[j], share[i, j], 1.0) for j in range(count) if j != i], 0) * wins[i]
        for i in range(count)
    ]
    weights = np.stack(each)
    weights = weights / np.maximum(weights.sum(0), TINY)
    weights[0] = np.maximum(weights[0] + (1.0 - weights.sum(0)), 0.0)
    return weights


def _most(u: np.ndarray, weights: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """At least `sum_j weights_j u_ij` for every i that may win."""
    products = weights * u
    sums = products.sum(1) + abs(products).sum(1) * (16 * UNIT_ROUNDOFF) + 16 * TINY
    return np.where(wins, up(sums), -np.inf).max(0)


def _room(size: np.ndarray) -> np.ndarray:
    """What weights that do not add up to one by their rounding are worth."""
    return up(size * (32 * UNIT_ROUNDOFF) + TINY)
