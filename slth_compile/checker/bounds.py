"""How far the ticket's outputs can be from the target's over a domain.

For every region and node the walk carries enclosures of the target's activation x and of the difference d = z - x, z
being the ticket's activation. A weighted layer computes

    z_out - x_out = W d + E_p max(z, 0) + E_n min(z, 0) + e_b,

where `W + E_p` and `W + E_n` are the ticket's exact weights for positive and negative input (E_n falls away in a
one-signed layer, whose input is never negative). All bounds hold in real arithmetic; `execution` makes the networks
whose bounds hold for evaluations too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.domain import Domain
from slth_compile.checker.execution import Format, rounded_inputs
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.operations import State, unweighted
from slth_compile.checker.tighten import net_of, output_differences
from slth_compile.checker.weighted import weighted
from slth_compile.checker.witness import Witness
from slth_compile.errors import VerificationError

MAX_LIVE = 1 << 25
"""Most elements of one sample that are needed at one time."""

_BATCH = 1 << 19  # elements of activations at a time


def backward_bounds(
    folded: Folded,
    layers: Mapping[int, PairLayer],
    domain: Domain,
    inputs: Format | None = None,
    witness: Witness | None = None,
) -> list[np.ndarray]:
    """As `output_bounds`, with every enclosure cut by backward passes: tighter and much slower.

    With a witness, the rows that it lists are bounded by cases too.

    Raises:
        VerificationError: A sample needs more memory than the checker allows, no backward bound is known for an
            operation, a bound is not finite, or the witness names what there is not.
    """
    net = net_of(folded, layers)
    if witness is not None:
        witness.check(net.targets)
    bounds = [np.zeros(folded.graph.nodes[i].shape) for i in folded.graph.outputs]
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
            for bound, d in zip(bounds, found, strict=True):
                if d is not None:
                    np.maximum(bound, np.maximum(-d.lower, d.upper)[0], out=bound)
    return bounds


def output_bounds(
    folded: Folded, layers: Mapping[int, PairLayer], domain: Domain, inputs: Format | None = None
) -> list[np.ndarray]:
    """For each output leaf and element, a number that `|f(x) - g(x)|` exceeds nowhere on the domain, by intervals.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph.
        domain: The inputs.
        inputs: A format that they are rounded to first; None leaves them as they are.

    Returns:
        One float64 array an output leaf, of the leaf's shape.

    Raises:
        VerificationError: A sample needs more memory than the checker allows, or a bound is not finite.
    """
    last = last_reads(folded.graph)
    largest = max(math.prod(node.shape) for node in folded.graph.nodes)
    step = max(1, _BATCH // largest)
    bounds = [np.zeros(folded.graph.nodes[i].shape) for i in folded.graph.outputs]

    def batch(start: int) -> list[np.ndarray | None]:
        with np.errstate(all="ignore"):
            lower, upper = _region(domain, start, min(domain.samples, start + step), inputs)
            states = _walk(folded.graph, layers, State(Interval(lower, upper), None), last)
        differences = [states[i].d for i in folded.graph.outputs]
        return [None if d is None else np.maximum(-d.lower, d.upper).max(axis=0) for d in differences]

    # Large samples one by one: memory first. Order does not matter, the maximum is exact.
    workers = min(4, os.cpu_count() or 1) if largest <= _BATCH else 1
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(batch, range(0, domain.samples, step)):
            for bound, own in zip(bounds, found, strict=True):
                if own is not None:
                    np.maximum(bound, own, out=bound)
    return bounds


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
