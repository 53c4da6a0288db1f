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
from slth_compile.subset_sum.meet_in_the_middle import closest_subset

CHUNKS = 32
"""Chunks of one dispatch."""


def chunk_size(window: int) -> int:
    """Problems solved side by side, so that the sorted lists of a chunk stay in the cache: a power of two."""
    return max(16, min(1024, 1 << (15 - window // 2)))


def batch_size(window: int) -> int:
    """Problems of one dispatch; callers pad to it, so one compilation serves every layer."""
    return chunk_size(window) * CHUNKS


@jax.jit
def solve_batch(key: Key, addresses: jax.Array, own: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The closest subset of every window, and the sum its booleans keep.

    Args:
        key: Key of the tensor `V`.
        addresses: Flat positions of the candidates' entries of `V`, uint64 `(m, batch)`.
        own: Their entries of `U`, int64 `(m, batch)`, units of 2^-23.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain.

    Returns:
        `subsets` uint32 `(batch,)` and `sums` int64 `(batch,)`, recomputed from the subsets in exact integers.
    """
    window, batch = addresses.shape
    size = chunk_size(window)

    def solve(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        address, u, target = chunk
        candidates = entries(words(key, address)) * u
        subsets = closest_subset(candidates, target)
        return subsets, masked_sum(candidates, subsets)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], batch // size, size), -2, 0)

    subsets, sums = lax.map(solve, (split(addresses), split(own), split(targets)))
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
