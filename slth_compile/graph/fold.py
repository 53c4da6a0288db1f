"""Folds batch norms and per-channel affine maps into the layers before them, with the rounding it costs.

    s = scale / sqrt(variance + epsilon),   kernel' = kernel * s,   bias' = (bias - mean) * s + beta

in float64, every array with a bound on what rounding did to it: relative for kernels, absolute for biases.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from slth_compile.errors import InputError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

# One fold rounds at most four times on the way to a kernel entry (sum, root, quotient, product): 4 * 2^-53 and the
# second order stay below 2^-50. A bias takes three more; 2^-49 of the sum of magnitudes covers them.
KERNEL_ROUNDING = 2.0**-50
BIAS_ROUNDING = 2.0**-49
SMALLEST_WEIGHT = 2.0**-900
_TINY = 2.0**-1000
_EXTREME = "'{}': folding its scale leaves weights below 2^-900 or beyond float64; rescale the model"


Norm = n.BatchNorm | n.Affine


def fold(graph: Graph) -> Graph:
    """The graph without batch norms: weights in float64 with their folding errors, other nodes as they were.

    A `BatchNorm` or `Affine` that alone reads a weighted layer is merged into it. Any other `BatchNorm`, and a trained
    `Affine`, becomes a depthwise 1x1 convolution, a layer like all others. An untrained `Affine` stays.

    Args:
        graph: A checked graph.

    Returns:
        The folded graph; positions change, the order of layers does not.
    """
    unfolded, taken = before_folding(graph)
    nodes = list(unfolded.nodes)
    for i, norms in taken.items():
        layer = nodes[i]
        assert isinstance(layer, n.Convolution | n.Dense)
        nodes[i] = functools.reduce(_merge, norms, layer)
    return dataclasses.replace(unfolded, nodes=tuple(nodes))


def before_folding(graph: Graph) -> tuple[Graph, dict[int, tuple[Norm, ...]]]:
    """The graph that `fold` returns with its layers as they were, and what each of them is to take in, in order.

    Args:
        graph: A checked graph.

    Returns:
        The graph, kernels and biases in float64, and batch norms and affine maps by the position of their layer in it.
    """
    new: list[n.Node] = []
    place: dict[int, int] = {}
    taken: dict[int, tuple[Norm, ...]] = {}
    for i, node in enumerate(graph.nodes):
        inputs = tuple(place[j] for j in node.inputs)
        if isinstance(node, n.BatchNorm | n.Affine):
            if isinstance(new[inputs[0]], n.Convolution | n.Dense) and graph.consumers[node.inputs[0]] == 1:
                place[i] = inputs[0]
                taken[place[i]] = (*taken.get(place[i], ()), node)
                continue
            place[i] = len(new)
            if isinstance(node, n.BatchNorm) or node.trained:
                channels, rank = graph.shapes[node.inputs[0]][-1], len(graph.shapes[node.inputs[0]]) - 1
                new.append(_identity(channels, rank, inputs, node.name))
                taken[place[i]] = (node,)
                continue
        place[i] = len(new)
        if isinstance(node, n.Convolution | n.Dense):
            bias = None if node.bias is None else np.asarray(node.bias, np.float64)
            kernel = _shared(np.asarray(node.kernel, np.float64))
            new.append(dataclasses.replace(node, inputs=inputs, kernel=kernel, bias=bias))
        else:
            new.append(dataclasses.replace(node, inputs=inputs))
    return Graph(tuple(new), tuple(place[i] for i in graph.outputs), graph.output_names), taken


def _identity(channels: int, rank: int, inputs: tuple[int, ...], name: str) -> n.Convolution:
    ones = (1,) * rank
    return n.Convolution(
        inputs=inputs,
        name=name,
        kernel=np.ones((*ones, 1, channels)),
        stride=ones,
        padding=((0, 0),) * rank,
        dilation=ones,
        groups=channels,
    )


@np.errstate(over="ignore", invalid="ignore")  # what overflows is not finite, and refused
def _merge(layer: n.Weighted, node: Norm) -> n.Weighted:
    if isinstance(node, n.BatchNorm):
        scale = np.float64(1.0) if node.scale is None else np.asarray(node.scale, np.float64)
        factor = scale / np.sqrt(np.asarray(node.variance, np.float64) + node.epsilon)
        mean = np.asarray(node.mean, np.float64)
        beta = 0.0 if node.bias is None else np.asarray(node.bias, np.float64)
        has_bias = True
    else:
        scale = factor = np.float64(1.0) if node.scale is None else np.asarray(node.scale, np.float64)
        mean = 0.0
        beta = 0.0 if node.shift is None else np.asarray(node.shift, np.float64)
        has_bias = layer.bias is not None or node.shift is not None
    factor = np.broadcast_to(factor, layer.kernel.shape[-1:])
    exact = isinstance(node, n.Affine) and node.scale is None
    kernel = layer.kernel if exact else layer.kernel * factor
    kernel_error = layer.kernel_error if exact else (layer.kernel_error + KERNEL_ROUNDING) * (1 + 2.0**-40)
    if not np.all(np.isfinite(kernel)) or _is_too_small(layer.kernel, kernel, factor, scale):
        raise InputError(_EXTREME.format(node.name or layer.name))
    kernel = _shared(kernel)
    if not has_bias:
        return dataclasses.replace(layer, kernel=kernel, kernel_error=kernel_error)
    channels = layer.kernel.shape[-1]
    before = np.zeros(channels) if layer.bias is None else layer.bias
    error = np.zeros(channels) if layer.bias_error is None else layer.bias_error
    bias = np.broadcast_to((before - mean) * factor + beta, (channels,))
    if not np.all(np.isfinite(bias)):
        raise InputError(_EXTREME.format(node.name or layer.name))
    if not (exact and layer.bias is None):
        size = (np.abs(before) + np.abs(mean)) * np.abs(factor) + np.abs(beta)
        error = (error * np.abs(factor) + BIAS_ROUNDING * size) * (1 + 2.0**-40) + _TINY
    return dataclasses.replace(
        layer,
        kernel=kernel,
        kernel_error=kernel_error,
        bias=bias,
        bias_error=np.broadcast_to(error, (channels,)) if np.any(error) else None,
    )


def _is_too_small(before: np.ndarray, kernel: np.ndarray, factor: np.ndarray, scale: np.ndarray | np.float64) -> bool:
    """Whether a factor, or a weight it made of one that is not zero, is below the smallest."""
    if min(np.abs(kernel).min(), np.abs(factor).min()) >= SMALLEST_WEIGHT:
        return False
    smallest = np.where(before == 0, np.abs(factor), np.minimum(np.abs(kernel), np.abs(factor)))
    return bool(np.any((smallest < SMALLEST_WEIGHT) & (scale != 0)))


def _shared(array: np.ndarray) -> np.ndarray:
    """The same array, read-only: nodes keep it as it is."""
    array.setflags(write=False)
    return array
