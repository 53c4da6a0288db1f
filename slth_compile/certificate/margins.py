"""Predictions proved by the margins themselves, where enclosures of single outputs are too far to prove them.

Outputs move together over a region: `f_c - f_j` is enclosed much closer as one number than by what encloses `f_c` and
`f_j`. So margins become outputs of one more layer, whose entries are 1, -1 and 0 and the same in both networks, and are
bounded by backward passes through it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from slth_compile.certificate.backward.engine import (
    bound_difference_backward,
    bound_difference_branched,
    together_in,
)
from slth_compile.certificate.backward.rewrite import rewritten
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.certificate.top1 import Ahead, Top1, ahead, decided
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, share_of, silent

MOST_MARGINS = 128
"""Most margins that are bounded together; regions with more open ones than these are left as they are."""

Regions = tuple[np.ndarray, np.ndarray]
Errors = Mapping[int, LayerErrors]


def top1_by_margins(
    graph: Graph,
    errors: Errors,
    regions: Regions,
    leaf: Difference,
    classes: np.ndarray,
    *,
    splits: int = 0,
    progress: Progress = silent,
) -> Top1:
    """The regions on which one class is largest in both networks, by single outputs and, where these leave it open, by
    margins.

    Where `f_c - f_j >= m` and `(g_c - g_j) - (f_c - f_j) >= d` on the whole region, `c` is ahead of `j` in `f` if
    `m > 0`, and in both networks if `m > 0` and `m + d > 0`.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        regions: Lower and upper ends, float64, each of shape `(regions, *input_shape)`.
        leaf: Enclosures of the first output, shape `(regions, classes)`.
        classes: The class to be proved in every region, `(regions,)`: that of any of its inputs, others are not ahead.
        splits: As for `bound_difference_branched`; 0 for plain passes.
        progress: Called as regions are done.
    """
    alone, both = (array.copy() for array in ahead(leaf, classes))
    is_open = ~both & (np.arange(both.shape[1]) != classes[:, None])
    batches = list(_batches(is_open, classes))
    for number, (rows, pairs) in enumerate(batches):
        show = share_of(progress, "margins", number, len(batches), ("nodes",))
        margins = _bounds(*margin_graph(graph, errors, pairs), regions, rows, splits, show)
        for column, (c, j) in enumerate(pairs):
            mine = classes[rows] == c
            low, moved = (end[:, column][mine] for end in (margins.output_lower, margins.lower))
            alone[rows[mine], j] |= low > 0
            both[rows[mine], j] |= (low > 0) & (low > -moved)
    return decided(classes, Ahead(alone, both))


def margin_graph(graph: Graph, errors: Errors, pairs: np.ndarray) -> tuple[Graph, dict[int, LayerErrors]]:
    """The network whose only output are margins of the first output leaf, and the errors of its layers.

    The order of the classes is that of what a softmax is taken of, so the softmax is left out.

    Args:
        graph: The folded network.
        errors: Of every weighted layer, by node position.
        pairs: Classes `c` and `j` of every margin, shape `(margins, 2)`.
    """
    top = graph.outputs[0]
    while isinstance(node := graph.nodes[top], n.Softmax | n.LogSoftmax):
        (top,) = node.inputs
    columns = np.arange(len(pairs))
    kernel = np.zeros((*graph.shapes[top], len(pairs)))
    kernel[pairs[:, 0], columns], kernel[pairs[:, 1], columns] = 1.0, -1.0
    margins = n.Dense(inputs=(top,), kernel=kernel)
    none = LayerErrors(positive_center=None, positive_radius=0.0, negative_center=None, negative_radius=0.0)
    cut = dataclasses.replace(graph, nodes=(*graph.nodes[: top + 1], margins), outputs=(top + 1,), output_names=("",))
    return cut, {i: own for i, own in errors.items() if i <= top} | {top + 1: none}


def _bounds(
    graph: Graph, errors: Errors, regions: Regions, rows: np.ndarray, splits: int, progress: Progress
) -> Difference:
    """Enclosures of the network's output over some of the regions."""
    together = together_in(rewritten(graph))
    # As many at a time as all regions were: their programs are there.
    size = min(len(regions[0]), -(-len(rows) // together) * together)
    lower, upper = (end[np.resize(rows, size)] for end in regions)
    if splits:
        (leaf,), _ = bound_difference_branched(graph, errors, lower, upper, splits, progress=progress)
    else:
        (leaf,) = bound_difference_backward(graph, errors, lower, upper, progress=progress)
    return Difference(*(getattr(leaf, field.name)[: len(rows)] for field in dataclasses.fields(leaf)))


def _batches(is_open: np.ndarray, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regions with open margins, and all their pairs `(c, j)`: at most `MOST_MARGINS` pairs at a time."""
    counts = is_open.sum(1)
    rows, pairs = [], np.empty((0, 2), np.int64)
    for row in np.argsort(classes, kind="stable"):
        if not 0 < counts[row] <= MOST_MARGINS:
            continue
        rivals = np.flatnonzero(is_open[row])
        own = np.stack([np.full(len(rivals), classes[row]), rivals], axis=1)
        union = np.unique(np.concatenate([pairs, own]), axis=0)
        if len(union) > MOST_MARGINS:
            yield np.array(rows, np.int64), pairs
            rows, union = [], own
        rows.append(row)
        pairs = union
    if rows:
        yield np.array(rows, np.int64), pairs
