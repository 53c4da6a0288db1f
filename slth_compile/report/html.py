"""`report.html`: one file, no scripts, nothing fetched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import jinja2
import markupsafe

from slth_compile.report import numbers, statements
from slth_compile.report.content import Section, sections
from slth_compile.report.summary import Summary

Tile = tuple[str, str, str]
"""A figure of the first screen: label, figure, remark."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says above, around and below its sections.

    Attributes:
        title: Of the window.
        eyebrow: A line above the headline.
        headline: One sentence.
        is_informative: Whether the headline says something of use.
        identities: Label and digest of what the page is about.
        tiles: The figures on the first screen.
        sections: In reading order.
        footer: Closing line, plain text.
    """

    title: str
    eyebrow: str
    headline: str
    is_informative: bool
    identities: Sequence[tuple[str, str]]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str


def render_html(summary: Summary) -> str:
    """The report as a self-contained page, plots inline, for phone, desktop, paper, light and dark."""
    # Matplotlib takes as long to import as a small ticket to verify.
    from slth_compile.report import plots

    drawn = (plots.bounds, plots.weight_errors, plots.random_parameters, plots.checkpoint_bytes)
    page = Page(
        title=f"Ticket {summary.ticket_id[:12]} – slth_compile report",
        eyebrow="slth_compile · strong lottery ticket",
        headline=statements.headline(summary),
        is_informative=statements.strongest(summary) is not None,
        identities=[("Ticket", summary.ticket_id)],
        tiles=_tiles(summary),
        sections=sections(summary),
        footer="Figures are rounded to the cautious side: bounds up, what an attack found down. All digits are in "
        "certificate.json, manifest.json and stats.json.",
    )
    return render_page(page, {plot.__name__: lambda plot=plot: plot(summary) for plot in drawn})


def render_page(page: Page, plots: Mapping[str, Callable[[], str]]) -> str:
    """A page with the plots that its sections name, each an SVG element."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slth_compile.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plot"] = lambda name: markupsafe.Markup(plots[name]())
    return environment.get_template("report.html.j2").render(
        page=dataclasses.replace(page, headline=_keep_intervals(page.headline))
    )


def _keep_intervals(text: str) -> str:
    """`text` with intervals such as `[0, 1]` kept on one line."""
    return re.sub(r"\[[^\]]{0,20}\]", lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _tiles(summary: Summary) -> list[Tile]:
    """The figures on the first screen; the certified ones first, nothing planned."""
    tiles = []
    row = statements.strongest(summary)
    if row is not None:
        asked = f"asked: {numbers.given(summary.eps)}"
        tiles.append(("Certified bound", numbers.upper_bound(row.bound, summary.eps, 2), f"{row.domain}; {asked}"))
    if row is not None and row.attack is not None:
        found = numbers.significant(row.attack.value, 2, "down")
        tiles.append(("Attack found", found, f"bound / attack: {numbers.ratio(row.bound, row.attack.value)}"))
    evaluation = summary.measured.evaluation
    if evaluation is not None and "accuracy" in evaluation.metric:
        remark = f"target: {numbers.percent(evaluation.target)}, {numbers.count(evaluation.samples)} samples"
        tiles.append((f"Ticket {evaluation.metric}", numbers.percent(evaluation.ticket), remark))
    kept = f"of {numbers.count(summary.parameters_v)} random weights in V"
    tiles.append(("Kept", numbers.count(summary.kept), kept))
    bits = numbers.per(sum(layer.mask_bits for layer in summary.layers), summary.weights)
    tiles.append(("Mask bits a weight", bits, f"{numbers.count(summary.weights)} target weights"))
    return tiles
