"""The order in which rows of a pass are taken, so that those of a chunk see little; and where each chunk is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.certificate.backward.networks import CHUNK_BYTES, MOST_ROWS, Networks
from slth_compile.certificate.backward.places import At, Into, places_of
from slth_compile.certificate.backward.windows import Windows, moves, windows_of

WORTH = 2**26
"""Coefficients that windows must save: what compiling for other shapes costs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Where a chunk of rows is at every node it passes.

    Attributes:
        sample: Its rows' samples.
        windows: What it sees; None for whole nodes.
        origin: Where it begins.
    """

    sample: Any
    windows: Windows | None = None
    origin: tuple[int, ...] = ()

    def at(self, k: int) -> At:
        """Where the rows are at node `k`."""
        w = self.windows
        if w is None or k not in w.sizes:
            return At(self.sample)
        node = w.net.nodes[k]
        into = w.into(k, node.inputs[0], self.origin) if moves(node) else None
        return At(self.sample, w.corner(k, self.origin), into)

    def onto(self, k: int, i: int) -> Into | None:
        """How a form that node `k` left where it was gets into the window of its operand `i`; None if it is there."""
        w = self.windows
        if w is None or k not in w.sizes or moves(w.net.nodes[k]):
            return None
        return w.into(k, i, self.origin)

    def spatial(self, k: int, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial shape of forms of node `k`, `whole` where it is seen whole."""
        return whole if self.windows is None else self.windows.sizes.get(k, whole)

    def element(self, k: int, shape: tuple[int, ...], elements: np.ndarray) -> np.ndarray:
        """Where elements of node `k`, counted in C order, are in what is seen of it, channels in front; int32."""
        w = self.windows
        if w is None or k not in w.sizes:
            return places_of(shape)[elements].astype(np.int32)
        *spatial, channel = np.unravel_index(elements, shape)
        inside = [at - corner for at, corner in zip(spatial, w.corner(k, self.origin), strict=True)]
        return np.ravel_multi_index((channel, *inside), (shape[-1], *w.sizes[k])).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Tour:
    """An order of rows in which those that are close follow each other.

    Attributes:
        order: The rows.
        size: How many make a chunk.
        windows: What chunks see.
        origins: Where each chunk begins, `(chunks, axes)`.
    """

    order: np.ndarray
    size: int
    windows: Windows
    origins: np.ndarray


def tour_of(both: Networks, starts: Sequence[int], elements: np.ndarray) -> Tour | None:
    """The tour of rows of one sample; None where windows would save too little.

    Args:
        both: The networks.
        starts: The nodes of one shape that rows start at.
        elements: The rows' elements, in C order.
    """
    shape = both.net.shapes[starts[0]]
    least = windows_of(both.net, starts, (1,) * (len(shape) - 1))
    if len(elements) * _saved(least) < WORTH:
        return None
    spatial = np.stack(np.unravel_index(elements // shape[-1], shape[:-1]), axis=1)
    size = MOST_ROWS
    while True:
        order = _snake(spatial, size)
        places, first = spatial[order], np.arange(0, len(order), size)
        low = np.minimum.reduceat(places, first, axis=0)
        extents = (np.maximum.reduceat(places, first, axis=0) - low + 1).max(0)
        windows = windows_of(both.net, starts, tuple(map(int, extents)))
        if size <= both.rows or 16 * size * max(map(windows.elements, windows.passed)) <= CHUNK_BYTES:
            break
        size //= 2
    return Tour(order, size, windows, low) if len(elements) * _saved(windows) >= WORTH else None


def _saved(windows: Windows) -> int:
    """Coefficients that a row is spared."""
    return sum(math.prod(windows.net.shapes[k]) - windows.elements(k) for k in windows.passed)


def _snake(spatial: np.ndarray, size: int) -> np.ndarray:
    """The order along strips of the first axis, to and fro along the second, about as high as chunks are long."""
    if spatial.shape[1] == 1:
        return np.argsort(spatial[:, 0], kind="stable")
    different = len(np.unique(spatial, axis=0))
    height = max(1, round(math.sqrt(size * different / len(spatial))))
    strip, along = spatial[:, 0] // height, spatial[:, 1]
    return np.lexsort((spatial[:, 0], np.where(strip % 2, -along, along), strip))
