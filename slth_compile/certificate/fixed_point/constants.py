"""What folding multiplies a layer's channels by and adds to them, to hundreds of bits.

    v -> (v - mean) / sqrt(variance + epsilon) * scale + bias,   v -> v * scale + shift

in integers in units of 2^-640: each operation is off by less than a few units, and these are counted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from slth_compile.certificate.fixed_point.limbs import BITS, Places
from slth_compile.errors import InputError
from slth_compile.graph import nodes as n
from slth_compile.graph.fold import Norm

PRECISION = 640
_ONE = 1 << PRECISION


@dataclasses.dataclass(frozen=True)
class Reals:
    """Numbers known to a few units of 2^-640.

    Attributes:
        values: Integers, in units of 2^-640.
        error: None is further off than this many units.
    """

    values: tuple[int, ...]
    error: int

    @classmethod
    def of(cls, values: np.ndarray) -> Reals:
        """Float64 values."""
        pairs = [float(v).as_integer_ratio() for v in np.asarray(values, np.float64).reshape(-1)]
        found = tuple((p << PRECISION) // q for p, q in pairs)
        exact = all(v * q == p << PRECISION for v, (p, q) in zip(found, pairs, strict=True))
        return cls(found, 0 if exact else 1)

    @classmethod
    def dyadic(cls, values: np.ndarray, exponent: int) -> Reals:
        """Integers in units of `2^exponent`, exponent >= -640."""
        return cls(tuple(int(v) << (PRECISION + exponent) for v in np.asarray(values).reshape(-1)), 0)

    @classmethod
    def shares(cls, counts: np.ndarray) -> Reals:
        """`1 / counts` for positive whole numbers."""
        return cls(tuple(_ONE // int(c) for c in np.asarray(counts).reshape(-1)), 1)

    def nearest(self) -> np.ndarray:
        """In float64."""
        return np.array([float(Fraction(v, _ONE)) for v in self.values])

    def plus(self, other: Reals) -> Reals:
        """Sums, element by element."""
        return Reals(tuple(a + b for a, b in zip(self.values, other.values, strict=True)), self.error + other.error)

    def minus(self, other: Reals) -> Reals:
        """Differences, element by element."""
        return self.plus(Reals(tuple(-b for b in other.values), other.error))

    def times(self, other: Reals) -> Reals:
        """Products, element by element."""
        values = tuple((a * b) >> PRECISION for a, b in zip(self.values, other.values, strict=True))
        size = max(map(abs, (*self.values, *other.values)), default=0)
        spread = size * (self.error + other.error) + self.error * other.error
        return Reals(values, (spread >> PRECISION) + 2)

    def digits(self, places: Places) -> tuple[np.ndarray, float]:
        """The nearest limbs, `(places, numbers)`, and a bound on how far off the worst is."""
        shift = PRECISION + BITS * (places.head - places.limbs + 1)
        lowest = [v << -shift if shift <= 0 else (v + (1 << (shift - 1))) >> shift for v in self.values]
        found = np.zeros((places.limbs, len(lowest)))
        for column, value in enumerate(lowest):
            for limb in reversed(range(1, places.limbs)):
                rest = ((value + (1 << (BITS - 1))) & ((1 << BITS) - 1)) - (1 << (BITS - 1))
                found[limb, column] = rest
                value = (value - rest) >> BITS
            found[0, column] = value
        half = 0.5 * places.unit if shift > 0 else 0.0
        return found, half + float(self.error + 1) * 2.0**-PRECISION


def chain(taken: Sequence[Norm], bias: np.ndarray | None, channels: int) -> tuple[Reals | None, Reals | None]:
    """Scale and shift of every channel behind a layer's kernel.

    Args:
        taken: What the layer takes in, in order.
        bias: The layer's own bias, `(channels,)`.
        channels: Output channels of the layer.

    Returns:
        `(scale, shift)`, None for one and for zero.

    Raises:
        InputError: A variance that is not positive.
    """
    spread = functools.partial(_spread, channels)
    scale, shift = None, spread(bias)
    for node in taken:
        if isinstance(node, n.BatchNorm):
            factor = _inverse_roots(np.broadcast_to(node.variance, (channels,)), node.epsilon, node.name)
            own = spread(node.scale)
            factor = factor if own is None else factor.times(own)
            mean, offset = spread(node.mean), spread(node.bias)
            assert mean is not None
            shift = Reals((0,) * channels, 0).minus(mean) if shift is None else shift.minus(mean)
        else:
            factor, offset = spread(node.scale), spread(node.shift)
        if factor is not None:
            scale = factor if scale is None else scale.times(factor)
            shift = None if shift is None else shift.times(factor)
        if offset is not None:
            shift = offset if shift is None else shift.plus(offset)
    return scale, shift


def _spread(channels: int, values: np.ndarray | None) -> Reals | None:
    return None if values is None else Reals.of(np.broadcast_to(np.asarray(values, np.float64), (channels,)))


def _inverse_roots(variance: np.ndarray, epsilon: float, name: str) -> Reals:
    """`1 / sqrt(variance + epsilon)`, each within two units."""
    found = []
    for v in variance.tolist():
        total = Fraction(float(v)) + Fraction(float(epsilon))
        if total <= 0:
            raise InputError(f"'{name}': variance + epsilon is {float(total):g}, expected a positive number")
        found.append(math.isqrt((total.denominator << (2 * PRECISION)) // total.numerator))
    return Reals(tuple(found), 2)
