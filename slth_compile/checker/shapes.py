"""The per-sample shape of every operation, with every size bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slth_compile.errors import VerificationError

Shape = tuple[int, ...]

MAX_ELEMENTS = 1 << 24
"""Most elements a sample may have at any node, padding included."""

MAX_WINDOW = 1 << 16
"""Most elements of a pooling window."""


def output_shape(op: str, fields: Mapping[str, Any], arrays: Mapping[str, Shape], inputs: Sequence[Shape]) -> Shape:
    """The shape an operation puts out.

    Args:
        op: Its name in the format.
        fields: Its static attributes.
        arrays: Shapes of its parameters.
        inputs: Shapes of its operands.

    Raises:
        VerificationError: Operands, parameters and attributes do not fit, or a size is beyond the checker's limits.
    """
    shape = _shape(op, fields, arrays, inputs)
    _require(len(shape) <= 8 and all(n > 0 for n in shape) and math.prod(shape) <= MAX_ELEMENTS, op, f"shape {shape}")
    return shape


def positions(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """How many places a window has on a padded axis."""
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def _shape(op: str, fields: Mapping[str, Any], arrays: Mapping[str, Shape], inputs: Sequence[Shape]) -> Shape:
    first: Shape = inputs[0] if inputs else ()
    match op:
        case "input" | "reshape":
            shape = fields["shape"]
            _require(op == "input" or math.prod(shape) == math.prod(first), op, f"shape {shape} from {first}")
            return shape
        case "convolution":
            return _convolution(fields, arrays, first)
        case "dense":
            kernel = arrays["kernel"]
            _require(len(kernel) == 2 and first[-1:] == kernel[:1], op, f"kernel {kernel} on {first}")
            _require(arrays.get("bias", kernel[1:]) == kernel[1:], op, "a bias of another length than its outputs")
            return (*first[:-1], *kernel[1:])
        case "max_pool" | "average_pool":
            return _pool(op, fields, first)
        case "mean" | "maximum":
            axes = fields["axes"]
            _require(len(set(axes)) == len(axes) and all(a < len(first) for a in axes), op, f"axes {axes} of {first}")
            return tuple(n for axis, n in enumerate(first) if axis not in axes)
        case "add":
            _require(inputs[0] == inputs[1], op, f"operands {inputs[0]} and {inputs[1]}")
            return first
        case "multiply":
            broadcast = len(inputs[0]) == len(inputs[1]) and all(b in (1, a) for a, b in zip(*inputs, strict=False))
            _require(broadcast, op, f"operands {inputs[0]} and {inputs[1]}")
            return first
        case "prelu":
            _require(arrays["slopes"] in ((), first[-1:]), op, f"slopes {arrays['slopes']} on {first}")
            return first
        case "concatenate":
            axis = fields["axis"]
            rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}
            _require(len(rest) == 1 and all(axis < len(shape) for shape in inputs), op, f"axis {axis} of {inputs[:4]}")
            return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])
        case "slice":
            start, limit, stride = fields["start"], fields["limit"], fields["stride"]
            _require(len(first) == len(start) == len(limit) == len(stride), op, f"{len(start)} axes on {first}")
            ends = list(zip(first, start, limit, stride, strict=True))
            _require(all(a < b <= n for n, a, b, _ in ends), op, f"{start}..{limit} of {first}")
            return tuple(-(-(b - a) // s) for _, a, b, s in ends)
        case "pad":
            _require(len(fields["padding"]) == len(first), op, f"{len(fields['padding'])} axes on {first}")
            return tuple(n + sum(p) for n, p in zip(first, fields["padding"], strict=True))
        case "dilate":
            factors = fields["factors"]
            _require(len(factors) == len(first), op, f"{len(factors)} factors on {first}")
            return tuple((n - 1) * factor + 1 for n, factor in zip(first, factors, strict=True))
        case "resample":
            axis, matrix = fields["axis"], arrays["matrix"]
            fits = len(matrix) == 2 and axis < len(first) and matrix[1] == first[axis]
            _require(fits, op, f"the matrix {matrix} on axis {axis} of {first}")
            return (*first[:axis], matrix[0], *first[axis + 1 :])
        case "transpose":
            order = fields["permutation"]
            _require(sorted(order) == list(range(len(first))), op, f"permutation {order} of {first}")
            return tuple(inputs[0][axis] for axis in order)
        case "softmax" | "log_softmax":
            _require(fields["axis"] < len(first), op, f"axis {fields['axis']} of {first}")
            return first
        case "batch_norm":
            _require(len(first) > 0 and all(a == first[-1:] for a in arrays.values()), op, f"parameters on {first}")
            return first
        case "affine":
            _require(all(a in ((), first[-1:]) for a in arrays.values()), op, f"parameters on {first}")
            return first
        case _:
            return first


def _convolution(fields: Mapping[str, Any], arrays: Mapping[str, Shape], shape: Shape) -> Shape:
    kernel, groups = arrays["kernel"], fields["groups"]
    _require(2 <= len(kernel) <= 5 and all(n > 0 for n in kernel), "convolution", f"kernel {kernel}")
    taps, (inputs, outputs) = kernel[:-2], kernel[-2:]
    ranks = {len(shape) - 1, len(taps), len(fields["stride"]), len(fields["padding"]), len(fields["dilation"])}
    fits = len(ranks) == 1 and shape[-1] == inputs * groups and outputs % groups == 0
    _require(fits and arrays.get("bias", (outputs,)) == (outputs,), "convolution", f"kernel {kernel} on {shape}")
    axes = list(zip(shape, taps, fields["stride"], fields["padding"], fields["dilation"], strict=False))
    padded = math.prod(n + sum(p) for n, _, _, p, _ in axes) * shape[-1]
    _require(padded <= MAX_ELEMENTS, "convolution", "padding beyond the checker's limits")
    sizes = tuple(positions(n, k, s, p, d) for n, k, s, p, d in axes)
    _require(all(n > 0 for n in sizes), "convolution", f"kernel {kernel} on the smaller {shape}")
    return (*sizes, outputs)


def _pool(op: str, fields: Mapping[str, Any], shape: Shape) -> Shape:
    window = fields["window"]
    ranks = {len(shape) - 1, len(window), len(fields["stride"]), len(fields["padding"])}
    _require(len(ranks) == 1 and math.prod(window) <= MAX_WINDOW, op, f"window {window} on {shape}")
    axes = list(zip(shape, window, fields["stride"], fields["padding"], strict=False))
    _require(all(max(p) < k for _, k, _, p in axes), op, "padding as large as the window")
    _require(math.prod(n + sum(p) for n, _, _, p in axes) * shape[-1] <= MAX_ELEMENTS, op, "too much padding")
    sizes = tuple(positions(n, k, s, p) for n, k, s, p in axes)
    _require(all(n > 0 for n in sizes), op, f"window {window} on the smaller {shape}")
    return (*sizes, shape[-1])


def _require(condition: bool, op: str, found: str) -> None:
    if not condition:
        raise VerificationError("target", f"an operation '{op}' has {found}, which does not fit")
