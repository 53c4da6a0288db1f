"""`export`: a ticket in the formats that other programs read."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated

import typer

import slth_compile
from slth_compile.arguments import parse_shape
from slth_compile.cli.frame import Effort, Factory, Json, Kwargs, Out, Quiet, Shape, app, load_checkpoint, progress_bars
from slth_compile.errors import InputError
from slth_compile.interrupts import wait_for_steps


@app.command()
def export(
    out: Out,
    file: Annotated[
        pathlib.Path,
        typer.Argument(metavar="FILE", help="Where; .onnx, .stablehlo, .safetensors or .orbax chooses the format."),
    ],
    literal: Annotated[
        bool, typer.Option("--literal", help="The pruned random network of 2l layers, not the effective one.")
    ] = False,
    nchw: Annotated[
        bool, typer.Option("--nchw", help="An ONNX model takes and returns channels first; channels last otherwise.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT", help="The target, for .safetensors and .orbax, in whose parameters they are."
        ),
    ] = None,
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    effort: Effort = "normal",
    force: Annotated[bool, typer.Option(help="Replace an existing FILE.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a ticket as ONNX, StableHLO or the target's own parameters; loaded back and compared."""
    wait_for_steps()
    from slth_compile.export.files import refuse_occupied

    refuse_occupied(file, force)
    found = slth_compile.load(out)
    if factory is not None and like is None:
        raise InputError("--factory goes with --like CHECKPOINT, the target's own; a function is exported without them")
    model = None
    if like is not None:
        model = load_checkpoint(like, factory, model_kwargs, parse_shape(input_shape) or found.graph.input_shape)
    with progress_bars(quiet or as_json) as progress:
        exported = found.export(
            file, literal=literal, nchw=nchw, like=model, effort=effort, force=force, progress=progress
        )
    print(json.dumps(exported.to_json()) if as_json else exported.to_text())
