"""Images of a pair (x, d) under smooth activations.

Between its turns a function takes its extremes over an interval at the ends; so does its derivative. With derivatives
within [m, M] between x and `z = x + d`, the change `a(z) - a(x)` is one of them times d. It is also the derivative at
the middle times d, within `K |d|^3 / 24` where `|a'''| <= K`, and it is within the enclosure of `a(z)` less that of
`a(x)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import UNIT, Interval, down, up
from slth_compile.checker.elementary import (
    EXP_REACH,
    NORMAL_REACH,
    exponential,
    normal_density,
    normal_distribution,
)

At = Callable[[np.ndarray], Interval]
Turns = tuple[tuple[float, float], ...]

OPERATIONS = frozenset({"sigmoid", "tanh", "silu", "gelu", "hard_swish"})

_FEW = 12 * UNIT
_NEAR = 2.0**-43  # a turn is within this of its float,
_CLOSE = 2.0**-51  # and what it reaches within that


class _Curve(NamedTuple):
    """A function and its derivative at numbers, and `(place, value)` where each turns; `third` is at least `|a'''|`."""

    value: At
    turns: Turns
    slope: At
    slope_turns: Turns
    third: float


def _product(a: Interval, b: Interval) -> Interval:
    ends = [p * q for p in a for q in b]
    return Interval(down(np.minimum.reduce(ends)), up(np.maximum.reduce(ends)))


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower + b.lower), up(a.upper + b.upper))


def _number(x: np.ndarray) -> Interval:
    return Interval(x, x)


def _each(function: At, x: Interval) -> tuple[Interval, Interval]:
    return function(x.lower), function(x.upper)


def _sigmoid(x: np.ndarray) -> Interval:
    e = exponential(-np.abs(x))
    below, above = e.lower / (1 + e.lower), e.upper / (1 + e.upper)
    left, right = 1 / (1 + e.upper), 1 / (1 + e.lower)
    lower, upper = np.where(x < 0, below, left), np.where(x < 0, above, right)
    return Interval(lower * (1 - _FEW), np.minimum(upper * (1 + _FEW), 1.0))


def _sigmoid_slope(x: np.ndarray) -> Interval:
    """`e / (1 + e)^2`, which grows with `e = exp(-|x|) <= 1`."""
    e = exponential(-np.abs(x))
    return Interval(e.lower / (1 + e.lower) ** 2 * (1 - _FEW), e.upper / (1 + e.upper) ** 2 * (1 + _FEW))


def _tanh(x: np.ndarray) -> Interval:
    """`1 - 2 e / (1 + e)` for `e = exp(-2|x|)`, with the sign of x; within `|x| - |x|^3/3` and `|x|`."""
    size = np.abs(x)
    missing = _sigmoid(-2 * size)
    low = np.maximum(down(1 - 2 * missing.upper), down(size - up(up(size**3) * 0.34)))
    high = np.minimum(np.minimum(up(1 - 2 * missing.lower), size), 1.0)
    return Interval(np.where(x < 0, -high, low), np.where(x < 0, -low, high))


def _tanh_slope(x: np.ndarray) -> Interval:
    slope = _sigmoid_slope(2 * x)
    return Interval(4 * slope.lower, 4 * slope.upper)


def _silu(x: np.ndarray) -> Interval:
    found = _product(_number(x), _sigmoid(x))
    return _beyond(x, -EXP_REACH, found, Interval(np.array(-1e-300), np.array(0.0)))


def _silu_slope(x: np.ndarray) -> Interval:
    return _sum(_sigmoid(x), _product(_number(np.clip(x, -EXP_REACH, EXP_REACH)), _sigmoid_slope(x)))


def _gelu(x: np.ndarray) -> Interval:
    found = _product(_number(x), normal_distribution(x))
    return _beyond(x, -NORMAL_REACH, found, Interval(np.array(-(2.0**-59)), np.array(0.0)))


def _gelu_slope(x: np.ndarray) -> Interval:
    near = _number(np.clip(x, -NORMAL_REACH, NORMAL_REACH))
    return _sum(normal_distribution(x), _product(near, normal_density(x)))


def _inner(x: np.ndarray) -> tuple[Interval, Interval]:
    """`q(x) = 2 sqrt(2/pi) (x + 0.044715 x^3)` and `x q'(x)`, for x cut to [-9, 9]."""
    near = np.clip(x, -NORMAL_REACH, NORMAL_REACH)
    root, square = 1.5957691216057308, near * near
    found = []
    for factor in (0.044715, 0.134145):
        value = near * (root + root * factor * square)
        found.append(Interval(down(value - np.abs(value) * _FEW), up(value + np.abs(value) * _FEW)))
    return found[0], found[1]


def _tanh_gelu(x: np.ndarray) -> Interval:
    low, high = _each(_sigmoid, _inner(x)[0])
    found = _product(_number(x), Interval(low.lower, high.upper))
    return _beyond(x, -NORMAL_REACH, found, Interval(np.array(-(2.0**-59)), np.array(0.0)))


def _tanh_gelu_slope(x: np.ndarray) -> Interval:
    inner, moved = _inner(x)
    low, high = _each(_sigmoid, inner)
    ends = _each(_sigmoid_slope, inner)
    steep = Interval(np.minimum(ends[0].lower, ends[1].lower), np.maximum(ends[0].upper, ends[1].upper))
    steep = Interval(steep.lower, np.where((inner.lower <= 0) & (inner.upper >= 0), 0.25, steep.upper))
    found = _sum(Interval(low.lower, high.upper), _product(moved, steep))
    slack = np.where(np.abs(x) > NORMAL_REACH, 2.0**-80, 0.0)
    return Interval(down(found.lower - slack), up(found.upper + slack))


def _hard_swish(x: np.ndarray) -> Interval:
    middle = x * (x + 3) / 6
    slack = np.abs(middle) * _FEW
    straight = np.where(x <= -3, 0.0, x)
    inside = np.abs(x) < 3
    return Interval(np.where(inside, down(middle - slack), straight), np.where(inside, up(middle + slack), straight))


def _beyond(x: np.ndarray, reach: float, found: Interval, limit: Interval) -> Interval:
    return Interval(np.where(x < reach, limit.lower, found.lower), np.where(x < reach, limit.upper, found.upper))


_SIGMOID = _Curve(_sigmoid, (), _sigmoid_slope, ((0.0, 0.25),), 0.125)
_TANH = _Curve(_tanh, (), _tanh_slope, ((0.0, 1.0),), 2.0)
# s'' = 0 where x tanh(x/2) = 2
_SILU = _Curve(
    _silu,
    ((-1.2784645427610738, -0.2784645427610738),),
    _silu_slope,
    ((2.3993572805154677, 1.0998393201288669), (-2.3993572805154677, -0.09983932012886692)),
    0.7,
)
# (x Phi)'' = (2 - x^2) phi
_GELU = _Curve(
    _gelu,
    ((-0.7517915246935645, -0.16997120747990366),),
    _gelu_slope,
    ((1.4142135623730951, 1.1289041451851548), (-1.4142135623730951, -0.12890414518515478)),
    0.8,
)
# 2 q' + x q'' = x q'^2 tanh(q/2) for one positive x, as (2 q' + x q'') / q' - x q' tanh(q/2) falls wherever it is zero
_TANH_GELU = _Curve(
    _tanh_gelu,
    ((-0.7524614220710163, -0.17004075057125406),),
    _tanh_gelu_slope,
    ((1.4185040087908284, 1.1289930686587718), (-1.4185040087908284, -0.12899306865877178)),
    3.0,
)


def value(op: str, fields: Mapping[str, Any], x: Interval) -> Interval:
    """Every value of the activation on an interval."""
    if op == "hard_swish":
        return _extent(_hard_swish, ((-1.5, -0.375),), x)
    curve = _curve(op, fields)
    return _extent(curve.value, curve.turns, x)


def change(op: str, fields: Mapping[str, Any], x: Interval, d: Interval) -> Interval:
    """Every `a(x + d) - a(x)`."""
    z = _sum(x, d)
    reached = Interval(np.minimum(x.lower, z.lower), np.maximum(x.upper, z.upper))
    middle = _sum(x, Interval(0.5 * d.lower, 0.5 * d.upper))
    steep, central = (slopes(op, fields, v) for v in (reached, middle))
    if op == "hard_swish":
        bent = ((reached.lower <= -3) & (reached.upper > -3)) | ((reached.lower < 3) & (reached.upper >= 3))
        rest = np.where(bent, np.inf, 0.0)
    else:
        third = _curve(op, fields).third
        rest = up(np.maximum(np.abs(d.lower), np.abs(d.upper)) ** 3 * (third / 24)) * (1 + _FEW)
    moved, straight = _product(steep, d), _product(central, d)
    before, after = value(op, fields, x), value(op, fields, z)
    lowers = moved.lower, down(straight.lower - rest), down(after.lower - before.upper)
    uppers = moved.upper, up(straight.upper + rest), up(after.upper - before.lower)
    return Interval(np.maximum.reduce(lowers), np.minimum.reduce(uppers))


def slopes(op: str, fields: Mapping[str, Any], x: Interval) -> Interval:
    """Every derivative of the activation on an interval, at kinks those of both sides."""
    if op == "hard_swish":
        return _hard_swish_slopes(x)
    curve = _curve(op, fields)
    return _extent(curve.slope, curve.slope_turns, x)


def _curve(op: str, fields: Mapping[str, Any]) -> _Curve:
    if op == "gelu":
        return _TANH_GELU if fields["approximate"] else _GELU
    return {"sigmoid": _SIGMOID, "tanh": _TANH, "silu": _SILU}[op]


def _extent(at: At, turns: Turns, x: Interval) -> Interval:
    first, last = _each(at, x)
    lower, upper = np.minimum(first.lower, last.lower), np.maximum(first.upper, last.upper)
    for place, reached in turns:
        within = (x.lower <= place + _NEAR) & (x.upper >= place - _NEAR)
        lower = np.where(within, np.minimum(lower, reached - _CLOSE), lower)
        upper = np.where(within, np.maximum(upper, reached + _CLOSE), upper)
    return Interval(lower, upper)


def _hard_swish_slopes(x: Interval) -> Interval:
    """0 up to -3, 1 from 3 on, `(2x + 3) / 6` between."""
    ends = [(2 * np.clip(end, -3, 3) + 3) / 6 for end in x]
    between = (x.upper > -3) & (x.lower < 3)
    lower = np.where(between, down(ends[0] - np.abs(ends[0]) * _FEW), np.inf)
    upper = np.where(between, up(ends[1] + np.abs(ends[1]) * _FEW), -np.inf)
    for outside, slope in ((x.lower <= -3, 0.0), (x.upper >= 3, 1.0)):
        lower = np.where(outside, np.minimum(lower, slope), lower)
        upper = np.where(outside, np.maximum(upper, slope), upper)
    return Interval(lower, upper)
