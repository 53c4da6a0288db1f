"""The network a graph describes, evaluated on a batch in the floating point type of its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

ArrayLike = np.ndarray | jax.Array
_DIMENSIONS = {0: "NC", 1: "NWC", 2: "NHWC", 3: "NDHWC"}
_KERNELS = {0: "IO", 1: "WIO", 2: "HWIO", 3: "DHWIO"}


class LayerWeights(NamedTuple):
    """One weighted layer, `positive * max(z, 0) + negative * min(z, 0) + bias`, in the kernel layout of its node.

    Attributes:
        positive: Kernel for the positive part of the input.
        negative: Kernel for the negative part; None where the layer has no such part.
        bias: Shape `(S,)` or None.
        clip: True computes `positive * max(z, 0) + bias`; False, with `negative` None, `positive * z + bias`.
    """

    positive: ArrayLike
    negative: ArrayLike | None = None
    bias: ArrayLike | None = None
    clip: bool = False


def target_weights(graph: Graph) -> dict[int, LayerWeights]:
    """The graph's own kernels and biases, by node position, as `evaluate` takes them."""
    found = {}
    for i in graph.layers:
        node = graph.nodes[i]
        assert isinstance(node, n.Convolution | n.Dense)
        found[i] = LayerWeights(node.kernel, None, node.bias)
    return found


def evaluate(
    graph: Graph,
    x: ArrayLike,
    weights: Mapping[int, LayerWeights] | None = None,
    *,
    functions: Mapping[int, Callable[[jax.Array], jax.Array]] | None = None,
) -> tuple[jax.Array, ...]:
    """Every output of the network on a batch.

    Args:
        graph: The network, folded or not.
        x: Inputs, shape `(batch, *input_shape)`; its dtype is the dtype of the whole evaluation.
        weights: Weights to use instead of the graph's own, by node position.
        functions: What to use in place of nodes with one operand, by node position.

    Returns:
        One array an output leaf, shape `(batch, *output_shape)`.
    """
    x = jnp.asarray(x)
    weights = target_weights(graph) if weights is None else weights
    functions = functions or {}
    values: list[jax.Array] = []
    for i, node in enumerate(graph.nodes):
        operands = [values[j] for j in node.inputs]
        if i == 0:
            values.append(x)
        elif i in functions:
            values.append(functions[i](operands[0]))
        elif isinstance(node, n.Convolution | n.Dense):
            values.append(_weighted(node, operands[0], weights[i]))
        else:
            values.append(apply_node(node, operands))
    return tuple(values[i] for i in graph.outputs)


def linear(node: n.Weighted, x: jax.Array, kernel: ArrayLike) -> jax.Array:
    """The node's convolution or product of a batch `x` with `kernel`, without bias."""
    factors = _like(kernel, x)
    if isinstance(node, n.Dense):
        return jnp.matmul(x, factors, precision=lax.Precision.HIGHEST)
    rank = len(node.stride)
    return lax.conv_general_dilated(
        x,
        factors,
        node.stride,
        node.padding,
        rhs_dilation=node.dilation,
        dimension_numbers=(_DIMENSIONS[rank], _KERNELS[rank], _DIMENSIONS[rank]),
        feature_group_count=node.groups,
        precision=lax.Precision.HIGHEST,
    )


def _weighted(node: n.Weighted, x: jax.Array, weights: LayerWeights) -> jax.Array:
    zero = jnp.zeros((), x.dtype)
    if weights.negative is not None:
        y = linear(node, jnp.maximum(x, zero), weights.positive)
        y = y + linear(node, jnp.minimum(x, zero), weights.negative)
    else:
        y = linear(node, jnp.maximum(x, zero) if weights.clip else x, weights.positive)
    return y if weights.bias is None else y + _like(weights.bias, x)


def apply_node(node: n.Node, operands: Sequence[jax.Array]) -> jax.Array:
    """The output of a node without a kernel, for a batch of its operands."""
    x = operands[0]
    match node:
        case n.BatchNorm():
            factor = lax.rsqrt(_like(node.variance, x) + jnp.asarray(node.epsilon, x.dtype))
            factor = factor if node.scale is None else factor * _like(node.scale, x)
            y = (x - _like(node.mean, x)) * factor
            return y if node.bias is None else y + _like(node.bias, x)
        case n.Affine():
            y = x if node.scale is None else x * _like(node.scale, x)
            return y if node.shift is None else y + _like(node.shift, x)
        case n.Relu():
            return jnp.maximum(x, jnp.zeros((), x.dtype))
        case n.LeakyRelu():
            return jnp.maximum(x, x * jnp.asarray(node.slope, x.dtype))
        case n.Prelu() | n.Clip() | n.Sigmoid() | n.Tanh() | n.HardSigmoid() | n.HardSwish() | n.Silu() | n.Gelu():
            return _activation(node, x)
        case n.MaxPool():
            return _window(x, node, -jnp.inf, lax.max)
        case n.AveragePool():
            total = _window(x, node, 0.0, lax.add)
            counts = pool_counts(node, x.shape[1:])
            return total / _like(counts, x)
        case n.Mean():
            return jnp.mean(x, tuple(a + 1 for a in node.axes))
        case n.Maximum():
            return jnp.max(x, tuple(a + 1 for a in node.axes))
        case n.Add():
            return operands[0] + operands[1]
        case n.Multiply():
            return operands[0] * operands[1]
        case n.MatrixProduct():
            return jnp.matmul(*operands, precision=lax.Precision.HIGHEST)
        case n.LayerNorm():
            x = x - jnp.mean(x, -1, keepdims=True) if node.centred else x
            return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + jnp.asarray(node.epsilon, x.dtype))
        case n.Concatenate():
            return jnp.concatenate(operands, node.axis + 1)
        case n.Slice():
            return lax.slice(x, (0, *node.start), (x.shape[0], *node.limit), (1, *node.stride))
        case n.Pad():
            return jnp.pad(x, ((0, 0), *node.padding))
        case n.Dilate():
            return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((0, 0, factor - 1) for factor in node.factors)))
        case n.Resample():
            return resample(x, node.matrix, node.axis + 1)
        case n.Reshape():
            return x.reshape(x.shape[0], *node.shape)
        case n.Transpose():
            return jnp.transpose(x, (0, *(a + 1 for a in node.permutation)))
        case n.Softmax():
            return jax.nn.softmax(x, node.axis + 1)
        case n.LogSoftmax():
            return jax.nn.log_softmax(x, node.axis + 1)
        case _:
            raise TypeError(f"no evaluation for {type(node).__name__}")


def resample(x: jax.Array, matrix: ArrayLike, axis: int) -> jax.Array:
    """`matrix @ x` along an axis of `x`."""
    product = jnp.tensordot(_like(matrix, x), x, (1, axis), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def _activation(node: n.Activation, x: jax.Array) -> jax.Array:
    match node:
        case n.Prelu():
            return jnp.where(x >= 0, x, x * _like(node.slopes, x))
        case n.Clip():
            return jnp.clip(x, node.low, node.high)
        case n.Sigmoid():
            return jax.nn.sigmoid(x)
        case n.Tanh():
            return jnp.tanh(x)
        case n.HardSigmoid():
            return jnp.clip(x * jnp.asarray(node.slope, x.dtype) + jnp.asarray(node.offset, x.dtype), 0, 1)
        case n.HardSwish():
            return jax.nn.hard_silu(x)
        case n.Silu():
            return jax.nn.silu(x)
        case n.Gelu():
            return jax.nn.gelu(x, approximate=node.approximate)
        case _:
            raise TypeError(f"no evaluation for {type(node).__name__}")


def _like(array: ArrayLike, x: jax.Array) -> Any:
    if isinstance(array, np.ndarray):
        # Outside of a program JAX would compile one for every shape that it converts.
        with np.errstate(over="ignore"):
            return array.astype(x.dtype, copy=False)
    return jnp.asarray(array).astype(x.dtype)


def pool_counts(node: n.AveragePool, shape: tuple[int, ...]) -> np.ndarray:
    """What each window's sum is divided by, shape `(spatial'..., 1)`, exact in every float type."""
    counts = np.ones((1,) * (len(node.window) + 1))
    for axis, (window, stride, (low, high)) in enumerate(zip(node.window, node.stride, node.padding, strict=True)):
        real = np.zeros(shape[axis] + low + high)
        real[low : low + shape[axis]] = 1
        places = (len(real) - window) // stride + 1
        inside = [window if node.count_padding else real[i * stride : i * stride + window].sum() for i in range(places)]
        counts = counts * np.reshape(inside, [-1 if a == axis else 1 for a in range(counts.ndim)])
    return counts


def _window(x: jax.Array, node: n.MaxPool | n.AveragePool, start: float, combine) -> jax.Array:
    return lax.reduce_window(
        x,
        np.asarray(start, x.dtype),
        combine,
        (1, *node.window, 1),
        (1, *node.stride, 1),
        ((0, 0), *node.padding, (0, 0)),
    )
