"""A comparison as a file: page, markdown or data, by the file's ending."""

from __future__ import annotations

import functools
import json
import math
import os
import pathlib
from typing import Any

from slth_compile.report import comparison_plots, ladder, numbers
from slth_compile.report.comparison import Comparison, Rung
from slth_compile.report.files import write_whole
from slth_compile.report.html import Page, Tile, render_page
from slth_compile.report.markdown import render_text

ENDINGS = (".html", ".md", ".json")


def write(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Writes the comparison in the form that the ending names, HTML for any other one.

    Raises:
        InputError: The file cannot be written.
    """
    path = pathlib.Path(path)
    match path.suffix.lower():
        case ".md":
            text = render_text(_title(comparison), ladder.headline(comparison), ladder.sections(comparison))
        case ".json":
            text = json.dumps(comparison_json(comparison), indent=1) + "\n"
        case _:
            text = render_html(comparison)
    write_whole(path, text.encode())


def render_html(comparison: Comparison) -> str:
    """The comparison as a self-contained page, plots inline."""
    page = Page(
        title=f"{_title(comparison)} – slth_compile",
        eyebrow=f"slth_compile · {comparison.first} and {comparison.second}",
        headline=ladder.headline(comparison),
        is_informative=not all(rung.is_vacuous for rung in comparison.rungs),
        identities=(),
        tiles=_tiles(comparison),
        sections=ladder.sections(comparison),
        footer="Figures are rounded to the cautious side: bounds up, what an attack found down. "
        f"Computed with {comparison.platform}.",
    )
    plots = {"bounds": functools.partial(comparison_plots.bounds, comparison)}
    plots["changes"] = functools.partial(comparison_plots.changes, comparison)
    for i, rung in enumerate(comparison.rungs):
        plots[f"outputs-{i}"] = functools.partial(comparison_plots.outputs, rung, f"outputs-{i}")
    return render_page(page, plots)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as objects, lists, strings and numbers.

    Non-finite numbers become None, so that every JSON reader accepts the result.

    Returns:
        The keys `first`, `second`, `headline`, `statements`, `certified` (a list), `statistical`, `layers` (a list),
        `platform`.
    """
    found = comparison.statistical
    statistical = None
    if found is not None:
        statistical = vars(found) | {"statement": ladder.sampled(comparison, found)}
    return _finite(
        {
            "first": comparison.first,
            "second": comparison.second,
            "headline": ladder.headline(comparison),
            "statements": ladder.statements(comparison),
            "certified": [_rung(comparison, rung) for rung in comparison.rungs],
            "statistical": statistical,
            "layers": [vars(layer) for layer in comparison.layers],
            "platform": comparison.platform,
        }
    )


def _rung(comparison: Comparison, rung: Rung) -> dict[str, Any]:
    fields = ("domain", "kind", "method", "splits", "arithmetic", "bound", "float32", "lower", "seconds")
    attack, top1 = rung.attack, rung.top1
    return {name: getattr(rung, name) for name in fields} | {
        "statement": ladder.certified(comparison, rung),
        "vacuous": rung.is_vacuous,
        "per_output": [leaf.reshape(-1).tolist() for leaf in rung.per_output],
        "top1": top1 and {"unchanged": top1.unchanged, "samples": len(top1.proved), "proved": top1.proved.tolist()},
        "measured": {
            "output_range": list(rung.output_range),
            "attack": attack
            and {
                "value": attack.value,
                "steps": attack.steps,
                "restarts": attack.restarts,
                "inputs": attack.inputs,
                "output": list(attack.output),
                "per_output": [leaf.reshape(-1).tolist() for leaf in attack.per_output],
            },
            "ratio": rung.ratio,
        },
    }


def _tiles(comparison: Comparison) -> list[Tile]:
    """The figures on the first screen: every domain's bound, predictions, what samples say."""
    tiles = []
    for rung in comparison.rungs[:4]:
        remark = rung.domain + (" (vacuous)" if rung.is_vacuous else "")
        if rung.attack is not None:
            remark += f"; bound / attack: {numbers.ratio(rung.bound, rung.attack.value)}"
        tiles.append(("Certified bound", numbers.significant(rung.bound, 2, "up"), remark))
    for rung in comparison.rungs:
        if rung.top1 is not None and len(tiles) < 5:
            share = f"{numbers.count(rung.top1.unchanged)} of {numbers.count(len(rung.top1.proved))}"
            tiles.append(("Prediction proved unchanged", share, rung.domain))
    if comparison.statistical is not None:
        share = f"≤ {numbers.significant(100 * comparison.statistical.exceedance, 2, 'up')} %"
        largest = numbers.significant(comparison.statistical.largest, 2, "up")
        tiles.append(("Inputs that exceed it", share, f"{largest}, seen on held-out samples; 95 % confidence"))
    return tiles


def _title(comparison: Comparison) -> str:
    return f"{comparison.first} against {comparison.second}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
