"""Straight lines above and below the functions that are not linear: any slope is allowed, its intercept is rounded out.

For an activation `a`, the target's `a(y)` is enclosed as a function of y, and the change `h(y, d) = a(y + d) - a(y)` as
a function of d alone, whatever y is in its interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slth_compile.checker.activations import change
from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.graph import Node
from slth_compile.errors import VerificationError


class Lines(NamedTuple):
    """`below_slope v + below <= function <= above_slope v + above` on an interval; four arrays of one shape."""

    above_slope: np.ndarray
    above: np.ndarray
    below_slope: np.ndarray
    below: np.ndarray


def activation_lines(node: Node, y: Interval, d: Interval | None) -> tuple[Lines, Lines | None]:
    """Lines of `a(y)` in y and of `h(y, d)` in d, None where d is; for `larger` y and d are those of its difference.

    Raises:
        VerificationError: No lines are known for the operation.
    """
    match node.op:
        case "relu" | "larger":
            slope = 0.0
        case "leaky_relu":
            slope = float(node.fields["slope"])
        case _:
            raise VerificationError("target", f"no backward bound is known for the operation '{node.op}'")
    return _leaky_relu(y, slope), None if d is None else _leaky_relu_change(y, d, slope)


def magnitude_lines(z: Interval) -> Lines:
    """Lines of `|z|`."""
    low, high = z
    sign = np.where(low >= 0, 1.0, -1.0)
    bent = (low < 0) & (high > 0)
    width = np.where(bent, high - low, 1.0)
    chord = np.clip((high + low) / width, -1, 1)
    above = np.maximum(up(-low + up(-chord * low)), up(high + up(-chord * high)))
    zero = np.zeros_like(low)
    return Lines(
        np.where(bent, chord, sign),
        np.where(bent, above, zero),
        np.where(bent, np.clip(16 * ((high + low) / width), -1, 1), sign),
        zero,
    )


def surely(y: Interval, d: Interval | None) -> tuple[np.ndarray, np.ndarray]:
    """Where y and y + d are never negative, and where they are never positive."""
    if d is None:
        return y.lower >= 0, y.upper <= 0
    on = (y.lower >= 0) & (down(y.lower + d.lower) >= 0)
    return on, (y.upper <= 0) & (up(y.upper + d.upper) <= 0)


def _leaky_relu(y: Interval, slope: float) -> Lines:
    """The chord above; below, a line through 0 whose slope turns from `slope` to 1 around `upper = -lower`."""
    low, high = y
    fixed = np.where(low >= 0, 1.0, slope)
    bent = (low < 0) & (high > 0)
    width = np.where(bent, high - low, 1.0)
    chord = np.clip((high - slope * low) / width, slope, 1)
    ends = up(up(slope * low) + up(-chord * low)), up(high + up(-chord * high))
    ramp = np.clip(16 * (high / width - 0.5) + 0.5, 0, 1)
    zero = np.zeros_like(low)
    return Lines(
        np.where(bent, chord, fixed),
        np.where(bent, np.maximum(*ends), zero),
        np.where(bent, np.clip(slope + (1 - slope) * ramp, slope, 1), fixed),
        zero,
    )


def _leaky_relu_change(y: Interval, d: Interval, slope: float) -> Lines:
    """The largest and the smallest h over y, as functions of d: the first convex, the second linear in four pieces."""
    low, high = d
    on, off = surely(y, d)
    bent = ~(on | off)
    fixed = np.where(on, 1.0, slope)
    width = np.where(bent & (high > low), high - low, 1.0)

    def largest(e: np.ndarray) -> np.ndarray:
        return change(np.where(e >= 0, y.upper, y.lower), e, slope, up)

    def smallest(e: np.ndarray) -> np.ndarray:
        return change(np.where(e >= 0, y.lower, y.upper), e, slope, down)

    above_slope = np.clip((largest(high) - largest(low)) / width, slope, 1)
    above = np.maximum(*(up(largest(e) + up(-above_slope * e)) for e in (low, high)))
    below_slope = np.clip((smallest(high) - smallest(low)) / width, slope, 1)
    kinks = (low, high, *(np.clip(e, low, high) for e in (0.0, -y.lower, -y.upper)))
    below = np.minimum.reduce([down(smallest(e) + down(-below_slope * e)) for e in kinks])
    return Lines(
        np.where(bent, above_slope, fixed),
        np.where(bent, above, 0.0),
        np.where(bent, below_slope, fixed),
        np.where(bent, below, 0.0),
    )
