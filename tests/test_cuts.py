"""The search for multipliers at the input: any of them bounds the linear program, and the ones found come close."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts import examples
from hypothesis import given, settings
from scipy.optimize import linprog

from slth_compile.certificate.backward import cuts, networks
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward.passes import Passed
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.backward.walk import Walk, walk_from
from slth_compile.certificate.difference import LayerErrors
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

INPUTS, ROWS = 5, 4
seeds = st.integers(0, 2**32 - 1)


def box(lower: np.ndarray, upper: np.ndarray) -> Walk:
    """A walk at the input, one region."""
    graph = Graph((n.Input(shape=(INPUTS,)), n.Dense(inputs=(0,), kernel=np.ones((INPUTS, 1)))), (1,))
    errors = {1: LayerErrors(positive_center=np.zeros((INPUTS, 1)), positive_radius=0.0)}
    return walk_from(networks.networks_of(graph, errors), lower[None], upper[None])


def drawn(seed: int, coarse: bool, count: int):
    """Box, forms `(INPUTS, ROWS)`, constants, cuts `(count, ROWS, INPUTS)` and theirs; with ties where coarse."""
    rng = np.random.default_rng(seed)
    draw = (lambda *shape: rng.integers(-4, 5, shape) / 4) if coarse else (lambda *shape: rng.normal(size=shape))
    x = draw(INPUTS)
    return (
        x - abs(draw(INPUTS)),
        x + abs(draw(INPUTS)),
        draw(INPUTS, ROWS),
        draw(ROWS),
        draw(count, ROWS, INPUTS),
        (draw(count, ROWS)),
    )


def least(lower, upper, a, value, c, v) -> np.ndarray:
    with jax.enable_x64(True):
        zero = jnp.zeros(ROWS)
        passed = Passed(zero + jnp.inf, f.Form(None, jnp.asarray(a)), jnp.asarray(value), abs(jnp.asarray(value)))
        rows = jnp.zeros(ROWS, jnp.int32)
        return np.asarray(
            cuts.least(passed, cuts.Cuts(jnp.asarray(c), jnp.asarray(v)), cuts.box_of(box(lower, upper)), At(rows))
        )


@given(seeds, st.booleans(), st.sampled_from([1, 3]))
@settings(max_examples=examples(60), deadline=None)
def test_never_below_the_linear_program_nor_above_the_box(seed: int, coarse: bool, count: int) -> None:
    lower, upper, a, value, c, v = drawn(seed, coarse, count)
    found = least(lower, upper, a, value, c, v)
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    plain = value + centre @ a + radius @ abs(a)
    assert np.all(found <= plain + 1e-8 * (1 + abs(plain)))
    for row in range(ROWS):
        best = linprog(-a[:, row], A_ub=-c[:, row], b_ub=v[:, row], bounds=np.stack([lower, upper], 1))
        if best.status == 0:
            assert found[row] >= value[row] - best.fun - 1e-9


@given(seeds, st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_one_multiplier_is_next_to_the_best_of_256(seed: int, coarse: bool) -> None:
    lower, upper, a, value, c, v = drawn(seed, coarse, 1)
    found = least(lower, upper, a, value, c, v)
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    share = np.arange(256)[:, None] / 256
    for row in range(ROWS):
        width = max(radius @ abs(c[0, row]), 1e-300)
        betas = 1.0123456789 * (radius @ abs(a[:, row])) / width * share / (1 - share)
        forms = a[:, row] + betas * c[0, row]
        bounds = value[row] + betas[:, 0] * v[0, row] + forms @ centre + abs(forms) @ radius
        best = int(np.flatnonzero(bounds <= bounds.min() + 1e-9)[0])
        assert found[row] <= max(bounds[best], bounds[max(best - 1, 0)]) + 1e-8 * (1 + abs(bounds[0]))


@given(seeds, st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_never_below_any_input_that_all_cuts_leave_exactly(seed: int, coarse: bool) -> None:
    lower, upper, a, value, c, v = drawn(seed, coarse, 2)
    found = least(lower, upper, a, value, c, v)
    rng = np.random.default_rng(seed)
    exact = np.vectorize(Fraction, otypes=[object])
    low, high, a, value, c, v = map(exact, (lower, upper, a, value, c, v))
    for _ in range(30):
        share = exact(rng.integers(0, 3, INPUTS)) / 2
        x = low + (high - low) * share
        for row in range(ROWS):
            if all(c[k, row] @ x + v[k, row] >= 0 for k in range(2)):
                assert a[:, row] @ x + value[row] <= Fraction(found[row])


@given(seeds, st.sampled_from([0.0, 1e-3, 1.0, 37.0, 1e6]))
@settings(max_examples=examples(40), deadline=None)
def test_any_multiplier_bounds_what_a_cut_leaves(seed: int, beta: float) -> None:
    lower, upper, a, value, c, v = drawn(seed, False, 1)
    own = cuts.multiplier
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "multiplier", lambda a, c, v, centre, radius: jnp.full_like(v, beta))
        cuts.least.clear_cache()
        found = least(lower, upper, a, value, c, v)
    cuts.least.clear_cache()
    assert cuts.multiplier is own
    for row in range(ROWS):
        best = linprog(-a[:, row], A_ub=-c[:, row], b_ub=v[:, row], bounds=np.stack([lower, upper], 1))
        if best.status == 0:
            assert found[row] >= value[row] - best.fun - 1e-9 * (1 + beta)


def test_cuts_that_say_nothing_or_are_no_numbers_change_nothing() -> None:
    lower, upper, a, value, c, v = drawn(0, False, 1)
    plain = least(lower, upper, a, value, 0 * c, 0 * v)
    np.testing.assert_allclose(plain, value + (lower + upper) / 2 @ a + (upper - lower) / 2 @ abs(a), rtol=1e-7)
    for wrong in (np.inf, -np.inf, np.nan):
        np.testing.assert_array_equal(least(lower, upper, a, value, c, 0 * v + wrong) >= plain, True)
        np.testing.assert_array_equal(least(lower, upper, a, value, c * wrong, v), plain)
