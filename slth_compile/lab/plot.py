"""The picture of a finding: the phase transition, its collapse, Lueker's line, the theorem's constant."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from slth_compile.lab import statements
from slth_compile.lab.constants import Line
from slth_compile.lab.failure import FailureRate
from slth_compile.lab.finding import Finding

_INK, _MUTED, _GRID = "#1b1f24", "#667085", "#d9dde3"
# Okabe & Ito's, which colour-blind readers tell apart.
_LINES = ("#0072b2", "#d55e00", "#009e73")
_MARKERS = "os^Dv"
_LEGEND: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "fontsize": 9.5}


def render(finding: Finding, kind: Literal["png", "svg"]) -> bytes:
    """The picture as a file's bytes; the same finding gives the same bytes.

    Args:
        finding: What to show.
        kind: PNG at 150 dots an inch, or SVG with its letters as outlines.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "rssp", "font.size": 10, "axes.edgecolor": _MUTED})
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        draw(finding).savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def draw(finding: Finding) -> Figure:
    """The picture as a Matplotlib figure, 12 by 9.4 inches."""
    layout = ConstrainedLayoutEngine(rect=(0.005, 0.005, 0.99, 0.905), wspace=0.05, hspace=0.06)
    figure = Figure(figsize=(12, 9.4), layout=layout)
    figure.text(0.012, 0.965, statements.headline(finding), fontsize=15, weight="bold", color=_INK, va="center")
    figure.text(0.012, 0.93, statements.setting(finding.question), fontsize=10, color=_MUTED, va="center")
    panels = figure.subplots(2, 2)
    _transition(panels[0, 0], finding)
    _collapse(panels[0, 1], finding)
    _logarithm(panels[1, 0], finding)
    _constant(panels[1, 1], finding)
    return figure


def _transition(axes: Axes, finding: Finding) -> None:
    _frame(axes, "Phase transition", "candidates n", "P(failure): no subset within eps")
    for colour, marker, rates in _by_eps(finding):
        n = [rate.candidates for rate in rates]
        _with_intervals(axes, n, rates, colour, marker, f"eps = {statements.power(rates[0].eps)}")
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_locator(_whole())
    axes.legend(**_LEGEND, title="with 95 % intervals", loc="best")


def _collapse(axes: Axes, finding: Finding) -> None:
    per_bit = finding.main_line.slope
    if per_bit is None:
        _frame(axes, "No slope to shift by: the median error instead", "candidates n", "median error")
        axes.plot(finding.question.candidates, finding.medians, "o-", color=_INK, linewidth=1.2, markersize=4.5)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(_whole())
        return
    _frame(
        axes,
        f"Shifted by {per_bit:.2f} per bit: P = 50 % in one place, ±{_misfit(finding.main_line):.2f}",
        f"n − {per_bit:.2f} log₂(1/eps)",
        "P(failure), logarithmic",
    )
    for colour, marker, rates in _by_eps(finding):
        seen = [rate for rate in rates if rate.failures]
        shifted = [rate.candidates + per_bit * math.log2(rate.eps) for rate in seen]
        _with_intervals(axes, shifted, seen, colour, marker, f"eps = {statements.power(rates[0].eps)}")
    axes.set_yscale("log")
    axes.set_ylim(0.3 / finding.question.samples, 2)


def _logarithm(axes: Axes, finding: Finding) -> None:
    _frame(axes, "Lueker's logarithm: the candidates that are needed", "bits of precision, log₂(1/eps)", "candidates n")
    for colour, line in _fitted(finding):
        bits, crossings = _crossings(line)
        label = statements.law_of_failure(line.failure)
        if line.slope is not None and line.intercept is not None:
            ends = np.array([min(bits) - 0.5, max(bits) + 0.5])
            axes.plot(ends, line.slope * ends + line.intercept, color=colour, linewidth=1.2)
            label += f": {statements.slope(line)} per bit, misfit {_misfit(line):.2f}"
        axes.plot(bits, crossings, "o", color=colour, markersize=6, label=label)
    _legend_if_any(axes, "upper left")
    low, high = axes.get_ylim()
    # The legend stands above the lines.
    axes.set_ylim(max(0, low), high + 0.32 * (high - max(0, low)))


def _constant(axes: Axes, finding: Finding) -> None:
    _frame(axes, statements.constant(finding), "bits of precision, log₂(1/eps)", "C = n / log₂(1/eps)")
    for colour, line in _fitted(finding):
        bits, crossings = _crossings(line)
        constants = [n / b for n, b in zip(crossings, bits, strict=True)]
        axes.plot(bits, constants, "o-", color=colour, linewidth=1.2, label=statements.law_of_failure(line.failure))
    if finding.requirements:
        axes.plot(
            [-math.log2(need.share) for need in finding.requirements],
            [need.constant for need in finding.requirements],
            "s",
            color=_INK,
            markerfacecolor="none",
            markersize=6,
            label="P(failure) ≤ eps: the theorem's form",
        )
    _legend_if_any(axes, "upper right")
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])


def _misfit(line: Line) -> float:
    """Largest distance from the line, rounded up as it is shown."""
    return math.ceil(100 * (line.misfit or 0.0)) / 100


def _with_intervals(
    axes: Axes, x: Sequence[float], rates: Sequence[FailureRate], colour: str, marker: str, label: str
) -> None:
    middle = np.array([rate.probability for rate in rates])
    below = middle - [rate.lower for rate in rates]
    above = np.array([rate.upper for rate in rates]) - middle
    axes.errorbar(
        x,
        middle,
        yerr=np.maximum([below, above], 0),
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=1.2,
        capsize=2,
        label=label,
    )


def _by_eps(finding: Finding) -> list[tuple[str, str, list[FailureRate]]]:
    """Colour, marker and rates by n for every eps, from pale to dark as eps falls."""
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.15, 1, len(finding.question.eps)))
    return [
        (
            to_hex(shade),
            _MARKERS[i % len(_MARKERS)],
            list(finding.rates[i :: len(finding.question.eps)]),
        )
        for i, shade in enumerate(shades)
    ]


def _fitted(finding: Finding) -> list[tuple[str, Line]]:
    """The lines that have a crossing, hardest first, as they lie above each other."""
    pairs = list(zip(_LINES, finding.lines, strict=True))
    return [(colour, line) for colour, line in reversed(pairs) if _crossings(line)[0]]


def _crossings(line: Line) -> tuple[list[float], list[float]]:
    found = [(-math.log2(t.eps), t.crossing) for t in line.thresholds if t.crossing is not None]
    return [bits for bits, _ in found], [n for _, n in found]


def _whole() -> MaxNLocator:
    return MaxNLocator(integer=True, steps=[1, 2, 4, 10])


def _frame(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=11.5)
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_if_any(axes: Axes, place: Literal["upper left", "upper right"]) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**_LEGEND, loc=place)
    else:
        axes.text(0.5, 0.5, "not reached in the measured range", transform=axes.transAxes, ha="center", color=_MUTED)
        axes.set(xticks=[], yticks=[])
