"""What rounding can do at a node: to a backward pass through it and, on request, to evaluations of both networks.

Rounding a pass's coefficients `T^T A` by `gamma |T|^T |A|` costs at most `|A| (gamma |T| m)`, m the magnitudes of what
they multiply: one product a node. An evaluation in float64, in any order of summation, is off at each node by
`gamma (|T| m)` too; where that is added to the enclosures and charged, real and evaluated activations are within both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.checker import pooling
from slth_compile.checker.arithmetic import TINY, Interval, down, gamma, up
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
        evaluation: How far an evaluation is from the operation on its own operands; None for nothing.
        charge: What a coefficient of one costs in a backward pass, the evaluation included; None for nothing.
        flushed: What coefficients lost to subnormal numbers cost at most, whatever they are.
    """

    evaluation: Arrays | None
    charge: Arrays | None
    flushed: float


def layer_noise(halves: Halves, operand: State, readers: int, evaluation: bool) -> Noise:
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
    reads, outputs = math.prod(target.shape[:2]) // target.shape[0], target.shape[2]
    turned = gamma(outputs + math.prod(pair.layer.taps) + readers + 8)
    summed = gamma(wx.size + 8)
    charge_x = turned * wx + wx_off + b_off + summed * b
    charge_d = turned * (wd + ez) + wd_off + ez_off + e_off + summed * e
    grown = 1 + gamma(reads + 16)
    evaluations = None
    if evaluation:
        unit = gamma(reads + 4) * grown
        own_x = unit * (wx + b)
        evaluations = own_x, own_x + unit * (wx + wd + ez + b + e)
        charge_x, charge_d = charge_x + evaluations[0], charge_d + evaluations[1]
    return Noise(evaluations, (charge_x * grown, charge_d * grown), _flushed(operand))


def unweighted_noise(node: Node, operands: Sequence[State], image: State, readers: int, evaluation: bool) -> Noise:
    """Of an operation without weights.

    Args:
        node: The operation.
        operands: Enclosures of its operands.
        image: That of its output.
        readers: At least as many as read any of its operands: their coefficients add up, a rounding each.
        evaluation: Whether activations evaluated in float64 are to be enclosed too.

    Raises:
        VerificationError: The operation is none that a pass can go through.
    """
    flushed = sum(map(_flushed, operands))
    pairs = [_magnitudes(state) for state in operands]
    x, d = pairs[0]
    terms = 0
    rounds = True
    match node.op:
        case "add" | "larger":
            (x, d), (x2, d2) = pairs
            x, d = up(x + x2), up(d + d2)
            rounds = node.op == "add"
        case "relu" | "leaky_relu":
            rounds = node.op == "leaky_relu"
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
                return Noise(None, None, 0.0)
            (x, d), rounds = _magnitudes(image), False
        case "softmax" | "log_softmax":
            return Noise(None, None, 0.0)  # outputs, which no pass enters
        case _:
            raise VerificationError("target", f"no backward bound is known for the operation '{node.op}'")
    unit = gamma(terms + readers + 8)
    charge_x, charge_d = unit * x, unit * d
    if node.op == "affine" and "shift" in node.arrays:
        charge_x = charge_x + gamma(x.size + 8) * np.abs(node.arrays["shift"])
    evaluations = None
    if evaluation and rounds:
        own = gamma(terms + 4)
        evaluations = own * x, own * (2 * x + d)
        charge_x, charge_d = charge_x + evaluations[0], charge_d + evaluations[1]
    return Noise(evaluations, (up(charge_x), up(charge_d)), flushed)


def evaluated(state: State, noise: Noise) -> State:
    """Enclosures of real and of evaluated activations, from those of the operation's exact images."""
    if noise.evaluation is None:
        return state
    pairs = zip(state, noise.evaluation, strict=True)
    x, d = (None if v is None else Interval(down(v.lower - off), up(v.upper + off)) for v, off in pairs)
    assert x is not None
    return State(x, d)


def _magnitudes(state: State) -> Arrays:
    """The largest |x| and |d|; zeros where d is None."""
    x = np.maximum(np.abs(state.x.lower), np.abs(state.x.upper))
    return x, np.zeros_like(x) if state.d is None else np.maximum(np.abs(state.d.lower), np.abs(state.d.upper))


def _bias(ball: Ball | None) -> Arrays:
    """Its magnitude and its radius."""
    return (np.abs(ball[0]) + ball[1], ball[1]) if ball is not None else (np.zeros(1), np.zeros(1))


def _flushed(state: State) -> float:
    return TINY * (1 + sum(float(m.sum()) for m in _magnitudes(state)))
