"""`DequantizeLinear` and `QuantizeLinear` of weights, in the dtypes of the file."""

from __future__ import annotations

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.onnx.operation import Operation, Refused


def array_at(op: Operation, position: int) -> np.ndarray:
    """The value of a constant operand."""
    return op.constant_at(position, f"operand {position + 1}").value


def dequantised(op: Operation) -> np.ndarray:
    """`(x - zero_point) * scale`, in the scale's dtype."""
    x, scale = array_at(op, 0), array_at(op, 1)
    zero = np.zeros((), np.int64) if op.operand(2) is None else array_at(op, 2).astype(np.int64)
    scale, zero = _along_axis(op, x, scale), _along_axis(op, x, zero)
    return (x.astype(np.int64) - zero).astype(scale.dtype) * scale


def quantised(op: Operation) -> np.ndarray:
    """`round(x / scale) + zero_point`, half to even, kept inside the type."""
    x, scale = array_at(op, 0), array_at(op, 1)
    zero = np.zeros((), np.uint8) if op.operand(2) is None else array_at(op, 2)
    if zero.dtype.name not in ("int8", "uint8", "int16", "uint16"):
        raise Refused(f"a quantisation to {zero.dtype}; expected integers of 8 or 16 bits")
    ends = np.iinfo(zero.dtype)
    whole = np.rint(x / _along_axis(op, x, scale)) + _along_axis(op, x, zero).astype(x.dtype)
    return np.clip(whole, ends.min, ends.max).astype(zero.dtype)


def _along_axis(op: Operation, x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A factor for the whole array, for each entry of one axis, or for each block of entries."""
    block = op.integer("block_size", 0)
    if factor.size == 1 and factor.ndim <= 1:
        return factor.reshape(())
    axis = op.axis(op.integer("axis", 1), x.ndim)
    if block > 0:
        if factor.ndim != x.ndim:
            raise InputError(f"{op}: factors of shape {factor.shape} for blocks of shape {x.shape}")
        rest = tuple(size for i, size in enumerate(factor.shape) if i != axis)
        if rest != (*x.shape[:axis], *x.shape[axis + 1 :]) or -(-x.shape[axis] // block) != factor.shape[axis]:
            raise InputError(f"{op}: factors of shape {factor.shape}, blocks of {block} of shape {x.shape}")
        return np.take(factor, np.arange(x.shape[axis]) // block, axis)
    if factor.shape != (x.shape[axis],):
        raise InputError(f"{op}: factors of shape {factor.shape} for axis {axis} of shape {x.shape}")
    return factor.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
