"""The solver against exhaustive search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slth_compile.source.dyadic import masked_sum
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.problem import batch_size, chunk_size

SOLVE = jax.jit(closest_subset)


def solve(candidates, targets):
    with jax.enable_x64(True):
        return np.asarray(SOLVE(jnp.asarray(candidates, jnp.int64), jnp.asarray(targets, jnp.int64)))


def sums_of(candidates, subsets):
    bits = (subsets >> np.arange(len(candidates), dtype=np.uint32)[:, None]) & 1
    return (bits * candidates).sum(0)


def exhaustive(candidates, targets):
    bits = (np.arange(1 << len(candidates))[:, None] >> np.arange(len(candidates))) & 1
    return np.abs(bits @ candidates - targets).min(0)


def hard_problems(n, batch, generator):
    """Random products, and ties, zeros, duplicates, one sign, targets out of reach, extreme scales."""
    products = generator.integers(1, 2**23, (n, batch)) * generator.integers(-(2**23), 2**23, (n, batch))
    targets = generator.integers(-(2**46), 2**46, batch)
    kind = np.arange(batch) % 8
    products = np.where(kind == 1, np.abs(products), products)
    products = np.where(kind == 2, -np.abs(products), products)
    products = np.where(kind == 3, products[:1], products)
    products = np.where((kind == 4) & (generator.random((n, batch)) < 0.5), 0, products)
    products = np.where(kind == 5, generator.integers(-3, 4, (n, batch)), products)
    targets = np.where(kind == 5, generator.integers(-8, 9, batch), targets)
    targets = np.where(kind == 6, 2**46, targets)
    targets = np.where(kind == 7, 0, targets)
    return products, targets


@pytest.mark.parametrize("n", [*range(2, 15), 16])
def test_the_fast_solver_equals_exhaustive_search(n):
    batch = 512 if n <= 12 else 64
    candidates, targets = hard_problems(n, batch, np.random.default_rng(n))
    subsets = solve(candidates, targets)
    assert subsets.max() < 1 << n
    assert np.array_equal(np.abs(sums_of(candidates, subsets) - targets), exhaustive(candidates, targets))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.int64, (9, 4), elements=st.integers(-(2**46), 2**46)), st.data())
def test_the_fast_solver_equals_exhaustive_search_anywhere(candidates, data):
    targets = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(-(2**46), 2**46)))
    subsets = solve(candidates, targets)
    assert np.array_equal(np.abs(sums_of(candidates, subsets) - targets), exhaustive(candidates, targets))


def test_masked_sum_reads_candidate_i_from_bit_i():
    candidates = np.array([[1], [10], [100]])
    with jax.enable_x64(True):
        assert int(masked_sum(jnp.asarray(candidates), jnp.asarray([0b101], jnp.uint32))[0]) == 101


@pytest.mark.parametrize("window", range(2, 65))
def test_batches_are_whole_chunks(window):
    assert batch_size(window) % chunk_size(window) == 0
