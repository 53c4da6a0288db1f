"""`Resize` and `Upsample`: nearest neighbours and linear interpolation, one axis after the other.

Coordinates are computed in float32, as runtimes do: which neighbour is nearest depends on it.
"""

from __future__ import annotations

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.draft import BATCH, Value
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape
from slth_compile.frontends.onnx.operators.mixing import mixed_axis

_ONE, _HALF = np.float32(1), np.float32(0.5)
_UNUSED = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch"}


def resize(op: Operation) -> Value:
    """The activation at another size."""
    x = op.activation
    shape = op.draft.shape(x)
    mode = op.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        op.refuse_attribute("mode", mode, "nearest or linear")
    for name, expected in _UNUSED.items():
        if op.attributes.get(name, expected) != expected:
            op.refuse_attribute(name, op.attributes[name], str(expected))
    sizes, scales = _sizes(op, shape)
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True)):
        if (out, float(scale)) == (shape[axis], 1.0):
            continue
        if x.layout[axis] == BATCH:
            raise Refused("it resizes the batch axis")

        def matrix(size: int, out: int = out, scale: np.float32 = scale) -> np.ndarray:
            places = _coordinates(op, size, out, scale)
            return _nearest(op, size, places) if mode == "nearest" else _linear(size, places)

        x = mixed_axis(op, x, axis, out, matrix)
    return x


def _sizes(op: Operation, shape: Shape) -> tuple[list[int], list[np.float32]]:
    """The new size of every axis, and its scale as the file gives it."""
    if op.kind == "Upsample" and op.opset < 9:
        given, sizes = np.asarray(op.attributes.get("scales", ()), np.float32), None
    else:
        position = 1 if op.opset < 11 else 2
        given, sizes = op.optional_at(position, "the list of scales"), op.optional_at(3, "the list of sizes")
    listed = sizes if sizes is not None and sizes.size else given
    rank = len(shape)
    axes = op.axes(rank) if op.opset >= 18 else None
    axes = tuple(range(rank)) if axes is None else axes
    if listed is None or listed.size != len(axes):
        raise InputError(f"{op}: scales or sizes for {0 if listed is None else listed.size} of {len(axes)} axes")
    new, scales = list(shape), [_ONE] * rank
    for axis, value in zip(axes, listed.reshape(-1), strict=True):
        if listed is sizes:
            new[axis] = int(value)
            scales[axis] = np.float32(int(value)) / np.float32(shape[axis])
        else:
            scales[axis] = np.float32(value if np.isfinite(value) else 0)
            new[axis] = int(np.floor(np.float32(shape[axis]) * scales[axis]))
        if not (0 < new[axis] < 2**31 and scales[axis] > 0):
            raise InputError(f"{op}: axis {axis} of size {shape[axis]} to size {new[axis]}; expected a positive size")
    return new, scales


def _coordinates(op: Operation, size: int, out: int, scale: np.float32) -> np.ndarray:
    """Where the new elements lie among the old ones, float32."""
    x = np.arange(out, dtype=np.float32)
    kind = op.text("coordinate_transformation_mode", "half_pixel") if op.opset >= 11 else "asymmetric"
    match kind:
        case "asymmetric":
            return x / scale
        case "half_pixel":
            return (x + _HALF) / scale - _HALF
        case "pytorch_half_pixel":
            return (x + _HALF) / scale - _HALF if out > 1 else np.zeros(1, np.float32)
        case "tf_half_pixel_for_nn":
            return (x + _HALF) / scale
        case "align_corners":
            return x * np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.zeros(1, np.float32)
        case "half_pixel_symmetric":
            # the centre stays where it is, although the size was rounded down
            adjusted = np.float32(out) / (scale * np.float32(size))
            return np.float32(size) * _HALF * (_ONE - adjusted) + (x + _HALF) / scale - _HALF
        case _:
            raise Refused(f"coordinate_transformation_mode={kind}; expected one that does not crop")


def _nearest(op: Operation, size: int, places: np.ndarray) -> np.ndarray:
    kind = op.text("nearest_mode", "round_prefer_floor") if op.opset >= 11 else "floor"
    match kind:
        case "round_prefer_floor":
            found = np.ceil(places - _HALF)
        case "round_prefer_ceil":
            found = np.floor(places + _HALF)
        case "floor":
            found = np.floor(places)
        case "ceil":
            found = np.ceil(places)
        case _:
            raise InputError(f"{op}: nearest_mode={kind} does not exist")
    return np.eye(size, dtype=np.float32)[np.clip(found, 0, size - 1).astype(np.int64)]


def _linear(size: int, places: np.ndarray) -> np.ndarray:
    places = np.clip(places, 0, size - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    part = places - low.astype(np.float32)
    matrix, rows = np.zeros((len(places), size), np.float32), np.arange(len(places))
    np.add.at(matrix, (rows, low), _ONE - part)
    np.add.at(matrix, (rows, high), part)
    return matrix
