"""The closest subset sum over a window, exactly, for a batch of problems on the minor axis.

Data-oblivious meet-in-the-middle (Horowitz & Sahni 1974) with bitonic merges (Batcher 1968). In signed form,

    sum_S x = (T + sum e_i x_i) / 2,   e = +-1,   T = sum x,   so search   sum e_i x_i = t := 2 w - T

The signed sums `A` and `C` of the halves are sorted lists. The merge of `A ascending` with `t - C descending` is
bitonic, the best pair adjacent in it. No sort, gather or loop: only min, max, compare. The last five half-cleaners
run on blocks of 32 rows that stay in registers until their best adjacent pair is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.subset_sum.bitonic import COLUMN, blocked, half_cleaned, parts
from slth_compile.subset_sum.half_sums import locate, negative_half
from slth_compile.subset_sum.one_pass import materialise, one_pass

MAXIMUM_WINDOW = 30
"""Largest window: a subset is one word of 32 bits, and every two candidates more double the lists."""

_BLOCK = 32
"""Rows of the last blocks, as many as a CPU has vector registers."""


def closest_subset(candidates: jax.Array, targets: jax.Array) -> jax.Array:
    """The subset of each window whose sum is closest to its target, as bits.

        argmin over S of |targets - sum_{i in S} candidates[i]|

    Args:
        candidates: Integers of B bits, shape `(n, batch)`, 2 <= n <= 30.
        targets: Integers of the same type, shape `(batch,)`; `4 (|target| + sum_i |candidates[i]|) < 2^(B-1)`.

    Returns:
        uint32, shape `(batch,)`: bit `i` is set where candidate `i` is kept. One optimum; ties go either way.
    """
    n, batch = candidates.shape
    if n % 2:
        candidates = jnp.concatenate([candidates, jnp.zeros_like(candidates[:1])])
    halves = materialise(candidates.reshape(2, -1, batch))
    totals = halves.sum(1, dtype=halves.dtype)
    goal = 2 * targets - totals[0] - totals[1]
    negative = negative_half(halves)
    key, low = _best_pair(negative[0], negative[1], goal)
    sums = one_pass(_pair_sums, [key, low, goal, *totals], 2)
    first, second = (locate(half, sum_) for half, sum_ in zip(halves, sums, strict=True))
    subset = first | (second << jnp.uint32(halves.shape[1]))
    return subset & jnp.uint32((1 << n) - 1)


def _best_pair(negative_a: jax.Array, negative_c: jax.Array, goal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Key of the smallest distance between an `A` and a `t - C`, and the lower of the two, `(batch,)` each."""
    rows, batch = negative_a.shape
    odd = 2 * goal + 1
    if 4 * rows <= _BLOCK:

        def block(odd: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
            a, c = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            return _sorted_block(*_keys(a, a[::-1], c, c[::-1], odd))[:2]

        return one_pass(block, [odd, *negative_a, *negative_c], 2)  # type: ignore[return-value]
    count = max(1, min(COLUMN, 4 * rows // _BLOCK) // 4)
    lists = [parts(x[None], count) for x in (negative_a, negative_a[::-1], negative_c, negative_c[::-1])]
    odd = jnp.broadcast_to(odd, lists[0][0].shape)

    def column(odd: jax.Array, *rows: jax.Array) -> list[jax.Array]:
        a, a_reverse, c, c_reverse = (rows[i * count : (i + 1) * count] for i in range(4))
        return half_cleaned(_keys(a, a_reverse, c, c_reverse, odd))

    sorted_columns = one_pass(column, [odd, *itertools.chain(*lists)], 4 * count)
    blocks = blocked(sorted_columns, _BLOCK)
    # Each array of blocks is read where it was written: one array of them all would be another trip through the cache.
    found = [one_pass(_sorted_block, [block[:, i] for i in range(block.shape[1])], 4) for block in blocks]
    joined = [jnp.stack(x, 1).reshape(-1, batch) for x in zip(*found, strict=True)]
    while len(joined[0]) > 1:
        joined = _joined(joined)
    return joined[0][0], joined[1][0]


def _keys(
    a: Sequence[jax.Array],
    a_reverse: Sequence[jax.Array],
    c: Sequence[jax.Array],
    c_reverse: Sequence[jax.Array],
    odd: jax.Array,
) -> list[jax.Array]:
    """`2 value + kind` of all `A` ascending, then of all `t - C` descending, from the negative halves.

    Values of both kinds have one parity, so a smaller odd difference of two keys is a smaller distance.
    """
    twice = [[lax.add(row, row) for row in rows] for rows in (a, a_reverse, c, c_reverse)]
    ascending = twice[0] + [lax.neg(row) for row in twice[1]]
    return ascending + [lax.sub(odd, row) for row in twice[2]] + [lax.add(odd, row) for row in twice[3]]


def _sorted_block(*rows: jax.Array) -> tuple[jax.Array, ...]:
    """Of a bitonic block: the best key and the lower of its pair, its first and its last row when sorted."""
    ordered = half_cleaned(rows)
    keys = [_key(high, low) for low, high in itertools.pairwise(ordered)]
    return *_smallest(keys, ordered[:-1]), ordered[0], ordered[-1]


def _joined(found: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """What `_sorted_block` says of neighbours `(blocks, batch)`, of up to 16 of them together."""
    count = min(COLUMN, len(found[0]))
    operands = [x.reshape(-1, count, x.shape[-1])[:, i] for x in found for i in range(count)]

    def join(*rows: jax.Array) -> tuple[jax.Array, ...]:
        keys, lows, first, last = (rows[i * count : (i + 1) * count] for i in range(4))
        between = [_key(high, low) for low, high in zip(last[:-1], first[1:], strict=True)]
        return *_smallest([*keys, *between], [*lows, *last[:-1]]), first[0], last[-1]

    return one_pass(join, operands, 4)


def _smallest(keys: Sequence[jax.Array], lows: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    best, found = keys[0], lows[0]
    for key, low in zip(keys[1:], lows[1:], strict=True):
        found = lax.select(lax.lt(key, best), low, found)
        best = lax.min(key, best)
    return best, found


def _key(high: jax.Array, low: jax.Array) -> jax.Array:
    """The difference rotated right: odd ones, between kinds, become negative and keep their order."""
    gap = lax.sub(high, low)
    one, top = np.asarray(1, gap.dtype), np.asarray(gap.dtype.itemsize * 8 - 1, gap.dtype)
    return lax.bitwise_or(lax.shift_right_logical(gap, one), lax.shift_left(gap, top))


def _gap(key: jax.Array) -> jax.Array:
    """The inverse of `_key`."""
    one, top = np.asarray(1, key.dtype), np.asarray(key.dtype.itemsize * 8 - 1, key.dtype)
    return lax.bitwise_or(lax.shift_left(key, one), lax.shift_right_logical(key, top))


def _pair_sums(
    key: jax.Array, low: jax.Array, goal: jax.Array, total_a: jax.Array, total_c: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The subset sums of the halves behind the best pair; `low`, `low + gap` are `2 value + kind`, kind 1 `t - C`."""
    one = np.asarray(1, key.dtype)
    high = lax.add(low, _gap(key))
    low_is_c = lax.eq(lax.bitwise_and(low, one), lax.full_like(low, 1))
    sum_a = lax.shift_right_arithmetic(lax.select(low_is_c, high, low), lax.full_like(low, 1))
    sum_c = lax.sub(goal, lax.shift_right_arithmetic(lax.select(low_is_c, low, high), lax.full_like(low, 1)))
    halved = [lax.add(sum_a, total_a), lax.add(sum_c, total_c)]
    return lax.shift_right_arithmetic(halved[0], one), lax.shift_right_arithmetic(halved[1], one)
