"""The picture of a study: accuracy against what is kept and against the theoretical speed-up."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from slth_compile.baselines.study import DENSE, Study, Summary

CONTROL = f"{DENSE} (control)"
_INK, _MUTED, _GRID = "#1b1f24", "#667085", "#d9dde3"
# Okabe & Ito's, which colour-blind readers tell apart.
_COLOURS, _MARKERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), "osD^"
_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def render(study: Study, title: str, kind: Literal["png", "svg"]) -> bytes:
    """The picture as a file's bytes; the same study gives the same bytes.

    Args:
        study: What to show.
        title: Above it.
        kind: PNG at 150 dots an inch, or SVG with its letters as outlines.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "baselines", "font.size": 10, "axes.edgecolor": _MUTED})
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        draw(study, title).savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def draw(study: Study, title: str) -> Figure:
    """The picture as a Matplotlib figure, 12 by 5.2 inches."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    figure.suptitle(title, fontsize=13, weight="bold", color=_INK, x=0.01, ha="left")
    kept, speed = figure.subplots(1, 2, sharey=True)
    summaries = study.summaries()
    _panel(kept, summaries, "kept", "kept fraction of the kernel entries")
    kept.set_ylabel("test accuracy, mean and standard deviation over seeds", color=_INK)
    _panel(speed, summaries, "speedup", "theoretical speed-up: multiplications by kept multiplications")
    densities = [found.kept for found in summaries if found.method != DENSE]
    if max(densities) > 12 * min(densities):
        kept.set_xscale("log", base=2)
    kept.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g} %"))
    kept.invert_xaxis()
    speed.set_xscale("log", base=2)
    speed.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}x"))
    # The control, a line, would come first.
    entries = sorted(zip(*kept.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == CONTROL)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": len(entries)}
    figure.legend(*zip(*entries, strict=True), frameon=False, labelcolor=_INK, fontsize=9.5, **place)
    return figure


def _panel(axes: Axes, summaries: tuple[Summary, ...], value: str, label: str) -> None:
    methods = [method for method in dict.fromkeys(found.method for found in summaries) if method != DENSE]
    for i, method in enumerate(methods):
        found = [summary for summary in summaries if summary.method == method]
        style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        axes.errorbar(
            [getattr(summary, value) for summary in found],
            [summary.mean for summary in found],
            yerr=[summary.deviation or 0.0 for summary in found],
            label=method,
            markersize=4.5,
            linewidth=1.2,
            capsize=2,
            **style,
        )
    for found in summaries:
        if found.method == DENSE:
            spread = found.deviation or 0.0
            axes.axhspan(found.mean - spread, found.mean + spread, color=_MUTED, alpha=0.25, linewidth=0)
            axes.axhline(found.mean, color=_INK, linewidth=1, linestyle="--", label=CONTROL)
    axes.set_xlabel(label, color=_INK)
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # The logarithm of the error: 98 % and 99 % are as far apart as 80 % and 90 %.
    axes.set_yscale("function", functions=(_height, lambda height: 1 - 10.0**-height))
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g} %"))


def _height(accuracy: np.ndarray) -> np.ndarray:
    return -np.log10(np.maximum(1 - accuracy, 1e-4))
