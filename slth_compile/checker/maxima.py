"""The maximum of three or four elements between planes, from enclosures of the differences of every two of them.

Any weights `w_j >= 0` of sum one give `sum_j w_j x_j <= max x`. Where element i is largest, `max x` is
`sum_j w_j x_j + sum_j w_j (x_i - x_j)`, so a plane above needs the largest value that the last sum can have, over all i
that can be largest. The change from `max x` to `max (x + d)` is at most d at the place of the new maximum and at least
d at that of the old one: the same argument puts it between planes over d.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, gamma, up
from slth_compile.checker.operations import State, shifted

_ALIKE = 2.0**-20  # of the largest difference: keeps the shares of equal elements apart from 0 / 0
_CLEAR = 2.0**-30  # of the largest element: a lead that no rounding makes up for, here or elsewhere
_TURN = 16.0  # how fast the plane below turns from one element to another

Pairs = Mapping[tuple[int, int], State]
"""Enclosures of `x_i - x_j` and of `d_i - d_j` for all i < j; first axis one region."""


class Weighted(NamedTuple):
    """`sum_j below_j v_j + under <= function <= sum_j above_j v_j + over`; weights have an axis of elements first."""

    above: np.ndarray
    over: np.ndarray
    below: np.ndarray
    under: np.ndarray


def planes_of_maximum(
    operands: list[State], pairs: Pairs, before_relu: State | None = None
) -> tuple[Weighted, Weighted | None]:
    """Planes over x around the maximum, and over d around its change, None where nothing changes.

    Args:
        operands: Enclosures of the elements, first axis one region.
        pairs: Of their differences.
        before_relu: None, or enclosures of the maximum, for planes around what a relu makes of it: the maximum of its
            elements and of zero, whose differences are in `pairs` as if it were behind the others.
    """
    if before_relu is not None:
        none = np.zeros_like(before_relu.x.lower)
        zero = Interval(none, none)
        operands = [*operands, State(zero, None if before_relu.d is None else zero)]
    count = len(operands)
    x = _exceeding(count, {place: state.x for place, state in pairs.items()})
    largest = _largest([state.x for state in operands])
    lead = _CLEAR * largest
    old = _bent_off(_can_win(x, lead), None if before_relu is None else before_relu.x)
    loose = _slack(largest, count)
    shares = _shares(x)
    above = _normal(shares, old)
    below = _normal({place: np.clip(_TURN * (own - 0.5) + 0.5, 0, 1) for place, own in shares.items()}, old)
    of_x = Weighted(np.stack(above), up(_gap(x, above, old) + loose), np.stack(below), -loose)
    changes = {place: state.d for place, state in pairs.items() if state.d is not None}
    if len(changes) < len(pairs):
        return of_x, None
    d = _exceeding(count, changes)
    new = _can_win({place: up(own + d[place]) for place, own in x.items()}, lead)
    if before_relu is not None and before_relu.d is not None:
        new = _bent_off(new, shifted(before_relu.x, before_relu.d))
    back = {(i, j): d[j, i] for i, j in d}
    loose = _slack(_largest([state.d for state in operands if state.d is not None]), count)
    above, below = _normal(_shares(d), new), _normal(_shares(back), old)
    over, under = up(_gap(d, above, new) + loose), up(_gap(back, below, old) + loose)
    return of_x, Weighted(np.stack(above), over, np.stack(below), -under)


Excess = dict[tuple[int, int], np.ndarray]
"""By (i, j), upper bounds of `v_i - v_j`, for all i and j apart."""


def _exceeding(count: int, pairs: Mapping[tuple[int, int], Interval]) -> Excess:
    found: Excess = {}
    for i in range(count):
        for j in range(i + 1, count):
            found[i, j], found[j, i] = pairs[i, j].upper[0], -pairs[i, j].lower[0]
    return found


def _count(excess: Excess) -> int:
    return 1 + max(i for i, _ in excess)


def _can_win(excess: Excess, lead: np.ndarray) -> list[np.ndarray]:
    """For every element whether none of the others is above it everywhere, and by more than so much."""
    n = _count(excess)
    return [np.logical_and.reduce([excess[i, j] >= -lead for j in range(n) if j != i]) for i in range(n)]


def _bent_off(can_win: list[np.ndarray], top: Interval | None) -> list[np.ndarray]:
    """Zero, the last, never wins above zero, and no other element does below."""
    if top is None:
        return can_win
    low, high = top.lower[0], top.upper[0]
    *others, zero = can_win
    return [*(own & (high > 0) for own in others), zero & ((low < 0) | (high <= 0))]


def _shares(excess: Excess) -> Excess:
    """Which part of the range of `v_i - v_j` is positive."""
    positive = {place: np.maximum(own, 0) for place, own in excess.items()}
    least = np.maximum.reduce(list(positive.values())) * _ALIKE + TINY
    return {(i, j): (own + least) / (own + positive[j, i] + 2 * least) for (i, j), own in positive.items()}


def _normal(shares: Excess, can_win: list[np.ndarray]) -> list[np.ndarray]:
    """Each element's shares with all others that can win, multiplied, of their sum."""
    n = _count(shares)
    found = []
    for i in range(n):
        own = np.where(can_win[i], 1.0, 0.0)
        for j in range(n):
            if j != i:
                own = own * np.where(can_win[j], shares[i, j], 1.0)
        found.append(own)
    total = np.maximum(sum(found[1:], found[0]), TINY)
    found = [own / total for own in found]
    rest = 1 - sum(found[1:], found[0])
    return [np.maximum(found[0] + rest, 0), *found[1:]]


def _gap(excess: Excess, weights: list[np.ndarray], can_win: list[np.ndarray]) -> np.ndarray:
    """`max_i sum_j w_j (v_i - v_j)` over the i that can win, rounded up."""
    n = _count(excess)
    highest = np.full(weights[0].shape, -np.inf)
    for i in range(n):
        value = np.zeros_like(highest)
        for j in range(n):
            if j != i:
                value = up(value + up(weights[j] * excess[i, j]))
        highest = np.where(can_win[i], np.maximum(highest, value), highest)
    return highest


def _largest(elements: list[Interval]) -> np.ndarray:
    return np.maximum.reduce([np.maximum(-v.lower[0], v.upper[0]) for v in elements])


def _slack(largest: np.ndarray, count: int) -> np.ndarray:
    """Weights are off a sum of one by a few roundings, worth that much of the largest element."""
    return up(largest * gamma(4 * count) + TINY)
