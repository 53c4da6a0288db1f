"""`report.md`: the report as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jinja2

from slth_compile.report import statements
from slth_compile.report.content import Section, sections
from slth_compile.report.summary import Summary
from slth_compile.report.table import Cell, Table

# Characters that open markup; as entities they need no escape that a table would read differently. What means nothing
# where it stands (an underscore inside a word, brackets without a link) stays readable.
_MARKUP = re.compile(r"[&<|`\\~$]|^[>#]|^[+-](?= )|\](?=[(\[:])|(?<!\w)_|_(?!\w)|\*(?! )")


def render_markdown(summary: Summary) -> str:
    """The report as Markdown, with the tables of the page and without its plots."""
    return render_text(f"Ticket {summary.ticket_id[:12]}", statements.headline(summary), sections(summary))


def render_text(title: str, headline: str, parts: Sequence[Section]) -> str:
    """A title, a sentence and sections as Markdown."""
    template = environment().get_template("report.md.j2")
    return template.render(title=title, headline=headline, sections=parts)


def environment() -> jinja2.Environment:
    """Templates for Markdown, with the filters `text` (escapes) and `table`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slth_compile.report"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["text"] = escape
    environment.filters["table"] = _table
    return environment


def escape(text: str) -> str:
    """`text` on one line as plain Markdown: no tags, no links, no markup, no new table columns."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)


def _table(table: Table) -> str:
    """A pipe table under its caption; figures are right aligned, marks follow in brackets."""
    rule = ["---" if column in table.words else "---:" for column in range(len(table.head))]
    lines = [[escape(title) for title in table.head], rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return f"**{escape(table.caption)}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    return escape(cell.text) + (f" ({escape(cell.mark)})" if cell.mark else "")
