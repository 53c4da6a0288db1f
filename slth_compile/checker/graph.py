"""The unfolded target network: its operations, its parameters, its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from slth_compile.checker.safetensors import Tensor
from slth_compile.checker.schema import flag, integer, real, record, sequence, text
from slth_compile.checker.shapes import output_shape
from slth_compile.errors import VerificationError

DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
_LARGE = 1 << 31


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        op: Its name in the format.
        inputs: Positions of its operands, all earlier.
        fields: Its static attributes.
        arrays: Its parameters in float64, at exactly their values.
        shape: Per-sample shape of what it puts out.
    """

    op: str
    inputs: tuple[int, ...]
    fields: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Operations in topological order, the input first, and the positions of the outputs."""

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def consumers(self) -> list[int]:
        """How many nodes and outputs read each node."""
        counts = [0] * len(self.nodes)
        for i in [i for node in self.nodes for i in node.inputs] + list(self.outputs):
            counts[i] += 1
        return counts


def _sizes(value: Any, what: str, low: int = 1) -> tuple[int, ...]:
    return tuple(integer(v, what, low, _LARGE) for v in sequence(value, what))


def _axes(value: Any, what: str) -> tuple[int, ...]:
    return _sizes(value, what, 0)


def _pairs(value: Any, what: str) -> tuple[tuple[int, int], ...]:
    pairs = [sequence(pair, f"an entry of {what}", 2) for pair in sequence(value, what)]
    return tuple((_axis(low, what), _axis(high, what)) for low, high in pairs)


def _size(value: Any, what: str) -> int:
    return integer(value, what, 1, _LARGE)


def _axis(value: Any, what: str) -> int:
    return integer(value, what, 0, _LARGE)


@dataclasses.dataclass(frozen=True)
class _Operation:
    fields: Mapping[str, Callable[[Any, str], Any]] = dataclasses.field(default_factory=dict)
    optional_fields: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    operands: int | None = 1


_WINDOW = {"window": _sizes, "stride": _sizes, "padding": _pairs}
_CONVOLUTION = {"stride": _sizes, "padding": _pairs, "dilation": _sizes, "groups": _size}
_KERNEL, _BIAS = frozenset({"kernel"}), frozenset({"bias"})

_OPERATIONS: dict[str, _Operation] = {
    "input": _Operation({"shape": _sizes}, operands=0),
    "convolution": _Operation(_CONVOLUTION, required=_KERNEL, optional=_BIAS),
    "dense": _Operation(required=_KERNEL, optional=_BIAS),
    "batch_norm": _Operation(
        {"epsilon": real}, required=frozenset({"mean", "variance"}), optional=frozenset({"scale", "bias"})
    ),
    "affine": _Operation({"trained": flag}, optional=frozenset({"scale", "shift"})),
    "relu": _Operation(),
    "leaky_relu": _Operation({"slope": real}),
    "prelu": _Operation(required=frozenset({"slopes"})),
    "clip": _Operation({"low": real, "high": real}, optional_fields=frozenset({"low", "high"})),
    "sigmoid": _Operation(),
    "tanh": _Operation(),
    "hard_sigmoid": _Operation({"slope": real, "offset": real}),
    "hard_swish": _Operation(),
    "silu": _Operation(),
    "gelu": _Operation({"approximate": flag}),
    "max_pool": _Operation(_WINDOW),
    "average_pool": _Operation({**_WINDOW, "count_padding": flag}),
    "mean": _Operation({"axes": _axes}),
    "maximum": _Operation({"axes": _axes}),
    "add": _Operation(operands=2),
    "multiply": _Operation(operands=2),
    "concatenate": _Operation({"axis": _axis}, operands=None),
    "slice": _Operation({"start": _axes, "limit": _sizes, "stride": _sizes}),
    "pad": _Operation({"padding": _pairs}),
    "dilate": _Operation({"factors": _sizes}),
    "resample": _Operation({"axis": _axis}, required=frozenset({"matrix"})),
    "reshape": _Operation({"shape": _sizes}),
    "transpose": _Operation({"permutation": _axes}),
    "softmax": _Operation({"axis": _axis}),
    "log_softmax": _Operation({"axis": _axis}),
}


def parse_graph(plain: Any, tensors: Mapping[str, Tensor]) -> tuple[Graph, str]:
    """The target network and its digest.

    Args:
        plain: The manifest's graph.
        tensors: The parameters by `"<node>.<field>"`.

    Returns:
        The graph and `SHA-256(canonical JSON, parameters' bytes in graph order)`.

    Raises:
        VerificationError: An operation is unknown or does not fit its operands, a parameter is missing, left over, of
            another type or shape than stated, or not finite.
    """
    plain = record(plain, ("nodes", "outputs"), "the graph")
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    nodes: list[Node] = []
    unused = set(tensors)
    for position, entry in enumerate(sequence(plain["nodes"], "the graph's nodes")):
        node, used = _parse_node(entry, position, nodes, tensors)
        for name in used:
            digest.update(tensors[name].raw.data)
        unused -= set(used)
        nodes.append(node)
    if unused:
        raise VerificationError("target", f"parameters of no operation: {ascii(sorted(unused))[:200]}")
    outputs = _axes(plain["outputs"], "the graph's outputs")
    if not outputs or max(outputs) >= len(nodes):
        raise VerificationError("target", f"the outputs are {list(outputs)[:20]} of {len(nodes)} nodes")
    for node in nodes:
        if any(nodes[i].op in ("softmax", "log_softmax") for i in node.inputs):
            raise VerificationError("target", f"an operation '{node.op}' reads a softmax, expected it at outputs only")
    return Graph(tuple(nodes), outputs), digest.hexdigest()


def _parse_node(
    entry: Any, position: int, earlier: list[Node], tensors: Mapping[str, Tensor]
) -> tuple[Node, tuple[str, ...]]:
    what = f"node {position}"
    op = text(entry.get("op") if isinstance(entry, dict) else None, f"the operation of {what}")
    if op not in _OPERATIONS or (op == "input") != (position == 0):
        raise VerificationError("target", f"{what} has the operation {op[:40]!a}, unknown or not allowed there")
    kind = _OPERATIONS[op]
    present = sorted(kind.required | (kind.optional & set(entry)))
    static = [key for key in kind.fields if key not in kind.optional_fields or key in entry]
    entry = record(entry, ("op", "inputs", *static, *present), what)
    inputs = _axes(entry["inputs"], f"the inputs of {what}")
    if (
        any(i >= position for i in inputs)
        or len(inputs) != (kind.operands or len(inputs))
        or bool(inputs) != bool(position)
    ):
        raise VerificationError("target", f"{what} ('{op}') has the inputs {list(inputs)[:20]}, which do not fit")
    fields = {key: kind.fields[key](entry[key], f"'{key}' of {what}") for key in static}
    _check_fields(op, fields, what)
    names = {field: f"{position}.{field}" for field in present}
    for field, name in names.items():
        _check_parameter(entry[field], name, tensors)
    stated = {field: tensors[name].shape for field, name in names.items()}
    shape = output_shape(op, fields, stated, [earlier[i].shape for i in inputs])
    arrays = {field: tensors[name].float64() for field, name in names.items()}
    for field, array in arrays.items():
        if not np.isfinite(array).all():
            raise VerificationError("weights", f"the parameter '{names[field]}' of the target holds NaN or infinity")
    if op == "resample" and _has_subnormals(arrays["matrix"]):
        raise VerificationError("weights", f"the matrix '{names['matrix']}' holds numbers below 2^-1022")
    return Node(op, inputs, fields, arrays, shape), tuple(names.values())


def _check_fields(op: str, fields: Mapping[str, Any], what: str) -> None:
    if op == "leaky_relu" and not 0 <= fields["slope"] <= 1:
        raise VerificationError("target", f"{what} has the slope {fields['slope']}, expected 0 to 1")
    if op == "clip" and (not fields or fields.get("low", -np.inf) > fields.get("high", np.inf)):
        raise VerificationError("target", f"{what} clips to {dict(fields)}, expected low <= high, or one of them")


def _has_subnormals(array: np.ndarray) -> bool:
    """Whether some entries may be read as zero."""
    size = np.abs(array)
    return bool(((size > 0) & (size < 2.0**-1022)).any())


def _check_parameter(entry: Any, name: str, tensors: Mapping[str, Tensor]) -> None:
    entry = record(entry, ("dtype", "shape"), f"the description of '{name}'")
    if name not in tensors:
        raise VerificationError("target", f"the parameter '{name}' is missing")
    tensor = tensors[name]
    dtype = DTYPES.get(text(entry["dtype"], f"the dtype of '{name}'"))
    shape = _axes(entry["shape"], f"the shape of '{name}'")
    if (dtype, shape) != (tensor.dtype, tensor.shape):
        raise VerificationError(
            "target", f"'{name}' is stored as {tensor.dtype} {tensor.shape}, the graph says otherwise"
        )
