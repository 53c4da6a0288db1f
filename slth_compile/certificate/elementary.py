"""Enclosures of exp, the logistic function and the normal law at numbers, made of basic operations alone.

NumPy's and XLA's own `exp`, `tanh` and `erf` state no error bound, so none of them is used. In the model of
`certificate.rounding` (every operation within `u = 2^-53`, fused or not):

    exp(x), -700 <= x <= 0:  k = round(x / log 2), r = x - k log 2, |r| < 0.3467, exp(x) = 2^k exp(r).
        log 2 is split so that `k * high` is exact: r is within u. Taylor's series of degree 14 leaves r^15/15! < 2^-63;
        Horner's rule rounds 28 times, at most 28 u exp(|r|) <= 57 u of exp(r) >= 0.7. Together less than 64 u; if a
        compiler merged `k * high + k * low`, r would be off by another 700 u. The margin is `EXP_MARGIN = 2048 u`.
    Phi(x), 0 <= x <= 9:  Phi(x) = 1/2 + phi(x) S(x), S(x) = sum over n of x^(2n+1) / (1 3 5 ... (2n+1)), all terms
        positive: with 112 terms the rest is below 2^-60 S, and no term meets more than 5 * 112 + 1 roundings. The
        exponent x^2/2 <= 40.5 of phi is within 41 u, the upper end of its exp within 2112 u (2812 u if merged as
        above): less than 3500 u. The margin is `NORMAL_MARGIN = 4096 u` of phi S <= 1/2.

    exp(x) - 1, |x| <= 1/2:  x (1 + x/2 + x^2/6 + ...), Horner on 15 terms, the rest below 2^-54; no partial sum exceeds
        1.3, none of the 30 roundings 1.3 u, and the sum is at least 0.78: less than 64 u. The margin is 512 u.

Below -700 exp is less than 2^-1009; beyond 9, Phi(x) and Phi(x) + x phi(x) are within `NORMAL_LIMIT` of their limits.

All functions take and return float64 arrays of at least one axis, NumPy's or JAX's: the same lines serve both.
"""

from __future__ import annotations

import math
from typing import Any

from slth_compile.certificate.enclosure import Interval, library
from slth_compile.certificate.rounding import down, up

EXP_REACH = 700.0
EXP_MARGIN = 2.0**-42
GROWTH_REACH = 0.5
GROWTH_MARGIN = 2.0**-44
NORMAL_REACH = 9.0
NORMAL_MARGIN = 2.0**-41
NORMAL_LIMIT = 2.0**-56
"""More than `9 phi(9) + 1 - Phi(9)` and the truncation of the series."""

_LOG2_INVERSE = 1.4426950408889634
_LOG2_HIGH = float.fromhex("0x1.62e42fefa0000p-1")  # its last 17 bits are zero, and |k| < 2^11
_LOG2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")  # log 2 less the first part
_FACTORIALS = tuple(1.0 / math.factorial(n) for n in range(15))
_ODD = tuple(1.0 / (2 * n + 1) for n in range(113))
_ROOT = 0.3989422804014327  # 1 / sqrt(2 pi)
_ROUNDED = 2.0**-48  # more than 16 roundings


def exponential(x: Any) -> Interval:
    """`exp(x)` for `x <= 0`."""
    xp = library(x)
    near = xp.maximum(x, -EXP_REACH)
    k = xp.round(near * _LOG2_INVERSE)
    r = (near - k * _LOG2_HIGH) - k * _LOG2_LOW
    series = xp.full_like(r, _FACTORIALS[-1])
    for factor in reversed(_FACTORIALS[:-1]):
        series = series * r + factor
    value = series * _inverse_power_of_two(-k)
    lower = xp.where(x < -EXP_REACH, 0.0, value * (1 - EXP_MARGIN))
    return Interval(lower, xp.minimum(1.0, value * (1 + EXP_MARGIN)))


def growth(x: Any) -> Interval:
    """`exp(x) - 1` for `|x| <= 1/2`; beyond, its values there."""
    xp = library(x)
    near = xp.clip(x, -GROWTH_REACH, GROWTH_REACH)
    series = xp.full_like(near, _FACTORIALS[-1])
    for factor in reversed(_FACTORIALS[1:-1]):
        series = series * near + factor
    value = near * series
    slack = abs(value) * GROWTH_MARGIN
    return Interval(down(value - slack), up(value + slack))


def logistic(x: Any) -> Interval:
    """`s(x) = 1 / (1 + exp(-x))`, in [0, 1]: with `e = exp(-|x|)`, `1 / (1 + e)` or `e / (1 + e)`."""
    xp = library(x)
    e = exponential(-abs(x))
    lower = xp.where(x < 0, e.lower / (1.0 + e.lower), 1.0 / (1.0 + e.upper))
    upper = xp.where(x < 0, e.upper / (1.0 + e.upper), 1.0 / (1.0 + e.lower))
    return Interval(lower * (1 - _ROUNDED), xp.minimum(1.0, upper * (1 + _ROUNDED)))


def logistic_slope(x: Any) -> Interval:
    """`s'(x) = e / (1 + e)^2`, which rises with `e = exp(-|x|)` in [0, 1]."""
    e = exponential(-abs(x))
    lower, upper = (end / ((1.0 + end) * (1.0 + end)) for end in e)
    return Interval(lower * (1 - _ROUNDED), upper * (1 + _ROUNDED))


def normal_distribution(x: Any) -> Interval:
    """`Phi(x)`, in [0, 1]."""
    xp = library(x)
    near = xp.minimum(abs(x), NORMAL_REACH)
    square = near * near
    series = xp.ones_like(near)
    for factor in reversed(_ODD[1:]):
        series = (square * factor) * series + 1.0
    half = _density(square) * (near * series)
    slack = half * NORMAL_MARGIN + NORMAL_LIMIT
    signed = xp.where(x < 0, -half, half)
    return Interval(xp.maximum(0.0, down(0.5 + (signed - slack))), xp.minimum(1.0, up(0.5 + (signed + slack))))


def normal_density(x: Any) -> Interval:
    """`phi(x) = exp(-x^2/2) / sqrt(2 pi)` for `|x| <= 9`; beyond, its value there."""
    near = library(x).minimum(abs(x), NORMAL_REACH)
    value = _density(near * near)
    return Interval(value * (1 - NORMAL_MARGIN), value * (1 + NORMAL_MARGIN))


def _density(square: Any) -> Any:
    return exponential(-0.5 * square).upper * _ROOT


def _inverse_power_of_two(k: Any) -> Any:
    """`2^-k` for whole numbers `0 <= k < 1024`, exactly: a product of the powers that its bits name."""
    xp = library(k)
    bits = k.astype("int32")
    value = xp.ones_like(k)
    for place in range(10):
        value = xp.where((bits >> place) & 1 == 1, value * 2.0 ** -(1 << place), value)
    return value
