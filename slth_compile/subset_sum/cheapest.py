"""The cheapest subset within a tolerance, exactly, for a batch of problems on the minor axis.

    min over S of sum_{i in S} costs[i]   subject to   |targets - sum_{i in S} candidates[i]| <= tolerance

With equal costs it is the sparsest subset, with costs from probabilities the one that codes shortest. Every pair of
subsets of the two halves is looked at: an addition, an unsigned comparison and a minimum each. Costs ride in one word
with the subset that has them, so nothing is sorted, gathered or searched for afterwards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

MAXIMUM_COST = 1 << 16
"""Costs of one problem add up to less than this, in magnitude: a cost and half a subset share 31 bits."""

_UNROLLED = 8


def cheapest_subset(
    candidates: jax.Array, costs: jax.Array, targets: jax.Array, tolerance: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cheapest subset of every window whose sum is within the tolerance of its target, as bits.

    Of subsets that cost the same the one with the smallest number, read as an integer, is taken.

    Args:
        candidates: Integers, shape `(n, batch)`, 1 <= n <= 28.
        costs: int32, shape `(n, batch)`, of either sign; in magnitude they add up to less than `MAXIMUM_COST`.
        targets: Integers of the candidates' type, shape `(batch,)`.
        tolerance: Integers of the same type, shape `(batch,)` or `()`; nothing is within a negative one. For B-bit
            integers `sum |candidates| + |target| + tolerance < 2^(B-1)`, and `tolerance < 2^(B-2)`.

    Returns:
        `subsets` uint32 `(batch,)`, bit `i` set where candidate `i` is kept; `costs` int32 `(batch,)`, what they add up
        to; `found` bool `(batch,)`. Subset and cost are 0 where no subset is within the tolerance.
    """
    half = (candidates.shape[0] + 1) // 2
    unsigned = jnp.uint32 if targets.dtype == jnp.int32 else jnp.uint64
    index = jnp.arange(1 << half, dtype=jnp.int32)[:, None]
    # A barrier: otherwise the sums are computed again at every use.
    first, keys, second, second_costs = lax.optimization_barrier(
        (
            _all_sums(candidates[:half]),
            (_all_sums(costs[:half]) << half) | index,
            targets - tolerance - _all_sums(candidates[half:]),
            _all_sums(costs[half:]),
        )
    )
    # target - tolerance <= first + second <= target + tolerance is one unsigned comparison of what is above the lower.
    span = (2 * jnp.broadcast_to(tolerance, targets.shape)).astype(unsigned)
    nothing = jnp.int32(1 << 30)

    def look(step: jax.Array, best: jax.Array) -> jax.Array:
        for offset in range(unrolled):
            row = step * unrolled + offset
            above = lax.dynamic_index_in_dim(first, row, keepdims=False) - second
            key = lax.dynamic_index_in_dim(keys, row, keepdims=False)
            best = jnp.where(above.astype(unsigned) <= span, jnp.minimum(best, key), best)
        return best

    unrolled = min(_UNROLLED, 1 << half)
    best = lax.fori_loop(0, (1 << half) // unrolled, look, jnp.full(second.shape, nothing))
    totals = jnp.where(best < nothing, (best >> half) + second_costs, nothing)
    least = totals.min(0)
    rows = jnp.arange(second.shape[0], dtype=jnp.int32)[:, None]
    row = jnp.where(totals == least, rows, second.shape[0]).min(0)
    key = jnp.where(rows == row, best, 0).sum(0)
    found = (least < nothing) & (tolerance >= 0)
    subsets = (key & ((1 << half) - 1)) | (row << half)
    return jnp.where(found, subsets, 0).astype(jnp.uint32), jnp.where(found, least, 0), found


def _all_sums(x: jax.Array) -> jax.Array:
    """All subset sums, `(2^k, batch)`: row `i` is the subset whose bits are `i`."""
    sums = jnp.zeros((1, x.shape[1]), x.dtype)
    for row in x:
        sums = jnp.concatenate([sums, sums + row])
    return sums
