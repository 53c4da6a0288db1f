"""Lines and planes above and below the functions that are not linear: any slope will do, its intercept is rounded out.

For an activation `a`, the target's `a(y)` lies between lines in y, and the change `h(y, d) = a(y + d) - a(y)` between
planes over y and d.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from slth_compile.checker.activations import change
from slth_compile.checker.arithmetic import Interval, down, to_centre, up
from slth_compile.checker.graph import Node
from slth_compile.errors import VerificationError

_MARGIN = 2.0**-20  # of the size of d


class Lines(NamedTuple):
    """`below_slope v + below <= function <= above_slope v + above` on an interval; four arrays of one shape."""

    above_slope: np.ndarray
    above: np.ndarray
    below_slope: np.ndarray
    below: np.ndarray


class Planes(NamedTuple):
    """Lines in d with `above_tilt y` and `below_tilt y` added to them; arrays of one shape."""

    lines: Lines
    above_tilt: np.ndarray
    below_tilt: np.ndarray


def activation_lines(node: Node, y: Interval, d: Interval | None) -> tuple[Lines, Planes | None]:
    """Lines of `a(y)` and planes of `h(y, d)`, None where d is; for `larger` y and d are those of its difference.

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


def flat_planes(lines: Lines) -> Planes:
    """Planes that follow d alone."""
    return Planes(lines, np.zeros_like(lines.above_slope), np.zeros_like(lines.below_slope))


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


@np.errstate(all="ignore")
def _leaky_relu_change(y: Interval, d: Interval, slope: float) -> Planes:
    """Of three planes above and three below, those that are tightest in the middle of the box of (y, d).

    The first follow d alone: chords between the ends of the largest and of the smallest h over y. Where d is never
    negative, `h <= d + d.lower y / |y.lower|` and `h >= d.lower y / y.upper` (for the relu), mirrored where it is never
    positive: the envelopes of a product of d and a step in y.
    """
    on, off = surely(y, d)
    bent = ~(on | off)
    fixed = np.where(on, 1.0, slope)
    found = [fixed, np.zeros_like(fixed), fixed.copy(), *(np.zeros_like(fixed) for _ in range(3))]
    y, d = (Interval(v.lower[bent], v.upper[bent]) for v in (y, d))
    rise, fall = np.maximum(d.lower, 0), np.maximum(-d.upper, 0)  # where the sign of d is known
    # Infinite, and so never chosen, where y does not reach below or above zero.
    left, right = ((1 - slope) / np.maximum(v, 0) for v in (-y.lower, y.upper))
    chords = _chords(y, d, slope)
    points = _vertices(y, d)
    # A tilt of zero stays one there.
    tilts = [np.where(size > 0, size * side, 0.0) for size, side in itertools.product((rise, fall), (left, right))]
    above = ((0 * rise, chords[0]), (tilts[0], 1.0), (-tilts[3], slope))
    below = ((0 * rise, chords[1]), (-tilts[2], 1.0), (tilts[1], slope))
    margin = _MARGIN * np.maximum(rise, fall)
    tops = [change(*point, slope, up) for point in points]
    bottoms = [change(*point, slope, down) for point in points]
    upper = _tightest(above, tops, points, (y, d), margin)
    # A plane below h is one above -h, turned round.
    lower = _tightest([(-tilt, -steep) for tilt, steep in below], [-v for v in bottoms], points, (y, d), margin)
    for place, values in zip(((4, 0, 1), (5, 2, 3)), (upper, [-v for v in lower]), strict=True):
        for i, value in zip(place, values, strict=True):
            found[i][bent] = value
    return Planes(Lines(*found[:4]), *found[4:])


def _tightest(planes, values, points, box: tuple[Interval, Interval], margin: np.ndarray) -> list[np.ndarray]:
    """`(tilt, slope, intercept)` of the plane above some values at all `points` that is lowest in the middle of a box.

    One that is not lower than those before it by more than `margin` is passed over: ties are left to the first.
    """
    (y_middle, _), (d_middle, _) = (to_centre(v) for v in box)
    best: list[np.ndarray] = []
    lowest = np.full(margin.shape, np.inf)
    for tilt, slope in planes:
        found = [up(up(v + up(-tilt * y)) + up(-slope * d)) for v, (y, d) in zip(values, points, strict=True)]
        intercept = np.maximum.reduce(found)
        level = intercept + tilt * y_middle + slope * d_middle
        plane = [tilt, np.broadcast_to(slope, tilt.shape), intercept]
        lower = level < lowest - margin
        best = plane if not best else [np.where(lower, new, old) for new, old in zip(plane, best, strict=True)]
        lowest = np.where(lower, level, lowest)
    return best


def _vertices(y: Interval, d: Interval) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where the edges of a box of (y, d) and the lines `y = 0` and `y + d = 0` meet: h is linear in between."""
    zero = np.zeros_like(y.lower)
    corners = [(a, b) for a in y for b in d]
    crossed = [(zero, d.lower), (zero, d.upper), (zero, zero), (-d.lower, d.lower), (-d.upper, d.upper)]
    crossed += [(y.lower, -y.lower), (y.upper, -y.upper)]
    return corners + [(np.clip(a, *y), np.clip(b, *d)) for a, b in crossed]


def _chords(y: Interval, d: Interval, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes in d between the ends of the largest and of the smallest h over y."""
    width = np.where(d.upper > d.lower, d.upper - d.lower, 1.0)

    def largest(e: np.ndarray) -> np.ndarray:
        return change(np.where(e >= 0, y.upper, y.lower), e, slope, up)

    def smallest(e: np.ndarray) -> np.ndarray:
        return change(np.where(e >= 0, y.lower, y.upper), e, slope, down)

    above, below = ((f(d.upper) - f(d.lower)) / width for f in (largest, smallest))
    return np.clip(above, slope, 1), np.clip(below, slope, 1)
