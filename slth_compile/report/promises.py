"""Planned and certified, in tables of their own."""

from __future__ import annotations

from slth_compile.report import numbers, statements
from slth_compile.report.summary import Summary
from slth_compile.report.table import Cell, Table, rounded, rounded_down, rounded_up


def planned(summary: Summary) -> Table:
    """The plan's promise: a probability over seeds."""
    bound = numbers.upper_bound(summary.planned_bound, summary.eps)
    delta = failure = statements.not_stated(summary)
    if summary.delta is not None and summary.planned_failure is not None:
        delta, failure = numbers.given(summary.delta), numbers.upper_bound(summary.planned_failure, summary.delta)
    rows = (
        ("Asked: eps, largest difference of an output", numbers.given(summary.eps), ""),
        (statements.planned_difference(summary), bound, repr(summary.planned_bound)),
        ("Asked: delta, failure probability over seeds", delta, ""),
        ("Planned: probability that some weight misses", failure, _exact(summary.planned_failure)),
        ("C_V, random parameters of V", numbers.significant(summary.constant_v), repr(summary.constant_v)),
        ("C_U, random parameters of U", numbers.significant(summary.constant_u), repr(summary.constant_u)),
    )
    cells = tuple((Cell(text=name), Cell(text=text, exact=exact)) for name, text, exact in rows)
    return Table(
        caption=f"The plan, before the {'seed was drawn' if summary.seed is not None else 'source was read'}",
        head=("Quantity", "Value"),
        rows=cells,
        words=(0, 1),
    )


def planned_layers(summary: Summary) -> Table:
    """The plan's failure probability, layer by layer."""
    rows = tuple(
        (
            Cell(text=layer.name),
            Cell(text=numbers.count(layer.width)),
            Cell(text=numbers.count(layer.bias_width) if layer.bias_width else "–"),
            rounded_up(layer.tolerance),
            Cell(text="not stated") if layer.failure is None else rounded_up(layer.failure),
        )
        for layer in summary.layers
    )
    head = ("Layer", "Width N", "Bias width", "Tolerance", "Planned failure")
    return Table(caption="Planned for each layer; failure is a probability over seeds", head=head, rows=rows)


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def certified(summary: Summary) -> Table:
    """Every certified bound, between what was asked and what an attack found."""
    rows = []
    for row in summary.certificates:
        above = "above eps" if row.bound > summary.eps else ""
        mark = "vacuous" if statements.is_vacuous(row) else above
        attack = row.attack
        value = Cell(text="not run")
        if attack is not None:
            mark_attack = "above the bound" if attack.value > row.bound else ""
            value = Cell(text=numbers.significant(attack.value, 3, "down"), exact=repr(attack.value), mark=mark_attack)
        rows.append(
            (
                Cell(text=row.domain),
                Cell(text=numbers.method(row.method, row.splits)),
                Cell(text=row.arithmetic),
                Cell(text=numbers.upper_bound(row.bound, summary.eps), exact=repr(row.bound), mark=mark),
                Cell(text="not stated") if row.float32 is None else rounded_up(row.float32),
                Cell(text=numbers.given(summary.eps)),
                rounded_down(row.lower) if row.kind == "points" else Cell(text="–"),
                value,
                Cell(text="–" if attack is None else numbers.ratio(row.bound, attack.value)),
                Cell(text=statements.attack_evidence(row)),
                rounded(row.largest_output),
                Cell(text="–") if row.seconds is None else Cell(text=numbers.duration(row.seconds)),
            )
        )
    head = (
        "Domain",
        "Method",
        "True for",
        "Certified bound",
        "In float32",
        "Asked (eps)",
        "At least",
        "Attack found",
        "Bound / attack",
        "Attack effort",
        "Largest target output",
        "Time",
    )
    return Table(caption="Certified bounds on |target − ticket|", head=head, rows=tuple(rows), words=(0, 1, 2, 9))
