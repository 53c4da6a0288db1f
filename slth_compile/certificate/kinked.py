"""Piecewise linear activations over intervals: PReLU, clip and hard sigmoid, all images exact but for rounding.

`h(y, d) = a(y + d) - a(y)` is linear on pieces of the box of all `(y, d)`, cut by `y = k` and `y + d = k` for every
kink k. It is evaluated at a few points of the box that hold its extremes, never as a difference of two values.
"""

from __future__ import annotations

import functools
from typing import Any

from slth_compile.certificate.enclosure import Interval, added, library, multiplied
from slth_compile.certificate.rounding import down, up
from slth_compile.graph import nodes as n

UNIT_CLIP = n.Clip(inputs=(), low=0.0, high=1.0)
"""What a hard sigmoid is behind its affine map."""


def prelu_values(y: Interval, slopes: Interval) -> Interval:
    """All values of `y` for `y >= 0`, `slopes * y` below, broadcast."""
    xp = library(y.lower)
    below = [multiplied(Interval(end, end), slopes) for end in y]
    first, last = (xp.where(end >= 0, end, s.lower) for end, s in zip(y, below, strict=True))
    lower = xp.minimum(first, last)
    first, last = (xp.where(end >= 0, end, s.upper) for end, s in zip(y, below, strict=True))
    upper = xp.maximum(first, last)
    met = (y.lower <= 0) & (y.upper >= 0)
    return Interval(xp.where(met, xp.minimum(lower, 0.0), lower), xp.where(met, xp.maximum(upper, 0.0), upper))


def prelu_slopes(y: Interval, slopes: Interval) -> Interval:
    """All slopes of PReLU over an interval."""
    xp = library(y.lower)
    least, most = xp.minimum(slopes.lower, 1.0), xp.maximum(slopes.upper, 1.0)
    lower = xp.where(y.lower >= 0, 1.0, xp.where(y.upper < 0, slopes.lower, least))
    return Interval(lower, xp.where(y.lower >= 0, 1.0, xp.where(y.upper < 0, slopes.upper, most)))


def prelu_difference(y: Interval, d: Interval, slopes: Interval) -> Interval:
    """The image of `h` for PReLU, `h = s d + (1 - s) (relu(y + d) - relu(y))`.

    Slopes up to 1 make `a` convex: h rises with y where `d >= 0` and falls where `d <= 0`, so for every d the extremes
    are at `yl` or `yu`; the largest over y is convex in d, and so greatest at `dl` or `du`. The smallest over y is
    convex on either side of `d = 0`, with its least value at `d = -yl`, `d = -yu` or an end. A slope above 1 makes `a`
    concave and increasing: the corners of the box hold both extremes.
    """
    xp = library(d.lower)
    points = [(end, move) for end in y for move in (*d, xp.clip(-end, d.lower, d.upper))]
    found = [_prelu_change(*point, slopes) for point in points]
    return Interval(
        functools.reduce(xp.minimum, [v.lower for v in found]), functools.reduce(xp.maximum, [v.upper for v in found])
    )


def clip_values(node: n.Clip, y: Interval) -> Interval:
    """All values of a clip."""
    return y.each(lambda v: _clipped(node, v))


def clip_slopes(node: n.Clip, y: Interval) -> Interval:
    """All slopes of a clip over an interval."""
    xp = library(y.lower)
    zero, one = xp.zeros_like(y.lower), xp.ones_like(y.lower)
    inside, touched = zero == 0, zero == 0
    if node.low is not None:
        inside, touched = inside & (y.lower >= node.low), touched & (y.upper > node.low)
    if node.high is not None:
        inside, touched = inside & (y.upper <= node.high), touched & (y.lower < node.high)
    return Interval(xp.where(inside, one, zero), xp.where(touched | inside, one, zero))


def clip_difference(node: n.Clip, y: Interval, d: Interval) -> Interval:
    """The image of `h` for a clip.

    h rises with d. For `d >= 0`, h as a function of y rises, stays at `min(d, high - low)` around `y = low`, and falls;
    for `d <= 0` it does the same upside down around `y = high`. So the extreme away from zero is at the y nearest to
    that kink, the one towards zero at an end.
    """
    xp = library(d.lower)
    top = xp.where(d.upper >= 0, _nearest(y, node.low, y.lower), y.lower)
    bottom = xp.where(d.lower <= 0, _nearest(y, node.high, y.upper), y.lower)
    upper, lower = _clip_change(node, top, d.upper, up), _clip_change(node, bottom, d.lower, down)
    upper = xp.where(d.upper >= 0, upper, xp.maximum(upper, _clip_change(node, y.upper, d.upper, up)))
    lower = xp.where(d.lower <= 0, lower, xp.minimum(lower, _clip_change(node, y.upper, d.lower, down)))
    return Interval(lower, upper)


def hard_sigmoid_argument(node: n.HardSigmoid, y: Interval) -> Interval:
    """`slope * y + offset`, of which a hard sigmoid is the clip to [0, 1]."""
    return added(scaled(y, node.slope), Interval(node.offset, node.offset))


def scaled(values: Interval, factor: float) -> Interval:
    """All products with a number."""
    low, high = values if factor >= 0 else (values.upper, values.lower)
    return Interval(down(low * factor), up(high * factor))


def _prelu_change(y: Any, d: Any, slopes: Interval) -> Interval:
    """`h(y, d)`: `d` where neither `y` nor `y + d` is negative, `s d` where neither is positive."""
    xp = library(y)
    above = (y >= 0) & (d >= -y)
    part = (xp.where(y >= 0, xp.maximum(d, -y), xp.maximum(0.0, rounded(y + d))) for rounded in (down, up))
    rest = Interval(down(1.0 - slopes.upper), up(1.0 - slopes.lower))
    straight, bent = multiplied(Interval(d, d), slopes), multiplied(Interval(*part), rest)
    below = (y <= 0) & (d <= -y)
    both = added(straight, bent)
    ends = zip(straight, both, strict=True)
    return Interval(*(xp.where(above, d, xp.where(below, single, mixed)) for single, mixed in ends))


def _clipped(node: n.Clip, value: Any) -> Any:
    xp = library(value)
    value = value if node.low is None else xp.maximum(value, node.low)
    return value if node.high is None else xp.minimum(value, node.high)


def _nearest(y: Interval, kink: float | None, otherwise: Any) -> Any:
    """The number of an interval that is nearest to a kink."""
    return otherwise if kink is None else library(y.lower).clip(kink, y.lower, y.upper)


def _clip_change(node: n.Clip, y: Any, d: Any, rounded: Any) -> Any:
    """`h(y, d)` with `c = clip(y)`: `d + (y - c)`, clipped to `[low - c, high - c]`, rounded outward."""
    xp = library(y)
    clipped = _clipped(node, y)
    change = xp.where(y == clipped, d, rounded(d + rounded(y - clipped)))
    if node.low is not None:
        change = xp.maximum(change, xp.where(clipped == node.low, 0.0, rounded(node.low - clipped)))
    if node.high is not None:
        change = xp.minimum(change, xp.where(clipped == node.high, 0.0, rounded(node.high - clipped)))
    return change
