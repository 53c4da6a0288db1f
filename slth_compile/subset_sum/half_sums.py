"""The signed sums of half a window, sorted; and the subset behind a sum.

The signed sums `+-x_0 +- x_1 ...` are antisymmetric, so only their negative half is built, one candidate at a time:
`concat(N - y, reverse(-|N + y|))` is bitonic already and half-cleaners sort it. No subset rides along: which one has a
sum is found afterwards, by comparing all sums of its candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from slth_compile.subset_sum.bitonic import COLUMN, cleaned, half_cleaned, parts
from slth_compile.subset_sum.one_pass import one_pass

_IN_REGISTERS = 8
"""Candidates whose signed sums are built in one pass, and located in one pass."""


def negative_half(x: jax.Array) -> jax.Array:
    """Ascending negative half of all signed sums of `x (2, h, batch)`: `(2, 2^(h-1), batch)`."""
    first = min(x.shape[1], _IN_REGISTERS)
    sums = jnp.stack(one_pass(_signed_sums, [x[:, i] for i in range(first)], 1 << (first - 1)), 1)
    for i in range(first, x.shape[1]):
        sums = _doubled(sums, x[:, i])
    return sums


def _signed_sums(*x: jax.Array) -> list[jax.Array]:
    """The rows of the negative half of a few candidates."""
    sums = [lax.neg(lax.abs(x[0]))]
    for y in x[1:]:
        sums = half_cleaned(_with_signs(sums, sums[::-1], lax.abs(y)))
    return sums


def _with_signs(rows: Sequence[jax.Array], reverse: Sequence[jax.Array], y: jax.Array) -> list[jax.Array]:
    """`concat(N - y, reverse(-|N + y|))`, bitonic."""
    return [lax.sub(row, y) for row in rows] + [lax.neg(lax.abs(lax.add(row, y))) for row in reverse]


def _doubled(sums: jax.Array, x: jax.Array) -> jax.Array:
    """The negative half `(2, m, batch)` with one candidate `(2, batch)` more: `(2, 2 m, batch)`."""
    rows, batch = sums.shape[1:]
    ahead, behind = parts(sums, COLUMN // 2), parts(sums[:, ::-1], COLUMN // 2)
    y = jnp.broadcast_to(jnp.abs(x)[:, None], ahead[0].shape)

    def column(y: jax.Array, *rows: jax.Array) -> list[jax.Array]:
        return half_cleaned(_with_signs(rows[: len(ahead)], rows[len(ahead) :], y))

    blocks = jnp.stack(one_pass(column, [y, *ahead, *behind], COLUMN), 1)
    return cleaned(blocks.reshape(2 * COLUMN, -1, batch), 1).reshape(2, 2 * rows, batch)


def locate(x: jax.Array, total: jax.Array) -> jax.Array:
    """A mask of `x (h, batch)` whose subset sum is `total (batch,)`, uint32; one is known to exist."""
    if len(x) <= _IN_REGISTERS:
        return one_pass(_located, [total, *x], 1)[0].astype(jnp.uint32)
    split = len(x) // 2
    low = jnp.stack(one_pass(lambda *x: _sums(x[0], x), list(x[:split]), 1 << split))
    left = one_pass(lambda t, *x: [lax.sub(t, s) for s in _sums(t, x)], [total, *x[split:]], 1 << (len(x) - split))
    index = jnp.arange(len(low), dtype=jnp.uint32)[:, None]
    found = jnp.zeros(low.shape, jnp.uint32)
    for j, rest in enumerate(left):
        found = jnp.where(low == rest, index | jnp.uint32(j << split), found)
    return found.max(0)


def _located(total: jax.Array, *x: jax.Array) -> tuple[jax.Array]:
    """A mask of a few candidates by comparing all sums of one half with what the other half leaves of the total."""
    split = len(x) // 2
    low, high = _sums(total, x[:split]), _sums(total, x[split:])
    found = lax.full_like(total, 0)
    for j, part in enumerate(high):
        rest = lax.sub(total, part)
        for i, sum_ in enumerate(low):
            found = lax.select(lax.eq(sum_, rest), lax.full_like(total, i | j << split), found)
    return (found,)


def _sums(like: jax.Array, x: Sequence[jax.Array]) -> list[jax.Array]:
    """All subset sums; entry `i` is the subset whose bits are `i`."""
    sums = [lax.full_like(like, 0)]
    for row in x:
        sums += [lax.add(row, sum_) for sum_ in sums]
    return sums
