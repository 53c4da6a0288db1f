"""A weighted layer in ONNX: as its effective convolutions, or as the two random layers it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from slth_compile.export.onnx_builder import Builder, Value, channels_first
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.nodes import Weighted

Shape = tuple[int, ...]


def effective(build: Builder, node: Weighted, x: Value, shape: Shape, weights: LayerWeights, clip: bool) -> Value:
    """Adds `positive * max(x, 0) + negative * min(x, 0) + bias`.

    Args:
        build: Where the operators go.
        node: The layer.
        x: Its input.
        shape: Per-sample shape of the input.
        weights: Its effective weights.
        clip: Whether a layer without a negative part takes `max(x, 0)`; where x is >= 0 anyhow it need not.
    """
    if weights.negative is None:
        positive = _positive(build, x) if clip else x
        return _linear(build, node, positive, shape, weights.positive, weights.bias)
    positive = _linear(build, node, _positive(build, x), shape, weights.positive, weights.bias)
    below = Value(build.operator("Min", x.tensor, build.constant(0.0)), x.order)
    negative = _linear(build, node, below, shape, weights.negative, None)
    return Value(build.operator("Add", positive.tensor, negative.tensor), positive.order)


def literal(build: Builder, node: Weighted, x: Value, shape: Shape, arrays: Mapping[str, Any]) -> Value:
    """Adds `V relu(U x) + v . relu(u)`, masks applied.

    Args:
        build: Where the operators go.
        node: The layer.
        x: Its input.
        shape: Per-sample shape of the input.
        arrays: `U (C, N)`, `V (taps..., N*C/groups, S)`, and `u (N_b,)`, `v (N_b, S)` of a bias.
    """
    u, v = np.asarray(arrays["U"]), np.asarray(arrays["V"])
    rank = len(shape)
    order = channels_first(rank)
    tensor = build.ordered(x, order)
    spatial, taps = shape[:-1], v.shape[:-2]
    flat = not taps and rank != 2
    if flat:
        # A dense layer: the 1x1 case, on whatever positions it is applied to.
        tensor = build.reshaped(tensor, (shape[-1], math.prod(spatial)))
    width = max(len(taps), 1)
    first = u.reshape(-1, 1, *(1,) * width)
    hidden = build.operator("Conv", tensor, build.constant(first, "U"), group=shape[-1])
    hidden = build.operator("Relu", hidden)
    if not taps:
        v = v[None]
    tensor = build.operator("Conv", hidden, build.constant(_filters(v), "V"), **_geometry(node))
    if "u" in arrays:
        bias = build.operator("Relu", build.constant(arrays["u"], "u"))
        bias = build.operator("MatMul", bias, build.constant(arrays["v"], "v"))
        bias = build.operator("Reshape", bias, build.integers([-1, *(1,) * width]))
        tensor = build.operator("Add", tensor, bias)
    if flat:
        tensor = build.reshaped(tensor, (v.shape[-1], *spatial))
    return Value(tensor, order)


def _positive(build: Builder, x: Value) -> Value:
    return Value(build.operator("Relu", x.tensor), x.order)


def _linear(build: Builder, node: Weighted, x: Value, shape: Shape, kernel: Any, bias: Any) -> Value:
    """The layer with one kernel."""
    kernel = np.asarray(kernel)
    if isinstance(node, n.Dense):
        return _product(build, x, kernel, bias)
    order = channels_first(len(shape))
    tensor = build.ordered(x, order)
    if len(shape) == 1:
        tensor, kernel = build.reshaped(tensor, (*shape, 1)), kernel[None]
    biases = [] if bias is None else [build.constant(bias, "bias")]
    tensor = build.operator("Conv", tensor, build.constant(_filters(kernel), "kernel"), *biases, **_geometry(node))
    if len(shape) == 1:
        tensor = build.reshaped(tensor, kernel.shape[-1:])
    return Value(tensor, order)


def _product(build: Builder, x: Value, kernel: np.ndarray, bias: Any) -> Value:
    last = len(x.order) - 1
    order = (*(axis for axis in x.order if axis != last), last)
    tensor, matrix = build.ordered(x, order), build.constant(kernel, "kernel")
    biases = [] if bias is None else [build.constant(bias, "bias")]
    if last == 0:
        return Value(build.operator("Gemm", tensor, matrix, *biases), order)
    tensor = build.operator("MatMul", tensor, matrix)
    return Value(build.operator("Add", tensor, *biases) if biases else tensor, order)


def _filters(kernel: np.ndarray) -> np.ndarray:
    """`(taps..., C/groups, S)` as ONNX has it, `(S, C/groups, taps...)`."""
    return np.transpose(kernel, (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2)))


def _geometry(node: Weighted) -> dict[str, Any]:
    """Attributes of the convolution; none where it has no spatial axes."""
    if isinstance(node, n.Dense):
        return {}
    found: dict[str, Any] = {"group": node.groups}
    if node.stride:
        found["strides"], found["dilations"] = node.stride, node.dilation
        found["pads"] = [low for low, _ in node.padding] + [high for _, high in node.padding]
    return found
