"""Sums and maxima: over whole axes and over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.frontends.constants import Constant, scalar
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft, Sum, Value, WindowSum, renumbered
from slth_compile.graph import nodes as n
from slth_compile.graph.shapes import infer_shape

TRAIN_MODE = (
    "it mixes the samples of a batch: batch norm in train mode? Use inference mode "
    "(nnx: model.eval(); linen: use_running_average=True and bind without mutable collections)"
)


def reduction(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`reduce_sum` and `reduce_max` over axes of the sample."""
    (x,) = operands
    assert isinstance(x, Activation)
    name, removed = equation.primitive.name, tuple(equation.params["axes"])
    places = [x.layout[axis] for axis in removed]
    if BATCH in places:
        return draft.unknown(name, operands, tuple(equation.outvars[0].aval.shape), TRAIN_MODE)
    axes = tuple(sorted(place for place in places if place >= 0))
    rest = [place for axis, place in enumerate(x.layout) if axis not in removed]
    if not axes:
        return Activation(x.entry, tuple(rest))
    sizes = draft.entries[x.entry].shape
    kept = [axis for axis in range(len(sizes)) if axis not in axes]
    if name == "reduce_max":
        entry = draft.add(n.Maximum(inputs=(x.entry,), axes=axes))
    else:
        entry = draft.add(Sum(inputs=(x.entry,), axes=axes), tuple(sizes[axis] for axis in kept))
    return Activation(entry, tuple(renumbered(place, kept) for place in rest))


def window(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """Pooling: `reduce_window_max`, `reduce_window_sum`, `reduce_window` of a maximum or sum."""
    params, shape = equation.params, tuple(equation.outvars[0].aval.shape)
    kind, start, reason = _kind(equation, operands)
    x = operands[0]
    if not isinstance(x, Activation):
        return draft.unknown(equation.primitive.name, operands, shape, "a window operation with an activation as start")
    sizes = tuple(int(size) for size in params["window_dimensions"])
    strides = tuple(int(stride) for stride in params["window_strides"])
    padding = tuple((int(low), int(high)) for low, high in params["padding"])
    triples = list(zip(sizes, strides, padding, strict=True))
    reason = reason or _window_reason(x, params, triples)
    if reason:
        return draft.unknown(equation.primitive.name, operands, shape, reason)
    trivial = [axis for axis, triple in enumerate(triples) if triple == (1, 1, (0, 0))]
    channels = [axis for axis in trivial if x.layout[axis] >= 0]
    if not channels:
        # an image without channels: give it one
        x = Activation(
            draft.add(n.Reshape(inputs=(x.entry,), shape=(*draft.entries[x.entry].shape, 1))),
            (*x.layout, _rank(draft, x)),
        )
        channels = [len(x.layout) - 1]
    # the entry's own last axis where it can be, to need no transpose
    channel = max(channels, key=lambda axis: x.layout[axis])
    listed = [axis for axis, place in enumerate(x.layout) if axis != channel and (place >= 0 or axis not in trivial)]
    listed = [axis for axis in listed if x.layout[axis] != BATCH]
    entry = draft.arrange(x, [*listed, channel])
    windows = tuple(sizes[axis] for axis in listed)
    fields: dict[str, Any] = {
        "inputs": (entry,),
        "window": windows,
        "stride": tuple(strides[axis] for axis in listed),
        "padding": tuple(padding[axis] for axis in listed),
    }
    layout = [place if place == BATCH else UNIT for place in x.layout]
    for place, axis in enumerate([*listed, channel]):
        layout[axis] = place
    if kind == "sum":
        pooled = infer_shape(n.AveragePool(**fields), [draft.entries[entry].shape])
        entry = draft.add(WindowSum(**fields), pooled)
    else:
        entry = draft.add(n.MaxPool(**fields))
        if start == 0.0:
            entry = draft.add(n.Relu(inputs=(entry,)))
    if len(layout) > len(shape):
        # take the channel that was added off again
        entry = draft.add(n.Reshape(inputs=(entry,), shape=draft.entries[entry].shape[:-1]))
        layout = layout[:-1]
    return Activation(entry, tuple(layout))


def _kind(equation: Any, operands: Sequence[Value]) -> tuple[str, float, str]:
    """What is computed over the windows, from which start value, and why that is no pooling."""
    name = equation.primitive.name
    if name != "reduce_window":
        return ("max", -math.inf, "") if name == "reduce_window_max" else ("sum", 0.0, "")
    start = scalar(operands[1]) if len(operands) == 2 and isinstance(operands[1], Constant) else None
    inner = [eqn.primitive.name for eqn in equation.params["jaxpr"].eqns]
    if inner == ["max"] and start is not None and (start == 0.0 or start <= np.finfo(np.float32).min):
        return "max", start, ""
    if inner in (["add"], ["add_any"]) and start == 0.0:
        return "sum", 0.0, ""
    return "", 0.0, f"a window operation of {', '.join(inner) or 'nothing'} starting at {start}"


def _window_reason(x: Activation, params: dict[str, Any], triples: Sequence[tuple[int, int, tuple[int, int]]]) -> str:
    if any(d != 1 for d in (*params["window_dilation"], *params["base_dilation"])):
        return "pooling with a dilation"
    for place, triple in zip(x.layout, triples, strict=True):
        size, _, pads = triple
        if place == BATCH and triple != (1, 1, (0, 0)):
            return TRAIN_MODE
        if (min(pads) < 0 or max(pads) >= size) and triple != (1, 1, (0, 0)):
            return f"pooling with padding {pads} for a window of {size}; expected 0 <= padding < window"
    return ""


def _rank(draft: Draft, x: Activation) -> int:
    return len(draft.entries[x.entry].shape)
