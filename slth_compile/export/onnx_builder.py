"""An ONNX graph under construction: tensors with their axes' order, initialisers, operators.

A value of the target's graph, per-sample axes `0, 1, ...` with channels last, is a tensor whose axes behind the batch
are those in another order: `order[i]` is the value's axis at place `i`. Convolutions want channels first, the rest
takes what it gets, so a transposition is written only where two operators want different orders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.errors import InputError

OPSET = 17
"""The newest operators needed are HardSwish (14) and one-axis softmax (13); 17 is what most runtimes read."""
IR_VERSION = 8
LARGEST = 2**31 - 1
"""Bytes of a protobuf message."""

Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor `(batch, ...)`; axis `1 + i` holds axis `order[i]` of a value of the target's graph."""

    tensor: str
    order: Order

    def place(self, axis: int) -> int:
        """Where the tensor has an axis of the value, the batch counted."""
        return self.order.index(axis) + 1


def channels_last(rank: int) -> Order:
    """The order of the target's graph."""
    return tuple(range(rank))


def channels_first(rank: int) -> Order:
    """The order of ONNX's convolutions."""
    return (rank - 1, *range(rank - 1)) if rank else ()


class Builder:
    """Operators and initialisers in the order they were added; grows only."""

    def __init__(self) -> None:
        """An empty graph."""
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self.bytes = 0
        self._scope = ""
        self._names: set[str] = set()
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._transposed: dict[tuple[str, Order], str] = {}

    def enter(self, scope: str) -> None:
        """Names what is added next."""
        self._scope = scope

    def operator(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator of one output; its tensor's name."""
        from onnx import helper

        name = self.name(f"{self._scope}/{kind}")
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: Any, label: str = "", dtype: type = np.float32) -> str:
        """Adds an initialiser; small ones of equal values are one."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(np.asarray(array).astype(dtype)).reshape(np.shape(array))
        key = (np.dtype(dtype).name, array.tobytes() if array.size <= 16 else b"", array.shape)
        small = array.size <= 16 and not label
        if small and key in self._constants:
            return self._constants[key]
        self.bytes += array.nbytes
        if self.bytes > LARGEST:
            raise InputError(
                f"the weights take more than {LARGEST:,} bytes, the limit of an ONNX file without external data "
                "(protobuf); the effective network is the smallest export there is"
            )
        name = self.name(f"{self._scope}/{label}" if label else "constant")
        self.initialisers.append(numpy_helper.from_array(array, name))
        if small:
            self._constants[key] = name
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Adds an int64 vector."""
        return self.constant(np.asarray(values, np.int64), dtype=np.int64)

    def name(self, wanted: str) -> str:
        """A name nothing else has."""
        wanted = wanted.strip("/") or "x"
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def ordered(self, value: Value, order: Order) -> str:
        """The value's tensor with its axes in an order."""
        if value.order == order:
            return value.tensor
        # One tensor can be two values of the target's graph, of which one is the other transposed.
        key = (value.tensor, (0, *(value.place(axis) for axis in order)))
        if key not in self._transposed:
            self._transposed[key] = self.operator("Transpose", value.tensor, perm=list(key[1]))
        return self._transposed[key]

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """A tensor in another shape behind the batch, which is copied."""
        return self.operator("Reshape", tensor, self.integers([0, *shape]))
