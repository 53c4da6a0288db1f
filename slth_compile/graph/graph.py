"""A target network as a list of nodes: its canonical JSON, its digest, its weighted layers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from slth_compile.graph.nodes import NODE_TYPES, OPERATION_NAMES, Convolution, Dense, Node, parameters
from slth_compile.graph.shapes import infer_shape

_NOT_IN_JSON = {"inputs", "name", "kernel_error", "bias_error"}


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A feed-forward network.

    Attributes:
        nodes: Operations in topological order; node 0 is the `Input`.
        outputs: Positions of the output leaves, in the order of the model's output pytree.
        output_names: One name an output leaf; the empty string where the model returns one array.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...] = ("",)

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Per-sample shape of every node."""
        shapes: list[tuple[int, ...]] = []
        for node in self.nodes:
            shapes.append(infer_shape(node, [shapes[i] for i in node.inputs]))
        return tuple(shapes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Per-sample shape of the input."""
        return self.shapes[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """Positions of the weighted nodes, in topological order; a layer's index is its place in this tuple."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node, Convolution | Dense))

    @functools.cached_property
    def consumers(self) -> tuple[int, ...]:
        """How many nodes and outputs read each node."""
        counts = [0] * len(self.nodes)
        for node in self.nodes:
            for i in node.inputs:
                counts[i] += 1
        for i in self.outputs:
            counts[i] += 1
        return tuple(counts)


def graph_json(graph: Graph) -> dict[str, Any]:
    """The graph without its parameters' values, names left out: what the format stores and the digest covers."""
    nodes = []
    for node in graph.nodes:
        arrays = parameters(node)
        entry: dict[str, Any] = {"op": OPERATION_NAMES[type(node)], "inputs": list(node.inputs)}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if field.name in arrays:
                entry[field.name] = {"dtype": str(value.dtype), "shape": list(value.shape)}
            elif field.name not in _NOT_IN_JSON and value is not None:
                entry[field.name] = value
        nodes.append(entry)
    plain = {"nodes": nodes, "outputs": list(graph.outputs)}
    return json.loads(json.dumps(plain))


def graph_from_json(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Graph:
    """The graph that `graph_json` described, with parameters taken from `arrays` by `"<node>.<field>"`."""
    nodes: list[Node] = []
    for position, entry in enumerate(plain["nodes"]):
        fields = {key: value for key, value in entry.items() if key != "op"}
        for key, value in fields.items():
            if isinstance(value, dict):
                fields[key] = arrays[f"{position}.{key}"]
            elif isinstance(value, list):
                fields[key] = _as_tuple(value)
        nodes.append(NODE_TYPES[entry["op"]](**fields))
    return Graph(tuple(nodes), tuple(plain["outputs"]), names)


def target_arrays(graph: Graph) -> dict[str, np.ndarray]:
    """Every parameter by `"<node>.<field>"`, in graph order."""
    return {f"{i}.{field}": array for i, node in enumerate(graph.nodes) for field, array in parameters(node).items()}


def target_digest(graph: Graph) -> str:
    """SHA-256 of the canonical graph JSON followed by the parameters' little-endian bytes in graph order."""
    digest = hashlib.sha256(json.dumps(graph_json(graph), sort_keys=True, separators=(",", ":")).encode())
    for array in target_arrays(graph).values():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()


class Structure:
    """A graph up to the values of its parameters: two are equal where one compiled program serves both.

    Args:
        graph: The graph; its parameters must reach a program as arguments, never through this.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._key = json.dumps(graph_json(graph), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
