"""`compile`, `verify`, `report`: tickets made, checked and shown."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer

import slth_compile
from slth_compile.arguments import load_arrays, parse_domain, parse_processes, parse_shape
from slth_compile.checker import Verdict
from slth_compile.cli.frame import (
    Construction,
    Delta,
    Distributed,
    Domains,
    Effort,
    Eps,
    Factory,
    Force,
    Json,
    Kwargs,
    Layout,
    Objective,
    Out,
    Promise,
    Quiet,
    Resume,
    Seconds,
    Seed,
    Shape,
    SourceBits,
    SourceFile,
    SourceSigns,
    Splits,
    app,
    load_checkpoint,
    notes,
    print_compiled,
    progress_bars,
)
from slth_compile.errors import InputError, VerificationError
from slth_compile.interrupts import wait_for_steps


@app.command()
def compile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help=".onnx, orbax directory, .safetensors, .msgpack, .npz, .pt.")
    ],
    out: Out,
    eps: Eps = "1e-2",
    delta: Delta = 1e-3,
    domain: Domains = None,
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    layout: Layout = "auto",
    seed: Seed = 0,
    source: SourceFile = None,
    source_bits: SourceBits = 24,
    source_signs: SourceSigns = False,
    objective: Objective = "closest",
    construction: Construction = "da-cunha",
    window: Annotated[int | None, typer.Option(help="Candidates solved together; the plan chooses otherwise.")] = None,
    feedback: Annotated[
        str | None, typer.Option(metavar="FILE.npz", help="Calibration inputs x, on which errors are to cancel.")
    ] = None,
    effort: Effort = "normal",
    splits: Splits = 0,
    seconds: Seconds = None,
    promise: Promise = "auto",
    evaluate: Annotated[str | None, typer.Option(metavar="FILE.npz", help="Labelled data x, y for accuracies.")] = None,
    literal: Annotated[bool, typer.Option(help="Evaluate the literal pruned network on it too.")] = False,
    attack: Annotated[bool, typer.Option(help="Set each bound beside what an attack finds.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing else.")] = False,
    resume: Resume = False,
    force: Force = False,
    distributed: Distributed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile a checkpoint into a ticket directory."""
    wait_for_steps()
    if distributed is not None:
        _join_processes(distributed)
    from slth_compile.processes import is_first

    domains = [parse_domain(text) for text in domain or ["box:0,1"]]
    shape = parse_shape(input_shape)
    given = _source(source, source_bits, source_signs)
    target = load_checkpoint(model, factory, model_kwargs, shape, layout)
    if dry_run:
        planned = slth_compile.dry_run(
            target,
            eps,
            delta,
            domain=domains,
            source=given,
            objective=objective,
            construction=construction,
            window=window,
            promise=promise,
            input_shape=shape,
        )
        _print_plan(planned, as_json)
        return
    calibration = None if feedback is None else load_arrays(feedback, ("x",))["x"]
    data = None
    if evaluate is not None:
        arrays = load_arrays(evaluate, ("x", "y"))
        data = (arrays["x"], arrays["y"])
    with progress_bars(quiet or as_json or not is_first()) as progress, notes():
        found = slth_compile.compile(
            target,
            eps,
            delta,
            domain=domains,
            seed=seed,
            source=given,
            objective=objective,
            construction=construction,
            window=window,
            feedback=calibration,
            effort=effort,
            splits=splits,
            seconds=seconds,
            promise=promise,
            input_shape=shape,
            evaluate=data,
            literal=literal,
            attack=attack,
            out=out,
            resume=resume,
            force=force,
            progress=progress,
        )
    if is_first():
        print_compiled(found, out, as_json)


@app.command()
def verify(
    out: Out,
    expected_id: Annotated[str | None, typer.Option("--id", help="The ticket id it must have.")] = None,
    domain_data: Annotated[
        str | None, typer.Option(metavar="FILE.npz", help="x, where OUT/ only has its digest.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Integrity, exact weights; bounds by intervals only.")] = False,
    against: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="The target it must be of.")] = None,
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    layout: Layout = "auto",
    as_json: Json = False,
) -> None:
    """Check a ticket directory with the independent checker; exit code 3 where anything is false."""
    # as `slth_compile.verify` does, without the compiler, which takes seconds to import
    from threadpoolctl import threadpool_limits

    from slth_compile import checker

    with threadpool_limits(1, "blas"):
        verdict = checker.verify(out, expected_id=expected_id, domain_data=domain_data, quick=quick)
    if against is not None:
        if not isinstance(verdict, Verdict):
            raise InputError(f"--against {against}: a found ticket has no target; leave it out")
        shape = parse_shape(input_shape)
        model = load_checkpoint(against, factory, model_kwargs, shape, layout)
        _require_target(verdict.target_digest, model, shape)
    if as_json:
        print(json.dumps(verdict.to_json()))
    else:
        print(verdict.to_text())


@app.command()
def report(
    out: Out,
    file: Annotated[
        pathlib.Path, typer.Option("--output", "-o", help="Where; .md writes markdown, anything else HTML.")
    ] = pathlib.Path("report.html"),
    force: Annotated[bool, typer.Option(help="Replace an existing output file.")] = False,
) -> None:
    """Write a fresh report of a ticket directory; the one inside OUT/ stays as it is."""
    if file.exists() and not force:
        raise InputError(f"{file} exists already; choose another --output, or replace it with --force")
    slth_compile.load(out).report(file)
    print(file)


def _source(file: str | None, bits: int, signs: bool) -> Any:
    """The source that the options name."""
    law = slth_compile.SourceLaw(bits, signs)
    if file is not None and law != slth_compile.SourceLaw():
        raise InputError(
            "--source: the numbers of a file are what they are; leave --source-bits and --source-signs out"
        )
    return law if file is None else file


def _join_processes(text: str) -> None:
    import jax

    address, count, number = parse_processes(text)
    try:
        jax.distributed.initialize(address, count, number)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--distributed {text}: the other processes were not found ({error})") from None


def _require_target(digest: str, model: Any, shape: tuple[int, ...] | None) -> None:
    from slth_compile.frontends.model import import_model
    from slth_compile.graph.graph import target_digest

    found = target_digest(import_model(model, shape))
    if found != digest:
        raise VerificationError("target", f"the ticket is of target {digest[:16]}, the given model is {found[:16]}")


def _print_plan(planned: Any, as_json: bool) -> None:
    from slth_compile.report.plan_text import plan_json, plan_text

    print(json.dumps(plan_json(planned)) if as_json else plan_text(planned))
