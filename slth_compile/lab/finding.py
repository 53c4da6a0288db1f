"""One run of the laboratory: the question, what was counted, what follows."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.lab.constants import Line, Requirement, fit_lines, requirements
from slth_compile.lab.failure import FailureRate, failure_rates
from slth_compile.lab.question import Question
from slth_compile.lab.sample import sample_errors
from slth_compile.progress import Progress, silent
from slth_compile.source.dyadic import PRODUCT_BITS


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a run found.

    Attributes:
        question: What was asked.
        rates: P(failure) for every n and eps, by n, then by falling eps.
        medians: The median of the best error for every n.
        lines: Lueker's line for every failure probability.
        requirements: What the theorem's form needs, for every share the samples can show.
    """

    question: Question
    rates: tuple[FailureRate, ...]
    medians: tuple[float, ...]
    lines: tuple[Line, ...]
    requirements: tuple[Requirement, ...]

    @property
    def main_line(self) -> Line:
        """The line at probability 1/2: the phase transition."""
        return self.lines[0]


def investigate(question: Question, progress: Progress = silent) -> Finding:
    """Samples the problems, counts their failures and fits the constants.

    Args:
        question: What to measure.
        progress: Called as programs are compiled and blocks of problems solved.
    """
    errors = sample_errors(question, progress)
    rates = failure_rates(question, errors)
    medians = tuple(float(np.ldexp(np.median(errors[n]), -PRODUCT_BITS)) for n in question.candidates)
    return Finding(question, rates, medians, fit_lines(question, rates), requirements(question, errors))
