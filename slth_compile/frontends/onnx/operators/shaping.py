"""Operators that move elements: reshape, transpose, slice, pad, concatenate, and the ones that do nothing."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends import shaping
from slth_compile.frontends.constants import from_array
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Value
from slth_compile.frontends.onnx.layout import with_rank
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape
from slth_compile.frontends.onnx.operators.mixing import mixed_axis, picked

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
    new = _integers(op, 1, "the shape")
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
    given = op.integers("axes") or _integers(op, 1, "the list of axes")
    axes = op_axes(op, given, len(x.layout) + len(given))
    places = iter(x.layout)
    return Activation(x.entry, tuple(UNIT if i in axes else next(places) for i in range(len(x.layout) + len(given))))


def op_axes(op: Operation, given: Shape, rank: int) -> Shape:
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


def slices(op: Operation) -> Value:
    """`Slice` with constant ends."""
    x = op.activation
    shape = op.draft.shape(x)
    starts, limits, strides = bounds(op, shape)
    for axis, stride in enumerate(strides):
        if stride < 0:
            x = picked(op, x, axis, np.arange(shape[axis])[slice(starts[axis], limits[axis], stride)])
            starts[axis], limits[axis], strides[axis] = 0, op.draft.shape(x)[axis], 1
    shape = op.draft.shape(x)
    if any(x.layout[axis] == BATCH and cut for axis, cut in enumerate(_cuts(shape, starts, limits, strides))):
        raise Refused("it takes some samples of the batch; expected all of them")
    if any(start >= limit for start, limit in zip(starts, limits, strict=True)):
        raise InputError(f"{op}: an empty slice {starts} to {limits} of shape {shape}; expected a larger input")
    return shaping.sliced(op.draft, x, starts, limits, strides)


def _cuts(shape: Shape, *triple: list[int]) -> list[bool]:
    """For each axis, whether a slice leaves something out."""
    return [(start, limit, step) != (0, size, 1) for size, start, limit, step in zip(shape, *triple, strict=True)]


def bounds(op: Operation, shape: Shape) -> tuple[list[int], list[int], list[int]]:
    """Starts, limits and steps of a `Slice` for every axis, as `slice` takes them."""
    if op.opset < 10:
        given = op.integers("starts") or (), op.integers("ends") or ()
        axes, steps = op.integers("axes"), None
    else:
        given = _integers(op, 1, "the list of starts"), _integers(op, 2, "the list of ends")
        axes = None if op.operand(3) is None else _integers(op, 3, "the list of axes")
        steps = None if op.operand(4) is None else _integers(op, 4, "the list of steps")
    axes = tuple(range(len(given[0]))) if axes is None else axes
    steps = (1,) * len(axes) if steps is None else steps
    if not len(axes) == len(given[0]) == len(given[1]) == len(steps) or 0 in steps:
        raise InputError(f"{op}: {len(given[0])} starts, {len(given[1])} ends, {len(axes)} axes, steps {steps}")
    starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
    for axis, start, end, step in zip(op_axes(op, axes, len(shape)), *given, steps, strict=True):
        starts[axis], limits[axis], strides[axis] = slice(start, end, step).indices(shape[axis])
        if step < 0 and limits[axis] < 0:
            # up to and with the first element, which `slice` can only say from the front
            limits[axis] = -shape[axis] - 1
    return starts, limits, strides


def pad(op: Operation) -> Value:
    """`Pad` with zeros, where negative padding cuts, or with elements of the operand."""
    x = op.activation
    shape = op.draft.shape(x)
    mode = op.text("mode", "constant")
    if mode not in _PADDINGS:
        raise InputError(f"{op}: mode={mode} does not exist")
    flat = op.integers("pads") if op.opset < 11 else _integers(op, 1, "the list of paddings")
    value = op.number("value", 0.0) if op.opset < 11 else op.optional_at(2, "the padding value")
    if mode == "constant" and value is not None and np.any(np.asarray(value) != 0):
        raise Refused(f"padding with {float(np.reshape(value, -1)[0]):g}; expected zeros")
    axes = tuple(range(len(shape))) if op.operand(3) is None else op_axes(op, _integers(op, 3, "axes"), len(shape))
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


def split(op: Operation) -> list[Value]:
    """`Split` into consecutive slices along one axis."""
    x = op.activation
    shape, count = op.draft.shape(x), len(op.used)
    axis = op.axis(op.integer("axis", 0), len(shape))
    return [
        shaping.sliced(op.draft, x, *_one_axis(shape, axis, start, limit))
        for start, limit in split_places(op, shape[axis], count)
    ]


def split_places(op: Operation, size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of every part."""
    sizes = op.integers("split")
    if sizes is None and op.operand(1) is not None:
        sizes = _integers(op, 1, "the list of sizes")
    if sizes is None:
        part = -(-size // count)
        sizes = tuple(min(part, size - i * part) for i in range(count))
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 1:
        raise InputError(f"{op}: parts of {sizes} of an axis of size {size} for {count} results")
    ends = np.cumsum(sizes).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def gather(op: Operation) -> Value:
    """`Gather` of one place or a list of places of one axis."""
    x = op.activation
    shape = op.draft.shape(x)
    axis = op.axis(op.integer("axis", 0), len(shape))
    indices = op.constant_at(1, "the list of places").value
    if indices.ndim > 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise Refused(f"places of shape {indices.shape}; expected a list of them")
    if np.any(indices < -shape[axis]) or np.any(indices >= shape[axis]):
        raise InputError(f"{op}: a place outside an axis of size {shape[axis]}")
    places = np.where(indices < 0, indices + shape[axis], indices).reshape(-1).tolist()
    step = places[1] - places[0] if len(places) > 1 else 1
    if step < 1 or any(b - a != step for a, b in itertools.pairwise(places)):
        return picked(op, x, axis, np.array(places))
    starts, limits, strides = _one_axis(shape, axis, places[0], places[-1] + 1)
    strides[axis] = step
    y = shaping.sliced(op.draft, x, starts, limits, strides)
    return y if indices.ndim else shaping.squeezed(op.draft, y, (axis,))


def expand(op: Operation) -> Value:
    """`Expand`: axes of size one repeated."""
    x = op.activation
    old, new = op.draft.shape(x), _integers(op, 1, "the shape")
    try:
        shape = np.broadcast_shapes(old, new)
    except ValueError:
        raise InputError(f"{op}: shape {old} to {new}") from None
    x = with_rank(x, len(shape))
    for axis, size in enumerate(shape):
        if op.draft.shape(x)[axis] != size:
            x = mixed_axis(op, x, axis, size, functools.partial(_column, size))
    return x


def tile(op: Operation) -> Value:
    """`Tile`: whole axes repeated one after the other."""
    x = op.activation
    counts = _integers(op, 1, "the list of repeats")
    if len(counts) != len(x.layout) or min(counts) < 1:
        raise InputError(f"{op}: repeats {counts} for {len(x.layout)} axes; expected positive numbers")
    for axis, count in enumerate(counts):
        if count > 1:
            out = op.draft.shape(x)[axis] * count
            x = mixed_axis(op, x, axis, out, lambda size, count=count: np.tile(np.eye(size), (count, 1)))
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


def _column(out: int, size: int) -> np.ndarray:
    return np.ones((out, size), np.float32)


def _padding_matrix(low: int, high: int, mode: str) -> Callable[[int], np.ndarray]:
    return lambda size: np.pad(np.eye(size), ((low, high), (0, 0)), mode=_PADDINGS[mode])


def _integers(op: Operation, position: int, what: str) -> Shape:
    value = op.constant_at(position, what).value
    if value.dtype.kind not in "iu" or value.ndim > 1 or value.size > 64:
        raise InputError(f"{op}: {what} has type {value.dtype} and shape {value.shape}; expected a list of integers")
    return tuple(max(-_LARGEST, min(int(v), _LARGEST)) for v in value.reshape(-1))


def _one_axis(shape: Shape, axis: int, start: int, limit: int) -> tuple[list[int], list[int], list[int]]:
    starts, limits = [0] * len(shape), list(shape)
    starts[axis], limits[axis] = start, limit
    return starts, limits, [1] * len(shape)
