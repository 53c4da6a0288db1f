"""Forward enclosures of a node of the rewritten graph, from its operands'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate import pointwise, propagate, relaxations
from slth_compile.certificate.backward.rewrite import Larger, Largest, Take
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounded import Rounded, absolute_column
from slth_compile.graph import nodes as n


def image(node: n.Node, operands: Sequence[Pair], layer: propagate.Layer | None, between: Pair | None) -> Pair:
    """The pair's enclosure at a node.

    Args:
        node: The node.
        operands: Enclosures of what it reads.
        layer: Arrays of a weighted layer.
        between: Of a `Larger`, enclosures of the difference of its operands.
    """
    match node:
        case n.Convolution() | n.Dense():
            assert layer is not None
            return propagate.weighted(propagate.window_of(node), operands[0], layer)
        case Rounded():
            return propagate.rounded(operands[0], node.relative, absolute_column(node))
        case n.Affine():
            return propagate.scaled(operands[0], *propagate.affine_ends(node))
        case n.Prelu():
            return propagate.bent(operands[0], pointwise.prelu_interval(node))
        case n.Resample():
            return propagate.resampled(node.axis, operands[0], propagate.matrix_of(node))
        case Take():
            x, d = operands[0]
            return Pair(_taken(x, node), None if d is None else _taken(d, node))
        case Larger():
            assert between is not None
            return _larger(between, *operands)
        case Largest():
            return Pair(*_maximum(operands))
        case _:
            return propagate.unweighted(propagate.Operation(node), operands)


def difference_of(operands: Sequence[Pair]) -> Pair:
    """`a - b` of the two operands of a maximum, which differ between the networks together or not at all."""
    a, b = operands
    assert (a.d is None) == (b.d is None)

    def minus(v: e.Interval, w: e.Interval) -> e.Interval:
        return e.added(v, e.Interval(-w.upper, -w.lower))

    return Pair(minus(a.x, b.x), None if a.d is None or b.d is None else minus(a.d, b.d))


def _taken(values: e.Interval, node: Take) -> e.Interval:
    """The elements that a `Take` takes."""

    def each(array: Any) -> Any:
        for axis, indices in enumerate(node.indices):
            if indices is not None:
                array = array[(slice(None),) * axis + (np.asarray(indices),)]
        return array

    return values.each(each)


def _larger(y: Pair, a: Pair, b: Pair) -> Pair:
    """The maximum's own rules, and `relu(a - b) + b`: both hold."""
    rest = e.added(e.nonnegative_part(y.x), b.x)
    found, moved = _maximum([a, b])
    if moved is None or y.d is None or b.d is None:
        return Pair(_met(found, rest), None)
    return Pair(_met(found, rest), _met(moved, e.added(relaxations.activation_difference(y.x, y.d), b.d)))


def _maximum(operands: Sequence[Pair]) -> tuple[e.Interval, e.Interval | None]:
    """The maximum's own rules."""
    x, d = [pair.x for pair in operands], [pair.d for pair in operands if pair.d is not None]
    if len(d) < len(x):
        return relaxations.maximum_image(x, None, None)
    return relaxations.maximum_image(x, d, [e.added(*pair) for pair in zip(x, d, strict=True)])


def _met(a: e.Interval, b: e.Interval) -> e.Interval:
    return e.Interval(np.maximum(a.lower, b.lower), np.minimum(a.upper, b.upper))
