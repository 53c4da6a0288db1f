"""Images of activations and maxima against grids of exact fractions, softmax against high precision."""

from __future__ import annotations

import itertools
from decimal import Decimal, localcontext
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts import examples
from hypothesis import given, settings

from slth_compile.certificate import enclosure, relaxations
from slth_compile.certificate.enclosure import Interval
from slth_compile.certificate.softmax import softmax_image

seeds = st.integers(0, 2**32 - 1)
small = st.integers(-6, 6).map(float)
tiny_or_large = st.sampled_from([-1e-300, -1e-17, -(2.0**-60), 0.0, 2.0**-60, 1e-17, 1.0, -1.0, 3.0, -1e8, 1e8])


def image(function, *ends: float, **options) -> tuple[float, float]:
    with jax.enable_x64(True):
        arrays = [jnp.asarray([v], jnp.float64) for v in ends]
        pairs = [Interval(*arrays[i : i + 2]) for i in range(0, len(arrays), 2)]
        found = function(*pairs, **options)
        return float(found.lower[0]), float(found.upper[0])


def activation(y: Fraction, slope: Fraction) -> Fraction:
    return max(y, slope * y)


@given(tiny_or_large, tiny_or_large, tiny_or_large, tiny_or_large, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(max_examples=examples(400), deadline=None)
def test_activation_difference_is_the_exact_image(a: float, b: float, c: float, d: float, slope: float) -> None:
    (yl, yu), (dl, du), s = sorted((a, b)), sorted((c, d)), Fraction(slope)
    low, high = image(relaxations.activation_difference, yl, yu, dl, du, slope=slope)
    ys, ds = _grid(yl, yu), _grid(dl, du)
    values = [activation(y + d, s) - activation(y, s) for y in ys for d in ds]
    assert Fraction(low) <= min(values) and max(values) <= Fraction(high)
    size = Fraction(1, 10**15) * (max(map(abs, ds)) * 4) + Fraction(1, 10**300)
    assert max(values) >= Fraction(high) - size and min(values) <= Fraction(low) + size


def _grid(low: float, high: float) -> list[Fraction]:
    a, b = Fraction(low), Fraction(high)
    inner = [a + (b - a) * Fraction(k, 8) for k in range(9)]
    return inner + ([Fraction(0)] if a <= 0 <= b else [])


@given(*[small] * 6, st.sampled_from([0.0, 0.5]))
@settings(max_examples=examples(400), deadline=None)
def test_activation_difference_clipped_to_the_ticket(a, b, c, d, e, f, slope: float) -> None:
    (yl, yu), (dl, du), (zl, zu) = sorted((a, b)), sorted((c, d)), sorted((e, f))
    grids = [[Fraction(k, 2) for k in range(int(2 * low), int(2 * high) + 1)] for low, high in ((yl, yu), (dl, du))]
    pairs = [(y, d) for y, d in itertools.product(*grids) if zl <= y + d <= zu]
    if not pairs:
        return
    low, high = image(lambda y, d, z: relaxations.activation_difference(y, d, slope, z), yl, yu, dl, du, zl, zu)
    values = [activation(y + d, Fraction(slope)) - activation(y, Fraction(slope)) for y, d in pairs]
    assert Fraction(low) <= min(values) and max(values) <= Fraction(high)
    assert high - max(values) < 1e-12 and min(values) - low < 1e-12


@given(st.lists(st.tuples(small, small, small, small), min_size=1, max_size=4), seeds)
@settings(max_examples=examples(200), deadline=None)
def test_maximum_encloses_the_difference_of_maxima(rows: list[tuple[float, ...]], seed: int) -> None:
    xs = [sorted(row[:2]) for row in rows]
    ds = [sorted(row[2:]) for row in rows]
    with jax.enable_x64(True):
        pairs = [[Interval(jnp.asarray([low]), jnp.asarray([high])) for low, high in ends] for ends in (xs, ds)]
        pairs.append([enclosure.added(x, d) for x, d in zip(*pairs, strict=True)])
        found, moved = (Interval(*map(np.asarray, v)) for v in relaxations.maximum_image(*pairs))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        x, d = ([low + (high - low) * rng.integers(0, 5) / 4 for low, high in ends] for ends in (xs, ds))
        z = [a + b for a, b in zip(x, d, strict=True)]
        assert found.lower[0] <= max(x) <= found.upper[0]
        assert moved.lower[0] <= max(z) - max(x) <= moved.upper[0]


@given(st.integers(2, 4), seeds, st.sampled_from([1e-9, 0.1, 30.0]))
@settings(max_examples=60, deadline=None)
def test_softmax_rules_enclose_high_precision_values(size: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, d = rng.normal(0, 2, size), rng.normal(0, 1, size) * scale
    pairs = [Interval(v, v) for v in (x, d)]
    soft, logs = softmax_image(*pairs, 0), relaxations.log_softmax_image(*pairs, 0)
    with localcontext() as context:
        context.prec = 60
        tables = []
        for shift in (np.zeros(size), d):
            powers = [(Decimal(a) + Decimal(b)).exp() for a, b in zip(x.tolist(), shift.tolist(), strict=True)]
            tables.append([p / sum(powers) for p in powers])
        for i, (f, g) in enumerate(zip(*tables, strict=True)):
            for (value, moved), a, b in ((soft, f, g), (logs, f.ln(), g.ln())):
                assert Decimal(float(value.lower[i])) <= a <= Decimal(float(value.upper[i]))
                assert Decimal(float(moved.lower[i])) <= b - a <= Decimal(float(moved.upper[i]))


def test_a_missing_outward_rounding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    y, d = -(2.0**-60), 1.0
    truth = Fraction(y) + Fraction(d)
    assert Fraction(image(relaxations.activation_difference, y, y, d, d)[0]) <= truth
    monkeypatch.setattr(relaxations, "down", lambda v: v)
    assert Fraction(image(relaxations.activation_difference, y, y, d, d)[0]) > truth
