"""The graph under construction: target nodes mixed with pieces that a later pattern must recognise.

A traced array lives in an entry of the draft through a `layout`: for each of its axes the entry's per-sample axis, or
`BATCH`, or `UNIT` for an axis of size one the entry does not have. Transposes and `x[..., None]` only change layouts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from slth_compile.frontends.constants import Constant
from slth_compile.frontends.sites import Site
from slth_compile.graph import nodes as n
from slth_compile.graph.shapes import infer_shape

BATCH = -1
UNIT = -2

Layout = tuple[int, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Activation:
    """A traced array that depends on the input: an entry seen through a layout."""

    entry: int
    layout: Layout


Value = Activation | Constant


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Elementwise(n.Node):
    """`x operation constant` (`rsub`: `constant - x`); `layout` places the constant's axes."""

    operation: str
    constant: Constant
    layout: Layout


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pairwise(n.Node):
    """An operation on two activations, the second broadcast: its axis `i` is axis `axes[i]` of the first."""

    operation: str
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Repeated(n.Node):
    """An activation repeated along new axes: its axis `i` is axis `axes[i]` of the result.

    Attributes:
        axes: Ascending.
        reason: Why no node stands for it where no pattern makes it superfluous.
    """

    axes: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Select(n.Node):
    """`where(inputs[0], inputs[2], inputs[1])`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sum(n.Node):
    """Sum over `axes`, which are removed."""

    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WindowSum(n.Node):
    """Sum over windows of the spatial axes, zero padded."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: n.Pairs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Unknown(n.Node):
    """An operation no target node stands for; refused unless a pattern or nothing needs it.

    Attributes:
        operation: The primitive.
        reason: Why not and what to do; empty where the name says it.
    """

    operation: str
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A node of the draft, its per-sample shape, its site and the parameters that went into it."""

    node: n.Node
    shape: Shape
    site: Site
    leaves: frozenset[str] = frozenset()


class Draft:
    """Entries in topological order; grows only.

    Args:
        batch: The batch size of the trace; None where the model takes no batch axis.
    """

    def __init__(self, batch: int | None) -> None:
        """An empty draft."""
        self.batch = batch
        self.entries: list[Entry] = []
        self.site = Site()

    def add(self, node: n.Node, shape: Shape | None = None, leaves: frozenset[str] = frozenset()) -> int:
        """Position of the node's new entry, or of an older one that holds the same values."""
        inputs = [self.entries[i] for i in node.inputs]
        shape = infer_shape(node, [entry.shape for entry in inputs]) if shape is None else shape
        if isinstance(node, n.Transpose | n.Reshape):
            before = inputs[0].node
            if (
                isinstance(before, n.Softmax | n.LogSoftmax)
                and (axis := _axis_after(node, before, inputs[0].shape)) >= 0
            ):
                # a softmax stays at the output: the rearrangement goes before it
                moved = self.add(dataclasses.replace(node, inputs=before.inputs))
                return self.add(dataclasses.replace(before, inputs=(moved,), axis=axis))
            if isinstance(node, n.Transpose) and isinstance(before, n.Transpose):
                composed = tuple(before.permutation[axis] for axis in node.permutation)
                return self.add(n.Transpose(inputs=before.inputs, permutation=composed, name=node.name))
            if isinstance(node, n.Reshape) and isinstance(before, n.Reshape):
                return self.add(n.Reshape(inputs=before.inputs, shape=node.shape, name=node.name))
            if shape == inputs[0].shape and (
                isinstance(node, n.Reshape) or node.permutation == tuple(range(len(shape)))
            ):
                return node.inputs[0]
        self.entries.append(Entry(node, shape, self.site, leaves))
        return len(self.entries) - 1

    def shape(self, x: Activation) -> Shape:
        """The shape of the traced array."""
        return tuple(self._size(x, place) for place in x.layout)

    def arrange(self, x: Activation, axes: Sequence[int]) -> int:
        """Position of an entry whose axes are the traced array's `axes`, in that order.

        `axes` lists every axis that the entry has; unit axes may be listed or left out.
        """
        places = [x.layout[axis] for axis in axes]
        entry = x.entry
        permutation = tuple(place for place in places if place >= 0)
        if permutation != tuple(range(len(permutation))):
            entry = self.add(n.Transpose(inputs=(entry,), permutation=permutation))
        if UNIT in places:
            entry = self.add(n.Reshape(inputs=(entry,), shape=tuple(self._size(x, place) for place in places)))
        return entry

    def canonical(self, x: Activation) -> Activation:
        """The same array from an entry that has all its axes but the batch axis, in order."""
        axes = [axis for axis, place in enumerate(x.layout) if place != BATCH]
        return Activation(self.arrange(x, axes), layout_like(x.layout))

    def squeezed(self, x: Activation) -> Activation:
        """The same array from an entry that has no axis of size one."""
        shape = self.entries[x.entry].shape
        kept = [axis for axis, size in enumerate(shape) if size != 1]
        entry = self.add(n.Reshape(inputs=(x.entry,), shape=tuple(shape[axis] for axis in kept)))
        return Activation(entry, tuple(renumbered(place, kept) for place in x.layout))

    def unknown(self, operation: str, operands: Sequence[Value], shape: Shape, reason: str = "") -> Activation:
        """A stand-in of the right shape for what cannot be compiled, so that the rest is looked at too."""
        activations = [x for x in operands if isinstance(x, Activation)]
        leaves = frozenset().union(*(x.leaves for x in operands if isinstance(x, Constant)))
        layout: Layout | None = next((x.layout for x in activations if self.shape(x) == shape), None)
        if layout is None:
            batched = any(BATCH in x.layout for x in activations) and shape[:1] == (self.batch,)
            layout = (BATCH, *range(len(shape) - 1)) if batched else tuple(range(len(shape)))
        sizes = {place: size for place, size in zip(layout, shape, strict=True) if place >= 0}
        node = Unknown(inputs=tuple(x.entry for x in activations), operation=operation, reason=reason)
        return Activation(self.add(node, tuple(sizes[i] for i in range(len(sizes))), leaves), layout)

    def _size(self, x: Activation, place: int) -> int:
        if place == BATCH:
            assert self.batch is not None
            return self.batch
        return 1 if place == UNIT else self.entries[x.entry].shape[place]


def layout_like(layout: Layout) -> Layout:
    """The layout of an entry that has every axis but the batch axis, in order."""
    places = iter(range(len(layout)))
    return tuple(BATCH if place == BATCH else next(places) for place in layout)


def renumbered(place: int, kept: Sequence[int]) -> int:
    """A place after only the entry's axes `kept` are left; a removed one becomes `UNIT`."""
    if place < 0:
        return place
    return kept.index(place) if place in kept else UNIT


def _axis_after(node: n.Transpose | n.Reshape, softmax: Any, shape: Shape) -> int:
    axis = softmax.axis
    if isinstance(node, n.Transpose):
        return node.permutation.index(axis)
    before = math.prod(shape[:axis])
    found = [i for i, size in enumerate(node.shape) if size == shape[axis] and math.prod(node.shape[:i]) == before]
    return found[0] if found else -1
