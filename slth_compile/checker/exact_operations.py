"""Operations without weights on numbers in fixed point.

Each is evaluated at the numbers' limbs; how far it may be from the truth follows from how fast the operation changes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from slth_compile.checker import exact_layers, pooling
from slth_compile.checker.fixed_point import (
    Number,
    add,
    divided,
    from_floats,
    grown,
    magnitude,
    scaled_middle,
    settled,
    times,
    value,
)
from slth_compile.checker.graph import Node
from slth_compile.checker.operations import dilated

OPERATIONS = frozenset(
    "relu leaky_relu prelu clip hard_sigmoid hard_swish multiply max_pool maximum average_pool mean add".split()  # noqa: SIM905
    + "concatenate affine slice pad dilate resample reshape transpose".split()  # noqa: SIM905
)
"""All that are known here."""

_LARGEST_SLOPE = 1.5  # of a hard swish, whose derivative is (2 x + 3) / 6 between -3 and 3


def image(node: Node, operands: Sequence[Number], tail: int) -> Number:
    """The node's value.

    Args:
        node: One of `OPERATIONS`.
        operands: What it reads.
        tail: Position of the last limb that is kept.
    """
    x, fields = operands[0], node.fields
    match node.op:
        case "relu":
            return x._replace(limbs=x.limbs * (value(x) > 0))
        case "leaky_relu":
            return _prelu(x, np.array(fields["slope"]), tail)
        case "prelu":
            return _prelu(x, node.arrays["slopes"], tail)
        case "clip":
            return _clip(x, fields.get("low"), fields.get("high"), tail)
        case "hard_sigmoid":
            moved = add(times(x, _constant(fields["slope"], tail), tail), _constant(fields["offset"], tail), tail)
            return _clip(moved, 0.0, 1.0, tail)
        case "hard_swish":
            return _hard_swish(x, tail)
        case "multiply":
            return times(x, operands[1], tail)
        case "max_pool":
            return _max_pool(x, node)
        case "maximum":
            return _maximum(x, fields["axes"])
        case "average_pool":
            sums = _moved(x, lambda array, _: pooling.window_sums(array, fields))
            total = settled(sums.limbs, sums.head, grown(sums.radius), tail)
            counts = pooling.window_counts(fields, x.limbs.shape[2:])
            return divided(total, counts.reshape(counts.shape[1:]), tail)
        case "mean":
            count = math.prod(x.limbs.shape[axis + 2] for axis in fields["axes"])
            limbs = x.limbs.sum(axis=tuple(axis + 2 for axis in fields["axes"]))
            total = settled(limbs, x.head, grown(x.radius.sum(axis=fields["axes"])), tail)
            return divided(total, np.array(float(count)), tail)
        case "add":
            return add(x, operands[1], tail)
        case "affine":
            scale, shift = (node.arrays.get(key) for key in ("scale", "shift"))
            x = x if scale is None else times(x, _constant(scale, tail), tail)
            return x if shift is None else add(x, _constant(shift, tail), tail)
        case "resample":
            return _resample(x, fields["axis"], node.arrays["matrix"], tail)
        case "concatenate":
            return _concatenate(operands, fields["axis"])
        case _:
            return _moved(x, functools.partial(_placed, node))


def _placed(node: Node, array: np.ndarray, lead: int) -> np.ndarray:
    """Elements put elsewhere, behind `lead` axes that stay."""
    fields = node.fields
    match node.op:
        case "slice":
            ends = zip(fields["start"], fields["limit"], fields["stride"], strict=True)
            return array[(*[slice(None)] * lead, *(slice(*end) for end in ends))]
        case "pad":
            return np.pad(array, (*[(0, 0)] * lead, *fields["padding"]))
        case "dilate":
            return dilated(array, (*[1] * lead, *fields["factors"]))
        case "reshape":
            return array.reshape(*array.shape[:lead], *fields["shape"])
        case "transpose":
            return array.transpose((*range(lead), *(axis + lead for axis in fields["permutation"])))
    raise ValueError(f"'{node.op}' is no operation on fixed point")


def _moved(x: Number, move: Callable[[np.ndarray, int], np.ndarray]) -> Number:
    """What a linear map that is the same for limbs and radius makes of a number; it gets arrays with a batch axis."""
    limbs = np.stack([move(limb, 1) for limb in x.limbs])
    return Number(limbs, x.head, move(x.radius[None], 1)[0])


def _constant(values: float | np.ndarray, tail: int) -> Number:
    return from_floats(np.asarray(values, np.float64)[None], tail - 3)


def _prelu(x: Number, slopes: np.ndarray, tail: int) -> Number:
    """`x`, or `slopes x` below zero; it changes no faster than `max(1, |slopes|)`."""
    below = value(x) < 0
    above = Number(x.limbs * ~below, x.head, np.zeros_like(x.radius))
    steep = np.maximum(1.0, np.abs(slopes))
    constant = _constant(slopes, tail)
    other = Number(x.limbs * below, x.head, np.zeros_like(x.radius))
    reach = steep * x.radius + magnitude(other) * constant.radius
    return add(above, scaled_middle(other, constant, tail, reach), tail)


def _clip(x: Number, low: float | None, high: float | None, tail: int) -> Number:
    for end, sign in ((low, -1), (high, 1)):
        if end is not None:
            limit = from_floats(np.full((1, *x.radius.shape), end), tail)
            x = _chosen(value(add(x, limit, tail - 3, -1)) * sign > 0, limit, x)
    return x


def _hard_swish(x: Number, tail: int) -> Number:
    """`x clip(x + 3, 0, 6) / 6`."""
    middle = x._replace(radius=np.zeros_like(x.radius))
    share = _clip(add(middle, _constant(3.0, tail), tail), 0.0, 6.0, tail)
    found = divided(times(middle, share, tail), np.array(6.0), tail)
    return found._replace(radius=grown(found.radius + _LARGEST_SLOPE * x.radius))


def _chosen(first: np.ndarray, a: Number, b: Number) -> Number:
    """a where `first`, else b."""
    head, low = max(a.head, b.head), min(a.low, b.low)
    limbs = np.where(first, *(_spanning(number, head, low) for number in (a, b)))
    return Number(limbs, head, np.maximum(a.radius, b.radius))


def _spanning(x: Number, head: int, low: int) -> np.ndarray:
    """The limbs from position `head` down to `low`."""
    if (head, low) == (x.head, x.low):
        return x.limbs
    return np.pad(x.limbs, ((head - x.head, x.low - low), *[(0, 0)] * (x.limbs.ndim - 1)))


def _larger(a: Number, b: Number) -> Number:
    """The larger of the two."""
    return _chosen(value(add(a, b, min(a.low, b.low), -1)) > 0, a, b)


def _max_pool(x: Number, node: Node) -> Number:
    """Maxima over windows; padding is lower than any number of as many limbs."""
    fields = node.fields
    limbs = np.concatenate([np.zeros((1, *x.limbs.shape[1:])), x.limbs])
    fills = [-1.0, *[0.0] * len(x.limbs)]
    taps = zip(*(pooling.taps(limb, fields, fill) for limb, fill in zip(limbs, fills, strict=True)), strict=True)
    radii = pooling.taps(x.radius[None], fields, 0.0)
    numbers = (Number(np.stack(tap), x.head + 1, r[0]) for tap, r in zip(taps, radii, strict=True))
    found = functools.reduce(_larger, numbers)
    return found._replace(limbs=found.limbs[1:], head=found.head - 1)


def _maximum(x: Number, axes: Sequence[int]) -> Number:
    """The largest along axes, by halves."""
    count = math.prod(x.radius.shape[axis] for axis in axes)
    rest = [size for axis, size in enumerate(x.radius.shape) if axis not in axes]

    def front(array: np.ndarray, lead: int) -> np.ndarray:
        moved = np.moveaxis(array, [axis + lead for axis in axes], range(lead, lead + len(axes)))
        return moved.reshape(*array.shape[:lead], count, *rest)

    x = Number(front(x.limbs, 2), x.head, front(x.radius, 0))
    while x.radius.shape[0] > 1:
        half = x.radius.shape[0] // 2
        best = _larger(*(Number(x.limbs[:, :, s], x.head, x.radius[s]) for s in (slice(half), slice(half, 2 * half))))
        limbs = np.concatenate([best.limbs, x.limbs[:, :, 2 * half :]], axis=2)
        x = Number(limbs, x.head, np.concatenate([best.radius, x.radius[2 * half :]]))
    return Number(x.limbs[:, :, 0], x.head, x.radius[0])


def _resample(x: Number, axis: int, matrix: np.ndarray, tail: int) -> Number:
    layer, weights = exact_layers.matrix_layer(matrix, x.radius.ndim - 1, tail)
    last = Number(np.moveaxis(x.limbs, axis + 2, -1), x.head, np.moveaxis(x.radius, axis, -1))
    found = exact_layers.linear_image(layer, weights, last, tail)
    return Number(np.moveaxis(found.limbs, -1, axis + 2), found.head, np.moveaxis(found.radius, -1, axis))


def _concatenate(operands: Sequence[Number], axis: int) -> Number:
    head, low = max(x.head for x in operands), min(x.low for x in operands)
    limbs = np.concatenate([_spanning(x, head, low) for x in operands], axis=axis + 2)
    return Number(limbs, head, np.concatenate([x.radius for x in operands], axis=axis))
