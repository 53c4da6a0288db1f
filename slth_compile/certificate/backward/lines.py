"""Lines above and below what an activation makes of `y`, and of a pair `(y, d)`: any slope, the intercept that fits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from slth_compile.certificate.enclosure import Interval, library
from slth_compile.certificate.relaxations import rise, steepened
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, up

_STEEPNESS = 16.0
_PREFERENCE = 2.0**-20


class Lines(NamedTuple):
    """`lower_slope v + lower_intercept <= value <= upper_slope v + upper_intercept` for all `v` of an interval."""

    upper_slope: Any
    upper_intercept: Any
    lower_slope: Any
    lower_intercept: Any


def activation_lines(y: Interval, slope: float = 0.0) -> Lines:
    """Lines around `a(y) = max(y, slope * y)`: the chord above, a slope between the two sides' below.

    Below it is the side's that `y` leans to, and moves from one to the other continuously.

    Args:
        y: The pre-activation.
        slope: Slope below zero, in [0, 1].
    """
    (low, high), xp = y, library(y.lower)
    on, off = low >= 0, high <= 0
    ends = steepened(low, slope, up), steepened(high, slope, up)
    chord = xp.clip((ends[1] - ends[0]) / xp.maximum(high - low, TINY), slope, 1.0)
    upper = xp.where(on, 1.0, xp.where(off, slope, chord))
    lean = _STEEPNESS * (high / xp.maximum(high - low, TINY) - 0.5) + 0.5
    lower = xp.where(on, 1.0, xp.where(off, slope, slope + (1 - slope) * xp.clip(lean, 0.0, 1.0)))
    knee = xp.clip(0.0, low, high)
    return Lines(
        upper,
        xp.maximum(_above(ends[0], upper, low), _above(ends[1], upper, high)),
        lower,
        -_above(-steepened(knee, slope, down), -lower, knee),
    )


class Planes(NamedTuple):
    """`lower <= value <= upper` with `upper = tilt * y + slope * d + intercept`, and `lower` likewise."""

    upper_tilt: Any
    upper_slope: Any
    upper_intercept: Any
    lower_tilt: Any
    lower_slope: Any
    lower_intercept: Any


def difference_planes(y: Interval, d: Interval, slope: float = 0.0) -> Planes:
    """Planes around `h(y, d) = a(y + d) - a(y)` over the box of `(y, d)`.

    `h` is linear on each side of `y = 0` and of `y + d = 0`: less a plane, it is extremal where these lines and the
    edges of the box meet. So every tilt and slope is right with the intercept found there.

    By default `d` alone counts, by the chord of `max_y h` above and of `min_y h` below. Where the sign of `d` is known
    `h` is about `d * H(y)`, `H` the step from the slope below zero to 1, and with `1 + y / |yl| >= H >= y / yu` (leak
    left out) there are the planes of McCormick's envelope,

        d >= dl > 0:  d + dl y / |yl| >= h >= dl y / yu,    d <= du < 0:  du y / yu >= h >= d + du y / |yl|,

    which tell one `y` of many from another: few can sit at their ends together. One is taken where its value in the
    middle of the box is nearer.

    Args:
        y: The target's pre-activation.
        d: Ticket minus target, before the activation.
        slope: Slope below zero, in [0, 1].
    """
    (yl, yu), (dl, du), xp = y, d, library(d.lower)
    on = (yl >= 0) & (down(yl + dl) >= 0)
    off = (yu <= 0) & (up(yu + du) <= 0)
    known = on | off

    def settled(tilt: Any, steep: Any) -> tuple[Any, Any]:
        return xp.where(known, 0.0, tilt), xp.where(on, 1.0, xp.where(off, slope, steep))

    above, below = _intercepts(y, d, slope)
    flat, width = xp.zeros_like(dl), xp.maximum(du - dl, TINY)
    ends = [xp.where(end >= 0, yu, yl) for end in d], [xp.where(end >= 0, yl, yu) for end in d]
    tops, bottoms = ([rise(at, end, slope, up) for at, end in zip(line, d, strict=True)] for line in ends)
    rises, falls = xp.maximum(dl, 0.0), xp.minimum(du, 0.0)
    left, right = (1 - slope) / xp.maximum(-yl, TINY), (1 - slope) / xp.maximum(yu, TINY)
    uppers = [
        (flat, xp.clip((tops[1] - tops[0]) / width, slope, 1.0)),
        (rises * left, flat + 1.0),
        (falls * right, flat + slope),
    ]
    lowers = [
        (flat, xp.clip((bottoms[1] - bottoms[0]) / width, slope, 1.0)),
        (falls * left, flat + 1.0),
        (rises * right, flat + slope),
    ]
    middle = 0.5 * yl + 0.5 * yu, 0.5 * dl + 0.5 * du
    margin = _PREFERENCE * xp.maximum(rises, -falls)
    upper = _nearest([(*settled(*plane), above(*settled(*plane))) for plane in uppers], middle, margin, 1.0)
    lower = _nearest([(*settled(*plane), below(*settled(*plane))) for plane in lowers], middle, margin, -1.0)
    return Planes(*upper, *lower)


def _nearest(planes: Sequence[tuple[Any, Any, Any]], middle: tuple[Any, Any], margin: Any, sign: float) -> tuple:
    """The plane that is nearest in the middle, an earlier one unless a later one gains more than the margin."""
    xp, (y, d) = library(margin), middle

    def level(plane: tuple[Any, Any, Any]) -> Any:
        tilt, steep, intercept = plane
        return sign * (intercept + tilt * y + steep * d)

    best = planes[0]
    for plane in planes[1:]:
        better = level(plane) < level(best) - margin
        best = tuple(xp.where(better, new, old) for new, old in zip(plane, best, strict=True))
    return best


def _intercepts(y: Interval, d: Interval, slope: float) -> tuple[Any, Any]:
    """Functions that find the intercepts of planes above and below `h` from a tilt and a slope."""
    (yl, yu), (dl, du), xp = y, d, library(d.lower)
    corners = [(yl, dl), (yl, du), (yu, dl), (yu, du)]
    creases = [(0.0, dl), (0.0, du), (0.0, 0.0), (-dl, dl), (-du, du), (yl, -yl), (yu, -yu)]
    points = corners + [(xp.clip(a + 0.0 * yl, yl, yu), xp.clip(b + 0.0 * dl, dl, du)) for a, b in creases]
    tops = [rise(*point, slope, up) for point in points]
    bottoms = [rise(*point, slope, down) for point in points]

    def above(tilt: Any, steep: Any) -> Any:
        found = [_over(top, tilt, steep, *point) for top, point in zip(tops, points, strict=True)]
        return functools.reduce(xp.maximum, found)

    def below(tilt: Any, steep: Any) -> Any:
        found = [_over(-bottom, -tilt, -steep, *point) for bottom, point in zip(bottoms, points, strict=True)]
        return -functools.reduce(xp.maximum, found)

    return above, below


def _over(value: Any, tilt: Any, steep: Any, y: Any, d: Any) -> Any:
    """At least `value - tilt * y - steep * d`."""
    a, b = tilt * y, steep * d
    return up(value - a - b) + ((abs(value) + abs(a) + abs(b)) * (4 * UNIT_ROUNDOFF) + 4 * TINY)


def magnitude_lines(z: Interval) -> Lines:
    """Lines around `|z|`: the chord above, and below a slope that is the sign where that is known."""
    (low, high), xp = z, library(z.lower)
    width = xp.maximum(high - low, TINY)
    chord = xp.clip((abs(high) - abs(low)) / width, -1.0, 1.0)
    lean = xp.clip(_STEEPNESS * (high + low) / width, -1.0, 1.0)
    upper, lower = (xp.where(low >= 0, 1.0, xp.where(high <= 0, -1.0, s)) for s in (chord, lean))
    intercept = xp.maximum(_above(abs(low), upper, low), _above(abs(high), upper, high))
    return Lines(upper, intercept, lower, xp.zeros_like(low))


def _above(value: Any, slope: Any, at: Any) -> Any:
    """A number that is at least `value - slope * at`."""
    product = slope * at
    return up(value - product) + (abs(product) * (2 * UNIT_ROUNDOFF) + 2 * TINY)
