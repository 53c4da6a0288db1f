"""The wiring of an ONNX graph: which nodes the outputs need, what the input is; all defined once and in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.onnx.reader import Source

MAX_NODES = 50_000
_FLOATS = (1, 10, 11, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class Wiring:
    """A graph's wiring.

    Attributes:
        nodes: The nodes that the outputs depend on, in order.
        initialisers: Tensors of the file by name.
        input: The input, a `ValueInfoProto`.
        outputs: Names of the outputs.
        read: Every name that a needed node or an output reads.
    """

    nodes: tuple[Any, ...]
    initialisers: dict[str, Any]
    input: Any
    outputs: tuple[str, ...]
    read: frozenset[str]


def wiring_of(source: Source) -> Wiring:
    """The wiring of a model's graph.

    Raises:
        InputError: A name that is defined twice, or not before it is read; too many nodes.
        UnsupportedModelError: Not one input, or an input that is no tensor of floats.
    """
    graph, label = source.proto.graph, source.label
    if len(graph.node) > MAX_NODES:
        raise InputError(f"{label}: {len(graph.node)} nodes; expected at most {MAX_NODES}")
    if graph.sparse_initializer:
        raise InputError(f"{label}: holds sparse tensors; store them as dense ones")
    initialisers: dict[str, Any] = {}
    for tensor in graph.initializer:
        if not tensor.name or initialisers.setdefault(tensor.name, tensor) is not tensor:
            raise InputError(f"{label}: two tensors are named '{tensor.name}'")
    inputs = {value.name: value for value in graph.input if value.name not in initialisers}
    if len(inputs) < sum(value.name not in initialisers for value in graph.input):
        raise InputError(f"{label}: two inputs have the same name")
    _require_text(graph, label)
    makers = _makers(graph.node, {*initialisers, *inputs}, label)
    outputs = tuple(value.name for value in graph.output)
    if not outputs or len(set(outputs)) != len(outputs):
        names = ", ".join(outputs[:10]) or "nothing"
        raise InputError(f"{label}: its outputs are named {names}; expected a name for each")
    needed, read = _needed(graph.node, makers, outputs)
    for name in sorted(read):
        if name not in makers and name not in initialisers and name not in inputs:
            raise InputError(f"{label}: '{name}' is read, but no input, tensor or node has that name")
    used = [value for name, value in inputs.items() if name in read]
    if len(used) != 1:
        names = ", ".join(f"'{value.name}'" for value in used[:10]) or "none"
        raise UnsupportedModelError(
            f"unsupported model:\n  its outputs depend on {len(used)} inputs ({names}); expected one"
        )
    return Wiring(tuple(graph.node[i] for i in needed), initialisers, used[0], outputs, frozenset(read))


def open_sizes(value: Any) -> tuple[int | None, ...] | None:
    """The sizes of a value, None for those the file leaves open; None where it does not say its number of axes.

    Raises:
        UnsupportedModelError: It is no tensor of floats.
    """
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in _FLOATS:
        raise UnsupportedModelError(
            f"unsupported model:\n  input '{value.name}' is no tensor of floats; expected float16, bfloat16, "
            "float32 or float64"
        )
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)


def _require_text(graph: Any, label: str) -> None:
    """Refuses names that are no UTF-8, which protobuf hands over as bytes."""
    values = (*graph.input, *graph.output, *graph.initializer)
    names = [value.name for value in values] + [name for node in graph.node for name in (node.name, node.op_type)]
    wired = [name for node in graph.node for name in (*node.input, *node.output, *(a.name for a in node.attribute))]
    if not all(isinstance(name, str) for name in names + wired):
        raise InputError(f"{label}: a name in it is not UTF-8")


def _makers(nodes: Sequence[Any], given: set[str], label: str) -> dict[str, int]:
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name in given or name in makers:
                raise InputError(f"{label}: '{name}' is defined twice, the second time by {node.op_type} '{node.name}'")
            if name:
                makers[name] = i
    for i, node in enumerate(nodes):
        late = next((name for name in node.input if makers.get(name, -1) >= i), None)
        if late is not None:
            raise InputError(
                f"{label}: {node.op_type} '{node.name}' reads '{late}', which it or a later node makes; "
                "the graph is cyclic or its nodes are out of order"
            )
    return makers


def _needed(nodes: Sequence[Any], makers: dict[str, int], outputs: Sequence[str]) -> tuple[list[int], set[str]]:
    read, waiting, needed = set(outputs), list(outputs), set()
    while waiting:
        i = makers.get(waiting.pop())
        if i is None or i in needed:
            continue
        needed.add(i)
        fresh = {name for name in nodes[i].input if name} - read
        read |= fresh
        waiting += fresh
    return sorted(needed), read
