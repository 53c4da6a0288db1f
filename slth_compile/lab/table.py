"""A finding as JSON and as text for a terminal."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
from collections.abc import Callable
from typing import Any

from slth_compile.lab import statements
from slth_compile.lab.constants import Line
from slth_compile.lab.failure import FailureRate
from slth_compile.lab.finding import Finding
from slth_compile.lab.laws import CANDIDATE_LAWS
from slth_compile.lab.question import CONFIDENCE
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.threefry import GENERATOR


def finding_json(finding: Finding) -> dict[str, Any]:
    """The finding as a JSON object of `rssp.schema.json`; it holds no times, so a seed gives the same bytes."""
    question = finding.question
    return {
        "format": "slth-rssp",
        "version": 1,
        "law": question.law,
        "law_meaning": CANDIDATE_LAWS[question.law],
        "target": dataclasses.asdict(question.target),
        "seed": question.seed,
        "generator": GENERATOR,
        "grid_bits": PRODUCT_BITS,
        "samples": question.samples,
        "confidence": CONFIDENCE,
        "failure": [dataclasses.asdict(rate) | {"probability": rate.probability} for rate in finding.rates],
        "median_error": [
            {"candidates": n, "error": error} for n, error in zip(question.candidates, finding.medians, strict=True)
        ],
        "lines": [dataclasses.asdict(line) for line in finding.lines],
        "theorem": [dataclasses.asdict(need) for need in finding.requirements],
    }


def finding_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `finding_json`, read from the package."""
    return json.loads(importlib.resources.files("slth_compile.lab").joinpath("rssp.schema.json").read_text("utf-8"))


def rows(finding: Finding, cell: Callable[[FailureRate], str]) -> tuple[list[str], list[list[str]]]:
    """P(failure): a heading for every eps, a row for every n, the median error last.

    Args:
        finding: What to show.
        cell: How one rate is written: `with_interval` or `percent`.
    """
    question = finding.question
    heading = ["n", *(f"eps {statements.power(eps)}" for eps in question.eps), "median error"]
    body = []
    for i, (n, median) in enumerate(zip(question.candidates, finding.medians, strict=True)):
        rates = finding.rates[i * len(question.eps) : (i + 1) * len(question.eps)]
        body.append([str(n), *(cell(rate) for rate in rates), f"{median:.2e}"])
    return heading, body


def with_interval(rate: FailureRate) -> str:
    """`0.2896 [0.2847, 0.2945]`, the interval rounded outward."""
    lower, upper = math.floor(1e4 * rate.lower) / 1e4, math.ceil(1e4 * rate.upper) / 1e4
    return f"{rate.probability:.4f} [{lower:.4f}, {upper:.4f}]"


def percent(rate: FailureRate) -> str:
    """`28.96±0.50`: per cent, and the wider side of the interval, rounded up."""
    side = max(rate.upper - rate.probability, rate.probability - rate.lower)
    return f"{100 * rate.probability:.2f}±{math.ceil(1e4 * side) / 100:.2f}"


def sentences(finding: Finding) -> list[str]:
    """What follows from the table, one sentence a line."""
    return [
        *(_line(line) for line in finding.lines),
        f"theorem: {statements.constant(finding)}, where eps stands for min(eps, delta) / (d² c_in c_out l)"
        if finding.requirements
        else "theorem: P(failure) ≤ eps was not reached for any eps",
    ]


def _line(line: Line) -> str:
    start = f"{statements.law_of_failure(line.failure)}: "
    if line.slope is None:
        return start + "fewer than two eps reach it inside the range of n, no line"
    fitted = sum(threshold.crossing is not None for threshold in line.thresholds)
    constant = "" if line.constant is None else f"; n ≥ {line.constant:.2f} log₂(1/eps) was enough for every eps"
    return start + (
        f"n = {statements.slope(line)} log₂(1/eps) {line.intercept:+.2f}, through {fitted} eps, "
        f"misfit {line.misfit:.2f} candidates{constant}"
    )
