"""Reals enclosed by rationals: the scales and biases that folding a batch normalisation gives."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT

_BITS = 512  # significant bits kept: more than the limbs that points are evaluated in


class Enclosure(NamedTuple):
    """All reals in `lower..upper`."""

    lower: Fraction
    upper: Fraction


class Triple(NamedTuple):
    """Reals `high + low +- radius`, elementwise, all float64: about 106 significant bits."""

    high: np.ndarray
    low: np.ndarray
    radius: np.ndarray


def exact(value: float) -> Enclosure:
    """The enclosure of a float."""
    return Enclosure(Fraction(value), Fraction(value))


def add(a: Enclosure, b: Enclosure) -> Enclosure:
    """`a + b`."""
    return _rounded(a.lower + b.lower, a.upper + b.upper)


def subtract(a: Enclosure, b: Enclosure) -> Enclosure:
    """`a - b`."""
    return _rounded(a.lower - b.upper, a.upper - b.lower)


def multiply(a: Enclosure, b: Enclosure) -> Enclosure:
    """`a * b`."""
    products = [p * q for p in a for q in b]
    return _rounded(min(products), max(products))


def inverse_root(value: Fraction) -> Enclosure:
    """`1 / sqrt(value)` for `value > 0`."""
    shift = max(0, _BITS - _exponent(value) // 2)
    root = math.isqrt(math.floor(value * (1 << (2 * shift))))
    return _rounded(Fraction(1 << shift, root + 1), Fraction(1 << shift, root))


def to_triple(values: list[Enclosure]) -> Triple:
    """The enclosures as float64 arrays of shape `(len(values),)`."""
    rows = [_split(value) for value in values]
    high, low, radius = np.array(rows, np.float64).reshape(-1, 3).T
    return Triple(high, low, radius)


def exact_triple(values: np.ndarray) -> Triple:
    """Float64 values as they are."""
    return Triple(values, np.zeros_like(values), np.zeros_like(values))


def _split(value: Enclosure) -> tuple[float, float, float]:
    middle = (value.lower + value.upper) / 2
    high = float(middle)
    low = float(middle - Fraction(high))
    spread = (value.upper - value.lower) / 2 + abs(middle - Fraction(high) - Fraction(low))
    return high, low, float(spread) * (1 + 4 * UNIT) + TINY if spread else 0.0


def _exponent(value: Fraction) -> int:
    return value.numerator.bit_length() - value.denominator.bit_length()


def _rounded(lower: Fraction, upper: Fraction) -> Enclosure:
    """Outward, so that long chains of operations keep short numbers."""
    return Enclosure(_outward(lower, math.floor), _outward(upper, math.ceil))


def _outward(value: Fraction, direction) -> Fraction:
    if value.denominator.bit_length() <= _BITS and value.numerator.bit_length() <= _BITS:
        return value
    shift = _BITS - _exponent(value)
    return direction(value * Fraction(2) ** shift) * Fraction(2) ** -shift
