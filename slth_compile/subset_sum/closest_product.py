"""The one product closest to every weight of a family, out of all whole windows of its channel."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS, masked_sum
from slth_compile.source.tensor import Tensor
from slth_compile.subset_sum.dispatch import cores, solve_everywhere
from slth_compile.subset_sum.problem import (
    WIDE,
    Table,
    batch_size,
    candidates_of,
    in_chunks,
    integer_targets,
    on_devices,
)
from slth_compile.subset_sum.search import Progress, Search, outer_error
from slth_compile.subset_sum.windows import Solution, solution

CHUNK = 512
_RANK_BITS = 5
_SHARES = 16


def solve_closest_product(family: Family, progress: Progress = lambda solved: None) -> Solution:
    """The mask in which every weight keeps the product closest to it, or nothing where zero is closer.

    Of two at the same distance it keeps the first. A weight whose product misses its tolerance is reported.

    Args:
        family: The weights and their copies.
        progress: Called with the number of weights settled, as they are.
    """
    search = Search(family, progress)
    flat = search.wanting(np.arange(family.weights.size))
    progress(family.weights.size - flat.size)
    if flat.size == 0:
        return solution(search)
    targets = integer_targets(family.weights.reshape(-1)[flat], family.gadget.gain, PRODUCT_BITS)
    choose = functools.partial(closest_product_batch, window=family.gadget.window)
    run = on_devices(family, choose, (flat.astype(np.uint32), targets), (family.windows.astype(np.int32),))
    size = min(batch_size(family.gadget.window), CHUNK * -(-flat.size // (_SHARES * cores() * CHUNK)))
    windows, subsets, sums = solve_everywhere(run, flat.size, size, lambda: progress(0))
    search.windows[flat], search.subsets[flat], search.sums[flat] = windows, subsets, sums
    search.best[flat] = outer_error(family, flat, sums)
    progress(flat.size)
    return solution(search)


@functools.partial(jax.jit, static_argnames=("window",), compiler_options=WIDE)
def closest_product_batch(
    v: Tensor,
    table: Table,
    flat: jax.Array,
    targets: jax.Array,
    offered: jax.Array,
    count: jax.Array,
    *,
    window: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The closest product of every weight; of the candidates no more than a window of a chunk exists at a time.

    Args:
        v: The tensor `V`.
        table: The family's copies.
        flat: Canonical flat positions of the weights, uint32 `(batch,)`.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain, magnitude below 2^57.
        offered: Windows of every channel, int32 `(C,)`; at least one for each weight that is wanted.
        count: Weights that are wanted, int32: the first of the batch.
        window: Candidates m, at most 32.

    Returns:
        `windows` int32, `subsets` uint32 with at most one bit, `sums` int64 recomputed from them; `(batch,)`.
    """

    def solve(flat: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        available = offered.at[flat // table.outputs % table.channels].get(mode="promise_in_bounds")
        ranks = jnp.arange(window, dtype=jnp.int64)[:, None]

        def candidates(numbers: jax.Array) -> jax.Array:
            return candidates_of(v, table, flat, numbers.astype(jnp.uint32), window)

        def look(number: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            # Who has no window left looks at the last one again, and finds nothing closer.
            numbers = jnp.minimum(number, available - 1)
            # The rank rides in the lowest bits: the least key is the closest product, the first of several.
            keys = (jnp.abs(candidates(numbers) - targets) << _RANK_BITS | ranks).min(0)
            closer = keys >> _RANK_BITS < best[0] >> _RANK_BITS
            return jnp.where(closer, keys, best[0]), jnp.where(closer, numbers, best[1])

        nothing = jnp.abs(targets) << _RANK_BITS, jnp.full_like(available, -1)
        keys, numbers = lax.fori_loop(0, available.max(), look, nothing)
        rank = (keys & ((1 << _RANK_BITS) - 1)).astype(jnp.uint32)
        subsets = jnp.where(numbers >= 0, jnp.uint32(1) << rank, jnp.uint32(0))
        windows = jnp.maximum(numbers, 0)
        return windows, subsets, masked_sum(candidates(windows), subsets)

    windows, subsets, sums = in_chunks(solve, (flat, targets), count, CHUNK)
    return windows, subsets, sums
