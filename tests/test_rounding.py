"""Outward rounding: directions, flushed subnormals, published digits."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from slth_compile.certificate import rounding

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
halves = st.floats(-1e150, 1e150)


def flushed(value: float) -> float:
    """What a device that flushes subnormals to zero would return."""
    return value if abs(value) >= rounding.TINY else 0.0


@given(halves, halves)
@settings(max_examples=500)
def test_up_and_down_enclose_every_operation(a: float, b: float) -> None:
    for exact, near in ((Fraction(a) + Fraction(b), a + b), (Fraction(a) * Fraction(b), a * b)):
        for result in (near, flushed(near)):
            assert Fraction(rounding.down(result)) <= exact <= Fraction(rounding.up(result))


@given(st.lists(st.tuples(halves, halves), min_size=1, max_size=32))
@settings(max_examples=200, deadline=None)
def test_up_and_down_enclose_on_the_device(pairs: list[tuple[float, float]]) -> None:
    a, b = (rounding.without_subnormals(v, v)[0] for v in np.array(pairs).T)
    a, b = (np.resize(v, 32) for v in (a, b))
    with jax.enable_x64(True):
        results = [np.asarray(v) for v in _enclosed(jnp.asarray(a), jnp.asarray(b))]
    for x, y, *ends in zip(a, b, *results, strict=True):
        exacts = Fraction(x) + Fraction(y), Fraction(x) * Fraction(y)
        for exact, low, high in zip(exacts, ends[::2], ends[1::2], strict=True):
            assert Fraction(low) <= exact <= Fraction(high)


@jax.jit
def _enclosed(a: jax.Array, b: jax.Array) -> list[jax.Array]:
    return [end(v) for v in (a + b, a * b) for end in (rounding.down, rounding.up)]


def test_up_is_tight() -> None:
    assert rounding.up(1.0) <= 1 + 2**-51
    assert rounding.down(-1.0) >= -1 - 2**-51
    assert rounding.up(0.0) == rounding.TINY


@pytest.mark.parametrize("terms", [1, 2, 1000, 2**30])
def test_gamma_is_an_upper_bound(terms: int) -> None:
    exact = Fraction(terms, 2**53) / (1 - Fraction(terms, 2**53))
    assert exact <= Fraction(rounding.gamma(terms)) <= exact * Fraction(1001, 1000)


@given(numbers, numbers)
def test_without_subnormals_only_widens(a: float, b: float) -> None:
    low, high = rounding.without_subnormals(np.array(min(a, b)), np.array(max(a, b)))
    assert low <= min(a, b) and max(a, b) <= high
    assert all(v == 0 or abs(v) >= rounding.TINY for v in (low, high))


@given(numbers)
@settings(max_examples=1000)
def test_published_numbers_are_directed_and_short(value: float) -> None:
    high, low = rounding.published_up(value), rounding.published_down(value)
    assert low <= value <= high or math.isinf(high)
    for number in (low, high):
        assert len(repr(abs(number)).split("e")[0].replace(".", "").strip("0")) <= rounding.PUBLISHED_DIGITS or (
            abs(value) < 1e-300
        )
    assert abs(high - value) <= 1.01e-9 * abs(value) + rounding.TINY or math.isinf(high)


def test_published_keeps_infinity() -> None:
    assert rounding.published_up(math.inf) == math.inf
