"""The graph as the backward pass reads it: maxima of a few, behind which relus wait, in place of pools."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.graph.shapes import infer_shape

TOGETHER = 4
"""Elements whose maximum is taken at once at most: their pairs are what is bounded."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Larger(n.Node):
    """`max(a, b) = relu(a - b) + b` of two nodes of one shape, elementwise."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Largest(n.Node):
    """The maximum of three or four nodes of one shape, elementwise."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Take(n.Node):
    """Of every axis, the elements at the given indices; None leaves an axis as it is."""

    indices: tuple[tuple[int, ...] | None, ...]


MAXIMA = (Larger, Largest)
"""Operations that stand for maxima."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """A graph that computes what another one does in real arithmetic, without pools and maxima.

    Attributes:
        nodes: Its nodes, in topological order.
        shapes: Per-sample shape of every node.
        outputs: Positions of the output leaves.
        origin: For every weighted node, its position in the graph it was made from.
        maxima: For every node that ends what a pool or maximum became: that node as it was, and what it is taken of.
    """

    nodes: tuple[n.Node, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    origin: dict[int, int]
    maxima: dict[int, tuple[n.MaxPool | n.Maximum, int]]


def maximum_before(nodes: Sequence[n.Node], k: int) -> int | None:
    """The `Largest` that a relu at `k` reads, so that both are `max(x_1, ..., x_n, 0)`; None for anything else."""
    (operand,) = nodes[k].inputs if isinstance(nodes[k], n.Relu) else (None,)
    return operand if operand is not None and isinstance(nodes[operand], Largest) else None


def rewritten(graph: Graph) -> Rewritten:
    """The graph with every maximum as a tree of `Largest` and `Larger`, taken before the relu that it follows.

    `max(relu(a), relu(b)) = relu(max(a, b))`: one relu for a window instead of one an element, and `a - b` of two
    pre-activations is linear in what precedes them.

    Args:
        graph: The folded target.
    """
    made = _Made()
    places: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, n.MaxPool | n.Maximum):
            places[i] = _maximum(made, graph, i, places)
            continue
        moved = dataclasses.replace(node, inputs=tuple(places[j] for j in node.inputs))
        places[i] = made.add(moved)
        if isinstance(node, n.Convolution | n.Dense):
            made.origin[places[i]] = i
    return _pruned(made, tuple(places[i] for i in graph.outputs))


class _Made:
    def __init__(self) -> None:
        self.nodes: list[n.Node] = []
        self.shapes: list[tuple[int, ...]] = []
        self.origin: dict[int, int] = {}
        self.maxima: dict[int, tuple[n.MaxPool | n.Maximum, int]] = {}

    def add(self, node: n.Node) -> int:
        operands = [self.shapes[j] for j in node.inputs]
        if isinstance(node, Larger | Largest):
            shape = operands[0]
        elif isinstance(node, Take):
            shape = tuple(s if i is None else len(i) for s, i in zip(operands[0], node.indices, strict=True))
        else:
            shape = infer_shape(node, operands)
        self.nodes.append(node)
        self.shapes.append(shape)
        return len(self.nodes) - 1


def _maximum(made: _Made, graph: Graph, i: int, places: dict[int, int]) -> int:
    node, before = graph.nodes[i], graph.nodes[graph.nodes[i].inputs[0]]
    source = places[node.inputs[0]]
    swaps = isinstance(before, n.Relu | n.LeakyRelu)
    if swaps:
        source = made.nodes[source].inputs[0]
    found = _tree(made, _elements(made, node, source))
    assert isinstance(node, n.MaxPool | n.Maximum)
    made.maxima[found] = node, source
    return made.add(dataclasses.replace(before, inputs=(found,))) if swaps else found


def _elements(made: _Made, node: n.Node, source: int) -> list[int]:
    """Nodes whose elementwise maximum the maximum of `node` is."""
    shape = made.shapes[source]
    if isinstance(node, n.MaxPool):
        # A tap in the padding reads the element next to it, which is in the window as well.
        axes = [
            [_indices(tap, size, step, pads, taps) for tap in range(taps)]
            for size, step, pads, taps in zip(shape[:-1], node.stride, node.padding, node.window, strict=True)
        ]
        return [made.add(Take(inputs=(source,), indices=(*taps, None))) for taps in itertools.product(*axes)]
    assert isinstance(node, n.Maximum)
    parts = [source]
    for axis in sorted(node.axes, reverse=True):
        parts = _halved(made, parts, axis)
    kept = tuple(s for a, s in enumerate(shape) if a not in node.axes)
    return [made.add(n.Reshape(inputs=(_tree(made, parts),), shape=kept))]


def _indices(tap: int, size: int, stride: int, padding: tuple[int, int], taps: int) -> tuple[int, ...]:
    count = (size + sum(padding) - taps) // stride + 1
    return tuple(min(max(tap - padding[0] + o * stride, 0), size - 1) for o in range(count))


def _halved(made: _Made, parts: list[int], axis: int) -> list[int]:
    """The maximum along an axis, left with size 1: halves are compared until one element is left."""
    (source,) = parts
    while (size := made.shapes[source][axis]) > 1:
        half = (size + 1) // 2
        ends = [tuple(range(half)), tuple(range(size - half, size))]
        none = (None,) * len(made.shapes[source])
        halves = [made.add(Take(inputs=(source,), indices=(*none[:axis], taken, *none[axis + 1 :]))) for taken in ends]
        source = made.add(Larger(inputs=tuple(halves)))
    return [source]


def _tree(made: _Made, parts: Sequence[int]) -> int:
    parts = list(parts)
    while len(parts) > 1:
        parts = [_one(made, tuple(parts[k : k + TOGETHER])) for k in range(0, len(parts), TOGETHER)]
    return parts[0]


def _one(made: _Made, parts: tuple[int, ...]) -> int:
    """The maximum of a few nodes."""
    if len(parts) == 1:
        return parts[0]
    return made.add(Larger(inputs=parts) if len(parts) == 2 else Largest(inputs=parts))


def _pruned(made: _Made, outputs: tuple[int, ...]) -> Rewritten:
    """Without nodes that nothing reads any more."""
    needed = {0, *outputs}
    for i in reversed(range(len(made.nodes))):
        if i in needed:
            needed.update(made.nodes[i].inputs)
    order = sorted(needed)
    places = {i: place for place, i in enumerate(order)}
    nodes = tuple(
        dataclasses.replace(made.nodes[i], inputs=tuple(places[j] for j in made.nodes[i].inputs)) for i in order
    )
    origin = {places[i]: j for i, j in made.origin.items() if i in places}
    maxima = {places[i]: (node, places[j]) for i, (node, j) in made.maxima.items() if i in places}
    shapes = tuple(made.shapes[i] for i in order)
    return Rewritten(nodes, shapes, tuple(places[i] for i in outputs), origin, maxima)
