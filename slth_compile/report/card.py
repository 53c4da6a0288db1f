"""`README.md` of a ticket directory: the model card."""

from __future__ import annotations

from slth_compile.report import numbers, statements
from slth_compile.report.markdown import environment
from slth_compile.report.summary import Summary

_FILES = (
    ("manifest.json", "the ticket: seed, graph, shapes, widths, gains, digests; its SHA-256 is the ticket id"),
    ("masks.safetensors", "which random weights are kept, coded"),
    ("target.safetensors", "the target's parameters, to check against"),
    ("domain.safetensors", "the inputs the statements speak about"),
    ("certificate.json", "the certified bounds, one entry a domain, one figure an output"),
    ("SHA256SUMS", "digests of all other files"),
    ("stats.json", "measured: seconds, attacks, quality"),
    ("report.html", "the report, with plots"),
    ("report.md", "the report, as text"),
)


_SUPPLIED = ("source.safetensors", "the random weights, as they were supplied")


def render_card(summary: Summary) -> str:
    """What the directory is, what is certified, how to check, load and read it, and what it does not promise."""
    return (
        environment()
        .get_template("card.md.j2")
        .render(
            ticket_id=summary.ticket_id,
            weights=numbers.count(summary.weights),
            layers=numbers.count(len(summary.layers)),
            depth=numbers.count(summary.depth),
            seed=summary.seed,
            source=summary.source,
            statements=[
                statements.statement(row, summary.eps)
                + (" This bound is vacuous: it exceeds the outputs." if statements.is_vacuous(row) else "")
                for row in summary.certificates
            ],
            files=_FILES if summary.seed is not None else (*_FILES[:2], _SUPPLIED, *_FILES[2:]),
            size=statements.size_verdict(summary),
            delta=None if summary.delta is None else numbers.given(summary.delta),
            not_stated=statements.not_stated(summary),
        )
    )
