"""The checker's bounds by cases: true for any witness, never looser than without one, and every case counts."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, Case, drawer, random_case, residual
from random_witness import picked
from test_checker_backward import checker_net, pooled
from test_difference import inputs_of, random_regions

from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.checker import branch, cuts, forms, tighten
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.branch import cases
from slth_compile.checker.cuts import Cut, lowered
from slth_compile.checker.forms import Form
from slth_compile.checker.targets import row_numbers
from slth_compile.checker.witness import Listed
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


def outputs_of(net: tighten.Net, lower: np.ndarray, upper: np.ndarray, listed: Listed | None) -> list[Interval]:
    found = tighten.output_differences(net, lower, upper, listed=listed)
    return [d for d in found if d is not None]


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4]))
@settings(max_examples=examples(20), deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    """Whatever the witness; and a walk with it finds what the walk that picked it found."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse, 0.5)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    net = checker_net(case)
    for region in (0, 3):
        some = slice(region, region + 1)
        listed, walked = picked(net, lower[some], upper[some], rng)
        found = tighten.output_differences(net, lower[some], upper[some], listed=listed)
        leaves = []
        for a, b in zip(found, walked, strict=True):
            assert a is not None and b is not None
            np.testing.assert_allclose(a.upper, b.upper, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(a.lower, b.lower, rtol=1e-10, atol=1e-13)
            leaves.append(Difference(*a, np.full_like(a.lower, -np.inf), np.full_like(a.lower, np.inf)))
        for x in inputs_of(rng, lower[region], upper[region]):
            for leaf, exact in zip(leaves, difference_at(case, x), strict=True):
                assert is_inside(leaf, 0, exact)


@pytest.mark.slow
@given(cases=st.data())
@settings(max_examples=500, deadline=None)
def test_never_below_the_exact_difference_at_length(cases: st.DataObject) -> None:
    arguments = st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12])
    test_never_below_the_exact_difference.hypothesis.inner_test(*(cases.draw(part) for part in arguments))


@given(st.sampled_from((*NETWORKS, pooled)), seeds, st.booleans())
@settings(max_examples=examples(15), deadline=None)
def test_never_above_the_bound_without_a_witness(network, seed: int, coarse: bool) -> None:
    """Where outputs alone are bounded by cases; enclosures further up may move lines to either side."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse, 0.5)
    case = random_case(network(draw), rng, 1e-2, draw, False)
    lower, upper = (v[3:4] for v in random_regions(rng, case.graph.input_shape, False, coarse))
    net = checker_net(case)
    outputs = set(range(net.targets.bends, len(net.targets.nodes)))
    listed, _ = picked(net, lower, upper, rng, only=outputs)
    plain = outputs_of(net, lower, upper, None)
    for own, other in zip(outputs_of(net, lower, upper, listed), plain, strict=True):
        room = 1e-14 * (np.abs(other.upper) + np.abs(other.lower))  # enclosures are kept as centres and radii
        assert np.all(own.upper <= other.upper + room) and np.all(own.lower >= other.lower - room)


@given(seeds, st.sampled_from([1e-1, 1e-3, 1e-9]))
@settings(max_examples=examples(15), deadline=None)
def test_units_whose_sign_is_known_change_nothing_for_the_worse(seed: int, radius: float) -> None:
    """Listed among open ones: both halves have the lines of all of the interval."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = random_case(residual(draw), rng, 1e-2, draw, False)
    centre = rng.uniform(-1, 1, (1, *case.graph.input_shape))
    lower, upper = centre - radius, centre + radius
    net = checker_net(case)
    plain = outputs_of(net, lower, upper, None)
    base, bends = net.targets.base, net.targets.bends
    units = np.arange(base[1])  # of the first activation
    rows = np.arange(base[bends] * 4, base[bends + 1] * 4)  # of what comes last
    listed = Listed(rows, np.tile(units.astype(np.int32), (len(rows), 1)))
    found = outputs_of(net, lower, upper, listed)
    for a, b in zip(found, plain, strict=True):
        assert (a.upper <= b.upper).all() and (a.lower >= b.lower).all()
    leaves = [Difference(*d, np.full_like(d.lower, -np.inf), np.full_like(d.lower, np.inf)) for d in found]
    for x in inputs_of(rng, lower[0], upper[0]):
        for leaf, exact in zip(leaves, difference_at(case, x), strict=True):
            assert is_inside(leaf, 0, exact)


def test_all_signs_are_cases() -> None:
    row, signs, first = cases(np.array([1, 3, 2]), 3)
    assert row.tolist() == [0] * 2 + [1] * 8 + [2] * 4
    assert first.tolist() == [0, 2, 10]
    for k, count in enumerate((1, 3, 2)):
        assert len({tuple(own[:count]) for own in signs[row == k]}) == 2**count
    assert set(signs.reshape(-1)) == {-1.0, 1.0}


# ---------------------------------------------------------------- every case counts


def tight() -> tuple[tighten.Net, Case, np.ndarray, np.ndarray]:
    """Two inputs, three hidden units twice, leaky relus: small enough for a few units to be all that is open."""
    rng = np.random.default_rng(3)
    nodes = (
        n.Input(shape=(2,)),
        n.Dense(inputs=(0,), kernel=rng.normal(size=(2, 3)), bias=rng.normal(size=3) / 4),
        n.LeakyRelu(inputs=(1,), slope=0.125),
        n.Dense(inputs=(2,), kernel=rng.normal(size=(3, 3)), bias=rng.normal(size=3) / 4),
        n.Relu(inputs=(3,)),
        n.Dense(inputs=(4,), kernel=rng.normal(size=(3, 4))),
    )
    errors = {}
    for i in (1, 3, 5):
        error, zero = rng.normal(size=nodes[i].kernel.shape) / 100, np.zeros(nodes[i].kernel.shape)
        errors[i] = LayerErrors(
            positive_center=error, positive_radius=zero, negative_center=error, negative_radius=zero
        )
    case = Case(Graph(nodes, (5,)), errors, {}, {}, {})
    return checker_net(case), case, -np.ones((1, 2)), np.ones((1, 2))


def everything(net: tighten.Net, lower: np.ndarray, upper: np.ndarray) -> Listed:
    """Every output in x and d by cases of all six units, as far as they are open in a plain walk."""
    seen: list[int] = []

    class Watch:
        def enter(self, k: int, noise: Any, between: Any) -> None:
            crosses = np.flatnonzero((between.x.lower < 0) & (between.x.upper > 0))
            seen.extend((net.targets.base[net.targets.of_bend[k]] + crosses).tolist())

        def least(self, places: Any, number: int, start: Any, elements: np.ndarray, found: np.ndarray) -> np.ndarray:
            return found

    watch: Any = Watch()
    walk = tighten._Region(net, map, watch)
    for k, node in enumerate(net.graph.nodes):
        walk.enter(k, node, tighten.State(Interval(lower, upper), None))
    target, elements = net.targets.bends, np.arange(4)
    rows = np.concatenate([row_numbers(net.targets, target, elements, part).reshape(-1) for part in "xd"])
    assert len(seen) >= 5
    return Listed(np.sort(rows), np.tile(np.array(seen, np.int32), (len(rows), 1)))


def largest_differences(case: Case) -> np.ndarray:
    """How far each output is from its target on a grid over the box, in either direction, `(2, outputs)`."""
    ends = np.linspace(-1, 1, 201)
    x = z = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    for i, node in enumerate(case.graph.nodes[1:], 1):
        if i in case.errors:
            own = case.errors[i]
            bias = 0 if node.bias is None else node.bias
            positive, negative = (node.kernel + e for e in (own.positive_center, own.negative_center))
            x, z = x @ node.kernel + bias, np.maximum(z, 0) @ positive + np.minimum(z, 0) @ negative + bias
        else:
            slope = getattr(node, "slope", 0.0)
            x, z = (np.maximum(v, slope * v) for v in (x, z))
    return np.stack([(z - x).max(axis=0), (x - z).max(axis=0)])


def is_above(net: tighten.Net, case: Case, lower: np.ndarray, upper: np.ndarray) -> bool:
    (found,) = outputs_of(net, lower, upper, everything(net, lower, upper))
    true = largest_differences(case)
    return bool(np.all(found.upper[0] >= true[0]) and np.all(-found.lower[0] >= true[1]))


def test_cases_come_close_to_the_difference() -> None:
    net, case, lower, upper = tight()
    (plain,), true = outputs_of(net, lower, upper, None), largest_differences(case)
    (found,) = outputs_of(net, lower, upper, everything(net, lower, upper))
    assert is_above(net, case, lower, upper)
    before, after = (np.stack([d.upper[0], -d.lower[0]]) for d in (plain, found))
    assert np.all(after <= before)
    assert float(((after - true) / (before - true)).mean()) < 0.6


def turned(patch: pytest.MonkeyPatch) -> None:
    """Every cut is that of the other sign."""

    def wrong(form: Form, value: np.ndarray, some: list[Cut], chosen: np.ndarray, region: Interval) -> Any:
        return lowered(form, value, [Cut(cut.box, -cut.x, -cut.value) for cut in some], chosen, region)

    patch.setattr(branch, "lowered", wrong)


def other_half(patch: pytest.MonkeyPatch) -> None:
    """Lines of the other half interval."""
    own = branch.Branching._splits

    def wrong(self: Any, units: np.ndarray, signs: np.ndarray) -> Any:
        return own(self, units, -signs)

    patch.setattr(branch.Branching, "_splits", wrong)


@pytest.mark.parametrize("mutation", [turned, other_half], ids=lambda f: f.__name__)
def test_a_wrong_sign_is_seen(mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    assert not is_above(*tight())


@pytest.mark.parametrize("case", [0, 1])
def test_a_case_left_out_is_seen(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`relu(x) / 8` and `relu(-x) / 8` by the cases of x: one of them has its maximum in each."""
    nodes = (
        n.Input(shape=(1,)),
        n.Dense(inputs=(0,), kernel=np.array([[1.0, -1.0]])),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=np.eye(2)),
    )
    zeros = np.zeros((1, 2)), np.zeros((2, 2))
    errors = {
        1: LayerErrors(
            positive_center=zeros[0],
            positive_radius=zeros[0],
            negative_center=zeros[0],
            negative_radius=zeros[0],
        ),
        3: LayerErrors(positive_center=np.eye(2) / 8, positive_radius=zeros[1]),
    }
    net = checker_net(Case(Graph(nodes, (3,)), errors, {}, {}, {}))
    rows = row_numbers(net.targets, 1, np.arange(2), "d").reshape(-1)
    listed = Listed(rows, np.zeros((len(rows), 1), np.int32))
    lower, upper = -np.ones((1, 1)), np.ones((1, 1))
    (found,) = outputs_of(net, lower, upper, listed)
    assert np.all(found.upper >= 1 / 8)

    def others(counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, signs, first = cases(counts, most)
        signs[first + case] = signs[first + 1 - case]
        return row, signs, first

    monkeypatch.setattr(branch, "cases", others)
    (found,) = outputs_of(net, lower, upper, listed)
    assert (found.upper[0] < 1 / 8).tolist() in ([True, False], [False, True])


def test_a_negative_multiplier_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minus twice a cut that holds would take off more than there is; it is not taken."""
    form, cut = Form(((0, 1),), np.array([[1.0]]), None), Cut(((0, 1),), np.array([1.0]), -2.0)
    region, value, chosen = Interval(np.array([-1.0]), np.array([1.0])), np.zeros(1), np.zeros((1, 1), np.int64)

    def at_most(multiplier: float) -> float:
        monkeypatch.setattr(cuts, "_multipliers", lambda rows, table: np.array([multiplier]))
        found, constant = lowered(form, value, [cut], chosen, region)
        assert found.x is not None
        return float(abs(found.x[0, 0]) + constant[0])

    # Where `x - 2 >= 0` holds nowhere, any multiplier is true.
    assert at_most(0.5) == pytest.approx(0.5)
    assert at_most(-0.5) == pytest.approx(1.0)


@given(seeds, st.integers(1, 4), st.booleans())
@settings(max_examples=examples(40), deadline=None)
def test_a_form_with_cuts_is_above_it_where_the_cuts_hold(seed: int, most: int, coarse: bool) -> None:
    """In rationals, at inputs where `C x + v >= 0`; the multipliers lower the maximum over the box."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    form = Form(((1, 3), (0, 2)), draw(2, 2, 5), None)
    some = [Cut(((0, 2), (1, 2)), draw(2, 1), float(draw(1)[0])) for _ in range(6)]
    chosen = np.sort(rng.integers(-1, 6, (5, most)), axis=1)[:, ::-1]
    ends = np.sort(draw(2, 3, 2), axis=0)
    region, value = Interval(*ends), draw(5)
    found, constant = lowered(form, value, some, chosen, region)
    for x in inputs_of(rng, *ends) * 4:
        for row in range(5):
            own = [some[k] for k in chosen[row] if k >= 0]
            if all(_at(cut.x, cut.box, x) + Fraction(cut.value) >= 0 for cut in own):
                before = _at(form.x[..., row], form.box, x) + Fraction(value[row])
                assert before <= _at(found.x[..., row], found.box, x) + Fraction(constant[row])


def _at(coefficients: np.ndarray, box: forms.Box, x: np.ndarray) -> Fraction:
    exact = np.vectorize(Fraction, otypes=[object])(coefficients)
    return (exact * forms.crop(x, box)).sum()


def test_what_adding_cuts_rounds_is_in_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """At inputs where a cut is zero, in rationals: a form may not lose anything to rounding."""
    monkeypatch.setattr(cuts, "_multipliers", lambda rows, table: np.full(len(rows), 1 / 3))
    assert _is_kept_where_a_cut_is_zero()
    monkeypatch.setattr(cuts, "UNIT", 0.0)
    assert not _is_kept_where_a_cut_is_zero()


def _is_kept_where_a_cut_is_zero() -> bool:
    rng = np.random.default_rng(0)
    box, half = ((0, 8),), rng.normal(size=4)
    form = Form(box, rng.normal(size=(8, 20)), None)
    cut, x = Cut(box, np.concatenate([half, -half]), 0.0), np.tile(rng.normal(size=4), 2)
    found, constant = lowered(form, np.zeros(20), [cut], np.zeros((20, 1), np.int64), Interval(x, x))
    exact = np.vectorize(Fraction, otypes=[object])(x)
    assert form.x is not None and found.x is not None
    return all(
        _at(form.x[:, row], box, exact) <= _at(found.x[:, row], box, exact) + Fraction(constant[row])
        for row in range(20)
    )
