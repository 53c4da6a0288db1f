"""The four-list solver: what its subsets are worth, and the argument the plan makes of it."""

from __future__ import annotations

import importlib.resources
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats

from slth_compile.plan import calibration, width
from slth_compile.plan.calibrate_four_list import histogram
from slth_compile.plan.calibration import NEAR_TARGETS, near_miss_probabilities
from slth_compile.subset_sum.four_list import FORCED, near_subset

TABLE = importlib.resources.files("slth_compile.plan").joinpath("calibration.json")
BATCH = 64
SOLVE = jax.jit(near_subset)


def solve(candidates: np.ndarray, targets: np.ndarray, enough: int | np.ndarray = -1) -> np.ndarray:
    """In batches of one size, so that every window is compiled once."""
    found = []
    with jax.enable_x64(True):
        for start in range(0, targets.size, BATCH):
            pad = (0, BATCH - targets[start : start + BATCH].size)
            bits = SOLVE(
                jnp.asarray(np.pad(candidates[:, start : start + BATCH], ((0, 0), pad)), jnp.int64),
                jnp.asarray(np.pad(targets[start : start + BATCH], pad), jnp.int64),
                jnp.asarray(np.pad(np.broadcast_to(enough, targets.shape)[start : start + BATCH], pad), jnp.int64),
            )
            assert bits.dtype == jnp.uint64
            found.append(np.asarray(bits)[: BATCH - pad[1]])
    return np.concatenate(found)


def errors_of(candidates: np.ndarray, targets: np.ndarray, bits: np.ndarray) -> np.ndarray:
    kept = (bits >> np.arange(len(candidates), dtype=np.uint64)[:, None]) & np.uint64(1) == 1
    return np.abs(np.where(kept, candidates, 0).sum(0) - targets)


def products(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    return rng.integers(1, 2**23, (n, batch)) * rng.integers(-(2**23), 2**23, (n, batch))


def exhaustive(candidates: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Errors of the best subsets that keep the forced candidates."""
    n = len(candidates) - FORCED
    bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    return np.abs(bits @ candidates[FORCED:] + candidates[:FORCED].sum(0) - targets).min(0)


def test_subsets_are_valid_and_never_better_than_the_optimum() -> None:
    rng = np.random.default_rng(0)
    candidates, targets = products(rng, 18, 64), rng.integers(-(2**46), 2**46, 64)
    bits = solve(candidates, targets)
    assert bits.max() < 1 << 18 and np.all(bits & np.uint64(3) == 3)
    errors, best = errors_of(candidates, targets, bits), exhaustive(candidates, targets)
    assert np.all(errors >= best)
    # Eight centres of 16 sums a list see much of the 2^16 subsets: some optima are found, and most are not far.
    assert np.mean(errors == best) > 0.1
    assert np.median(errors / np.maximum(best, 1)) < 100


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [
        (34, 5e-9, 2e-8),
        pytest.param(42, 8e-11, 3e-10, marks=pytest.mark.slow),
        pytest.param(50, 1.2e-12, 5e-12, marks=pytest.mark.slow),
        pytest.param(58, 2e-14, 9e-14, marks=pytest.mark.slow),
    ],
)
def test_the_median_error_of_large_windows(n: int, low: float, high: float) -> None:
    rng = np.random.default_rng(n)
    candidates, targets = products(rng, n, 64), rng.integers(-(2**45), 2**45, 64)
    errors = errors_of(candidates, targets, solve(candidates, targets))
    assert low < np.median(errors) / 2.0**46 < high


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int64, (18, 4), elements=st.integers(-(2**46), 2**46)), st.data())
def test_any_integers_give_a_subset(candidates: np.ndarray, data: st.DataObject) -> None:
    targets = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(-(2**46), 2**46)))
    bits = solve(candidates, targets)
    assert bits.max() < 1 << 18 and np.all(bits & np.uint64(3) == 3)
    assert np.all(errors_of(candidates, targets, bits) >= exhaustive(candidates, targets))


def test_ties_zeros_duplicates_and_targets_out_of_reach() -> None:
    rng = np.random.default_rng(1)
    candidates = products(rng, 34, 8)
    candidates[:, 0] = 0
    candidates[:, 1] = candidates[2, 1]
    candidates[:, 2] = np.abs(candidates[:, 2]) >> 10
    candidates[:, 3] = -np.abs(candidates[:, 3])
    candidates[:, 4] = rng.integers(-3, 4, 34)
    candidates[17:, 5] = candidates[:17, 5]
    targets = np.array([5, 7 * candidates[2, 1], 2**46, 2**46, 4, 2**44, 0, -(2**46)])
    errors = errors_of(candidates, targets, solve(candidates, targets))
    assert errors[0] == 5 and errors[1] == 0 and errors[4] == 0
    # Out of reach: the search is around sums that exist, so it comes close to the end of the range.
    assert errors[2] - (2**46 - candidates[:, 2].sum()) < 2**36
    assert errors[3] - (2**46 - candidates[:2, 3].sum()) < 2**46
    assert np.all(errors[5:] < 2**30)


def test_a_problem_is_solved_the_same_in_any_company() -> None:
    rng = np.random.default_rng(2)
    candidates, targets = products(rng, 34, 24), rng.integers(-(2**46), 2**46, 24)
    enough = rng.integers(-1, 2**21, 24)
    together = solve(candidates, targets, enough)
    order = rng.permutation(24)
    assert np.array_equal(solve(candidates[:, order], targets[order], enough[order]), together[order])
    assert np.array_equal(solve(-candidates, -targets, enough), together)


def test_enough_ends_the_search_and_never_loses_a_problem_that_can_be_met() -> None:
    rng = np.random.default_rng(3)
    candidates, targets = products(rng, 34, 64), rng.integers(-(2**46), 2**46, 64)
    best = errors_of(candidates, targets, solve(candidates, targets))
    for enough in (2**16, 2**19, 2**22):
        errors = errors_of(candidates, targets, solve(candidates, targets, enough))
        assert np.array_equal(errors <= enough, best <= enough)
        assert np.all(errors >= best)
        # Where nothing is enough, every centre was tried.
        assert np.array_equal(errors[best > enough], best[best > enough])
    # The first centre alone, once anything is enough.
    first = errors_of(candidates, targets, solve(candidates, targets, 2**49))
    assert np.mean(best < first) > 0.5


def pair_density(x: np.ndarray) -> np.ndarray:
    """Density of the sum of two products, by convolution of ln(1/|x|) / 2 with itself."""

    def at(point: float) -> float:
        point = abs(point)
        if point >= 2:
            return 0.0
        pieces = [point - 1, *(p for p in (0.0, point) if point - 1 < p < 1), 1.0]
        return sum(
            integrate.quad(lambda t: np.log(abs(t)) * np.log(abs(point - t)) / 4, a, b, limit=200)[0]
            for a, b in itertools.pairwise(pieces)
        )

    return np.array([at(float(point)) for point in x])


def test_the_distance_of_equation_4_bounds_what_interpolation_can_miss() -> None:
    """Half the L1 distance between the density and the interpolated one, on a fine grid: hardly less at h = 1/8."""
    step, fine = float(NEAR_TARGETS[1]), 64
    density = pair_density(np.arange(0, 2.25, step / fine))
    both = np.concatenate([density[:0:-1], density])
    assert both.sum() * step / fine == pytest.approx(1, abs=1e-3)
    limit = np.pi**2 * step**2 / 32
    size = both.size - fine
    worst = 0.0
    for k in range(1, fine):
        share = k / fine
        between = (1 - share) * both[:size] + share * both[fine:]
        worst = max(worst, np.abs(both[k : k + size] - between).sum() * step / fine / 2)
    assert 0.9 * limit < worst <= limit


@pytest.mark.parametrize("target", [0.0009, 0.0625, 0.31, 0.94, 1.0])
def test_no_window_of_the_four_list_solver_misses_more_often_than_its_limit(target: float) -> None:
    rng = np.random.default_rng(int(target * 1e4))
    candidates = products(rng, 34, 512)
    targets = np.full(512, round(target * 2**46))
    errors = errors_of(candidates, targets, solve(candidates, targets))
    (column,) = np.flatnonzero(width._counts(np.array([target])))
    limits = width._grid_limits()[34][column]
    for half_octaves in (46, 50, 54, 58):
        misses = np.count_nonzero(errors > 2.0 ** (46 - half_octaves / 2))
        assert misses <= stats.binom.isf(1e-9, 512, limits[half_octaves])
        if misses > 100:
            assert limits[half_octaves] < 2 * misses / 512


def test_every_target_has_limits_from_both_neighbours() -> None:
    near, limits = near_miss_probabilities(), width._grid_limits()
    distance = np.pi**2 / 64 / 32
    assert min(near) > 28 and all((m - FORCED) % 4 == 0 for m in near)
    for target in [1e-9, 1e-3, 0.124, 0.125, 0.126, 0.3, 0.5, 0.51, 0.874, 0.876, 1.0]:
        (column,) = np.flatnonzero(width._counts(np.array([target])))
        around = [np.floor(target * 8), np.ceil(target * 8)]
        for window, table in near.items():
            needed = np.minimum(np.maximum(*(table[int(i)] for i in around)) + distance, 1)
            assert np.all(limits[window][column] >= needed)


@pytest.mark.parametrize("samples", [pytest.param(count, marks=pytest.mark.slow) for count in (512, 8192)])
def test_a_cell_of_the_four_list_table_can_be_measured_again(samples: int) -> None:
    """All of it, or its first samples."""
    entry = json.loads(TABLE.read_text())["four_list"]["windows"]["34"]
    start, *counts = entry["cells"][3]
    measured = histogram(34, 3, samples)
    assert entry["samples"] == sum(counts) == 8192 and measured.sum() == samples
    assert np.all(measured[start : start + len(counts)] <= counts)
    assert measured[start : start + len(counts)].sum() == samples


def test_a_table_of_another_solver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CENTRES", 9)
    with pytest.raises(ValueError, match="another four-list solver"):
        calibration.near_miss_probabilities.__wrapped__()
