"""The plan's probabilities: equations (1)-(3) of `plan.width` against simulation, and every way a width is refused."""

from __future__ import annotations

import importlib.resources
import json

import numpy as np
import pytest
from scipy import special, stats

from slth_compile.errors import InputError, UnreachableError
from slth_compile.plan import width
from slth_compile.plan.binomial import binomial, upper_limit
from slth_compile.plan.calibrate import histogram
from slth_compile.plan.calibration import COLUMNS, CONFIDENCE, HALF_OCTAVES, TARGETS, _limits, miss_probabilities
from slth_compile.plan.objective import plan_pinned
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import MAXIMUM_WIDTH

TRIALS = 20_000
UNLIKELY = 1e-9


def problems(weights, tolerance: float, failure: float = 1e-3, *, error: float = 0.0, signs: int = 1) -> Problems:
    return Problems("layer 'x' kernel", np.abs(np.atleast_1d(weights).astype(float)), error, signs, tolerance, failure)


def window_errors(rng: np.random.Generator, window: int, target: float, trials: int = TRIALS) -> np.ndarray:
    """Errors of the closest of all subsets of `window` products a * b, by exhaustion."""
    products = rng.uniform(0, 1, (trials, window)) * rng.uniform(-1, 1, (trials, window))
    sums = np.zeros((trials, 1))
    for column in products.T:
        sums = np.concatenate([sums, sums + column[:, None]], 1)
    return np.abs(sums - target).min(1)


def column_of(target: float) -> int:
    (column,) = np.flatnonzero(width._counts(np.array([target])))
    return int(column)


@pytest.mark.parametrize("target", [0.97, 0.5, 0.2513, 0.031, 1 / 1000, 1e-5])
def test_no_window_misses_more_often_than_its_limit(target: float) -> None:
    """Equation (2) between grid targets, equation (3) below the smallest; not vacuous where there are enough misses."""
    errors = window_errors(np.random.default_rng(int(target * 1e6)), 8, target)
    limits = width._grid_limits()[8][column_of(target)]
    for half_octaves in (4, 8, 12, 16):
        misses = np.count_nonzero(errors > 2.0 ** (-half_octaves / 2))
        limit = limits[half_octaves]
        assert misses <= stats.binom.isf(UNLIKELY, TRIALS, limit)
        if misses > 200 and target > TARGETS[-1]:
            assert limit <= 3 * misses / TRIALS


def test_a_forced_candidate_costs_what_equation_3_says() -> None:
    """Without any candidate that may be left out a target near zero is met less often: the limits keep to that side."""
    limits, table = width._grid_limits()[8], miss_probabilities()[8]
    shift = TARGETS[-1] / 2 * (1 + np.log(2 / TARGETS[-1]))
    mass = np.abs(np.random.default_rng(0).uniform(0, 1, 10**6) * np.random.default_rng(1).uniform(-1, 1, 10**6))
    assert np.mean(mass < TARGETS[-1] / 2) == pytest.approx(shift, rel=0.1)
    np.testing.assert_allclose(limits[-1], np.minimum(table[-1] + shift, 1), rtol=1e-6)


@pytest.mark.parametrize(("copies", "window", "target", "half_octaves"), [(24, 8, 0.4, 12), (40, 8, 0.1, 14)])
def test_a_width_fails_no_more_often_than_planned(copies: int, window: int, target: float, half_octaves: int) -> None:
    """Equation (1): all disjoint windows of the usable copies together."""
    rng = np.random.default_rng(copies)
    tolerance = 2.0 ** (-half_octaves / 2)
    usable = rng.binomial(copies, 0.5, TRIALS)
    failed = np.ones(TRIALS, bool)
    for number in range(copies // window):
        errors = window_errors(rng, window, target)
        failed &= (usable < (number + 1) * window) | (errors > tolerance)
    q = width._grid_limits()[window][column_of(target), half_octaves]
    planned = sum(stats.binom.pmf(k, copies, 0.5) * q ** (k // window) for k in range(copies + 1))
    assert failed.sum() <= stats.binom.isf(UNLIKELY, TRIALS, planned)
    assert failed.mean() > planned / 3
    gadget = plan_gadget(problems(target, tolerance * 1.001, planned * 1.001))
    assert gadget.width <= copies and gadget.failure <= planned * 1.001


def test_the_failure_of_a_gadget_is_the_union_over_weights_and_signs() -> None:
    rng = np.random.default_rng(2)
    weights, tolerance = rng.uniform(0.05, 0.9, 40), 0.02
    gadget = plan_gadget(problems(weights, tolerance, 1e-2, signs=2))
    q = width._grid_limits()[gadget.window]
    column = int(np.ceil(-2 * np.log2(np.ldexp(gadget.tolerance * width._INSIDE, -gadget.gain) - 2.0**-45)))
    single = [
        sum(
            stats.binom.pmf(k, gadget.width, 0.5 - 2.0**-24)
            * q[column_of(np.ldexp(w, -gadget.gain)), column] ** (k // gadget.window)
            for k in range(gadget.width + 1)
        )
        for w in weights
    ]
    assert gadget.failure == pytest.approx(2 * sum(single), rel=1e-6)
    assert gadget.failure >= 2 * sum(single) and gadget.failure <= 1e-2


def test_width_grows_with_precision_and_confidence() -> None:
    weights = np.random.default_rng(3).uniform(0.01, 0.5, 100)

    def copies(tolerance: float, failure: float, signs: int = 1) -> int:
        gadget = plan_gadget(problems(weights, tolerance, failure, signs=signs))
        assert gadget.failure <= failure
        return gadget.width

    by_tolerance = [copies(tolerance, 1e-3) for tolerance in (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)]
    assert by_tolerance == sorted(by_tolerance) and by_tolerance[0] < by_tolerance[-1]
    by_failure = [copies(0.03, failure) for failure in (0.5, 0.1, 1e-2, 1e-4, 1e-8)]
    assert by_failure == sorted(by_failure) and by_failure[0] < by_failure[-1]
    assert copies(0.03, 1e-3, signs=2) >= copies(0.03, 1e-3)


def test_a_narrower_gadget_would_fail_too_often() -> None:
    """The width is the least one of its window and gain."""
    wanted = problems(np.linspace(0.1, 0.6, 30), 0.02)
    gadget = plan_gadget(wanted)
    limits = width._grid_limits()[gadget.window]
    assert width.least_width(wanted, gadget.gain, gadget.window, limits, gadget.width) == gadget
    assert width.least_width(wanted, gadget.gain, gadget.window, limits, gadget.width - 1) is None


def test_equal_widths_take_the_smaller_window() -> None:
    wanted = problems(np.linspace(0.1, 0.6, 30), 0.02)
    gadget = plan_gadget(wanted)
    for window, limits in width._grid_limits().items():
        if window < gadget.window:
            assert width.least_width(wanted, gadget.gain, window, limits, gadget.width) is None


def test_the_target_of_a_column_is_never_below_the_weight() -> None:
    rng = np.random.default_rng(4)
    near = [np.nextafter(t, direction) for t in TARGETS for direction in (0, 2)]
    targets = np.clip(np.concatenate([TARGETS, near, 2.0 ** -rng.uniform(0, 12, 2000)]), 0, 1)
    for target in targets:
        column = column_of(target)
        assert TARGETS[min(column, len(TARGETS) - 1)] >= target
        # Nor further above than one step, which equation (2) allows for.
        assert column == COLUMNS - 1 or target > TARGETS[column] * 2.0 ** (-1 / 16) * (1 - 1e-12)
    assert width._counts(targets).sum() == len(targets)


@pytest.mark.parametrize("largest", [1.0, np.nextafter(1, 2), np.nextafter(1, 0), 0.5, 3e-5, 1e20])
def test_weights_stay_within_the_gain(largest: float) -> None:
    gadget = plan_gadget(problems(largest, largest / 10))
    assert 2.0**gadget.gain >= largest


def test_limits_are_clopper_pearson() -> None:
    samples, rng = 1000, np.random.default_rng(5)
    counts = rng.multinomial(samples, np.full(HALF_OCTAVES + 1, 1 / (HALF_OCTAVES + 1)), COLUMNS)
    limits = _limits(samples, [[0, *row] for row in counts.tolist()])
    for column in (0, 80, COLUMNS - 1):
        for tolerance in (0, 1, 30, HALF_OCTAVES):
            misses = int(counts[column, :tolerance].sum())
            exact = stats.binomtest(misses, samples, alternative="less").proportion_ci(CONFIDENCE, "exact").high
            assert limits[column, tolerance] == pytest.approx(exact, rel=1e-12)
            # At the limit so few misses, or fewer, have probability 1 - CONFIDENCE.
            assert special.bdtr(misses, samples, limits[column, tolerance]) == pytest.approx(1 - CONFIDENCE, rel=1e-6)
    assert _limits(samples, [[0, samples]] * COLUMNS)[0, 1] == 1.0


def test_the_table_is_a_table_of_probabilities() -> None:
    table = miss_probabilities()
    assert 8 in table and sorted(table) == list(table)
    for limits in table.values():
        assert limits.shape == (COLUMNS, HALF_OCTAVES + 1)
        assert limits.min() > 0 and limits.max() <= 1
        assert np.all(np.diff(limits, axis=1) >= 0)


def test_a_tolerance_below_the_grid_is_refused_by_name() -> None:
    grid = 4 * 2.0 ** (-PRODUCT_BITS)
    with pytest.raises(UnreachableError, match=r"layer 'x' kernel: needs a tolerance of 1\.00e-14, below the grid"):
        plan_gadget(problems(0.9, 1e-14))
    with pytest.raises(UnreachableError, match="below the grid"):
        plan_gadget(problems(0.9, 1e-3, error=1e-3))
    assert plan_gadget(problems(0.4, 1e-9)).tolerance == 1e-9 > grid


def test_a_probability_out_of_reach_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = problems(0.9, 1e-2, 1e-6)
    needed = plan_gadget(wanted).width
    monkeypatch.setattr(width, "MAXIMUM_WIDTH", needed - 1)
    with pytest.raises(
        UnreachableError, match=rf"^layer 'x' kernel: .*probability 1\.00e-06 needs.*the {needed - 1} cop"
    ):
        plan_gadget(wanted)


@pytest.mark.parametrize("weights", [[], [0.0]])
def test_weights_that_are_all_zero_need_nothing(weights: list[float]) -> None:
    gadget = plan_gadget(problems(weights, 0.1))
    assert (gadget.width, gadget.failure, gadget.tolerance) == (1, 0.0, 0.1)


@pytest.mark.parametrize("tolerance", [0.3, 0.5])
def test_weights_within_the_tolerance_need_next_to_nothing(tolerance: float) -> None:
    """One that equals the tolerance is still to be met: the solver stays a hair inside."""
    gadget = plan_gadget(problems([0.3, 0.2], tolerance))
    assert gadget.width >= 1
    assert (gadget.width == 1 and gadget.failure == 0) == (tolerance > 0.3)


@pytest.mark.parametrize(
    ("window", "column", "signs"),
    [
        (8, 40, False),
        (8, COLUMNS - 1, False),
        pytest.param(12, COLUMNS - 1, False, marks=pytest.mark.slow),
        pytest.param(24, 100, False, marks=pytest.mark.slow),
        (8, COLUMNS + 3, False),
        (8, 70, True),
    ],
)
def test_a_cell_of_the_table_can_be_measured_again(window, column, signs):
    name = "calibration_signs.json" if signs else "calibration.json"
    table = json.loads(importlib.resources.files("slth_compile.plan").joinpath(name).read_text())
    entry = table["windows"][str(window)]
    start, *counts = (entry["cells"] + entry.get("beyond", []))[column]
    measured = histogram(window, column, entry["samples"], signs)
    assert measured.sum() == entry["samples"] == sum(counts)
    assert measured[start : start + len(counts)].tolist() == counts


def test_counts_an_octave_up_are_those_of_the_halved_weights() -> None:
    """Counted once, moved for every gain: the grid's targets halve to targets of the grid."""
    assert np.array_equal(TARGETS[16:], TARGETS[:-16] / 2)
    wanted = problems(2.0 ** -np.random.default_rng(6).uniform(0, 14, 3000), 1e-9)
    for octaves in range(width.GAINS):
        np.testing.assert_array_equal(width._shifted(wanted.counts(0), octaves), wanted.counts(octaves))
    for weight in np.concatenate([TARGETS, np.nextafter(TARGETS, 0)]):
        (column,) = np.flatnonzero(width._shifted(problems(weight, 1e-9).counts(0), 2))
        assert TARGETS[min(column, len(TARGETS) - 1)] >= weight / 4


@pytest.mark.parametrize("window", [10, 16, 28])
def test_a_window_that_is_asked_for_is_used_in_the_least_width(window: int) -> None:
    wanted = problems(np.linspace(0.1, 0.6, 30), 0.02)
    gadget = plan_gadget(wanted, window)
    assert gadget.window == window and gadget.failure <= wanted.failure
    limits = width._grid_limits()[window]
    for gain in range(gadget.gain, gadget.gain + width.GAINS):
        assert width.least_width(wanted, gain, window, limits, gadget.width - 1) is None
    assert plan_gadget(problems([0.0], 0.1), window).window == window
    if window % width.WINDOW_STEP == 0 and window <= width.LARGEST_WINDOW:
        assert plan_gadget(wanted).width <= gadget.width


def test_a_window_that_does_not_do_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = problems(0.9, 1e-2, 1e-6)
    with pytest.raises(InputError, match=r"window is 15; expected one of the measured sizes 8, 10, .*28"):
        plan_gadget(wanted, 15)
    monkeypatch.setattr(width, "MAXIMUM_WIDTH", 20)
    with pytest.raises(UnreachableError, match=r"more than the 20 copies the format allows in windows of 12; ask"):
        plan_gadget(wanted, 12)


def test_objectives_keep_to_a_window_that_is_asked_for() -> None:
    """What rounding to 32 bits may take of the tolerance is left to them there too."""
    wanted = problems(np.linspace(0.1, 0.6, 30), 0.02)
    gadget, plain = plan_pinned(wanted, 16), plan_gadget(wanted, 16)
    assert gadget.window == 16 and gadget.tolerance == wanted.tolerance and gadget.width >= plain.width


def test_what_32_bits_may_lose_is_taken_off_the_tolerance(monkeypatch):
    from slth_compile.plan import width

    problems = Problems("layer 'x' kernel", np.full(1000, 0.4), 0.0, 1, 1e-3, 1e-3)
    planned = plan_gadget(problems, window=16).width
    monkeypatch.setattr(width, "rounding", lambda window, tolerance: 0.75 * tolerance)
    assert plan_gadget(problems, window=16).width > planned


@pytest.mark.parametrize("trials", [0, 1, 8, 300, MAXIMUM_WIDTH])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5 - 2.0**-24, 0.96, 1.0])
def test_binomial_laws_and_limits_are_those_of_scipy(trials: int, share: float) -> None:
    """Within what the plan allows for rounding, and a limit to the bit."""
    counts = np.arange(trials + 1)
    expected = stats.binom.pmf(counts, trials, share)
    np.testing.assert_allclose(binomial(trials, share), expected, rtol=3e-10, atol=1e-250)
    few = np.minimum(counts, max(trials - 1, 0)).astype(np.float64)
    limits = upper_limit(CONFIDENCE, few, max(trials, 1))
    np.testing.assert_allclose(limits, stats.beta.ppf(CONFIDENCE, few + 1, max(trials, 1) - few), rtol=1e-12)
