"""Lines above and below what an activation makes of `y`, and of a pair `(y, d)`: any slope, the intercept that fits."""

from __future__ import annotations

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
        chosen = _STEEPNESS * (high / xp.maximum(high - low, TINY) - 0.5) + 0.5
    lower = xp.where(on, 1.0, xp.where(off, slope, slope + (1 - slope) * xp.clip(chosen, 0.0, 1.0)))
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
