"""Convolutions, products by a constant and batch norms: the layers of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.constants import Constant
from slth_compile.frontends.draft import BATCH, UNIT, Activation, Value
from slth_compile.frontends.matrix_product import matrix_product
from slth_compile.frontends.onnx.layout import arranged, moved_last, with_rank
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape
from slth_compile.frontends.onnx.operators.arithmetic import combined
from slth_compile.frontends.onnx.operators.windows import positive, windows_of
from slth_compile.frontends.resampling import repeated
from slth_compile.frontends.shaping import squeezed, stretched
from slth_compile.graph import nodes as n

_SUFFIXES = ("weight", "kernel", "w", "W")


def convolution(op: Operation) -> Value:
    """`Conv`: cross-correlation, channels first in the file."""
    x, kernel = op.activation, op.constant_at(1, "the kernel")
    rank, groups = len(x.layout) - 2, op.integer("group", 1)
    if not 1 <= rank <= 3:
        raise Refused(f"{rank} spatial axes; expected one to three")
    weights = _matrix(op, kernel, rank + 2)
    declared = op.integers("kernel_shape")
    if declared is not None and declared != weights.shape[2:]:
        raise InputError(f"{op}: kernel_shape={declared}, the kernel has shape {weights.shape}")
    if groups < 1:
        raise InputError(f"{op}: group={groups}; expected at least 1")
    spatial = tuple(range(2, rank + 2))
    sizes = op.draft.shape(x)[2:]
    windows = windows_of(op, sizes, weights.shape[2:])
    fields: dict[str, Any] = {
        "kernel": np.transpose(weights, (*spatial, 1, 0)),
        "bias": _bias(op, 2, weights.shape[0]),
        "stride": windows.stride,
        "dilation": windows.dilation,
        "groups": groups,
    }
    return _convolved(op, x, (1,) * rank, windows.padding, fields)


def transposed_convolution(op: Operation) -> Value:
    """`ConvTranspose`: zeros between neighbours, then a convolution with the kernel from its ends.

    An input of `s` elements has `(s - 1) * stride + output_padding + span - sum(pads)` results along an axis, a kernel
    of `taps` elements spans `(taps - 1) * dilation + 1`.
    """
    x, kernel = op.activation, op.constant_at(1, "the kernel")
    rank, groups = len(x.layout) - 2, op.integer("group", 1)
    if not 1 <= rank <= 3:
        raise Refused(f"{rank} spatial axes; expected one to three")
    weights = _matrix(op, kernel, rank + 2)
    taps, channels = weights.shape[2:], weights.shape[0]
    if groups < 1 or channels % groups or channels != op.draft.shape(x)[1]:
        found = op.draft.shape(x)[1]
        raise InputError(f"{op}: group={groups}, a kernel of shape {weights.shape}, an operand with {found} channels")
    stride, dilation = positive(op, "strides", rank), positive(op, "dilations", rank)
    spans = [(tap - 1) * step + 1 for tap, step in zip(taps, dilation, strict=True)]
    more = op.integers("output_padding") or (0,) * rank
    padding = _transposed_padding(op, op.draft.shape(x)[2:], spans, stride, more)
    grouped = weights[(..., *(slice(None, None, -1),) * rank)].reshape(groups, channels // groups, -1, *taps)
    moved = np.transpose(grouped, (*range(3, rank + 3), 1, 0, 2))
    fields: dict[str, Any] = {
        "kernel": moved.reshape(*taps, channels // groups, -1),
        "bias": _bias(op, 2, weights.shape[1] * groups),
        "stride": (1,) * rank,
        "dilation": dilation,
        "groups": groups,
    }
    around = [(s - 1 - low, s - 1 - high + m) for s, (low, high), m in zip(spans, padding, more, strict=True)]
    return _convolved(op, x, stride, around, fields)


def general_product(op: Operation) -> Value:
    """`Gemm`: `alpha * A @ B + beta * C`; alpha and beta are multiplied in, exactly, in float64."""
    if not isinstance(op.operand(0), Activation):
        raise Refused("its first operand is a constant; expected the activation there")
    x, weights = op.activation, _matrix(op, op.constant_at(1, "the matrix B"), 2)
    if len(x.layout) != 2:
        raise InputError(f"{op}: an operand with {len(x.layout)} axes; expected 2")
    if op.flag("transA"):
        raise Refused("transA=1 on an activation; expected 0")
    weights = weights.T if op.flag("transB") else weights
    alpha, beta = op.number("alpha", 1.0), op.number("beta", 1.0)
    added = op.operand(2)
    bias, later = None, None
    if isinstance(added, Constant) and beta != 0:
        value = added.value
        if value.size == value.shape[-1] if value.ndim else True:
            bias = np.broadcast_to(_scaled(value.reshape(-1), beta), weights.shape[1:])
        else:
            raise Refused(f"C has shape {value.shape}; expected one number a column")
    elif added is not None and beta != 0:
        if beta != 1:
            op.refuse_attribute("beta", beta, "1 where C is an activation")
        later = added
    y = _dense(op, x, 1, _scaled(weights, alpha), bias, 1)
    return y if later is None else combined(op, "add", (y, later))


def product(op: Operation) -> Value:
    """`MatMul` of an activation with a constant matrix on either side, or with another activation."""
    first, second = op.operand(0), op.operand(1)
    if isinstance(first, Activation) and isinstance(second, Activation):
        return _product_of_two(op, first, second)
    position = 1 if isinstance(first, Activation) else 0
    x, kernel = op.activation_at(1 - position), op.constant_at(position, "one operand")
    weights, rank = kernel.value, len(x.layout)
    if weights.ndim > 2:
        if set(weights.shape[:-2]) != {1} or weights.ndim > rank:
            raise Refused(f"a constant of shape {weights.shape}; expected a matrix")
        weights = weights.reshape(weights.shape[-2:])
    vector = weights.ndim == 1
    if position == 0:
        weights = weights.reshape(1, -1).T if vector else weights.T
    elif vector:
        weights = weights.reshape(-1, 1)
    axis = rank - 1 if position == 1 or rank == 1 else rank - 2
    y = _dense(op, x, axis, _floating(op, weights), None, position)
    return squeezed(op.draft, y, (axis,)) if vector else y


def batch_norm(op: Operation) -> Value:
    """`BatchNormalization` in inference, with its raw statistics."""
    if op.flag("training_mode"):
        op.refuse_attribute("training_mode", 1, "0, export the model in inference mode")
    if not op.flag("spatial", True):
        op.refuse_attribute("spatial", 0, "1, one statistic a channel")
    if any(op.used[1:]):
        raise Refused("more than one of its results is read, as in training; expected the first alone")
    x = op.activation
    if len(x.layout) < 2:
        raise InputError(f"{op}: an operand with {len(x.layout)} axes; expected a batch and a channel axis")
    x = moved_last(op.draft, x, 1)
    names = ("scale", "bias", "mean", "variance")
    fields = {name: _floating(op, op.constant_at(i + 1, f"the {name}").value) for i, name in enumerate(names)}
    node = n.BatchNorm(inputs=(x.entry,), name=op.name, epsilon=op.number("epsilon", 1e-5), **fields)
    return Activation(op.draft.add(node, leaves=_leaves(op)), x.layout)


def _transposed_padding(
    op: Operation, sizes: Shape, spans: Sequence[int], stride: Shape, more: Shape
) -> list[tuple[int, int]]:
    """What a transposed convolution cuts off, (low, high) for every axis."""
    rank, mode, shape = len(sizes), op.text("auto_pad", "NOTSET"), op.integers("output_shape")
    if len(more) != rank or min(more) < 0 or (shape is not None and len(shape) not in (rank, rank + 2)):
        raise InputError(f"{op}: output_padding={more}, output_shape={shape}; expected {rank} numbers each")
    if shape is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        shape = tuple(size * step for size, step in zip(sizes, stride, strict=True))
    if shape is not None:
        whole = [(size - 1) * step + s + m for size, step, s, m in zip(sizes, stride, spans, more, strict=True)]
        totals = [a - b for a, b in zip(whole, shape[-rank:], strict=True)]
        if min(totals) < 0:
            raise Refused(f"output_shape={shape}; expected at most {tuple(whole)}")
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if mode == "SAME_UPPER" else [(b, a) for a, b in halves]
    if mode not in ("NOTSET", "VALID"):
        raise InputError(f"{op}: auto_pad={mode}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    flat = (op.integers("pads") if mode == "NOTSET" else None) or (0,) * (2 * rank)
    if len(flat) != 2 * rank:
        raise InputError(f"{op}: pads={flat}; expected {2 * rank} numbers")
    return list(zip(flat[:rank], flat[rank:], strict=True))


def _convolved(
    op: Operation, x: Activation, factors: Shape, padding: Sequence[tuple[int, int]], fields: dict[str, Any]
) -> Activation:
    """The convolution of an input spread out by `factors`; negative padding cuts elements off first."""
    rank = len(factors)
    x = arranged(op.draft, x, (*range(2, rank + 2), 1))
    cut = [(min(low, 0), min(high, 0)) for low, high in padding]
    inner = stretched(op.draft, Activation(x.entry, tuple(range(rank + 1))), (*factors, 1), [*cut, (0, 0)])
    if inner is None:
        raise InputError(f"{op}: padding {tuple(padding)} leaves nothing of its operand")
    around = tuple((max(low, 0), max(high, 0)) for low, high in padding)
    node = n.Convolution(inputs=(inner.entry,), name=_layer_name(op, 1), padding=around, **fields)
    return Activation(op.draft.add(node, leaves=_leaves(op)), x.layout)


def _product_of_two(op: Operation, x: Activation, y: Activation) -> Activation:
    """The product of two activations, as `numpy.matmul`: leading axes are broadcast, a vector is a row or a column."""
    row, column = len(x.layout) == 1, len(y.layout) == 1
    x = Activation(x.entry, (UNIT, *x.layout)) if row else x
    y = Activation(y.entry, (*y.layout, UNIT)) if column else y
    rank = max(len(x.layout), len(y.layout))
    pair = with_rank(x, rank), with_rank(y, rank)
    shapes = [op.draft.shape(v) for v in pair]
    if shapes[0][-1] != shapes[1][-2]:
        raise InputError(f"{op}: a product of activations of shapes {shapes[0]} and {shapes[1]}")
    leading = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
    # samples are paired, never repeated
    samples = [any(v.layout[axis] == BATCH for v in pair) for axis in range(rank)]
    full = [
        [size if samples[axis] or axis >= rank - 2 else leading[axis] for axis, size in enumerate(shape)]
        for shape in shapes
    ]
    repeats = [repeated(op.draft, v, shape) for v, shape in zip(pair, full, strict=True)]
    outer = tuple(range(rank - 2))
    found = matrix_product(op.draft, repeats, ((rank - 1,), (rank - 2,)), (outer, outer))
    return squeezed(op.draft, found, [axis for axis, gone in ((rank - 2, row), (rank - 1, column)) if gone])


def _dense(
    op: Operation, x: Activation, axis: int, weights: np.ndarray, bias: np.ndarray | None, kernel: int
) -> Activation:
    """The product along one axis, which keeps its place."""
    x = moved_last(op.draft, x, axis)
    node = n.Dense(inputs=(x.entry,), name=_layer_name(op, kernel), kernel=weights, bias=bias)
    return Activation(op.draft.add(node, leaves=_leaves(op)), x.layout)


def _matrix(op: Operation, kernel: Constant, rank: int) -> np.ndarray:
    if len(kernel.shape) != rank or 0 in kernel.shape:
        raise InputError(f"{op}: a kernel of shape {kernel.shape}; expected {rank} axes, none empty")
    return _floating(op, kernel.value)


def _bias(op: Operation, position: int, channels: int) -> np.ndarray | None:
    if op.operand(position) is None:
        return None
    value = op.constant_at(position, "the bias").value
    if value.shape != (channels,):
        raise InputError(f"{op}: a bias of shape {value.shape}; expected ({channels},)")
    return _floating(op, value)


def _floating(op: Operation, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise InputError(f"{op}: weights of type {value.dtype}; expected floats")
    return value


def _scaled(value: np.ndarray, factor: float) -> np.ndarray:
    # two numbers of 24 bits have a product of 48
    return value if factor == 1 else value.astype(np.float64) * factor


def _leaves(op: Operation) -> frozenset[str]:
    return frozenset().union(*(x.leaves for x in op.operands if isinstance(x, Constant)))


def _layer_name(op: Operation, position: int) -> str:
    """The layer's name: that of its kernel without `.weight`, where it has a name like that, or the node's."""
    for separator in (".", "/"):
        head, _, tail = op.names[position].rpartition(separator)
        if head and tail in _SUFFIXES:
            return head
    return op.name
