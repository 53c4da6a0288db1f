"""Products of enclosed activations with enclosed matrices, over explicit patches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from slth_compile.checker.arithmetic import BLOCK
from slth_compile.checker.fold import Layer
from slth_compile.checker.matrices import Ball, Matrix

_BUDGET = 1 << 19  # elements of patches at a time: about the cache, and a bound on memory


def enclosed_product(
    layer: Layer, centre: np.ndarray, radius: np.ndarray | None, matrices: Sequence[Matrix]
) -> list[Ball]:
    """`(centre, radius)` of `A a` for each matrix `A` and every `a` in `centre +- radius`.

    With `A = A_c +- A_r`, `|A a - fl(A_c a_c)| <= (gamma |A_c| + A_r) |a_c| + (|A_c| + A_r) a_r`. The radii hold before
    the rounding of their own sums, which is relative and left to the caller.

    Args:
        layer: Geometry.
        centre: Shape `(n, spatial..., C)`.
        radius: The same shape, non-negative; None for zero.
        matrices: `Matrix` of the layer's groups.
    """
    plain, noise = [m.centre for m in matrices], [m.noise for m in matrices]
    found = products(layer, centre, plain, noise)
    centres, radii = found[: len(plain)], found[len(plain) :]
    if radius is not None:
        for total, more in zip(radii, products(layer, radius, [m.magnitude for m in matrices], []), strict=True):
            total += more
    return list(zip(centres, radii, strict=True))


def products(
    layer: Layer, x: np.ndarray, plain: Sequence[np.ndarray], absolute: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """`conv(x, A)` for A in `plain`, then `conv(|x|, A)` for A in `absolute`.

    Args:
        layer: Geometry.
        x: Shape `(n, spatial..., C)`.
        plain: Matrices `(groups, K, S/groups)`, K over taps and a group's input channels.
        absolute: Likewise.

    Returns:
        Arrays `(n, spatial'..., S)`. Each element is a sum of `K` products, none of which meets more than
        `roundings(K)` roundings.
    """
    windows = windows_of(layer, x)
    groups, terms, outputs = (*plain, *absolute)[0].shape
    positions = windows.shape[1 : 1 + x.ndim - 1]
    found = [np.empty((*positions, groups, outputs)) for _ in (*plain, *absolute)]
    for tile in tiles(positions, groups * terms):
        patches = np.ascontiguousarray(windows[(slice(None), *tile)])
        extent = patches.shape[1 : x.ndim]
        patches = patches.reshape(groups, -1, terms)
        for place, matrix in enumerate((*plain, *absolute)):
            if place == len(plain):
                patches = np.abs(patches)  # a copy: a dense layer's patches are the activations themselves
            result = np.matmul(patches[..., :BLOCK], matrix[:, :BLOCK])
            for start in range(BLOCK, terms, BLOCK):
                block = slice(start, start + BLOCK)
                result += np.matmul(patches[..., block], matrix[:, block])
            found[place][tile] = np.moveaxis(result, 0, 1).reshape(*extent, groups, outputs)
    return [array.reshape(*positions, groups * outputs) for array in found]


def windows_of(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A view of shape `(groups, n, spatial'..., taps..., C/groups)`."""
    rank = len(layer.taps)
    if any(sum(pair) for pair in layer.padding):
        x = np.pad(x, ((0, 0), *layer.padding, (0, 0)))
    x = x.reshape(*x.shape[:-1], layer.groups, -1)
    if rank:
        spans = tuple((k - 1) * d + 1 for k, d in zip(layer.taps, layer.dilation, strict=True))
        x = sliding_window_view(x, spans, axis=tuple(range(1, rank + 1)))  # type: ignore[call-overload]
        strides = tuple(slice(None, None, s) for s in layer.stride)
        dilations = tuple(slice(None, None, d) for d in layer.dilation)
        x = x[(slice(None), *strides, slice(None), slice(None), *dilations)]
    order = (rank + 1, *range(rank + 1), *range(rank + 3, 2 * rank + 3), rank + 2)
    return x.transpose(order)


def tiles(positions: tuple[int, ...], size: int):
    """Slices of the position axes, of at most `_BUDGET` patch elements where one position allows it."""
    room = max(1, _BUDGET // size)
    steps: list[int] = []
    for extent in reversed(positions):
        steps.append(min(extent, room))
        room = max(1, room // extent)
    axes = [range(0, n, s) for n, s in zip(positions, reversed(steps), strict=True)]
    for corner in itertools.product(*axes):
        yield tuple(slice(a, min(n, a + axis.step)) for a, axis, n in zip(corner, axes, positions, strict=True))
