"""Softmax of a pair (x, d): shares, and an exact expression of their change.

    p_i = e_i / (e_i + the others' e_j),     e_j = exp(x_j - c),  c any number
    p'_i - p_i = p_i ((1 - p_i) h_i - the others' p_j h_j) / (1 + sum p_j h_j),     h_j = exp(d_j) - 1

The second holds for any d and is used where no `|d_j|` exceeds 1/2. The change is also at most `tanh(D/2) <= D/2` with
D half of the range of d along the axis, since softmax ignores common shifts, and it is a difference of two shares.
"""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, down, gamma, up
from slth_compile.checker.elementary import SMALL, exponential, exponential_less_one

_SLACK = 8 * UNIT


def softmax(x: Interval, axis: int) -> Interval:
    """All shares along the axis."""
    return _shares(x, axis)[0]


def softmax_change(x: Interval, d: Interval, axis: int) -> Interval:
    """All changes of the shares: what three bounds have in common."""
    p, rest = _shares(x, axis)
    ticket, _ = _shares(Interval(down(x.lower + d.lower), up(x.upper + d.upper)), axis)
    spread = up(d.upper.max(axis=axis, keepdims=True) - d.lower.min(axis=axis, keepdims=True))
    most = np.minimum(1.0, spread * 0.25 + TINY)
    found = _exact_change(p, rest, d, axis)
    near = np.maximum(np.abs(d.lower), np.abs(d.upper)).max(axis=axis, keepdims=True) <= SMALL
    lower = np.fmax(np.where(near, found.lower, -np.inf), -most)
    upper = np.fmin(np.where(near, found.upper, np.inf), most)
    return Interval(
        np.fmax(lower, down(ticket.lower - p.upper)),
        np.fmin(upper, up(ticket.upper - p.lower)),
    )


def _shares(x: Interval, axis: int) -> tuple[Interval, Interval]:
    """`p` and `1 - p`."""
    top = x.upper.max(axis=axis, keepdims=True)
    own = Interval(
        exponential(np.minimum(down(x.lower - top), 0.0)).lower, exponential(np.minimum(up(x.upper - top), 0.0)).upper
    )
    others = _others(own, axis)
    others = Interval(np.maximum(others.lower, 0.0), others.upper)
    return _part(own, others), _part(others, own)


def _part(a: Interval, b: Interval) -> Interval:
    """`a / (a + b)` of non-negative numbers, in [0, 1]; rises with a, falls with b."""
    least, largest = up(a.lower + b.upper), down(a.upper + b.lower)
    lower = a.lower / least * (1 - _SLACK) - TINY
    upper = np.where(largest > 0, a.upper / np.where(largest > 0, largest, 1.0) * (1 + _SLACK) + TINY, 1.0)
    return Interval(np.fmax(lower, 0.0), np.fmin(upper, 1.0))


def _exact_change(p: Interval, rest: Interval, d: Interval, axis: int) -> Interval:
    h = Interval(exponential_less_one(d.lower).lower, exponential_less_one(d.upper).upper)
    low, high = h.lower.min(axis=axis, keepdims=True), h.upper.max(axis=axis, keepdims=True)
    terms = _product(p, h)
    others = _others(terms, axis)
    # The others' shares add up to 1 - p.
    others = Interval(
        np.maximum(others.lower, down(rest.upper * np.minimum(low, 0.0))),
        np.minimum(others.upper, up(rest.upper * np.maximum(high, 0.0))),
    )
    own = _product(rest, h)
    above = _product(p, Interval(down(own.lower - others.upper), up(own.upper - others.lower)))
    whole = _sum(terms, axis)
    below = Interval(down(1 + np.maximum(whole.lower, low)), up(1 + np.minimum(whole.upper, high)))
    return Interval(
        down(np.where(above.lower >= 0, above.lower / below.upper, above.lower / below.lower)),
        up(np.where(above.upper >= 0, above.upper / below.lower, above.upper / below.upper)),
    )


def _sum(v: Interval, axis: int) -> Interval:
    """Sums along the axis, kept with size one."""
    error = gamma(v.lower.shape[axis] + 8) * (1 + 2.0**-20)
    lower, upper = (end.sum(axis=axis, keepdims=True) for end in v)
    slack = [np.abs(end).sum(axis=axis, keepdims=True) * error + TINY for end in v]
    return Interval(down(lower - slack[0]), up(upper + slack[1]))


def _others(v: Interval, axis: int) -> Interval:
    """For every element, sums of the others."""
    whole = _sum(v, axis)
    return Interval(down(whole.lower - v.lower), up(whole.upper - v.upper))


def _product(a: Interval, b: Interval) -> Interval:
    ends = [p * q for p in a for q in b]
    return Interval(down(np.minimum.reduce(ends)), up(np.maximum.reduce(ends)))
