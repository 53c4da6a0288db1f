"""The statement about held-out samples: exact for every law with atoms, attained without, never rounded down."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

from slth_compile.certificate.statistical import CONFIDENCE, exceedance
from slth_compile.errors import InputError

ALPHA = Fraction(1, 20)


@pytest.mark.parametrize("samples", [1, 2, 3, 10, 58, 59, 360, 10_000])
def test_it_is_the_least_share_rounded_up(samples: int) -> None:
    """`(1 - p)^n <= 1/20` in exact rationals, and no longer so for a share that is a billionth smaller."""
    p = Fraction(exceedance(samples))
    assert (1 - p) ** samples <= ALPHA
    assert (1 - p * (1 - Fraction(1, 10**9))) ** samples > ALPHA


@pytest.mark.parametrize("values", [2, 3, 7, 50])
@pytest.mark.parametrize("samples", [1, 2, 5, 20])
def test_it_fails_at_most_as_often_as_stated_for_laws_with_atoms(values: int, samples: int) -> None:
    """Every law on a few values in steps of 1/values: P(P(D > m) > p) over the samples, by counting."""
    p = Fraction(exceedance(samples))
    for atom in range(1, values):
        # D is `low` with probability atom / values and `high` otherwise; and D uniform on `values` values.
        laws = [[Fraction(atom, values), 1 - Fraction(atom, values)], [Fraction(1, values)] * values]
        for law in laws:
            below = [sum(law[:k], Fraction(0)) for k in range(len(law) + 1)]
            failing = Fraction(0)
            for k in range(len(law)):
                largest_is_k = below[k + 1] ** samples - below[k] ** samples
                failing += largest_is_k * (1 - below[k + 1] > p)
            assert failing <= ALPHA


def test_it_is_attained_where_nothing_repeats() -> None:
    """40,000 draws of n = 30 uniform differences: failures are as many as 5 % allow, two-sided at 1e-6."""
    draws = 40_000
    largest = np.random.default_rng(0).uniform(size=(draws, 30)).max(axis=1)
    failures = int(np.sum(1 - largest > exceedance(30)))
    low, high = binom.ppf([5e-7, 1 - 5e-7], draws, 1 - CONFIDENCE)
    assert low <= failures <= high


def test_a_single_sample_says_little() -> None:
    assert 0.95 <= exceedance(1) < 0.95 + 1e-12
    assert exceedance(360) == pytest.approx(8.287e-3, rel=1e-3)


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least one held-out sample"):
        exceedance(0)
    with pytest.raises(InputError, match="expected a probability"):
        exceedance(3, 1.0)
