"""`rssp` and `demo`: the laboratory, and everything once over."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from slth_compile.cli.frame import (
    Delta,
    Eps,
    Force,
    Json,
    Quiet,
    Resume,
    Seed,
    app,
    output,
    print_compiled,
    progress_bars,
)
from slth_compile.interrupts import wait_for_steps


@app.command()
def rssp(
    law: Annotated[str, typer.Option(help="Of the candidates: product, uniform, normal or constant.")] = "product",
    target: Annotated[
        str, typer.Option(help="Law of the target: uniform[:LO,HI], normal:SIGMA or a number.")
    ] = "uniform:-0.5,0.5",
    candidates: Annotated[
        str, typer.Option(metavar="FIRST-LAST[:STEP]", help="Numbers of candidates n; the step is 2 unless given.")
    ] = "4-24",
    eps: Annotated[list[float] | None, typer.Option(help="Allowed error; repeatable. Default: 1e-1 ... 1e-5.")] = None,
    samples: Annotated[int, typer.Option(help="Random problems for every n.")] = 32768,
    seed: Seed = 0,
    files: Annotated[
        list[pathlib.Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="A plot (.png, .svg), a page (.html) or JSON; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing output file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how many random candidates a weight needs: P(no subset within eps) against n."""
    wait_for_steps()
    from slth_compile.lab.files import ENDINGS, write
    from slth_compile.lab.finding import investigate
    from slth_compile.lab.laws import parse_law, parse_target
    from slth_compile.lab.question import DEFAULT_EPS, Question, parse_candidates
    from slth_compile.report.files import require_writable

    question = Question(
        law=parse_law(law),
        target=parse_target(target),
        candidates=parse_candidates(candidates),
        eps=tuple(sorted(eps or DEFAULT_EPS, reverse=True)),
        samples=samples,
        seed=seed,
    )
    require_writable(files or [], ENDINGS, force)
    with progress_bars(quiet or as_json) as progress:
        found = investigate(question, progress)
    for file in files or []:
        write(found, file)
    _print_finding(found, as_json)


@app.command()
def demo(
    out: Annotated[pathlib.Path, typer.Argument(metavar="[OUT/]", help="Where to write.")] = pathlib.Path("slth-demo"),
    eps: Eps = "1e-2",
    delta: Delta = 1e-3,
    seed: Seed = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small CNN on scikit-learn's digits, compile, certify and verify it; no network access."""
    wait_for_steps()
    from slth_compile.demo import run

    with progress_bars(quiet or as_json) as progress:
        found = run(out, eps=eps, delta=delta, seed=seed, resume=resume, force=force, progress=progress)
    print_compiled(found, out, as_json)
    if not as_json:
        print(f"verified: every file, weight and bound of {out}{os.sep} by the independent checker")
        print(f"report:   {(out / 'report.html').absolute()}")


def _print_finding(found: Any, as_json: bool) -> None:
    from slth_compile.lab import statements
    from slth_compile.lab.table import finding_json, percent, rows, sentences

    if as_json:
        print(json.dumps(finding_json(found)))
        return
    heading, body = rows(found, percent)
    print(f"P(failure) in per cent, with the wider side of its 95 % interval; {statements.setting(found.question)}")
    table = Table(*heading, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for row in body:
        table.add_row(*row)
    output.print(table)
    print("\n".join([statements.headline(found), *sentences(found)]))
