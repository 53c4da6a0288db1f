"""Elementwise enclosures and Euclidean bounds of one pair (x, d), each cut with the other at every node.

Beside its enclosures a node has an array c and bounds on `|x|`, `|x - c|` and `|d|`. Any c would do: with h the node,

    |h(x) - c'| <= |h(x) - h(c)| + |h(c) - c'|,

so c' is the middle of what encloses h(c), and the last term what that leaves open; weights that are known up to a
radius, even another one for every input, are covered as h(c) is enclosed for all of them. Then

    x_i in c_i +- |x - c|,   |x_i| <= |x|,   |d_i| <= |d|,   |d| <= sqrt(sum of the largest d_i^2)

and at a weighted layer, for the element of a row w of W and e of its errors, whatever the norms of w and e make of the
bounds of the layer's input (`euclidean.element_bounds`), which is far less than those of the whole layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.certificate import euclidean
from slth_compile.certificate.backward.rewrite import MAXIMA, Take
from slth_compile.certificate.enclosure import Interval, added
from slth_compile.certificate.euclidean import Euclidean, LayerNorms, sizes
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounded import Rounded, moved_by
from slth_compile.certificate.rounding import down, up, without_subnormals
from slth_compile.certificate.spectral import norms_of
from slth_compile.graph import nodes as n


class Beside(NamedTuple):
    """What goes with a pair's enclosures.

    Attributes:
        centre: `c`, of shape `(*shape, samples)`.
        state: Bounds around it, of shape `(samples,)`.
    """

    centre: np.ndarray
    state: Euclidean

    def point(self) -> Pair:
        """The centre, as a pair of networks that agree."""
        return Pair(Interval(self.centre, self.centre), None)


class Operand(NamedTuple):
    """All that is known of a node that another one reads; its shape is without samples."""

    shape: tuple[int, ...]
    pair: Pair
    beside: Beside


def beside_input(x: Interval) -> Beside:
    """The bounds that go with the input's enclosure, around its middle."""
    centre = 0.5 * x.lower + 0.5 * x.upper
    return Beside(centre, euclidean.entered(*(_first(v) for v in (*x, centre))))


def joined(
    node: n.Node, norms: LayerNorms | None, operands: Sequence[Operand], image: Pair, at_centre: Pair
) -> tuple[Pair, Beside]:
    """The node's enclosures and what goes with them, each cut with the other.

    Args:
        node: The node.
        norms: Of a weighted layer.
        operands: What it reads.
        image: Its enclosures from its operands'.
        at_centre: Its enclosures at the operands' centres, where both networks had the same input. A `Rounded` is taken
            to round nothing there.
    """
    with np.errstate(all="ignore"):
        centre = 0.5 * at_centre.x.lower + 0.5 * at_centre.x.upper
        state = step(node, norms, operands, at_centre, centre)
        if norms is not None:
            image = _cut_by_rows(image, norms, operands[0], at_centre)
        return cut(image, Beside(centre, state))


def cut(pair: Pair, beside: Beside) -> tuple[Pair, Beside]:
    """Enclosures cut with Euclidean bounds, and these with what that leaves of the enclosures."""
    with np.errstate(all="ignore"):
        pair = _cut(pair, beside.point().x, beside.state)
        return pair, within(beside, pair)


def step(
    node: n.Node, norms: LayerNorms | None, operands: Sequence[Operand], at_centre: Pair, centre: np.ndarray
) -> Euclidean:
    """What a node makes of its operands' bounds, around `centre`; other arguments as for `joined`."""
    (_, pair, (_, state)), *_ = operands
    if norms is not None:
        assert at_centre.d is not None
        injected = sizes(*map(_first, at_centre.d))
        found = euclidean.weighted_step(norms, state, ticket=_ticket(pair), injected=injected)
    elif isinstance(node, Rounded):
        found = _rounded(node, pair, state)
    elif isinstance(node, Take):
        found = _taken(node, state)
    elif isinstance(node, MAXIMA):
        # No element of a maximum is larger, or moves further, than the largest one of its operands.
        found = Euclidean(
            *(norms_of(np.stack(parts, 1)) for parts in zip(*(o.beside.state for o in operands), strict=True))
        )
    else:
        states = [o.beside.state for o in operands]
        if isinstance(node, n.Multiply | n.MatrixProduct):
            # Their step takes |x| for a bound on |c| too.
            states = [
                s._replace(norm=np.maximum(s.norm, _size(o.beside.centre)))
                for s, o in zip(states, operands, strict=True)
            ]
        found = euclidean.unweighted_step(node, [o.shape for o in operands], states)
    off = sizes(*(_first(v) for v in (up(at_centre.x.upper - centre), up(centre - at_centre.x.lower))))
    return found._replace(spread=up(found.spread + off))


def within(beside: Beside, pair: Pair) -> Beside:
    """The bounds, none more than the enclosures of the elements say."""
    x, d = (None if v is None else (_first(v.lower), _first(v.upper)) for v in pair)
    centre = _first(beside.centre)
    with np.errstate(all="ignore"):
        state = euclidean.within(beside.state, x=x, d=d, centre=(centre, centre))
    return Beside(beside.centre, state if d is not None else state._replace(difference=np.zeros_like(state.norm)))


def least(a: Euclidean, b: Euclidean) -> Euclidean:
    """Both hold."""
    return Euclidean(*(np.minimum(v, w) for v, w in zip(a, b, strict=True)))


def _cut_by_rows(image: Pair, norms: LayerNorms, operand: Operand, at_centre: Pair) -> Pair:
    """A layer's enclosures, cut with what its rows' norms make of the bounds of its input."""
    state, ticket = operand.beside.state, _ticket(operand.pair)
    rows = Euclidean(*(bound.T for bound in euclidean.element_bounds(norms, state, ticket=ticket)))
    image = _cut(image, at_centre.x, rows)
    if image.d is None or at_centre.d is None:
        return image
    moved = euclidean.moved_elements(norms, state).T
    return image._replace(d=_met(image.d, down(at_centre.d.lower - moved), up(at_centre.d.upper + moved)))


def _cut(pair: Pair, centre: Interval, state: Euclidean) -> Pair:
    """The enclosures, cut with bounds that are broadcast against them."""
    x = _met(pair.x, down(centre.lower - state.spread), up(centre.upper + state.spread))
    d = None if pair.d is None else _met(pair.d, -state.difference, state.difference)
    return Pair(_met(x, -state.norm, state.norm), d)


def _met(values: Interval, lower: np.ndarray, upper: np.ndarray) -> Interval:
    """What is not a number says nothing."""
    return Interval(*without_subnormals(np.fmax(values.lower, lower), np.fmin(values.upper, upper)))


def _ticket(pair: Pair) -> np.ndarray | None:
    """Bounds on `|x + d|`."""
    x, d = pair
    return None if d is None else sizes(*map(_first, added(x, d)))


def _rounded(node: Rounded, pair: Pair, state: Euclidean) -> Euclidean:
    """Each network moves its elements by `relative` of them, and `absolute`."""
    norm, spread, difference = state
    most = _size(np.broadcast_to(node.absolute[..., None], pair.x.lower.shape))
    z = up(norm + difference)
    own, other = (up(up(v * node.relative) + most) for v in (norm, z))
    x_off, d_off = (sizes(-_first(v), _first(v)) for v in moved_by(*pair, node.relative, node.absolute[..., None]))
    x_off, d_off = np.fmin(own, x_off), np.fmin(up(own + other), d_off)
    return Euclidean(up(norm + x_off), up(spread + x_off), up(difference + d_off))


def _taken(node: Take, state: Euclidean) -> Euclidean:
    """As many times longer as the root of how often an element is taken, at most."""
    repeats = 1
    for indices in node.indices:
        repeats *= 1 if indices is None else int(np.bincount(indices).max())
    return state if repeats == 1 else Euclidean(*(up(v * up(np.sqrt(float(repeats)))) for v in state))


def _size(array: np.ndarray) -> np.ndarray:
    return sizes(*2 * (_first(array),))


def _first(array: np.ndarray) -> np.ndarray:
    """Samples first, as Euclidean bounds have them."""
    return np.moveaxis(array, -1, 0)
