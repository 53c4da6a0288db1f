"""Images of a pair (x, d) under the operations that are not linear; `d = z - x` is what the ticket's value z adds."""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import Interval, down, up


def leaky_relu(x: Interval, slope: float) -> Interval:
    """`max(x, slope x)` of every element, `0 <= slope <= 1`; `slope = 0` is the relu."""
    if slope == 0:
        return Interval(np.maximum(x.lower, 0), np.maximum(x.upper, 0))
    return Interval(np.maximum(x.lower, down(slope * x.lower)), np.maximum(x.upper, up(slope * x.upper)))


def leaky_relu_difference(x: Interval, d: Interval, slope: float) -> Interval:
    """The exact image of `h(y, d) = a(y + d) - a(y)`, rounded outward.

    h grows with d, and (a is convex) with y where `d >= 0`, against y where `d < 0`: two corners hold the extremes.
    """
    at_upper = np.where(d.upper >= 0, x.upper, x.lower)
    at_lower = np.where(d.lower >= 0, x.lower, x.upper)
    return Interval(change(at_lower, d.lower, slope, down), change(at_upper, d.upper, slope, up))


def change(y: np.ndarray, d: np.ndarray, slope: float, outward) -> np.ndarray:
    """`h(y, d)` rounded by `outward`: `max(d, s d - t)` for `y >= 0`, `max(d - t, s d)` below, `t = (1 - s)|y|`."""
    if slope == 0:
        return np.where(y >= 0, np.maximum(d, -y), np.maximum(outward(d + y), 0))
    inward = up if outward is down else down
    rest = inward(inward(np.array(1 - slope)) * np.abs(y))
    scaled = outward(slope * d)
    return np.where(y >= 0, np.maximum(d, outward(scaled - rest)), np.maximum(outward(d - rest), scaled))


def largest_difference(low: np.ndarray, x_upper: np.ndarray, z: Interval, d: Interval, axis) -> Interval:
    """Difference of two maxima over `axis`.

    `max z - max x <= d_i` for an i where z is largest, so one with `z_i.upper >= max_j z_j.lower`; and `>= d_j` for a j
    where x is largest. The enclosures of both maxima bound it too, which is what is exact at points.

    Args:
        low: Lower bounds of x.
        x_upper: Upper bounds of x.
        z: Enclosure of x + d.
        d: Enclosure of d.
        axis: Axes of the maximum, which are removed.
    """
    winner = z.upper >= z.lower.max(axis=axis, keepdims=True)
    upper = np.where(winner, d.upper, -np.inf).max(axis=axis)
    winner = x_upper >= low.max(axis=axis, keepdims=True)
    lower = np.where(winner, d.lower, np.inf).min(axis=axis)
    upper = np.minimum(upper, up(z.upper.max(axis=axis) - low.max(axis=axis)))
    lower = np.maximum(lower, down(z.lower.max(axis=axis) - x_upper.max(axis=axis)))
    return Interval(lower, upper)


def log_softmax_difference(d: Interval, axis: int) -> Interval:
    """`d_i` minus the change of the log-sum-exp, which lies between the least and the largest d."""
    least, largest = d.lower.min(axis=axis, keepdims=True), d.upper.max(axis=axis, keepdims=True)
    return Interval(down(d.lower - largest), up(d.upper - least))
