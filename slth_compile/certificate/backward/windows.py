"""What rows that start close together see on their way to the input: a window of every node, where it is not whole.

A chunk of rows whose elements lie between `o` and `o + extent - 1` along an axis sees, of a node k, the positions
`low_k[o] ... high_k[o]`: all that a chain of taps leads to, cut to the node. Its window begins at

    corner_k[o] = min(low_k[o], size_k - window_k),   window_k >= max_o (high_k[o] - low_k[o]) + 1,

one size for all chunks, so that they share programs. Coefficients outside what is seen are zero.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.certificate import propagate
from slth_compile.certificate.backward.layers import read_by, turned
from slth_compile.certificate.backward.places import Into
from slth_compile.certificate.backward.rewrite import MAXIMA, Rewritten, Take
from slth_compile.certificate.backward.walk import ACTIVATIONS, STOPS
from slth_compile.graph import nodes as n

QUANTUM = 8
"""Windows are multiples of so many positions along an axis, so that there are few programs."""

_IN_PLACE = (*ACTIVATIONS, *MAXIMA, *STOPS, n.Add, n.Affine, n.Dense)

Range = tuple[np.ndarray, np.ndarray]
Ranges = tuple[Range, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of all nodes that rows from one start pass, where they are not whole.

    Attributes:
        net: The network.
        passed: The nodes that rows pass.
        sizes: Spatial shapes of the windows, by node.
        corners: For every axis, the corner by where a chunk begins along it, likewise.
    """

    net: Rewritten
    passed: tuple[int, ...]
    sizes: dict[int, tuple[int, ...]]
    corners: dict[int, tuple[np.ndarray, ...]]

    def spatial(self, k: int) -> tuple[int, ...]:
        """The spatial shape of forms of node `k`."""
        return self.sizes.get(k, self.net.shapes[k][:-1])

    def elements(self, k: int) -> int:
        """Coefficients of one row at node `k`."""
        return math.prod(self.spatial(k)) * math.prod(self.net.shapes[k][-1:])

    @functools.cached_property
    def _found(self) -> dict[tuple[int, int], tuple[tuple[np.ndarray, ...], Any, Any] | None]:
        return {}

    def into(self, k: int, i: int, origin: tuple[int, ...]) -> Into | None:
        """From the window of node `k` into that of its operand `i`; None where they are one and the same.

        Args:
            k: The node.
            i: The operand.
            origin: Where the chunk begins.
        """
        if (k, i) not in self._found:
            self._found[k, i] = self._way(k, i)
        if (way := self._found[k, i]) is None:
            return None
        offsets, sizes, margins = way
        return Into(self.corner(i, origin), _at(offsets, origin), sizes, margins)

    def corner(self, k: int, origin: tuple[int, ...]) -> tuple[np.int32, ...]:
        """Where the window of node `k` begins."""
        return _at(self.corners[k], origin) if k in self.corners else tuple(np.int32(0) for _ in origin)

    def _way(self, k: int, i: int) -> Any:
        """Offsets by where a chunk begins, the size and the margins of `Into`."""
        node, before, after = self.net.nodes[k], self.sizes[k], self.spatial(i)
        room, offsets = after, []
        if isinstance(node, n.Convolution):
            room = read_by(turned(node), after)
        for axis, (own, count) in enumerate(zip(self.corners[k], before, strict=True)):
            other = self.corners[i][axis] if i in self.corners else np.zeros_like(own)
            step, shift = _step(node, axis)
            offset = own * step + shift + (room[axis] - after[axis]) - other
            end = offset + (count - 1) * step + 1
            offsets.append((offset, (max(0, -offset.min()), max(0, end.max() - room[axis]))))
        if moves(node) is False and before == after and not any(offset.any() for offset, _ in offsets):
            return None
        return tuple(o for o, _ in offsets), after, tuple((int(a), int(b)) for _, (a, b) in offsets)


def windows_of(net: Rewritten, starts: Sequence[int], extents: tuple[int, ...]) -> Windows:
    """The windows of rows that start close together.

    Args:
        net: The network.
        starts: The nodes of one shape that rows start at.
        extents: How many positions chunks take along every axis.
    """
    shape = net.shapes[starts[0]][:-1]
    begin = tuple(
        (np.arange(size), np.minimum(np.arange(size) + extent - 1, size - 1))
        for size, extent in zip(shape, extents, strict=True)
    )
    seen: dict[int, Ranges | None] = dict.fromkeys(starts, begin or None)
    sizes, corners = {}, {}
    for k in range(max(starts), -1, -1):
        if k not in seen:
            continue
        node, ranges = net.nodes[k], seen[k]
        operands = () if isinstance(node, STOPS) else node.inputs
        before = [None if ranges is None else _before(net, node, i, ranges) for i in operands]
        found = None if ranges is None or None in before else _window(net.shapes[k][:-1], ranges)
        if found is not None:
            sizes[k], corners[k] = found
        for i, one in zip(operands, before, strict=True):
            one = None if found is None else one
            seen[i] = one if i not in seen else _hull(seen[i], one)
    return Windows(net, tuple(seen), sizes, corners)


def _window(shape: tuple[int, ...], ranges: Ranges) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]] | None:
    """Sizes and corners; None where the whole node is seen."""
    most = max(int((high - low).max()) + 1 for low, high in ranges)
    most = -(-most // QUANTUM) * QUANTUM
    if most >= max(shape):
        return None
    sizes = tuple(min(most, size) for size in shape)
    return sizes, tuple(
        np.minimum(low, size - window) for (low, _), size, window in zip(ranges, shape, sizes, strict=True)
    )


def _before(net: Rewritten, node: n.Node, i: int, ranges: Ranges) -> Ranges | None:
    """What is seen of operand `i`; None for all of it, and where windows end."""
    shape = net.shapes[i][:-1]
    if len(shape) != len(ranges) or moves(node) is None:
        return None
    if isinstance(node, n.Concatenate) and node.axis < len(shape):  # positions of several operands, not channels
        return None
    return tuple(_axis(node, axis, shape[axis], *pair) for axis, pair in enumerate(ranges))


def moves(node: n.Node) -> bool | None:
    """Whether a node moves positions; None where windows end there."""
    match node:
        case n.Convolution():
            return True
        case Take():
            return True if None not in node.indices[:-1] and node.indices[-1] is None else None
        case n.Slice():
            return True if node.start[-1] == 0 and node.stride[-1] == 1 else None
        case n.Pad():
            return None if any(map(any, node.padding[:-1])) else False
        case n.Concatenate():
            return False
        case _:
            return False if isinstance(node, _IN_PLACE) else None


def _step(node: n.Node, axis: int) -> tuple[int, int]:
    """`step, shift`: a node's position `p` has its first tap at `p * step + shift` of the operand."""
    if isinstance(node, n.Convolution):
        return node.stride[axis], -node.padding[axis][0]
    if isinstance(node, n.Slice):
        return node.stride[axis], node.start[axis]
    return 1, 0


def _axis(node: n.Node, axis: int, size: int, low: np.ndarray, high: np.ndarray) -> Range:
    """What is seen of the operand along an axis."""
    if isinstance(node, Take):
        indices = np.asarray(node.indices[axis])
        return indices[low], indices[high]
    step, shift = _step(node, axis)
    reach = 0
    if isinstance(node, n.Convolution):
        window = propagate.window_of(node)
        reach = (window.taps[axis] - 1) * window.dilation[axis]
    ends = low * step + shift, high * step + shift + reach
    return np.clip(ends[0], 0, size - 1), np.clip(ends[1], 0, size - 1)


def _hull(a: Ranges | None, b: Ranges | None) -> Ranges | None:
    if a is None or b is None:
        return None
    ends = zip(a, b, strict=True)
    return tuple((np.minimum(p[0], q[0]), np.maximum(p[1], q[1])) for p, q in ends)


def _at(tables: Sequence[np.ndarray], origin: tuple[int, ...]) -> tuple[np.int32, ...]:
    return tuple(np.int32(table[o]) for table, o in zip(tables, origin, strict=True))
