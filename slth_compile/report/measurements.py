"""What was measured: quality, bytes, seconds."""

from __future__ import annotations

import math

from slth_compile.report import numbers, statements
from slth_compile.report.summary import Summary
from slth_compile.report.table import Cell, Table, rounded


def quality(summary: Summary) -> Table | None:
    """Accuracies of the three networks, None where nothing was evaluated."""
    evaluation = summary.measured.evaluation
    if evaluation is None:
        return None
    networks = (
        ("Target", evaluation.target),
        ("Ticket, effective form", evaluation.ticket),
        ("Ticket, literal pruned network", evaluation.literal),
    )
    is_accuracy = "accuracy" in evaluation.metric
    rows = []
    for name, value in networks:
        if value is None:
            cells = (Cell(text="not run"), Cell(text="–"))
        elif is_accuracy:
            value_cell = Cell(text=numbers.percent(value), exact=repr(value))
            cells = (value_cell, _difference(value - evaluation.target, evaluation.samples, name == "Target"))
        else:
            difference = numbers.significant(value - evaluation.target, 3)
            cells = (rounded(value), Cell(text="–" if name == "Target" else difference))
        rows.append((Cell(text=name), *cells))
    samples = f"{numbers.count(evaluation.samples)} sample" + ("" if evaluation.samples == 1 else "s")
    head = ("Network", evaluation.metric[:1].upper() + evaluation.metric[1:], "Difference to target")
    return Table(caption=f"Measured on {samples}", head=head, rows=tuple(rows))


def sizes(summary: Summary) -> Table:
    """Bytes of the ticket next to those of usual checkpoints."""
    rows = tuple(
        (
            Cell(text=name),
            Cell(text=numbers.count(size)),
            Cell(text=numbers.size(size)),
            Cell(text=numbers.per(8 * size, summary.weights)),
            Cell(text=f"{numbers.per(size, summary.weights)}×" if summary.weights else "–"),
        )
        for name, size in statements.checkpoint_sizes(summary)
    )
    head = ("Form", "Bytes", "Size", "Bits a weight", "Relative to int8")
    return Table(caption="Bytes to describe the weights", head=head, rows=rows)


def seconds(summary: Summary) -> Table | None:
    """Wall time by stage, None where none was recorded."""
    stages = summary.measured.seconds
    if not stages:
        return None
    total = math.fsum(stages.values())
    entries = [*stages.items(), ("All stages", total)]
    rows = tuple(
        (
            Cell(text=name),
            Cell(text=numbers.duration(value), exact=f"{value!r} s"),
            Cell(text=_share(value, total)),
        )
        for name, value in entries
    )
    return Table(caption="Wall time by stage", head=("Stage", "Time", "Share"), rows=rows, total=True)


def _share(value: float, total: float) -> str:
    if not (total > 0 and math.isfinite(total)):
        return "–"
    share = 100 * value / total
    return "< 1 %" if 0 < share < 1 else f"{share:.0f} %"


def _difference(difference: float, samples: int, is_reference: bool) -> Cell:
    if is_reference:
        return Cell(text="–")
    text = numbers.points(difference)
    if math.isfinite(difference) and samples:
        net = numbers.signed(f"{round(difference * samples):+,}")
        text += f" ({net} of {numbers.count(samples)})".replace(" of ", "\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}")
    return Cell(text=text, exact=repr(difference))
