"""The constants of the theorems as measured: candidates per bit, and what a weight needs in all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from slth_compile.lab.failure import FailureRate, failure_rate
from slth_compile.lab.question import CONFIDENCE, Question

FAILURES = (0.5, 0.1, 0.01)
"""Failure probabilities whose thresholds are fitted."""

_REPLICATES = 1000


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The number of candidates at which one eps is met often enough.

    Attributes:
        eps: Allowed error.
        crossing: n with P(failure) = p, interpolated in the log odds between measured n; None where none is bracketed.
        sufficient: Smallest measured n whose upper confidence limit is at most p, as are those of all larger ones.
    """

    eps: float
    crossing: float | None
    sufficient: int | None


@dataclasses.dataclass(frozen=True)
class Line:
    """Lueker's logarithm (1998): n(eps) = slope * log2(1/eps) + intercept at a fixed failure probability.

    Attributes:
        failure: The probability p.
        thresholds: One for every eps.
        slope: Candidates per bit, by least squares through the crossings; None with fewer than two of them.
        slope_lower: Of its bootstrap interval, confidence 95 %: sampling error only, not the line's own misfit.
        slope_upper: Likewise.
        intercept: Candidates at eps = 1.
        misfit: Largest distance of a crossing from the line, in candidates.
        constant: Smallest C with `n >= C log2(1/eps)` sufficient for every measured eps; None where some eps has none.
    """

    failure: float
    thresholds: tuple[Threshold, ...]
    slope: float | None
    slope_lower: float | None
    slope_upper: float | None
    intercept: float | None
    misfit: float | None
    constant: float | None


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The theorem's own n_i >= C log2(K / min(eps, delta)), K = d_i^2 c_{i-1} c_i l (da Cunha et al., ICLR 2022).

    Each of K shares gets `share = min(eps, delta) / K` as its tolerance and as its failure probability.

    Attributes:
        share: The share, a power of two.
        candidates: Smallest measured n with `P(error > share) <= share` by the upper confidence limit, as all larger n.
        constant: `C = candidates / log2(1 / share)`.
    """

    share: float
    candidates: int
    constant: float


def fit_lines(question: Question, rates: Sequence[FailureRate]) -> tuple[Line, ...]:
    """Lueker's line for each probability of `FAILURES`."""
    table = np.array(rates, object).reshape(len(question.candidates), len(question.eps))
    counts = np.array([[rate.failures for rate in row] for row in table])
    resampled = _resample(question, counts)
    return tuple(_fit_line(question, table, counts, resampled, failure) for failure in FAILURES)


def requirements(question: Question, errors: Mapping[int, np.ndarray]) -> tuple[Requirement, ...]:
    """What the theorem needs for every share 1/4, 1/8 ... that the samples can show; nothing is extrapolated."""
    found = []
    for bits in range(2, int(math.log2(question.samples)) + 1):
        share = 2.0**-bits
        rates = [failure_rate(n, share, errors[n]) for n in question.candidates]
        enough = _sufficient(rates, share)
        if enough is not None:
            found.append(Requirement(share, enough, enough / bits))
    return tuple(found)


def _fit_line(question: Question, table: np.ndarray, counts: np.ndarray, resampled: np.ndarray, failure: float) -> Line:
    bits = -np.log2(question.eps)
    # A crossing counts where the ends of the range lie on either side of p beyond doubt.
    clear = np.array([row[0].lower >= failure >= row[-1].upper for row in table.T])
    crossings = np.where(clear, _crossings(question, counts, failure), np.nan)
    thresholds = tuple(
        Threshold(eps, None if np.isnan(crossing) else float(crossing), _sufficient(column, failure))
        for eps, crossing, column in zip(question.eps, crossings, table.T, strict=True)
    )
    needed = [t.sufficient for t in thresholds]
    constant = None
    if None not in needed:
        constant = max(float(n / b) for n, b in zip(needed, bits, strict=True) if n is not None)
    if np.isfinite(crossings).sum() < 2:
        return Line(failure, thresholds, None, None, None, None, None, constant)
    fitted = np.isfinite(crossings)
    slope, intercept = np.polyfit(bits[fitted], crossings[fitted], 1)
    replicates = _crossings(question, resampled, failure)[:, fitted]
    replicates = replicates[np.isfinite(replicates).all(1)]
    slopes = np.polyfit(bits[fitted], replicates.T, 1)[0]
    lower, upper = np.quantile(slopes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    misfit = np.abs(crossings[fitted] - slope * bits[fitted] - intercept).max()
    return Line(
        failure,
        thresholds,
        slope=float(slope),
        slope_lower=float(lower),
        slope_upper=float(upper),
        intercept=float(intercept),
        misfit=float(misfit),
        constant=constant,
    )


def _crossings(question: Question, counts: np.ndarray, failure: float) -> np.ndarray:
    """From failure counts `(..., n, eps)`, the last n at which each eps crosses `failure`, NaN without one."""
    # Half a failure more and one success more keep the log odds finite (Haldane 1956).
    odds = np.log((counts + 0.5) / (question.samples - counts + 0.5))
    goal = math.log(failure / (1 - failure))
    n = np.array(question.candidates, float)
    above = odds > goal
    last = len(n) - 1 - np.argmax(above[..., ::-1, :], -2)
    exists = above.any(-2) & (last < len(n) - 1)
    last = np.minimum(last, len(n) - 2) if len(n) > 1 else np.zeros_like(last)
    following = np.minimum(last + 1, len(n) - 1)
    before = np.take_along_axis(odds, last[..., None, :], -2)[..., 0, :]
    after = np.take_along_axis(odds, following[..., None, :], -2)[..., 0, :]
    step = np.where(exists, before - after, 1.0)
    return np.where(exists, n[last] + (n[following] - n[last]) * (before - goal) / step, np.nan)


def _resample(question: Question, counts: np.ndarray) -> np.ndarray:
    """Bootstrap replicates `(replicates, n, eps)` of the counts: the samples of every n, drawn with replacement.

    All eps share their problems, so whole problems are drawn: a multinomial over the gaps between the eps.
    """
    generator = np.random.Generator(np.random.PCG64(question.seed))
    edges = np.pad(counts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, question.samples)))
    shares = np.diff(edges, axis=1) / question.samples
    drawn = [generator.multinomial(question.samples, row, _REPLICATES).cumsum(-1)[:, :-1] for row in shares]
    return np.stack(drawn, 1)


def _sufficient(rates: Sequence[FailureRate], failure: float) -> int | None:
    """The smallest n from which on every upper limit is at most `failure`."""
    enough = None
    for rate in reversed(rates):
        if rate.upper > failure:
            break
        enough = rate.candidates
    return enough
