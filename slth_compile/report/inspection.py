"""What a target network is made of, before anything is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph, graph_json
from slth_compile.report import numbers
from slth_compile.report.table import Cell, Table

Extent = tuple[int, ...] | None
_LOCAL = (
    n.BatchNorm | n.Affine | n.Relu | n.LeakyRelu | n.Prelu | n.Clip | n.Sigmoid | n.Tanh | n.HardSigmoid
    | n.HardSwish | n.Silu | n.Gelu | n.LayerNorm | n.Add | n.Multiply | n.Dense | n.Slice | n.Pad
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One node.

    Attributes:
        node: The node; of a model that is refused, also what no target node stands for.
        operation: Its name.
        shape: Per-sample shape.
        sign: For a layer: `"signed"`, `"one-signed"`, `"one-signed for inputs >= 0"`; empty for others.
        sees: How many positions of the input an output of a layer depends on, an axis; None where that is all, or
            not known.
    """

    node: n.Node
    operation: str
    shape: tuple[int, ...]
    sign: str = ""
    sees: Extent = None

    @property
    def weighted(self) -> bool:
        """Whether it is a weighted layer."""
        return hasattr(self.node, "kernel")

    @property
    def parameters(self) -> int:
        """How many numbers were learned or measured for it."""
        return sum(array.size for field, array in n.parameters(self.node).items() if field != "matrix")

    @property
    def weights(self) -> int:
        """Entries of its kernel."""
        return n.parameters(self.node)["kernel"].size if self.weighted else 0


def rows_of(graph: Graph) -> tuple[Row, ...]:
    """A row for every node of a checked graph."""
    signs = _signs(graph)
    sees = receptive_field(graph.nodes, graph.shapes)
    return tuple(
        Row(node, n.OPERATION_NAMES[type(node)], shape, signs.get(i, ""), sees[i])
        for i, (node, shape) in enumerate(zip(graph.nodes, graph.shapes, strict=True))
    )


def receptive_field(nodes: Sequence[n.Node], shapes: Sequence[tuple[int, ...]]) -> list[Extent]:
    """Positions of the input, an axis, that one output of each node depends on; None: all of them, or not known.

    A window of `k` taps, `d` apart, on what sees `r` positions in steps of `j` sees `r + (k - 1) d j` of them.
    """
    found: list[tuple[tuple[int, int], ...] | None] = []
    for node, shape in zip(nodes, shapes, strict=True):
        read = [found[i] for i in node.inputs]
        rank = len(shape) - 1
        if isinstance(node, n.Input):
            found.append(((1, 1),) * rank if rank > 0 else None)
        elif any(one is None or len(one) != rank for one in read) or rank < 1:
            found.append(None)
        else:
            known = [one for one in read if one is not None]
            widest = tuple((max(r for r, _ in axis), max(j for _, j in axis)) for axis in zip(*known, strict=True))
            found.append(_through(node, widest))
    return [None if one is None else tuple(r for r, _ in one) for one in found]


def _through(node: n.Node, seen: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...] | None:
    if isinstance(node, n.Convolution):
        steps = zip(node.kernel.shape[:-2], node.dilation, node.stride, strict=True)
    elif isinstance(node, n.MaxPool | n.AveragePool):
        steps = ((k, 1, s) for k, s in zip(node.window, node.stride, strict=True))
    elif isinstance(node, _LOCAL) or (isinstance(node, n.Concatenate) and node.axis == len(seen)):
        return seen
    else:
        return None
    return tuple((r + (k - 1) * d * j, j * s) for (r, j), (k, d, s) in zip(seen, steps, strict=True))


def _signs(graph: Graph) -> dict[int, str]:
    folded = fold(graph)
    if len(folded.layers) != len(graph.layers):
        # batch norms that become layers of their own; the plan names every layer
        return {}
    plain, any_sign = nonnegative_nodes(folded, True), nonnegative_nodes(folded, False)
    found = {}
    for i, j in zip(graph.layers, folded.layers, strict=True):
        read = folded.nodes[j].inputs[0]
        found[i] = "one-signed" if any_sign[read] else "one-signed for inputs >= 0" if plain[read] else "signed"
    return found


def inspection_table(rows: Sequence[Row]) -> Table:
    """The rows, with totals as the last one."""
    head = ("node", "operation", "name", "reads", "shape", "parameters", "sign", "sees")
    size = rows[0].shape[:-1] if rows else ()
    body = tuple(
        tuple(Cell(text=text) for text in (
            str(i), row.operation, row.node.name, ", ".join(map(str, row.node.inputs)), _by(row.shape),
            numbers.count(row.parameters) if row.parameters else "", row.sign, _seen(row, size),
        ))
        for i, row in enumerate(rows)
    )  # fmt: skip
    total = ("", f"{sum(row.weighted for row in rows)} layers", "", "", "", numbers.count(_parameters(rows)), "", "")
    last = tuple(Cell(text=text) for text in total)
    return Table(caption="Target", head=head, rows=(*body, last), words=(1, 2, 6), total=True)


def totals_text(rows: Sequence[Row]) -> str:
    """Layers, weights, parameters and bytes, in one sentence."""
    found = totals(rows)
    signed = sum(row.sign == "signed" for row in rows)
    told = f", {signed} of them signed for inputs >= 0" if any(row.sign for row in rows) else ""
    return (
        f"{found['layers']} weighted layers{told}; {numbers.count(found['weights'])} weights of "
        f"{numbers.count(found['parameters'])} parameters, {numbers.size(found['bytes'])}"
    )


def totals(rows: Sequence[Row]) -> dict[str, int]:
    """Layers, their weights, all parameters, and the bytes of these as they are stored."""
    stored = sum(array.nbytes for row in rows for array in n.parameters(row.node).values())
    weights = sum(row.weights for row in rows)
    return {
        "layers": sum(row.weighted for row in rows),
        "weights": weights,
        "parameters": _parameters(rows),
        "bytes": stored,
    }


def inspection_json(rows: Sequence[Row], graph: Graph | None) -> dict[str, Any]:
    """The same for programs: `graph` is the canonical graph, null where the model is refused."""
    return {
        "graph": None if graph is None else graph_json(graph),
        "nodes": [
            {
                "operation": row.operation,
                "name": row.node.name,
                "inputs": list(row.node.inputs),
                "shape": list(row.shape),
                "weights": row.weights,
                "parameters": row.parameters,
                "sign": row.sign or None,
                "receptive_field": None if row.sees is None else list(row.sees),
            }
            for row in rows
        ],
        "totals": totals(rows),
    }


def _parameters(rows: Sequence[Row]) -> int:
    return sum(row.parameters for row in rows)


def _seen(row: Row, size: tuple[int, ...]) -> str:
    if not row.weighted:
        return ""
    if row.sees is None:
        return "all" if len(row.shape) == 1 else ""
    return "all" if all(seen >= own for seen, own in zip(row.sees, size, strict=True)) else _by(row.sees)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "-"
