"""Operators that pick and repeat elements: slice, split, gather, expand, tile."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends import shaping
from slth_compile.frontends.draft import BATCH, Value
from slth_compile.frontends.onnx.layout import with_rank
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape
from slth_compile.frontends.onnx.operators.mixing import mixed_axis, picked
from slth_compile.frontends.onnx.operators.shaping import axes_of, integers_at


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
        given = integers_at(op, 1, "the list of starts"), integers_at(op, 2, "the list of ends")
        axes = None if op.operand(3) is None else integers_at(op, 3, "the list of axes")
        steps = None if op.operand(4) is None else integers_at(op, 4, "the list of steps")
    axes = tuple(range(len(given[0]))) if axes is None else axes
    steps = (1,) * len(axes) if steps is None else steps
    if not len(axes) == len(given[0]) == len(given[1]) == len(steps) or 0 in steps:
        raise InputError(f"{op}: {len(given[0])} starts, {len(given[1])} ends, {len(axes)} axes, steps {steps}")
    starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
    for axis, start, end, step in zip(axes_of(op, axes, len(shape)), *given, steps, strict=True):
        starts[axis], limits[axis], strides[axis] = slice(start, end, step).indices(shape[axis])
        if step < 0 and limits[axis] < 0:
            # up to and with the first element, which `slice` can only say from the front
            limits[axis] = -shape[axis] - 1
    return starts, limits, strides


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
        sizes = integers_at(op, 1, "the list of sizes")
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
    old, new = op.draft.shape(x), integers_at(op, 1, "the shape")
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
    counts = integers_at(op, 1, "the list of repeats")
    if len(counts) != len(x.layout) or min(counts) < 1:
        raise InputError(f"{op}: repeats {counts} for {len(x.layout)} axes; expected positive numbers")
    for axis, count in enumerate(counts):
        if count > 1:
            out = op.draft.shape(x)[axis] * count
            x = mixed_axis(op, x, axis, out, lambda size, count=count: np.tile(np.eye(size), (count, 1)))
    return x


def _column(out: int, size: int) -> np.ndarray:
    return np.ones((out, size), np.float32)


def _one_axis(shape: Shape, axis: int, start: int, limit: int) -> tuple[list[int], list[int], list[int]]:
    starts, limits = [0] * len(shape), list(shape)
    starts[axis], limits[axis] = start, limit
    return starts, limits, [1] * len(shape)
