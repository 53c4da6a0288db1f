"""Weighted layers in fixed point: products of integer matrices, which float64 adds up exactly in any order.

A layer's weights are cut into limbs, `W = sum over j of W_j 2^(20 (head - j))`, and so are its inputs. Limbs of
magnitude 2^19 have products of 2^38: a sum of at most 2^13 stays below 2^52. Longer sums are carried in between.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slth_compile.checker import fixed_point
from slth_compile.checker.fixed_point import BITS, GUARD, Number, add, from_dyadic, from_floats, grown, times, unit
from slth_compile.checker.fold import Layer
from slth_compile.checker.matrices import Dyadic, PairLayer, grouped
from slth_compile.checker.products import products, tiles, windows_of
from slth_compile.errors import VerificationError

MOST_PRODUCTS = 1 << 13
"""Of limbs, in one sum."""

_EXTRA = 3  # limbs of constants below the last one of activations: these may reach 2^40 before that costs anything
# Limbs above those of a product: 2^79 of them can be added up, and no layer has as many.
_ROOM = 3
_LIMB = 2.0 ** (BITS - 1)


class Weights(NamedTuple):
    """A layer's matrices, one a group.

    Attributes:
        limbs: `[W_1 | W_2 | ...]`, the highest first, shape `(groups, K, limbs * S/groups)`.
        head: Position of the first limb.
        columns: Sums of their magnitudes along K, shape `(limbs, S)`.
        size: At least all `|W|`, shape `(groups, K, S/groups)`.
        error: Distance of any weight from its limbs at most.
    """

    limbs: np.ndarray
    head: int
    columns: np.ndarray
    size: np.ndarray
    error: float

    @property
    def depth(self) -> int:
        """How many limbs there are."""
        return len(self.columns)


class TargetWeights(NamedTuple):
    """A layer of f: the kernel before folding, and what each channel is multiplied by and moved by."""

    layer: Layer
    kernel: Weights
    scale: Number | None
    bias: Number | None


class TicketWeights(NamedTuple):
    """The layer in g: weights for positive and for negative input, or for all input, and the bias."""

    layer: Layer
    positive: Weights
    negative: Weights | None
    size: np.ndarray
    bias: Number | None


def target_weights(layer: Layer, tail: int) -> TargetWeights:
    """The layer of f for activations that are cut below `tail`."""
    if layer.scale is not None and layer.exact_scale is None:
        raise ValueError("the exact scale is needed, only an enclosure of it is known")
    tail -= _EXTRA
    bias = None
    if layer.bias is not None:
        exact = layer.exact_bias
        bias = from_floats(layer.bias.high[None], tail) if exact is None else fixed_point.from_rationals(exact, tail)
    scale = None if layer.exact_scale is None else fixed_point.from_rationals(layer.exact_scale, tail)
    kernel = grouped(layer.canonical(layer.kernel), layer.groups)
    return TargetWeights(layer, _weights(from_floats(kernel[None], tail), kernel), scale, bias)


def ticket_weights(pair: PairLayer, tail: int) -> TicketWeights:
    """The layer of g for activations that are cut below `tail`."""
    tail -= _EXTRA
    if pair.effective is None:
        raise ValueError("the ticket's exact weights are needed, only enclosures of their errors are known")
    positive, negative, bias = pair.effective
    groups = pair.layer.groups

    def weights(part: Dyadic) -> Weights:
        integers = grouped(part.integers, groups)
        floats = np.ldexp(integers.astype(np.float64), part.exponent)
        return _weights(from_dyadic(integers[None], part.exponent, tail), floats)

    above, below = weights(positive), None if negative is None else weights(negative)
    size = above.size if below is None else np.maximum(above.size, below.size)
    own_bias = None if bias is None else from_dyadic(bias.integers[None], bias.exponent, tail)
    return TicketWeights(pair.layer, above, below, size, own_bias)


def target_image(weights: TargetWeights, x: Number, tail: int) -> Number:
    """`scale (K x) + b`."""
    y = linear_image(weights.layer, weights.kernel, x, tail)
    y = y if weights.scale is None else times(y, weights.scale, tail)
    return y if weights.bias is None else add(y, weights.bias, tail)


def ticket_image(weights: TicketWeights, z: Number, tail: int) -> Number:
    """`K+ max(z, 0) + K- min(z, 0) + b`; a one-signed layer's z is never negative.

    An input that is off by r moves an output by no more than `max(|K+|, |K-|) r`.
    """
    if weights.negative is None:
        y = linear_image(weights.layer, weights.positive, z, tail)
    else:
        nothing = np.zeros_like(z.radius)
        above = Number(z.limbs * (fixed_point.value(z) > 0), z.head, nothing)
        below = Number(z.limbs - above.limbs, z.head, nothing)
        parts = (
            linear_image(weights.layer, weights.positive, above, tail),
            linear_image(weights.layer, weights.negative, below, tail),
        )
        y = add(*parts, tail)
        y = y._replace(radius=grown(y.radius + _spread(weights.layer, z.radius, weights.size)))
    return y if weights.bias is None else add(y, weights.bias, tail)


def linear_image(layer: Layer, weights: Weights, x: Number, tail: int) -> Number:
    """`W x` by convolution.

    The limbs of all products down to `GUARD` below `tail` are added up; what is left out is at most `2^19` times the
    sums of `|W_j|` for every limb of x, each in its units.
    """
    head, bottom = x.head + weights.head, tail - GUARD
    columns = weights.columns.shape[1]
    kept = [max(0, min(weights.depth, head - bottom + 1 - i)) for i in range(len(x.limbs))]
    dropped = np.zeros(columns)
    for i, some in enumerate(kept):
        for j in range(some, weights.depth):
            dropped += _LIMB * weights.columns[j] * unit(head - i - j)
    terms = weights.limbs.shape[1]
    if weights.error:
        largest = _LIMB * 1.0001 * unit(x.head) + float(x.radius.max())
        dropped += terms * largest * weights.error
    limbs = _products(layer, weights, x.limbs, kept)
    radius = dropped + (_spread(layer, x.radius, weights.size) if x.radius.any() else 0.0)
    return fixed_point.settled(limbs, head + _ROOM, grown(np.broadcast_to(radius, limbs.shape[2:])), tail)


def matrix_layer(matrix: np.ndarray, rank: int, tail: int) -> tuple[Layer, Weights]:
    """A float64 matrix `(S, C)` as a layer on the last axis, behind `rank` others."""
    kernel = np.ascontiguousarray(matrix.T)[None]
    layer = Layer(0, kernel, None, None, (1,) * rank, (1,) * rank, ((0, 0),) * rank, (1,) * rank, 1)
    return layer, _weights(from_floats(kernel[None], tail - _EXTRA), kernel)


def _products(layer: Layer, weights: Weights, x: np.ndarray, kept: list[int]) -> np.ndarray:
    """All sums of products of limb i of x with the first `kept[i]` limbs of W, with room above them."""
    groups, terms, _ = weights.limbs.shape
    outputs = weights.size.shape[2]
    planes = [windows_of(layer, plane) for plane in x]
    positions = planes[0].shape[1 : 1 + x.ndim - 2]
    size = max([_ROOM, *(_ROOM + i + some for i, some in enumerate(kept))])
    found = np.zeros((size, *positions, groups, outputs))
    step = max(1, MOST_PRODUCTS // max(1, min(len(x), weights.depth)))
    for start in range(0, terms, step):
        block = slice(start, start + step)
        for i, some in enumerate(kept):
            if not some:
                continue
            matrix = weights.limbs[:, block, : some * outputs]
            for tile in tiles(positions, groups * terms):
                patches = np.ascontiguousarray(planes[i][(slice(None), *tile)])
                extent = patches.shape[1 : x.ndim - 1]
                patches = patches.reshape(groups, -1, terms)
                result = np.matmul(patches[..., block], matrix).reshape(groups, *extent, some, outputs)
                result = np.moveaxis(result, (-2, 0), (0, -2))
                found[_ROOM + i : _ROOM + i + some][(slice(None), *tile)] += result
        if start + step < terms:
            found, more = fixed_point.carried(found, 0)
            if more:
                raise VerificationError("bound", "a sum of products leaves the limbs it has")
    return found.reshape(size, *positions, groups * outputs)


def _spread(layer: Layer, radius: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`|W| r`."""
    return products(layer, radius[None], [size], [])[0][0]


def _weights(number: Number, floats: np.ndarray) -> Weights:
    limbs = number.limbs[:, 0]
    count, groups, terms, outputs = limbs.shape
    joined = np.ascontiguousarray(limbs.transpose(1, 2, 0, 3)).reshape(groups, terms, count * outputs)
    columns = np.abs(limbs).sum(axis=2).reshape(count, groups * outputs)
    return Weights(joined, number.head, columns, grown(np.abs(floats)), float(number.radius.max()))
