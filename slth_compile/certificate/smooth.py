"""Smooth activations over intervals: their values, and the slopes they take there.

A function that is monotone between known turning points takes its extremes over an interval at the interval's ends and
at the turning points within. The same holds for its slope, whose turning points are the inflections:

    sigmoid, tanh    rise; slopes fall with |x|
    silu             least at -1.278...; slopes turn at +-2.399..., where x tanh(x/2) = 2
    gelu             least at -0.751...; slopes turn at +-sqrt(2), where x^2 = 2
    gelu (tanh)      least at -0.752...; slopes turn at +-1.418..., where 2q' + x q'' = x q'^2 tanh(q/2): with
                     q = 2 sqrt(2/pi) (x + c x^3), s = x^2, (2 + 12 c s) / (1 + 3 c s) less x q' tanh(q/2) falls at each
                     of its zeros, as (1 + 6 c s)(1 + 3 c s) > 6 c s: it has one
    hard swish       least at -1.5; slopes jump by 1/2 at -3 and 3, and rise in between

Turning points are given as intervals that hold them, the values there likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from slth_compile.certificate import elementary
from slth_compile.certificate.enclosure import Interval, added, library, multiplied
from slth_compile.certificate.rounding import down, up
from slth_compile.graph import nodes as n

Smooth = n.Sigmoid | n.Tanh | n.Silu | n.Gelu | n.HardSwish
At = Callable[[Any], Interval]
"""Encloses a function at numbers."""

_CUBIC = 0.044715
_TWICE_ROOT = 1.5957691216057308  # 2 sqrt(2 / pi)
_CUBE = _TWICE_ROOT * _CUBIC
_FEW_ROUNDINGS = 2.0**-49
_SIXTH = 1.0 / 6.0


class Turn(NamedTuple):
    """Where a function turns, `left <= x <= right`, and its value there, `low <= f(x) <= high`."""

    left: float
    right: float
    low: float
    high: float


def _turn(place: float, value: float) -> Turn:
    return Turn(place - 2.0**-40, place + 2.0**-40, value - 2.0**-50, value + 2.0**-50)


def _mirrored(place: float, value: float) -> tuple[Turn, Turn]:
    """The turns of a slope with `a'(x) + a'(-x) = 1`."""
    return _turn(place, value), _turn(-place, 1 - value)


_SILU_LEAST = (_turn(-1.278464542761073795, -0.278464542761073795),)
_SILU_INFLECTIONS = _mirrored(2.399357280515467668, 1.099839320128866917)
_GELU_LEAST = (_turn(-0.751791524693564457, -0.169971207479903662),)
_GELU_INFLECTIONS = _mirrored(1.414213562373095049, 1.128904145185154786)
_TANH_GELU_LEAST = (_turn(-0.752461422071016258, -0.170040750571254051),)
_TANH_GELU_INFLECTIONS = _mirrored(1.418504008790828356, 1.128993068658771766)
_BELL, _STEEP_BELL = (Turn(0.0, 0.0, 0.25, 0.25),), (Turn(0.0, 0.0, 1.0, 1.0),)
_HARD_SWISH_LEAST = (Turn(-1.5, -1.5, -0.375, -0.375),)


def smooth_values(node: Smooth, y: Interval) -> Interval:
    """All values of the activation over an interval, rounded outward."""
    value, turns = _value(node)
    return _over(y, value, turns)


def smooth_slopes(node: Smooth, y: Interval) -> Interval:
    """All slopes of the activation over an interval, rounded outward; of kinks, the slopes on both sides."""
    if isinstance(node, n.HardSwish):
        return _hard_swish_slopes(y)
    slope, turns = _slope(node)
    return _over(y, slope, turns)


def smooth_difference(node: Smooth, y: Interval, d: Interval) -> Interval:
    """All `a(y + d) - a(y)`, rounded outward: what three bounds have in common.

    By the mean value theorem it is `a'(t) d` with t between y and `y + d`; by Taylor's theorem at the middle,
    `a'(y + d/2) d` but for `K |d|^3 / 24`, K the largest `|a'''|`; and it is a difference of two values. The second is
    what is left at points. Functions are evaluated once, at all ends together: one program for all of them.
    """
    xp, z = library(d.lower), added(y, d)
    between = Interval(xp.minimum(y.lower, z.lower), xp.maximum(y.upper, z.upper))
    # half of a small number may be flushed: outward twice
    middle = Interval(down(down(y.lower + 0.5 * d.lower)), up(up(y.upper + 0.5 * d.upper)))
    points = xp.stack(xp.broadcast_arrays(*y, *z, *middle))
    value, turns = _value(node)
    values = value(points)
    before = _extremes(values.each(lambda v: v[:2]), y, turns)
    after = _extremes(values.each(lambda v: v[2:4]), z, turns)
    if isinstance(node, n.HardSwish):
        slopes, central = _hard_swish_slopes(between), _hard_swish_slopes(middle)
        whole = (between.lower >= 3) | (between.upper <= -3) | ((between.lower > -3) & (between.upper < 3))
        remainder = xp.where(whole, 0.0, xp.inf)
    else:
        slope, turns = _slope(node)
        at = slope(points)
        slopes = _extremes(at.each(lambda v: v[:4]), between, turns)
        central = _extremes(at.each(lambda v: v[4:]), middle, turns)
        reach = xp.maximum(abs(d.lower), abs(d.upper))
        remainder = up(up(up(reach * reach) * reach) * (_third_derivative(node) / 24))
    moved, straight = multiplied(slopes, d), multiplied(central, d)
    lower = xp.maximum(moved.lower, down(after.lower - before.upper))
    upper = xp.minimum(moved.upper, up(after.upper - before.lower))
    return Interval(
        xp.maximum(lower, down(straight.lower - remainder)), xp.minimum(upper, up(straight.upper + remainder))
    )


def _third_derivative(node: Smooth) -> float:
    """At least the largest `|a'''|`.

    With `p = s (1 - s)` of the logistic function, `s''' = p (1 - 6p)`, at most 1/8; tanh has 16 times that. For silu,
    `|3 s'' + x s'''| <= 0.3 + |x| exp(-|x|)`; for gelu, `phi(x) |x^3 - 4x|`, largest at `x^2 = (7 - sqrt(33)) / 2`; for
    its approximation the terms of `(x s(q))'''`, each with `|s''|, |s'''| <= s'`, add up to less than 2.8.
    """
    match node:
        case n.Sigmoid():
            return 0.125
        case n.Tanh():
            return 2.0
        case n.Silu():
            return 0.7
        case n.Gelu(approximate=False):
            return 0.8
        case _:
            return 3.0


def _value(node: Smooth) -> tuple[At, Sequence[Turn]]:
    """The activation at numbers, and where it turns."""
    match node:
        case n.Sigmoid():
            return elementary.logistic, ()
        case n.Tanh():
            return _tanh, ()
        case n.Silu():
            return _silu, _SILU_LEAST
        case n.Gelu(approximate=False):
            return _gelu, _GELU_LEAST
        case n.Gelu():
            return _tanh_gelu, _TANH_GELU_LEAST
        case n.HardSwish():
            return _hard_swish, _HARD_SWISH_LEAST


def _slope(node: Smooth) -> tuple[At, Sequence[Turn]]:
    """The activation's slope at numbers, and where that turns."""
    match node:
        case n.Sigmoid():
            return elementary.logistic_slope, _BELL
        case n.Tanh():
            return _tanh_slope, _STEEP_BELL
        case n.Silu():
            return _silu_slope, _SILU_INFLECTIONS
        case n.Gelu(approximate=False):
            return _gelu_slope, _GELU_INFLECTIONS
        case n.Gelu():
            return _tanh_gelu_slope, _TANH_GELU_INFLECTIONS
        case _:
            raise TypeError(f"the slope of {type(node).__name__} jumps")


def _over(y: Interval, at: At, turns: Sequence[Turn] = ()) -> Interval:
    """The values over an interval of a function that is monotone between its turns."""
    xp = library(y.lower)
    return _extremes(at(xp.stack(xp.broadcast_arrays(*y))), y, turns)


def _extremes(found: Interval, y: Interval, turns: Sequence[Turn]) -> Interval:
    """The values over an interval of a function that is `found` at numbers in it, its ends among them."""
    xp = library(y.lower)
    lower, upper = found.lower.min(0), found.upper.max(0)
    for turn in turns:
        met = (y.lower <= turn.right) & (y.upper >= turn.left)
        lower = xp.where(met, xp.minimum(lower, turn.low), lower)
        upper = xp.where(met, xp.maximum(upper, turn.high), upper)
    return Interval(lower, upper)


def _tanh(x: Any) -> Interval:
    """`2 s(2x) - 1`; near zero `|x| - |x|^3 / 3 <= |tanh x| <= |x|` is closer."""
    xp = library(x)
    far = elementary.logistic(2.0 * x)
    far = Interval(xp.maximum(-1.0, down(2.0 * far.lower - 1.0)), xp.minimum(1.0, up(2.0 * far.upper - 1.0)))
    less = down(abs(x) - up(abs(x) * (x * x)))
    near = Interval(xp.where(x < 0, x, less), xp.where(x < 0, -less, x))
    return Interval(xp.maximum(far.lower, near.lower), xp.minimum(far.upper, near.upper))


def _tanh_slope(x: Any) -> Interval:
    """`4 s'(2x)`; both products are exact."""
    return elementary.logistic_slope(2.0 * x).each(lambda v: 4.0 * v)


def _silu(x: Any) -> Interval:
    """`x s(x)`; below the reach between -700 exp(-700) and zero."""
    xp, share = library(x), elementary.logistic(x)
    found, below = _times(x, share), x < -elementary.EXP_REACH
    return Interval(xp.where(below, -1e-300, found.lower), xp.where(below, 0.0, found.upper))


def _silu_slope(x: Any) -> Interval:
    """`s(x) + x s'(x)`; beyond the reach `s'` lies between zero and its value there."""
    near = library(x).clip(x, -elementary.EXP_REACH, elementary.EXP_REACH)
    return added(elementary.logistic(x), _times(near, elementary.logistic_slope(x)))


def _gelu(x: Any) -> Interval:
    """`x Phi(x)`; below the reach between -9 Phi(-9) and zero."""
    xp = library(x)
    found, below = _times(x, elementary.normal_distribution(x)), x < -elementary.NORMAL_REACH
    return Interval(xp.where(below, -elementary.NORMAL_LIMIT, found.lower), xp.where(below, 0.0, found.upper))


def _gelu_slope(x: Any) -> Interval:
    """`Phi(x) + x phi(x)`; beyond the reach the margin of Phi holds its distance to the limit."""
    near = library(x).clip(x, -elementary.NORMAL_REACH, elementary.NORMAL_REACH)
    return added(_loosened(elementary.normal_distribution(x)), _times(near, elementary.normal_density(x)))


def _tanh_gelu(x: Any) -> Interval:
    """`x s(q)`; below the reach between its value there and zero."""
    xp = library(x)
    found, below = _times(x, _over(_inner(x), elementary.logistic)), x < -elementary.NORMAL_REACH
    return Interval(xp.where(below, -elementary.NORMAL_LIMIT, found.lower), xp.where(below, 0.0, found.upper))


def _tanh_gelu_slope(x: Any) -> Interval:
    """`s(q) + x q' s'(q)`; beyond the reach within `NORMAL_LIMIT` of the limit."""
    near = library(x).clip(x, -elementary.NORMAL_REACH, elementary.NORMAL_REACH)
    inner = _inner(near)
    steep = near * (_TWICE_ROOT + 3.0 * _CUBE * (near * near))
    spread = abs(steep) * _FEW_ROUNDINGS
    product = multiplied(
        Interval(down(steep - spread), up(steep + spread)), _over(inner, elementary.logistic_slope, _BELL)
    )
    return added(_loosened(_over(inner, elementary.logistic)), product)


def _inner(x: Any) -> Interval:
    """`q(x)`: a product of positive sums and `x`, with at most eight roundings."""
    near = library(x).clip(x, -elementary.NORMAL_REACH, elementary.NORMAL_REACH)
    q = near * (_TWICE_ROOT + _CUBE * (near * near))
    spread = abs(q) * _FEW_ROUNDINGS
    return Interval(down(q - spread), up(q + spread))


def _hard_swish(x: Any) -> Interval:
    """`x (x + 3) / 6` between -3 and 3, with at most five roundings."""
    xp = library(x)
    near = xp.clip(x, -3.0, 3.0)
    middle = (near * (near + 3.0)) * _SIXTH
    spread = abs(middle) * _FEW_ROUNDINGS
    straight = (x <= -3.0) | (x >= 3.0)
    ends = down(middle - spread), up(middle + spread)
    return Interval(*(xp.where(straight, xp.where(x < 0, 0.0, x), end) for end in ends))


def _hard_swish_slopes(y: Interval) -> Interval:
    xp = library(y.lower)
    low, high = ((2.0 * xp.clip(end, -3.0, 3.0) + 3.0) * _SIXTH for end in y)
    spread = [abs(end) * _FEW_ROUNDINGS for end in (low, high)]
    inside, left, right = (y.lower < 3.0) & (y.upper > -3.0), y.lower <= -3.0, y.upper >= 3.0
    low = xp.where(inside, down(low - spread[0]), math.inf)
    high = xp.where(inside, up(high + spread[1]), -math.inf)
    low = xp.where(right, xp.minimum(low, 1.0), low)
    low = xp.where(left, xp.minimum(low, 0.0), low)
    high = xp.where(right, xp.maximum(high, 1.0), high)
    return Interval(low, xp.where(left, xp.maximum(high, 0.0), high))


def _times(x: Any, share: Interval) -> Interval:
    """`x` times an interval of non-negative numbers."""
    xp = library(x)
    ends = x * share.lower, x * share.upper
    return Interval(down(xp.minimum(*ends)), up(xp.maximum(*ends)))


def _loosened(values: Interval) -> Interval:
    return Interval(down(values.lower - elementary.NORMAL_LIMIT), up(values.upper + elementary.NORMAL_LIMIT))
