"""Enclosures of smooth activations by both engines, against fifty digits and more."""

from __future__ import annotations

import itertools
from decimal import Decimal, getcontext, localcontext

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker_lines import assert_alike, lines_by_both
from counts import few
from hypothesis import Phase, example, given, settings
from smooth_truth import SMOOTH, Function, distribution

from slth_compile.certificate import elementary, lines, pointwise, smooth
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import elementary as checker_elementary
from slth_compile.checker import smooth as checker_smooth
from slth_compile.checker import smooth_lines as checker_smooth_lines
from slth_compile.checker.arithmetic import Interval as CheckerInterval
from slth_compile.graph.nodes import OPERATION_NAMES, Gelu

names = st.sampled_from(sorted(SMOOTH))
SPECIAL = (0.0, 1e-300, -1e-300, 1e-9, -1e-9, 3.0, -3.0, 9.0, -9.0, 9.01, -9.01, 700.0, -700.0, 701.0, -701.0)
TURNS = (1.4142135623730951, 2.3993572805154677, 1.4185040087908284, 1.2784645427610738, 0.7517915246935645, 0.75246142)
numbers = (
    st.sampled_from([*SPECIAL, *TURNS, *(-t for t in TURNS), 1e8, -1e8, 1e300, -1e300])
    | st.floats(-12, 12)
    | st.floats(-900, 900)
).filter(lambda v: v == 0 or abs(v) >= 2.0**-1022)
shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=4)


def interval(a: float, b: float) -> Interval:
    low, high = sorted((a, b))
    return Interval(np.array([low]), np.array([high]))


def ends(found) -> tuple[Decimal, Decimal]:
    return Decimal(float(found.lower[0])), Decimal(float(found.upper[0]))


def fields_of(node) -> tuple[str, dict]:
    return OPERATION_NAMES[type(node)], {"approximate": node.approximate} if isinstance(node, Gelu) else {}


def values_by_both(node, y: Interval) -> list:
    return [pointwise.value_image(node, y), checker_smooth.value(*fields_of(node), CheckerInterval(*y))]


def differences_by_both(node, y: Interval, d: Interval) -> list:
    own = checker_smooth.change(*fields_of(node), CheckerInterval(*y), CheckerInterval(*d))
    return [pointwise.difference_image(node, y, d), own]


def digits(*values: float) -> int:
    """Enough for sums of such numbers, and for what is small of them."""
    return 60 if all(v == 0 or 1e-9 < abs(v) < 1e9 for v in values) else 700


def between(low: float, high: float, share: float) -> float:
    return min(max(low + (high - low) * share, low), high)


@given(names, numbers, numbers, shares)
@settings(max_examples=80, deadline=None)
@np.errstate(all="ignore")
def test_values_and_slopes_of_an_interval_hold_those_of_its_numbers(name, a, b, inside) -> None:
    node, value, slope = SMOOTH[name]
    y = interval(a, b)
    with localcontext() as context:
        context.prec = digits(a, b)
        images, slopes = [ends(v) for v in values_by_both(node, y)], ends(smooth.smooth_slopes(node, y))
        for share, _ in [(0.0, 0), (1.0, 0), *inside[:2]]:
            x = Decimal(between(y.lower[0], y.upper[0], share))
            truth = value(x)
            assert all(low <= truth <= high for low, high in images)
            assert slopes[0] <= slope(x) <= slopes[1]


@given(names, numbers, numbers, numbers, numbers, shares)
@example("gelu", -1.4, 1.5, -1e-12, 1e-12, [(0.3, 0.5), (0.9, 0.1)])
@settings(max_examples=80, deadline=None)
@np.errstate(all="ignore")
def test_differences_hold_those_of_all_pairs(name, a, b, c, e, inside) -> None:
    node, value, _ = SMOOTH[name]
    y, d = interval(a, b), interval(c, e)
    with localcontext() as context:
        context.prec = digits(a, b, c, e)
        found = [ends(v) for v in differences_by_both(node, y, d)]
        for first, second in [(0.0, 0.0), (1.0, 1.0), *inside[:2]]:
            x, move = (Decimal(between(v.lower[0], v.upper[0], s)) for v, s in ((y, first), (d, second)))
            if 0 < abs(move) < Decimal("1e-30"):
                continue  # see below
            moved, slack = change_and_rounding(value, x, move)
            assert all(low - slack <= moved <= high + slack for low, high in found)


def change_and_rounding(
    value: Function, x: Decimal, move: Decimal, before: Decimal | None = None
) -> tuple[Decimal, Decimal]:
    """`a(x + d) - a(x)`, and what the digits of the context leave unsure of it; `a(x)` where it is known."""
    if move == 0:
        return move, move
    before, after = value(x) if before is None else before, value(x + move)
    return after - before, (abs(x) + abs(before) + abs(after)) * Decimal(10) ** (3 - getcontext().prec)


@pytest.mark.parametrize("name", SMOOTH)
def test_images_shrink_with_the_difference(name) -> None:
    """Down to 1e-300, at points and intervals, never past the truth in 400 digits, never far above it."""
    node, value, slope = SMOOTH[name]
    with localcontext() as context, np.errstate(all="ignore"):
        context.prec = 400
        for x in (-3.5, -2.0, -1.0, -1e-9, 0.25, 1.5, 3.2):
            start = value(Decimal(x))
            steep = max(abs(slope(Decimal(x + v))) for v in (-0.1, -0.05, 0, 0.05, 0.1))
            for size in (1e-6, 1e-17, 1e-100, 1e-290):
                moved = value(Decimal(x) + Decimal(size)) - start
                for found in differences_by_both(node, interval(x, x), interval(size, size)):
                    low, high = ends(found)
                    assert low <= moved <= high
                    assert (
                        high - low
                        <= Decimal(size) * Decimal("1e-11")
                        + Decimal(size) ** 3
                        + Decimal("1e-305")
                        + Decimal(2) ** -890
                    )
                for found in differences_by_both(node, interval(x - 0.1, x + 0.1), interval(-size, size)):
                    low, high = ends(found)
                    assert low <= moved <= high
                    assert (
                        max(high, -low)
                        <= Decimal(size) * (steep * Decimal("1.1") + Decimal("0.1")) + Decimal(2) ** -890
                    )


@given(names, numbers, numbers, numbers, numbers)
@settings(max_examples=80, deadline=None)
@np.errstate(all="ignore")
def test_the_checker_is_never_the_looser_one(name, a, b, c, e) -> None:
    """Up to the margin that is published on top, and to what both engines add for subnormal numbers."""
    node = SMOOTH[name][0]
    for own, other in (values_by_both(node, interval(a, b)), differences_by_both(node, interval(a, b), interval(c, e))):
        size = np.maximum(abs(own.lower), abs(own.upper))
        slack = np.where(np.isfinite(size), size * 2.0**-40, 0) + 2.0**-890
        assert not (other.lower < own.lower - slack) and not (other.upper > own.upper + slack)


@pytest.mark.parametrize("name", few(SMOOTH, "gelu", "silu"))
def test_compiled_programs_enclose_too(name) -> None:
    """XLA may merge, fuse and flush: a few hundred numbers through the jitted lines."""
    node, value, _ = SMOOTH[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([np.array(SPECIAL), np.linspace(-12, 12, 60), rng.normal(0, 2, 60), rng.uniform(-60, 60, 20)])
    move = np.where(np.arange(x.size) % 2, 1e-9, -0.3)
    with jax.enable_x64(True):
        arrays = jnp.asarray(x), jnp.asarray(move)
        program = jax.jit(lambda y, d: pointwise.difference_image(node, Interval(y, y), Interval(d, d)))
        found = Interval(*map(np.asarray, program(*arrays)))
    with localcontext() as context:
        context.prec = 95
        for i, (y, d) in enumerate(zip(x.tolist(), move.tolist(), strict=True)):
            moved = value(Decimal(y) + Decimal(d)) - value(Decimal(y))
            assert Decimal(float(found.lower[i])) <= moved <= Decimal(float(found.upper[i])), (y, d)


@pytest.mark.parametrize("name", sorted(set(SMOOTH) - {"hard swish"}))
def test_turns_are_where_they_are_said_to_be(name) -> None:
    """The derivative has opposite signs at both ends of each bracket, and the value is within its bounds."""
    node, value, slope = SMOOTH[name]
    with localcontext() as context:
        context.prec = 60

        def bend(x: Decimal) -> Decimal:
            h = Decimal("1e-20")
            return (slope(x + h) - slope(x - h)) / (2 * h)

        for function, derivative, (_, turns) in (
            (value, slope, smooth._value(node)),
            (slope, bend, smooth._slope(node)),
        ):
            for turn in turns:
                left, right = Decimal(turn.left), Decimal(turn.right)
                if left == right:
                    assert derivative(left - 1) > 0 > derivative(left + 1)
                else:
                    assert derivative(left) * derivative(right) < 0
                assert Decimal(turn.low) <= function((left + right) / 2) <= Decimal(turn.high)
            # no other turn: one sign between neighbours
            cuts = sorted([-12.0, 12.0, *(t.left for t in turns)])
            for start, stop in itertools.pairwise(cuts):
                grid = [Decimal(start + (stop - start) * k / 40) for k in range(2, 39)]
                assert len({derivative(x) > 0 for x in grid}) == 1


@pytest.mark.parametrize("name", sorted(set(SMOOTH) - {"hard swish"}))
def test_third_derivatives_are_below_their_bounds(name) -> None:
    node, _, slope = SMOOTH[name]
    with localcontext() as context:
        context.prec = 60
        h = Decimal("1e-12")
        for k in range(-150, 151):
            x = Decimal(k) / 20
            third = abs(slope(x + h) - 2 * slope(x) + slope(x - h)) / (h * h)
            bounds = smooth._third_derivative(node), checker_smooth._curve(*fields_of(node)).third
            assert all(third <= Decimal(bound) for bound in bounds)


@given(names, numbers, numbers, numbers, numbers, shares)
@settings(max_examples=60, deadline=None)
@np.errstate(all="ignore")
def test_lines_hold_the_activation_and_its_difference(name, a, b, c, e, inside) -> None:
    node, value, _ = SMOOTH[name]
    y, d = interval(a, b), interval(c, e)
    engines = lines_by_both(node, y, d)
    with localcontext() as context:
        context.prec = digits(a, b, c, e)
        for first, second in [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), *inside[:2]]:
            x, move = (Decimal(between(v.lower[0], v.upper[0], s)) for v, s in ((y, first), (d, second)))
            truth, moves = value(x), not 0 < abs(move) < Decimal("1e-30")
            change = change_and_rounding(value, x, move, truth) if moves else None
            for at, moved in engines:
                assert_between(at, x, truth, abs(truth) * Decimal("1e-50"))
                if change is not None:
                    assert_between(moved, move, *change)


@pytest.mark.parametrize("name", SMOOTH)
def test_both_engines_draw_the_same_lines(name: str) -> None:
    rng, size = np.random.default_rng(0), (2, 500)
    for scale in (1e-9, 1e-3, 1.0, 30.0):
        y, d = (np.where(rng.random(size) < 0.3, rng.choice(SPECIAL, size), rng.normal(size=size) * 5) for _ in "yd")
        assert_alike(SMOOTH[name][0], Interval(*np.sort(y, 0)), Interval(*np.sort(d * scale, 0)))


@pytest.mark.parametrize("module", [lines, checker_smooth_lines])
@pytest.mark.parametrize("broken", ["slopes", "change"])
def test_lines_of_slopes_or_changes_that_are_too_small_are_seen(module, broken, monkeypatch) -> None:
    """A hundredth is left out of the slopes, or of the images of changes, that lines are made of."""
    checker = module is checker_smooth_lines
    owner, name = (checker_smooth, broken) if checker else (lines, {"slopes": "slope", "change": "difference"}[broken])
    name = name if checker else f"{name}_image"
    own = getattr(owner, name)

    def shrunk(*arguments):
        found = own(*arguments)
        less = 0.01 * (found.upper - found.lower)
        return type(found)(found.lower + less, found.upper - less)

    monkeypatch.setattr(owner, name, shrunk)

    @given(names, st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), shares)
    @settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate])
    def hold(name, a, b, c, e, inside) -> None:
        test_lines_hold_the_activation_and_its_difference.hypothesis.inner_test(name, a, b, c, e, inside)

    with pytest.raises(AssertionError):
        hold()


def assert_between(found: lines.Lines, x: Decimal, truth: Decimal, slack: Decimal) -> None:
    upper_slope, upper, lower_slope, lower = (Decimal(float(v[0])) for v in found)
    assert upper == Decimal("inf") or truth <= upper_slope * x + upper + slack
    assert lower == Decimal("-inf") or truth >= lower_slope * x + lower - slack


@given(names, st.floats(-6, 6), st.floats(-6, 6), st.floats(-3, 3), shares)
@settings(max_examples=60, deadline=None)
def test_intercepts_hold_for_any_slope(name, a, b, slope, inside) -> None:
    node, value, _ = SMOOTH[name]
    y = interval(a, b)
    found = lines._intercepts(node, y, np.array([slope]), None)
    with localcontext() as context:
        context.prec = 60
        for share, _ in inside:
            x = Decimal(between(y.lower[0], y.upper[0], share))
            low, high = ends(found)
            assert low <= value(x) - Decimal(slope) * x <= high


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu"])
def test_lines_are_close_on_short_intervals(name) -> None:
    """The gap falls with the square of the width."""
    node = SMOOTH[name][0]
    for centre in (-2.0, -0.5, 0.25, 1.5):
        gaps = []
        for width in (0.2, 0.02):
            found = lines.value_lines(node, interval(centre - width, centre + width))
            gaps.append(float(found.upper[0] - found.lower[0]))
        assert gaps[1] < gaps[0] / 50


@pytest.mark.parametrize("module", [elementary, checker_elementary])
def test_a_missing_margin_is_seen(module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = -np.random.default_rng(0).uniform(0, 40, 200)
    with localcontext() as context:
        context.prec = 40
        truth = [Decimal(v).exp() for v in x.tolist()]

    def is_sound() -> bool:
        found = module.exponential(x)
        rows = zip(found.lower.tolist(), truth, found.upper.tolist(), strict=True)
        return all(Decimal(low) <= value <= Decimal(high) for low, value, high in rows)

    assert is_sound()
    monkeypatch.setattr(module, "EXP_MARGIN" if module is elementary else "_EXP_MARGIN", 0.0)
    assert not is_sound()


def test_the_actual_error_is_what_the_proof_says() -> None:
    """Less than 64 units of roundoff for exp, and 600 for the normal law, of the margins of 2048 and 4096."""
    rng = np.random.default_rng(1)
    x, z = -rng.uniform(0, 700, 400), rng.uniform(0.01, 9, 300)
    near = elementary.exponential(x)
    middle = 0.5 * near.lower + 0.5 * near.upper
    law = elementary.normal_distribution(z)
    half = 0.5 * law.lower + 0.5 * law.upper
    with localcontext() as context:
        context.prec = 40
        for v, found in zip(x.tolist(), middle.tolist(), strict=True):
            assert abs(Decimal(found) / Decimal(v).exp() - 1) < 64 * Decimal(2) ** -53
        for v, found in zip(z.tolist(), half.tolist(), strict=True):
            assert abs(Decimal(found) - distribution(Decimal(v))) < 4000 * Decimal(2) ** -54
