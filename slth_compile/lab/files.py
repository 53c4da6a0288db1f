"""A finding as a file: picture, page or table, by the file's ending."""

from __future__ import annotations

import json
import pathlib
from html import escape

from slth_compile.lab import statements
from slth_compile.lab.finding import Finding
from slth_compile.lab.plot import render
from slth_compile.lab.table import finding_json, rows, sentences, with_interval
from slth_compile.report.files import write_whole

ENDINGS = (".png", ".svg", ".html", ".json")

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:75rem;margin:2rem auto;"
    "padding:0 1rem}"
    "svg{width:100%;height:auto}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem}"
    "th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #d9dde3;white-space:nowrap}"
)


def write(finding: Finding, path: pathlib.Path) -> None:
    """Writes the finding in the form that the ending names; a file is whole or not there.

    Raises:
        InputError: The file cannot be written.
    """
    match path.suffix.lower():
        case ".png":
            content = render(finding, "png")
        case ".svg":
            content = render(finding, "svg")
        case ".html":
            content = page(finding).encode()
        case _:
            content = (json.dumps(finding_json(finding), indent=1) + "\n").encode()
    write_whole(path, content)


def page(finding: Finding) -> str:
    """One HTML page without scripts: the picture, what follows, the table."""
    picture = render(finding, "svg").decode()
    heading, body = rows(finding, with_interval)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in body)
    items = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences(finding))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(statements.headline(finding))}</title><style>{_STYLE}</style></head><body>\n"
        f"{picture[picture.index('<svg') :]}\n<ul>\n{items}</ul>\n"
        f"<p>P(failure) with its 95 % Clopper-Pearson interval: {escape(statements.setting(finding.question))}.</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n'
        "</body></html>\n"
    )
