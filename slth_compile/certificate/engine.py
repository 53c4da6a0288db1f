"""Which engine bounds differences: the one place where it is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.backward.noise import LARGEST_NODE
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference
from slth_compile.certificate.sensitivity import multiplications
from slth_compile.domain import Domain
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

QUICK, NORMAL, FULL = EFFORTS = ("quick", "normal", "full")
"""Intervals alone; backward passes up to `LARGEST_WORK`; backward passes whatever they cost."""

LARGEST_WORK = 2**44
"""Multiplications of backward passes for every element of every activation, all regions together: minutes."""

ARITHMETIC = "real arithmetic and exact weights"
"""What the bounds are true for."""

_REPLAYED = (
    *(n.Input, n.Convolution, n.Dense, n.Affine, n.Relu, n.LeakyRelu, n.MaxPool, n.Maximum, n.AveragePool, n.Mean),
    *(n.Add, n.Concatenate, n.Slice, n.Pad, n.Dilate, n.Resample, n.Reshape, n.Transpose, n.Softmax, n.LogSoftmax),
)


class Enclosed(NamedTuple):
    """Enclosures of a domain's regions.

    Attributes:
        leaves: Of `g - f` and of `f`, one an output leaf.
        method: `"points"`, `"backward"` or `"interval"`.
    """

    leaves: tuple[Difference, ...]
    method: str


def enclose(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    domain: Domain,
    *,
    effort: str = NORMAL,
    replayed: bool = False,
    progress: Progress = silent,
) -> Enclosed:
    """Enclosures of `g - f` and of `f` for every region of a domain, by the engine that bounds them closest.

    Points leave rounding alone to intervals. Over regions backward passes are tried, unless they cost too much, and
    kept where the largest bound is below the interval engine's.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        domain: The inputs.
        effort: One of `EFFORTS`.
        replayed: True leaves out what the independent checker cannot replay: backward passes through smooth
            activations and products.
        progress: Called as regions are done.
    """
    regions = domain.regions()
    plain = bound_difference(graph, errors, *regions)
    if domain.kind == "points":
        return Enclosed(plain, "points")
    unfit = max(map(math.prod, graph.shapes)) > LARGEST_NODE or (replayed and not _is_replayed(graph))
    costly = effort == QUICK or (effort == NORMAL and _work(graph, domain.count) > LARGEST_WORK)
    if unfit or costly:
        return Enclosed(plain, "interval")
    close = bound_difference_backward(graph, errors, *regions, progress=progress)
    return Enclosed(close, "backward") if _largest(close) < _largest(plain) else Enclosed(plain, "interval")


def _is_replayed(graph: Graph) -> bool:
    return all(isinstance(node, _REPLAYED) for node in graph.nodes)


def _work(graph: Graph, regions: int) -> int:
    """Three products a layer for two rows an element; a row reaches half of the layers."""
    bent = sum(
        math.prod(graph.shapes[node.inputs[0]])
        for node in graph.nodes
        if isinstance(node, n.Activation | n.MaxPool | n.Maximum)
    )
    return 3 * bent * multiplications(graph) * regions


def _largest(leaves: tuple[Difference, ...]) -> float:
    ends = [np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)).max() for leaf in leaves]
    return float(np.nan_to_num(np.max(ends), nan=np.inf))
