"""What the walk knows of a node once it is entered: enclosures and Euclidean bounds, from those of its operands."""

from __future__ import annotations

from slth_compile.certificate import propagate
from slth_compile.certificate.backward import hybrid
from slth_compile.certificate.backward.images import difference_of, image
from slth_compile.certificate.backward.rewrite import Larger
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounded import Rounded


def enclose_node(walk: Walk, k: int) -> None:
    """Adds node `k` to the walk; a `Larger` has its `between` by then."""
    net, layer = walk.both.net, walk.both.images.get(k)
    node = net.nodes[k]
    operands = [_operand(walk, i) for i in node.inputs]
    found = image(node, [o.pair for o in operands], layer, walk.between.get(k))
    points = [o.beside.point() for o in operands]
    between = difference_of(points) if isinstance(node, Larger) else None
    at_centre = points[0] if isinstance(node, Rounded) else image(node, points, layer, between)
    pair, beside = hybrid.joined(node, walk.both.norms.get(k), operands, found, at_centre)
    if k in net.maxima:
        pair, beside = _pooled(walk, k, pair, beside)
    walk.pairs.append(pair)
    walk.besides.append(beside)


def _pooled(walk: Walk, k: int, pair: Pair, beside: hybrid.Beside) -> tuple[Pair, hybrid.Beside]:
    """The end of a tree of maxima: all of them together lengthen what they are taken of less than one by one."""
    node, source = walk.both.net.maxima[k]
    operand = _operand(walk, source)
    at_centre = propagate.unweighted(propagate.Operation(node), [operand.beside.point()])
    state = hybrid.step(node, None, [operand], at_centre, beside.centre)
    return hybrid.cut(pair, hybrid.Beside(beside.centre, hybrid.least(beside.state, state)))


def _operand(walk: Walk, i: int) -> hybrid.Operand:
    return hybrid.Operand(walk.both.net.shapes[i], walk.pairs[i], walk.besides[i])
