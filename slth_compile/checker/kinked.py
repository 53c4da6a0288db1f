"""Images of a pair (x, d) under PReLU, clip and hard sigmoid: exact but for rounding.

The change `h(x, d) = a(x + d) - a(x)` is linear between the lines `x = k` and `x + d = k`, k the kinks of a: its
extremes over the box of x and d are among the corners of those pieces.
"""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import Interval, down, up


def prelu(x: Interval, slopes: np.ndarray) -> Interval:
    """`x`, or `slopes x` below zero."""
    lower, upper = (np.where(end >= 0, end, outward(slopes * end)) for end, outward in ((x.lower, down), (x.upper, up)))
    other_lower = np.where(x.upper >= 0, x.upper, down(slopes * x.upper))
    other_upper = np.where(x.lower >= 0, x.lower, up(slopes * x.lower))
    lower, upper = np.minimum(lower, other_lower), np.maximum(upper, other_upper)
    crossing = (x.lower < 0) & (x.upper > 0)
    return Interval(np.where(crossing, np.minimum(lower, 0), lower), np.where(crossing, np.maximum(upper, 0), upper))


def prelu_change(x: Interval, d: Interval, slopes: np.ndarray) -> Interval:
    """Every `a(x + d) - a(x)` of a PReLU; the kink at zero is met along an edge at `d = -x`."""
    lower, upper = np.inf, -np.inf
    for start in x:
        for move in (d.lower, d.upper, np.minimum(np.maximum(-start, d.lower), d.upper)):
            lower = np.minimum(lower, _prelu_change(start, move, slopes, down))
            upper = np.maximum(upper, _prelu_change(start, move, slopes, up))
    return Interval(np.asarray(lower), np.asarray(upper))


def clip(x: Interval, low: float | None, high: float | None) -> Interval:
    """`x`, at least `low` and at most `high`."""
    return Interval(*(_clipped(end, low, high) for end in x))


def clip_change(x: Interval, d: Interval, low: float | None, high: float | None) -> Interval:
    """Every `a(x + d) - a(x)` of a clip.

    It grows with d. At a positive d it is largest, along x, at `x = low`, and falls away on both sides; at a negative d
    it is lowest at `x = high`, and rises on both sides. So three x will do: both ends, and the one nearest to the kink.
    """
    points = [*x]
    for kink in (low, high):
        if kink is not None:
            points.append(np.minimum(np.maximum(kink, x.lower), x.upper))
    lower = np.minimum.reduce([_clip_change(start, d.lower, low, high, down) for start in points])
    upper = np.maximum.reduce([_clip_change(start, d.upper, low, high, up) for start in points])
    return Interval(lower, upper)


def affine(x: Interval, slope: float, offset: float) -> Interval:
    """`slope x + offset`."""
    ends = x.lower * slope, x.upper * slope
    scaled = Interval(down(np.minimum(*ends)), up(np.maximum(*ends)))
    return Interval(down(scaled.lower + offset), up(scaled.upper + offset)) if offset else scaled


def _prelu_change(x: np.ndarray, d: np.ndarray, slopes: np.ndarray, outward) -> np.ndarray:
    """From `x >= 0` to below: `s d + (s - 1) x`; from below to above: `d + (1 - s) x`; else `d` or `s d`."""
    one_less = Interval(down(1 - slopes), up(1 - slopes))
    ends = one_less.lower * x, one_less.upper * x
    rest = Interval(down(np.minimum(*ends)), up(np.maximum(*ends)))
    least = outward is down
    falling = outward(outward(slopes * d) - (rest.upper if least else rest.lower))
    rising = outward(d + (rest.lower if least else rest.upper))
    stays = np.where(x >= 0, d, outward(slopes * d))
    crosses = np.where(x >= 0, d < -x, d > -x)
    return np.where(crosses, np.where(x >= 0, falling, rising), stays)


def _clipped(x: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _clip_change(x: np.ndarray, d: np.ndarray, low: float | None, high: float | None, outward) -> np.ndarray:
    """`d`, less the way to the range where x is outside of it, and no further than the range goes on."""
    start = _clipped(x, low, high)
    found = np.where(x == start, d, outward(d + outward(x - start)))
    if low is not None:
        found = np.maximum(found, np.where(start == low, 0.0, outward(low - start)))
    if high is not None:
        found = np.minimum(found, np.where(start == high, 0.0, outward(high - start)))
    return found
