"""Softmax over intervals, and how it changes: in proportion to each element's own share.

With `p = softmax(x)`, `E_j = exp(d_j) - 1` and `W = sum of p_j E_j`,

    p_i = e_i / (e_i + sum over j != i of e_j),   e = exp(x - m) for any m
    p'_i - p_i = p_i ((1 - p_i) E_i - sum over j != i of p_j E_j) / (1 + W)

is an identity, with nothing left over at points. It is used where all `|d_j| <= 1/2`. Everywhere
`|p'_i - p_i| <= tanh(D / 2) <= D / 2`, D half of the spread of d, as softmax does not see shifts; and the change is a
difference of two values.
"""

from __future__ import annotations

import math
from typing import Any

from slth_compile.certificate import elementary
from slth_compile.certificate.enclosure import Interval, added, library, multiplied, repaired
from slth_compile.certificate.rounding import TINY, down, gamma, up

_FEW_ROUNDINGS = 2.0**-49


def softmax_image(x: Interval, d: Interval | None, axis: int) -> tuple[Interval, Interval | None]:
    """All shares, and all changes of them, rounded outward.

    Args:
        x: What the target's softmax reads.
        d: Ticket minus target; None where they agree.
        axis: Axis of the softmax.
    """
    p, rest = _shares(x, axis)
    if d is None:
        return p, None
    xp = library(x.lower)
    ticket, _ = _shares(added(x, d), axis)
    apart = Interval(down(ticket.lower - p.upper), up(ticket.upper - p.lower))
    spread = up(xp.max(d.upper, axis, keepdims=True) - xp.min(d.lower, axis, keepdims=True))
    reach = xp.minimum(1.0, up(0.25 * spread))
    exact = repaired(_change(p, rest, d, axis))
    return p, Interval(
        xp.maximum(xp.maximum(apart.lower, exact.lower), -reach),
        xp.minimum(xp.minimum(apart.upper, exact.upper), reach),
    )


def _shares(x: Interval, axis: int) -> tuple[Interval, Interval]:
    """`p` and `1 - p`."""
    xp = library(x.lower)
    peak = xp.max(x.upper, axis, keepdims=True)
    low = elementary.exponential(_below(down(x.lower - peak))).lower
    high = elementary.exponential(_below(up(x.upper - peak))).upper
    others = _without_own(Interval(low, high), axis)
    others = Interval(xp.maximum(0.0, others.lower), others.upper)
    return Interval(_quotient(low, others.upper), _share(high, others.lower)), Interval(
        _quotient(others.lower, high), _share(others.upper, low)
    )


def _change(p: Interval, rest: Interval, d: Interval, axis: int) -> Interval:
    """The identity; all numbers where some `|d|` may exceed 1/2."""
    xp = library(d.lower)
    grown = Interval(*(end(elementary.growth(v)) for end, v in zip((_lower, _upper), d, strict=True)))
    weighted = multiplied(p, grown)
    others = _without_own(weighted, axis)
    # The shares of the others add up to 1 - p.
    least, largest = xp.min(grown.lower, axis, keepdims=True), xp.max(grown.upper, axis, keepdims=True)
    others = Interval(
        xp.maximum(others.lower, down(rest.upper * xp.minimum(0.0, least))),
        xp.minimum(others.upper, up(rest.upper * xp.maximum(0.0, largest))),
    )
    own = multiplied(rest, grown)
    numerator = multiplied(p, Interval(down(own.lower - others.upper), up(own.upper - others.lower)))
    total = Interval(
        down(1.0 + xp.maximum(least, _total(weighted, axis).lower)),
        up(1.0 + xp.minimum(largest, _total(weighted, axis).upper)),
    )
    inverse = Interval((1.0 / total.upper) * (1 - _FEW_ROUNDINGS), (1.0 / total.lower) * (1 + _FEW_ROUNDINGS))
    found = multiplied(numerator, inverse)
    near = xp.max(xp.maximum(abs(d.lower), abs(d.upper)), axis, keepdims=True) <= elementary.GROWTH_REACH
    return Interval(xp.where(near, found.lower, -math.inf), xp.where(near, found.upper, math.inf))


def _total(v: Interval, axis: int) -> Interval:
    """All sums along the axis, which stays with size one."""
    xp = library(v.lower)
    error = gamma(v.lower.shape[axis] + 8)

    def slack(end: Any) -> Any:
        return xp.sum(abs(end), axis, keepdims=True) * (error * (1 + 4 * error)) + v.lower.shape[axis] * TINY

    low, high = (xp.sum(end, axis, keepdims=True) for end in v)
    return Interval(down(low - slack(v.lower)), up(high + slack(v.upper)))


def _without_own(v: Interval, axis: int) -> Interval:
    """All sums of the others along the axis; its slack holds for the sum with the own term too."""
    total = _total(v, axis)
    return Interval(down(total.lower - v.lower), up(total.upper - v.upper))


def _quotient(own: Any, others: Any) -> Any:
    """At most `own / (own + others)`."""
    return library(own).maximum(0.0, down(own / up(own + others) * (1 - _FEW_ROUNDINGS)))


def _share(own: Any, others: Any) -> Any:
    """At least `own / (own + others)`; both may be zero, of which nothing is known."""
    xp = library(own)
    total = down(own + others)
    found = up(own / xp.where(total > 0, total, 1.0) * (1 + _FEW_ROUNDINGS))
    return xp.minimum(1.0, xp.where(total > 0, found, 1.0))


def _below(v: Any) -> Any:
    return library(v).minimum(v, 0.0)


def _lower(v: Interval) -> Any:
    return v.lower


def _upper(v: Interval) -> Any:
    return v.upper
