"""The closest subset sum over a window, exactly, for a batch of problems on the minor axis.

Data-oblivious meet-in-the-middle (Horowitz & Sahni 1974) with bitonic merges (Batcher 1968). In signed form,

    sum_S x = (T + sum e_i x_i) / 2,   e = +-1,   T = sum x,   so search   sum e_i x_i = t := 2 w - T

the signed sums of half the candidates are antisymmetric, so only their sorted negative half is built, one candidate at
a time: `concat(N - y, reverse(-|N + y|))` is bitonic already and half-cleaners sort it. The merge of `A ascending` with
`t - C descending` is bitonic too, and the best pair is adjacent in it. No sort, gather or loop: only min, max, compare.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

MAXIMUM_WINDOW = 28
"""Largest window: sums of 28 products below 2^46 leave room in int64; every two candidates more double the lists."""


def closest_subset(candidates: jax.Array, targets: jax.Array) -> jax.Array:
    """The subset of each window whose sum is closest to its target, as bits.

        argmin over S of |targets - sum_{i in S} candidates[i]|

    Args:
        candidates: Integers, shape `(n, batch)`, 2 <= n <= 28, |candidate| <= 2^(B-9) for B-bit integers.
        targets: Integers of the same type, shape `(batch,)`, |target| <= 2^(B-9).

    Returns:
        uint32, shape `(batch,)`: bit `i` is set where candidate `i` is kept. One optimum; ties go either way.
    """
    n = candidates.shape[0]
    padded = candidates if n % 2 == 0 else jnp.concatenate([candidates, jnp.zeros_like(candidates[:1])])
    first, second = jnp.split(padded, 2)
    batch = targets.shape[0]
    goal = 2 * targets - padded.sum(0)
    halves = jnp.concatenate([first, second], 1)
    negative = _negative_half(halves)
    negative_a, negative_c = negative[:, :batch], negative[:, batch:]
    # key = 2 * value + kind; values of both kinds have one parity, so a smaller odd difference is a smaller distance.
    kind_a = 2 * jnp.concatenate([negative_a, -negative_a[::-1]])
    kind_c = 2 * jnp.concatenate([-negative_c, negative_c[::-1]]) + (2 * goal + 1)
    merged = _sort_bitonic(jnp.concatenate([kind_a, kind_c]))
    lower, gap = merged[:-1], merged[1:] - merged[:-1]
    largest = jnp.iinfo(targets.dtype).max
    gap = jnp.where(gap & 1 == 1, gap, largest)
    best = gap.min(0)
    low = jnp.max(jnp.where(gap == best, lower, -largest), 0)
    high = low + best
    low_is_c = low & 1 == 1
    sum_a = jnp.where(low_is_c, high, low) >> 1
    sum_c = goal - (jnp.where(low_is_c, low, high) >> 1)
    sums = jnp.concatenate([(sum_a + first.sum(0)) >> 1, (sum_c + second.sum(0)) >> 1])
    bits = _locate(halves, sums)
    subset = bits[:batch] | (bits[batch:] << jnp.uint32(first.shape[0]))
    return subset & jnp.uint32((1 << n) - 1)


def _negative_half(x: jax.Array) -> jax.Array:
    """Ascending negative half of all signed sums `+-x_0 +- x_1 ...`, `(2^(h-1), batch)`; the other half mirrors it."""
    sums = -jnp.abs(x[:1])
    for i in range(1, x.shape[0]):
        step = jnp.abs(x[i])
        sums = _sort_bitonic(jnp.concatenate([sums - step, -jnp.abs(sums + step)[::-1]]))
    return sums


def _sort_bitonic(x: jax.Array) -> jax.Array:
    """A bitonic sequence along axis 0, sorted ascending; two strides a fused pass (radix 4)."""
    rows, batch = x.shape
    length = rows
    while length > 1:
        radix = min(4, length)
        blocks = x.reshape(rows // length, radix, length // radix, batch)
        lanes = [blocks[:, i] for i in range(radix)]
        stride = radix // 2
        while stride:
            for i in range(radix):
                if i & stride == 0:
                    low, high = lanes[i], lanes[i + stride]
                    lanes[i], lanes[i + stride] = jnp.minimum(low, high), jnp.maximum(low, high)
            stride //= 2
        x = jnp.stack(lanes, 1).reshape(rows, batch)
        length //= radix
    return x


def _all_sums(x: jax.Array) -> jax.Array:
    """All subset sums, `(2^k, batch)`: row `i` is the subset whose bits are `i`."""
    sums = jnp.zeros((1, x.shape[1]), x.dtype)
    for row in x:
        sums = jnp.concatenate([sums, sums + row])
    return sums


def _locate(x: jax.Array, sums: jax.Array) -> jax.Array:
    """A mask of `x` whose subset sum is `sums`, by outer equality of the sums of its halves."""
    split = x.shape[0] // 2
    low = lax.optimization_barrier(_all_sums(x[:split]))
    high = lax.optimization_barrier(sums - _all_sums(x[split:]))
    index = jnp.arange(low.shape[0], dtype=jnp.uint32)[:, None]
    found = jnp.zeros(low.shape, jnp.uint32)
    for j in range(high.shape[0]):
        found = jnp.where(low == high[j], index | jnp.uint32(j << split), found)
    return found.max(0)
