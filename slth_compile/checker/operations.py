"""Images of a pair (x, d) under every operation without weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from slth_compile.checker import activations, execution, kinked, layer_norm, matrix_product, pooling, smooth, softmax
from slth_compile.checker.arithmetic import TINY, Interval, down, from_centre, gamma, to_centre, up
from slth_compile.checker.graph import Node
from slth_compile.errors import VerificationError


class State(NamedTuple):
    """Enclosures of x and of d, each of shape `(n, *shape)`; d is None where both networks agree."""

    x: Interval
    d: Interval | None


def shifted(x: Interval, d: Interval) -> Interval:
    """`x + d`, rounded outward."""
    return Interval(down(x.lower + d.lower), up(x.upper + d.upper))


def unweighted(node: Node, operands: list[State]) -> State:
    """The state of a node, from those of its operands."""
    x, d = operands[0]
    match node.op:
        case "relu" | "leaky_relu":
            slope = node.fields.get("slope", 0.0)
            change = None if d is None else activations.leaky_relu_difference(x, d, slope)
            return State(activations.leaky_relu(x, slope), change)
        case "rounded":
            return State(*execution.rounded(x, d, node))
        case "prelu":
            slopes = node.arrays["slopes"]
            return State(kinked.prelu(x, slopes), None if d is None else kinked.prelu_change(x, d, slopes))
        case "clip" | "hard_sigmoid":
            return _clip(node, x, d)
        case op if op in smooth.OPERATIONS:
            change = None if d is None else smooth.change(op, node.fields, x, d)
            return State(smooth.value(op, node.fields, x), change)
        case "multiply":
            return _multiply(*operands)
        case "matrix_product":
            (x, d), (x2, d2) = operands
            return State(matrix_product.product(x, x2), matrix_product.product_change(x, x2, d, d2))
        case "layer_norm":
            norm = node.fields["epsilon"], node.fields["centred"]
            change = None if d is None else layer_norm.layer_norm_change(x, d, *norm)
            return State(layer_norm.layer_norm(x, *norm), change)
        case "max_pool":
            change = None if d is None else pooling.max_pool_difference(x, shifted(x, d), d, node.fields)
            return State(pooling.max_pool(x, node.fields), change)
        case "maximum":
            axes = _batched(node.fields["axes"])
            change = None if d is None else activations.largest_difference(x.lower, x.upper, shifted(x, d), d, axes)
            return State(Interval(x.lower.max(axis=axes), x.upper.max(axis=axes)), change)
        case "softmax":
            axis = node.fields["axis"] + 1
            return State(softmax.softmax(x, axis), None if d is None else softmax.softmax_change(x, d, axis))
        case "log_softmax":
            change = None if d is None else activations.log_softmax_difference(d, node.fields["axis"] + 1)
            return State(x, change)  # nothing reads x here
        case "add":
            (x, d), (x2, d2) = operands
            return State(shifted(x, x2), d2 if d is None else d if d2 is None else shifted(d, d2))
        case "concatenate":
            axis = node.fields["axis"] + 1
            return State(_join([s.x for s in operands], axis), _join_differences(operands, axis))
        case _:
            return State(_linear(node, x, True), None if d is None else _linear(node, d, False))


def _clip(node: Node, x: Interval, d: Interval | None) -> State:
    """A clip; a hard sigmoid is one to [0, 1], behind an affine map."""
    low, high = node.fields.get("low"), node.fields.get("high")
    if node.op == "hard_sigmoid":
        slope, low, high = node.fields["slope"], 0.0, 1.0
        x = kinked.affine(x, slope, node.fields["offset"])
        d = None if d is None else kinked.affine(d, slope, 0.0)
    return State(kinked.clip(x, low, high), None if d is None else kinked.clip_change(x, d, low, high))


def _multiply(a: State, b: State) -> State:
    """`a b`, whose change is `a db + zb da`, and `za db + b da`: both enclosures hold."""
    image = _product(a.x, b.x)
    if a.d is None or b.d is None:
        return State(image, _product(a.d, b.x) if a.d is not None else b.d and _product(a.x, b.d))
    one = shifted(_product(a.x, b.d), _product(shifted(b.x, b.d), a.d))
    other = shifted(_product(shifted(a.x, a.d), b.d), _product(b.x, a.d))
    return State(image, Interval(np.maximum(one.lower, other.lower), np.minimum(one.upper, other.upper)))


def _product(a: Interval, b: Interval) -> Interval:
    ends = [p * q for p in a for q in b]
    return Interval(down(np.minimum.reduce(ends)), up(np.maximum.reduce(ends)))


def _linear(node: Node, x: Interval, shift: bool) -> Interval:
    """Operations that act on x and d alike, but for an affine's shift."""
    fields = node.fields
    match node.op:
        case "average_pool":
            return pooling.average_pool(x, fields)
        case "mean":
            axes = _batched(fields["axes"])
            count = math.prod(x.lower.shape[axis] for axis in axes)
            return pooling.mean_of_sums(x, lambda array: array.sum(axis=axes), float(count), count)
        case "affine":
            return _affine(x, node.arrays.get("scale"), node.arrays.get("shift") if shift else None)
        case "slice":
            ends = zip(fields["start"], fields["limit"], fields["stride"], strict=True)
            where = (slice(None), *(slice(*end) for end in ends))
            return Interval(*(array[where] for array in x))
        case "pad":
            return Interval(*(np.pad(array, ((0, 0), *fields["padding"])) for array in x))
        case "dilate":
            return Interval(*(dilated(array, (1, *fields["factors"])) for array in x))
        case "resample":
            return _resampled(x, fields["axis"] + 1, node.arrays["matrix"])
        case "reshape":
            return Interval(*(array.reshape(len(array), *fields["shape"]) for array in x))
        case "transpose":
            order = (0, *_batched(fields["permutation"]))
            return Interval(*(array.transpose(order) for array in x))
    raise VerificationError("target", f"no enclosure is known for the operation '{node.op}'")


def _affine(x: Interval, scale: np.ndarray | None, shift: np.ndarray | None) -> Interval:
    if scale is not None:
        ends = x.lower * scale, x.upper * scale
        x = Interval(down(np.minimum(*ends)), up(np.maximum(*ends)))
    return x if shift is None else Interval(down(x.lower + shift), up(x.upper + shift))


def dilated(array: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """The array with `factor - 1` zeros between neighbours on every axis."""
    found = np.zeros(tuple((size - 1) * factor + 1 for size, factor in zip(array.shape, factors, strict=True)))
    found[tuple(slice(None, None, factor) for factor in factors)] = array
    return found


def along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """The product of a matrix with an array along one of its axes; no term of a sum meets more than its length."""
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


def _resampled(x: Interval, axis: int, matrix: np.ndarray) -> Interval:
    """`M (c +- r) = M c +- |M| r`, and what the sums round: `gamma |M| |c|`, and as much of the radius."""
    centre, radius = to_centre(x)
    noise = gamma(matrix.shape[1] + 8)
    reach = along(np.abs(matrix), radius + 3 * noise * (np.abs(centre) + radius), axis)
    return from_centre(along(matrix, centre, axis), reach * (1 + 2 * noise) + TINY)


def _batched(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)


def _join(parts: list[Interval], axis: int) -> Interval:
    return Interval(*(np.concatenate(arrays, axis=axis) for arrays in zip(*parts, strict=True)))


def _join_differences(operands: list[State], axis: int) -> Interval | None:
    if all(state.d is None for state in operands):
        return None
    zeros = [Interval(np.zeros_like(s.x.lower), np.zeros_like(s.x.lower)) for s in operands]
    return _join([zero if s.d is None else s.d for s, zero in zip(operands, zeros, strict=True)], axis)
