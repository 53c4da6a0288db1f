"""Convolutions and products by a parameter: the layers of the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.frontends import resampling
from slth_compile.frontends.constants import Constant
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft, Layout, Value
from slth_compile.frontends.matrix_product import matrix_product
from slth_compile.frontends.shaping import stretched
from slth_compile.graph import nodes as n


def convolution(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`conv_general_dilated` of an activation with a parameter, any dimension numbers."""
    params, shape = equation.params, tuple(equation.outvars[0].aval.shape)
    x, kernel = operands
    reason = _weights_reason(x, kernel, "convolution") or _convolution_reason(draft, params, x)
    if reason:
        return draft.unknown("conv_general_dilated", operands, shape, reason)
    assert isinstance(x, Activation) and isinstance(kernel, Constant)
    numbers = params["dimension_numbers"]
    batch, channel, *spatial = numbers.lhs_spec
    if x.layout[batch] >= 0:
        x = draft.squeezed(x)
    entry = draft.arrange(x, [*spatial, channel])
    padding = [(int(low), int(high)) for low, high in params["padding"]]
    if any(d != 1 for d in params["lhs_dilation"]) or min(map(min, padding), default=0) < 0:
        # a transposed convolution: zeros between neighbours, what negative padding cuts off, then a convolution
        rank = len(draft.entries[entry].shape)
        cut = [(min(low, 0), min(high, 0)) for low, high in padding]
        found = stretched(
            draft, Activation(entry, tuple(range(rank))), [*map(int, params["lhs_dilation"]), 1], [*cut, (0, 0)]
        )
        if found is None:
            reason = f"negative padding {tuple(padding)} that leaves nothing"
            return draft.unknown("conv_general_dilated", operands, shape, reason)
        entry, padding = found.entry, [(max(low, 0), max(high, 0)) for low, high in padding]
    out_channel, in_channel, *taps = numbers.rhs_spec
    node = n.Convolution(
        inputs=(entry,),
        name=layer_name(kernel, draft),
        kernel=np.transpose(kernel.value, (*taps, in_channel, out_channel)),
        stride=tuple(int(s) for s in params["window_strides"]),
        padding=tuple(padding),
        dilation=tuple(int(d) for d in params["rhs_dilation"]),
        groups=int(params["feature_group_count"]),
    )
    layout = [0] * len(shape)
    layout[numbers.out_spec[0]] = x.layout[batch]
    layout[numbers.out_spec[1]] = len(spatial)
    for place, axis in enumerate(numbers.out_spec[2:]):
        layout[axis] = place
    return Activation(draft.add(node, leaves=kernel.leaves), tuple(layout))


def product(draft: Draft, equation: Any, operands: Sequence[Value]) -> Activation:
    """`dot_general` of an activation with a parameter, contracted on any axes, with another constant (a resampling), or
    with another activation.
    """
    params, shape = equation.params, tuple(equation.outvars[0].aval.shape)
    contracted, batched = params["dimension_numbers"]
    if all(isinstance(operand, Activation) for operand in operands):
        return matrix_product(draft, [x for x in operands if isinstance(x, Activation)], contracted, batched)
    position = next(i for i, operand in enumerate(operands) if isinstance(operand, Activation))
    x, kernel = operands[position], operands[1 - position]
    fixed = isinstance(kernel, Constant) and not kernel.leaves and not kernel.random
    reason = "" if fixed else _weights_reason(x, kernel, "product")
    if not reason and batched[0]:
        reason = "a product with batch dimensions has another kernel at every position: not a dense layer"
    assert isinstance(x, Activation)
    axes, kernel_axes = contracted[position], contracted[1 - position]
    if not reason and any(x.layout[axis] == BATCH for axis in axes):
        reason = "it sums over the batch axis"
    if reason:
        return draft.unknown("dot_general", operands, shape, reason)
    assert isinstance(kernel, Constant)
    if fixed:
        return _resampled(draft, x, kernel, axes, kernel_axes, position == 0)
    free = [axis for axis in range(len(x.layout)) if axis not in axes]
    kept = [axis for axis in free if x.layout[axis] >= 0]
    entry = draft.arrange(x, [*kept, *axes])
    sizes = [draft.shape(x)[axis] for axis in kept]
    channels = math.prod(draft.shape(x)[axis] for axis in axes)
    entry = draft.add(n.Reshape(inputs=(entry,), shape=(*sizes, channels)))
    outer = [axis for axis in range(len(kernel.shape)) if axis not in kernel_axes]
    outer_sizes = [kernel.shape[axis] for axis in outer]
    matrix = np.transpose(kernel.value, (*kernel_axes, *outer)).reshape(channels, math.prod(outer_sizes))
    dense = draft.add(n.Dense(inputs=(entry,), name=layer_name(kernel, draft), kernel=matrix), leaves=kernel.leaves)
    entry = draft.add(n.Reshape(inputs=(dense,), shape=(*sizes, *outer_sizes)))
    layout = _product_layout(x, free, len(outer), position == 0)
    return Activation(entry, layout)


def _resampled(
    draft: Draft, x: Activation, kernel: Constant, axes: Sequence[int], kernel_axes: Sequence[int], first: bool
) -> Activation:
    """A product with a constant that is no parameter, its axes as `dot_general` orders them."""
    found, own = resampling.product(draft, x, kernel, axes, kernel_axes)
    outer = [found.layout[axis] for axis in own]
    rest = [place for axis, place in enumerate(found.layout) if axis not in own]
    return Activation(found.entry, tuple([*rest, *outer] if first else [*outer, *rest]))


def layer_name(kernel: Constant, draft: Draft) -> str:
    """The name of the layer a kernel belongs to: its parameter's path, or the scope, or a number."""
    paths = sorted(leaf for leaf in kernel.leaves if not leaf.startswith("<"))
    if paths:
        path = next((p for p in paths if p.rpartition("/")[2] in ("kernel", "weight", "w")), paths[0])
        path = path.removeprefix("params/")
        return path.rpartition("/")[0] or path
    return draft.site.scope or f"layer{sum(isinstance(e.node, n.Convolution | n.Dense) for e in draft.entries)}"


def _product_layout(x: Activation, free: Sequence[int], outer: int, first: bool) -> Layout:
    places, count = [], 0
    for axis in free:
        places.append(count if x.layout[axis] >= 0 else x.layout[axis])
        count += x.layout[axis] >= 0
    channels = list(range(count, count + outer))
    return tuple([*places, *channels] if first else [*channels, *places])


def _weights_reason(x: Value, kernel: Value, what: str) -> str:
    if isinstance(kernel, Activation):
        return f"a {what} of two activations" if isinstance(x, Activation) else f"a {what} with the input as kernel"
    if kernel.random:
        return f"a {what} by random bits; in train mode? call the model in inference mode"
    if not kernel.leaves:
        return f"a {what} by a constant that is no parameter of the model; pass it as a parameter"
    return ""


def _convolution_reason(draft: Draft, params: dict[str, Any], x: Value) -> str:
    assert isinstance(x, Activation)
    batch, channel, *spatial = params["dimension_numbers"].lhs_spec
    if params["batch_group_count"] != 1:
        return f"batch_group_count={params['batch_group_count']} mixes samples"
    if len(spatial) > 3:
        return f"{len(spatial)} spatial axes; up to three are supported"
    if any(x.layout[axis] == BATCH for axis in (channel, *spatial)):
        return "it convolves along the batch axis"
    if x.layout[batch] not in (BATCH, UNIT) and draft.shape(x)[batch] != 1:
        return f"its batch axis is an axis of the sample, of size {draft.shape(x)[batch]}"
    return ""
