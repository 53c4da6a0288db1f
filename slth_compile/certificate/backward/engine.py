"""The differential engine: forward enclosures of the pair (x, d), tightened node by node with backward passes.

The tightening is what counts in deep networks: the lines around an activation are as good as the enclosures of what
it reads. Enclosures of the two networks apart would not shrink with their errors.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.backward.branch import branches_of
from slth_compile.certificate.backward.hybrid import within
from slth_compile.certificate.backward.images import difference_of
from slth_compile.certificate.backward.joined import enclose_node
from slth_compile.certificate.backward.networks import networks_of
from slth_compile.certificate.backward.passes import Start, upper_bounds
from slth_compile.certificate.backward.rewrite import Larger, Largest, Rewritten, Take, maximum_before
from slth_compile.certificate.backward.steps import flushed_at, step_back
from slth_compile.certificate.backward.walk import ACTIVATIONS, STOPS, Walk, walk_from
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounding import down, up, without_subnormals
from slth_compile.certificate.stopwatch import no_deadline
from slth_compile.certificate.witness import Witness, joined
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

TOGETHER, SMALL = 64, 20_000
"""Samples walked together in networks of at most so many activations; larger ones go one by one."""

_PLAIN = (n.Affine, n.AveragePool, n.Mean, n.Slice, n.Pad, n.Dilate, n.Reshape, n.Transpose, Take)


class Branched(NamedTuple):
    """What branched bounds find: one `Difference` an output leaf, and the units that the bounds are split at."""

    leaves: tuple[Difference, ...]
    witness: Witness


def bound_difference_backward(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    progress: Progress = silent,
) -> tuple[Difference, ...]:
    """Outward bounds on ticket minus target over every region, for real arithmetic and the exact weights.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        lower: Lower ends of the regions, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
        progress: Called with `("bound", regions done, regions)`, and in one region of a large network with
            `("nodes", nodes passed, nodes)`.

    Returns:
        One `Difference` an output leaf.
    """
    return _walks(graph, errors, lower, upper, 0, progress)[0]


def bound_difference_branched(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    lower: np.ndarray,
    upper: np.ndarray,
    splits: int,
    *,
    progress: Progress = silent,
    between: Callable[[], None] = no_deadline,
) -> Branched:
    """The same, every single bound the largest of up to `2^splits` passes (`branch`).

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        lower: Lower ends of the regions, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
        splits: Units that a bound is split at, 1 to `witness.MOST_SPLITS`.
        progress: Called with `("bound", regions done, regions)`, and in one region of a large network with
            `("nodes", nodes passed, nodes)`.
        between: Called before every pass of some rows, from several threads; what it raises ends all.
    """
    leaves, witnesses = _walks(graph, errors, lower, upper, splits, progress, between)
    return Branched(leaves, joined(witnesses))


def _walks(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    lower: np.ndarray,
    upper: np.ndarray,
    splits: int,
    show: Progress,
    between: Callable[[], None] = no_deadline,
) -> tuple[tuple[Difference, ...], list[Witness]]:
    """Enclosures of all regions; witnesses of some regions each where bounds are split."""
    lower, upper = without_subnormals(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
    with np.errstate(all="ignore"):
        both = networks_of(graph, errors)
    together = together_in(both.net)
    parts, witnesses = [], []
    for start in range(0, len(lower), together):
        show("bound", start, len(lower))
        rows = slice(start, start + together)
        with jax.enable_x64(True), np.errstate(all="ignore"):
            walk = walk_from(both, lower[rows], upper[rows])
            if together == 1:
                walk.felt = functools.partial(_show_nodes, walk, show)
            if splits:
                walk.branches = branches_of(walk, splits, between)
            parts.append(_walked(walk))
            if splits:
                witnesses.append(walk.branches.witness(walk.samples))
    show("bound", len(lower), len(lower))
    return tuple(
        Difference(*(np.concatenate(ends) for ends in zip(*leaf, strict=True))) for leaf in zip(*parts, strict=True)
    ), witnesses


def _show_nodes(walk: Walk, show: Progress) -> None:
    show("nodes", len(walk.pairs), len(walk.both.net.nodes))


def together_in(net: Rewritten) -> int:
    """How many regions of a network are walked at a time."""
    return TOGETHER if sum(map(math.prod, net.shapes)) <= SMALL else 1


def _walked(walk: Walk) -> list[tuple[np.ndarray, ...]]:
    """`(d lower, d upper, x lower, x upper)` of every output leaf, samples first."""
    both = walk.both
    for k in range(1, len(both.net.nodes)):
        _enter(walk, k)
    found = []
    for i in both.net.outputs:
        x, d = walk.pairs[i]
        d = x.each(np.zeros_like) if d is None else d
        found.append(tuple(np.moveaxis(end, -1, 0) for end in (*d, *x)))
    return found


def _enter(walk: Walk, k: int) -> None:
    """Node `k`: what it reads is tightened where that pays, then it is enclosed, and forms learn the way back."""
    net = walk.both.net
    node = net.nodes[k]
    if isinstance(node, Larger):
        walk.between[k] = _apart(walk, k, *node.inputs)
    elif isinstance(node, Largest):
        places = itertools.combinations(range(len(node.inputs)), 2)
        walk.among[k] = {(i, j): _apart(walk, None, node.inputs[i], node.inputs[j]) for i, j in places}
    elif isinstance(node, ACTIVATIONS) and not _is_exact(walk, node.inputs[0]):
        everything = not isinstance(node, n.Relu | n.LeakyRelu)
        _tighten(walk, node.inputs[0], k, everything)
        if (maximum := maximum_before(net.nodes, k)) is not None:
            walk.among[k] = walk.among[maximum] | _above_zero(walk, maximum)
    elif isinstance(node, n.Softmax | n.LogSoftmax | n.LayerNorm):
        _tighten(walk, node.inputs[0], k, True)
    enclose_node(walk, k)
    if isinstance(node, _PLAIN) and node.inputs[0] in walk.plain:
        walk.plain.add(k)
    walk.back[k], walk.flushed[k] = step_back(walk, k), flushed_at(walk, k)
    if walk.branches is not None:
        walk.branches.passed(walk, k)
    if k in net.outputs and not isinstance(node, STOPS):
        _tighten(walk, k, k, True)


def _is_exact(walk: Walk, k: int) -> bool:
    """Whether the forward enclosure is the best there is: one linear map of the input."""
    node = walk.both.net.nodes[k]
    return k in walk.plain or (isinstance(node, n.Convolution | n.Dense) and node.inputs[0] in walk.plain)


def _apart(walk: Walk, reader: int | None, first: int, second: int) -> Pair:
    """Enclosures of the difference of two operands of a maximum."""
    return _tightened(walk, Start(first, second, False, reader), difference_of([walk.pairs[first], walk.pairs[second]]))


def _above_zero(walk: Walk, k: int) -> dict[tuple[int, int], Pair]:
    """Operands of the maximum at `k`, tightened where the relu behind it is open, by their places beside a zero."""
    inputs, (x, d) = walk.both.net.nodes[k].inputs, walk.pairs[k]
    on, off = _surely(x, d)
    starts = [Start(i, None, False, None) for i in inputs]
    return {
        (place, len(inputs)): _tightened(walk, start, walk.pairs[start.node], where=~on & ~off)
        for place, start in enumerate(starts)
    }


def _tighten(walk: Walk, k: int, reader: int, everything: bool) -> None:
    walk.pairs[k] = _tightened(walk, Start(k, None, False, reader), walk.pairs[k], everything)
    walk.besides[k] = within(walk.besides[k], walk.pairs[k])


def _tightened(walk: Walk, start: Start, pair: Pair, everything: bool = False, where: np.ndarray | None = None) -> Pair:
    """The pair's enclosure cut with backward passes, for the elements whose bounds matter.

    Those are the ones whose sign in `x` is open; then, for `d`, those that are not surely on or off in both networks.

    Args:
        walk: Enclosures of all nodes before.
        start: What is enclosed.
        pair: What is known of it.
        everything: True takes all elements.
        where: Elements that count; all by None.
    """
    x, d = pair
    every = np.ones(x.lower.shape, bool) if where is None else where
    x = _cut(walk, start, x, every if everything else every & (x.lower < 0) & (x.upper > 0))
    if d is None:
        return Pair(x, None)
    on, off = _surely(x, d)
    chosen = every if everything else every & ~on & ~off & (d.lower < d.upper)
    return Pair(x, _cut(walk, dataclasses.replace(start, difference=True), d, chosen))


def _surely(x: e.Interval, d: e.Interval | None) -> tuple[np.ndarray, np.ndarray]:
    """Where both networks are on, and where both are off."""
    if d is None:
        return x.lower >= 0, x.upper <= 0
    on = (x.lower >= 0) & (down(x.lower + d.lower) >= 0)
    return on, (x.upper <= 0) & (up(x.upper + d.upper) <= 0)


def _cut(walk: Walk, start: Start, known: e.Interval, chosen: np.ndarray) -> e.Interval:
    shape = known.lower.shape
    rows = np.nonzero(chosen.reshape(-1, walk.samples))
    count = len(rows[0])
    if not count:
        return known
    elements, samples = (np.tile(index, 2) for index in rows)
    bound = upper_bounds if walk.branches is None else walk.branches.bounds
    bounds = bound(walk, start, elements, samples, np.repeat([1.0, -1.0], count))
    lower, upper = (np.array(end).reshape(-1, walk.samples) for end in known)
    # Nothing is learnt from what overflowed.
    upper[rows] = np.fmin(upper[rows], bounds[:count])
    lower[rows] = np.fmax(lower[rows], -bounds[count:])
    return e.Interval(lower.reshape(shape), upper.reshape(shape))
