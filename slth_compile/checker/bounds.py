"""How far the ticket's outputs can be from the target's over a domain.

For every region and node the walk carries enclosures of the target's activation x and of the difference d = z - x, z
being the ticket's activation. A weighted layer computes

    z_out - x_out = W d + E_p max(z, 0) + E_n min(z, 0) + e_b,

where `W + E_p` and `W + E_n` are the ticket's exact weights for positive and negative input (E_n falls away in a
one-signed layer, whose input is never negative). All bounds hold in real arithmetic; `execution` makes the networks
whose bounds hold for evaluations too.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.domain import Domain
from slth_compile.checker.execution import Format, rounded_inputs
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph
from slth_compile.checker.lengths import layer_norms, walk_with_lengths
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.operations import State, unweighted
from slth_compile.checker.tighten import net_of, output_differences
from slth_compile.checker.weighted import weighted
from slth_compile.checker.witness import Witness
from slth_compile.errors import VerificationError

MAX_LIVE = 1 << 25
"""Most elements of one sample that are needed at one time."""

_BATCH = 1 << 19  # elements of activations at a time


class Found(NamedTuple):
    """For each element of an output leaf, what the largest `|f(x) - g(x)|` is at least and at most."""

    lower: np.ndarray
    upper: np.ndarray


def largest_of(d: Interval | None, shape: tuple[int, ...]) -> Found:
    """Of every element, over the leading axis of an enclosure of the difference; None is zero everywhere."""
    if d is None:
        return Found(np.zeros(shape), np.zeros(shape))
    return Found(np.maximum(np.maximum(d.lower, -d.upper), 0.0).max(axis=0), np.maximum(-d.lower, d.upper).max(axis=0))


def backward_bounds(
    folded: Folded,
    layers: Mapping[int, PairLayer],
    domain: Domain,
    inputs: Format | None = None,
    witness: Witness | None = None,
) -> list[Found]:
    """As `output_bounds`, with every enclosure cut by backward passes: tighter and much slower.

    With a witness, the rows that it lists are bounded by cases too.

    Raises:
        VerificationError: A sample needs more memory than the checker allows, no backward bound is known for an
            operation, a bound is not finite, or the witness names what there is not.
    """
    net = net_of(folded, layers)
    if witness is not None:
        witness.check(net.targets)
    shapes = [folded.graph.nodes[i].shape for i in folded.graph.outputs]
    bounds = [largest_of(None, shape) for shape in shapes]
    size = sum(math.prod(node.shape) for node in net.graph.nodes)
    workers = min(4, os.cpu_count() or 1)
    many = domain.samples > 1 and size <= _BATCH
    with ThreadPoolExecutor(workers) as pool:

        def region(position: int) -> list[Interval | None]:
            lower, upper = _region(domain, position, position + 1, inputs)
            listed = None if witness is None else witness.region(position)
            return output_differences(net, lower, upper, map if many else pool.map, listed)

        # Samples side by side, or, where there is one or memory is short, its passes.
        for found in (pool.map if many else map)(region, range(domain.samples)):
            own = [largest_of(d, shape) for d, shape in zip(found, shapes, strict=True)]
            bounds = [_larger(*both) for both in zip(bounds, own, strict=True)]
    return bounds


def output_bounds(
    folded: Folded, layers: Mapping[int, PairLayer], domain: Domain, inputs: Format | None = None
) -> list[Found]:
    """For each output leaf and element, how large `|f(x) - g(x)|` gets on the domain, by intervals.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph.
        domain: The inputs.
        inputs: A format that they are rounded to first; None leaves them as they are.

    Returns:
        float64 arrays of each output leaf's shape.

    Raises:
        VerificationError: A sample needs more memory than the checker allows, or a bound is not finite.
    """
    return _forward(folded, domain, inputs, functools.partial(_walk, folded.graph, layers))


def euclidean_bounds(
    folded: Folded, layers: Mapping[int, PairLayer], domain: Domain, inputs: Format | None = None
) -> list[Found]:
    """As `output_bounds`, with every enclosure cut by Euclidean lengths: tighter where layers are many."""
    norms = layer_norms(folded, layers)
    return _forward(folded, domain, inputs, functools.partial(walk_with_lengths, folded.graph, layers, norms))


def _forward(
    folded: Folded, domain: Domain, inputs: Format | None, walk: Callable[[State, list[int]], dict[int, State]]
) -> list[Found]:
    last = last_reads(folded.graph)
    largest = max(math.prod(node.shape) for node in folded.graph.nodes)
    step = max(1, _BATCH // largest)
    shapes = [folded.graph.nodes[i].shape for i in folded.graph.outputs]
    bounds = [largest_of(None, shape) for shape in shapes]

    def batch(start: int) -> list[Found]:
        with np.errstate(all="ignore"):
            lower, upper = _region(domain, start, min(domain.samples, start + step), inputs)
            states = walk(State(Interval(lower, upper), None), last)
        return [largest_of(states[i].d, shape) for i, shape in zip(folded.graph.outputs, shapes, strict=True)]

    # Large samples one by one: memory first. Order does not matter, the maximum is exact.
    workers = min(4, os.cpu_count() or 1) if largest <= _BATCH else 1
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(batch, range(0, domain.samples, step)):
            bounds = [_larger(*both) for both in zip(bounds, found, strict=True)]
    return bounds


def _larger(a: Found, b: Found) -> Found:
    return Found(np.maximum(a.lower, b.lower), np.maximum(a.upper, b.upper))


def _region(domain: Domain, start: int, stop: int, inputs: Format | None) -> tuple[np.ndarray, np.ndarray]:
    ends = domain.regions(start, stop)
    return ends if inputs is None else rounded_inputs(*ends, inputs)


def last_reads(graph: Graph, most: int = MAX_LIVE) -> list[int]:
    """The last node that reads each node (outputs are kept to the end); the memory this needs is bounded."""
    last = list(range(len(graph.nodes)))
    for position, node in enumerate(graph.nodes):
        for i in node.inputs:
            last[i] = position
    for i in graph.outputs:
        last[i] = len(graph.nodes)
    ends: dict[int, int] = {}
    live = 0
    for position, node in enumerate(graph.nodes):
        size = math.prod(node.shape)
        live += size
        ends[last[position]] = ends.get(last[position], 0) + size
        if live > most:
            raise VerificationError("target", f"a sample needs {live} activations at a time, more than {most}")
        live -= ends.pop(position, 0)
    return last


def _walk(graph: Graph, layers: Mapping[int, PairLayer], entry: State, last: list[int]) -> dict[int, State]:
    """States of the outputs."""
    states: dict[int, State] = {}
    for position, node in enumerate(graph.nodes):
        operands = [states[i] for i in node.inputs]
        if position == 0:
            state = entry
        elif position in layers:
            state = weighted(layers[position], *operands[0])
        else:
            state = unweighted(node, operands)
        for interval in state:
            if interval is not None and not all(np.isfinite(array).all() for array in interval):
                raise VerificationError("bound", f"the enclosure of node {position} ('{node.op}') is not finite")
        states[position] = state
        for i in {position, *node.inputs}:
            if last[i] <= position:
                del states[i]
    return states
