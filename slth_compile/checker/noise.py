"""What rounding can do to a backward pass at a node.

Rounding a pass's coefficients `T^T A` by `gamma |T|^T |A|` costs at most `|A| (gamma |T| m)`, m the magnitudes of what
they multiply: one product a node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.checker import pooling
from slth_compile.checker.arithmetic import TINY, Interval, gamma, up
from slth_compile.checker.bends import ACTIVATIONS, ENDS
from slth_compile.checker.execution import moved_by
from slth_compile.checker.graph import Node
from slth_compile.checker.halves import Halves
from slth_compile.checker.matrices import Ball
from slth_compile.checker.operations import State, along
from slth_compile.checker.products import products
from slth_compile.errors import VerificationError

Arrays = tuple[np.ndarray, np.ndarray]


class Noise(NamedTuple):
    """Of x and of d at every element of a node's output, shape `(1, *shape)`.

    Attributes:
        charge: What a coefficient of one costs in a backward pass; None for nothing.
        flushed: What coefficients lost to subnormal numbers cost at most, whatever they are.
    """

    charge: Arrays | None
    flushed: float


def layer_noise(halves: Halves, operand: State, readers: int) -> Noise:
    """Of a weighted layer; arguments as for `unweighted_noise`."""
    pair = halves.pair
    x, d = _magnitudes(operand)
    target, errors = pair.target.magnitude, halves.error_magnitude

    def images(values: np.ndarray, matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
        return products(pair.layer, values, [], matrices)

    wx, wx_off = images(x, [target, halves.target_off])
    wd, wd_off = images(d, [target, halves.target_off]) if operand.d is not None else (np.zeros_like(wx),) * 2
    ez, ez_off = images(x + d, [errors, halves.error_off])
    (b, b_off), (e, e_off) = (_bias(ball) for ball in (pair.bias, pair.bias_error))
    reads, outputs = target.shape[1:]
    turned = gamma(outputs + math.prod(pair.layer.taps) + readers + 8)
    summed = gamma(wx.size + 8)
    charge_x = turned * wx + wx_off + b_off + summed * b
    charge_d = turned * (wd + ez) + wd_off + ez_off + e_off + summed * e
    grown = 1 + gamma(reads + 16)
    return Noise((charge_x * grown, charge_d * grown), _flushed(operand))


def unweighted_noise(node: Node, operands: Sequence[State], image: State, readers: int) -> Noise:
    """Of an operation without weights.

    Args:
        node: The operation.
        operands: Enclosures of its operands.
        image: That of its output.
        readers: At least as many as read any of its operands: their coefficients add up, a rounding each.

    Raises:
        VerificationError: The operation is none that a pass can go through.
    """
    flushed = sum(map(_flushed, operands))
    pairs = [_magnitudes(state) for state in operands]
    x, d = pairs[0]
    terms = 0
    match node.op:
        case "add" | "larger":
            (x, d), (x2, d2) = pairs
            x, d = up(x + x2), up(d + d2)
        case "largest":
            # Each coefficient is multiplied by a weight, which is not above one.
            x, d = (np.sum(own, axis=0) * (1 + gamma(8)) for own in zip(*pairs, strict=True))
        case "rounded":
            pass
        case op if op in ACTIVATIONS:
            pass
        case "affine":
            scale, shift = (node.arrays.get(key) for key in ("scale", "shift"))
            if scale is not None:
                x, d = up(x * np.abs(scale)), up(d * np.abs(scale))
            if shift is not None:
                x = up(x + np.abs(shift))
        case "average_pool":
            terms = int(np.prod(node.fields["window"]))
            x, d = (pooling.average_pool(Interval(v, v), node.fields).upper for v in (x, d))
        case "mean":
            axes = tuple(axis + 1 for axis in node.fields["axes"])
            terms = math.prod(x.shape[axis] for axis in axes)
            x, d = (v.sum(axis=axes) / terms * (1 + gamma(terms + 8)) + TINY for v in (x, d))
        case "resample":
            matrix, axis = np.abs(node.arrays["matrix"]), node.fields["axis"] + 1
            terms = max(matrix.shape)
            x, d = (along(matrix, v, axis) * (1 + gamma(terms + 8)) + TINY for v in (x, d))
        case "slice" | "pad" | "dilate" | "reshape" | "transpose" | "take" | "concatenate":
            # Elements moved; those that are read several times meet a rounding each time.
            indices = node.fields.get("indices", ())
            terms = math.prod(int(np.unique(own, return_counts=True)[1].max()) for own in indices)
            if readers == 1 and terms == 1:
                return Noise(None, 0.0)
            x, d = _magnitudes(image)
        case op if op in ENDS:
            return Noise(None, 0.0)  # no form passes
        case _:
            raise VerificationError("target", f"no backward bound is known for the operation '{node.op}'")
    unit = gamma(terms + readers + 8)
    charge_x, charge_d = unit * x, unit * d
    if node.op == "affine" and "shift" in node.arrays:
        charge_x = charge_x + gamma(x.size + 8) * np.abs(node.arrays["shift"])
    if node.op == "rounded":
        off_x, off_d = moved_by(*operands[0], node)
        charge_x, charge_d = up(charge_x + off_x), up(charge_d + off_d)
    return Noise((up(charge_x), up(charge_d)), flushed)


def _magnitudes(state: State) -> Arrays:
    """The largest |x| and |d|; zeros where d is None."""
    x = np.maximum(np.abs(state.x.lower), np.abs(state.x.upper))
    return x, np.zeros_like(x) if state.d is None else np.maximum(np.abs(state.d.lower), np.abs(state.d.upper))


def _bias(ball: Ball | None) -> Arrays:
    """Its magnitude and its radius."""
    return (np.abs(ball[0]) + ball[1], ball[1]) if ball is not None else (np.zeros(1), np.zeros(1))


def _flushed(state: State) -> float:
    return TINY * (1 + sum(float(m.sum()) for m in _magnitudes(state)))
