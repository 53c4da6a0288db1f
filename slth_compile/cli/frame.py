"""What every command shares: the application, its options, progress on stderr, models from checkpoints."""

from __future__ import annotations

import json
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

import slth_compile
from slth_compile.arguments import DOMAIN_FORMS, parse_kwargs
from slth_compile.errors import InputError, Note
from slth_compile.interrupts import feel
from slth_compile.progress import Progress

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compiles trained CNNs into seed + pruning mask, with a certified error bound.",
)
errors = Console(stderr=True)
output = Console()
_WIDE = 160

Out = Annotated[pathlib.Path, typer.Argument(metavar="OUT/", help="The ticket directory.")]
Eps = Annotated[str, typer.Option(help="Allowed difference of any output; 1e-4rel is relative to the largest output.")]
Delta = Annotated[float, typer.Option(help="Allowed probability, over seeds, that some weight misses its tolerance.")]
Domains = Annotated[
    list[str] | None,
    typer.Option(
        "--domain",
        metavar="DOMAIN",
        help=f"{DOMAIN_FORMS}; repeatable.",
        autocompletion=lambda: ["box:0,1", "points:", "balls:"],
    ),
]
Factory = Annotated[str | None, typer.Option(help="pkg.module:function that returns the flax model.")]
Kwargs = Annotated[str, typer.Option(metavar="JSON", help="Keyword arguments of the factory.")]
Shape = Annotated[str | None, typer.Option(metavar="H,W,C", help="Per-sample input shape.")]
Layout = Annotated[
    str,
    typer.Option(
        help="Whose array names and layouts a checkpoint has: auto|flax|torch.",
        autocompletion=lambda: ["auto", "flax", "torch"],
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        help="Subset a weight takes within its tolerance: closest|sparsest|fewest-bits.",
        autocompletion=lambda: ["closest", "sparsest", "fewest-bits"],
    ),
]
Construction = Annotated[
    str,
    typer.Option(
        help="Whose proof the network is built by: da-cunha|pensia|malach|burkholz.",
        autocompletion=lambda: ["da-cunha", "pensia", "malach", "burkholz"],
    ),
]
Effort = Annotated[
    str,
    typer.Option(
        help="What bounds may cost: quick (intervals alone)|normal|full.",
        autocompletion=lambda: ["quick", "normal", "full"],
    ),
]
Splits = Annotated[
    int,
    typer.Option(help="Units that every bound over a box or balls is split at, 0 to 12; each one doubles the time."),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        help="Time for each domain's bounds, compiling included: plain ones, then more and more splits while the next "
        "are expected to fit; the closest bound is kept."
    ),
]
Promise = Annotated[
    str,
    typer.Option(
        help="Errors that the plan answers for: all|typical|auto (typical only at points that are out of reach).",
        autocompletion=lambda: ["all", "typical", "auto"],
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the source, 0 to 2^64 - 1.")]
SourceFile = Annotated[
    str | None,
    typer.Option("--source", metavar="FILE", help="Random weights given from outside: .safetensors or .npz."),
]
SourceBits = Annotated[int, typer.Option(help="Bits of a generated random weight, 4 to 24.")]
SourceSigns = Annotated[bool, typer.Option("--source-signs", help="Make the first random layers signed constants.")]
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


@contextmanager
def notes() -> Iterator[None]:
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
def progress_bars(quiet: bool) -> Iterator[Progress]:
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


def load_checkpoint(
    path: str, factory: str | None, kwargs: str, shape: tuple[int, ...] | None, layout: str = "auto"
) -> Any:
    """The model a factory builds, with a checkpoint's weights; an ONNX file is a model as it is.

    What had to be inferred is said on stderr.
    """
    from slth_compile.frontends.checkpoint import restore_model
    from slth_compile.frontends.model import is_onnx

    if is_onnx(path):
        return path
    if factory is None:
        raise InputError(f"{path}: a checkpoint holds weights only; name the model with --factory pkg.module:function")
    restored = restore_model(path, factory, parse_kwargs(kwargs), shape, layout)
    if restored.inferred:
        print(f"slth-compile: {path}: {_inferences(restored.inferred)} (inspect lists them)", file=sys.stderr)
    return restored.model


def is_ticket(path: str | pathlib.Path) -> bool:
    """Whether a path is a ticket directory, sound or not."""
    from slth_compile.ticket.format import MANIFEST

    return (pathlib.Path(path) / MANIFEST).is_file()


def _inferences(lines: Sequence[str]) -> str:
    """How much of a PyTorch checkpoint was inferred, in one clause."""
    reordered = sum("reordered" in line for line in lines)
    found = f"{len(lines) - reordered} modules found by shape and order" if len(lines) > reordered else ""
    vectors = f"{reordered} layers reordered from channels first" if reordered else ""
    return "PyTorch checkpoint: " + ", ".join(part for part in (found, vectors) if part)


def print_compiled(found: Any, out: pathlib.Path, as_json: bool) -> None:
    """Prints what a ticket is, as text or as one JSON object."""
    from slth_compile.report.record import summary_json
    from slth_compile.report.terminal import render_terminal

    if as_json:
        print(json.dumps(summary_json(found.summary) | {"out": str(out)}))
    else:
        print(render_terminal(found.summary))


def print_table(table: Any) -> None:
    """Prints a `report.table.Table`; marks stand behind their figure."""
    print(table.caption)
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for i, title in enumerate(table.head):
        shown.add_column(title, justify="left" if i in table.words else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(f"{cell.text} ({cell.mark})" if cell.mark else cell.text) for cell in row))
    # a pipe has no width; names in it are not to be cut
    (output if output.is_terminal else Console(width=_WIDE)).print(shown)
