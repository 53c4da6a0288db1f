"""The error of the best subset over random problems: what calibration tables and the laboratory count."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from slth_compile.source.dyadic import entries, masked_sum
from slth_compile.source.threefry import Key, words
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.problem import chunk_size

Draw = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""From problem numbers, uint64 `(k,)`, to int64 candidates `(window, k)` and int64 targets `(k,)`."""


def optimum_errors(draw: Draw, window: int, first: jax.Array, count: int) -> jax.Array:
    """Exact errors of the best of all subsets, for the problems `first ... first + count - 1`.

        min over S of |targets - sum_{i in S} candidates[i]|, recomputed from the subset's booleans

    Trace it under jit inside `jax.enable_x64(True)`; candidates are drawn chunk by chunk and never stored.

    Args:
        draw: The problems, by their number.
        window: Candidates of a problem.
        first: Number of the first problem, uint64.
        count: How many.

    Returns:
        int64 `(count,)`, in the units of the candidates.
    """
    size = chunk_size(window)

    def solve(chunk: jax.Array) -> jax.Array:
        problems = first + chunk * jnp.uint64(size) + jnp.arange(size, dtype=jnp.uint64)
        # Evaluated once: fused into two places, a draw through floats could round to neighbours.
        candidates, targets = lax.optimization_barrier(draw(problems))
        return jnp.abs(masked_sum(candidates, closest_subset(candidates, targets)) - targets)

    return lax.map(solve, jnp.arange(-(-count // size), dtype=jnp.uint64)).reshape(-1)[:count]


def products(key: Key, elements: jax.Array) -> jax.Array:
    """Products `a * b`, `a ~ Uniform(0, 1)`, `b ~ Uniform[-1, 1)`: int64 in units of 2^-46, on the source's own grid.

    Args:
        key: Key of the words.
        elements: uint64, even: `a` is word `elements`, `b` the next one.
    """
    a = jnp.maximum((words(key, elements) >> jnp.uint32(9)).astype(jnp.int64), 1)
    return a * entries(words(key, elements + jnp.uint64(1)))
