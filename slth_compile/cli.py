"""The command line: arguments, progress and exit codes; no arithmetic."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

import slth_compile
from slth_compile.arguments import (
    DOMAIN_FORMS,
    load_arrays,
    parse_domain,
    parse_kwargs,
    parse_processes,
    parse_shape,
)
from slth_compile.errors import InputError, Note, SlthError, VerificationError
from slth_compile.interrupts import feel, interrupts, wait_for_steps
from slth_compile.progress import Progress

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compiles trained CNNs into seed + pruning mask, with a certified error bound.",
)
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's own, or the copy that typer brings
errors = Console(stderr=True)
output = Console()

Out = Annotated[pathlib.Path, typer.Argument(metavar="OUT/", help="The ticket directory.")]
Eps = Annotated[str, typer.Option(help="Allowed difference of any output; 1e-4rel is relative to the largest output.")]
Delta = Annotated[float, typer.Option(help="Allowed probability, over seeds, that some weight misses its tolerance.")]
Domains = Annotated[list[str] | None, typer.Option("--domain", metavar="DOMAIN", help=f"{DOMAIN_FORMS}; repeatable.")]
Factory = Annotated[str | None, typer.Option(help="pkg.module:function that returns the flax model.")]
Kwargs = Annotated[str, typer.Option(metavar="JSON", help="Keyword arguments of the factory.")]
Shape = Annotated[str | None, typer.Option(metavar="H,W,C", help="Per-sample input shape.")]
Objective = Annotated[
    str, typer.Option(help="Subset a weight takes within its tolerance: closest|sparsest|fewest-bits.")
]
Seed = Annotated[int, typer.Option(help="Seed of the source, 0 to 2^64 - 1.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Force = Annotated[bool, typer.Option(help="Replace an existing OUT/; it is deleted last.")]
Distributed = Annotated[
    str | None,
    typer.Option(metavar="auto | HOST:PORT,N,I", help="One of several processes: of a cluster, or number I of N."),
]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Compiles trained CNNs into seed + pruning mask, with a certified error bound."""
    if version:
        print(f"slth-compile {slth_compile.__version__}")
        raise typer.Exit


@app.command()
def compile(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Orbax directory, .safetensors or .msgpack.")],
    out: Out,
    eps: Eps = "1e-2",
    delta: Delta = 1e-3,
    domain: Domains = None,
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    seed: Seed = 0,
    objective: Objective = "closest",
    window: Annotated[int | None, typer.Option(help="Candidates solved together; the plan chooses otherwise.")] = None,
    feedback: Annotated[
        str | None, typer.Option(metavar="FILE.npz", help="Calibration inputs x, on which errors are to cancel.")
    ] = None,
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
    target = _model(model, factory, model_kwargs, input_shape)
    shape = parse_shape(input_shape)
    if dry_run:
        planned = slth_compile.dry_run(
            target, eps, delta, domain=domains, objective=objective, window=window, input_shape=shape
        )
        _print_plan(planned, as_json)
        return
    calibration = None if feedback is None else load_arrays(feedback, ("x",))["x"]
    data = None
    if evaluate is not None:
        arrays = load_arrays(evaluate, ("x", "y"))
        data = (arrays["x"], arrays["y"])
    with _progress(quiet or as_json or not is_first()) as progress, _notes():
        found = slth_compile.compile(
            target,
            eps,
            delta,
            domain=domains,
            seed=seed,
            objective=objective,
            window=window,
            feedback=calibration,
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
        _print_compiled(found, out, as_json)


@app.command()
def verify(
    out: Out,
    expected_id: Annotated[str | None, typer.Option("--id", help="The ticket id it must have.")] = None,
    domain_data: Annotated[
        str | None, typer.Option(metavar="FILE.npz", help="x, where OUT/ only has its digest.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Integrity and exact weights, without the bounds.")] = False,
    against: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="The target it must be of.")] = None,
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    as_json: Json = False,
) -> None:
    """Check a ticket directory with the independent checker; exit code 3 where anything is false."""
    verdict = slth_compile.verify(out, expected_id=expected_id, domain_data=domain_data, quick=quick)
    if against is not None:
        _require_target(verdict.target_digest, _model(against, factory, model_kwargs, input_shape), input_shape)
    if as_json:
        print(json.dumps(verdict.to_json()))
    else:
        print(verdict.to_text())


@app.command()
def inspect(
    path: Annotated[pathlib.Path, typer.Argument(help="A ticket directory, or a checkpoint with --factory.")],
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    as_json: Json = False,
) -> None:
    """Show what a ticket, or a model, is made of."""
    if factory is None:
        found = slth_compile.load(path)
        _print_compiled(found, path, as_json)
        return
    from slth_compile.frontends.flax import import_model
    from slth_compile.graph.check import check
    from slth_compile.graph.graph import graph_json

    graph = check(import_model(_model(str(path), factory, model_kwargs, input_shape), parse_shape(input_shape)))
    if as_json:
        print(json.dumps(graph_json(graph)))
        return
    table = Table("node", "operation", "name", "reads", "shape", "parameters", title="Target", title_justify="left")
    for i, (node, shape) in enumerate(zip(graph.nodes, graph.shapes, strict=True)):
        from slth_compile.graph.nodes import OPERATION_NAMES, parameters

        count = sum(array.size for array in parameters(node).values())
        reads = ", ".join(str(j) for j in node.inputs)
        table.add_row(str(i), OPERATION_NAMES[type(node)], node.name, reads, str(shape), f"{count:,}" if count else "")
    output.print(table)


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
    from slth_compile.lab.files import require_writable, write
    from slth_compile.lab.finding import investigate
    from slth_compile.lab.laws import parse_law, parse_target
    from slth_compile.lab.question import DEFAULT_EPS, Question, parse_candidates

    question = Question(
        law=parse_law(law),
        target=parse_target(target),
        candidates=parse_candidates(candidates),
        eps=tuple(sorted(eps or DEFAULT_EPS, reverse=True)),
        samples=samples,
        seed=seed,
    )
    require_writable(files or [], force)
    with _progress(quiet or as_json) as progress:
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

    with _progress(quiet or as_json) as progress:
        found = run(out, eps=eps, delta=delta, seed=seed, resume=resume, force=force, progress=progress)
    _print_compiled(found, out, as_json)
    if not as_json:
        print(f"verified: every file, weight and bound of {out}{os.sep} by the independent checker")
        print(f"report:   {(out / 'report.html').absolute()}")


def main() -> None:
    """Runs the command line and exits: 0 done, 1 out of reach, 2 usage, 3 false, 4 unsupported, 70 bug, 130 stopped."""
    command = typer.main.get_command(app)
    try:
        # What `command.main` does, without its own words and exit codes for interrupts and closed pipes.
        with interrupts(), command.make_context("slth-compile", sys.argv[1:] or ["--help"]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message()} (--help shows the usage)", 2)
    except SlthError as error:
        _fail(str(error), error.exit_code, "verification failed: " if isinstance(error, VerificationError) else "")
    except KeyboardInterrupt:
        resumes = sys.argv[1:2] in (["compile"], ["demo"])
        _fail("interrupted" + ("; finished layers are kept, continue with --resume" if resumes else ""), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("SLTH_TRACEBACK"):
            raise
        _fail(f"internal error, please report it: {error!r} (SLTH_TRACEBACK=1 shows where)", 70)


def _fail(message: str, code: int, prefix: str = "") -> None:
    if message.count("\n") == 1:
        message = " ".join(line.strip() for line in message.splitlines())
    print(f"slth-compile: {prefix}{message}", file=sys.stderr)
    sys.exit(code)


def _join_processes(text: str) -> None:
    import jax

    address, count, number = parse_processes(text)
    try:
        jax.distributed.initialize(address, count, number)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--distributed {text}: the other processes were not found ({error})") from None


@contextmanager
def _notes() -> Iterator[None]:
    """Notes as one line each on stderr."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def as_line(message: Warning | str, *further: Any) -> None:
            if isinstance(message, Note):
                print(f"slth-compile: {message}", file=sys.stderr)
            else:
                show(message, *further)

        warnings.showwarning = as_line
        yield


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar for every stage, on stderr where that is a terminal; interrupts are felt at every step."""
    if quiet or not errors.is_terminal:
        yield feel
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=errors) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            feel(stage, done, total)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _model(path: str, factory: str | None, kwargs: str, shape: str | None) -> Any:
    from slth_compile.frontends.checkpoint import load_model

    if factory is None:
        raise InputError(f"{path}: a checkpoint holds weights only; name the model with --factory pkg.module:function")
    return load_model(path, factory, parse_kwargs(kwargs), parse_shape(shape))


def _require_target(digest: str, model: Any, shape: str | None) -> None:
    from slth_compile.frontends.flax import import_model
    from slth_compile.graph.graph import target_digest

    found = target_digest(import_model(model, parse_shape(shape)))
    if found != digest:
        raise VerificationError("target", f"the ticket is of target {digest[:16]}, the given model is {found[:16]}")


def _print_plan(planned: Any, as_json: bool) -> None:
    from slth_compile.report.plan_text import plan_json, plan_text

    print(json.dumps(plan_json(planned)) if as_json else plan_text(planned))


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


def _print_compiled(found: Any, out: pathlib.Path, as_json: bool) -> None:
    from slth_compile.report.record import summary_json
    from slth_compile.report.terminal import render_terminal

    if as_json:
        print(json.dumps(summary_json(found.summary) | {"out": str(out)}))
    else:
        print(render_terminal(found.summary))
