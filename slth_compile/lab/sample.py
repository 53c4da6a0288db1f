"""Optimum errors of random subset-sum problems, by the exact solver, on all cores."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.lab.laws import TargetLaw, draw_candidates, draw_targets
from slth_compile.lab.question import Question
from slth_compile.progress import Progress, silent
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.threefry import Key, tensor_key
from slth_compile.subset_sum.statistics import optimum_errors

BLOCK = 1 << 12
_WINDOWS = (12, 16, 20, 24, 28, 30)
"""Windows that are compiled; a smaller problem is padded with zeros, which is far cheaper than a program of its own."""
_TENSOR_CANDIDATES, _TENSOR_TARGETS = 0, 1

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def sample_errors(question: Question, progress: Progress = silent) -> dict[int, np.ndarray]:
    """The errors of the best subsets of `question.samples` problems for every number of candidates.

    Args:
        question: What is drawn.
        progress: Called as programs are compiled, then as blocks of problems are solved.

    Returns:
        For every n the exact errors in units of 2^-46, int64 `(samples,)`, sorted.
    """
    blocks = -(-question.samples // BLOCK)
    # The longest first, so that no core is left with one at the end.
    sizes = sorted(question.candidates, reverse=True)
    windows = sorted({_window(n) for n in sizes}, reverse=True)
    tasks = [(n, number) for n in sizes for number in range(blocks)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        compile_for = functools.partial(_compile, question.law, question.target)
        programs = dict(zip(windows, _advance(pool, compile_for, windows, "compile", progress), strict=True))

        def run(task: tuple[int, int]) -> np.ndarray:
            n, number = task
            with jax.enable_x64(True):
                keys = (tensor_key(question.seed, n, _TENSOR_CANDIDATES), tensor_key(question.seed, n, _TENSOR_TARGETS))
                return np.asarray(programs[_window(n)](*keys, jnp.uint64(number * BLOCK), jnp.int64(n)))

        found = list(_advance(pool, run, tasks, "sample", progress))
    finally:
        pool.shutdown(cancel_futures=True)
    errors = {}
    for place, n in enumerate(sizes):
        drawn = np.concatenate(found[place * blocks : (place + 1) * blocks])[: question.samples]
        errors[n] = np.sort(drawn)
    return {n: errors[n] for n in question.candidates}


def to_units(eps: float) -> int:
    """The largest integer error that is within `eps`: `floor(eps 2^46)`, exactly."""
    return int(np.floor(np.ldexp(eps, PRODUCT_BITS)))


def _advance(
    pool: ThreadPoolExecutor, run: Callable[[_Item], _Result], items: Sequence[_Item], stage: str, progress: Progress
) -> Iterator[_Result]:
    progress(stage, 0, len(items))
    for done, result in enumerate(pool.map(run, items), 1):
        progress(stage, done, len(items))
        yield result


def _window(n: int) -> int:
    return next(window for window in _WINDOWS if window >= n)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _errors(
    law: str, target: TargetLaw, window: int, key: Key, target_key: Key, first: jax.Array, n: jax.Array
) -> jax.Array:
    def draw(problems: jax.Array) -> tuple[jax.Array, jax.Array]:
        return draw_candidates(law, key, problems, window, n), draw_targets(target, target_key, problems)

    return optimum_errors(draw, window, first, BLOCK)


@functools.lru_cache(maxsize=16)
def _compile(law: str, target: TargetLaw, window: int) -> Callable[..., jax.Array]:
    with jax.enable_x64(True):
        key = (jnp.uint32(0), jnp.uint32(0))
        return _errors.lower(law, target, window, key, key, jnp.uint64(0), jnp.int64(2)).compile()
