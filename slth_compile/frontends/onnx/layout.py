"""ONNX counts channels first, the graph channels last: which axis of a value is which.

Every value is an entry of the draft, channels last, seen through a layout: for each of its ONNX axes the entry's axis.
Convolutions and pools leave their entry as (spatial..., channels) and only say so in the layout, so elementwise
operations between them move nothing. What depends on the order of elements, such as a flatten, transposes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft, Layout
from slth_compile.frontends.onnx.operation import Refused, Shape

_CHANNELS_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool",
    "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "PRelu", "Resize", "SpaceToDepth", "Upsample",
}  # fmt: skip
_KEEPS_AXES = {
    "Add", "Cast", "Clip", "Div", "Dropout", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Pad", "Relu",
    "Sigmoid", "Slice", "Sub", "Tanh",
}  # fmt: skip


def is_channels_first(nodes: Sequence[Any], name: str, rank: int) -> bool:
    """Whether a model's input has its channels before its spatial axes.

    The first operation that treats axes differently decides: a convolution, a pool or a batch norm has channels first;
    a transposition has them first where it moves axis 1 to the end; a product has none. Where nothing decides, images
    and volumes (four or five axes with the batch) have channels first.

    Args:
        nodes: The file's nodes in order.
        name: The input.
        rank: Number of its axes, the batch axis included.
    """
    if rank < 3:
        return False
    names = {name}
    for node in nodes:
        if not names.intersection(node.input):
            continue
        if node.op_type in _CHANNELS_FIRST:
            return True
        if node.op_type == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
            return len(order) == rank and order[-1] == 1
        if node.op_type in _KEEPS_AXES:
            names.update(node.output)
        elif node.op_type not in ("Shape", "Size"):
            return rank in (4, 5) and node.op_type not in ("Gemm", "MatMul")
    return rank in (4, 5)


def channels_last_layout(rank: int) -> Layout:
    """Batch, channels and spatial axes as an entry (spatial..., channels) has them."""
    return (BATCH, rank - 2, *range(rank - 2))


def channels_last(shape: Shape) -> Shape:
    """(C, spatial...) -> (spatial..., C)."""
    return (*shape[1:], *shape[:1])


def moved_last(draft: Draft, x: Activation, axis: int) -> Activation:
    """The same array from an entry whose last axis is the array's `axis`; the other axes keep their order."""
    if x.layout[axis] == len(draft.entries[x.entry].shape) - 1:
        return x
    others = [other for other, place in enumerate(x.layout) if place >= 0 and other != axis]
    others.sort(key=lambda other: x.layout[other])
    return arranged(draft, x, [*others, axis])


def arranged(draft: Draft, x: Activation, axes: Sequence[int]) -> Activation:
    """The same array from an entry whose axes are the array's `axes`, in that order.

    Raises:
        Refused: One of them is the batch axis, or the batch is none of the others.
    """
    if any(x.layout[axis] == BATCH for axis in axes):
        raise Refused("it goes along the batch axis; expected axes of the sample")
    if sum(x.layout[axis] >= 0 for axis in axes) != len(draft.entries[x.entry].shape):
        raise Refused("in place of the batch axis it has an axis of the sample")
    entry = draft.arrange(x, axes)
    layout = [place if place == BATCH else UNIT for place in x.layout]
    for place, axis in enumerate(axes):
        layout[axis] = place
    return Activation(entry, tuple(layout))


def with_rank(x: Activation, rank: int) -> Activation:
    """The array with axes of size one before its own, as broadcasting adds them."""
    return Activation(x.entry, (*(UNIT,) * (rank - len(x.layout)), *x.layout))
