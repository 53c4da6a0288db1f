"""Numbers in fixed point, as limbs of 20 bits held in float64, and a radius for all that was dropped.

    value = sum_a limbs[a] 2^(20 (head - a)),   |true - value| <= radius,   |limbs[a]| <= 2^19 + 1

Products of limbs are integers below 2^39, and sums of up to 2^14 of them below 2^53: float64 adds them up without
rounding, in any order, fused or not, on any device. What is dropped is dropped here, on purpose, and counted. The sign
of a number is that of its first limb that is not zero, as the others together are less than one of its units.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BITS = 20
MOST_PRODUCTS = 2**14
"""Most products of two limbs that are added up before carrying."""

LARGEST_LIMB = 2.0 ** (BITS - 1) + 1
ABOVE = 1 + 2.0**-20
"""Covers the rounding of a radius: of sums of nonnegative numbers, up to 2^30 of them."""

_BASE = 2.0**BITS


class Places(NamedTuple):
    """Which powers of 2^20 a number's limbs stand for.

    Attributes:
        head: Of the first limb.
        limbs: Number of limbs.
    """

    head: int
    limbs: int

    @property
    def unit(self) -> float:
        """What one in the last limb stands for."""
        return 2.0 ** (BITS * (self.head - self.limbs + 1))

    def scale(self, limb: int) -> float:
        """What one in a limb stands for."""
        return 2.0 ** (BITS * (self.head - limb))


class Fixed(NamedTuple):
    """A batch of numbers in fixed point.

    Attributes:
        limbs: Float64 integers, shape `(places, *shape, batch)`: a limb of all numbers is one long row.
        radius: Shape `(*shape, 1)`; it holds for every sample of the batch.
        top: The largest first limb met on the way, a scalar; above `LARGEST_LIMB` the numbers are worth nothing.
    """

    limbs: Any
    radius: Any
    top: Any


def digits(values: np.ndarray, places: Places) -> tuple[np.ndarray, float]:
    """The limbs nearest to float64 values, `(places, *shape)`, and how far off the worst is.

    Every difference is exact: what is subtracted are the leading bits.
    """
    rest = np.asarray(values, np.float64)
    found, off = np.zeros((places.limbs, *rest.shape)), float(np.abs(rest).max(initial=0.0))
    for limb in range(places.limbs):
        if off == 0:
            break
        scale = places.scale(limb)
        np.rint(rest / scale, out=found[limb])
        rest = rest - found[limb] * scale
        off = float(np.abs(rest).max(initial=0.0))
    return found, off


def entered(values: np.ndarray, places: Places) -> Fixed:
    """Inputs `(batch, *shape)` in fixed point."""
    limbs, off = digits(values, places)
    limbs = np.moveaxis(limbs, 1, -1)
    return Fixed(*jax.device_put((limbs, np.full((*values.shape[1:], 1), off), np.abs(limbs[0]).max())))


def carried(sums: Any, count: int, passes: int = 3) -> Any:
    """Sums by significance, integers, as `count` limbs; what is below the last one is dropped, less than 3/4 of a unit.

    Every pass moves all carries up by one place at once. Three of them leave limbs of at most `LARGEST_LIMB` behind
    sums below 2^53, two behind sums below 2^38, one behind sums or differences of two numbers.

    Args:
        sums: The sum of every significance, largest first, shape `(significances, *shape, batch)`.
        count: Limbs to keep, at most as many as there are significances.
        passes: How often carries move.
    """

    # A loop: written out, a pass would be fused into its readers and done again for each of them.
    def one(_: Any, sums: Any) -> Any:
        carry = jnp.round(sums[1:] * (1 / _BASE))
        return sums - _shifted(carry * _BASE, 1, 0) + _shifted(carry, 0, 1)

    return lax.fori_loop(0, passes, one, sums)[:count]


def signs(limbs: Any) -> Any:
    """A float64 with the sign of each number, and within a few roundings of it in units of its first limb."""
    weights = np.ldexp(1.0, -BITS * np.arange(len(limbs)))
    return jnp.sum(limbs * weights.reshape(-1, *(1,) * (limbs.ndim - 1)), 0)


def normal(limbs: Any, passes: int = 1) -> Any:
    """The same numbers, sums or differences of two, with every limb but the first in its range."""
    return carried(limbs, len(limbs), passes)


def chosen(where: Any, a: Any, b: Any) -> Any:
    """Limbs of `a` where the numbers' condition `(*shape, batch)` holds, of `b` elsewhere."""
    return jnp.where(where, a, b)


def larger(a: Any, b: Any) -> Any:
    """The larger number of two."""
    return chosen(signs(normal(a - b)) >= 0, a, b)


def tops(limbs: Any, *before: Any) -> Any:
    """The largest first limb, of these numbers and of those before them."""
    return functools.reduce(jnp.maximum, before, jnp.max(jnp.abs(limbs[0])))


def magnitude(value: Fixed, places: Places) -> Any:
    """A float64 that no sample exceeds in magnitude, `(*shape, 1)`."""
    size = jnp.max(jnp.abs(signs(value.limbs)), -1, keepdims=True) * (2.0 ** (BITS * places.head) * ABOVE)
    return size + value.radius


def collected(products: Iterable[tuple[int, Any]], count: int) -> Any:
    """Sums by significance of the products of two numbers' limbs.

    Args:
        products: By limb `k` of one of them, the products of that limb and all limbs `a` of the other, of shape
            `(limbs, *shape, batch)`; they have significance `a + k`.
        count: The last significance that is summed up: one below the result's last limb.

    Returns:
        Shape `(count + 1, *shape, batch)`. Significances below zero are left out: a caller knows that they are zero.
    """
    found = []
    for k, part in products:
        first, kept = max(0, -k), min(len(part), count + 1 - k)
        if kept > first:
            found.append(_shifted(part[first:kept], max(0, k), count + 1 - k - kept))
    return functools.reduce(operator.add, found)


def convolved(values: Any, factors: Callable[[Any], Any], shift: int, count: int) -> Any:
    """`collected` for products with all of a number's limbs, one after another in a loop: a small program.

    Args:
        values: Limbs of the one number, shape `(limbs, *shape, batch)`.
        factors: Limb `k` of the other, `k` below `count + 1`, of a shape that broadcasts against `(*shape, batch)`.
        shift: Significance `a + k - shift` is the result's limb.
        count: As for `collected`.
    """
    padded = _shifted(values, count + 1, max(0, count + 1 + shift - len(values)))

    def step(k: Any, found: Any) -> Any:
        return found + factors(k) * lax.dynamic_slice_in_dim(padded, count + 1 + shift - k, count + 1)

    shape = jnp.broadcast_shapes(values.shape[1:], factors(0).shape)
    return lax.fori_loop(0, count + 1, step, jnp.zeros((count + 1, *shape)))


def _shifted(limbs: Any, before: int, after: int) -> Any:
    """The limbs with zeros for limbs before and after them."""
    return jnp.pad(limbs, ((before, after), *((0, 0),) * (limbs.ndim - 1)))


def dropped(terms: int, pairs: int) -> float:
    """How many of the last limb's units `collected` and `carried` drop, `terms` products of numbers in each sum.

    Less than `pairs` products of limbs of each lower significance, each at most `(2^19 + 1)^2` of its own unit, which
    is 2^-40 and less of the result's: 0.26 of its units for all of them; rounding on the way takes less than one more.
    """
    return terms * pairs * 0.26 + 1


def whole(limbs: Any, places: Places) -> Any:
    """The numbers in float64, with a relative error below 2^-48."""
    return signs(limbs) * 2.0 ** (BITS * places.head)


QUICKLY: Any = {"xla_cpu_use_fusion_emitters": False}
"""Compiler options: a layer's program runs once or a few times, and compiles in less than half the time like this."""


def program(function: Callable[..., Any], *static: int) -> Callable[..., Any]:
    """The function compiled, the arguments at these positions part of the program."""
    return functools.partial(jax.jit, static_argnums=static, compiler_options=QUICKLY)(function)
