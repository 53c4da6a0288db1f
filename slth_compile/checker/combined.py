"""Enclosures of the elements of a pair (x, d), and Euclidean lengths of it, each cut with the other, node by node.

Each node has a point c, and lengths of x, of x - c and of d around it. Behind an operation h the next point is the
middle of an enclosure of h(c), for whatever weights within their radii; x is at most half that enclosure's size further
from it than h moves x from h(c). So c is a number of the checker's own, and no evaluation of a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.checker import euclidean
from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.euclidean import Lengths, Norms, cut, longest
from slth_compile.checker.execution import moved_by
from slth_compile.checker.graph import Node
from slth_compile.checker.operations import State, shifted
from slth_compile.checker.spectral import vector_norms


class Around(NamedTuple):
    """A point, of shape `(n, *shape)`, and lengths around it."""

    point: np.ndarray
    lengths: Lengths

    def state(self) -> State:
        """The point as the state of two networks that agree."""
        return State(Interval(self.point, self.point), None)


class Read(NamedTuple):
    """What is known of an operand."""

    state: State
    around: Around


def around_input(x: Interval) -> Around:
    """The middle of the inputs."""
    point = 0.5 * x.lower + 0.5 * x.upper
    unknown = np.full(len(point), np.inf)
    return shortened(Around(point, Lengths(unknown, unknown, unknown)), State(x, None))


def combined(
    node: Node,
    norms: tuple[Norms, Norms] | None,
    operands: Sequence[Read],
    state: State,
    image: Callable[[list[State]], State],
) -> Read:
    """The node's state and lengths, each cut with the other.

    Args:
        node: The operation.
        norms: Of a weighted layer, and of its rows.
        operands: What it reads.
        state: The enclosures found from theirs.
        image: How enclosures are found from those of operands.
    """
    points = [one.around.state() for one in operands]
    there = points[0] if node.op == "rounded" else image(points)
    point = 0.5 * there.x.lower + 0.5 * there.x.upper
    lengths = behind(node, norms, operands, there, point)
    if norms is not None:
        state = _by_rows(norms[1], operands[0], state, there)
    return limited(state, Around(point, lengths))


def limited(state: State, around: Around) -> Read:
    """Enclosures within the lengths, lengths within what is left of them."""
    x, apart, d = (length.reshape(-1, *[1] * (around.point.ndim - 1)) for length in around.lengths)
    state = _within(state, Interval(around.point, around.point), Lengths(x, apart, d))
    return Read(state, shortened(around, state))


def shortened(around: Around, state: State) -> Around:
    """The lengths, none more than the enclosures say."""
    lengths = cut(around.lengths, state.x, state.d, Interval(around.point, around.point))
    return Around(around.point, lengths if state.d is not None else lengths._replace(d=np.zeros_like(lengths.d)))


def behind(
    node: Node, norms: tuple[Norms, Norms] | None, operands: Sequence[Read], there: State, point: np.ndarray
) -> Lengths:
    """Lengths around `point` behind an operation whose enclosures at its operands' points are `there`."""
    (x, d), (_, own) = operands[0]
    if norms is not None:
        assert there.d is not None
        found = euclidean.weighted(norms[0], own, z=_ticket(x, d), s=longest(there.d))
    elif node.op == "rounded":
        found = _rounded(node, operands[0])
    elif node.op == "take":
        # An element that is read k times counts k times.
        most = math.prod(int(np.unique(taken, return_counts=True)[1].max()) for taken in node.fields["indices"])
        found = own if most == 1 else Lengths(*(up(v * up(np.sqrt(np.array(float(most))))) for v in own))
    elif node.op in ("larger", "largest"):
        # The largest of some numbers is no larger, and moves no more, than the one of them that does so most.
        found = Lengths(
            *(vector_norms(np.stack(v, axis=1)) for v in zip(*(one.around.lengths for one in operands), strict=True))
        )
    else:
        lengths = [one.around.lengths for one in operands]
        if node.op in ("multiply", "matrix_product"):  # for which |x| has to hold for c too
            sizes = [longest(one.around.state().x) for one in operands]
            lengths = [one._replace(x=np.maximum(one.x, size)) for one, size in zip(lengths, sizes, strict=True)]
        found = euclidean.unweighted(node, [one.around.point.shape[1:] for one in operands], lengths)
    off = longest(Interval(up(point - there.x.lower), up(there.x.upper - point)))
    return found._replace(apart=up(found.apart + off))


def both(a: Lengths, b: Lengths) -> Lengths:
    """Lengths where two bounds hold."""
    return Lengths(*(np.minimum(v, w) for v, w in zip(a, b, strict=True)))


def _by_rows(rows: Norms, operand: Read, state: State, there: State) -> State:
    """Each element of a layer's output is bounded by the norm of its row."""
    own = operand.around.lengths
    column = Lengths(*(v[:, None] for v in own))
    ticket = _ticket(*operand.state)
    lengths = euclidean.weighted(rows, column, z=None if ticket is None else ticket[:, None])
    # And d is no further from what it is at c than what moves from there; |x| says nothing about that.
    moved = euclidean.weighted(rows, column._replace(x=np.full_like(column.x, np.inf)), s=np.zeros((1, 1))).d
    spatial = (len(own.d), *[1] * (state.x.lower.ndim - 2), -1)
    state = _within(state, there.x, Lengths(*(v.reshape(spatial) for v in lengths)))
    if state.d is None or there.d is None:
        return state
    moved = moved.reshape(spatial)
    return State(state.x, _met(state.d, Interval(down(there.d.lower - moved), up(there.d.upper + moved))))


def _within(state: State, centre: Interval, lengths: Lengths) -> State:
    x = _met(state.x, Interval(down(centre.lower - lengths.apart), up(centre.upper + lengths.apart)))
    x = _met(x, Interval(-lengths.x, lengths.x))
    return State(x, None if state.d is None else _met(state.d, Interval(-lengths.d, lengths.d)))


def _met(values: Interval, more: Interval) -> Interval:
    """Where both hold; what is not a number bounds nothing."""
    return Interval(np.fmax(values.lower, more.lower), np.fmin(values.upper, more.upper))


def _ticket(x: Interval, d: Interval | None) -> np.ndarray | None:
    return None if d is None else longest(shifted(x, d))


def _rounded(node: Node, operand: Read) -> Lengths:
    """Both networks' elements move by a share of them, and by `absolute`."""
    x, apart, d = operand.around.lengths
    shape = operand.around.point.shape[1:]
    absolute = vector_norms(np.broadcast_to(node.arrays["absolute"], shape).reshape(1, -1))
    share = [up(up(length * node.fields["relative"]) + absolute) for length in (x, up(x + d))]
    own, other = (longest(Interval(-off, off)) for off in moved_by(*operand.state, node))
    off_x, off_d = np.fmin(share[0], own), np.fmin(up(share[0] + share[1]), other)
    return Lengths(up(x + off_x), up(apart + off_x), up(d + off_d))
