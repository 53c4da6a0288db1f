"""What a layer norm makes of a pair (x, d): the change is an identity, with nothing left over at points.

With `t = x - mean(x)` over n features and `s = sqrt(mean(t^2) + epsilon)`, `y = t / s`; of the ticket's input
`z = x + d` likewise `t', s'`, and `t' = t + m` with `m = d - mean(d)`. Then

    s' - s   = mean((t + t') m) / (s + s')
    y' - y   = (m - y (s' - s)) / s'

as `s'^2 - s^2 = mean(t'^2 - t^2)`. The vector `(t / sqrt(n), sqrt(epsilon))` has the norm s, so `|s' - s|` is at most
the root mean square of m; and `|y| <= sqrt(n - 1)`, as the elements of t add up to zero. Without centring t and m are x
and d, and `|y| <= sqrt(n)`. Each element is an interval of its own: bounds are those of rounding at points, and over
boxes they pay for what `x` and its mean have in common.

Square roots are guessed and squared, so that nothing rests on how they were rounded.
"""

from __future__ import annotations

import math
from typing import Any

from slth_compile.certificate.enclosure import Interval, added, library, mean, multiplied, repaired
from slth_compile.certificate.rounding import down, up
from slth_compile.graph import nodes as n

_FEW_ROUNDINGS = 2.0**-50
_FEATURES = -2


def layer_norm_image(node: n.LayerNorm, x: Interval, d: Interval | None) -> tuple[Interval, Interval | None]:
    """All `y`, and all `y' - y`, rounded outward.

    Args:
        node: The layer norm.
        x: The target's activations, `(..., features, batch)`.
        d: Ticket minus target; None where they agree.
    """
    features = x.lower.shape[_FEATURES]
    most = math.sqrt(features - 1 if node.centred else features) * (1 + _FEW_ROUNDINGS)
    spread, scale = _spread_and_scale(node, x)
    y = _clipped(multiplied(spread, _inverse(scale)), most)
    if d is None:
        return y, None
    ticket_spread, ticket_scale = _spread_and_scale(node, added(x, d))
    inverse = _inverse(ticket_scale)
    ticket = _clipped(multiplied(ticket_spread, inverse), most)
    moved = _centred(node, d)
    rise = multiplied(_mean(multiplied(added(spread, ticket_spread), moved)), _inverse(added(scale, ticket_scale)))
    rise = _clipped(rise, _root(_mean(_square(moved))).upper)
    change = repaired(multiplied(_minus(moved, multiplied(y, rise)), inverse))
    apart, xp = _minus(ticket, y), library(x.lower)
    return y, Interval(xp.maximum(change.lower, apart.lower), xp.minimum(change.upper, apart.upper))


def _spread_and_scale(node: n.LayerNorm, x: Interval) -> tuple[Interval, Interval]:
    """`t` and `s`."""
    spread = _centred(node, x)
    variance = _mean(_square(spread))
    low = library(x.lower).maximum(down(variance.lower + node.epsilon), node.epsilon)
    return spread, _root(Interval(low, up(variance.upper + node.epsilon)))


def _centred(node: n.LayerNorm, v: Interval) -> Interval:
    return _minus(v, _mean(v)) if node.centred else v


def _mean(v: Interval) -> Interval:
    """Means over the features, which stay as an axis of size one."""
    count = v.lower.shape[_FEATURES]
    return mean(v, lambda a: a.sum(_FEATURES, keepdims=True), float(count), count)


def _minus(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower - b.upper), up(a.upper - b.lower))


def _square(v: Interval) -> Interval:
    xp = library(v.lower)
    least = xp.maximum(0.0, xp.maximum(v.lower, -v.upper))
    largest = xp.maximum(abs(v.lower), abs(v.upper))
    return Interval(xp.maximum(0.0, down(least * least)), up(largest * largest))


def _root(v: Interval) -> Interval:
    """All square roots of non-negative numbers; zero or infinity where a guess does not stand up."""
    xp = library(v.lower)
    low = xp.sqrt(xp.maximum(v.lower, 0.0)) * (1 - _FEW_ROUNDINGS)
    high = xp.sqrt(xp.maximum(v.upper, 0.0)) * (1 + _FEW_ROUNDINGS)
    return Interval(
        xp.where(up(low * low) <= v.lower, low, 0.0), xp.where(down(high * high) >= v.upper, high, math.inf)
    )


def _inverse(v: Interval) -> Interval:
    """All `1 / v` of positive numbers; a device may take two roundings to divide."""
    xp = library(v.lower)
    return Interval(
        xp.maximum(0.0, down((1.0 / v.upper) * (1 - _FEW_ROUNDINGS))), up((1.0 / v.lower) * (1 + _FEW_ROUNDINGS))
    )


def _clipped(v: Interval, most: Any) -> Interval:
    """The interval, cut to magnitudes of at most `most`."""
    xp, v = library(v.lower), repaired(v)
    return Interval(xp.maximum(v.lower, -most), xp.minimum(v.upper, most))
