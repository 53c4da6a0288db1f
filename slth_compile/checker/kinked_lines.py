"""Lines of activations that are linear on pieces: PReLU, clip and hard sigmoid.

A slope is that of a chord: for `a(y)` between the ends of an interval, for the change `h(y, d) = a(y + d) - a(y)`
between the largest (below: the smallest) h over y at both ends of d. Less the line, either function is linear on
pieces, so its extremes are at vertices. Those of the pieces of h, cut by `y = k` and `y + d = k` for kinks k, and of
the box, have a d that is an end, or leads from an end of y or from a kink to a kink.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slth_compile.checker import kinked
from slth_compile.checker.arithmetic import TINY, UNIT, Interval, down, up
from slth_compile.checker.graph import Node
from slth_compile.checker.lines import Lines, Planes, flat_planes

OPERATIONS = ("prelu", "clip", "hard_sigmoid")


class _Pieces(NamedTuple):
    """Kinks; enclosures of values, of changes, and of slopes over an interval."""

    kinks: tuple[float, ...]
    value: Callable[[Interval], Interval]
    change: Callable[[Interval, Interval], Interval]
    slopes: Callable[[Interval], Interval]


def kinked_lines(node: Node, y: Interval, d: Interval | None) -> tuple[Lines, Planes | None]:
    """Lines of `a(y)` and planes of `h(y, d)`, without tilts; None where d is.

    Args:
        node: One of `OPERATIONS`.
        y: What it is applied to, of the node's shape.
        d: The ticket's y less the target's.
    """
    if node.op == "hard_sigmoid":
        scale, shift = node.fields["slope"], node.fields["offset"]
        clip = Node("clip", node.inputs, {"low": 0.0, "high": 1.0}, {}, node.shape)
        of_u, of_e = kinked_lines(clip, kinked.affine(y, scale, shift), d and kinked.affine(d, scale, 0.0))
        of_d = None if d is None or of_e is None else flat_planes(_stretched(of_e.lines, d, scale, 0.0))
        return _stretched(of_u, y, scale, shift), of_d
    pieces = _pieces(node)
    return _of_value(pieces, y), None if d is None else flat_planes(_of_change(pieces, y, d))


def chord(first: np.ndarray, last: np.ndarray, ends: Interval, slopes: Interval) -> np.ndarray:
    """The slope between values at two ends, cut to those the function has; zero, cut likewise, where it is none."""
    width = ends.upper - ends.lower
    slope = np.where(width > 0, (last - first) / np.where(width > 0, width, 1.0), 0.0)
    return np.clip(np.where(np.isfinite(slope), slope, 0.0), *slopes)


def around(
    points: list[np.ndarray], values: list[Interval], above: np.ndarray, below: np.ndarray, slack: list[np.ndarray]
) -> Lines:
    """Lines of given slopes with all values, at these points, between them, and `slack` more."""
    tops = [up(up(v.upper + up(-above * p)) + s) for p, v, s in zip(points, values, slack, strict=True)]
    bottoms = [down(down(v.lower + down(-below * p)) - s) for p, v, s in zip(points, values, slack, strict=True)]
    return Lines(above, np.maximum.reduce(tops), below, np.minimum.reduce(bottoms))


def _pieces(node: Node) -> _Pieces:
    if node.op == "prelu":
        own = node.arrays["slopes"]
        return _Pieces(
            (0.0,),
            lambda v: kinked.prelu(v, own),
            lambda v, e: kinked.prelu_change(v, e, own),
            lambda v: _prelu_slopes(v, own),
        )
    low, high = node.fields.get("low"), node.fields.get("high")
    return _Pieces(
        tuple(kink for kink in (low, high) if kink is not None),
        lambda v: kinked.clip(v, low, high),
        lambda v, e: kinked.clip_change(v, e, low, high),
        lambda v: _clip_slopes(v, low, high),
    )


def _of_value(pieces: _Pieces, y: Interval) -> Lines:
    points = [*y, *(np.clip(kink, *y) for kink in pieces.kinks)]
    values = [pieces.value(Interval(point, point)) for point in points]
    slope = chord(values[0].lower, values[1].lower, y, pieces.slopes(y))
    return around(points, values, slope, slope, [np.zeros_like(point) for point in points])


def _of_change(pieces: _Pieces, y: Interval, d: Interval) -> Lines:
    z = Interval(down(y.lower + d.lower), up(y.upper + d.upper))
    slopes = pieces.slopes(Interval(np.minimum(y.lower, z.lower), np.maximum(y.upper, z.upper)))
    moves = [kink - start for start in (*y, *pieces.kinks) for kink in pieces.kinks]
    points = [*d, *(np.clip(move, *d) for move in moves)]
    values = [pieces.change(y, Interval(point, point)) for point in points]
    above = chord(values[0].upper, values[1].upper, d, slopes)
    below = chord(values[0].lower, values[1].lower, d, slopes)
    # A d that is a rounded difference is off by UNIT of it, and h less the line by as much times its slopes in d.
    turn = up(slopes.upper - slopes.lower)
    nothing = np.zeros_like(d.lower)
    slack = [np.where((v < d.lower) | (v > d.upper), 0.0, up(turn * np.abs(v)) * (3 * UNIT) + TINY) for v in moves]
    return around(points, values, above, below, [nothing, nothing, *slack])


def _prelu_slopes(v: Interval, slopes: np.ndarray) -> Interval:
    on, off = v.lower >= 0, v.upper <= 0
    ends = (np.where(on, 1.0, np.where(off, slopes, pick(slopes, 1.0))) for pick in (np.minimum, np.maximum))
    return Interval(*ends)


def _clip_slopes(v: Interval, low: float | None, high: float | None) -> Interval:
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    inside = (v.lower >= low) & (v.upper <= high)
    outside = (v.upper <= low) | (v.lower >= high)
    return Interval(np.where(inside, 1.0, 0.0), np.where(outside & ~inside, 0.0, 1.0))


def _stretched(lines: Lines, v: Interval, scale: float, shift: float) -> Lines:
    """Lines in `u = scale v + shift` as lines in v: a slope is rounded, which moves the line by UNIT of `|slope v|`."""
    size = np.maximum(np.abs(v.lower), np.abs(v.upper))
    above_slope, below_slope = lines.above_slope * scale, lines.below_slope * scale
    above_off, below_off = (up(up(np.abs(slope) * (2 * UNIT)) * size) for slope in (above_slope, below_slope))
    above = up(up(lines.above + up(lines.above_slope * shift)) + above_off)
    below = down(down(lines.below + down(lines.below_slope * shift)) - below_off)
    return Lines(above_slope, above, below_slope, below)
