"""Which engine bounds differences: the one place where it is chosen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.backward.engine import bound_difference_backward, bound_difference_branched
from slth_compile.certificate.backward.noise import LARGEST_NODE
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference
from slth_compile.certificate.fixed_point.layers import OutOfPlacesError
from slth_compile.certificate.fixed_point.points import Exact, enclose_points
from slth_compile.certificate.hybrid_bounds import bound_difference_euclidean
from slth_compile.certificate.sensitivity import multiplications
from slth_compile.certificate.spectral import work_of
from slth_compile.certificate.stopwatch import OutOfTimeError, Taken, deadline, no_deadline, stopwatch
from slth_compile.certificate.witness import MOST_SPLITS, Witness
from slth_compile.errors import InputError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

QUICK, NORMAL, FULL = EFFORTS = ("quick", "normal", "full")
"""Intervals alone; fixed point at points, and over regions backward passes up to `LARGEST_WORK`, else norms up to
`LARGEST_NORMS`; the same whatever these cost."""

LARGEST_WORK = 2**44
"""Multiplications of backward passes for every element that is tightened, all regions together: minutes."""

LARGEST_NORMS = 2**36
"""Multiplications for the norms of all layers: minutes."""

INTERVAL, EUCLIDEAN, BACKWARD = "interval", "euclidean", "backward"
"""Regions by enclosures alone, cut with Euclidean bounds, and cut with backward passes as well."""

EXACT, BRANCHED = "exact", "branched"
"""Points by both networks in fixed point; regions by the largest of several backward passes."""

TELLING = 2.0**-6
"""Intervals serve at points while their width is at most this part of the largest difference, or next to nothing."""

WORTH = 1 - 2.0**-28
"""What other engines must stay below, of the interval engine's bound: their margins are wider."""

_FIRST = 2
# Of the outputs: closer than anybody asks for.
_CLOSE = 2.0**-40

Regions = tuple[np.ndarray, np.ndarray]


class Branching(NamedTuple):
    """What branched bounds may cost: none are tried by default.

    Attributes:
        splits: Units that every bound is split at, at most, 0 to `MOST_SPLITS`.
        seconds: Wall time for all regions, plain passes and XLA's compiling included: 1, 2, 3, ... units (up to
            `splits`, where that is not 0) while the next number is expected to be done in time, and given up where it
            is not. Plain passes are always done. None takes `splits` alone, whatever that costs.
    """

    splits: int = 0
    seconds: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether any branched bounds are to be tried."""
        return self.splits > 0 or self.seconds is not None


PLAIN = Branching()
"""No branched bounds."""


def refuse_branching(splits: int, seconds: float | None, effort: str = NORMAL) -> None:
    """Nothing, for what `Branching` holds.

    Raises:
        InputError: Anything else, or branched bounds where there are no backward passes.
    """
    whole = isinstance(splits, int | np.integer) and not isinstance(splits, bool)
    if not whole or not 0 <= splits <= MOST_SPLITS:
        raise InputError(f"splits is {splits!r}; expected a whole number from 0 to {MOST_SPLITS}")
    if seconds is not None and (not isinstance(seconds, int | float) or not 0 < seconds < math.inf):
        raise InputError(f"seconds is {seconds!r}; expected a positive number")
    if effort == QUICK and (splits or seconds is not None):
        raise InputError(f"splits and seconds are for backward passes, and effort {QUICK} has none; leave one out")


class Enclosed(NamedTuple):
    """Enclosures of a domain's regions.

    Attributes:
        leaves: Of `g - f` and of `f`, one an output leaf.
        method: `"points"`, `"exact"`, `"branched"`, `"backward"`, `"euclidean"` or `"interval"`.
        witness: What branched bounds are split at; None for other methods.
    """

    leaves: tuple[Difference, ...]
    method: str
    witness: Witness | None = None


def enclose(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    regions: Regions,
    kind: str,
    *,
    effort: str = NORMAL,
    method: str | None = None,
    branching: Branching = PLAIN,
    progress: Progress = silent,
) -> Enclosed:
    """Enclosures of `g - f` and of `f` for every region, by the engine that bounds them closest.

    Points leave rounding alone to intervals. Over regions backward passes are tried, unless they cost too much, else
    Euclidean bounds, and kept where the largest bound is below the interval engine's; behind backward passes branched
    ones, as far as they are asked for. Of several numbers of splits the one whose largest bound is least stays, with
    its own witness: that need not be the last one.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        regions: Lower and upper ends, float64, each of shape `(regions, *input_shape)`.
        kind: The kind of domain they make up.
        effort: One of `EFFORTS`.
        method: `INTERVAL` for nothing else; other names are what may be found anyway.
        branching: What branched bounds may cost, where backward passes are tried.
        progress: Called as regions are done; of branched bounds as the stage `"split"`; inside a region of a large
            network as `"nodes"`.
    """
    begun = time.perf_counter()
    plain = bound_difference(graph, errors, *regions)
    if kind == "points":
        return Enclosed(plain, "points")
    unfit = max(map(math.prod, graph.shapes)) > LARGEST_NODE
    costly = effort == NORMAL and _work(graph, len(regions[0])) > LARGEST_WORK
    forward = unfit or costly
    if effort == QUICK or method == INTERVAL or (forward and effort == NORMAL and _norm_work(graph) > LARGEST_NORMS):
        return Enclosed(plain, INTERVAL)
    bounds_of = bound_difference_euclidean if forward else bound_difference_backward
    with stopwatch() as taken:
        close, name = bounds_of(graph, errors, *regions, progress=progress), EUCLIDEAN if forward else BACKWARD
        plain_taken = taken()
    best = Enclosed(close, name) if _largest(close) < WORTH * _largest(plain) else Enclosed(plain, INTERVAL)
    if forward:
        return best

    def show(stage: str, done: int, total: int) -> None:
        progress(stage if stage == "nodes" else "split", done, total)

    for splits, between in depths(branching, begun, plain_taken):
        try:
            leaves, witness = bound_difference_branched(graph, errors, *regions, splits, progress=show, between=between)
        except OutOfTimeError:
            show("split", len(regions[0]), len(regions[0]))
            break
        if _largest(leaves) < WORTH * _largest(best.leaves):
            best = Enclosed(leaves, BRANCHED, witness)
    return best


def depths(branching: Branching, begun: float, plain: Taken) -> Iterator[tuple[int, Callable[[], None]]]:
    """The numbers of splits to try, one after the other, and what raises `OutOfTimeError` where one takes too long.

    Each runs about twice as long as the one before and compiles about as long, unless that was done before: an
    expectation, and therefore a deadline as well.

    Args:
        branching: What is asked for.
        begun: When the bounds began, as `time.perf_counter` has it.
        plain: What plain passes took.
    """
    if branching.seconds is None:
        yield from ((branching.splits, no_deadline),) * branching.is_asked
        return
    until, expected = begun + branching.seconds, 3 * plain.running + plain.compiling
    for splits in range(1, (branching.splits or MOST_SPLITS) + 1):
        if time.perf_counter() + expected > until:
            return
        with stopwatch() as taken:
            yield splits, deadline(until)
            running, compiling = taken()
        expected = 2 * running + compiling


def is_telling(graph: Graph, errors: Mapping[int, LayerErrors], x: np.ndarray) -> bool:
    """Whether intervals around some of the points are narrow beside the differences, and so about as exact as any."""
    return _is_narrow(bound_difference(graph, errors, x[:_FIRST], x[:_FIRST]))


def enclose_closest(
    graph: Graph, errors: Mapping[int, LayerErrors], exact: Exact | None, x: np.ndarray, progress: Progress = silent
) -> Enclosed:
    """Enclosures of `g - f` at points, in real arithmetic: in fixed point, or else by intervals.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        exact: Both networks' layers; None leaves it to intervals, as layers do that fixed point does not take.
        x: The points, float64, `(points, *input_shape)`.
        progress: Called as points are done.
    """
    if exact is not None:
        try:
            return Enclosed(enclose_points(graph, exact, errors, x, progress), EXACT)
        except (OutOfPlacesError, OverflowError):
            pass
    return Enclosed(bound_difference(graph, errors, x, x), "points")


def _is_narrow(leaves: tuple[Difference, ...]) -> bool:
    width = max(float(np.nan_to_num((leaf.upper - leaf.lower).max(), nan=np.inf)) for leaf in leaves)
    outputs = max(float(np.maximum(np.abs(leaf.output_lower), np.abs(leaf.output_upper)).max()) for leaf in leaves)
    return width <= TELLING * _largest(leaves) < np.inf or width <= _CLOSE * outputs < np.inf


def _work(graph: Graph, regions: int) -> int:
    """Three products a layer for two rows an element; a row reaches half of the layers."""
    bent = sum(
        math.prod(graph.shapes[node.inputs[0]])
        for node in graph.nodes
        if isinstance(node, n.Activation | n.MaxPool | n.Maximum | n.LayerNorm | n.Softmax)
    )
    return 3 * bent * multiplications(graph) * regions


def _norm_work(graph: Graph) -> int:
    """Norms of W, of W + E and of E, or of W and of both errors side by side."""
    total = 0
    for i in graph.layers:
        node = graph.nodes[i]
        assert isinstance(node, n.Convolution | n.Dense)
        total += 3 * work_of(node, graph.shapes[node.inputs[0]])
    return total


def _largest(leaves: tuple[Difference, ...]) -> float:
    ends = [np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)).max() for leaf in leaves]
    return float(np.nan_to_num(np.max(ends), nan=np.inf))
