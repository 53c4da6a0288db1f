"""Both networks over one region: enclosures of every pair (x, d), node by node, cut with backward passes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np

from slth_compile.checker.activations import largest_difference, leaky_relu, leaky_relu_difference
from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.backward import Place, behind_maximum, largest, place
from slth_compile.checker.bends import ACTIVATIONS, ENDS, NARROWED
from slth_compile.checker.branch import Branching, Map, Start, before
from slth_compile.checker.combined import Around, Read, around_input, behind, both, combined, limited, shortened
from slth_compile.checker.euclidean import Norms, norms_of
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.halves import Halves, halves
from slth_compile.checker.lines import surely
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.noise import Noise, layer_noise, unweighted_noise
from slth_compile.checker.operations import State, shifted, unweighted
from slth_compile.checker.rewriting import RELUS, rewrite
from slth_compile.checker.targets import Targets, targets_of
from slth_compile.checker.weighted import weighted
from slth_compile.checker.witness import Listed
from slth_compile.errors import VerificationError

_BUDGET = 1 << 22  # numbers of one array of a pass
_ROWS = 64  # of a pass; they read neighbouring elements, which keeps boxes small
_CASES = 512  # of a pass by cases: many of them are of one element
_TILE = 4  # neighbours along an axis

_MOVES = ("affine", "average_pool", "mean", "slice", "pad", "dilate", "reshape", "transpose", "take", "rounded")


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
        cases: Of a pass by cases.
        targets: What is bounded, numbered.
    """

    graph: Graph
    layers: Mapping[int, Halves]
    norms: Mapping[int, tuple[Norms, Norms]]
    maxima: Mapping[int, tuple[Node, int]]
    readers: tuple[int, ...]
    rows: int
    cases: int
    targets: Targets


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
    rows, cases = (max(2, min(most, _BUDGET // widest)) for most in (_ROWS, _CASES))
    own = {position: halves(pair) for position, pair in rewritten.layers.items()}
    norms = {}
    for position, pair in rewritten.layers.items():
        node = graph.nodes[position]
        norms[position] = norms_of(pair, graph.nodes[node.inputs[0]].shape, math.prod(node.shape[:-1]))
    return Net(graph, own, norms, rewritten.maxima, tuple(graph.consumers()), rows, cases, targets_of(graph))


def output_differences(
    net: Net, lower: np.ndarray, upper: np.ndarray, each: Map = map, listed: Listed | None = None
) -> list[Interval | None]:
    """Enclosures of the difference at every output leaf over one region; None where both networks agree.

    Args:
        net: The networks.
        lower: Lower ends of the region, shape `(1, *shape)`.
        upper: Upper ends.
        each: Applies a function to several arguments, in order; a pool's map spreads passes over threads.
        listed: Rows that are bounded by cases too.

    Raises:
        VerificationError: No backward bound is known for an operation, or an enclosure is not finite.
    """
    branching = None
    if listed is not None and len(listed.rows):
        branching = Branching(net.graph, net.targets, listed, Interval(lower[0], upper[0]), net.cases, each)
    region = _Region(net, each, branching)
    with np.errstate(all="ignore"):  # what is not finite is refused, or not used as a bound
        for k, node in enumerate(net.graph.nodes):
            region.enter(k, node, State(Interval(lower, upper), None))
    return [region.states[i].d for i in net.graph.outputs]


class _Region:
    """Enclosures so far; of shape `(1, *shape)`."""

    def __init__(self, net: Net, each: Map, branching: Branching | None) -> None:
        self.net, self.each, self.branching = net, each, branching
        self.states: list[State] = []
        self.arounds: list[Around] = []
        self.places: list[Place] = []
        self.among: dict[int, dict[tuple[int, int], State]] = {}  # of maxima of several nodes
        self.moved: set[int] = {0}  # the input, and what moves, scales or averages its elements

    def enter(self, k: int, node: Node, entry: State) -> None:
        """Encloses the next node, its operand tightened before where that is worth it."""
        between, numbers = None, self.net.targets
        if node.op in ACTIVATIONS or node.op in NARROWED:
            operand = node.inputs[0]
            if node.op in NARROWED or not self._is_exact(operand):
                number = (numbers.of_bend if node.op in ACTIVATIONS else numbers.of_output).get(k)
                found = self._tightened(self.states[operand], {operand: 1.0}, number, node.op not in RELUS)
                self._set(operand, found)
            between = self.states[operand] if node.op in ACTIVATIONS else None
        operands = [self.states[i] for i in node.inputs]
        if node.op == "larger":
            between = self._tightened(_between(*operands), before(node), numbers.of_bend[k])
        among = self._among(node) if node.op == "largest" else None
        around = None
        if node.op == "relu" and self.net.graph.nodes[node.inputs[0]].op == "largest":
            around = self._behind_maximum(node.inputs[0])
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
        self.places.append(place(node, own, operands, found, noise, between, among, around))
        if among is not None:
            self.among[k] = among
        if self.branching is not None and between is not None:
            self.branching.enter(k, noise, between)
        if k in self.net.graph.outputs and node.op not in ENDS and k:
            self._set(k, self._tightened(state, {k: 1.0}, numbers.of_output[k], everything=True))

    def _among(self, node: Node) -> dict[tuple[int, int], State]:
        """The difference of every two operands of a maximum, by their places."""
        found = {}
        for (i, a), (j, b) in itertools.combinations(enumerate(node.inputs), 2):
            found[i, j] = self._tightened(_between(self.states[a], self.states[b]), {a: 1.0, b: -1.0}, None)
        return found

    def _behind_maximum(self, k: int) -> Place:
        """The maximum at `k`, which is tightened, with the relu that reads it."""
        node, top = self.net.graph.nodes[k], self.states[k]
        on, off = surely(*top)
        operands = [self.states[i] for i in node.inputs]
        among = dict(self.among[k])
        for at, (i, state) in enumerate(zip(node.inputs, operands, strict=True)):
            among[at, len(operands)] = self._tightened(state, {i: 1.0}, None, where=~(on | off))
        readers = 1 + max(self.net.readers[i] for i in node.inputs)
        noise = unweighted_noise(node, operands, top, readers)
        noise = noise._replace(flushed=noise.flushed + self.places[k].flushed)
        return behind_maximum(self.places[k], operands, top, noise, among)

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

    def _tightened(
        self,
        known: State,
        signs: dict[int, float],
        number: int | None,
        everything: bool = False,
        where: np.ndarray | None = None,
    ) -> State:
        """Enclosures of a node, or of the difference of two, cut with passes for x and then for d.

        Args:
            known: What is known of them.
            signs: What each node's elements are multiplied by in their sum.
            number: Of the target that this is; None for none.
            everything: False leaves out what is surely on or off.
            where: Elements to look at; all by None.
        """
        x, d = known
        some = np.ones(x.lower.shape, bool) if where is None else where
        chosen = some if everything else some & (x.lower < 0) & (x.upper > 0)
        shape = x.lower.shape[1:]
        x = self._cut(x, chosen, Start(signs, shape, "x"), number)
        if d is not None:
            on, off = surely(x, d)
            chosen = some if everything else some & ~(on | off)
            d = self._cut(d, chosen & (d.lower < d.upper), Start(signs, shape, "d"), number)
        return State(x, d)

    def _cut(self, known: Interval, chosen: np.ndarray, start: Start, number: int | None) -> Interval:
        elements = _by_tiles(np.flatnonzero(chosen), start.shape)
        if len(elements) == 0:
            return known
        most = self.net.rows // 2

        def passes(first: int) -> np.ndarray:
            with np.errstate(all="ignore"):
                some = np.repeat(elements[first : first + most], 2)
                forms = start.forms(some, np.tile([1.0, -1.0], len(some) // 2))
                return largest(self.places, forms, len(some))

        found = np.concatenate(list(self.each(passes, range(0, len(elements), most)))).reshape(-1, 2)
        if self.branching is not None and number is not None:
            found = self.branching.least(self.places, number, start, elements, found)
        lower, upper = (array.reshape(-1).copy() for array in known)
        upper[elements] = np.minimum(upper[elements], found[:, 0])
        lower[elements] = np.maximum(lower[elements], -found[:, 1])
        return Interval(lower.reshape(chosen.shape), upper.reshape(chosen.shape))


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
    if node.op == "largest":
        return _largest(operands)
    if node.op == "take":
        where = (slice(None), *np.ix_(*node.fields["indices"]))
        x, d = (v and Interval(*(array[where] for array in v)) for v in operands[0])
        assert x is not None
        return State(x, d)
    return unweighted(node, operands)


def _larger(operands: list[State], between: State) -> State:
    """`max(a, b)` in both networks, and as `relu(a - b) + b` from a tightened difference."""
    _, (b, db) = operands
    largest_x, change = _largest(operands)
    x = _met(largest_x, shifted(leaky_relu(between.x, 0.0), b))
    if change is None or db is None or between.d is None:
        return State(x, None)
    return State(x, _met(change, shifted(leaky_relu_difference(between.x, between.d, 0.0), db)))


def _largest(operands: list[State]) -> State:
    """The maximum of several nodes in both networks, by what is known of each of them."""
    x = _stacked([state.x for state in operands])
    changes = [state.d for state in operands if state.d is not None]
    found = Interval(x.lower.max(axis=0), x.upper.max(axis=0))
    if len(changes) < len(operands):
        return State(found, None)
    z = _stacked([shifted(state.x, d) for state, d in zip(operands, changes, strict=True)])
    return State(found, largest_difference(x.lower, x.upper, z, _stacked(changes), 0))


def _stacked(intervals: list[Interval]) -> Interval:
    lower, upper = zip(*intervals, strict=True)
    return Interval(np.stack(lower), np.stack(upper))
