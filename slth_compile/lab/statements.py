"""What a run found, in sentences; every figure comes from the finding."""

from __future__ import annotations

import math

from slth_compile.lab.constants import Line
from slth_compile.lab.finding import Finding
from slth_compile.lab.question import Question

_NAMES = {"product": "U[0,1]·U[−1,1]", "uniform": "U[−1,1]", "normal": "N(0,1)", "constant": "±√(2/n)"}


def headline(finding: Finding) -> str:
    """The finding in one line: what a bit of precision costs at failure probability 1/2."""
    line = finding.main_line
    if line.slope is None:
        first, last = finding.question.candidates[0], finding.question.candidates[-1]
        return f"No line: fewer than two eps go from likely to unlikely failure within {first} to {last} candidates"
    return f"One more bit of precision costs {slope(line)} random candidates"


def slope(line: Line) -> str:
    """Candidates per bit with the 95 % interval, rounded outward: `1.031 [1.027, 1.036]`; a dash without a line."""
    if line.slope is None or line.slope_lower is None or line.slope_upper is None:
        return "–"
    lower, upper = math.floor(1000 * line.slope_lower) / 1000, math.ceil(1000 * line.slope_upper) / 1000
    return f"{line.slope:.3f} [{lower:.3f}, {upper:.3f}]"


def setting(question: Question) -> str:
    """Laws, samples and seed, on one line."""
    target = str(question.target).replace("-", "−")
    return (
        f"candidates {_NAMES[question.law]}, target {target}, {question.samples:,} problems for each n, "
        f"best of all 2ⁿ subsets, seed {question.seed}"
    )


def power(eps: float) -> str:
    """A short decimal: `0.1`, `0.003`, `1e-4`."""
    if eps >= 1e-3:
        return f"{eps:.3g}"
    digits, exponent = f"{eps:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def constant(finding: Finding) -> str:
    """The constant that was enough in the theorem's form, and down to which eps."""
    if not finding.requirements:
        return "The constant C in n ≥ C log₂(1/eps)"
    needed = max(need.constant for need in finding.requirements)
    bits = -math.log2(min(need.share for need in finding.requirements))
    return f"P(failure) ≤ eps once n ≥ {math.ceil(100 * needed) / 100:.2f} log₂(1/eps), to {bits:.0f} bits"


def law_of_failure(failure: float) -> str:
    """`P(failure) = 10 %`."""
    return f"P(failure) = {100 * failure:g} %"
