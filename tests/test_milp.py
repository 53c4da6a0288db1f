"""HiGHS as a second opinion: exact errors of rounded masks, never what it says of itself."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from slth_compile.errors import InputError
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.milp import RESOLUTION, closest_subset_milp


def all_errors(candidates: list[int], target: int) -> list[int]:
    """The errors of all subsets, in Python's integers."""
    sums = [0]
    for value in candidates:
        sums += [total + value for total in sums]
    return [abs(total - target) for total in sums]


def recompute(candidates: list[int], target: int, subset: int) -> int:
    return abs(target - sum(value for i, value in enumerate(candidates) if subset >> i & 1))


def resolution(candidates: list[int], target: int) -> float:
    return RESOLUTION * len(candidates) * max(map(abs, [*candidates, target]))


INTEGERS = st.integers(-(2**46), 2**46)


@settings(max_examples=60, deadline=None)
@given(st.lists(INTEGERS, min_size=1, max_size=7), INTEGERS)
@example([0], 0)
@example([0, 0, 0], 5)
@example([7], 7)
@example([3, 3, 3, 3], 9)
@example([-1, -2, -4], 3)
@example([2**46, 1], 2**46 + 1)
@example([10**40, -(10**39)], 9 * 10**39)
def test_an_error_is_real_and_never_better_than_the_optimum(candidates, target):
    found = closest_subset_milp(candidates, target)
    errors = all_errors(candidates, target)
    assert len(found.mask) == len(candidates)
    assert found.error == recompute(candidates, target, found.subset)
    assert min(errors) <= found.error <= min(errors) + resolution(candidates, target)


@pytest.mark.parametrize("n", [4, 8, 11])
def test_the_optimum_is_found_where_it_stands_clear_of_the_tolerances(n):
    """Random products: no other error within HiGHS' resolution of the best one, which is nearly always so here."""
    generator = np.random.default_rng(n)
    clear = 0
    for _ in range(12):
        products = generator.integers(1, 2**23, n) * generator.integers(-(2**23), 2**23, n)
        candidates, target = products.tolist(), int(generator.integers(-(2**45), 2**45))
        errors = sorted(all_errors(candidates, target))
        found = closest_subset_milp(candidates, target)
        assert found.is_finished
        if errors[1] - errors[0] > resolution(candidates, target):
            clear += 1
            assert found.error == errors[0]
    assert clear >= 10


def test_both_solvers_agree():
    generator = np.random.default_rng(5)
    candidates = generator.integers(1, 2**23, (10, 10)) * generator.integers(-(2**23), 2**23, (10, 10))
    targets = generator.integers(-(2**45), 2**45, 10)
    with jax.enable_x64(True):
        subsets = np.asarray(jax.jit(closest_subset)(jnp.asarray(candidates), jnp.asarray(targets)))
    for column, target, subset in zip(candidates.T.tolist(), targets.tolist(), subsets.tolist(), strict=True):
        exact = recompute(column, target, subset)
        assert exact <= closest_subset_milp(column, target).error <= exact + resolution(column, target)


@pytest.mark.parametrize(
    ("values", "subset"),
    [([0.5, 0.49999, 1.0], 0b101), ([1 - 1e-6, 1e-6, 0.0], 0b001), ([1.0000001, -1e-7, 0.7], 0b101)],
)
def test_a_fractional_solution_is_never_believed(values, subset, monkeypatch):
    """HiGHS claims an error of zero with shares of candidates; the answer is that of the booleans."""
    claimed = types.SimpleNamespace(x=np.array([*values, 0.0]), fun=0.0, status=0)
    monkeypatch.setattr(optimize, "milp", lambda *_, **__: claimed)
    found = closest_subset_milp([100, 30, 7], 65)
    assert found.subset == subset
    assert found.error == recompute([100, 30, 7], 65, subset) > 0


def test_a_solve_error_is_tried_again_unscaled(monkeypatch):
    largest = []

    def fail_first(*arguments, **options):
        largest.append(np.abs(options["constraints"][0][:, :-1]).max())
        if len(largest) == 1:
            return types.SimpleNamespace(x=None, status=4)
        return types.SimpleNamespace(x=np.array([1.0, 0.0, 0.0]), status=0)

    monkeypatch.setattr(optimize, "milp", fail_first)
    assert closest_subset_milp([4, 8], 5).error == 1
    assert largest == [1024, 1]


def test_without_any_answer_the_empty_subset_is_returned_and_said_to_be_unfinished(monkeypatch):
    monkeypatch.setattr(optimize, "milp", lambda *_, **__: types.SimpleNamespace(x=None, status=1))
    found = closest_subset_milp([4, 8], 5, time_limit=0.0)
    assert (found.mask, found.error, found.is_finished) == ((False, False), 5, False)


@pytest.mark.parametrize(
    ("candidates", "target"), [([], 1), ([1.5], 1), ([1], 0.5), ([1, float("nan")], 1), ([[1]], 1)]
)
def test_what_is_no_problem_is_refused(candidates, target):
    with pytest.raises(InputError):
        closest_subset_milp(candidates, target)


def test_integers_of_numpy_are_taken_exactly():
    found = closest_subset_milp(np.array([2**62, 1], np.int64), np.int64(2**62 + 1))
    assert found.error == recompute([2**62, 1], 2**62 + 1, found.subset) <= 1
