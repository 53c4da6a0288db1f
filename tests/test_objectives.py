"""Sparsest and fewest-bits: what is taken is within the tolerance, the cheapest there is, and planned for."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slth_compile as slth
from slth_compile.constructions.da_cunha import Family, families
from slth_compile.errors import InputError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.plan.objective import WIDENING, plan_fewest_bits, plan_sparsest
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import CLOSEST, FEWEST_BITS, OBJECTIVES, SPARSEST, Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.subset_sum import cheapest_windows
from slth_compile.subset_sum.cheapest_windows import family_costs, solve_cheapest
from slth_compile.subset_sum.code_length import (
    SLACK,
    cheapest_within,
    chunk_size,
    context,
    fit,
    kept_costs,
    needs_64_bits,
)
from slth_compile.subset_sum.windows import meets, solve_family
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.coding import encode_family

ONE = 1 << PRODUCT_BITS
solve = jax.jit(cheapest_within, static_argnums=(5,))


def exhaustive(candidates, pruned, kept, targets, tolerance):
    """Least cost within the tolerance for every problem, a huge one where there is none."""
    count = candidates.shape[0]
    bits = (np.arange(1 << count)[:, None] >> np.arange(count)) & 1
    contexts = np.minimum(np.floor(np.sqrt(np.abs(candidates) / 2.0**40)), 7).astype(int)
    costs = pruned[contexts].sum(0) + bits @ (kept - pruned)[contexts]
    return np.where(np.abs(bits @ candidates - targets) <= tolerance, costs, 1 << 40).min(0)


@settings(deadline=None, max_examples=40)
@given(
    window=st.sampled_from([4, 9]),
    seed=st.integers(0, 2**32 - 1),
    step=st.sampled_from([1, 1 << 20, 1 << 44]),
    share=st.floats(2.0**-17, 0.3),
    exact=st.booleans(),
)
def test_what_is_found_is_within_the_tolerance_and_the_cheapest(window, seed, step, share, exact):
    rng = np.random.default_rng(seed)
    candidates = rng.integers(-ONE // step, ONE // step + 1, (window, 16)) * step
    candidates = np.where(rng.random(candidates.shape) < 0.1, 0, candidates)
    targets, tolerance = rng.integers(-4 * ONE, 4 * ONE, 16) // 4, np.int64(share * ONE)
    pruned, kept = rng.integers(0, 700, 8), rng.integers(0, 700, 8)
    with jax.enable_x64(True):
        prices = jnp.asarray(pruned, jnp.int32), jnp.asarray(kept, jnp.int32)
        arguments = jnp.asarray(candidates), *prices, jnp.asarray(targets), jnp.full(16, tolerance)
        subsets, costs, found = (np.asarray(x) for x in solve(*arguments, exact))
    bits = (subsets >> np.arange(window, dtype=np.uint32)[:, None]) & 1
    within = np.abs((bits * candidates).sum(0) - targets) <= tolerance
    assert np.all(within[found])
    wanted = exhaustive(candidates, pruned, kept, targets, tolerance)
    assert np.all(wanted[found] <= costs[found]) and np.all(wanted[~found] >= (1 << 40) * exact)
    if exact:
        assert np.array_equal(costs[found], wanted[found])
    elif not needs_64_bits(window, int(tolerance)):
        # Rounding to 32 bits may lose what only the last 1/64 of the tolerance allows, and nothing else.
        nearer = exhaustive(candidates, pruned, kept, targets, np.floor(tolerance * (1 - SLACK)))
        assert np.all(found | (nearer == 1 << 40)) and np.all((costs <= nearer)[found])


@functools.cache
def family(window=8, gain=0, width=400, tolerance=0.01, sigma=0.2) -> Family:
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, sigma, (20, 60))
    kernel[rng.random(kernel.shape) < 0.05] = 0
    gadget = Gadget(width=width, gain=gain, window=window, tolerance=tolerance, failure=0.0)
    node = n.Dense(inputs=(0,), kernel=kernel)
    return families(Generated(7), 0, node, LayerLayout(signed=False, kernel=gadget, bias=None))[0]


@pytest.mark.parametrize("objective", [SPARSEST, FEWEST_BITS])
def test_every_weight_takes_the_cheapest_of_its_first_windows(objective, window=8):
    own = family(window)
    costs, mask = family_costs(own, objective), solve_family(own, objective=objective).mask
    flat = np.arange(own.weights.size)
    targets = np.rint(own.weights.reshape(-1) * ONE).astype(np.int64)
    tolerance = int(own.gadget.tolerance * ONE)
    for i in flat[::211]:
        options = {(costs.empty, 0, 0)} if abs(targets[i]) <= tolerance else set()
        for window_number in range(costs.tried):
            addresses, u = own.candidates(np.array([i]), np.array([window_number]))
            candidates = entries_of(own, addresses) * u
            bits = (np.arange(1 << window)[:, None] >> np.arange(window)) & 1
            contexts = np.asarray(with_x64(lambda x: context(x), candidates))[:, 0]
            total = costs.pruned[contexts].sum() + bits @ (costs.kept - costs.pruned)[contexts]
            total = total + int(costs.window(np.array(window_number)))
            near = np.flatnonzero(np.abs(bits @ candidates[:, 0] - targets[i]) <= tolerance * (1 - SLACK))
            options |= {(int(total[s]), window_number, int(s)) for s in near if s}
        found = int(mask.windows.reshape(-1)[i]), int(mask.subsets.reshape(-1)[i])
        if targets[i] == 0:
            assert found == (0, 0)
        elif options:
            assert cost_of(own, costs, i, found) <= min(options)[0]


def with_x64(function, *arrays):
    with jax.enable_x64(True):
        return function(*(jnp.asarray(a) for a in arrays))


def entries_of(own, addresses):
    return read_entries(own.v, addresses)


def cost_of(own, costs, i, found):
    window_number, subset = found
    if subset == 0:
        return costs.empty
    addresses, u = own.candidates(np.array([i]), np.array([window_number]))
    contexts = np.asarray(with_x64(lambda x: context(x), entries_of(own, addresses) * u))[:, 0]
    bits = (subset >> np.arange(own.gadget.window)) & 1
    return int(np.where(bits, costs.kept[contexts], costs.pruned[contexts]).sum()) + int(costs.window(window_number))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_masks_meet_the_tolerance_and_nothing_depends_on_the_batches(objective, monkeypatch):
    own = family()
    solution = solve_family(own, objective=objective)
    assert not solution.misses and meets(own, solution.mask)
    assert not solution.mask.subsets[own.weights == 0].any()
    if objective != "closest":
        pending, costs = np.flatnonzero(own.weights.reshape(-1)), family_costs(own, objective)
        together = solve_cheapest(own, pending, costs)
        monkeypatch.setattr(cheapest_windows, "batch_size", chunk_size)
        again = solve_cheapest(own, pending[::7], costs)
        rows = np.isin(together.flat, pending[::7])
        for name in ("flat", "windows", "subsets", "sums"):
            assert np.array_equal(getattr(again, name), getattr(together, name)[rows])
        sums = masked_sums(own, solution.mask).reshape(-1)
        assert np.array_equal(sums[together.flat], together.sums)


def test_each_objective_is_best_at_its_own():
    kept, bits = {}, {}
    for objective in OBJECTIVES:
        mask = solve_family(family(), objective=objective).mask
        kept[objective], bits[objective] = mask.kept, encode_family(family(), mask).size
    assert min(kept, key=kept.get) == SPARSEST and kept["closest"] > 1.5 * kept[SPARSEST]
    assert min(bits, key=bits.get) == FEWEST_BITS and bits["closest"] > 1.15 * bits[FEWEST_BITS]


def test_a_weight_that_no_window_meets_is_named():
    solution = solve_family(family(8, 0, 40, 2.0**-16), objective=FEWEST_BITS)
    closest = solve_family(family(8, 0, 40, 2.0**-16))
    assert len(solution.misses) == len(closest.misses) > 0
    assert solution.misses == closest.misses


def test_the_fit_foretells_the_length_of_the_code():
    own = family()
    costs, bits = fit(own.weights, own.gadget.tolerance, own.gadget.gain, own.gadget.window)
    coded = 8 * encode_family(own, solve_family(own, objective=FEWEST_BITS).mask).size / own.weights.size
    # 1200 weights: some tenths of a bit for the head of the code and the weights' own spread.
    assert bits == pytest.approx(coded, abs=0.35)
    again, same = fit(own.weights, own.gadget.tolerance, own.gadget.gain, own.gadget.window)
    assert same == bits and np.array_equal(again.kept, costs.kept) and np.array_equal(again.windows, costs.windows)
    assert np.all(costs.kept > 0) and np.all(costs.pruned >= 0) and costs.empty > 0


def test_costs_of_window_numbers_go_on_beyond_the_fitted_ones():
    costs = fit(family().weights, 0.01, 0, 8)[0]
    last = len(costs.windows) - 1
    numbers = np.array([0, last, last + 1, last + 10])
    assert costs.window(numbers).tolist() == [
        costs.windows[0],
        costs.windows[last],
        costs.windows[last] + costs.further,
        costs.windows[last] + 10 * costs.further,
    ]
    assert kept_costs(8).window(np.arange(5)).tolist() == [0] * 5


@functools.cache
def magnitudes(sigma=0.3):
    return np.abs(np.random.default_rng(4).normal(0, sigma, 20_000))


@pytest.mark.parametrize("share", [pytest.param(share, marks=pytest.mark.slow) for share in (20, 200)])
def test_fewest_bits_takes_gains_and_windows_that_code_shorter(share):
    problems = Problems("layer 'x' kernel", magnitudes(), 0.0, 1, 0.3 / share, 1e-3)
    fewest, sparsest, closest = plan_fewest_bits(problems), plan_sparsest(problems), plan_gadget(problems)

    def bits(gadget):
        return fit(magnitudes(), gadget.tolerance, gadget.gain, gadget.window)[1]

    assert bits(fewest) < 0.95 * bits(sparsest) and fewest.width <= WIDENING * sparsest.width
    assert sparsest.window <= 16 and fewest.window <= 16
    for gadget in (fewest, sparsest, closest):
        assert gadget.failure <= 1e-3 and gadget.tolerance == 0.3 / share


def test_no_window_up_to_16_will_do_and_larger_ones_are_planned():
    problems = Problems("layer 'x' kernel", np.array([0.9, 0.5]), 0.0, 1, 2.0**-25, 1e-3)
    assert plan_sparsest(problems).window > 16 and plan_fewest_bits(problems).window > 16
    nothing = Problems("layer 'x' kernel", np.zeros(0), 0.0, 1, 0.1, 1e-3)
    assert plan_sparsest(nothing).width == plan_fewest_bits(nothing).width == 1


@pytest.mark.parametrize(("window", "target"), [(8, 1.3)])
def test_targets_above_the_gain_are_missed_no_more_often_than_their_limit(window, target):
    from slth_compile.plan.calibration import BEYOND
    from slth_compile.plan.objective import _limits_beyond

    rng, trials = np.random.default_rng(6), 4000
    products = rng.random((trials, window)) * rng.uniform(-1, 1, (trials, window))
    sums = np.zeros((trials, 1))
    for column in products.T:
        sums = np.concatenate([sums, sums + column[:, None]], 1)
    errors = np.abs(sums - target).min(1)
    limits = _limits_beyond()[window][np.searchsorted(BEYOND, target)]
    for half_octaves in (1, 4, 8, 14):
        share = np.mean(errors > 2.0 ** (-half_octaves / 2))
        assert share <= limits[half_octaves] + 4 * np.sqrt(share * (1 - share) / trials)
        assert share >= limits[half_octaves] - 0.12


SHAPE = (4,)


@functools.cache
def model() -> Graph:
    rng = np.random.default_rng(2)
    nodes = (
        n.Input(shape=SHAPE),
        n.Dense(inputs=(0,), kernel=rng.normal(size=(4, 5)) / 2, bias=rng.normal(size=5) / 2, name="first"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=rng.normal(size=(5, 3)) / 2, name="second"),
    )
    return Graph(nodes, (3,))


@pytest.mark.parametrize("objective", [SPARSEST, pytest.param(FEWEST_BITS, marks=pytest.mark.slow)])
def test_a_ticket_of_any_objective_is_verified_and_says_which(objective, tmp_path):
    domain = slth.Box(-0.5, 1.0, SHAPE)
    options = {"domain": domain, "objective": objective, "window": 8}
    out = slth.compile(model(), 4.0, 0.05, attack=False, out=tmp_path / "out", **options)
    assert slth.verify(tmp_path / "out").ticket_id
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["objective"] == objective
    assert out.layout.objective == slth.load(tmp_path / "out").layout.objective == objective
    assert objective in (tmp_path / "out" / "report.html").read_text()
    assert out.layout == slth.dry_run(model(), 4.0, 0.05, **options).layout


def test_what_is_planned_is_of_the_objective():
    domain = slth.Box(-0.5, 1.0, SHAPE)
    plans = [slth.dry_run(model(), 1.0, 0.05, domain=domain, objective=objective) for objective in (CLOSEST, SPARSEST)]
    closest, sparsest = ([layer.kernel.window for layer in planned.layout.layers] for planned in plans)
    assert closest != sparsest and max(sparsest) <= 16


def test_an_unknown_objective_is_refused():
    with pytest.raises(InputError, match="objective is 'fewest'; expected closest, sparsest or fewest-bits"):
        slth.dry_run(model(), 1.0, 0.05, domain=slth.Box(0.0, 1.0, SHAPE), objective="fewest")
