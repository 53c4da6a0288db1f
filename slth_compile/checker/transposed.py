"""Coefficients of an operation's output turned into coefficients of its operand: `A (T v) = (T^T A) v`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.checker.fold import Layer
from slth_compile.checker.forms import Box, crop, full, spread
from slth_compile.checker.graph import Node
from slth_compile.checker.operations import along
from slth_compile.checker.pooling import window_counts
from slth_compile.errors import VerificationError

Shape = tuple[int, ...]

_BUDGET = 1 << 19  # elements of products at a time: about the cache, and a bound on memory


def transposed_layer(
    layer: Layer, shape: Shape, box: Box, terms: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[Box, np.ndarray]:
    """The sum of `K^T A` over pairs of matrices and coefficients, on its box.

    Args:
        layer: Geometry.
        shape: Of the operand.
        box: Where the coefficients are: all channels of some positions.
        terms: Matrices `(groups, P C/groups, S/groups)` and coefficients `(extents..., S, rows)`.

    Returns:
        The box and the coefficients; no term of any sum meets more than `S/groups + P + 4` roundings.
    """
    rank, groups, taps = len(layer.taps), layer.groups, math.prod(layer.taps)
    size, outputs = terms[0][0].shape[1:]
    rows = terms[0][1].shape[-1]
    channels = size // taps
    extents = tuple(b - a for a, b in box[:rank])
    split = [(kernel, a.reshape(*extents, groups, outputs, rows)) for kernel, a in terms]

    def product(part: tuple[slice, ...]) -> np.ndarray:
        found = [np.matmul(kernel, a[part]) for kernel, a in split]
        for more in found[1:]:
            found[0] += more
        return found[0]

    plain = taps == 1 and all(s == 1 for s in layer.stride) and not any(map(sum, layer.padding))
    if plain:
        return (*box[:rank], (0, groups * size)), product(()).reshape(*extents, groups * size, rows)
    axes = list(zip(layer.taps, layer.dilation, layer.stride, layer.padding, box[:rank], strict=True))
    low = [a * s - p for _, _, s, (p, _), (a, _) in axes]
    spans = [(b - a - 1) * s + (k - 1) * d + 1 for k, d, s, _, (a, b) in axes]
    found = np.zeros((*spans, groups, channels, rows))
    step = max(1, _BUDGET // (math.prod(extents[1:]) * groups * size * rows))
    for start in range(0, extents[0], step):
        stop = min(extents[0], start + step)
        parts = product((slice(start, stop),)).reshape(stop - start, *extents[1:], groups, taps, channels, rows)
        counts, first = (stop - start, *extents[1:]), (start, *(0 for _ in extents[1:]))
        for place, tap in enumerate(itertools.product(*map(range, layer.taps))):
            reads = zip(tap, layer.dilation, layer.stride, first, counts, strict=True)
            where = tuple(slice(t * d + f * s, t * d + (f + n - 1) * s + 1, s) for t, d, s, f, n in reads)
            found[where] += parts[..., place, :, :]
    inside, found = _inside(low, found.reshape(*spans, groups * channels, rows), shape[:rank])
    return (*inside, (0, groups * channels)), found


def transposed(node: Node, shapes: Sequence[Shape], box: Box, a: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """For every operand of a linear operation without weights, its box and coefficients.

    Args:
        node: The operation.
        shapes: Of its operands.
        box: Where the coefficients are.
        a: Coefficients of its output.
    """
    shape = shapes[0]
    match node.op:
        case "add":
            return [(box, a), (box, a)]
        case "concatenate":
            return _concatenated(node.fields["axis"], shapes, box, a)
        case "affine":
            scale = node.arrays.get("scale")
            if scale is None:
                return [(box, a)]
            own = np.broadcast_to(scale, shape)
            return [(box, a * crop(own, box)[..., None])]
        case "reshape":
            return [(full(shape), spread(a, box, full(node.shape)).reshape(*shape, a.shape[-1]))]
        case "transpose":
            order = np.argsort(node.fields["permutation"])
            return [(tuple(box[axis] for axis in order), a.transpose(*order, a.ndim - 1))]
        case "pad":
            low = [first - before for (first, _), (before, _) in zip(box, node.fields["padding"], strict=True)]
            return [_inside(low, a, shape)]
        case "dilate":
            return [_thinned(node.fields["factors"], box, a)]
        case "resample":
            matrix, axis = node.arrays["matrix"], node.fields["axis"]
            rows = matrix[slice(*box[axis])]
            return [((*box[:axis], (0, matrix.shape[1]), *box[axis + 1 :]), along(rows.T, a, axis))]
        case "slice" | "take":
            return [_scattered(_indices(node), box, a)]
        case "average_pool":
            return [_pooled(node, shape, box, a)]
        case "mean":
            return [_mean(node, shape, box, a)]
    raise VerificationError("target", f"no backward bound is known for the operation '{node.op}'")


def _inside(low: Sequence[int], a: np.ndarray, shape: Shape) -> tuple[Box, np.ndarray]:
    """The part of coefficients that begin at `low` which lies within a shape; at least one element on every axis."""
    box, reads = [], []
    for first, extent, size in zip(low, a.shape, shape, strict=False):
        start, stop = max(first, 0), min(first + extent, size)
        if start >= stop:  # all of it is padding
            return tuple((0, 1) for _ in shape), np.zeros((*(1 for _ in shape), *a.shape[len(shape) :]))
        box.append((start, stop))
        reads.append((start - first, stop - first))
    return tuple(box), crop(a, tuple(reads))


def _indices(node: Node) -> tuple[np.ndarray, ...]:
    if node.op == "take":
        return node.fields["indices"]
    ends = zip(node.fields["start"], node.fields["limit"], node.fields["stride"], strict=True)
    return tuple(np.arange(*end) for end in ends)


def _scattered(indices: Sequence[np.ndarray], box: Box, a: np.ndarray) -> tuple[Box, np.ndarray]:
    """Coefficients at the elements that are read, which do not descend along any axis; those read twice add up."""
    found: list[tuple[int, int]] = []
    for axis, (own, (start, stop)) in enumerate(zip(indices, box, strict=True)):
        reads = own[start:stop]
        low, high = int(reads[0]), int(reads[-1]) + 1
        found.append((low, high))
        if np.array_equal(reads, np.arange(low, high)):
            continue
        spaced = np.zeros((*a.shape[:axis], high - low, *a.shape[axis + 1 :]))
        before = (slice(None),) * axis
        for place, read in enumerate(reads.tolist()):
            spaced[(*before, read - low)] += a[(*before, place)]
        a = spaced
    return tuple(found), a


def _thinned(factors: Sequence[int], box: Box, a: np.ndarray) -> tuple[Box, np.ndarray]:
    """Coefficients at the elements that zeros were put between; those of the zeros are dropped."""
    into, reads = [], []
    for factor, (start, stop) in zip(factors, box, strict=True):
        first, last = -(-start // factor), (stop - 1) // factor
        if last < first:  # zeros alone
            return tuple((0, 1) for _ in box), np.zeros((*(1 for _ in box), a.shape[-1]))
        into.append((first, last + 1))
        reads.append(slice(first * factor - start, None, factor))
    return tuple(into), a[tuple(reads)]


def _concatenated(axis: int, shapes: Sequence[Shape], box: Box, a: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    found, offset = [], 0
    for shape in shapes:
        low = [first - (offset if i == axis else 0) for i, (first, _) in enumerate(box)]
        found.append(_inside(low, a, shape))
        offset += shape[axis]
    return found


def _pooled(node: Node, shape: Shape, box: Box, a: np.ndarray) -> tuple[Box, np.ndarray]:
    fields = node.fields
    counts = np.broadcast_to(window_counts(fields, shape), (1, *node.shape))[0]
    a = a / crop(counts, box)[..., None]
    axes = list(zip(fields["window"], fields["stride"], fields["padding"], box[:-1], strict=True))
    low = [first * s - p for _, s, (p, _), (first, _) in axes]
    spans = [(b - first - 1) * s + k for k, s, _, (first, b) in axes]
    found = np.zeros((*spans, *a.shape[-2:]))
    for tap in itertools.product(*map(range, fields["window"])):
        reads = zip(tap, fields["stride"], a.shape, strict=False)
        found[tuple(slice(t, t + (n - 1) * s + 1, s) for t, s, n in reads)] += a
    inside, found = _inside(low, found, shape[:-1])
    return (*inside, box[-1]), found


def _mean(node: Node, shape: Shape, box: Box, a: np.ndarray) -> tuple[Box, np.ndarray]:
    axes = node.fields["axes"]
    rest = iter(box)
    into = tuple((0, size) if axis in axes else next(rest) for axis, size in enumerate(shape))
    a = np.expand_dims(a / float(math.prod(shape[axis] for axis in axes)), axes)
    return into, np.broadcast_to(a, (*(high - low for low, high in into), a.shape[-1]))
