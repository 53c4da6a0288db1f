"""Numbers for what is bounded, and for what bounds are split at: the same in every walk through a network.

Targets are every activation of the rewritten graph at which a walk tightens (of which the pre-activation is bounded),
`Larger` but not `Largest` among them, in order of position, then every output leaf (of a softmax, the operand is
bounded). Elements are counted in C order, one target after the other; a `unit` is the number of an activation's
element, and a `row`, one number that is bounded from above, is

    (number of the element * 2 + part) * 2 + side,   part 0 = x, 1 = d,   side 0 = +v, 1 = -v.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from slth_compile.certificate.backward.passes import Start
from slth_compile.certificate.backward.rewrite import Larger, Rewritten
from slth_compile.certificate.backward.walk import ACTIVATIONS
from slth_compile.graph import nodes as n

SPLITTABLE = (n.Relu, n.LeakyRelu, Larger)
"""Activations whose only kink is at zero."""


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """The numbering.

    Attributes:
        bends: Positions of the activations.
        leaves: Positions of the output leaves.
        base: Elements before every target, and in the end all of them; shape `(targets + 1,)`.
    """

    bends: tuple[int, ...]
    leaves: tuple[int, ...]
    base: np.ndarray

    def first(self, start: Start) -> int | None:
        """The number of the first element that a pass starts at; None for what has no number."""
        if start.reader is None:
            return None
        if start.reader in self.bends and start.node != start.reader:
            return self.unit(start.reader)
        if start.reader in self.leaves:
            return int(self.base[len(self.bends) + self.leaves.index(start.reader)])
        return None

    def unit(self, bend: int) -> int:
        """The number of an activation's first element."""
        return int(self.base[self.bends.index(bend)])


def targets_of(net: Rewritten) -> Targets:
    """The numbering for a rewritten graph."""
    bends = tuple(i for i, node in enumerate(net.nodes) if isinstance(node, (*ACTIVATIONS, Larger)))
    sizes = [math.prod(net.shapes[i]) for i in (*bends, *net.outputs)]
    return Targets(bends, net.outputs, np.cumsum([0, *sizes]))


def row_of(number: np.ndarray, difference: bool, sign: np.ndarray) -> np.ndarray:
    """The rows of elements' numbers.

    Args:
        number: Numbers of elements.
        difference: True for `d`, False for `x`.
        sign: 1.0 where `v` is bounded, -1.0 where `-v` is.
    """
    return (number.astype(np.int64) * 2 + int(difference)) * 2 + (sign < 0)
