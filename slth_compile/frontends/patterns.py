"""What a few primitives together are: means, average pools, softmax; activations have a file of their own.

Every matcher looks backwards from one entry of the draft and returns the target node that computes the same values,
its inputs still positions of the draft, or None. Entries it makes superfluous die unless something else reads them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.frontends.channels import per_sample
from slth_compile.frontends.constants import Constant, scalar
from slth_compile.frontends.draft import Elementwise, Entry, Pairwise, Sum, Unknown, WindowSum
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A finished draft.

    Attributes:
        entries: Its entries.
        consumers: How many live entries and outputs read each.
    """

    entries: Sequence[Entry]
    consumers: Sequence[int]

    def node(self, i: int) -> n.Node:
        """The node at a position."""
        return self.entries[i].node

    def elementwise(self, i: int, *operations: str) -> Elementwise | None:
        """The node at a position, if it is one of these operations with a constant."""
        node = self.entries[i].node
        return node if isinstance(node, Elementwise) and node.operation in operations else None


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A node that stands for a pattern, its inputs in the draft, and the parameters that went into it."""

    node: n.Node
    leaves: frozenset[str] = frozenset()


def mean(view: View, i: int) -> Match | None:
    """A sum divided by the number of its terms."""
    node = view.elementwise(i, "div", "mul")
    before = view.node(node.inputs[0]) if node else None
    if node is None or not isinstance(before, Sum):
        return None
    shape = view.entries[before.inputs[0]].shape
    if not _divides_by(node, math.prod(shape[axis] for axis in before.axes)):
        return None
    return Match(n.Mean(inputs=before.inputs, axes=before.axes))


def average_pool(view: View, i: int) -> Match | None:
    """A sum over windows divided by their size, or by the number of their real elements."""
    node = view.elementwise(i, "div", "mul")
    before = view.node(node.inputs[0]) if node else None
    if node is None or not isinstance(before, WindowSum):
        return None
    pool = n.AveragePool(
        inputs=before.inputs, window=before.window, stride=before.stride, padding=before.padding, count_padding=True
    )
    if _divides_by(node, math.prod(before.window)):
        return Match(pool)
    pool = dataclasses.replace(pool, count_padding=False)
    if node.operation == "div" and not node.constant.leaves:
        counts = pool_counts(pool, view.entries[before.inputs[0]].shape)
        try:
            divisor = np.broadcast_to(per_sample(node), view.entries[i].shape)
        except ValueError:
            return None
        if np.array_equal(divisor, np.broadcast_to(counts, divisor.shape)):
            return Match(pool)
    return None


def softmax(view: View, i: int) -> Match | None:
    """`exp(x - m) / sum(exp(x - m))` for any m that is constant along the axis: softmax does not see shifts."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation == "div"):
        return None
    top, bottom = node.inputs
    axis = _summed_axis(view, bottom, top, node.axes)
    x = operand_of(view, top, "exp")
    if axis is None or x is None:
        return None
    return Match(n.Softmax(inputs=(_unshifted(view, x, axis),), axis=axis))


def log_softmax(view: View, i: int) -> Match | None:
    """`y - log(sum(exp(y)))` with `y = x - m`, and `x - (log(sum(exp(x - m))) + m)`, for any such m."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation == "sub"):
        return None
    y, total = node.inputs
    shift, added = None, view.node(total)
    if isinstance(added, n.Add):
        logs = [operand_of(view, j, "log") is not None for j in added.inputs]
        if logs.count(True) != 1:
            return None
        total, shift = added.inputs[logs.index(True)], added.inputs[logs.index(False)]
    inner = operand_of(view, total, "log")
    inner = None if inner is None else operand_of(view, inner, "abs") or inner
    summed = view.node(inner) if inner is not None else None
    if inner is None or not isinstance(summed, Sum):
        return None
    exponent = operand_of(view, summed.inputs[0], "exp")
    axis = _summed_axis(view, inner, summed.inputs[0], node.axes)
    if exponent is None or axis is None:
        return None
    if shift is None:
        if exponent != y:
            return None
        return Match(n.LogSoftmax(inputs=(_unshifted(view, y, axis),), axis=axis))
    moved = view.node(exponent)
    if (
        isinstance(moved, Pairwise)
        and moved.operation == "sub"
        and moved.inputs == (y, shift)
        and moved.axes == node.axes
    ):
        return Match(n.LogSoftmax(inputs=(y,), axis=axis))
    return None


def _divides_by(node: Elementwise, count: int) -> bool:
    constant: Constant = node.constant
    value = None if constant.leaves else scalar(constant)
    if node.operation == "div":
        return value == count
    return value is not None and np.float32(value) == np.float32(1) / np.float32(count)


def operand_of(view: View, i: int, operation: str) -> int | None:
    """What the entry applies an operation to that no node stands for; None where it is another."""
    node = view.node(i)
    return node.inputs[0] if isinstance(node, Unknown) and node.operation == operation and not node.reason else None


def _summed_axis(view: View, total: int, terms: int, axes: tuple[int, ...]) -> int | None:
    """The axis along which `total` sums `terms`, where broadcasting by `axes` puts it back in place."""
    node = view.node(total)
    if not (isinstance(node, Sum) and len(node.axes) == 1 and _same(view, node.inputs[0], terms)):
        return None
    rest = tuple(axis for axis in range(len(view.entries[terms].shape)) if axis != node.axes[0])
    return node.axes[0] if axes == rest else None


def _same(view: View, i: int, j: int) -> bool:
    """Whether two entries are one, or one operation of one entry written twice."""
    a, b = view.node(i), view.node(j)
    return i == j or (
        isinstance(a, Unknown) and operand_of(view, j, a.operation) == a.inputs[0] and a.inputs == b.inputs
    )


def _unshifted(view: View, i: int, axis: int) -> int:
    node = view.node(i)
    if isinstance(node, Pairwise) and node.operation == "sub" and axis not in node.axes:
        return node.inputs[0]
    return i
