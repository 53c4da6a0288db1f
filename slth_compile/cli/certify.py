"""`certify`: how far two networks of one graph can be apart."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer

import slth_compile
from slth_compile.arguments import load_arrays, parse_domain, parse_shape
from slth_compile.cli.frame import (
    Domains,
    Effort,
    Factory,
    Json,
    Kwargs,
    Layout,
    Quiet,
    Seconds,
    Shape,
    Splits,
    app,
    is_ticket,
    load_checkpoint,
    print_table,
    progress_bars,
)
from slth_compile.interrupts import wait_for_steps


@app.command()
def certify(
    first: Annotated[str, typer.Argument(metavar="A", help="An .onnx file, a checkpoint or a ticket directory.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one, of the same graph.")],
    domain: Domains = None,
    factory: Factory = None,
    factory_a: Annotated[str | None, typer.Option(help="The factory of A alone.")] = None,
    factory_b: Annotated[str | None, typer.Option(help="The factory of B alone.")] = None,
    model_kwargs: Kwargs = "{}",
    kwargs_a: Annotated[
        str | None, typer.Option("--model-kwargs-a", metavar="JSON", help="Arguments of A's factory.")
    ] = None,
    kwargs_b: Annotated[
        str | None, typer.Option("--model-kwargs-b", metavar="JSON", help="Arguments of B's factory.")
    ] = None,
    input_shape: Shape = None,
    layout: Layout = "auto",
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE.npz", help="Held-out x (and y) for the statistical statement."),
    ] = None,
    effort: Effort = "normal",
    splits: Splits = 0,
    seconds: Seconds = None,
    attack: Annotated[bool, typer.Option(help="Set each bound beside what an attack finds.")] = True,
    files: Annotated[
        list[pathlib.Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="A page (.html), markdown (.md) or JSON; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing output file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bound the difference of two networks of one graph: pruned, quantised, rounded; or a ticket."""
    wait_for_steps()
    from slth_compile.report.comparison_files import ENDINGS
    from slth_compile.report.files import require_writable
    from slth_compile.request import shape_of

    require_writable(files or [], ENDINGS, force)
    domains = [parse_domain(text) for text in domain or ["box:0,1"]]
    held_out = None if data is None else _held_out(data)
    sides = [slth_compile.load(path) if is_ticket(path) else path for path in (first, second)]
    known = next((side.graph.input_shape for side in sides if not isinstance(side, str)), None)
    shape = parse_shape(input_shape) or shape_of(domains) or known
    options = ((factory_a or factory, kwargs_a or model_kwargs), (factory_b or factory, kwargs_b or model_kwargs))
    f, g = (
        load_checkpoint(side, *option, shape, layout) if isinstance(side, str) else side
        for side, option in zip(sides, options, strict=True)
    )
    with progress_bars(quiet or as_json) as progress:
        found = slth_compile.certify(
            f, g, domains, input_shape=shape, effort=effort, splits=splits, seconds=seconds, attack=attack,
            data=held_out, names=_names(first, second), progress=progress,
        )  # fmt: skip
    for file in files or []:
        found.report(file)
    _print(found, as_json)


def _names(first: str, second: str) -> tuple[str, str]:
    """The shortest names that tell the networks apart: without folders and endings, without folders, or as given."""
    paths = pathlib.Path(first), pathlib.Path(second)
    for short in ((paths[0].stem, paths[1].stem), (paths[0].name, paths[1].name)):
        if all(short) and short[0] != short[1]:
            return short
    return first, second


def _held_out(path: str) -> Any:
    arrays = load_arrays(path, ("x",))
    return (arrays["x"], arrays["y"]) if "y" in arrays else arrays["x"]


def _print(found: Any, as_json: bool) -> None:
    from slth_compile.report import ladder

    if as_json:
        print(json.dumps(found.to_json()))
        return
    print_table(ladder.short_ladder(found))
    sentences = ladder.predictions(found)
    if found.statistical is not None:
        sentences.append(ladder.sampled(found, found.statistical))
    print("\n".join([ladder.headline(found), *sentences]))
