"""The product of two matrices of activations, as in attention, and its difference.

    (x + dx)(y + dy) - x y = dx y + (x + dx) dy

Interval matrices are multiplied in centre and radius form, `(a +- r)(b +- q) = a b +- (|a| q + r (|b| + q))`, three
products of numbers each; it holds every product, exactly so where one of the radii is zero, and an interval that holds
another has a product that holds the other's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from slth_compile.certificate.enclosure import Interval, added, centred, library
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, gamma, up


def matrix_product_image(
    x: tuple[Interval, Interval], d: tuple[Interval | None, Interval | None]
) -> tuple[Interval, Interval | None]:
    """All `x y`, and all changes of it, rounded outward.

    Args:
        x: Enclosures of both operands, `(..., I, K, batch)` and `(..., K, J, batch)`.
        d: Enclosures of their differences; None where the two networks agree.
    """
    (a, b), (da, db) = x, d
    image = _product(a, b)
    if db is None:
        return image, None if da is None else _product(da, b)
    moved = _product(a if da is None else added(a, da), db)
    return image, moved if da is None else added(_product(da, b), moved)


def _product(a: Interval, b: Interval) -> Interval:
    """All products; `gamma` of the roundings any one summand may meet joins the radius before it is multiplied."""
    terms = a.lower.shape[-2]
    error, count = gamma(2 * terms + 32), 2 * terms + 32
    (middle, radius), (other, reach) = centred(a), centred(b)
    size, grown = abs(other) + reach, 1 + 4 * error
    first = _multiplied(abs(middle), (reach + error * size) * grown + 4 * TINY)
    spread = first + _multiplied(radius * grown + 4 * TINY, size)
    centre = _multiplied(middle, other)
    spread = spread * (1 + 32 * UNIT_ROUNDOFF) + (abs(centre) * (2 * UNIT_ROUNDOFF) + 16 * count * TINY)
    return Interval(down(centre - spread), up(centre + spread))


def _multiplied(a: Any, b: Any) -> Any:
    """`a @ b` for every sample, in float64 and in any order of summation."""
    xp = library(a)
    left, right = (xp.moveaxis(v, -1, 0) for v in (a, b))
    product = left @ right if isinstance(a, np.ndarray) else _on_device(left, right)
    return xp.moveaxis(product, 0, -1)


def _on_device(left: Any, right: Any) -> Any:
    batch = tuple(range(left.ndim - 2))
    numbers = (((left.ndim - 1,), (left.ndim - 2,)), (batch, batch))
    return lax.dot_general(left, right, numbers, precision=lax.Precision.HIGHEST)
