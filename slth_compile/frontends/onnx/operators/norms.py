"""Layer, instance and group norms: what they divide by, then their scale and shift as maps of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.draft import BATCH, Activation, Value
from slth_compile.frontends.layer_norm import Normalised
from slth_compile.frontends.onnx.operation import Operation, Refused, constant
from slth_compile.frontends.onnx.operators.arithmetic import combined
from slth_compile.frontends.shaping import reshaped


def layer_norm(op: Operation) -> Value:
    """`LayerNormalization` over all axes from `axis` on."""
    if any(op.used[1:]):
        raise Refused("its mean or deviation is read; expected its first result alone")
    if op.integer("stash_type", 1) != 1:
        op.refuse_attribute("stash_type", op.integer("stash_type", 1), "1")
    x = op.activation
    rank = len(x.layout)
    axis = op.axis(op.integer("axis", -1), rank)
    return _mapped(op, _normalised(op, x, range(axis, rank)), 0)


def instance_norm(op: Operation) -> Value:
    """`InstanceNormalization`: every channel over its spatial axes."""
    x = op.activation
    rank = len(x.layout)
    if rank < 3:
        raise InputError(f"{op}: an operand with {rank} axes; expected at least 3")
    return _mapped(op, _normalised(op, x, range(2, rank)), rank - 2)


def group_norm(op: Operation) -> Value:
    """`GroupNormalization`: channels and spatial axes of every group; one scale a group before opset 21."""
    x, groups = op.activation, op.integer("num_groups", 0)
    shape = op.draft.shape(x)
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise InputError(f"{op}: num_groups={groups} for an operand of shape {shape}")
    grouped = reshaped(op.draft, x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    y = _normalised(op, grouped, range(2, len(grouped.layout)))
    if op.opset < 21:
        return reshaped(op.draft, _mapped(op, y, len(shape) - 1), shape)
    return _mapped(op, reshaped(op.draft, y, shape), len(shape) - 2)


def _normalised(op: Operation, x: Activation, axes: Sequence[int]) -> Activation:
    """`(x - mean) / sqrt(variance + epsilon)` over axes of the array."""
    epsilon = op.number("epsilon", 1e-5)
    if not epsilon > 0:
        op.refuse_attribute("epsilon", epsilon, "a positive number")
    if any(x.layout[axis] == BATCH for axis in axes):
        raise Refused("it goes over the batch axis; expected axes of the sample")
    x = op.draft.canonical(x) if any(x.layout[axis] < 0 for axis in axes) else x
    places = tuple(sorted(x.layout[axis] for axis in axes))
    node = Normalised(inputs=(x.entry,), name=op.name, axes=places, epsilon=epsilon, centred=True)
    return Activation(op.draft.add(node, op.draft.entries[x.entry].shape), x.layout)


def _mapped(op: Operation, y: Activation, behind: int) -> Activation:
    """`y * scale + shift`, these with `behind` axes more at their end; what changes nothing is left out."""
    shape = op.draft.shape(y)
    for name, position, neutral in (("mul", 1, 1), ("add", 2, 0)):
        if name == "add" and op.operand(position) is None:
            continue
        given = op.constant_at(position, "the scale" if name == "mul" else "the shift")
        value = given.value.reshape(*given.shape, *(1,) * behind)
        if np.broadcast_shapes(shape, value.shape) != shape or (behind and len(given.shape) != 1):
            raise InputError(f"{op}: a scale or shift of shape {given.shape} for an operand of shape {shape}")
        if not np.all(value == neutral):
            found = combined(op, name, (y, constant(value, given.leaves)))
            assert isinstance(found, Activation)
            y = found
    return y
