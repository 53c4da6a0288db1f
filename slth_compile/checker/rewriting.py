"""A folded graph whose maxima are trees of maxima of two to four, for the backward bounds.

Three operations stand for every pool of maxima: `take`, whose field `indices` names the elements read along each axis,
`larger`, `max(a, b) = relu(a - b) + b`, and `largest` of three or four nodes. A maximum behind a relu becomes a relu
behind a maximum of its operand, as `max(relu(a), relu(b)) = relu(max(a, b))`: fewer relus, and differences of maxima
that are not cut off at zero.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.matrices import PairLayer
from slth_compile.errors import VerificationError

MAX_KEPT = 1 << 24
"""Most elements of one sample at all nodes together: the backward bounds keep them all."""

MAX_NODES = 1 << 16
"""Most operations."""

RELUS = ("relu", "leaky_relu")
_MAXIMA = ("max_pool", "maximum")
_MOST = 4  # nodes whose maximum one operation takes


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """The graph without `max_pool` and `maximum`, and its layers by their new positions.

    Attributes:
        graph: Its operations; weighted ones carry no arrays.
        layers: Every weighted layer in both networks.
        maxima: The operation that each tree of maxima stands for, by its end, and what it was applied to.
    """

    graph: Graph
    layers: Mapping[int, PairLayer]
    maxima: Mapping[int, tuple[Node, int]]


def rewrite(folded: Folded, layers: Mapping[int, PairLayer]) -> Rewritten:
    """The graph without pools of maxima, equal to the folded one for every input.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph.

    Raises:
        VerificationError: A sample has more than `MAX_KEPT` elements, or there are more than `MAX_NODES` operations.
    """
    old = folded.graph.nodes
    readers: list[set[str]] = [set() for _ in old]
    for node in old:
        for i in node.inputs:
            readers[i].add(node.op)
    for i in folded.graph.outputs:
        readers[i].add("output")
    build = _Builder()
    where: list[int] = []
    moved: dict[int, PairLayer] = {}
    maxima: dict[int, tuple[Node, int]] = {}
    for position, node in enumerate(old):
        if node.op in RELUS and readers[position] <= {*_MAXIMA}:
            where.append(-1)  # it goes behind the maxima that read it
            continue
        if node.op in _MAXIMA:
            before = old[node.inputs[0]]
            behind = before.op in RELUS
            maximum = build.max_pool if node.op == "max_pool" else build.maximum
            operand = where[before.inputs[0] if behind else node.inputs[0]]
            found = maximum(operand, node)
            maxima[found] = node, operand
            if behind:
                found = build.add(dataclasses.replace(before, inputs=(found,), shape=node.shape))
        else:
            found = build.add(dataclasses.replace(node, inputs=tuple(where[i] for i in node.inputs)))
        if position in layers:
            moved[found] = layers[position]
        where.append(found)
    return Rewritten(Graph(tuple(build.nodes), tuple(where[i] for i in folded.graph.outputs)), moved, maxima)


class _Builder:
    """Operations so far, and how many elements they have."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._elements = 0

    def add(self, node: Node) -> int:
        self._elements += math.prod(node.shape)
        if self._elements > MAX_KEPT or len(self.nodes) == MAX_NODES:
            found = f"{self._elements} activations in {len(self.nodes) + 1} operations"
            raise VerificationError(
                "target", f"a sample needs {found}, expected at most {MAX_KEPT} in {MAX_NODES} for a backward bound"
            )
        self.nodes.append(node)
        return len(self.nodes) - 1

    def max_pool(self, operand: int, node: Node) -> int:
        """One `take` a tap, in C order; a tap in the padding reads the nearest real element, of its window too."""
        fields, shape = node.fields, self.nodes[operand].shape
        last = np.arange(shape[-1])
        parts = []
        for tap in itertools.product(*map(range, fields["window"])):
            axes = zip(tap, fields["stride"], fields["padding"], shape, node.shape, strict=False)
            spatial = [np.clip(t - low + np.arange(n) * s, 0, size - 1) for t, s, (low, _), size, n in axes]
            parts.append(self.take(operand, (*spatial, last)))
        return self._tree(parts)

    def maximum(self, operand: int, node: Node) -> int:
        for axis in sorted(node.fields["axes"], reverse=True):
            while (size := self.nodes[operand].shape[axis]) > 1:
                half = (size + 1) // 2
                first, second = (self._part(operand, axis, start, half) for start in (0, size - half))
                operand = self._larger(first, second)
        return self.add(Node("reshape", (operand,), {"shape": node.shape}, {}, node.shape))

    def take(self, operand: int, indices: Sequence[np.ndarray]) -> int:
        shape = tuple(map(len, indices))
        return self.add(Node("take", (operand,), {"indices": tuple(indices)}, {}, shape))

    def _part(self, operand: int, axis: int, start: int, size: int) -> int:
        indices = [np.arange(n) for n in self.nodes[operand].shape]
        indices[axis] = start + np.arange(size)
        return self.take(operand, indices)

    def _tree(self, parts: list[int]) -> int:
        while len(parts) > 1:
            some = [parts[k : k + _MOST] for k in range(0, len(parts), _MOST)]
            parts = [own[0] if len(own) == 1 else self._maximum_of(own) for own in some]
        return parts[0]

    def _maximum_of(self, parts: list[int]) -> int:
        if len(parts) == 2:
            return self._larger(*parts)
        return self.add(Node("largest", tuple(parts), {}, {}, self.nodes[parts[0]].shape))

    def _larger(self, a: int, b: int) -> int:
        return self.add(Node("larger", (a, b), {}, {}, self.nodes[a].shape))
