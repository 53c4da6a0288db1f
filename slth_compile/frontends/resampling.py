"""Elements repeated, picked and mixed along one axis by constants: broadcasts, gathers, tiles, interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.frontends.constants import Constant
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft, Value
from slth_compile.frontends.reductions import TRAIN_MODE
from slth_compile.graph import nodes as n


def mixed(draft: Draft, x: Activation, axis: int, matrix: np.ndarray, name: str = "") -> Activation:
    """`matrix @ x` along an axis of the traced array, which is no batch axis."""
    if x.layout[axis] == UNIT:
        x = draft.canonical(x)
    place = x.layout[axis]
    assert place >= 0
    return Activation(draft.add(n.Resample(inputs=(x.entry,), name=name, axis=place, matrix=matrix)), x.layout)


def product(
    draft: Draft, x: Activation, kernel: Constant, axes: Sequence[int], kernel_axes: Sequence[int]
) -> tuple[Activation, list[int]]:
    """A `dot_general` with a constant that is no parameter: a linear map of the axes that are summed.

    Args:
        draft: Where it goes.
        x: The activation.
        kernel: The constant.
        axes: Axes of `x` that are summed.
        kernel_axes: Those of the constant, in the same order.

    Returns:
        The result, its axes those of `x` that are left, in order, with the constant's own where the first of `axes`
        was; and the positions of the constant's own axes in it.
    """
    outer = [axis for axis in range(len(kernel.shape)) if axis not in kernel_axes]
    sizes = [kernel.shape[axis] for axis in outer]
    matrix = np.transpose(kernel.value, (*outer, *kernel_axes)).reshape(math.prod(sizes), -1)
    if len(axes) == len(outer) == 1:
        return mixed(draft, x, axes[0], matrix), [axes[0]]
    kept = [axis for axis in range(len(x.layout)) if axis not in axes]
    entry = draft.arrange(x, [axis for axis in [*kept, *axes] if x.layout[axis] != BATCH])
    rest = [draft.shape(x)[axis] for axis in kept if x.layout[axis] != BATCH]
    entry = draft.add(n.Reshape(inputs=(entry,), shape=(*rest, matrix.shape[1])))
    entry = draft.add(n.Resample(inputs=(entry,), axis=len(rest), matrix=matrix))
    entry = draft.add(n.Reshape(inputs=(entry,), shape=(*rest, *sizes)))
    places = iter(range(len(rest)))
    layout = [BATCH if x.layout[axis] == BATCH else next(places) for axis in kept]
    own = list(range(len(kept), len(kept) + len(outer)))
    return Activation(entry, (*layout, *range(len(rest), len(rest) + len(outer)))), own


def repeated(draft: Draft, x: Activation, shape: Sequence[int]) -> Activation:
    """Axes of size one repeated to a shape of the same rank."""
    for axis, size in enumerate(shape):
        if draft.shape(x)[axis] != size:
            x = mixed(draft, x, axis, np.ones((size, 1), np.float32))
    return x


def reverse(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`rev`: axes from their ends."""
    (x,) = operands
    assert isinstance(x, Activation)
    for axis in equation.params["dimensions"]:
        if x.layout[axis] == BATCH:
            return draft.unknown("rev", operands, draft.shape(x), TRAIN_MODE)
        size = draft.shape(x)[axis]
        x = x if size == 1 else mixed(draft, x, axis, np.eye(size, dtype=np.float32)[::-1])
    return x


def tile(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Whole axes repeated one after the other."""
    (x,) = operands
    assert isinstance(x, Activation)
    shape, reps = tuple(equation.outvars[0].aval.shape), tuple(int(r) for r in equation.params["reps"])
    if len(shape) != len(x.layout) or any(r > 1 and p == BATCH for r, p in zip(reps, x.layout, strict=True)):
        return draft.unknown("tile", operands, shape, "a repetition of the batch")
    for axis, count in enumerate(reps):
        if count > 1:
            x = mixed(draft, x, axis, np.tile(np.eye(draft.shape(x)[axis], dtype=np.float32), (count, 1)))
    return x


def gather(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`gather` of whole slices at constant places of one axis."""
    shape, numbers = tuple(equation.outvars[0].aval.shape), equation.params["dimension_numbers"]
    x, indices = operands
    reason = _gather_reason(draft, equation, operands)
    if reason:
        return draft.unknown("gather", operands, shape, reason)
    assert isinstance(x, Activation) and isinstance(indices, Constant)
    (axis,) = numbers.start_index_map
    size, places = draft.shape(x)[axis], indices.value.reshape(-1)
    if "CLIP" in str(equation.params["mode"]):
        places = np.clip(places, 0, size - 1)
    if np.any((places < 0) | (places >= size)):
        return draft.unknown("gather", operands, shape, f"places {places.min()} to {places.max()} of {size} elements")
    taken = mixed(draft, x, axis, np.eye(size, dtype=np.float32)[places])
    # The axis of the result that counts the indices has the place of the one they pick from.
    own = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    taken = taken if own else draft.squeezed(taken)
    rest = iter(place for i, place in enumerate(taken.layout) if i != axis)
    return Activation(taken.entry, tuple(taken.layout[axis] if i in own else next(rest) for i in range(len(shape))))


def _gather_reason(draft: Draft, equation: Any, operands: Sequence[Value]) -> str:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    x, indices = operands
    if not isinstance(x, Activation) or not isinstance(indices, Constant) or indices.random:
        return "elements picked at places that depend on the input"
    if numbers.operand_batching_dims or len(numbers.start_index_map) != 1:
        return "elements picked along several axes at a time; pick along one after the other"
    (axis,) = numbers.start_index_map
    whole = [size for i, size in enumerate(draft.shape(x)) if i != axis]
    taken = [size for i, size in enumerate(params["slice_sizes"]) if i != axis]
    if tuple(numbers.collapsed_slice_dims) != (axis,) or whole != taken:
        return "parts of slices picked; slice first"
    if len(indices.shape) > 2:
        return f"places in an array of shape {indices.shape[:-1]}; expected a list of them"
    if x.layout[axis] == BATCH:
        return f"it takes some samples of the batch; {TRAIN_MODE}"
    return ""
