"""The solver against exhaustive search: 1e5 problems of every size with `-m slow`, fewer otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts import few
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from slth_compile.source.dyadic import PRODUCT_BITS, masked_sum
from slth_compile.subset_sum import problem
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.problem import NARROW_BITS, batch_size, chunk_size, narrowed

SIZES = range(2, 17)
MANY = 100_000
KINDS = 16
LANES = 64

SOLVE = jax.jit(closest_subset)


@jax.jit
def solve_in_chunks(candidates, targets):
    """As in production, chunk by chunk."""
    return in_chunks(closest_subset, candidates, targets, min(chunk_size(len(candidates)), max(1, targets.size)))


@jax.jit
def exhaustive(candidates, targets):
    """The smallest |target - sum| of all 2^n subsets: each of a few candidates with each of the others."""

    def search(candidates, targets):
        half = (len(candidates) + 1) // 2
        first = jnp.zeros((1, targets.size), targets.dtype)
        for x in candidates[:half]:
            first = jnp.concatenate([first, first + x])

        def look(subset, best):
            kept = (subset >> jnp.arange(len(candidates) - half))[:, None] & 1 == 1
            rest = targets - jnp.where(kept, candidates[half:], 0).sum(0, dtype=targets.dtype)
            return jnp.minimum(best, jnp.abs(first - rest).min(0))

        worst = jnp.full_like(targets, jnp.iinfo(targets.dtype).max)
        return lax.fori_loop(0, 1 << (len(candidates) - half), look, worst)

    return in_chunks(search, candidates, targets, min(LANES, max(1, targets.size)))


def in_chunks(function, candidates, targets, size):
    n, batch = candidates.shape
    candidates, targets = jnp.pad(candidates, ((0, 0), (0, -batch % size))), jnp.pad(targets, (0, -batch % size))
    count = targets.size // size
    chunks = candidates.reshape(n, count, size).swapaxes(0, 1), targets.reshape(count, size)
    return lax.map(lambda chunk: function(*chunk), chunks).reshape(-1)[:batch]


def padded(x, multiple=512):
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % multiple)])


def hard_problems(n, batch, generator, largest=2**PRODUCT_BITS):
    """Random products, and ties, zeros, duplicates, one sign, targets out of reach, extreme scales; int64.

    Nothing is larger than `largest`. A quarter of the problems is random, without anything else to it.
    """
    uniform = generator.uniform(-1, 1, (2, n, batch)).prod(0)
    signs, coin = generator.choice([-1, 1], (n, batch)), generator.random((n, batch)) < 0.5
    x = np.rint(uniform * largest).astype(np.int64)
    w = np.rint(generator.uniform(-1, 1, batch) * largest).astype(np.int64)
    small = generator.integers(-3, 4, (n, batch))
    some = np.take_along_axis(x, generator.integers(0, min(n, 2), (n, batch)), 0)
    scaled = np.rint(np.ldexp(uniform, generator.integers(-40, 1, (n, batch))) * largest).astype(np.int64)
    within = (x * coin).sum(0)
    kinds = {
        4: (np.abs(x), w),
        5: (-np.abs(x), w),
        6: (np.broadcast_to(x[:1], x.shape), w),  # all the same
        7: (some, w),  # two values: ties
        8: (np.where(coin, 0, x), w),
        9: (small, generator.integers(-8, 9, batch)),
        10: (x // (2 * n), np.where(w < 0, -largest, largest)),  # out of reach
        11: (x, np.zeros(batch, np.int64)),
        12: (signs * largest, w),  # the largest numbers there are, ties everywhere
        13: (scaled, w),  # from the largest to a few units
        14: (x, np.where(np.abs(within) <= largest, within, w)),  # met exactly
        15: (signs * (largest >> np.minimum(np.arange(n), 62))[:, None], w),  # powers of two
    }
    for kind, (candidates, targets) in kinds.items():
        chosen = np.arange(batch) % KINDS == kind
        x, w = np.where(chosen, candidates, x), np.where(chosen, targets, w)
    return x, w


def solve(candidates, targets):
    with jax.enable_x64(True):
        return np.asarray(SOLVE(jnp.asarray(candidates, jnp.int64), jnp.asarray(targets, jnp.int64)))


def sums_of(candidates, subsets):
    bits = (subsets >> np.arange(len(candidates), dtype=np.uint32)[:, None]) & 1
    return (bits * candidates.astype(np.int64)).sum(0)


def errors(candidates, targets, subsets):
    """Exact, int64."""
    return np.abs(sums_of(candidates, subsets) - targets)


def optimal(candidates, targets):
    """Subsets of the solver, after their errors were found equal to those of exhaustive search."""
    with jax.enable_x64(True):
        padding = padded(candidates), padded(targets)
        subsets, best = (np.asarray(f(*padding))[: targets.size] for f in (solve_in_chunks, exhaustive))
    assert subsets.max() < 1 << len(candidates)
    found = errors(candidates, targets, subsets)
    assert np.array_equal(found, best)
    return subsets, found


def edge(bits, n):
    """The largest magnitude that the solver has room for, all candidates and the target being as large."""
    return ((1 << (bits - 3)) - 1) // (n + 1)


def check_int64(n, count):
    generator = np.random.default_rng([64, n])
    optimal(*hard_problems(n, count, generator))
    optimal(*hard_problems(n, count, generator, edge(64, n)))


def check_int32(n, count):
    """Equal to exhaustive search of the rounded problem; its exact error is near that of the exact problem."""
    generator = np.random.default_rng([32, n])
    candidates, targets = hard_problems(n, count, generator)
    with jax.enable_x64(True):
        rounded = [np.asarray(narrowed(jnp.asarray(x))) for x in (candidates, targets)]
        best = np.asarray(exhaustive(padded(candidates), padded(targets)))[:count]
    assert rounded[0].dtype == np.int32
    subsets, _ = optimal(*rounded)
    excess = errors(candidates, targets, subsets) - best
    assert excess.min() >= 0
    assert excess.max() <= (n + 1) << (PRODUCT_BITS - NARROW_BITS)
    at_the_edge = hard_problems(n, count, generator, edge(32, n))
    optimal(*(x.astype(np.int32) for x in at_the_edge))


@pytest.mark.parametrize("n", few(SIZES, 2, 3, 9, 14))
def test_the_fast_solver_equals_exhaustive_search(n):
    check_int64(n, 512)


@pytest.mark.parametrize("n", few((2, 9, 16), 2, 9))
def test_in_32_bits_it_equals_exhaustive_search_of_the_rounded_problem(n):
    check_int32(n, 512)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_the_fast_solver_equals_exhaustive_search_many_times(n):
    check_int64(n, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_in_32_bits_it_equals_exhaustive_search_of_the_rounded_problem_many_times(n):
    check_int32(n, MANY)


def best_of_sorted_halves(candidates, target):
    """The smallest |target - sum| of one problem, by another way: two sorted lists and a binary search."""
    lists = []
    for part in np.array_split(candidates, 2):
        sums = np.zeros(1, np.int64)
        for x in part:
            sums = np.concatenate([sums, sums + x])
        lists.append(np.sort(sums))
    rest = target - lists[0]
    above = np.clip(np.searchsorted(lists[1], rest), 1, len(lists[1]) - 1)
    return min(np.abs(rest - lists[1][above - step]).min() for step in (0, 1))


@pytest.mark.parametrize("n", few([18, 24, 29, 30], 18))  # 18 has what all of them have but the longest columns
def test_the_largest_windows_equal_a_search_of_sorted_halves(n):
    candidates, targets = hard_problems(n, LANES, np.random.default_rng(n))
    found = errors(candidates, targets, solve(candidates, targets))
    assert found.tolist() == [best_of_sorted_halves(*problem) for problem in zip(candidates.T, targets, strict=True)]


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.int64, (9, 4), elements=st.integers(-(2**46), 2**46)), st.data())
def test_the_fast_solver_equals_exhaustive_search_anywhere(candidates, data):
    targets = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(-(2**46), 2**46)))
    subsets = solve(candidates, targets)
    with jax.enable_x64(True):
        assert np.array_equal(errors(candidates, targets, subsets), np.asarray(exhaustive(candidates, targets)))


def test_exhaustive_search_looks_at_every_subset():
    candidates, targets = hard_problems(7, KINDS, np.random.default_rng(0))
    subsets = (np.arange(1 << 7)[:, None] >> np.arange(7)) & 1
    with jax.enable_x64(True):
        found = np.asarray(exhaustive(candidates, targets))
    assert np.array_equal(found, np.abs(subsets @ candidates - targets).min(0))


def test_masked_sum_reads_candidate_i_from_bit_i():
    candidates = np.array([[1], [10], [100]])
    with jax.enable_x64(True):
        assert int(masked_sum(jnp.asarray(candidates), jnp.asarray([0b101], jnp.uint32))[0]) == 101


@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
def test_chunks_need_not_fill_a_batch(count):
    x = np.arange(40, dtype=np.int32)
    doubled = problem.in_chunks(lambda x: (x * 2,), (jnp.asarray(x),), jnp.int32(count), 16)[0]
    solved = min(40, -(-count // 16) * 16)
    assert np.array_equal(doubled, np.where(x < solved, 2 * x, 0))


@pytest.mark.parametrize("window", range(2, 31))
def test_rows_of_a_chunk_fall_into_different_sets_of_the_cache(window):
    assert chunk_size(window) % 32 == 16


@pytest.mark.parametrize("window", range(2, 65))
def test_batches_are_whole_chunks(window):
    assert batch_size(window) % chunk_size(window) == 0
