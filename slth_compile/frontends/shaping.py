"""Operations that move elements: reshape, transpose, slice, pad, concatenate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from slth_compile.frontends import resampling
from slth_compile.frontends.constants import Constant, is_zero
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft, Layout, Value
from slth_compile.frontends.reductions import TRAIN_MODE
from slth_compile.graph import nodes as n


def transpose(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Another order of the axes: another layout, no node."""
    x = _activation(operands[0])
    return Activation(x.entry, tuple(x.layout[axis] for axis in equation.params["permutation"]))


def reshape(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Another shape for each sample's elements; the batch axis must stay whole."""
    x = _activation(operands[0])
    old, new = draft.shape(x), tuple(int(size) for size in equation.outvars[0].aval.shape)
    if equation.params.get("dimensions") is not None:
        return draft.unknown("reshape", operands, new, "a reshape in another order of axes")
    units = _unit_layout(x.layout, old, new)
    if units is not None:
        return Activation(x.entry, units)
    if BATCH not in x.layout:
        layout: Layout = tuple(range(len(new)))
    else:
        position = _batch_position(old, new, x.layout.index(BATCH))
        if position is None:
            return draft.unknown(
                "reshape", operands, new, f"it mixes samples, shape {old} to {new} at batch {draft.batch}"
            )
        layout = (*range(position), BATCH, *range(position, len(new) - 1))
    entry = draft.canonical(x).entry
    sizes = tuple(size for size, place in zip(new, layout, strict=True) if place != BATCH)
    return Activation(draft.add(n.Reshape(inputs=(entry,), shape=sizes)), layout)


def squeeze(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Axes of size one taken out."""
    x = _activation(operands[0])
    removed = tuple(equation.params["dimensions"])
    if any(x.layout[axis] >= 0 for axis in removed):
        x = draft.squeezed(x)
    return Activation(x.entry, tuple(place for axis, place in enumerate(x.layout) if axis not in removed))


def broadcast(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`broadcast_in_dim` of anything but the batch: axes of size one added, axes of size one repeated."""
    x = _activation(operands[0])
    shape = tuple(int(size) for size in equation.params["shape"])
    places = dict(zip(equation.params["broadcast_dimensions"], x.layout, strict=True))
    grown = [axis for axis, size in enumerate(shape) if size != 1 and axis not in places]
    old = draft.shape(x)
    grown += [axis for i, axis in enumerate(equation.params["broadcast_dimensions"]) if shape[axis] != old[i]]
    if grown and (BATCH not in x.layout or any(places.get(axis) == BATCH for axis in grown)):
        return draft.unknown("broadcast_in_dim", operands, shape, f"an activation of shape {old} broadcast to {shape}")
    thin = Activation(x.entry, tuple(places.get(axis, UNIT) for axis in range(len(shape))))
    return resampling.repeated(draft, thin, shape)


def slices(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`slice` with static bounds."""
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    return _slice(draft, operands, params["start_indices"], params["limit_indices"], strides)


def dynamic_slice(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`dynamic_slice` whose start does not depend on the input."""
    shape = tuple(equation.outvars[0].aval.shape)
    x, *indices = operands
    if not isinstance(x, Activation) or not all(isinstance(i, Constant) and not i.random for i in indices):
        return draft.unknown("dynamic_slice", operands, shape, "a slice whose place depends on the input")
    found = [int(i.value) for i in indices if isinstance(i, Constant)]
    starts = [max(0, min(i, a - b)) for i, a, b in zip(found, draft.shape(x), shape, strict=True)]
    limits = [start + size for start, size in zip(starts, shape, strict=True)]
    return _slice(draft, [x], starts, limits, (1,) * len(shape))


def split(draft: Draft, equation: Any, operands: Sequence[Value]) -> list[Value]:
    """Consecutive slices along one axis."""
    x = _activation(operands[0])
    axis, start, found = equation.params["axis"], 0, []
    for size in equation.params["sizes"]:
        starts, limits = [0] * len(x.layout), list(draft.shape(x))
        starts[axis], limits[axis] = start, start + int(size)
        found.append(_slice(draft, [x], starts, limits, (1,) * len(starts)))
        start += int(size)
    return found


def pad(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Zeros around and between elements; a negative width cuts elements off."""
    shape = tuple(equation.outvars[0].aval.shape)
    x, filling = operands
    config = [tuple(int(v) for v in triple) for triple in equation.params["padding_config"]]
    reason = ""
    if not isinstance(x, Activation) or not isinstance(filling, Constant) or not is_zero(filling):
        reason = "padding with anything but zeros"
    elif any(place == BATCH and any(triple) for place, triple in zip(x.layout, config, strict=True)):
        reason = "padding of the batch axis"
    if reason:
        return draft.unknown("pad", operands, shape, reason)
    pairs = [(low, high) for low, high, _ in config]
    found = stretched(draft, _activation(x), [inner + 1 for _, _, inner in config], pairs)
    return found or draft.unknown("pad", operands, shape, f"negative padding {tuple(config)} that leaves nothing")


def stretched(
    draft: Draft, x: Activation, factors: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Activation | None:
    """Zeros between neighbours, then elements cut off where the padding is negative, then zeros around.

    Args:
        draft: Where it goes.
        x: The activation.
        factors: For every axis, how far neighbours come to lie apart; 1 for the batch.
        padding: For every axis, (low, high); zeros for the batch.

    Returns:
        The result; None where nothing is left of an axis.
    """
    if any(factor > 1 and size > 1 for factor, size in zip(factors, draft.shape(x), strict=True)):
        own = [1] * len(draft.entries[x.entry].shape)
        for place, factor in zip(x.layout, factors, strict=True):
            if place >= 0:
                own[place] = factor
        x = Activation(draft.add(n.Dilate(inputs=(x.entry,), factors=tuple(own))), x.layout)
    sizes = draft.shape(x)
    starts = [max(0, -low) for low, _ in padding]
    limits = [size - max(0, -high) for size, (_, high) in zip(sizes, padding, strict=True)]
    if any(start >= limit for start, limit in zip(starts, limits, strict=True)):
        return None
    x = _slice(draft, [x], starts, limits, (1,) * len(sizes))
    return _pad(draft, x, [(max(0, low), max(0, high)) for low, high in padding])


def concatenate(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Activations side by side; constant zeros at the ends become padding."""
    shape = tuple(equation.outvars[0].aval.shape)
    axis = equation.params["dimension"]
    operands = [x for x in operands if _shape_of(draft, x)[axis] > 0]
    if any(isinstance(x, Constant) and (x.random or not is_zero(x)) for x in operands):
        return draft.unknown("concatenate", operands, shape, "a concatenation with a constant that is not zero")
    inner = [i for i, x in enumerate(operands) if isinstance(x, Activation)]
    if any(isinstance(x, Constant) for x in operands[inner[0] : inner[-1]]):
        return draft.unknown("concatenate", operands, shape, "zeros between activations")
    parts = [_activation(x) for x in operands[inner[0] : inner[-1] + 1]]
    first = parts[0]
    if first.layout[axis] == UNIT or any(part.layout != first.layout for part in parts):
        parts = [draft.canonical(part) for part in parts]
        first = parts[0]
    if len(parts) > 1 and any(part.layout[axis] == BATCH for part in parts):
        return draft.unknown("concatenate", operands, shape, "a concatenation along the batch axis")
    if any(part.layout != first.layout for part in parts):
        return draft.unknown("concatenate", operands, shape, "an activation that has lost its batch axis")
    joined = first
    if len(parts) > 1:
        node = n.Concatenate(inputs=tuple(part.entry for part in parts), axis=first.layout[axis])
        joined = Activation(draft.add(node), first.layout)
    ends = (
        sum(x.shape[axis] for x in operands[: inner[0]] if isinstance(x, Constant)),
        sum(x.shape[axis] for x in operands[inner[-1] + 1 :] if isinstance(x, Constant)),
    )
    return _pad(draft, joined, [ends if i == axis else (0, 0) for i in range(len(shape))])


def stack(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Activations along a new axis."""
    shape, axis = tuple(equation.outvars[0].aval.shape), equation.params["axis"]
    if not all(isinstance(x, Activation) for x in operands):
        return draft.unknown("stack", operands, shape, "a stack with a constant")
    return stacked(draft, operands, shape, axis)


def stacked(draft: Draft, operands: Sequence[Value], shape: tuple[int, ...], axis: int) -> Activation:
    """Activations along a new axis, of the given shape."""
    parts = [Activation(x.entry, (*x.layout[:axis], UNIT, *x.layout[axis:])) for x in map(_activation, operands)]
    parts = [draft.canonical(part) for part in parts]
    if any(part.layout != parts[0].layout for part in parts):
        return draft.unknown("stack", operands, shape, "an activation that has lost its batch axis")
    node = n.Concatenate(inputs=tuple(part.entry for part in parts), axis=parts[0].layout[axis])
    return Activation(draft.add(node), parts[0].layout)


def row(draft: Draft, x: Activation, i: int) -> Activation:
    """The elements at place `i` of the first axis, which is no batch axis and gone then."""
    sizes = draft.shape(x)
    cut = _slice(draft, [x], [i, *(0 for _ in sizes[1:])], [i + 1, *sizes[1:]], (1,) * len(sizes))
    cut = draft.squeezed(cut) if cut.layout[0] >= 0 else cut
    return Activation(cut.entry, cut.layout[1:])


def _slice(
    draft: Draft, operands: Sequence[Value], starts: Sequence[int], limits: Sequence[int], strides: Sequence[int]
) -> Activation:
    x = _activation(operands[0])
    sizes = draft.shape(x)
    rank = len(draft.entries[x.entry].shape)
    start, limit, stride = [0] * rank, [0] * rank, [1] * rank
    for axis, place in enumerate(x.layout):
        triple = (int(starts[axis]), int(limits[axis]), int(strides[axis]))
        if place >= 0:
            start[place], limit[place], stride[place] = triple
        elif place == BATCH and triple != (0, sizes[axis], 1):
            out = tuple(-(-(b - a) // s) for a, b, s in zip(starts, limits, strides, strict=True))
            return draft.unknown("slice", operands, out, f"it takes some samples of the batch; {TRAIN_MODE}")
    if (tuple(start), tuple(limit), set(stride)) == ((0,) * rank, draft.entries[x.entry].shape, {1}):
        return x
    node = n.Slice(inputs=(x.entry,), start=tuple(start), limit=tuple(limit), stride=tuple(stride))
    return Activation(draft.add(node), x.layout)


def _pad(draft: Draft, x: Activation, padding: Sequence[tuple[int, int]]) -> Activation:
    if not any(sum(pair) for pair in padding):
        return x
    if any(place == UNIT and sum(pair) for place, pair in zip(x.layout, padding, strict=True)):
        x = draft.canonical(x)
    pairs = [(0, 0)] * len(draft.entries[x.entry].shape)
    for place, pair in zip(x.layout, padding, strict=True):
        if place >= 0:
            pairs[place] = pair
    return Activation(draft.add(n.Pad(inputs=(x.entry,), padding=tuple(pairs))), x.layout)


def _unit_layout(layout: Layout, old: tuple[int, ...], new: tuple[int, ...]) -> Layout | None:
    """The layout after a reshape that only adds or removes axes of size one the entry does not have."""
    kept = [(size, place) for size, place in zip(old, layout, strict=True) if place != UNIT]
    if [size for size in new if size != 1] != [size for size, _ in kept]:
        return None
    places = iter(place for _, place in kept)
    return tuple(UNIT if size == 1 else next(places) for size in new)


def _batch_position(old: tuple[int, ...], new: tuple[int, ...], batch: int) -> int | None:
    before = math.prod(old[:batch])
    found = [i for i, size in enumerate(new) if size == old[batch] and math.prod(new[:i]) == before]
    return found[0] if found else None


def _shape_of(draft: Draft, x: Value) -> tuple[int, ...]:
    return draft.shape(x) if isinstance(x, Activation) else x.shape


def _activation(x: Value) -> Activation:
    assert isinstance(x, Activation)
    return x
