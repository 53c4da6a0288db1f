"""Layer norm and RMS norm as primitives: a quotient of what was centred by the root of a mean of squares.

    (x - m) * rsqrt(v + epsilon),   m = mean(x),   v = mean((x - m)^2), or max(mean(x^2) - m^2, 0)
    x * rsqrt(mean(x^2) + epsilon)

over any axes, with `/ sqrt(...)` likewise; scale and shift come after it as affine maps of their own.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.frontends.constants import Constant, scalar
from slth_compile.frontends.draft import Draft, Elementwise, Pairwise, Sum
from slth_compile.frontends.patterns import Match, View, mean, operand_of
from slth_compile.graph import nodes as n


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Normalised(n.Node):
    """`n.LayerNorm` over `axes` instead of the last one."""

    axes: tuple[int, ...]
    epsilon: float
    centred: bool


def layer_norm(view: View, i: int) -> Match | None:
    """One of the forms above."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation in ("mul", "div")):
        return None
    top, bottom = node.inputs
    axes = tuple(axis for axis in range(len(view.entries[top].shape)) if axis not in node.axes)
    root = operand_of(view, bottom, "rsqrt" if node.operation == "mul" else "sqrt")
    if not axes or tuple(sorted(node.axes)) != node.axes or root is None:
        return None
    variance, epsilon = _with_epsilon(view, root)
    if epsilon is None:
        return None
    found = view.node(variance)
    variance = found.inputs[0] if isinstance(found, n.Relu) else variance
    x = _centred_operand(view, top, axes)
    if x is not None and _is_variance(view, variance, top, x, axes):
        return Match(Normalised(inputs=(x,), axes=axes, epsilon=epsilon, centred=True))
    if _is_mean_square(view, variance, top, axes):
        return Match(Normalised(inputs=(top,), axes=axes, epsilon=epsilon, centred=False))
    return None


def add_normalised(target: Draft, node: Normalised, entry: int) -> int:
    """Adds the node to a draft of target nodes, its axes moved to the end as one, and back.

    Args:
        target: Where it goes.
        node: The node.
        entry: Its operand there.

    Returns:
        The position of the result, of the operand's shape.
    """
    shape = target.entries[entry].shape
    kept = tuple(axis for axis in range(len(shape)) if axis not in node.axes)
    permutation = (*kept, *node.axes)
    moved = target.add(n.Transpose(inputs=(entry,), permutation=permutation))
    moved_shape = target.entries[moved].shape
    flat = target.add(
        n.Reshape(inputs=(moved,), shape=(*moved_shape[: len(kept)], int(np.prod(moved_shape[len(kept) :]))))
    )
    normed = target.add(n.LayerNorm(inputs=(flat,), name=node.name, epsilon=node.epsilon, centred=node.centred))
    back = target.add(n.Reshape(inputs=(normed,), shape=moved_shape))
    return target.add(n.Transpose(inputs=(back,), permutation=tuple(int(axis) for axis in np.argsort(permutation))))


def _with_epsilon(view: View, i: int) -> tuple[int, float | None]:
    """The operands of `v + epsilon` with a positive number."""
    node = view.elementwise(i, "add")
    if node is None or node.constant.leaves:
        return i, None
    epsilon = scalar(node.constant)
    return node.inputs[0], epsilon if epsilon is not None and epsilon > 0 else None


def _centred_operand(view: View, i: int, axes: tuple[int, ...]) -> int | None:
    """The x of an entry that is `x - mean(x)` over the axes."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation == "sub"):
        return None
    x, average = node.inputs
    rest = tuple(axis for axis in range(len(view.entries[x].shape)) if axis not in axes)
    return x if node.axes == rest and _is_mean(view, average, x, axes) else None


def _is_variance(view: View, i: int, centred: int, x: int, axes: tuple[int, ...]) -> bool:
    """Whether an entry is `mean((x - m)^2)`, or `mean(x^2) - m^2`."""
    if _is_mean_square(view, i, centred, axes):
        return True
    node = view.node(i)
    if not isinstance(node, n.Add):
        return False
    square, taken = node.inputs
    negative = view.elementwise(taken, "mul")
    if negative is None or negative.constant.leaves or scalar(negative.constant) != -1:
        return False
    average = _squared(view, negative.inputs[0])
    return average is not None and _is_mean(view, average, x, axes) and _is_mean_square(view, square, x, axes)


def _is_mean_square(view: View, i: int, x: int, axes: tuple[int, ...]) -> bool:
    node = _mean(view, i)
    squared = _squared(view, node.inputs[0]) if node is not None and node.axes == axes else None
    return squared is not None and _same(view, squared, x)


def _is_mean(view: View, i: int, x: int, axes: tuple[int, ...]) -> bool:
    node = _mean(view, i)
    return node is not None and (node.inputs, node.axes) == ((x,), axes)


def _mean(view: View, i: int) -> n.Mean | None:
    """The node at a position, or what its pattern stands for, if it is a mean."""
    found = mean(view, i)
    node = view.node(i) if found is None else found.node
    return node if isinstance(node, n.Mean) else None


def _squared(view: View, i: int) -> int | None:
    """What an entry is the square of."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation == "mul" and _same(view, *node.inputs)):
        return None
    return node.inputs[0] if node.axes == tuple(range(len(view.entries[i].shape))) else None


def _same(view: View, i: int, j: int) -> bool:
    """Whether two entries are one, or sums, differences and quotients of the same ones written twice."""
    a, b = view.node(i), view.node(j)
    if i == j:
        return True
    if type(a) is not type(b) or not all(_same(view, *pair) for pair in zip(a.inputs, b.inputs, strict=True)):
        return False
    if isinstance(a, Pairwise) and isinstance(b, Pairwise):
        return (a.operation, a.axes) == (b.operation, b.axes)
    if isinstance(a, Sum) and isinstance(b, Sum):
        return a.axes == b.axes
    if isinstance(a, Elementwise) and isinstance(b, Elementwise):
        return a.operation == b.operation and _number(a.constant) == _number(b.constant) is not None
    return False


def _number(constant: Constant) -> float | None:
    return None if constant.leaves else scalar(constant)
