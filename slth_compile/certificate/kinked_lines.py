"""Straight lines around activations that are linear on pieces, and around their differences: none nearer for its slope.

Both lines have the slope of a chord. Of a value it runs between the ends of the interval; above and below a difference,
between the ends of the largest and of the smallest `h(y, d)` over y. Intercepts are what that leaves, at the vertices
of the pieces: for `h` a vertex has one of the few d at which `y` and `y + d` are ends, or kinks, both.
"""

from __future__ import annotations

import functools
from typing import Any

from slth_compile.certificate import kinked, pointwise
from slth_compile.certificate.enclosure import Interval, library
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, up
from slth_compile.graph import nodes as n

Kinked = n.Relu | n.LeakyRelu | n.Prelu | n.Clip | n.HardSigmoid
Four = tuple[Any, Any, Any, Any]
"""Upper slope, upper intercept, lower slope, lower intercept."""

# A parabola's lowest place is known up to rounding, its value there up to the square of that.
_FLAT = 2.0**-90


def value_lines(node: Kinked, y: Interval, slopes: Interval | None = None) -> Four:
    """Lines around `a(y)`; arguments as for `lines.value_lines`."""
    if isinstance(node, n.HardSigmoid):
        found = value_lines(kinked.UNIT_CLIP, kinked.hard_sigmoid_argument(node, y))
        return _behind(found, y, node.slope, node.offset)
    xp = library(y.lower)
    steep = pointwise.slope_image(node, y, slopes)
    ends = [pointwise.value_image(node, Interval(end, end), slopes) for end in y]
    slope = _chord(ends[0].lower, ends[1].lower, y, steep)
    points = [*y, *(xp.clip(kink, *y) for kink in _kinks(node))]
    values = [pointwise.value_image(node, Interval(point, point), slopes) for point in points]
    upper = [up(v.upper - down(slope * point)) for v, point in zip(values, points, strict=True)]
    lower = [down(v.lower - up(slope * point)) for v, point in zip(values, points, strict=True)]
    return slope, functools.reduce(xp.maximum, upper), slope, functools.reduce(xp.minimum, lower)


def difference_lines(node: Kinked, y: Interval, d: Interval, slopes: Interval | None = None) -> Four:
    """Lines around `h(y, d) = a(y + d) - a(y)`; arguments as for `lines.difference_lines`.

    Where `y` is an end and `y + d` a kink, d is rounded: `h - s d`, whose slopes in d are within those of `a` less s,
    is off by that share of d.
    """
    if isinstance(node, n.HardSigmoid):
        moved = kinked.scaled(d, node.slope)
        found = difference_lines(kinked.UNIT_CLIP, kinked.hard_sigmoid_argument(node, y), moved)
        return _behind(found, d, node.slope, 0.0)
    xp = library(d.lower)
    between = Interval(xp.minimum(y.lower, down(y.lower + d.lower)), xp.maximum(y.upper, up(y.upper + d.upper)))
    steep, kinks = pointwise.slope_image(node, between, slopes), _kinks(node)
    apart = [kink - start for kink in kinks for start in (*y, *kinks)]
    moves = [*d, *(xp.clip(move, *d) for move in apart)]
    images = [pointwise.difference_image(node, y, Interval(move, move), slopes) for move in moves]
    upper_slope = _chord(images[0].upper, images[1].upper, d, steep)
    lower_slope = _chord(images[0].lower, images[1].lower, d, steep)
    turn, none = up(steep.upper - steep.lower) * (4 * UNIT_ROUNDOFF), xp.zeros_like(d.lower)
    inner = [xp.where((v < d.lower) | (v > d.upper), 0.0, up(turn * abs(v)) + TINY) for v in apart]
    off = [none, none, *inner]
    upper = [up(up(v.upper - down(upper_slope * m)) + o) for v, m, o in zip(images, moves, off, strict=True)]
    lower = [down(down(v.lower - up(lower_slope * m)) - o) for v, m, o in zip(images, moves, off, strict=True)]
    return upper_slope, functools.reduce(xp.maximum, upper), lower_slope, functools.reduce(xp.minimum, lower)


def hard_swish_lines(y: Interval) -> Four:
    """Lines around `a(y)` of a hard swish, with the slope of the chord.

    Less a line it is greatest at an end or a kink, and least there or where the parabola `y (y + 3) / 6` between the
    kinks is as steep as the line: at `3 s - 3/2`.
    """
    xp, node = library(y.lower), n.HardSwish(inputs=())
    ends = [pointwise.value_image(node, Interval(end, end)) for end in y]
    slope = _chord(ends[0].lower, ends[1].lower, y, pointwise.slope_image(node, y))
    lowest = xp.clip(xp.clip(3.0 * slope - 1.5, -3.0, 3.0), *y)
    points = [*y, xp.clip(-3.0, *y), xp.clip(3.0, *y), lowest]
    values = [pointwise.value_image(node, Interval(point, point)) for point in points]
    upper = [up(v.upper - down(slope * point)) for v, point in zip(values, points, strict=True)]
    lower = [down(v.lower - up(slope * point)) for v, point in zip(values, points, strict=True)]
    return slope, functools.reduce(xp.maximum, upper), slope, down(functools.reduce(xp.minimum, lower) - _FLAT)


def _kinks(node: n.Relu | n.LeakyRelu | n.Prelu | n.Clip) -> tuple[float, ...]:
    ends = (node.low, node.high) if isinstance(node, n.Clip) else (0.0,)
    return tuple(end for end in ends if end is not None)


def _chord(first: Any, last: Any, ends: Interval, steep: Interval) -> Any:
    """The slope between two values; one that the function has where they say nothing."""
    xp = library(first)
    width = ends.upper - ends.lower
    slope = xp.clip((last - first) / xp.where(width > 0, width, 1.0), steep.lower, steep.upper)
    return xp.where(xp.isfinite(slope), slope, xp.clip(0.0, steep.lower, steep.upper))


def _behind(found: Four, v: Interval, scale: float, shift: float) -> Four:
    """Lines around a function of `u = scale v + shift`, as lines in v."""
    upper_slope, upper, lower_slope, lower = found
    size = library(v.lower).maximum(abs(v.lower), abs(v.upper))
    steep, flat = upper_slope * scale, lower_slope * scale
    above, below = (up((abs(slope) * (2 * UNIT_ROUNDOFF) + TINY) * size) for slope in (steep, flat))
    upper = up(up(up(upper_slope * shift) + upper) + above)
    return steep, upper, flat, down(down(down(lower_slope * shift) + lower) - below)
