"""What rounding can do at a node: to float64 evaluations of both networks, and to a backward pass through it.

An evaluation in float64, in any order of summation, is off at each node by a little that is charged there; then x and d
of both real and evaluated activations are within one enclosure. Rounding a pass's coefficients `T^T A` by
`gamma |T|^T |A|` costs at most `|A| (gamma |T| m)`, m the magnitudes of what they multiply: one product a node.
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
from slth_compile.checker.operations import State
from slth_compile.checker.products import products

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


def layer_noise(halves: Halves, operand: State, readers: int) -> Noise:
    """Of a weighted layer."""
    pair = halves.pair
    x, d = _magnitudes(operand)
    target, errors = pair.target.magnitude, halves.error_magnitude

    def images(values: np.ndarray, matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
        return products(pair.layer, values, [], matrices)

    wx, wx_off = images(x, [target, pair.target.noise])
    wd, wd_off = images(d, [target, pair.target.noise]) if operand.d is not None else (np.zeros_like(wx),) * 2
    ez, ez_off = images(x + d, [errors, halves.error_noise])
    b, e, b_off, e_off = (np.zeros(1),) * 4
    if pair.bias is not None:
        b, b_off = np.abs(pair.bias[0]) + pair.bias[1], pair.bias[1]
    if pair.bias_error is not None:
        e, e_off = np.abs(pair.bias_error[0]) + pair.bias_error[1], pair.bias_error[1]
    terms = math.prod(target.shape[:2]) + target.shape[2]
    unit = gamma(2 * terms + readers + 32) * (1 + 2.0**-30)
    own_x = unit * (wx + b)
    own_d = own_x + unit * (wx + wd + ez + b + e)
    rest = gamma(wx.size + 32)
    charge_x = 2 * own_x + wx_off + b_off + rest * b
    charge_d = own_d + unit * (wd + ez + e) + wd_off + ez_off + e_off + rest * e
    grown = 1 + gamma(terms + 32)
    return Noise((own_x, own_d), (charge_x * grown, charge_d * grown), _flushed(operand))


def unweighted_noise(node: Node, operands: Sequence[State], image: State, readers: int) -> Noise:
    """Of an operation without weights.

    Args:
        node: The operation.
        operands: Enclosures of its operands.
        image: That of its output.
        readers: At least as many as read any of its operands: their coefficients add up, a rounding each.
    """
    flushed = sum(map(_flushed, operands))
    pairs = [_magnitudes(state) for state in operands]
    x, d = pairs[0]
    terms = 0
    evaluated = True
    match node.op:
        case "add" | "larger":
            (x, d), (x2, d2) = pairs
            x, d = up(x + x2), up(d + d2)
            evaluated = node.op == "add"
        case "relu" | "leaky_relu":
            evaluated = node.op == "leaky_relu"
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
        case _:
            # Elements moved; those that are read several times meet a rounding each time.
            indices = node.fields.get("indices", ())
            terms = math.prod(int(np.unique(own, return_counts=True)[1].max()) for own in indices)
            if readers == 1 and terms == 1:
                return Noise(None, None, 0.0)
            (x, d), evaluated = _magnitudes(image), False
    evaluation = (gamma(terms + 8) * x, gamma(terms + 8) * (2 * x + d)) if evaluated else None
    unit = gamma(terms + readers + 16)
    charge_x, charge_d = unit * x, unit * d
    if node.op == "affine" and "shift" in node.arrays:
        charge_x = charge_x + gamma(x.size + 32) * np.abs(node.arrays["shift"])
    if evaluation is not None:
        charge_x, charge_d = charge_x + evaluation[0], charge_d + evaluation[1]
    return Noise(evaluation, (up(charge_x), up(charge_d)), flushed)


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


def _flushed(state: State) -> float:
    return TINY * (1 + sum(float(m.sum()) for m in _magnitudes(state)))
