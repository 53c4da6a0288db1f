"""Outward rounding for float64 on devices that may flush subnormals, in any order of summation.

The model behind every bound: one operation returns `(a op b)(1 + e) + t` with `|e| <= 2^-53` and `|t| <= 2^-1022`,
where `t` stands for a result that was flushed to zero. Fused multiply-adds only do better. Operands are never
subnormal: `without_subnormals` widens what comes from outside. Nothing here divides, as XLA turns division by a
constant into a product with its reciprocal. XLA also merges `(x + c) + c'`: the literals added in certified code are
multiples of `TINY`, or have room to spare.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, TypeVar

import numpy as np

UNIT_ROUNDOFF = 2.0**-53
TINY = 2.0**-1022
"""The smallest normal number: more than one flushed result is off by."""

PUBLISHED_DIGITS = 10

Array = TypeVar("Array", bound=Any)


def gamma(terms: int) -> float:
    """Relative error bound `gamma_n = n u / (1 - n u)` of a dot product, rounded up.

    For any order of summation, `|fl(a . b) - a . b| <= gamma_n |a| . |b| + 2 n TINY` (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., section 3.1).

    Args:
        terms: Number of products `n`, less than 2^40.

    Returns:
        A float64 that is at least `gamma_n`.
    """
    assert 0 < terms < 2**40
    return terms * UNIT_ROUNDOFF * (1 + 2.0**-12)


def up(value: Array) -> Array:
    """A number that is at least every real result that one operation may have rounded, or flushed, to `value`."""
    return value + abs(value) * (2 * UNIT_ROUNDOFF) + TINY


def down(value: Array) -> Array:
    """A number that is at most every real result that one operation may have rounded, or flushed, to `value`."""
    return value - abs(value) * (2 * UNIT_ROUNDOFF) - TINY


def without_subnormals(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval widened so that no bound is subnormal; a device may read subnormals as zero.

    Args:
        lower: Lower bounds, float64.
        upper: Upper bounds, float64, of the same shape.

    Returns:
        `(lower, upper)`, moved outward by less than `TINY`.
    """
    small = np.abs(lower) < TINY
    lower = np.where(small, np.where(lower < 0, -TINY, 0.0), lower)
    small = np.abs(upper) < TINY
    return lower, np.where(small, np.where(upper > 0, TINY, 0.0), upper)


def published_up(value: float) -> float:
    """The value rounded up to ten significant decimal digits.

    The float that is returned is the nearest one to that decimal. Rounding to nearest is monotone and `value` is a
    float below the decimal, so the float is at least `value` too: both readings of the printed number are true.

    Args:
        value: A float64, not NaN; infinities are returned as they are.

    Returns:
        A float64 whose shortest decimal form has at most ten digits and is at least `value`.
    """
    return _rounded(value, ROUND_CEILING)


def published_down(value: float) -> float:
    """The value rounded down to ten significant decimal digits; see `published_up`."""
    return _rounded(value, ROUND_FLOOR)


def _rounded(value: float, rounding: str) -> float:
    if math.isinf(value):
        return value
    return float(Context(prec=PUBLISHED_DIGITS, rounding=rounding).create_decimal(Decimal(value)))
