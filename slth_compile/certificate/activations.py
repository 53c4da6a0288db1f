"""What a network computes at a few inputs, in NumPy: done before XLA has compiled the first layers of a large one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slth_compile.certificate.derivatives import logistic, normal_distribution, tanh_distribution
from slth_compile.certificate.enclosure import slices
from slth_compile.certificate.propagate import window_of
from slth_compile.certificate.resampling import along, dilated
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, pool_counts, target_weights
from slth_compile.graph.graph import Graph

FEW_INPUTS = 2
"""Up to this many inputs nothing is worth compiling."""


def activations(graph: Graph, x: np.ndarray, weights: Mapping[int, LayerWeights] | None = None) -> list[np.ndarray]:
    """What every node puts out for a batch, in the floating point type of `x`; infinite or no number beyond it.

    Args:
        graph: The folded network.
        x: Inputs, `(batch, *input_shape)`.
        weights: Weights to use instead of the graph's own, as `graph.evaluate.evaluate` takes them.
    """
    weights = target_weights(graph) if weights is None else weights
    values = [np.asarray(x)]
    with np.errstate(over="ignore", invalid="ignore"):
        for i, node in enumerate(graph.nodes[1:], 1):
            operands = [values[j] for j in node.inputs]
            if isinstance(node, n.Convolution | n.Dense):
                values.append(_weighted(node, operands[0], weights[i]))
            else:
                values.append(_value(node, operands))
    return values


def by_group(node: n.Weighted, kernel: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A kernel of a node as `(groups, taps * C/groups, S/groups)`."""
    groups = 1 if isinstance(node, n.Dense) else node.groups
    flat = np.asarray(kernel).astype(dtype, copy=False).reshape(-1, groups, kernel.shape[-1] // groups)
    return np.moveaxis(flat, 1, 0)


def part_of(node: n.Slice) -> tuple[slice, ...]:
    """Which elements of a batch of operands a slice takes."""
    ends = zip(node.start, node.limit, node.stride, strict=True)
    return (slice(None), *(slice(*triple) for triple in ends))


def _weighted(node: n.Weighted, x: np.ndarray, weights: LayerWeights) -> np.ndarray:
    positive, negative, bias, clip = weights
    y = _linear(node, np.maximum(x, 0) if clip or negative is not None else x, np.asarray(positive))
    if negative is not None:
        y = y + _linear(node, np.minimum(x, 0), np.asarray(negative))
    return y if bias is None else y + np.asarray(bias).astype(x.dtype)


def _linear(node: n.Weighted, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if isinstance(node, n.Dense):
        return x @ kernel.astype(x.dtype, copy=False)
    parts = slices(x, window_of(node), first=1)
    shape = (*parts[0].shape[:-1], node.kernel.shape[-1])
    split = [p.reshape(-1, node.groups, p.shape[-1] // node.groups) for p in parts]
    patches = np.concatenate(split, -1).transpose(1, 0, 2)
    return (patches @ by_group(node, kernel, x.dtype)).transpose(1, 0, 2).reshape(shape)


def _value(node: n.Node, operands: Sequence[np.ndarray]) -> np.ndarray:
    x = operands[0]
    match node:
        case n.Affine():
            y = x if node.scale is None else x * node.scale.astype(x.dtype)
            return y if node.shift is None else y + node.shift.astype(x.dtype)
        case n.Relu():
            return np.maximum(x, 0)
        case n.LeakyRelu():
            return np.maximum(x, x.dtype.type(node.slope) * x)
        case n.Prelu():
            return np.where(x >= 0, x, x * node.slopes.astype(x.dtype))
        case n.Clip():
            return np.clip(x, node.low, node.high)
        case n.Sigmoid():
            return logistic(x)
        case n.Tanh():
            return np.tanh(x)
        case n.HardSigmoid():
            return np.clip(x * x.dtype.type(node.slope) + x.dtype.type(node.offset), 0, 1)
        case n.HardSwish():
            return x * np.clip(x + 3, 0, 6) / 6
        case n.Silu():
            return x * logistic(x)
        case n.Gelu():
            return x * (tanh_distribution(x) if node.approximate else normal_distribution(x))
        case n.MaxPool():
            return np.max(slices(x, window_of(node), -np.inf, first=1), 0)
        case n.AveragePool():
            parts = slices(x, window_of(node), first=1)
            return sum(parts[1:], parts[0]) / pool_counts(node, x.shape[1:]).astype(x.dtype)
        case n.Mean():
            return x.mean(tuple(a + 1 for a in node.axes), dtype=x.dtype)
        case n.Maximum():
            return x.max(tuple(a + 1 for a in node.axes))
        case n.Add():
            return operands[0] + operands[1]
        case n.Multiply():
            return operands[0] * operands[1]
        case n.MatrixProduct():
            return operands[0] @ operands[1]
        case n.LayerNorm():
            x = x - x.mean(-1, keepdims=True) if node.centred else x
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(node.epsilon))
        case n.Concatenate():
            return np.concatenate(operands, node.axis + 1)
        case n.Slice():
            return x[part_of(node)]
        case n.Pad():
            return np.pad(x, ((0, 0), *node.padding))
        case n.Dilate():
            return dilated(x, (1, *node.factors))
        case n.Resample():
            return along(node.matrix.astype(x.dtype), x, node.axis + 1)
        case n.Reshape():
            return x.reshape(len(x), *node.shape)
        case n.Transpose():
            return x.transpose(0, *(a + 1 for a in node.permutation))
        case n.Softmax() | n.LogSoftmax():
            shifted = x - x.max(node.axis + 1, keepdims=True)
            total = np.exp(shifted).sum(node.axis + 1, keepdims=True)
            return np.exp(shifted) / total if isinstance(node, n.Softmax) else shifted - np.log(total)
        case _:
            raise TypeError(f"no evaluation for {type(node).__name__}")
