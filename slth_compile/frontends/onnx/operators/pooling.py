"""Pools over windows, and means, sums and maxima over whole axes."""

from __future__ import annotations

import math

from slth_compile.errors import InputError
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Sum, Value, renumbered
from slth_compile.frontends.onnx.layout import arranged
from slth_compile.frontends.onnx.operation import Operation, Refused
from slth_compile.frontends.onnx.operators.windows import Windows, windows_of
from slth_compile.graph import nodes as n


def max_pool(op: Operation) -> Value:
    """`MaxPool`; padding never wins."""
    if any(op.used[1:]):
        raise Refused("the places of its maxima are read; expected its first result alone")
    x, windows = _pooled(op)
    padding = tuple((low, high + more) for (low, high), more in zip(windows.padding, windows.overhang, strict=True))
    node = n.MaxPool(inputs=(x.entry,), window=windows.taps, stride=windows.stride, padding=padding)
    return Activation(op.draft.add(node), x.layout)


def average_pool(op: Operation) -> Value:
    """`AveragePool`; what a last window reaches beyond the padding is never counted."""
    x, windows = _pooled(op)
    counted = op.flag("count_include_pad")
    entry, padding = x.entry, windows.padding
    if any(windows.overhang):
        if counted:
            entry = op.draft.add(n.Pad(inputs=(entry,), padding=(*padding, (0, 0))))
            padding, counted = ((0, 0),) * len(padding), False
        padding = tuple((low, high + more) for (low, high), more in zip(padding, windows.overhang, strict=True))
    node = n.AveragePool(
        inputs=(entry,),
        window=windows.taps,
        stride=windows.stride,
        padding=padding,
        count_padding=counted or not any(high + low for low, high in padding),
    )
    return Activation(op.draft.add(node), x.layout)


def global_pool(op: Operation) -> Value:
    """`GlobalAveragePool` and `GlobalMaxPool`, whose spatial axes are left with size one."""
    axes = tuple(range(2, len(op.activation.layout)))
    return _reduced(op, "max" if op.kind == "GlobalMaxPool" else "mean", axes, True)


def reduction(op: Operation) -> Value:
    """`ReduceMean`, `ReduceSum` and `ReduceMax` over axes of the sample."""
    x, name = op.activation, {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max"}[op.kind]
    axes = op.axes(len(x.layout), 1)
    if not axes:
        if op.flag("noop_with_empty_axes"):
            return x
        axes = tuple(range(len(x.layout)))
    return _reduced(op, name, axes, op.flag("keepdims", True))


def _pooled(op: Operation) -> tuple[Activation, Windows]:
    x, taps = op.activation, op.integers("kernel_shape")
    rank = len(x.layout) - 2
    if not 1 <= rank <= 3:
        raise Refused(f"{rank} spatial axes; expected one to three")
    if taps is None or len(taps) != rank or min(taps) < 1:
        raise InputError(f"{op}: kernel_shape={taps}; expected {rank} positive numbers")
    windows = windows_of(op, op.draft.shape(x)[2:], taps)
    if set(windows.dilation) != {1}:
        op.refuse_attribute("dilations", windows.dilation, "1 everywhere")
    for tap, pair, more in zip(taps, windows.padding, windows.overhang, strict=True):
        low, high = pair[0], pair[1] + more
        if min(pair) < 0 or max(low, high) >= tap:
            raise Refused(f"padding {(low, high)} for a window of {tap}; expected 0 <= padding < window")
    return arranged(op.draft, x, (*range(2, rank + 2), 1)), windows


def _reduced(op: Operation, name: str, axes: tuple[int, ...], keep: bool) -> Activation:
    x = op.activation
    if any(x.layout[axis] == BATCH for axis in axes):
        raise Refused("it goes over the batch axis; expected axes of the sample")
    places = tuple(sorted(x.layout[axis] for axis in axes if x.layout[axis] >= 0))
    sizes = op.draft.entries[x.entry].shape
    rest = [place for place in range(len(sizes)) if place not in places]
    entry = x.entry
    if places and name == "max":
        entry = op.draft.add(n.Maximum(inputs=(entry,), axes=places))
    elif places and name == "mean":
        entry = op.draft.add(n.Mean(inputs=(entry,), axes=places))
    elif places and math.prod(sizes[place] for place in places) > 1:
        entry = op.draft.add(Sum(inputs=(entry,), axes=places), tuple(sizes[place] for place in rest))
    elif places:
        entry = op.draft.add(n.Reshape(inputs=(entry,), shape=tuple(sizes[place] for place in rest)))
    layout = [UNIT if axis in axes else renumbered(place, rest) for axis, place in enumerate(x.layout)]
    return Activation(entry, tuple(place for axis, place in enumerate(layout) if keep or axis not in axes))
