"""`inspect`: what a ticket, a model or a checkpoint is made of, and what would be refused."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer

import slth_compile
from slth_compile.arguments import parse_kwargs, parse_shape
from slth_compile.cli.frame import (
    Factory,
    Json,
    Kwargs,
    Layout,
    Shape,
    app,
    is_ticket,
    load_checkpoint,
    print_compiled,
    print_table,
)
from slth_compile.errors import InputError, UnsupportedModelError

_HINT = {
    "torch": "PyTorch's names and layouts: build the model with --factory pkg.module:function --input-shape H,W,C; "
    "modules named as here are found by name, others by shape and order",
    "flax": "flax names and layouts: build the model with --factory pkg.module:function (and --input-shape H,W,C)",
    "": "names of neither flax nor PyTorch: a model whose arrays have these names is needed, --factory "
    "pkg.module:function",
}


@app.command()
def inspect(
    path: Annotated[pathlib.Path, typer.Argument(help="A ticket directory, a model file, or a checkpoint.")],
    factory: Factory = None,
    model_kwargs: Kwargs = "{}",
    input_shape: Shape = None,
    layout: Layout = "auto",
    as_json: Json = False,
) -> None:
    """Show what a ticket, a model or a checkpoint is made of, and what would be refused."""
    if is_ticket(path):
        _inspect_ticket(path, as_json)
    elif factory is not None:
        _inspect_checkpoint(path, factory, model_kwargs, parse_shape(input_shape), layout, as_json)
    elif path.suffix.lower() == ".onnx":
        from slth_compile.frontends.model import import_model

        shape = parse_shape(input_shape)
        model = load_checkpoint(str(path), None, model_kwargs, shape, layout)
        _inspect_model(import_model(model, shape), shape, {}, as_json)
    else:
        _inspect_arrays(path, as_json)


def _inspect_ticket(path: pathlib.Path, as_json: bool) -> None:
    ticket = slth_compile.load(path)
    if isinstance(ticket, slth_compile.Compiled):
        print_compiled(ticket, path, as_json)
    else:
        print(json.dumps(ticket.to_json() | {"out": str(path)}) if as_json else ticket.to_text())


def _inspect_checkpoint(
    path: pathlib.Path, factory: str, kwargs: str, shape: tuple[int, ...] | None, layout: str, as_json: bool
) -> None:
    from slth_compile.frontends.checkpoint import restore_model

    restored = restore_model(path, factory, parse_kwargs(kwargs), shape, layout)
    _inspect_model(restored.model, shape, {"layout": restored.layout, "inferred": list(restored.inferred)}, as_json)


def _inspect_model(model: Any, shape: tuple[int, ...] | None, read_as: dict[str, Any], as_json: bool) -> None:
    from slth_compile.frontends.flax import survey_model
    from slth_compile.graph.check import check
    from slth_compile.graph.graph import Graph
    from slth_compile.report import inspection

    survey = None if isinstance(model, Graph) else survey_model(model, shape)
    refused: UnsupportedModelError | None = None
    graph: Graph | None = None
    try:
        graph = check(model if survey is None else survey.graph())
        rows = inspection.rows_of(graph)
    except UnsupportedModelError as error:
        refused = error
        rows = _as_far_as_it_goes(model if survey is None else survey)
    lines = [] if refused is None else [line.strip() for line in str(refused).splitlines()[1:]]
    if as_json:
        print(json.dumps({**inspection.inspection_json(rows, graph), **read_as, "refused": lines}))
    else:
        print_table(inspection.inspection_table(rows))
        print(inspection.totals_text(rows))
        if read_as.get("layout") == "torch":
            print("\n  ".join(["read as a PyTorch checkpoint: kernels transposed", *read_as["inferred"]]))
    if refused is not None:
        raise refused


def _as_far_as_it_goes(found: Any) -> tuple[Any, ...]:
    """Rows of what cannot be compiled: a graph that fails its check, or a survey's entries."""
    from slth_compile.graph.graph import Graph
    from slth_compile.graph.nodes import OPERATION_NAMES
    from slth_compile.report.inspection import Row, receptive_field

    if isinstance(found, Graph):
        pairs = [(node, ()) for node in found.nodes]
    else:
        pairs = [(entry.node, entry.shape) for entry in found.entries]
    sees = receptive_field([node for node, _ in pairs], [shape for _, shape in pairs])
    rows = []
    for (node, shape), seen in zip(pairs, sees, strict=True):
        refused = f"refused: {getattr(node, 'operation', type(node).__name__)}"
        rows.append(Row(node, OPERATION_NAMES.get(type(node), refused), shape, sees=seen))
    return tuple(rows)


def _inspect_arrays(path: pathlib.Path, as_json: bool) -> None:
    from slth_compile.frontends.checkpoint import read_checkpoint
    from slth_compile.frontends.checkpoint.describe import describe
    from slth_compile.report import numbers
    from slth_compile.report.table import Cell, Table

    try:
        arrays = read_checkpoint(path)
    except InputError as error:
        if path.is_dir():
            raise InputError(f"{error}; nor is it a ticket directory, it has no manifest.json") from error
        raise
    layout, rows = describe(arrays)
    count = sum(row.size for row in rows)
    if as_json:
        listed = [{"name": r.name, "shape": list(r.shape), "dtype": r.dtype, "reading": r.reading} for r in rows]
        print(json.dumps({"arrays": listed, "layout": layout or None, "elements": count, "hint": _HINT[layout]}))
        return
    texts = ((row.name, "x".join(map(str, row.shape)) or "-", row.dtype, row.reading) for row in rows)
    body = tuple(tuple(Cell(text=text) for text in line) for line in texts)
    print_table(Table(caption="Arrays", head=("name", "shape", "dtype", "probably"), rows=body, words=(0, 2, 3)))
    print(f"{len(rows)} arrays, {numbers.count(count)} elements")
    print(_HINT[layout])
