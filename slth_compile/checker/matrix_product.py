"""Products of two matrices of activations, and their change `(x + dx)(y + dy) - x y = dx y + (x + dx) dy`.

Intervals are multiplied by centre and radius: `|a b - a_c b_c| <= |a_c| b_r + a_r (|b_c| + b_r)`, elementwise and
summed, with `gamma |a_c| |b_c|` for the rounding of the first product.
"""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, down, from_centre, gamma, to_centre, up


def product(a: Interval, b: Interval) -> Interval:
    """All `a @ b` for `a` of shape `(n, ..., I, K)` and `b` of shape `(n, ..., K, J)`."""
    terms = a.lower.shape[-1]
    error = gamma(terms + 8)
    (a_centre, a_radius), (b_centre, b_radius) = to_centre(a), to_centre(b)
    size = np.abs(b_centre) + b_radius
    radius = np.abs(a_centre) @ (b_radius + error * size) + a_radius @ size
    # Its own sums, and the operations on elements, are rounded by less than twice `error` of it.
    return from_centre(a_centre @ b_centre, radius * (1 + 4 * error) + terms * TINY)


def product_change(a: Interval, b: Interval, da: Interval | None, db: Interval | None) -> Interval | None:
    """All changes of `a @ b`; None where neither operand changes."""
    if da is None:
        return None if db is None else product(a, db)
    if db is None:
        return product(da, b)
    return _sum(product(da, b), product(_sum(a, da), db))


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower + b.lower), up(a.upper + b.upper))
