"""Real numbers in fixed point of as many digits as it takes, each with a radius: arrays of small integers in float64.

    value = sum over i of limbs[i] 2^(20 (head - i)) +- radius,     |limbs[i]| <= 2^19

Every operation on limbs is one on integers below 2^53, which float64 adds and multiplies exactly, in any order; what is
dropped below the last digit goes into the radius. The first limb that is not zero gives a number its sign: those below
add up to little more than half of a unit of it. Radii are float64, relative roundings are covered by `grown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, dyadic
from slth_compile.checker.rational import Enclosure
from slth_compile.errors import VerificationError

BITS = 20
"""Of a limb."""

GUARD = 1
"""Limbs below the last one that products are computed to."""

MAX_HEAD = 16
"""Numbers stay below about `2^(20 * 16 + 19)`."""

_BASE = 2.0**BITS
_LIMB = 2.0 ** (BITS - 1)
_ROUNDED = 0.51  # of a unit: all that limbs below it may add up to


class Number(NamedTuple):
    """Real numbers, one array of them a sample.

    Attributes:
        limbs: Integers of magnitude at most 2^19, float64, shape `(limbs, n, *shape)`, the highest first.
        head: Position of the first limb, which counts units of `2^(20 head)`.
        radius: Distance from the limbs' value at most, for all samples alike; float64, shape `shape`.
    """

    limbs: np.ndarray
    head: int
    radius: np.ndarray

    @property
    def low(self) -> int:
        """Position of the last limb."""
        return self.head - len(self.limbs) + 1


def unit(position: int) -> float:
    """What a limb at a position counts."""
    return 2.0 ** (BITS * position)


def grown(radius: np.ndarray) -> np.ndarray:
    """A radius that covers its own rounding: sums of up to 2^31 non-negative products, in any order."""
    return radius * (1 + 2.0**-20) + TINY


def from_floats(values: np.ndarray, tail: int) -> Number:
    """The floats, cut below position `tail`.

    Args:
        values: Finite float64, shape `(n, *shape)`.
        tail: Position of the last limb at most.

    Raises:
        VerificationError: A number is too large.
    """
    head = max(_head(values), tail)
    rest, limbs = values, []
    for position in range(head, tail - 1, -1):
        limbs.append(np.rint(rest * unit(-position)))
        rest = rest - limbs[-1] * unit(position)
        if not rest.any():
            break
    dropped = _ROUNDED * unit(tail) if rest.any() else 0.0
    return _trimmed(np.stack(limbs), head, np.full(values.shape[1:], dropped + TINY))


def from_dyadic(integers: np.ndarray, exponent: int, tail: int) -> Number:
    """`integers * 2^exponent` for `|integers| < 2^62`, cut below position `tail`; shape `(n, *shape)`."""
    high, low = (from_floats(part, tail) for part in dyadic(integers, exponent))
    return add(high, low, tail)


def from_rationals(values: Sequence[Enclosure], tail: int) -> Number:
    """Enclosed reals, one a channel, as one sample of shape `(channels,)`."""
    scale = Fraction(2) ** (-BITS * tail)
    middles = [round((value.lower + value.upper) / 2 * scale) for value in values]
    spread = [
        max(value.upper - Fraction(middle) / scale, Fraction(middle) / scale - value.lower)
        for value, middle in zip(values, middles, strict=True)
    ]
    limbs: list[list[int]] = []
    half, mask = 1 << (BITS - 1), (1 << BITS) - 1
    while any(middles) or not limbs:
        limbs.insert(0, [((m + half) & mask) - half for m in middles])
        middles = [(m - digit) >> BITS for m, digit in zip(middles, limbs[0], strict=True)]
        if len(limbs) + tail > MAX_HEAD:
            raise _too_large()
    array = np.array(limbs, np.float64)[:, None]
    return _trimmed(array, tail + len(limbs) - 1, grown(np.array([float(s) for s in spread])))


def settled(limbs: np.ndarray, head: int, radius: np.ndarray, tail: int) -> Number:
    """The number that larger limbs amount to: carried, rounded at position `tail`, without limbs that are all zero.

    Args:
        limbs: Integers of magnitude at most 2^52, overwritten.
        head: Position of the first one.
        radius: As in `Number`.
        tail: Position of the last limb that is kept.
    """
    limbs, head = carried(limbs, head)
    spare = max(0, tail - (head - len(limbs) + 1))
    if spare:
        radius = radius + _ROUNDED * unit(tail) if limbs[-spare:].any() else radius
        limbs = limbs[:-spare]
        if not len(limbs):
            limbs, head = np.zeros((1, *limbs.shape[1:])), tail
    found = _trimmed(limbs, head, radius)
    if found.head > MAX_HEAD:
        raise _too_large()
    return found


def carried(limbs: np.ndarray, head: int) -> tuple[np.ndarray, int]:
    """Limbs of magnitude at most 2^19 of the same value, and their head; overwrites what it is given."""
    carry = np.empty(limbs.shape[1:])
    for i in range(len(limbs) - 1, 0, -1):
        _carry(limbs[i], carry)
        limbs[i - 1] += carry
    top = limbs[0]
    more: list[np.ndarray] = []
    while True:
        _carry(top, carry)
        if not carry.any():
            break
        top = carry.copy()
        more.insert(0, top)
    return (np.concatenate([np.stack(more), limbs]) if more else limbs), head + len(more)


def add(a: Number, b: Number, tail: int, sign: int = 1) -> Number:
    """`a + b`, or `a - b` for the sign -1."""
    head, low = max(a.head, b.head), min(a.low, b.low)
    samples = np.broadcast_shapes(a.limbs.shape[1:], b.limbs.shape[1:])
    limbs = np.zeros((head - low + 1, *samples))
    for number, factor in ((a, 1), (b, sign)):
        for limb, part in zip(number.limbs, limbs[head - number.head :], strict=False):
            (np.add if factor > 0 else np.subtract)(part, limb, out=part)
    return settled(limbs, head, grown(a.radius + b.radius), tail)


def times(a: Number, b: Number, tail: int) -> Number:
    """`a b`, elementwise, b broadcast along axes and samples; `|a b - a' b'| <= |a'| r_b + r_a |b'| + r_a r_b`."""
    limbs, head, dropped = _product(a, b, tail)
    size_a, size_b = magnitude(a), magnitude(b)
    radius = (size_a * b.radius + a.radius * size_b) + (a.radius * b.radius + dropped)
    return settled(limbs, head, grown(radius), tail)


def scaled_middle(a: Number, b: Number, tail: int, radius: np.ndarray) -> Number:
    """The product of the limbs alone, with a radius given by the caller for all but what is dropped here."""
    limbs, head, dropped = _product(a, b, tail)
    return settled(limbs, head, grown(radius + dropped), tail)


def divided(x: Number, count: np.ndarray, tail: int) -> Number:
    """`x / count` by long division.

    Args:
        x: The numbers.
        count: Integers 1 to 2^24, float64, of a shape that broadcasts to that of a sample.
        tail: Position of the last limb that is kept.
    """
    # |rest| <= (1/2 + 2^-32) count, so no number here reaches 2^46.
    rest, limbs = np.zeros(x.limbs.shape[1:]), []
    last = min(tail, x.low)
    for i in range(x.head - last + 1):
        rest = rest * _BASE
        if i < len(x.limbs):
            rest += x.limbs[i]
        limbs.append(np.rint(rest / count))
        rest -= limbs[-1] * count
        if i + 1 >= len(x.limbs) and not rest.any():
            break
    dropped = _ROUNDED * unit(last) if rest.any() else 0.0
    return settled(np.stack(limbs), x.head, grown(x.radius / count + dropped), tail)


def value(x: Number) -> np.ndarray:
    """The limbs' value in float64: of the right sign, and off by less than `4 u` of it."""
    total = np.zeros(x.limbs.shape[1:])
    for i in range(len(x.limbs) - 1, -1, -1):
        total += x.limbs[i] * unit(x.head - i)
    return total


def magnitude(x: Number) -> np.ndarray:
    """At least the magnitudes of the limbs' value in all samples."""
    return np.abs(value(x)).max(axis=0) * (1 + 8 * UNIT)


def enclosed(x: Number) -> Interval:
    """All reals that the numbers may be."""
    middle = value(x)
    reach = (np.abs(middle) * (8 * UNIT) + x.radius) * (1 + 8 * UNIT) + TINY
    return Interval(middle - reach, middle + reach)


def _product(a: Number, b: Number, tail: int) -> tuple[np.ndarray, int, float]:
    """Limbs of the product down to `GUARD` below `tail`, before any carry, and what all others come to at most."""
    head, bottom = a.head + b.head, tail - GUARD
    size = min(len(a.limbs) + len(b.limbs) - 1, max(1, head - bottom + 1))
    limbs = np.zeros((size, *np.broadcast_shapes(a.limbs.shape[1:], b.limbs.shape[1:])))
    product, dropped = np.empty(limbs.shape[1:]), 0.0
    for i in range(len(a.limbs)):
        for j in range(len(b.limbs)):
            if i + j < size:
                limbs[i + j] += np.multiply(a.limbs[i], b.limbs[j], out=product)
            else:
                dropped += _LIMB * _LIMB * unit(head - i - j)
    return limbs, head, dropped


def _carry(limb: np.ndarray, carry: np.ndarray) -> None:
    """Moves multiples of 2^20 from a limb into `carry`."""
    np.multiply(limb, 1 / _BASE, out=carry)
    np.rint(carry, out=carry)
    limb -= carry * _BASE


def _trimmed(limbs: np.ndarray, head: int, radius: np.ndarray) -> Number:
    first, last = 0, len(limbs)
    while first < last - 1 and not limbs[first].any():
        first += 1
    while last > first + 1 and not limbs[last - 1].any():
        last -= 1
    return Number(limbs[first:last], head - first, radius)


def _head(values: np.ndarray) -> int:
    largest = float(np.abs(values).max(initial=0.0))
    exponent = int(np.frexp(largest)[1])
    head = -((BITS - 1 - exponent) // BITS)
    if not np.isfinite(largest) or head > MAX_HEAD:
        raise _too_large()
    return head


def _too_large() -> VerificationError:
    return VerificationError("bound", f"a number is beyond 2^{BITS * MAX_HEAD}, more than exact evaluation allows")
