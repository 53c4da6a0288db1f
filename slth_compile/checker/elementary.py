"""exp and the normal law at numbers, from tables in 40 digits and short Taylor series, with proven margins.

With u = 2^-53:

    exp(x), -700 <= x <= 0:  exp(m) exp(f), m the whole number nearest to x, f = x - m exactly, |f| <= 1/2. A table
        holds exp(m) within u. Taylor's series to f^18 leaves less than 2^-73; its 36 roundings are at most
        36 u exp(1/2), of exp(f) >= exp(-1/2): together less than 100 u of the result. The margin is 128 u.
    exp(x) - 1, |x| <= 1/2:  x (1 + x/2! + ... + x^17/18!); what is left is below 2^-60 of it, the sum at least 0.78,
        and its 36 roundings are at most 36 u 1.3: less than 64 u. The margin is 128 u.
    Phi(x), 0 <= x <= 9:  with g the multiple of 1/8 nearest to x, h = x - g, |h| <= 1/16,
        Phi(x) = Phi(g) + phi(g) (h - He_1(g) h^2/2! + He_2(g) h^3/3! - ...), He_{n+1}(g) = g He_n(g) - n He_{n-1}(g).
        In magnitude the terms add up to less than 2 |h|, what is left after 24 of them is below 2^-70 |h|, and none
        meets more than 5 * 24 roundings: 240 u phi(g) |h|, less than 200 u (Phi(x) - 1/2). Tables hold Phi(g) - 1/2 and
        phi(g) within u. The margin is 512 u of Phi(x) - 1/2.
    phi(x) for |x| <= 9:  exp(-x^2 / 2), whose exponent is within 41 u. The margin is 256 u.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, down, up

EXP_REACH = 700
SMALL = 0.5
"""As far as `exponential_less_one` reaches."""
NORMAL_REACH = 9.0

_PER_UNIT = 8
_EXP_TERMS, _NORMAL_TERMS = 18, 24
_EXP_MARGIN, _NORMAL_MARGIN, _DENSITY_MARGIN = 128 * UNIT, 512 * UNIT, 256 * UNIT
_TWO_PI = Decimal("6.283185307179586476925286766559005768394338798750211641949889")


def in_40_digits(function: Callable[[], list[Decimal]]) -> np.ndarray:
    """What the function returns, computed in 40 digits and rounded once."""
    with localcontext() as context:
        context.prec = 40
        return np.array([float(value) for value in function()])


@functools.cache
def _exponentials() -> np.ndarray:
    return in_40_digits(lambda: [Decimal(-m).exp() for m in range(EXP_REACH + 1)])


@functools.cache
def _factorials() -> np.ndarray:
    return in_40_digits(
        lambda: [
            1 / functools.reduce(lambda a, b: a * b, map(Decimal, range(1, n + 1)), Decimal(1))
            for n in range(_NORMAL_TERMS + 2)
        ]
    )


@functools.cache
def _normal_tables() -> tuple[np.ndarray, np.ndarray]:
    """`Phi(g) - 1/2` and `phi(g)` for the multiples g of 1/8 up to 9."""
    grid = [Decimal(j) / _PER_UNIT for j in range(int(NORMAL_REACH) * _PER_UNIT + 1)]
    return in_40_digits(lambda: list(map(_half, grid))), in_40_digits(lambda: list(map(_density, grid)))


def _density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / _TWO_PI.sqrt()


def _half(x: Decimal) -> Decimal:
    """`phi(x) (x + x^3/3 + x^5/15 + ...)`, terms of one sign."""
    total, term, n = x, x, 1
    while term > total * Decimal("1e-38"):
        term = term * x * x / (2 * n + 1)
        total, n = total + term, n + 1
    return _density(x) * total


def exponential(x: np.ndarray) -> Interval:
    """`exp(x)` for `x <= 0`, as an interval; not a number where x is none."""
    near = np.maximum(x, -float(EXP_REACH))
    whole = np.rint(near)
    rest = near - whole
    series = np.zeros_like(rest)
    for factor in _factorials()[_EXP_TERMS::-1]:
        series = series * rest + factor
    value = _exponentials()[_index(-whole, EXP_REACH)] * series
    lower = np.where(x < -EXP_REACH, 0.0, value * (1 - _EXP_MARGIN))
    upper = np.minimum(value * (1 + _EXP_MARGIN), 1.0)
    return Interval(np.where(np.isnan(x), np.nan, lower), np.where(np.isnan(x), np.nan, upper))


def exponential_less_one(x: np.ndarray) -> Interval:
    """`exp(x) - 1` for `|x| <= 1/2`, as an interval; beyond, the values there."""
    near = np.clip(x, -SMALL, SMALL)
    series = np.zeros_like(near)
    for factor in _factorials()[_EXP_TERMS:0:-1]:
        series = series * near + factor
    value = near * series
    slack = np.abs(value) * _EXP_MARGIN + TINY
    return Interval(value - slack, value + slack)


def normal_distribution(x: np.ndarray) -> Interval:
    """`Phi(x)`."""
    size = np.abs(x)
    near = np.minimum(size, NORMAL_REACH)
    halves, densities = _normal_tables()
    place = _index(np.rint(near * _PER_UNIT), len(halves) - 1)
    g = place / _PER_UNIT
    h = near - g
    before, polynomial, power, sign = np.zeros_like(h), np.ones_like(h), h, 1.0
    total = h
    for n in range(1, _NORMAL_TERMS):
        before, polynomial = polynomial, g * polynomial - (n - 1) * before
        power, sign = power * h, -sign
        total = total + sign * polynomial * power * _factorials()[n + 1]
    half = halves[place] + densities[place] * total
    lower, upper = half * (1 - _NORMAL_MARGIN), half * (1 + _NORMAL_MARGIN)
    upper = np.where(size > NORMAL_REACH, 0.5, np.minimum(upper, 0.5))
    # exact to 2^-53 near one half: outward after the last sum
    low = np.where(x < 0, 0.5 - upper, 0.5 + lower)
    high = np.where(x < 0, 0.5 - lower, 0.5 + upper)
    nothing = np.isnan(x)
    lower, upper = np.clip(down(low), 0.0, 1.0), np.clip(up(high), 0.0, 1.0)
    return Interval(np.where(nothing, np.nan, lower), np.where(nothing, np.nan, upper))


def normal_density(x: np.ndarray) -> Interval:
    """`phi(x)`, between zero and `phi(9)` beyond 9."""
    near = np.minimum(np.abs(x), NORMAL_REACH)
    middle = exponential(-0.5 * near * near)
    root = in_40_digits(lambda: [1 / _TWO_PI.sqrt()])[0]
    lower, upper = middle.lower * (root * (1 - _DENSITY_MARGIN)), middle.upper * (root * (1 + _DENSITY_MARGIN))
    return Interval(np.where(np.abs(x) > NORMAL_REACH, 0.0, lower), upper + TINY)


def _index(whole: np.ndarray, last: int) -> np.ndarray:
    """Places in a table; any where there is no number."""
    return np.nan_to_num(np.clip(whole, 0, last)).astype(np.int64)
