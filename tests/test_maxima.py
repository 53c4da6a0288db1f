"""Planes around a maximum of a few elements, of both sides, against exact rationals, with no tolerance."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from hypothesis import Phase, given, settings

from slth_compile.certificate.backward import maxima, networks
from slth_compile.certificate.backward.rewrite import Larger, Largest
from slth_compile.certificate.enclosure import Interval
from slth_compile.certificate.propagate import Pair
from slth_compile.checker import maxima as checked
from slth_compile.checker.arithmetic import Interval as CheckedInterval
from slth_compile.checker.operations import State
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

QUIET = functools.partial(np.errstate, all="ignore")
numbers = st.one_of(
    st.floats(-4, 4, allow_subnormal=False),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-16, -1e-16, 1e90, -1e90]),
    st.floats(-1e-9, 1e-9, allow_subnormal=False),
)
COUNTS = st.sampled_from([3, 4])


@st.composite
def points(draw) -> list[list[tuple[Fraction, Fraction]]]:
    """A few inputs' pairs `(x, d)` of three or four elements, some of them alike."""
    count = draw(COUNTS)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        x, d = (draw(st.lists(numbers, min_size=count, max_size=count)) for _ in range(2))
        if draw(st.booleans()):
            x[1], d[1] = x[0], d[0]
        found.append([(Fraction(a), Fraction(b)) for a, b in zip(x, d, strict=True)])
    return found


def around(values: list[Fraction]) -> Interval:
    """The least floats around some numbers."""
    low, high = float(min(values)), float(max(values))
    low = low if Fraction(low) <= min(values) else math.nextafter(low, -math.inf)
    high = high if Fraction(high) >= max(values) else math.nextafter(high, math.inf)
    return Interval(np.array([low]), np.array([high]))


def enclosed(seen: list[list[tuple[Fraction, Fraction]]]) -> tuple[list[Pair], dict[tuple[int, int], Pair]]:
    """Enclosures of every element and of every difference of two."""
    count = len(seen[0])
    each = [Pair(*(around([point[i][part] for point in seen]) for part in (0, 1))) for i in range(count)]
    among = {
        (i, j): Pair(*(around([point[i][part] - point[j][part] for point in seen]) for part in (0, 1)))
        for i, j in itertools.combinations(range(count), 2)
    }
    return each, among


def state(pair: Pair) -> State:
    x, d = (v and CheckedInterval(*(end[None] for end in v)) for v in pair)
    assert x is not None
    return State(x, d)


def both_sides(each: list[Pair], among: dict[tuple[int, int], Pair], top: Pair | None = None) -> list[tuple]:
    """`(x, d)` planes of the engine, then of the checker, as `(upper, intercept, lower, intercept)`.

    With `top`, the maximum's own enclosures, around what a relu makes of it.
    """
    if top is not None:
        among = among | {(i, len(each)): pair for i, pair in enumerate(each)}
    with QUIET():
        pairs = {place: state(pair) for place, pair in among.items()}
        theirs = checked.planes_of_maximum([state(pair) for pair in each], pairs, None if top is None else state(top))
        return [maxima.planes_of(each if top is None else maxima.with_zero(each), among, top), theirs]


def weighed(weights: np.ndarray, intercept: np.ndarray, values: list[Fraction]) -> Fraction:
    terms = (Fraction(float(w)) * v for w, v in zip(weights[:, 0], values, strict=True))
    return sum(terms, Fraction(float(intercept[0])))


def held(seen, behind_relu: bool) -> None:
    """Planes of both sides are on their sides at every point."""
    top = None
    if behind_relu:
        largest = [[max(v) for v in ([a for a, _ in point], [a + b for a, b in point])] for point in seen]
        top = Pair(around([x for x, _ in largest]), around([z - x for x, z in largest]))
    each, among = enclosed(seen)
    if behind_relu:
        seen = [[*point, (Fraction(0), Fraction(0))] for point in seen]
    for value, moved in both_sides(each, among, top):
        for point in seen:
            x, d = ([pair[part] for pair in point] for part in (0, 1))
            largest = max(x)
            change = max(a + b for a, b in point) - largest
            for planes, values, exact in ((value, x, largest), (moved, d, change)):
                upper, above, lower, below = planes
                assert weighed(lower, below, values) <= exact <= weighed(upper, above, values)


@given(points(), st.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_planes_hold_the_maximum_and_its_change(seen, behind_relu: bool) -> None:
    held(seen, behind_relu)


@given(points())
@settings(max_examples=examples(100), deadline=None)
def test_both_sides_find_the_same_and_the_checker_no_more(seen) -> None:
    each, among = enclosed(seen)
    own, theirs = both_sides(each, among)
    for a, b in zip(own, theirs, strict=True):
        for end, size in zip(a, (1, 1e90, 1, 1e90), strict=True):
            assert np.isfinite(end).all() and np.abs(end).max() <= 9 * size
        for i in (0, 2):
            np.testing.assert_allclose(a[i], b[i], rtol=1e-9, atol=1e-12)
            assert np.all(a[i] >= 0)
        assert np.all(b[1] <= a[1] + 2.0**-800) and np.all(b[3] >= a[3] - 2.0**-800)


def test_one_that_is_above_all_others_takes_their_place_exactly() -> None:
    seen = [[(Fraction(x), Fraction(d)) for x, d in zip((3, 1, 2, 0), moves, strict=True)] for moves in np.eye(4) / 8]
    for value, moved in both_sides(*enclosed(seen)):
        for planes in (value, moved):
            for weights in (planes[0], planes[2]):
                assert weights[:, 0].tolist() == [1, 0, 0, 0]
            assert abs(planes[1]) < 1e-13 and abs(planes[3]) < 1e-13


def test_four_alike_cost_three_quarters_of_their_difference() -> None:
    ends = Interval(-np.ones(1), np.ones(1))
    each = [Pair(ends, ends)] * 4
    among = dict.fromkeys(itertools.combinations(range(4), 2), Pair(ends, ends))
    for value, moved in both_sides(each, among):
        np.testing.assert_allclose(value[0], 0.25)
        for gap in (value[1], moved[1], -moved[3]):
            np.testing.assert_allclose(gap, 0.75)


def test_which_of_two_alike_is_above_by_a_rounding_makes_no_difference() -> None:
    """One side may find the first of them surely above the second, and the other may not."""
    ends, found = Interval(-np.ones(1), np.ones(1)), []
    for shift in (-1e-13, 0.0, 1e-13):
        near = Interval(np.full(1, shift - 1e-15), np.full(1, shift + 1e-15))
        among = dict.fromkeys(itertools.combinations(range(4), 2), Pair(ends, ends)) | {(0, 1): Pair(near, near)}
        found.append([planes for side in both_sides([Pair(ends, ends)] * 4, among) for planes in side])
    for planes in zip(*found, strict=True):
        for same in zip(*planes, strict=True):
            np.testing.assert_allclose(same[0], same[1], atol=1e-6)
            np.testing.assert_allclose(same[2], same[1], atol=1e-6)


def test_windows_are_taken_in_fours() -> None:
    pool = n.MaxPool(inputs=(0,), window=(3, 3), stride=(1, 1), padding=((0, 0), (0, 0)))
    net = networks.rewritten(Graph((n.Input(shape=(4, 4, 1)), pool), (1,)))
    assert [len(node.inputs) for node in net.nodes if isinstance(node, Largest)] == [4, 4, 3]
    pair = n.MaxPool(inputs=(0,), window=(2,), stride=(2,), padding=((0, 0),))
    net = networks.rewritten(Graph((n.Input(shape=(4, 1)), pair), (1,)))
    assert sum(isinstance(node, Larger) for node in net.nodes) == 1


def _without_one(u: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The first element counts as a winner only where no other one does."""
    found = np.all(u >= 0, axis=1)
    found[0] &= ~found[1:].any(0)
    return found


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("_room", np.zeros_like),
        ("_above_zero", lambda wins, top: np.concatenate([wins[:-1], wins[-1:] & (top.upper <= 0)])),
        ("_wins", _without_one),
        ("_most", lambda u, weights, wins: np.where(wins, (weights * u).sum(1), np.inf).min(0)),
    ],
)
def test_a_fault_is_seen(name: str, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maxima, name, fault)
    own = settings(max_examples=2000, deadline=None, database=None, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        own(given(points(), st.booleans())(held))()
