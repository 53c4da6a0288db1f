"""Rows of marks on a logarithmic axis, as SVG elements that read at the width of a phone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slth_compile.report.svg import GRID, INK, MUTED, PAPER, inline_svg

_WIDTH = 360.0
_ROW = 22.0
_TOP = 30.0
_BOTTOM = 26.0
FONT_SIZE = 10.5  # points


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Marks of one kind, one a row; None leaves a row without."""

    label: str
    values: tuple[float | None, ...]
    marker: str
    colour: str
    is_open: bool = False


def dumbbells(
    name: str,
    description: str,
    rows: Sequence[str],
    series: Sequence[Series],
    *,
    line: tuple[str, float] | None = None,
    above: bool = False,
) -> str:
    """Rows of marks joined by a line on a logarithmic axis, as an SVG element.

    Args:
        name: Prefix of the identifiers inside; unique within the page.
        description: What a reader who cannot see it should know.
        rows: Names, in a margin or above their row.
        series: What is marked in every row; a line joins the first two.
        line: Name and place of a vertical line.
        above: Whether names stand above their row.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        entries = len(series) + (line is not None)
        columns = 3 if entries <= 3 else 2
        legend_lines = math.ceil(entries / columns)
        top = _TOP + 14 * (legend_lines - 1)
        labels = [one_line(row, 52 if above else 17) for row in rows]
        margin = 16.0 if above else 16 + 6.2 * max((len(label) for label in labels), default=0)
        figure, axes = row_axes(len(rows), top=top, bottom=_BOTTOM, row=34 if above else _ROW, left=margin)
        values = [value for entry in series for value in entry.values] + ([line[1]] if line else [])
        low, high = _log_limits(values)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _log_ticks(axes, low, high)
        shift = 0.18 if above else 0.0
        for row, label in enumerate(labels):
            present = [_clamp(entry.values[row], low, high) for entry in series[:2]]
            drawn = [value for value in present if value is not None]
            if len(drawn) > 1:
                axes.plot([min(drawn), max(drawn)], [row + shift] * 2, color=MUTED, linewidth=1.2, zorder=2)
            place = {"xy": (0, row - 0.16), "ha": "left"} if above else {"xy": (-0.035, row), "ha": "right"}
            axes.annotate(
                label,
                xycoords=axes.get_yaxis_transform(),
                va="center",
                color=INK,
                fontsize=FONT_SIZE,
                parse_math=False,
                **place,
            )
        for order, entry in enumerate(series):
            _marks(axes, entry, shift, zorder=5 - order)
        if line is not None:
            position = _clamp(line[1], low, high)
            axes.axvline(position or low, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), zorder=1, label=line[0])
        _legend(figure, columns)
        return inline_svg(figure, name, description)


def _marks(axes: Axes, series: Series, shift: float, *, zorder: int) -> None:
    """Draws one series; what lies off the axis (zero, infinity) sits on its edge, pointing out."""
    low, high = axes.get_xlim()
    places = [(value, row + shift) for row, value in enumerate(series.values) if value is not None]
    inside = [(value, row) for value, row in places if low <= value <= high]
    style = {
        "linestyle": "none",
        "color": series.colour,
        "markerfacecolor": PAPER if series.is_open else series.colour,
        "markeredgewidth": 2.0 if series.marker == "|" else 1.4,
        "clip_on": False,
        "zorder": zorder,
    }
    axes.plot(
        [value for value, _ in inside],
        [row for _, row in inside],
        marker=series.marker,
        markersize={"|": 11, "D": 7.5}.get(series.marker, 6),
        label=series.label,
        **style,
    )
    for value, row in places:
        if not low <= value <= high and not math.isnan(value):
            edge, marker = (low, "<") if value < low else (high, ">")
            axes.plot([edge], [row], marker=marker, markersize=6, **style)


def row_axes(rows: int, *, top: float, bottom: float, row: float, left: float = 8.0) -> tuple[Figure, Axes]:
    """An empty figure whose height follows its rows, first row on top; lengths in points."""
    height = top + bottom + row * max(rows, 1)
    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    right = 12.0
    axes = figure.add_axes(
        (left / _WIDTH, bottom / height, (_WIDTH - left - right) / _WIDTH, (height - top - bottom) / height)
    )
    axes.set_ylim(max(rows, 1) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _legend(figure: Figure, columns: int) -> None:
    """Names the marks above the plot."""
    height = figure.get_size_inches()[1] * 72
    legend = figure.legend(
        loc="upper left",
        bbox_to_anchor=(0, 1 + 3 / height),
        ncols=columns,
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=INK,
        handlelength=1.0,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.35,
        borderpad=0.3,
    )
    legend.set_in_layout(False)


def _log_limits(values: Sequence[float | None]) -> tuple[float, float]:
    """Limits around all positive finite values, at least a decade and a half apart."""
    exponents = [math.log10(value) for value in values if value is not None and 0 < value < math.inf]
    low, high = min(exponents, default=-1.0), max(exponents, default=0.0)
    pad = max(0.06 * (high - low) + 0.08, (1.5 - (high - low)) / 2)
    return 10.0 ** max(low - pad, -307), 10.0 ** min(high + pad, 307)


def _log_ticks(axes: Axes, low: float, high: float) -> None:
    """Three to six ticks: powers of ten, with their doubles and fives where the axis is short."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, math.ceil((last - first) / 5))
    ticks = [(1, exponent) for exponent in range(first, last + 1, step)]
    if len(ticks) < 3:
        finer = [(digit, exponent) for exponent in range(first - 1, last + 1) for digit in (1, 2, 5)]
        ticks = [(digit, exponent) for digit, exponent in finer if low <= digit * 10.0**exponent <= high]
    axes.set_xticks([digit * 10.0**exponent for digit, exponent in ticks], [_tick(*tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="x", length=0, labelsize=FONT_SIZE, labelcolor=MUTED, pad=5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _tick(digit: int, exponent: int) -> str:
    """A tick as the tables write numbers."""
    if 0 <= exponent < 5:
        return f"{digit * 10**exponent:,}"
    return f"0.{digit}" if exponent == -1 else f"{digit}e{exponent}"


def _clamp(value: float | None, low: float, high: float) -> float | None:
    return None if value is None or math.isnan(value) else min(max(value, low), high)


def one_line(name: str, length: int) -> str:
    """A name on one line without control characters, its middle left out where it is too long."""
    name = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    if len(name) <= length:
        return name
    tail = 2 * (length - 1) // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"
