"""Bitonic merges (Batcher 1968) on the rows of arrays: several half-cleaners a pass over memory.

A half-cleaner of stride s takes minimum and maximum of rows s apart; those of strides L/2, L/4, ..., 1 sort a bitonic
sequence of L rows. Rows at a distance of L/16 make a column of 16: the first four half-cleaners sort every column, so
they are one pass that keeps a column in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from slth_compile.subset_sum.one_pass import one_pass

COLUMN = 16
"""Rows of a column: half-cleaners of four strides a pass."""

LONGEST = 32
"""Rows of the longest column: some leave the registers, which costs less than another pass."""


def half_cleaned(rows: Sequence[jax.Array]) -> list[jax.Array]:
    """Half-cleaners of all strides: a bitonic column sorted, columns of a longer one bitonic apart."""
    lanes, stride = list(rows), len(rows) // 2
    while stride:
        for i in range(len(lanes)):
            if i & stride == 0:
                low, high = lanes[i], lanes[i + stride]
                lanes[i], lanes[i + stride] = lax.min(low, high), lax.max(low, high)
        stride //= 2
    return lanes


def cleaned(blocks: jax.Array, rows: int) -> jax.Array:
    """Bitonic blocks `(blocks, length, batch)` cleaned until `rows` rows are left in each."""
    count, length, batch = blocks.shape
    while length > rows:
        radix = _radix(length // rows)
        blocks = jnp.stack(_pass(blocks, radix), 1).reshape(count * radix, -1, batch)
        count, length = count * radix, length // radix
    return blocks


def blocked(columns: Sequence[jax.Array], rows: int) -> list[jax.Array]:
    """Bitonic blocks `(1, length, batch)` that follow one another, cleaned until at most `rows` rows are left in each.

    Returns:
        Arrays `(n, rows, batch)`: entry `i` of the j-th of k is block `i k + j`.
    """
    if columns[0].shape[1] <= rows:
        return list(columns)
    blocks = cleaned(jnp.concatenate(columns), LONGEST * rows)
    radix = blocks.shape[1] // rows
    return [x.reshape(len(blocks), rows, -1) for x in _pass(blocks, radix)]


def _pass(blocks: jax.Array, radix: int) -> tuple[jax.Array, ...]:
    """Half-cleaners of the first strides of each block; what they make of it, one array for each part of a block."""
    return one_pass(lambda *x: half_cleaned(x), columns(blocks, radix), radix)


def _radix(length: int) -> int:
    """Rows of a column in the next pass: one pass where its columns are not too long, else the usual ones."""
    return length if length <= LONGEST else COLUMN


def columns(blocks: jax.Array, count: int) -> list[jax.Array]:
    """`count` slices along the rows of each block, flat: `(blocks, length // count * batch)`."""
    flat = blocks.reshape(blocks.shape[0], count, -1)
    return [flat[:, i] for i in range(count)]


def parts(blocks: jax.Array, count: int) -> list[jax.Array]:
    """The same, `(blocks, length // count, batch)`: a reversed block cannot be read as if it were flat."""
    return [part[:, 0] for part in jnp.split(blocks.reshape(blocks.shape[0], count, -1, blocks.shape[2]), count, 1)]
