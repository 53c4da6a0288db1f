"""What activations and maxima make of a pair: `x` in the target, and the difference `d` between ticket and target."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from slth_compile.certificate.enclosure import Interval, library
from slth_compile.certificate.rounding import down, up, without_subnormals

Rounding = Callable[[Any], Any]


def activation_image(y: Interval, slope: float = 0.0) -> Interval:
    """The image of `a(y) = max(y, slope * y)`, `0 <= slope <= 1`."""
    return Interval(steepened(y.lower, slope, down), steepened(y.upper, slope, up))


def steepened(y: Any, slope: float, rounded: Rounding) -> Any:
    """`max(y, slope * y)`, `0 <= slope <= 1`, rounded outward."""
    xp = library(y)
    return xp.maximum(y, 0.0 if slope == 0.0 else _scaled(y, _exactly(Fraction(slope)), rounded))


def activation_difference(y: Interval, d: Interval, slope: float = 0.0, z: Interval | None = None) -> Interval:
    """The exact image, rounded outward, of `h(y, d) = a(y + d) - a(y)` for `a(y) = max(y, slope * y)`.

    `h` rises in `d`; `a` is convex, so `h` rises in `y` where `d >= 0` and falls where `d <= 0`. Without `z` the
    maximum is at `d = du` and `y = yu if du >= 0 else yl`, the minimum at `d = dl` and `y = yl if dl >= 0 else yu`.
    With `y + d` in `z` known as well, `d` lies in `[zl - yu, zu - yl]` and the extremal `y` moves to that strip's edge.

    Args:
        y: The target's pre-activation.
        d: Ticket minus target, before the activation.
        slope: Slope below zero, in [0, 1]; the rule holds for convex `a` only.
        z: The ticket's pre-activation, if bounds better than `y + d` are known.
    """
    (yl, yu), (dl, du), xp = y, d, library(d.lower)
    if z is None:
        highest, lowest = xp.where(du >= 0, yu, yl), xp.where(dl >= 0, yl, yu)
    else:
        du = xp.minimum(du, up(z.upper - yl))
        dl = xp.maximum(dl, down(z.lower - yu))
        highest = xp.where(du >= 0, xp.minimum(yu, up(z.upper - du)), xp.maximum(yl, down(z.lower - du)))
        lowest = xp.where(dl >= 0, xp.maximum(yl, down(z.lower - dl)), xp.minimum(yu, up(z.upper - dl)))
    return Interval(rise(lowest, dl, slope, down), rise(highest, du, slope, up))


def maximum_image(
    x: Sequence[Interval], d: Sequence[Interval] | None, z: Sequence[Interval] | None
) -> tuple[Interval, Interval | None]:
    """The maximum of the elements of `x`, and the difference of the maxima of `z = x + d` and `x`.

    Where the ticket's maximum sits, its element is at least every lower bound, and the difference is at most that
    element's own: `upper = max {du_i : zu_i >= max_j zl_j}`. Where the target's maximum sits it is at least that
    element's own: `lower = min {dl_j : xu_j >= max_i xl_i}`. The two maxima's own bounds bound their difference as
    well, and better at points: there the two may sit in different places.

    Args:
        x: Elements of the target, of one shape; `-inf` marks an element that is not there.
        d: Ticket minus target, or None where they agree.
        z: Elements of the ticket, marked likewise, or None with `d`.
    """
    xp = library(x[0].lower)
    image = Interval(_highest([v.lower for v in x]), _highest([v.upper for v in x]))
    if d is None or z is None:
        return image, None
    ticket = Interval(_highest([v.lower for v in z]), _highest([v.upper for v in z]))
    wins = [xp.where(v.upper >= ticket.lower, w.upper, -np.inf) for v, w in zip(z, d, strict=True)]
    holds = [xp.where(v.upper >= image.lower, w.lower, np.inf) for v, w in zip(x, d, strict=True)]
    lower, upper = down(ticket.lower - image.upper), up(ticket.upper - image.lower)
    return image, Interval(xp.maximum(lower, -_highest([-v for v in holds])), xp.minimum(upper, _highest(wins)))


def log_softmax_image(x: Interval, d: Interval | None, axis: int) -> tuple[Interval, Interval | None]:
    """`x_i - log sum exp x`, and its difference: `d_i - [min_j d_j, max_j d_j]`.

    The logarithm of the sum lies between `max x` and `max x + log n`, and moves by a weighted mean of the `d_j`.
    """
    xp = library(x.lower)
    terms = math.log(x.lower.shape[axis]) * (1 + 2.0**-40)
    peak_low, peak_high = (xp.max(v, axis, keepdims=True) for v in x)
    image = Interval(down(down(x.lower - peak_high) - terms), xp.minimum(0.0, up(x.upper - peak_low)))
    if d is None:
        return image, None
    low, high = xp.min(d.lower, axis, keepdims=True), xp.max(d.upper, axis, keepdims=True)
    return image, Interval(down(d.lower - high), up(d.upper - low))


def _highest(values: Sequence[Any]) -> Any:
    return functools.reduce(library(values[0]).maximum, values)


def rise(y: Any, d: Any, slope: float, rounded: Rounding) -> Any:
    """`a(y + d) - a(y)` rounded outward, without cancellation: `slope * d + (1 - slope) * (relu(y + d) - relu(y))`."""
    xp = library(y)
    relu = xp.where(y >= 0, xp.maximum(d, -y), xp.maximum(0.0, rounded(y + d)))
    if slope == 0.0:
        return relu
    steep = _scaled(relu, _exactly(1 - Fraction(slope)), rounded)
    return rounded(_scaled(d, _exactly(Fraction(slope)), rounded) + steep)


def _exactly(number: Fraction) -> tuple[float, float]:
    """Two floats around a rational number, equal where it is a float, neither subnormal."""
    near = float(number)
    low = near if Fraction(near) <= number else math.nextafter(near, -math.inf)
    high = near if Fraction(near) >= number else math.nextafter(near, math.inf)
    bounds = without_subnormals(np.asarray(low), np.asarray(high))
    return float(bounds[0]), float(bounds[1])


def _scaled(value: Any, factor: tuple[float, float], rounded: Rounding) -> Any:
    """The lower or upper end, as `rounded` says, of `factor * value`."""
    pick = library(value).maximum if rounded is up else library(value).minimum
    return rounded(pick(factor[0] * value, factor[1] * value))
