"""The subset-sum problems of one batch: candidates from source words, generated where they are solved."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.source.dyadic import entries, masked_sum
from slth_compile.source.threefry import Key, words
from slth_compile.subset_sum import code_length
from slth_compile.subset_sum.four_list import near_subset
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW, closest_subset

CHUNKS, FOUR_LIST_CHUNKS = 32, 4
"""Chunks of one dispatch."""

ALWAYS_ENOUGH = 1 << 60
"""What padding asks for."""


def chunk_size(window: int) -> int:
    """Problems solved side by side, so that the sorted lists of a chunk stay in the cache: a power of two."""
    return 8 if window > MAXIMUM_WINDOW else max(16, min(1024, 1 << (15 - window // 2)))


def batch_size(window: int) -> int:
    """Problems of one dispatch; callers pad to it, so one compilation serves every layer."""
    return chunk_size(window) * (FOUR_LIST_CHUNKS if window > MAXIMUM_WINDOW else CHUNKS)


@jax.jit
def solve_batch(
    key: Key, addresses: jax.Array, own: jax.Array, targets: jax.Array, enough: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The closest subset of every window, or in a window above 28 a near one, and the sum its booleans keep.

    Args:
        key: Key of the tensor `V`.
        addresses: Flat positions of the candidates' entries of `V`, uint64 `(m, batch)`.
        own: Their entries of `U`, int64 `(m, batch)`, units of 2^-23.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain.
        enough: Errors at which the search for a near subset ends, int64 `(batch,)`, same units.

    Returns:
        `subsets` uint32 `(batch,)`, in a window above 28 uint64, and `sums` int64 `(batch,)`, recomputed from the
        subsets in exact integers.
    """
    window, batch = addresses.shape
    size = chunk_size(window)

    def solve(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        address, u, target, ends = chunk
        candidates = entries(words(key, address)) * u
        if window > MAXIMUM_WINDOW:
            subsets = near_subset(candidates, target, ends)
        else:
            subsets = closest_subset(candidates, target)
        return subsets, masked_sum(candidates, subsets)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], batch // size, size), -2, 0)

    subsets, sums = lax.map(solve, (split(addresses), split(own), split(targets), split(enough)))
    return subsets.reshape(-1), sums.reshape(-1)


@functools.partial(jax.jit, static_argnums=(7,))
def solve_cheapest_batch(
    key: Key,
    addresses: jax.Array,
    own: jax.Array,
    targets: jax.Array,
    tolerance: jax.Array,
    pruned: jax.Array,
    kept: jax.Array,
    exact: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The subset of every window that costs least within its tolerance, and the sum its booleans keep.

    Args:
        key: Key of the tensor `V`.
        addresses: Flat positions of the candidates' entries of `V`, uint64 `(m, batch)`.
        own: Their entries of `U`, int64 `(m, batch)`, units of 2^-23.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain.
        tolerance: int64 `(batch,)`, the same units.
        pruned: Costs of candidates by context, int32 `(8,)`; see `code_length.Costs`.
        kept: The same for those kept.
        exact: Whether the problems are solved in 64 bits.

    Returns:
        `subsets` uint32, `sums` int64 recomputed from them in exact integers, `costs` int32, `found` bool; `(batch,)`.
    """
    window, batch = addresses.shape
    size = code_length.chunk_size(window)

    def solve(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        address, u, target, allowed = chunk
        candidates = entries(words(key, address)) * u
        subsets, costs, found = code_length.cheapest_within(candidates, pruned, kept, target, allowed, exact)
        return subsets, masked_sum(candidates, subsets), costs, found

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], batch // size, size), -2, 0)

    subsets, sums, costs, found = lax.map(solve, (split(addresses), split(own), split(targets), split(tolerance)))
    return subsets.reshape(-1), sums.reshape(-1), costs.reshape(-1), found.reshape(-1)


def integer_targets(weights: np.ndarray, gain: int, product_bits: int) -> np.ndarray:
    """Weights rounded to the grid of the products, int64, units of `2^(gain - product_bits)`."""
    return np.rint(np.ldexp(weights, product_bits - gain)).astype(np.int64)
