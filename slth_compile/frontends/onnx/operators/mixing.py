"""Operators that pick, repeat or interpolate along single axes: one constant matrix for each axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.draft import BATCH, Activation
from slth_compile.frontends.onnx.operation import Operation, Refused
from slth_compile.frontends.resampling import mixed

MAX_ENTRIES = 2**24


def mixed_axis(op: Operation, x: Activation, axis: int, out: int, matrix: Callable[[int], np.ndarray]) -> Activation:
    """`matrix @ x` along an axis.

    Args:
        op: The operation.
        x: The activation.
        axis: One of its axes, but the batch.
        out: The axis' new size.
        matrix: The matrix `(out, size)` for the axis' size, made only where it is not too large.
    """
    size = op.draft.shape(x)[axis]
    if x.layout[axis] == BATCH:
        raise Refused("it mixes or repeats the samples of a batch")
    if out < 1 or out * size > MAX_ENTRIES:
        raise InputError(f"{op}: an axis of size {size} to size {out}; expected a matrix of 1 to {MAX_ENTRIES} entries")
    return mixed(op.draft, x, axis, np.asarray(matrix(size), np.float32), op.name)


def picked(op: Operation, x: Activation, axis: int, places: np.ndarray) -> Activation:
    """The entries at `places` of an axis, in that order, repeated where they are named again."""
    return mixed_axis(op, x, axis, len(places), lambda size: np.eye(size, dtype=np.float32)[places])
