"""Linear maps along axes, the same in both networks: zeros between neighbours, and a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.enclosure import Array, Interval, centred
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, gamma, up


def dilated(values: Any, factors: Sequence[int]) -> Any:
    """`factor - 1` zeros between neighbours along every axis."""
    if not isinstance(values, np.ndarray):
        return lax.pad(values, jnp.zeros((), values.dtype), [(0, 0, factor - 1) for factor in factors])
    sizes = [(size - 1) * factor + 1 for size, factor in zip(values.shape, factors, strict=True)]
    found = np.zeros(sizes, values.dtype)
    found[tuple(slice(None, None, factor) for factor in factors)] = values
    return found


def along(matrix: Array, values: Any, axis: int) -> Any:
    """`matrix @ values` along an axis."""
    if isinstance(values, np.ndarray):
        return np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return jnp.moveaxis(jnp.tensordot(matrix, values, (1, axis), precision=lax.Precision.HIGHEST), 0, axis)


def resampled(values: Interval, matrix: Array, axis: int) -> Interval:
    """All `matrix @ v` along an axis.

    In centre and radius form, as `enclosure.linear_image`: what the product of the centres rounds joins the radius.

    Args:
        values: The operand.
        matrix: Shape `(out, in)`, float64, no entry subnormal.
        axis: The axis that is `in` long.
    """
    terms = matrix.shape[1]
    error = gamma(terms + 8)
    centre, radius = centred(values)
    size = (radius + error * (abs(centre) + radius)) * (1 + 4 * error) + 4 * TINY
    middle, reach = along(matrix, centre, axis), along(abs(matrix), size, axis)
    reach = reach * (1 + 4 * error) + (abs(middle) * (2 * UNIT_ROUNDOFF) + 16 * terms * TINY)
    return Interval(down(middle - reach), up(middle + reach))
