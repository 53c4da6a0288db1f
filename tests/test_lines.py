"""Lines and planes around activations against exact rationals, with no tolerance."""

from __future__ import annotations

import functools
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, given, settings

from slth_compile.certificate.backward import lines as l
from slth_compile.certificate.enclosure import Interval

# The engine works so: a slope that overflowed is never chosen.
QUIET = functools.partial(np.errstate, all="ignore")
numbers = st.one_of(
    st.floats(-4, 4),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-300, -1e-300, 1e-16, -1e-16, 1e100, -1e100]),
    st.floats(-1e-9, 1e-9),
)
leaks = st.sampled_from([0.0, 0.1, 0.5, 1.0])
shares = st.integers(0, 8).map(lambda k: Fraction(k, 8))


def _normal(value: float) -> float:
    return 0.0 if abs(value) < 2.0**-1022 else value


def interval(a: float, b: float) -> Interval:
    a, b = _normal(a), _normal(b)
    return Interval(np.array([min(a, b)]), np.array([max(a, b)]))


def inside(v: Interval, share: Fraction) -> Fraction:
    low, high = Fraction(float(v.lower[0])), Fraction(float(v.upper[0]))
    return low + (high - low) * share


def leaky(y: Fraction, leak: float) -> Fraction:
    return y if y > 0 else Fraction(leak) * y


def exact(array: np.ndarray) -> Fraction:
    return Fraction(float(np.broadcast_to(array, (1,))[0]))


@given(numbers, numbers, leaks, shares)
@settings(max_examples=400, deadline=None)
def test_lines_hold_the_activation(a, b, leak, share) -> None:
    y = interval(a, b)
    with QUIET():
        found = l.activation_lines(y, leak)
    for at in (inside(y, share), min(max(Fraction(0), inside(y, Fraction(0))), inside(y, Fraction(1)))):
        value = leaky(at, leak)
        assert exact(found.lower_slope) * at + exact(found.lower_intercept) <= value
        assert value <= exact(found.upper_slope) * at + exact(found.upper_intercept)


PLANES = (numbers, numbers, numbers, numbers, leaks, shares, shares)


@given(*PLANES)
@settings(max_examples=600, deadline=None)
def test_planes_hold_the_difference(a, b, p, q, leak, share, other) -> None:
    y, d = interval(a, b), interval(p, q)
    with QUIET():
        found = l.difference_planes(y, d, leak)
    ends = [inside(y, Fraction(k)) for k in (0, 1)]
    creases = [Fraction(0), *(-inside(d, Fraction(k)) for k in (0, 1)), inside(y, share), *ends]
    for at in (min(max(v, ends[0]), ends[1]) for v in creases):
        for move in (inside(d, other), inside(d, Fraction(0)), inside(d, Fraction(1))):
            value = leaky(at + move, leak) - leaky(at, leak)
            upper = exact(found.upper_tilt) * at + exact(found.upper_slope) * move + exact(found.upper_intercept)
            lower = exact(found.lower_tilt) * at + exact(found.lower_slope) * move + exact(found.lower_intercept)
            assert lower <= value <= upper


@given(numbers, numbers, shares)
@settings(max_examples=200, deadline=None)
def test_lines_hold_the_magnitude(a, b, share) -> None:
    z = interval(a, b)
    with QUIET():
        found = l.magnitude_lines(z)
    at = inside(z, share)
    assert exact(found.lower_slope) * at + exact(found.lower_intercept) <= abs(at)
    assert abs(at) <= exact(found.upper_slope) * at + exact(found.upper_intercept)


def test_known_signs_are_exact() -> None:
    y, d = Interval(np.array([1.0, -3.0]), np.array([2.0, -2.0])), Interval(np.array([-0.5] * 2), np.array([0.5] * 2))
    planes, lines = l.difference_planes(y, d), l.activation_lines(y)
    for slopes in (planes.upper_slope, planes.lower_slope, lines.upper_slope, lines.lower_slope):
        np.testing.assert_array_equal(slopes, [1.0, 0.0])
    for rest in (planes.upper_tilt, planes.upper_intercept, planes.lower_intercept, lines.upper_intercept):
        np.testing.assert_allclose(rest, 0.0, atol=1e-15)


def test_a_known_sign_of_the_difference_takes_mccormick() -> None:
    y, d = Interval(np.array([-3.0]), np.array([1.0])), Interval(np.array([0.01]), np.array([0.02]))
    planes = l.difference_planes(y, d)
    # Mostly off: d + dl y / |yl| above, which is 0 or nearly so at yl.
    np.testing.assert_allclose([planes.upper_tilt[0], planes.upper_slope[0]], [0.01 / 3, 1.0])
    assert planes.upper_intercept[0] + planes.upper_tilt[0] * -3 + 0.01 == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("name", ["up", "rise"])
def test_rounding_the_wrong_way_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "up":
        monkeypatch.setattr(l, "up", lambda v: v - abs(v) * 2.0**-50)
    else:
        own = l.rise
        monkeypatch.setattr(l, "rise", lambda y, d, slope, rounded: own(y, d, slope, rounded) * (1 - 2.0**-50))

    @given(*PLANES)
    @settings(max_examples=600, deadline=None, database=None, phases=[Phase.generate])
    def holds(a, b, p, q, leak, share, other) -> None:
        test_planes_hold_the_difference.hypothesis.inner_test(a, b, p, q, leak, share, other)

    # any counterexample, not the smallest
    with pytest.raises(AssertionError):
        holds()
