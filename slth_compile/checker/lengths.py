"""Bounds by enclosures and Euclidean lengths together, layer by layer, without passes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from slth_compile.checker.combined import Read, around_input, combined
from slth_compile.checker.euclidean import Norms, norms_of
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.operations import State, unweighted
from slth_compile.checker.weighted import weighted
from slth_compile.errors import VerificationError


def layer_norms(folded: Folded, layers: Mapping[int, PairLayer]) -> dict[int, tuple[Norms, Norms]]:
    """Norms of every layer, and of its rows, by position in the folded graph."""
    nodes = folded.graph.nodes
    return {
        position: norms_of(pair, nodes[nodes[position].inputs[0]].shape, math.prod(nodes[position].shape[:-1]))
        for position, pair in layers.items()
    }


def walk_with_lengths(
    graph: Graph,
    layers: Mapping[int, PairLayer],
    norms: Mapping[int, tuple[Norms, Norms]],
    entry: State,
    last: list[int],
) -> dict[int, State]:
    """States of the outputs.

    Args:
        graph: The folded graph.
        layers: Its layers in both networks.
        norms: As `layer_norms` finds them.
        entry: The regions.
        last: The last node that reads each.

    Raises:
        VerificationError: An enclosure is not finite.
    """
    reads: dict[int, Read] = {}
    for position, node in enumerate(graph.nodes):

        def image(states: list[State], position: int = position) -> State:
            if position in layers:
                return weighted(layers[position], *states[0])
            return unweighted(graph.nodes[position], states)

        if position == 0:
            found = Read(entry, around_input(entry.x))
        else:
            operands = [reads[i] for i in node.inputs]
            state = image([one.state for one in operands])
            found = combined(node, norms.get(position), operands, state, image)
        for interval in found.state:
            if interval is not None and not all(np.isfinite(array).all() for array in interval):
                raise VerificationError("bound", f"the enclosure of node {position} ('{node.op}') is not finite")
        reads[position] = found
        for i in {position, *node.inputs}:
            if last[i] <= position:
                del reads[i]
    return {i: reads[i].state for i in graph.outputs}
