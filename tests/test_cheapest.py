"""The cheapest subset within a tolerance, against exhaustive search of the same integer problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slth_compile.subset_sum.cheapest import MAXIMUM_COST, cheapest_subset

BATCH = 16
KINDS = ("random", "positive", "negative", "duplicates", "zeros", "ties", "small")
solve = jax.jit(cheapest_subset)


def exhaustive(candidates, costs, targets, tolerance):
    """Smallest (cost, subset) within the tolerance for every problem, by looking at all subsets with Python's order."""
    n = candidates.shape[0]
    bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    within = np.abs(bits @ candidates.astype(np.int64) - targets) <= tolerance
    totals = np.where(within, bits @ costs.astype(np.int64), np.iinfo(np.int64).max)
    subsets = totals.argmin(0)
    found = within.any(0)
    least = np.where(found, totals.min(0), 0)
    return np.where(found, subsets, 0), least, found


def problems(kind, n, seed, scale):
    rng = np.random.default_rng(seed)
    candidates = rng.integers(-scale, scale + 1, (n, BATCH))
    match kind:
        case "positive":
            candidates = np.abs(candidates)
        case "negative":
            candidates = -np.abs(candidates)
        case "duplicates":
            candidates[:] = rng.integers(-scale, scale + 1, BATCH)
        case "zeros":
            candidates[rng.random(candidates.shape) < 0.5] = 0
        case "ties":
            candidates = rng.integers(-2, 3, (n, BATCH)) * (scale // 4)
        case "small":
            candidates = rng.integers(-3, 4, (n, BATCH))
    costs = rng.integers(-40, 1000, (n, BATCH)) if seed % 3 else np.full((n, BATCH), seed % 2)
    targets = rng.integers(-scale, scale + 1, BATCH)
    targets[::4] = candidates[rng.random(candidates.shape[0]) < 0.5].sum(0)[::4]
    targets[1] = (n + 1) * scale + 1 if seed % 2 else 0
    tolerance = rng.choice([-1, 0, 1, scale // 1000, scale // 20, scale], BATCH)
    return candidates, costs, np.clip(targets, -(n + 2) * scale, (n + 2) * scale), tolerance


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    n=st.sampled_from([1, 2, 3, 5, 8, 11]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([4, 1000, 2**23]),
)
def test_finds_what_exhaustive_search_finds(kind, n, seed, scale):
    candidates, costs, targets, tolerance = problems(kind, n, seed, scale)
    found = solve(*(jnp.asarray(x, jnp.int32) for x in (candidates, costs, targets, tolerance)))
    for mine, wanted in zip(found, exhaustive(candidates, costs, targets, tolerance), strict=True):
        np.testing.assert_array_equal(np.asarray(mine, np.int64), wanted)


@pytest.mark.parametrize("n", [7, 12])
def test_sixty_four_bits_see_what_thirty_two_cannot(n):
    rng = np.random.default_rng(n)
    candidates = rng.integers(-(2**46), 2**46, (n, BATCH))
    costs, targets = rng.integers(-9, 100, (n, BATCH)), rng.integers(-(2**46), 2**46, BATCH)
    tolerance = rng.integers(2**33, 2**40, BATCH)
    with jax.enable_x64(True):
        arguments = [
            jnp.asarray(candidates),
            jnp.asarray(costs, jnp.int32),
            jnp.asarray(targets),
            jnp.asarray(tolerance),
        ]
        found = [np.asarray(x).astype(np.int64) for x in solve(*arguments)]
    for mine, wanted in zip(found, exhaustive(candidates, costs, targets, tolerance), strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_the_largest_costs_and_numbers_fit():
    n = 24
    candidates = jnp.full((n, 4), 2**24, jnp.int32).at[:, 1].multiply(-1)
    cost = (MAXIMUM_COST - 1) // n
    targets = jnp.array([n * 2**24, -n * 2**24, 0, 25 * 2**24], jnp.int32)
    costs = jnp.full((n, 4), cost, jnp.int32).at[:, 1].multiply(-1)
    subsets, totals, found = solve(candidates, costs, targets, jnp.int32(2**20))
    assert subsets.tolist() == [2**n - 1, 2**n - 1, 0, 0]
    assert totals.tolist() == [n * cost, -n * cost, 0, 0]
    assert found.tolist() == [True, True, True, False]


def test_equal_costs_keep_the_fewest():
    rng = np.random.default_rng(5)
    candidates, targets = rng.integers(-1000, 1000, (10, BATCH)), rng.integers(-1000, 1000, BATCH)
    ones = np.ones_like(candidates)
    subsets, costs, found = solve(*(jnp.asarray(x, jnp.int32) for x in (candidates, ones, targets, np.int32(50))))
    np.testing.assert_array_equal(np.bitwise_count(np.asarray(subsets)), costs)
    assert found.any()
