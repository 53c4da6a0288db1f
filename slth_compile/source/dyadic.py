"""From words to exact numbers: entries are multiples of 2^-23, products of 2^-46."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ENTRY_BITS = 23
PRODUCT_BITS = 2 * ENTRY_BITS
_LOW_BITS = (1 << 31) - 1
_TINY = 2.0**-1000


def entries(words: jax.Array, bits: int = ENTRY_BITS + 1, dtype: Any = jnp.int64) -> jax.Array:
    """The entries `((w >> 8) - 2^23)` of words `w`, in [-2^23, 2^23), in units of 2^-23: Uniform[-1, 1).

    With fewer bits they are the same, rounded down to multiples of `2^(24-bits)`.
    """
    kept = (words >> jnp.uint32(32 - bits)).astype(dtype)
    return (kept << (ENTRY_BITS + 1 - bits) if bits <= ENTRY_BITS else kept) - (1 << ENTRY_BITS)


def sign_entries(words: jax.Array, dtype: Any = jnp.int64) -> jax.Array:
    """The signed constants of words: 2^23 where the top bit is set, else -2^23, in units of 2^-23."""
    return ((words >> jnp.uint32(31)).astype(dtype) << (ENTRY_BITS + 1)) - (1 << ENTRY_BITS)


def masked_sum(candidates: jax.Array, subsets: jax.Array) -> jax.Array:
    """The sum a mask keeps, from its booleans: `sum_i bit_i(subsets) * candidates[i]`, `(m, batch) -> (batch,)`."""
    index = jnp.arange(candidates.shape[0], dtype=subsets.dtype)[:, None]
    kept = (subsets >> index) & jnp.ones((), subsets.dtype) == 1
    return jnp.where(kept, candidates, 0).sum(0)


def split(sums: np.ndarray, gain: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers in units of `2^(gain-46)` as the exact sum of two float64 arrays.

    Args:
        sums: int64, magnitude below 2^62.
        gain: Exponent of the gadget.

    Returns:
        `high, low` with `high + low == sums * 2^(gain-46)` exactly and `|low| < 2^(gain-15)`; low is one zero where the
        sums fit a float64.
    """
    # A power of two, and no result subnormal: these products are exact.
    unit = 2.0 ** (gain - PRODUCT_BITS)
    if sums.size and sums.min() >= -(1 << 53) and sums.max() <= 1 << 53:
        return sums * unit, np.zeros((1,) * sums.ndim)
    low = sums & _LOW_BITS
    return (sums - low) * unit, low * unit


def enclose_difference(
    sums: np.ndarray, gain: int, weights: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radius of `sums * 2^(gain-46) - w` for every `w` within `error` of `weights`, rounded outward.

    Args:
        sums: Exact sums, int64.
        gain: Exponent of the gadget.
        weights: float64, the shape of `sums`.
        error: Absolute error of `weights`, float64, broadcastable.

    Returns:
        float64 `center, radius` with `|E - center| <= radius`.
    """
    high, low = split(sums, gain)
    # Two roundings to nearest, each within 2^-53 of its result; twice that also covers the sum below.
    first = high - weights
    center = first + low
    radius = 2.0**-52 * (np.abs(first) + np.abs(center)) + error * (1 + 2.0**-50) + _TINY
    return center, radius
