"""Rounding outward in float64, and exact differences.

Every function is true whether or not the processor flushes subnormal numbers to zero, and for any order of summation
and any use of fused multiply-add: `|fl(sum of n products) - sum| <= gamma(n) * sum |products|` (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.1), plus n * 2^-1022 for flushed terms, which `TINY` exceeds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-900
"""Added to every enclosure: more than any sum of flushed subnormals, less than anything that matters."""


class Interval(NamedTuple):
    """All reals between two arrays of one shape, elementwise and inclusive."""

    lower: np.ndarray
    upper: np.ndarray


BLOCK = 512
"""Most products that are added up at once; the sums of blocks are added one by one."""


def roundings(terms: int) -> int:
    """How many roundings any of `terms` products meets at most on its way into their sum, in blocks of `BLOCK`."""
    return min(terms, BLOCK) + -(-terms // BLOCK) - 1


def gamma(terms: int) -> float:
    """An upper bound of `n u / (1 - n u)`, for `n < 2^31` terms."""
    return terms * UNIT * (1 + 2.0**-20)


def up(value: np.ndarray) -> np.ndarray:
    """Above the real number that one rounded operation turned into `value`."""
    return value + (np.abs(value) * (2 * UNIT) + TINY)


def down(value: np.ndarray) -> np.ndarray:
    """Below the real number that one rounded operation turned into `value`."""
    return value - (np.abs(value) * (2 * UNIT) + TINY)


def to_centre(interval: Interval) -> tuple[np.ndarray, np.ndarray]:
    """`(centre, radius)` that covers the interval."""
    centre = 0.5 * interval.lower + 0.5 * interval.upper
    radius = np.maximum(interval.upper - centre, centre - interval.lower)
    return centre, radius * (1 + 4 * UNIT) + TINY


def from_centre(centre: np.ndarray, radius: np.ndarray) -> Interval:
    """An interval that covers `centre +- radius`."""
    # (r + 4u|c|)(1 + 8u), rounded, exceeds r by more than u(|c| + r'), the rounding of c -+ r'.
    radius = (radius + np.abs(centre) * (4 * UNIT)) * (1 + 8 * UNIT) + TINY
    return Interval(centre - radius, centre + radius)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(s, e)` with `s = fl(a + b)` and `s + e = a + b` exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(p, e)` with `p = fl(a * b)` and `p + e = a * b`, up to `TINY` (Dekker); not finite beyond 2^996."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def dyadic(integers: np.ndarray, exponent: int) -> tuple[np.ndarray, np.ndarray]:
    """`(high, low)`, two float64 arrays whose exact sum is `integers * 2^exponent`, for `|integers| < 2^62`."""
    high = (integers >> 31) << 31
    return np.ldexp(high.astype(np.float64), exponent), np.ldexp((integers - high).astype(np.float64), exponent)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high
