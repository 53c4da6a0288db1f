"""Functions of one number, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.constants import from_array
from slth_compile.frontends.draft import Activation, Value
from slth_compile.frontends.onnx.layout import arranged, moved_last
from slth_compile.frontends.onnx.operation import Operation, Refused
from slth_compile.frontends.onnx.operators.arithmetic import combined
from slth_compile.frontends.shaping import reshaped
from slth_compile.graph import nodes as n

_LARGEST = float(np.finfo(np.float32).max)


def plain(kind: type[n.Node]) -> Callable[[Operation], Value]:
    """The rule of an operator that one node without attributes stands for."""
    return lambda op: _applied(op, kind)


def leaky_relu(op: Operation) -> Value:
    """`LeakyRelu`: a relu, a leaky relu or a PReLU, by its slope."""
    return _sloped(op, op.activation, np.asarray(op.number("alpha", 0.01), np.float32))


def prelu(op: Operation) -> Value:
    """`PRelu` with one slope, or one a channel."""
    x, slopes = op.activation, op.constant_at(1, "the slope").value
    rank = len(x.layout)
    if slopes.ndim > rank:
        raise InputError(f"{op}: slopes of shape {slopes.shape} for an operand with {rank} axes")
    if slopes.size == 1:
        return _sloped(op, x, slopes.reshape(()))
    varying = [axis + rank - slopes.ndim for axis, size in enumerate(slopes.shape) if size > 1]
    if len(varying) > 1 or x.layout[varying[0]] < 0:
        raise Refused(f"slopes of shape {slopes.shape}; expected one number, or one for each entry of one axis")
    return _sloped(op, moved_last(op.draft, x, varying[0]), slopes.reshape(-1))


def clip(op: Operation) -> Value:
    """`Clip`, its ends given as attributes (opset 8 to 10) or operands."""
    if op.opset < 11:
        ends = [op.attributes.get("min"), op.attributes.get("max")]
    else:
        found = [op.optional_at(1, "the lower end"), op.optional_at(2, "the upper end")]
        if any(end is not None and end.size != 1 for end in found):
            raise InputError(f"{op}: an end of several numbers; expected one")
        ends = [None if end is None else float(end.reshape(())) for end in found]
    if any(isinstance(end, float) and math.isnan(end) for end in ends):
        raise InputError(f"{op}: an end is NaN")
    x: Value = op.activation
    for name, end in zip(("max", "min"), ends, strict=True):
        # exporters write the largest float for no end
        if end is not None and (-end if name == "max" else end) < _LARGEST:
            x = combined(op, name, (x, from_array(np.asarray(end, np.float64))))
    return x


def hard_sigmoid(op: Operation) -> Value:
    """`HardSigmoid`: `max(0, min(1, alpha * x + beta))`."""
    return _applied(op, n.HardSigmoid, slope=op.number("alpha", 0.2), offset=op.number("beta", 0.5))


def gelu(op: Operation) -> Value:
    """`Gelu`, exact or by tanh."""
    kind = op.text("approximate", "none")
    if kind not in ("none", "tanh"):
        op.refuse_attribute("approximate", kind, "none or tanh")
    return _applied(op, n.Gelu, approximate=kind == "tanh")


def softmax(op: Operation) -> Value:
    """`Softmax` and `LogSoftmax`; before opset 13 over all axes from `axis` on, taken as one."""
    x, kind = op.activation, n.Softmax if op.kind == "Softmax" else n.LogSoftmax
    shape = op.draft.shape(x)
    axis = op.axis(op.integer("axis", -1 if op.opset >= 13 else 1), len(shape))
    if op.opset < 13:
        # axes of size one do not count
        large = [i for i in range(axis, len(shape)) if shape[i] > 1]
        if len(large) > 1:
            flat = reshaped(op.draft, x, (*shape[:axis], math.prod(shape[axis:])))
            return reshaped(op.draft, _along(op, kind, flat, axis), shape)
        axis = large[0] if large else axis
    return _along(op, kind, x, axis)


def piece(name: str) -> Callable[[Operation], Value]:
    """The rule of a function that only means something inside a pattern, such as `Erf` in a gelu."""

    def rule(op: Operation) -> Value:
        x = op.activation
        return op.draft.unknown(name, (x,), op.draft.shape(x))

    return rule


def _along(op: Operation, kind: Any, x: Activation, axis: int) -> Activation:
    if x.layout[axis] == -1:
        raise Refused("it sums over the batch axis")
    if x.layout[axis] < 0:
        # one number alone: an axis of its own
        x = arranged(op.draft, x, [*(i for i, place in enumerate(x.layout) if place >= 0), axis])
    return Activation(op.draft.add(kind(inputs=(x.entry,), axis=x.layout[axis])), x.layout)


def _sloped(op: Operation, x: Activation, slopes: np.ndarray) -> Activation:
    node: n.Node = n.Prelu(inputs=(x.entry,), slopes=slopes)
    if slopes.ndim == 0 and 0 <= slopes <= 1:
        slope = float(slopes)
        node = n.LeakyRelu(inputs=(x.entry,), slope=slope) if slope else n.Relu(inputs=(x.entry,))
    return Activation(op.draft.add(node), x.layout)


def _applied(op: Operation, kind: type[n.Node], **fields: Any) -> Activation:
    x = op.activation
    return Activation(op.draft.add(kind(inputs=(x.entry,), **fields)), x.layout)
