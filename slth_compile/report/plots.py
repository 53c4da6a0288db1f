"""The plots of a report, as SVG elements that read at the width of a phone."""

from __future__ import annotations

import matplotlib

from slth_compile.report import numbers, statements
from slth_compile.report.dumbbells import FONT_SIZE, Series, dumbbells, one_line, row_axes
from slth_compile.report.summary import Summary
from slth_compile.report.svg import BLUE, GREEN, INK, MUTED, ORANGE, inline_svg


def weight_errors(summary: Summary) -> str:
    """Each layer's tolerance and the largest weight error its ticket has, on a logarithmic axis."""
    names = [layer.name for layer in summary.layers]
    errors = Series(
        label="largest error",
        values=tuple(layer.largest_error for layer in summary.layers),
        marker="o",
        colour=BLUE,
    )
    tolerances = Series(
        label="tolerance", values=tuple(layer.tolerance for layer in summary.layers), marker="|", colour=ORANGE
    )
    met = sum(layer.largest_error <= layer.tolerance for layer in summary.layers)
    description = f"Largest weight error and tolerance of each layer; {met} of {len(names)} are within tolerance."
    return dumbbells("weight-errors", description, names, [errors, tolerances])


def bounds(summary: Summary) -> str:
    """Each domain's certified bound next to the attack's value and eps, on a logarithmic axis."""
    rows = summary.certificates
    attack = Series(
        label="attack found",
        values=tuple(None if row.attack is None else row.attack.value for row in rows),
        marker="D",
        colour=ORANGE,
        is_open=True,
    )
    bound = Series(label="certified bound", values=tuple(row.bound for row in rows), marker="o", colour=BLUE)
    # Outputs are orders of magnitude larger than useful bounds: drawn only where one of them shows a bound is not.
    vacuous = [statements.is_vacuous(row) for row in rows]
    outputs = Series(
        label="largest target output",
        values=tuple(row.largest_output if empty else None for row, empty in zip(rows, vacuous, strict=True)),
        marker="|",
        colour=MUTED,
    )
    names = [row.domain + (" (vacuous)" if empty else "") for row, empty in zip(rows, vacuous, strict=True)]
    series = [bound, attack, outputs] if any(vacuous) else [bound, attack]
    description = "; ".join(
        f"{row.domain}: certified bound {numbers.upper_bound(row.bound, summary.eps)}"
        + ("" if row.attack is None else f", attack found {numbers.significant(row.attack.value, 3, 'down')}")
        for row in rows
    )
    description = f"{description or 'No certificate'}; asked: {numbers.given(summary.eps)}."
    return dumbbells("bounds", description, names, series, line=("asked", summary.eps), above=True)


def random_parameters(summary: Summary) -> str:
    """Each layer's random parameters in `V` and `U` and what is kept of `V`, on a logarithmic axis."""
    rows = summary.layers
    series = [
        Series(label="kept in V", values=tuple(float(row.kept) for row in rows), marker="d", colour=GREEN),
        Series(label="random in V", values=tuple(float(row.parameters_v) for row in rows), marker="o", colour=BLUE),
        Series(
            label="random in U",
            values=tuple(float(row.parameters_u) for row in rows),
            marker="s",
            colour=ORANGE,
            is_open=True,
        ),
    ]
    description = (
        f"Random parameters of each layer; in total {numbers.count(summary.parameters_v)} in V, "
        f"{numbers.count(summary.parameters_u)} in U, {numbers.count(summary.kept)} kept in V."
    )
    return dumbbells("random-parameters", description, [row.name for row in rows], series)


def checkpoint_bytes(summary: Summary) -> str:
    """Bytes of the mask next to those of the target in float32, float16 and int8, as bars."""
    entries = statements.checkpoint_sizes(summary)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure, axes = row_axes(len(entries), top=6, bottom=4, row=34)
        longest = max(size for _, size in entries) or 1
        for row, (name, size) in enumerate(entries):
            axes.barh(row + 0.2, size, height=0.4, color=BLUE if row == 0 else MUTED, alpha=1.0 if row == 0 else 0.55)
            axes.text(0, row - 0.12, one_line(name, 48), color=INK, fontsize=FONT_SIZE, parse_math=False)
            axes.text(size + 0.015 * longest, row + 0.2, numbers.size(size), color=INK, fontsize=FONT_SIZE, va="center")
        axes.set_xlim(0, 1.22 * longest)
        axes.set_xticks([])
        description = ", ".join(f"{name} {numbers.count(size)} bytes" for name, size in entries)
        return inline_svg(figure, "bytes", f"Bytes: {description}.")
