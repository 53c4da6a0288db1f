"""Straight lines above and below activations, and above and below their differences, over a box.

    low_slope * y + low  <= a(y)    <= high_slope * y + high      for y in [yl, yu]
    low_slope * d + low  <= h(y, d) <= high_slope * d + high      for y in [yl, yu], d in [dl, du]

The slopes are whatever floating point made of a good choice: any number will do. The intercepts are then rigorous
bounds of `a(y) - slope * y` and of `h(y, d) - slope * d`, so the lines hold for the slopes as they are.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from slth_compile.certificate import kinked_lines
from slth_compile.certificate.enclosure import Interval, library, multiplied
from slth_compile.certificate.pointwise import difference_image, slope_image, value_image
from slth_compile.certificate.rounding import down, up
from slth_compile.graph import nodes as n

PARTS = 8
"""Into how many parts an interval is cut for an intercept: its slack falls with their square."""

# Of the largest change: lines are left for constants that gain this much. Engines that round elsewhere choose alike.
_PREFERENCE = 2.0**-20


class Lines(NamedTuple):
    """An upper and a lower line, arrays of one shape; an intercept is infinite where nothing is known."""

    upper_slope: Any
    upper: Any
    lower_slope: Any
    lower: Any


def value_lines(node: n.Activation, y: Interval, slopes: Interval | None = None) -> Lines:
    """Lines around `a(y)`, both with the slope of the chord between the ends.

    On a part of the interval with centre c and radius r, slopes of `a` in [m, M],
    `a(y) - s y <= a(c) - s c + max(M - s, s - m) r`; the intercept is the largest of the parts'. Where `a` has kinks it
    is the exact one.

    Args:
        node: The activation.
        y: Its argument, float64.
        slopes: Of a PReLU, as `pointwise.value_image` takes them.
    """
    if isinstance(node, kinked_lines.Kinked):
        return Lines(*kinked_lines.value_lines(node, y, slopes))
    if isinstance(node, n.HardSwish):
        return Lines(*kinked_lines.hard_swish_lines(y))
    xp = library(y.lower)
    flat = value_image(node, y, slopes)
    width = y.upper - y.lower
    ends = [value_image(node, Interval(end, end), slopes) for end in y]
    chord = (ends[1].lower - ends[0].lower) / xp.where(width > 0, width, 1.0)
    whole = slope_image(node, y, slopes)
    # Over a short interval the chord is rounding alone.
    slope = xp.clip(chord, whole.lower, whole.upper)
    slope = xp.where(xp.isfinite(slope) & xp.isfinite(width), slope, 0.0)
    cuts = [y.lower, *(xp.minimum(y.lower + width * (k / PARTS), y.upper) for k in range(1, PARTS)), y.upper]
    high, low = -xp.inf, xp.inf
    for left, right in itertools.pairwise(cuts):
        part = _intercepts(node, Interval(left, right), slope, slopes)
        high, low = xp.maximum(high, part.upper), xp.minimum(low, part.lower)
    known = xp.isfinite(high) & xp.isfinite(low)
    slope = xp.where(known, slope, 0.0)
    return Lines(slope, xp.where(known, high, flat.upper), slope, xp.where(known, low, flat.lower))


def difference_lines(node: n.Activation, y: Interval, d: Interval, slopes: Interval | None = None) -> Lines:
    """Lines around `h(y, d) = a(y + d) - a(y)`.

    With slopes of `a` in [m, M] between all y and `y + d`, `min(m d, M d) <= h <= max(m d, M d)`: the lines are the
    chords of both. Where the image of h is closer at the middle of [dl, du] a line is constant. Where `a` is linear on
    pieces, lines follow the pieces instead.

    Args:
        node: The activation.
        y: The target's pre-activation, float64.
        d: Ticket minus target, before the activation.
        slopes: Of a PReLU, as `pointwise.value_image` takes them.
    """
    if isinstance(node, kinked_lines.Kinked):
        return Lines(*kinked_lines.difference_lines(node, y, d, slopes))
    xp = library(d.lower)
    between = Interval(xp.minimum(y.lower, down(y.lower + d.lower)), xp.maximum(y.upper, up(y.upper + d.upper)))
    steep, flat = slope_image(node, between, slopes), difference_image(node, y, d, slopes)
    ends = [multiplied(steep, Interval(end, end)) for end in d]
    width = xp.where(d.upper > d.lower, d.upper - d.lower, 1.0)
    middle = 0.5 * d.lower + 0.5 * d.upper

    def chord(values: list[Any]) -> Any:
        # Where d keeps its sign both bounds are lines through zero, and so is the chord.
        slope = xp.where(d.upper > d.lower, (values[1] - values[0]) / width, 0.0)
        slope = xp.clip(slope, steep.lower, steep.upper)
        return xp.where(xp.isfinite(slope), slope, 0.0)

    upper_slope, lower_slope = chord([v.upper for v in ends]), chord([v.lower for v in ends])
    # max(m d, M d) - s d is convex in d, and so greatest at an end.
    tops = [up(v.upper - down(upper_slope * end)) for v, end in zip(ends, d, strict=True)]
    bottoms = [down(v.lower - up(lower_slope * end)) for v, end in zip(ends, d, strict=True)]
    upper, lower = xp.maximum(*tops), xp.minimum(*bottoms)
    size = xp.maximum(abs(steep.lower), abs(steep.upper)) * xp.maximum(abs(d.lower), abs(d.upper))
    # What overflowed is never chosen.
    tilted = upper_slope * middle + upper - _PREFERENCE * size <= flat.upper
    upper_slope, upper = xp.where(tilted, upper_slope, 0.0), xp.where(tilted, upper, flat.upper)
    tilted = lower_slope * middle + lower + _PREFERENCE * size >= flat.lower
    return Lines(upper_slope, upper, xp.where(tilted, lower_slope, 0.0), xp.where(tilted, lower, flat.lower))


def _intercepts(node: n.Activation, y: Interval, slope: Any, slopes: Interval | None) -> Interval:
    """Bounds of `a(y) - slope * y` over an interval, by its centre and by the slopes of `a` there."""
    xp = library(y.lower)
    centre = xp.clip(0.5 * y.lower + 0.5 * y.upper, y.lower, y.upper)
    radius = xp.maximum(up(y.upper - centre), up(centre - y.lower))
    steep, at = slope_image(node, y, slopes), value_image(node, Interval(centre, centre), slopes)
    reach = up(xp.maximum(xp.maximum(up(steep.upper - slope), up(slope - steep.lower)), 0.0) * radius)
    product = slope * centre
    return Interval(down(down(at.lower - up(product)) - reach), up(up(at.upper - down(product)) + reach))
