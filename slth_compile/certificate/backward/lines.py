"""Lines above and below what an activation makes of `y`, and of a pair `(y, d)`: any slope, the intercept that fits."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from slth_compile.certificate.enclosure import Interval, library
from slth_compile.certificate.relaxations import rise, steepened
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, up

_STEEPNESS = 16.0


class Lines(NamedTuple):
    """`lower_slope v + lower_intercept <= value <= upper_slope v + upper_intercept` for all `v` of an interval."""

    upper_slope: Any
    upper_intercept: Any
    lower_slope: Any
    lower_intercept: Any


def activation_lines(y: Interval, slope: float = 0.0, chosen: Any = None) -> Lines:
    """Lines around `a(y) = max(y, slope * y)`: the chord above, any slope between the two sides' below.

    Args:
        y: The pre-activation.
        slope: Slope below zero, in [0, 1].
        chosen: Slopes of the lower lines in [0, 1], 1 standing for the right side's; a default takes the side that `y`
            leans to, and moves from one to the other continuously.
    """
    (low, high), xp = y, library(y.lower)
    on, off = low >= 0, high <= 0
    ends = steepened(low, slope, up), steepened(high, slope, up)
    chord = xp.clip((ends[1] - ends[0]) / xp.maximum(high - low, TINY), slope, 1.0)
    upper = xp.where(on, 1.0, xp.where(off, slope, chord))
    if chosen is None:
        lean = _STEEPNESS * (high / xp.maximum(high - low, TINY) - 0.5) + 0.5
    else:
        steep, lean = chosen
        upper = xp.where(on, 1.0, xp.where(off, slope, xp.clip(steep, slope, 1.0)))
    lower = xp.where(on, 1.0, xp.where(off, slope, slope + (1 - slope) * xp.clip(lean, 0.0, 1.0)))
    knee = xp.clip(0.0, low, high)
    return Lines(
        upper,
        xp.maximum(_above(ends[0], upper, low), _above(ends[1], upper, high)),
        lower,
        -_above(-steepened(knee, slope, down), -lower, knee),
    )


def difference_lines(y: Interval, d: Interval, slope: float = 0.0, chosen: tuple[Any, Any] | None = None) -> Lines:
    """Lines around `h(y, d) = a(y + d) - a(y)` as a function of `d`, for all `y` of its interval.

    `max_y h` is convex in `d`: it lies below every line that lies above it at both ends. `min_y h` is made of lines
    that meet at 0, `-yl` and `-yu`: a line lies below it that does so there and at both ends.

    Args:
        y: The target's pre-activation.
        d: Ticket minus target, before the activation.
        slope: Slope below zero, in [0, 1].
        chosen: Slopes of the upper and the lower lines, in [slope, 1]; the chords' by default.
    """
    (yl, yu), (dl, du), xp = y, d, library(d.lower)

    def highest(e: Any) -> Any:
        return rise(xp.where(e >= 0, yu, yl), e, slope, up)

    def lowest(e: Any) -> Any:
        return rise(xp.where(e >= 0, yl, yu), e, slope, down)

    on = (yl >= 0) & (down(yl + dl) >= 0)
    off = (yu <= 0) & (up(yu + du) <= 0)
    tops, bottoms, width = (highest(dl), highest(du)), (lowest(dl), lowest(du)), xp.maximum(du - dl, TINY)
    upper, lower = ((ends[1] - ends[0]) / width for ends in (tops, bottoms)) if chosen is None else chosen
    upper, lower = (xp.where(on, 1.0, xp.where(off, slope, xp.clip(s, slope, 1.0))) for s in (upper, lower))
    knots = [dl, du, *(xp.clip(knot, dl, du) for knot in (xp.zeros_like(dl), -yl, -yu))]
    below = [_above(-lowest(knot), -lower, knot) for knot in knots]
    intercept = below[0]
    for more in below[1:]:
        intercept = xp.maximum(intercept, more)
    return Lines(upper, xp.maximum(_above(tops[0], upper, dl), _above(tops[1], upper, du)), lower, -intercept)


class Planes(NamedTuple):
    """`lower <= value <= upper` with `upper = tilt * y + slope * d + intercept`, and `lower` likewise."""

    upper_tilt: Any
    upper_slope: Any
    upper_intercept: Any
    lower_tilt: Any
    lower_slope: Any
    lower_intercept: Any


def difference_planes(y: Interval, d: Interval, slope: float = 0.0, chosen: tuple[Any, Any, Any, Any] | None = None):
    """Planes around `h(y, d) = a(y + d) - a(y)` over the box of `(y, d)`.

    `h` is linear on each side of `y = 0` and of `y + d = 0`: less a plane, it is extremal where those lines, and the
    edges of the box, meet. So every tilt and slope is right with the intercept found there.
    """
    (yl, yu), (dl, du), xp = y, d, library(d.lower)
    on = (yl >= 0) & (down(yl + dl) >= 0)
    off = (yu <= 0) & (up(yu + du) <= 0)
    corners = [(yl, dl), (yl, du), (yu, dl), (yu, du), (0.0, dl), (0.0, du), (0.0, 0.0), (-dl, dl), (-du, du)]
    corners += [(yl, -yl), (yu, -yu)]
    points = [(xp.clip(a, yl, yu) + 0 * yl, xp.clip(b, dl, du) + 0 * dl) for a, b in corners]
    tops = [rise(a, b, slope, up) for a, b in points]
    bottoms = [rise(a, b, slope, down) for a, b in points]

    def above(tilt: Any, steep: Any) -> Any:
        found = [_over(top, tilt, steep, *point) for top, point in zip(tops, points, strict=True)]
        return functools.reduce(xp.maximum, found)

    def below(tilt: Any, steep: Any) -> Any:
        found = [_over(-bottom, -tilt, -steep, *point) for bottom, point in zip(bottoms, points, strict=True)]
        return -functools.reduce(xp.maximum, found)

    if chosen is not None:
        ut, us, lt, ls = chosen
        us, ls = (xp.where(on, 1.0, xp.where(off, slope, v)) for v in (us, ls))
        ut, lt = (xp.where(on | off, 0.0, v) for v in (ut, lt))
        return Planes(ut, us, above(ut, us), lt, ls, below(lt, ls))
    zero = xp.zeros_like(dl)
    rises, falls = xp.maximum(du, 0.0), xp.maximum(-dl, 0.0)
    sure_rise, sure_fall = xp.maximum(dl, 0.0), xp.maximum(-du, 0.0)
    left, right = (1 - slope) / xp.maximum(-yl, TINY), (1 - slope) / xp.maximum(yu, TINY)
    width = xp.maximum(du - dl, TINY)
    one = zero + 1.0
    flat = zero + slope
    ends_u = (_edge(rise, xp.where(du >= 0, yu, yl), du, slope, up) - _edge(rise, xp.where(dl >= 0, yu, yl), dl, slope, up)) / width
    ends_l = (_edge(rise, xp.where(du >= 0, yl, yu), du, slope, down) - _edge(rise, xp.where(dl >= 0, yl, yu), dl, slope, down)) / width
    chord_u, chord_l = (xp.where(on, 1.0, xp.where(off, slope, xp.clip(v, slope, 1.0))) for v in (ends_u, ends_l))
    uppers = [(zero, chord_u), (rises * left, flat), (-falls * right, one), (sure_rise * left, one), (-sure_fall * right, flat)]
    lowers = [(zero, chord_l), (-falls * left, flat), (rises * right, one), (-sure_fall * left, one), (sure_rise * right, flat)]
    yc, dc = 0.5 * yl + 0.5 * yu, 0.5 * dl + 0.5 * du
    known = on | off
    best = None
    for tilt, steep in uppers[: COUNT]:
        found = above(tilt, steep)
        level = found + tilt * yc + steep * dc
        if best is None:
            best = (tilt, steep, found, level)
        else:
            better = ~known & (level < best[3] - MARGIN * (xp.maximum(rises, falls)))
            best = tuple(xp.where(better, new, old) for new, old in zip((tilt, steep, found, level), best, strict=True))
    low = None
    for tilt, steep in lowers[: COUNT]:
        found = below(tilt, steep)
        level = found + tilt * yc + steep * dc
        if low is None:
            low = (tilt, steep, found, level)
        else:
            better = ~known & (level > low[3] + MARGIN * (xp.maximum(rises, falls)))
            low = tuple(xp.where(better, new, old) for new, old in zip((tilt, steep, found, level), low, strict=True))
    return Planes(*best[:3], *low[:3])


COUNT = 5
MARGIN = 1e-6


def _edge(function: Any, y: Any, d: Any, slope: float, rounded: Any) -> Any:
    return function(y, d, slope, rounded)


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


def is_exact(lines: Lines) -> np.ndarray:
    """Where both lines are one: the activation is known to be linear."""
    return np.asarray(lines.upper_slope == lines.lower_slope)
