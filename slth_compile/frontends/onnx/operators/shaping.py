"""Operators that move elements: reshape, transpose, slice, pad, concatenate, and the ones that do nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends import shaping
from slth_compile.frontends.constants import from_array
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Value
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape
from slth_compile.frontends.onnx.operators.mixing import mixed_axis

_LARGEST = 2**62
_PADDINGS: dict[str, Any] = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def identity(op: Operation) -> Value:
    """`Identity`, and `Dropout` in inference."""
    if any(op.used[1:]):
        raise Refused("its mask is read; expected its first result alone")
    if op.kind == "Dropout" and op.operand(2) is not None and np.any(op.optional_at(2, "training_mode")):
        op.refuse_attribute("training_mode", True, "False, export the model in inference mode")
    return op.activation


def cast(op: Operation) -> Value:
    """`Cast` to another float type: nothing, in the real arithmetic of the certificate."""
    if op.integer("to", 1) not in (1, 10, 11, 16):
        op.refuse_attribute("to", op.integer("to", 1), "a float type of at least 16 bits")
    return op.activation


def shape_of(op: Operation) -> Value:
    """`Shape`: known, since all sizes are."""
    shape = op.draft.shape(op.activation)
    end = op.attributes.get("end")
    return from_array(np.array(shape[op.integer("start", 0) : end], np.int64))


def size_of(op: Operation) -> Value:
    """`Size`: the number of elements."""
    return from_array(np.array(math.prod(op.draft.shape(op.activation)), np.int64))


def reshape(op: Operation) -> Value:
    """`Reshape` with a constant shape; 0 keeps a size, -1 takes the rest."""
    x = op.activation
    new = integers_at(op, 1, "the shape")
    return shaping.reshaped(op.draft, x, target_shape(op, op.draft.shape(x), new))


def target_shape(op: Operation, old: Shape, new: Shape) -> Shape:
    """The sizes that a `Reshape` of an array of shape `old` to `new` has."""
    sizes = list(new)
    if not op.flag("allowzero"):
        if any(size == 0 and axis >= len(old) for axis, size in enumerate(sizes)):
            raise InputError(f"{op}: shape {new} keeps an axis that {old} does not have")
        sizes = [old[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = math.prod(old) // known
    if any(size < 0 for size in sizes) or math.prod(sizes) != math.prod(old):
        raise InputError(f"{op}: shape {old} to {new}; expected as many elements")
    return tuple(sizes)


def flatten(op: Operation) -> Value:
    """`Flatten` to two axes."""
    x = op.activation
    shape = op.draft.shape(x)
    axis = op.integer("axis", 1)
    axis = axis if axis == len(shape) else op.axis(axis, len(shape))
    return shaping.reshaped(op.draft, x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def squeeze(op: Operation) -> Value:
    """`Squeeze`: axes of size one taken out."""
    x = op.activation
    shape = op.draft.shape(x)
    axes = op.axes(len(shape), 1)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and x.layout[axis] != BATCH)
    if any(shape[axis] != 1 for axis in axes):
        raise InputError(f"{op}: axes {axes} of shape {shape}; expected axes of size 1")
    return shaping.squeezed(op.draft, x, axes)


def unsqueeze(op: Operation) -> Value:
    """`Unsqueeze`: axes of size one put in."""
    x = op.activation
    given = op.integers("axes") or integers_at(op, 1, "the list of axes")
    axes = axes_of(op, given, len(x.layout) + len(given))
    places = iter(x.layout)
    return Activation(x.entry, tuple(UNIT if i in axes else next(places) for i in range(len(x.layout) + len(given))))


def axes_of(op: Operation, given: Shape, rank: int) -> Shape:
    """Axes counted from the front, each named once."""
    axes = tuple(op.axis(axis, rank) for axis in given)
    if len(set(axes)) != len(axes):
        raise InputError(f"{op}: axes {given} name an axis twice")
    return axes


def transpose(op: Operation) -> Value:
    """`Transpose`: another layout, no node."""
    x = op.activation
    order = op.integers("perm") or tuple(reversed(range(len(x.layout))))
    if sorted(order) != list(range(len(x.layout))):
        raise InputError(f"{op}: perm={order} for {len(x.layout)} axes")
    return Activation(x.entry, tuple(x.layout[axis] for axis in order))


def concatenate(op: Operation) -> Value:
    """`Concat` along one axis."""
    operands = [x for x in op.operands if x is not None]
    shapes = [op.draft.shape(x) if isinstance(x, Activation) else x.shape for x in operands]
    axis = op.axis(op.integer("axis", 1), len(shapes[0]))
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(rest) != 1 or len({len(shape) for shape in shapes}) != 1:
        raise InputError(f"{op}: operands of shapes {', '.join(map(str, shapes))} along axis {axis}")
    if len(operands) == 1:
        return operands[0]
    total = sum(shape[axis] for shape in shapes)
    return shaping.joined(op.draft, operands, axis, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


def pad(op: Operation) -> Value:
    """`Pad` with zeros, where negative padding cuts, or with elements of the operand."""
    x = op.activation
    shape = op.draft.shape(x)
    mode = op.text("mode", "constant")
    if mode not in _PADDINGS:
        raise InputError(f"{op}: mode={mode} does not exist")
    flat = op.integers("pads") if op.opset < 11 else integers_at(op, 1, "the list of paddings")
    value = op.number("value", 0.0) if op.opset < 11 else op.optional_at(2, "the padding value")
    if mode == "constant" and value is not None and np.any(np.asarray(value) != 0):
        raise Refused(f"padding with {float(np.reshape(value, -1)[0]):g}; expected zeros")
    axes = tuple(range(len(shape))) if op.operand(3) is None else axes_of(op, integers_at(op, 3, "axes"), len(shape))
    if flat is None or len(flat) != 2 * len(axes):
        raise InputError(f"{op}: pads={flat} for {len(axes)} axes")
    pairs = [(0, 0)] * len(shape)
    for place, axis in enumerate(axes):
        pairs[axis] = (flat[place], flat[place + len(axes)])
    if any(x.layout[axis] == BATCH and pair != (0, 0) for axis, pair in enumerate(pairs)):
        raise Refused("it pads the batch axis")
    if mode == "constant":
        found = shaping.stretched(op.draft, x, [1] * len(shape), pairs)
        if found is None:
            raise InputError(f"{op}: pads={flat} leave nothing of shape {shape}")
        return found
    for axis, (low, high) in enumerate(pairs):
        if min(low, high) < 0 or (mode == "reflect" and max(low, high) >= shape[axis]):
            raise Refused(f"mode={mode} with padding {(low, high)} of size {shape[axis]}; expected 0 <= padding < size")
        if low or high:
            x = mixed_axis(op, x, axis, shape[axis] + low + high, _padding_matrix(low, high, mode))
    return x


def depth_to_space(op: Operation) -> Value:
    """`DepthToSpace`: channels become blocks of pixels."""
    batch, channels, height, width, block = _blocks(op)
    mode = op.text("mode", "DCR")
    if mode not in ("DCR", "CRD") or channels % block**2:
        raise InputError(f"{op}: mode={mode}, blocks of {block}, {channels} channels")
    depth = channels // block**2
    split = (batch, block, block, depth) if mode == "DCR" else (batch, depth, block, block)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    x = shaping.reshaped(op.draft, op.activation, (*split, height, width))
    x = Activation(x.entry, tuple(x.layout[axis] for axis in order))
    return shaping.reshaped(op.draft, x, (batch, depth, height * block, width * block))


def space_to_depth(op: Operation) -> Value:
    """`SpaceToDepth`: blocks of pixels become channels."""
    batch, channels, height, width, block = _blocks(op)
    if height % block or width % block:
        raise InputError(f"{op}: blocks of {block} of {height} x {width} pixels")
    high, wide = height // block, width // block
    x = shaping.reshaped(op.draft, op.activation, (batch, channels, high, block, wide, block))
    x = Activation(x.entry, tuple(x.layout[axis] for axis in (0, 3, 5, 1, 2, 4)))
    return shaping.reshaped(op.draft, x, (batch, channels * block**2, high, wide))


def _blocks(op: Operation) -> tuple[int, ...]:
    shape, block = op.draft.shape(op.activation), op.integer("blocksize", 0)
    if len(shape) != 4 or not 0 < block < 2**16:
        raise InputError(f"{op}: blocks of {block} of shape {shape}; expected an image")
    return (*shape, block)


def _padding_matrix(low: int, high: int, mode: str) -> Callable[[int], np.ndarray]:
    return lambda size: np.pad(np.eye(size), ((low, high), (0, 0)), mode=_PADDINGS[mode])


def integers_at(op: Operation, position: int, what: str) -> Shape:
    """A constant operand that lists integers."""
    value = op.constant_at(position, what).value
    if value.dtype.kind not in "iu" or value.ndim > 1 or value.size > 64:
        raise InputError(f"{op}: {what} has type {value.dtype} and shape {value.shape}; expected a list of integers")
    return tuple(max(-_LARGEST, min(int(v), _LARGEST)) for v in value.reshape(-1))
