"""Numbers for what a walk bounds, which a witness names.

The targets of a rewritten graph are its activations, each for its pre-activation, in order of
position, and then its output leaves in order. A unit is `base[t] + element` of such an activation; a row is
`((base[t] + element) * 2 + part) * 2 + side`, part 0 for x and 1 for d, side 0 for `+v` and 1 for `-v`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from slth_compile.checker.bends import BENDS
from slth_compile.checker.graph import Graph
from slth_compile.checker.rewriting import RELUS

PARTS = ("x", "d")
SPLIT = (*RELUS, "larger")
"""Operations whose kink is at zero, so that a unit can be split there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """What a walk bounds, in order.

    Attributes:
        nodes: Position of the activation, or of the output, of every target.
        base: Elements of all targets before each, and of all, int64 `(targets + 1,)`.
        bends: How many activations there are; the other targets are output leaves.
        can_split: Whether the units of each activation can be split.
        of_bend: The target of an activation, by position.
        of_output: The first leaf of an output, by position.
    """

    nodes: tuple[int, ...]
    base: np.ndarray
    bends: int
    can_split: np.ndarray
    of_bend: Mapping[int, int]
    of_output: Mapping[int, int]

    def before(self) -> np.ndarray:
        """For every target, one past the last unit that is known when it is bounded, int64 `(targets,)`.

        These are the activations before its own; those up to its node, where it is an output.
        """
        bends, nodes = np.array(self.nodes[: self.bends], np.int64), np.array(self.nodes, np.int64)
        known = np.searchsorted(bends, nodes, "right")
        known[: self.bends] = np.arange(self.bends)
        return self.base[known]


def targets_of(graph: Graph) -> Targets:
    """The targets of a rewritten graph."""
    bends = [k for k, node in enumerate(graph.nodes) if node.op in BENDS]
    nodes = (*bends, *graph.outputs)
    sizes = [math.prod(graph.nodes[k].shape) for k in nodes]
    first: dict[int, int] = {}
    for leaf, k in enumerate(graph.outputs):
        first.setdefault(k, len(bends) + leaf)
    return Targets(
        nodes=nodes,
        base=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64),
        bends=len(bends),
        can_split=np.array([graph.nodes[k].op in SPLIT for k in bends], bool),
        of_bend={k: t for t, k in enumerate(bends)},
        of_output=first,
    )


def row_numbers(targets: Targets, target: int, elements: np.ndarray, part: str) -> np.ndarray:
    """The rows of `+v` and `-v` of some elements of a target, int64 `(n, 2)`."""
    return ((targets.base[target] + elements) * 2 + PARTS.index(part))[:, None] * 2 + np.arange(2)
