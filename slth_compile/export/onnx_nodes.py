"""The operators of ONNX that compute a node without weights."""

from __future__ import annotations

import math

import numpy as np

from slth_compile.errors import UnsupportedModelError
from slth_compile.export.onnx_builder import Builder, Value, channels_first, channels_last
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def unweighted(build: Builder, graph: Graph, position: int, inputs: list[Value]) -> Value:
    """Adds a node without weights.

    Args:
        build: Where its operators go.
        graph: The folded target.
        position: The node's place there.
        inputs: Its operands.

    Returns:
        Its value.

    Raises:
        UnsupportedModelError: A node type without operators here.
    """
    node, x = graph.nodes[position], inputs[0]
    rank = len(graph.shapes[node.inputs[0]])
    match node:
        case n.MaxPool() | n.AveragePool():
            return _pool(build, node, x, rank)
        case n.Mean() | n.Maximum():
            return _reduced(build, node, x)
        case n.Add() | n.Multiply():
            kind = "Add" if isinstance(node, n.Add) else "Mul"
            return Value(build.operator(kind, x.tensor, build.ordered(inputs[1], x.order)), x.order)
        case n.MatrixProduct():
            order = channels_last(rank)
            return Value(build.operator("MatMul", *(build.ordered(value, order) for value in inputs)), order)
        case n.LayerNorm():
            return _normalised(build, node, x)
        case n.Concatenate():
            tensors = [build.ordered(value, x.order) for value in inputs]
            return Value(build.operator("Concat", *tensors, axis=x.place(node.axis)), x.order)
        case n.Slice():
            return _sliced(build, node, x, graph.shapes[node.inputs[0]])
        case n.Pad():
            pairs = [(0, 0), *(node.padding[axis] for axis in x.order)]
            amounts = build.integers([low for low, _ in pairs] + [high for _, high in pairs])
            return Value(build.operator("Pad", x.tensor, amounts, mode="constant"), x.order)
        case n.Dilate():
            return _dilated(build, node, x, graph.shapes[node.inputs[0]])
        case n.Resample():
            order = (*(axis for axis in x.order if axis != node.axis), node.axis)
            matrix = build.constant(np.asarray(node.matrix).T, "matrix")
            return Value(build.operator("MatMul", build.ordered(x, order), matrix), order)
        case n.Reshape():
            tensor = build.ordered(x, channels_last(rank))
            return Value(build.reshaped(tensor, node.shape), channels_last(len(node.shape)))
        case n.Transpose():
            # No operator: axis `permutation[i]` of the operand is axis `i` of the result, where it is.
            return Value(x.tensor, tuple(node.permutation.index(axis) for axis in x.order))
        case n.Softmax() | n.LogSoftmax():
            kind = "Softmax" if isinstance(node, n.Softmax) else "LogSoftmax"
            return Value(build.operator(kind, x.tensor, axis=x.place(node.axis)), x.order)
        case n.Affine():
            tensor = x.tensor
            if node.scale is not None:
                tensor = build.operator("Mul", tensor, by_channel(build, x, node.scale, "scale"))
            if node.shift is not None:
                tensor = build.operator("Add", tensor, by_channel(build, x, node.shift, "shift"))
            return Value(tensor, x.order)
        case _:
            return Value(_activation(build, node, x), x.order)


def by_channel(build: Builder, x: Value, array: np.ndarray, label: str) -> str:
    """An initialiser `(C,)` or `()` in the shape that varies along the tensor's channel axis."""
    array = np.asarray(array)
    if array.ndim == 0:
        return build.constant(array)
    behind = len(x.order) - x.place(len(x.order) - 1)
    return build.constant(array.reshape(-1, *(1,) * behind), label)


def _pool(build: Builder, node: n.MaxPool | n.AveragePool, x: Value, rank: int) -> Value:
    order = channels_first(rank)
    geometry = {
        "kernel_shape": node.window,
        "strides": node.stride,
        "pads": [low for low, _ in node.padding] + [high for _, high in node.padding],
    }
    tensor = build.ordered(x, order)
    if isinstance(node, n.MaxPool):
        return Value(build.operator("MaxPool", tensor, **geometry), order)
    pooled = build.operator("AveragePool", tensor, count_include_pad=int(node.count_padding), **geometry)
    return Value(pooled, order)


def _reduced(build: Builder, node: n.Mean | n.Maximum, x: Value) -> Value:
    if not node.axes:
        return x
    kept = [axis for axis in x.order if axis not in node.axes]
    kind = "ReduceMean" if isinstance(node, n.Mean) else "ReduceMax"
    tensor = build.operator(kind, x.tensor, axes=sorted(x.place(axis) for axis in node.axes), keepdims=0)
    return Value(tensor, tuple(sorted(kept).index(axis) for axis in kept))


def _normalised(build: Builder, node: n.LayerNorm, x: Value) -> Value:
    tensor, along = x.tensor, {"axes": [x.place(len(x.order) - 1)], "keepdims": 1}
    if node.centred:
        tensor = build.operator("Sub", tensor, build.operator("ReduceMean", tensor, **along))
    square = build.operator("ReduceMean", build.operator("Mul", tensor, tensor), **along)
    root = build.operator("Sqrt", build.operator("Add", square, build.constant(node.epsilon)))
    return Value(build.operator("Div", tensor, root), x.order)


def _sliced(build: Builder, node: n.Slice, x: Value, shape: tuple[int, ...]) -> Value:
    cuts = zip(node.start, node.limit, node.stride, strict=True)
    cut = {axis: triple for axis, triple in enumerate(cuts) if triple != (0, shape[axis], 1)}
    if not cut:
        return x
    starts, limits, strides = (build.integers(column) for column in zip(*cut.values(), strict=True))
    axes = build.integers([x.place(axis) for axis in cut])
    return Value(build.operator("Slice", x.tensor, starts, limits, axes, strides), x.order)


def _dilated(build: Builder, node: n.Dilate, x: Value, shape: tuple[int, ...]) -> Value:
    """Every element in a box of its own, the box padded with zeros, boxes side by side, the last padding cut off."""
    sizes, factors = [shape[axis] for axis in x.order], [node.factors[axis] for axis in x.order]
    boxes = build.reshaped(x.tensor, [size for pair in zip(sizes, [1] * len(sizes), strict=True) for size in pair])
    behind = [amount for factor in factors for amount in (0, factor - 1)]
    padded = build.operator("Pad", boxes, build.integers([0] * (len(behind) + 1) + [0, *behind]), mode="constant")
    joined = build.reshaped(padded, [size * factor for size, factor in zip(sizes, factors, strict=True)])
    ends = [(size - 1) * factor + 1 for size, factor in zip(sizes, factors, strict=True)]
    axes = build.integers(range(1, len(sizes) + 1))
    return Value(build.operator("Slice", joined, build.integers([0] * len(sizes)), build.integers(ends), axes), x.order)


def _activation(build: Builder, node: n.Node, x: Value) -> str:
    def apply(kind: str, *operands: str | float, **attributes: float) -> str:
        tensors = [operand if isinstance(operand, str) else build.constant(operand) for operand in operands]
        return build.operator(kind, *tensors, **attributes)

    match node:
        case n.Relu():
            return apply("Relu", x.tensor)
        case n.LeakyRelu():
            return apply("LeakyRelu", x.tensor, alpha=node.slope)
        case n.Prelu():
            return apply("PRelu", x.tensor, by_channel(build, x, node.slopes, "slopes"))
        case n.Clip():
            bounds = ["" if bound is None else build.constant(bound) for bound in (node.low, node.high)]
            return build.operator("Clip", x.tensor, *bounds[: 1 if node.high is None else 2])
        case n.Sigmoid():
            return apply("Sigmoid", x.tensor)
        case n.Tanh():
            return apply("Tanh", x.tensor)
        case n.HardSigmoid():
            return apply("HardSigmoid", x.tensor, alpha=node.slope, beta=node.offset)
        case n.HardSwish():
            return apply("HardSwish", x.tensor)
        case n.Silu():
            return apply("Mul", x.tensor, apply("Sigmoid", x.tensor))
        case n.Gelu() if node.approximate:
            cube = apply("Mul", apply("Mul", x.tensor, x.tensor), x.tensor)
            inner = apply("Add", x.tensor, apply("Mul", cube, 0.044715))
            bent = apply("Tanh", apply("Mul", inner, math.sqrt(2 / math.pi)))
            return apply("Mul", apply("Mul", x.tensor, 0.5), apply("Add", bent, 1.0))
        case n.Gelu():
            bent = apply("Erf", apply("Mul", x.tensor, math.sqrt(0.5)))
            return apply("Mul", apply("Mul", x.tensor, 0.5), apply("Add", bent, 1.0))
        case _:
            kind = n.OPERATION_NAMES[type(node)].replace("_", " ")
            raise UnsupportedModelError(f"node '{node.name}' ({kind}): no ONNX operators are known for it here")
