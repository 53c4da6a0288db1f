"""Counts of failures as probabilities with confidence intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from slth_compile.lab.question import CONFIDENCE, Question
from slth_compile.lab.sample import to_units


@dataclasses.dataclass(frozen=True)
class FailureRate:
    """How often n candidates had no subset within eps.

    Attributes:
        candidates: n.
        eps: Allowed error.
        failures: Problems whose best error is above eps.
        samples: Problems.
        lower: Of the Clopper-Pearson interval, confidence 95 % for this pair (n, eps) alone.
        upper: Likewise.
    """

    candidates: int
    eps: float
    failures: int
    samples: int
    lower: float
    upper: float

    @property
    def probability(self) -> float:
        """The observed share."""
        return self.failures / self.samples


def failure_rate(candidates: int, eps: float, errors: np.ndarray) -> FailureRate:
    """The share of errors above eps.

    Args:
        candidates: n.
        eps: Allowed error.
        errors: Sorted exact errors in units of 2^-46, int64 `(samples,)`.
    """
    failures = int(errors.size - np.searchsorted(errors, to_units(eps), "right"))
    return FailureRate(candidates, eps, failures, errors.size, *clopper_pearson(failures, errors.size))


def failure_rates(question: Question, errors: Mapping[int, np.ndarray]) -> tuple[FailureRate, ...]:
    """All pairs, by n and then by eps. The same problems serve every eps, so rates fall exactly as eps grows."""
    return tuple(failure_rate(n, eps, errors[n]) for n in question.candidates for eps in question.eps)


def clopper_pearson(failures: int, samples: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of Clopper & Pearson (1934), which covers the probability at least as often as `confidence` says.

        lower = Beta^-1((1-c)/2; k, n-k+1),   upper = Beta^-1((1+c)/2; k+1, n-k)

    Args:
        failures: k, 0 to `samples`.
        samples: n, at least 1.
        confidence: c, in (0, 1).
    """
    tail = (1 - confidence) / 2
    lower = 0.0 if failures == 0 else float(stats.beta.ppf(tail, failures, samples - failures + 1))
    upper = 1.0 if failures == samples else float(stats.beta.ppf(1 - tail, failures + 1, samples - failures))
    return lower, upper
