"""The per-sample shape every node puts out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slth_compile.graph import nodes as n

Shape = tuple[int, ...]


def infer_shape(node: n.Node, inputs: Sequence[Shape]) -> Shape:
    """The per-sample shape of a node's output.

    Args:
        node: The operation.
        inputs: Shapes of its operands.

    Returns:
        The output's shape.

    Raises:
        ValueError: The operands do not fit the operation; the message says found and expected.
    """
    match node:
        case n.Input():
            return node.shape
        case n.Convolution():
            return _convolution(node, inputs[0])
        case n.Dense():
            fits = bool(inputs[0]) and inputs[0][-1] == node.kernel.shape[0]
            fits = fits and (node.bias is None or node.bias.shape == node.kernel.shape[1:])
            _expect(fits, node, inputs, "last axis = kernel rows, one bias a column")
            return (*inputs[0][:-1], node.kernel.shape[1])
        case n.MaxPool() | n.AveragePool():
            return _pool(node, inputs[0])
        case n.Mean() | n.Maximum():
            _expect(all(0 <= a < len(inputs[0]) for a in node.axes), node, inputs, "axes of the input")
            return tuple(size for axis, size in enumerate(inputs[0]) if axis not in node.axes)
        case n.Add():
            _expect(len(inputs) == 2 and inputs[0] == inputs[1], node, inputs, "two equal shapes")
            return inputs[0]
        case n.Multiply():
            fits = len(inputs) == 2 and len(inputs[0]) == len(inputs[1])
            fits = fits and all(b in (1, a) for a, b in zip(*inputs, strict=True))
            _expect(fits, node, inputs, "two shapes of one rank, axes of the second equal or of size 1")
            return inputs[0]
        case n.Prelu():
            _expect(node.slopes.shape in ((), inputs[0][-1:]), node, inputs, "one slope, or one a channel")
            return inputs[0]
        case n.Concatenate():
            rest = {shape[: node.axis] + shape[node.axis + 1 :] for shape in inputs}
            _expect(len(rest) == 1 and all(node.axis < len(s) for s in inputs), node, inputs, "equal other axes")
            return (*inputs[0][: node.axis], sum(s[node.axis] for s in inputs), *inputs[0][node.axis + 1 :])
        case n.Slice():
            triples = list(zip(inputs[0], node.start, node.limit, node.stride, strict=True))
            _expect(all(0 <= a < b <= size and s > 0 for size, a, b, s in triples), node, inputs, "slices inside")
            return tuple(-(-(b - a) // s) for _, a, b, s in triples)
        case n.Pad():
            _expect(all(low >= 0 and high >= 0 for low, high in node.padding), node, inputs, "non-negative padding")
            return tuple(size + low + high for size, (low, high) in zip(inputs[0], node.padding, strict=True))
        case n.Dilate():
            fits = len(node.factors) == len(inputs[0]) and all(factor > 0 for factor in node.factors)
            _expect(fits, node, inputs, "one positive factor for every axis")
            return tuple((size - 1) * factor + 1 for size, factor in zip(inputs[0], node.factors, strict=True))
        case n.Resample():
            fits = node.matrix.ndim == 2 and 0 <= node.axis < len(inputs[0])
            fits = fits and inputs[0][node.axis] == node.matrix.shape[1]
            _expect(fits, node, inputs, f"axis {node.axis} as long as the rows of the matrix {node.matrix.shape}")
            return (*inputs[0][: node.axis], node.matrix.shape[0], *inputs[0][node.axis + 1 :])
        case n.Reshape():
            _expect(math.prod(node.shape) == math.prod(inputs[0]), node, inputs, f"{math.prod(node.shape)} elements")
            return node.shape
        case n.Transpose():
            _expect(sorted(node.permutation) == list(range(len(inputs[0]))), node, inputs, "a permutation of the axes")
            return tuple(inputs[0][axis] for axis in node.permutation)
        case n.BatchNorm():
            channels = inputs[0][-1:]
            arrays = (node.mean, node.variance, node.scale, node.bias)
            _expect(all(a is None or a.shape == channels for a in arrays), node, inputs, "one entry a channel")
            return inputs[0]
        case n.Affine():
            arrays = (node.scale, node.shift)
            _expect(
                all(a is None or a.shape in ((), inputs[0][-1:]) for a in arrays), node, inputs, "one entry a channel"
            )
            return inputs[0]
        case _:
            return inputs[0]


def window_positions(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """How many places a window of `window` taps has on a padded axis."""
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def _convolution(node: n.Convolution, shape: Shape) -> Shape:
    taps = node.kernel.shape[:-2]
    fits = (
        len(shape) == len(taps) + 1 == len(node.stride) + 1 == len(node.padding) + 1 == len(node.dilation) + 1
        and shape[-1] == node.kernel.shape[-2] * node.groups
        and node.kernel.shape[-1] % node.groups == 0
        and all(low >= 0 and high >= 0 for low, high in node.padding)
        and (node.bias is None or node.bias.shape == node.kernel.shape[-1:])
    )
    _expect(fits, node, [shape], f"(spatial..., {node.kernel.shape[-2] * node.groups}) for the kernel")
    axes = zip(shape, taps, node.stride, node.padding, node.dilation, strict=False)
    sizes = tuple(window_positions(size, k, s, p, d) for size, k, s, p, d in axes)
    _expect(all(size > 0 for size in sizes), node, [shape], "an input at least as large as the kernel")
    return (*sizes, node.kernel.shape[-1])


def _pool(node: n.MaxPool | n.AveragePool, shape: Shape) -> Shape:
    rank = len(node.window)
    _expect(len(shape) == rank + 1, node, [shape], f"{rank} spatial axes and channels")
    axes = list(zip(shape, node.window, node.stride, node.padding, strict=False))
    _expect(all(max(p) < k for _, k, _, p in axes), node, [shape], "padding smaller than the window")
    sizes = tuple(window_positions(size, k, s, p) for size, k, s, p in axes)
    _expect(all(size > 0 for size in sizes), node, [shape], "an input at least as large as the window")
    return (*sizes, shape[-1])


def _expect(condition: bool, node: n.Node, inputs: Sequence[Shape], expected: str) -> None:
    if not condition:
        kind = type(node).__name__
        raise ValueError(f"node '{node.name}' ({kind}): input shapes {list(inputs)}; expected {expected}")
