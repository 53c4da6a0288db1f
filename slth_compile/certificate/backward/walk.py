"""What is known while the engine walks through the graph: enclosures of every node passed, and how forms get back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward.hybrid import Beside, beside_input
from slth_compile.certificate.backward.networks import Networks
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.propagate import Pair
from slth_compile.graph import nodes as n

Back = Callable[[f.Form, At], tuple[Sequence[tuple[int, f.Form]], Any]]
"""From a form of a node and where its rows are: forms of its operands, and what is added to each row's value."""

ACTIVATIONS = (
    n.Relu,
    n.LeakyRelu,
    n.Prelu,
    n.Clip,
    n.Sigmoid,
    n.Tanh,
    n.HardSigmoid,
    n.HardSwish,
    n.Silu,
    n.Gelu,
)

STOPS = (n.Multiply, n.MatrixProduct, n.LayerNorm, n.Softmax, n.LogSoftmax)
"""Nodes that no form passes: their enclosures take its place."""


@dataclasses.dataclass(eq=False)
class Walk:
    """The state of the engine over some samples; grows node by node.

    Attributes:
        both: The networks.
        samples: How many regions are walked together.
        pairs: Enclosures of the nodes passed, `(*shape, samples)`, on the host.
        besides: Euclidean bounds of the nodes passed.
        between: For every `Larger`, enclosures of its operands' difference `a - b`.
        among: For every `Largest`, those of all pairs `(a, b)` of its operands, by their places, `a` first; for a relu
            that waits behind one, those of its operands and, last, zero.
        back: How a form gets from a node to its operands.
        flushed: For every node with a way back, what a row may lose on it to results flushed to zero, `(samples,)`.
        merging: What adding up two forms of a node may round, by node.
        plain: Nodes that are the input, rearranged or averaged.
        branches: How bounds are split (`branch.Branches`); None leaves them plain.
        felt: Called whenever some rows are done.
    """

    both: Networks
    samples: int
    pairs: list[Pair]
    besides: list[Beside]
    between: dict[int, Pair] = dataclasses.field(default_factory=dict)
    among: dict[int, dict[tuple[int, int], Pair]] = dataclasses.field(default_factory=dict)
    back: dict[int, Back] = dataclasses.field(default_factory=dict)
    flushed: dict[int, Any] = dataclasses.field(default_factory=dict)
    merging: dict[int, f.Pairs] = dataclasses.field(default_factory=dict)
    plain: set[int] = dataclasses.field(default_factory=lambda: {0})
    branches: Any = None
    felt: Callable[[], None] = lambda: None

    def moves(self, i: int) -> bool:
        """Whether the two networks differ at a node."""
        return self.pairs[i].d is not None

    def kept(self, form: f.Form, i: int) -> f.Form:
        """The form of node `i` without coefficients of a difference that is zero."""
        return form if self.moves(i) else f.Form(None, form.x)


def walk_from(both: Networks, lower: np.ndarray, upper: np.ndarray) -> Walk:
    """The walk at the input.

    Args:
        both: The networks.
        lower: Lower ends of the regions, `(samples, *input_shape)`.
        upper: Upper ends, likewise.
    """
    x = e.Interval(np.moveaxis(lower, 0, -1), np.moveaxis(upper, 0, -1))
    return Walk(both, len(lower), [Pair(x, None)], [beside_input(x)])
