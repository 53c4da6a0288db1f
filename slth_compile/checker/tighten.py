"""Both networks over one region: enclosures of every pair (x, d), node by node, cut with backward passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from slth_compile.checker.activations import largest_difference, leaky_relu, leaky_relu_difference
from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.backward import Place, largest, place
from slth_compile.checker.bends import ACTIVATIONS, ENDS, NARROWED
from slth_compile.checker.combined import Around, Read, around_input, behind, both, combined, limited, shortened
from slth_compile.checker.euclidean import Norms, norms_of
from slth_compile.checker.fold import Folded
from slth_compile.checker.forms import Box, Form
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.halves import Halves, halves
from slth_compile.checker.lines import surely
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.noise import Noise, layer_noise, unweighted_noise
from slth_compile.checker.operations import State, shifted, unweighted
from slth_compile.checker.rewriting import RELUS, rewrite
from slth_compile.checker.weighted import weighted
from slth_compile.errors import VerificationError

_BUDGET = 1 << 22  # numbers of one array of a pass
_ROWS = 64  # of a pass; they read neighbouring elements, which keeps boxes small
_TILE = 4  # neighbours along an axis

_MOVES = ("affine", "average_pool", "mean", "slice", "pad", "dilate", "reshape", "transpose", "take", "rounded")

Map = Callable[..., Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """Both networks, ready for regions.

    Attributes:
        graph: Rewritten.
        layers: Weighted layers by position.
        norms: Their Euclidean norms.
        maxima: Ends of trees of maxima, as `rewriting.Rewritten` has them.
        readers: How many nodes and outputs read each node.
        rows: Of a pass.
    """

    graph: Graph
    layers: Mapping[int, Halves]
    norms: Mapping[int, tuple[Norms, Norms]]
    maxima: Mapping[int, tuple[Node, int]]
    readers: tuple[int, ...]
    rows: int


def net_of(folded: Folded, layers: Mapping[int, PairLayer]) -> Net:
    """The networks, ready for regions.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph.
    """
    rewritten = rewrite(folded, layers)
    graph = rewritten.graph
    widest = max(math.prod(node.shape) for node in graph.nodes)
    for node in graph.nodes:
        if "padding" in node.fields:  # what a window reads, before the padding is cut off
            axes = zip(graph.nodes[node.inputs[0]].shape, (*node.fields["padding"], (0, 0)), strict=False)
            widest = max(widest, math.prod(size + sum(pair) for size, pair in axes))
    for position, pair in rewritten.layers.items():  # one line of positions at least is multiplied at a time
        widest = max(widest, math.prod(graph.nodes[position].shape[1:-1]) * pair.target.centre[..., 0].size)
    rows = max(2, min(_ROWS, _BUDGET // widest))
    own = {position: halves(pair) for position, pair in rewritten.layers.items()}
    norms = {}
    for position, pair in rewritten.layers.items():
        node = graph.nodes[position]
        norms[position] = norms_of(pair, graph.nodes[node.inputs[0]].shape, math.prod(node.shape[:-1]))
    return Net(graph, own, norms, rewritten.maxima, tuple(graph.consumers()), rows)


def output_differences(net: Net, lower: np.ndarray, upper: np.ndarray, each: Map = map) -> list[Interval | None]:
    """Enclosures of the difference at every output leaf over one region; None where both networks agree.

    Args:
        net: The networks.
        lower: Lower ends of the region, shape `(1, *shape)`.
        upper: Upper ends.
        each: Applies a function to several arguments, in order; a pool's map spreads passes over threads.

    Raises:
        VerificationError: No backward bound is known for an operation, or an enclosure is not finite.
    """
    region = _Region(net, each)
    with np.errstate(all="ignore"):  # what is not finite is refused, or not used as a bound
        for k, node in enumerate(net.graph.nodes):
            region.enter(k, node, State(Interval(lower, upper), None))
    return [region.states[i].d for i in net.graph.outputs]


class _Region:
    """Enclosures so far; of shape `(1, *shape)`."""

    def __init__(self, net: Net, each: Map) -> None:
        self.net, self.each = net, each
        self.states: list[State] = []
        self.arounds: list[Around] = []
        self.places: list[Place] = []
        self.moved: set[int] = {0}  # the input, and what moves, scales or averages its elements

    def enter(self, k: int, node: Node, entry: State) -> None:
        """Encloses the next node, its operand tightened before where that is worth it."""
        between = None
        if node.op in ACTIVATIONS or node.op in NARROWED:
            operand = node.inputs[0]
            if node.op in NARROWED or not self._is_exact(operand):
                found = self._tightened(self.states[operand], {operand: 1.0}, everything=node.op not in RELUS)
                self._set(operand, found)
            between = self.states[operand] if node.op in ACTIVATIONS else None
        operands = [self.states[i] for i in node.inputs]
        if node.op == "larger":
            between = self._tightened(_between(*operands), dict(zip(node.inputs, (1.0, -1.0), strict=True)))
        own = self.net.layers.get(k)
        readers = max((self.net.readers[i] for i in node.inputs), default=1)
        if k == 0:
            state, noise = entry, Noise(None, 0.0)
        elif own is not None:
            state, noise = weighted(own.pair, *operands[0]), layer_noise(own, operands[0], readers)
        else:
            state = _image(node, operands, between)
            noise = unweighted_noise(node, operands, state, readers)
        if node.op in _MOVES and node.inputs[0] in self.moved:
            self.moved.add(k)
        for interval in state:
            if interval is not None and not all(np.isfinite(array).all() for array in interval):
                raise VerificationError("bound", f"the enclosure of node {k} ('{node.op}') is not finite")
        found = self._cut_with_lengths(k, node, state)
        state = found.state
        self.states.append(state)
        self.arounds.append(found.around)
        self.places.append(place(node, own, operands, found, noise, between))
        if k in self.net.graph.outputs and node.op not in ENDS and k:
            self._set(k, self._tightened(state, {k: 1.0}, everything=True))

    def _set(self, k: int, state: State) -> None:
        self.states[k] = state
        self.arounds[k] = shortened(self.arounds[k], state)
        self.places[k] = self.places[k].reaching(state, self.arounds[k])

    def _cut_with_lengths(self, k: int, node: Node, state: State) -> Read:
        """What is known of a node by its enclosures and by Euclidean lengths together."""
        if k == 0:
            return Read(state, around_input(state.x))
        own = self.net.layers.get(k)

        def image(states: list[State]) -> State:
            if own is not None:
                return weighted(own.pair, *states[0])
            return _image(node, states, _between(*states) if node.op == "larger" else None)

        found = combined(node, self.net.norms.get(k), [self._read(i) for i in node.inputs], state, image)
        if k not in self.net.maxima:
            return found
        # All maxima of the tree together lengthen a vector less than one after the other.
        pool, source = self.net.maxima[k]
        operand, point = self._read(source), found.around.point
        lengths = behind(pool, None, [operand], unweighted(pool, [operand.around.state()]), point)
        return limited(found.state, Around(point, both(found.around.lengths, lengths)))

    def _read(self, i: int) -> Read:
        return Read(self.states[i], self.arounds[i])

    def _is_exact(self, k: int) -> bool:
        """Whether intervals are exact already: the input moved, behind one layer at most."""
        return k in self.moved or (k in self.net.layers and self.net.graph.nodes[k].inputs[0] in self.moved)

    def _tightened(self, known: State, signs: Mapping[int, float], everything: bool = False) -> State:
        """Enclosures of a node, or of the difference of two, cut with passes for x and then for d.

        Args:
            known: What is known of them.
            signs: What each node's elements are multiplied by in their sum.
            everything: False leaves out what is surely on or off.
        """
        x, d = known
        chosen = np.ones(x.lower.shape, bool) if everything else (x.lower < 0) & (x.upper > 0)
        x = self._cut(x, chosen, signs, "x")
        if d is not None:
            on, off = surely(x, d)
            chosen = np.ones(x.lower.shape, bool) if everything else ~(on | off)
            d = self._cut(d, chosen & (d.lower < d.upper), signs, "d")
        return State(x, d)

    def _cut(self, known: Interval, chosen: np.ndarray, signs: Mapping[int, float], part: str) -> Interval:
        shape = chosen.shape[1:]
        elements = _by_tiles(np.flatnonzero(chosen), shape)
        if len(elements) == 0:
            return known
        most = self.net.rows // 2

        def passes(start: int) -> np.ndarray:
            with np.errstate(all="ignore"):
                some = elements[start : start + most]
                box, unit = _units(some, shape)
                forms = {}
                for node, sign in signs.items():
                    coefficients = sign * unit
                    forms[node] = Form(box, *((coefficients, None) if part == "x" else (None, coefficients)))
                return largest(self.places, forms, 2 * len(some))

        found = np.concatenate(list(self.each(passes, range(0, len(elements), most)))).reshape(-1, 2)
        lower, upper = (array.reshape(-1).copy() for array in known)
        upper[elements] = np.minimum(upper[elements], found[:, 0])
        lower[elements] = np.maximum(lower[elements], -found[:, 1])
        return Interval(lower.reshape(chosen.shape), upper.reshape(chosen.shape))


def _units(elements: np.ndarray, shape: tuple[int, ...]) -> tuple[Box, np.ndarray]:
    """The forms `+v_i` and `-v_i` of some elements, all channels of the box they are in."""
    where = np.unravel_index(elements, shape) if shape else ()
    box = tuple((int(own.min()), int(own.max()) + 1) for own in where[:-1]) + tuple((0, n) for n in shape[-1:])
    unit = np.zeros((*(b - a for a, b in box), 2 * len(elements)))
    inside = tuple(own - a for own, (a, _) in zip(where, box, strict=True))
    row = np.arange(0, 2 * len(elements), 2)
    unit[(*inside, row)] = 1.0
    unit[(*inside, row + 1)] = -1.0
    return box, unit


def _by_tiles(elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The elements ordered so that neighbours come together."""
    if len(shape) < 2:
        return elements
    where = np.unravel_index(elements, shape)[:-1]
    return elements[np.lexsort((*where[::-1], *(own // _TILE for own in where[::-1])))]


def _between(a: State, b: State) -> State:
    """`a - b`."""
    x, d = (None if p is None or q is None else _minus(p, q) for p, q in zip(a, b, strict=True))
    assert x is not None
    return State(x, d)


def _minus(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower - b.upper), up(a.upper - b.lower))


def _met(a: Interval, b: Interval) -> Interval:
    return Interval(np.maximum(a.lower, b.lower), np.minimum(a.upper, b.upper))


def _image(node: Node, operands: list[State], between: State | None) -> State:
    """The forward step of an operation without weights."""
    if node.op == "larger" and between is not None:
        return _larger(operands, between)
    if node.op == "take":
        where = (slice(None), *np.ix_(*node.fields["indices"]))
        x, d = (v and Interval(*(array[where] for array in v)) for v in operands[0])
        assert x is not None
        return State(x, d)
    return unweighted(node, operands)


def _larger(operands: list[State], between: State) -> State:
    """`max(a, b)` in both networks, and as `relu(a - b) + b` from a tightened difference."""
    (a, da), (b, db) = operands
    largest_x = Interval(np.maximum(a.lower, b.lower), np.maximum(a.upper, b.upper))
    x = _met(largest_x, shifted(leaky_relu(between.x, 0.0), b))
    if da is None or db is None or between.d is None:
        return State(x, None)
    z = [shifted(a, da), shifted(b, db)]
    both = [Interval(*(np.stack(ends) for ends in zip(*pair, strict=True))) for pair in ((a, b), z, (da, db))]
    change = largest_difference(both[0].lower, both[0].upper, both[1], both[2], 0)
    return State(x, _met(change, shifted(leaky_relu_difference(between.x, between.d, 0.0), db)))
