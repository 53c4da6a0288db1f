"""The forward engine of enclosures and Euclidean bounds together: for networks whose backward passes cost too much.

Enclosures grow with every layer by what a row's magnitudes add up to, Euclidean bounds by the norm of the layer, which
is less by the root of the fan-in for weights of both signs. Behind a few layers the latter are all that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from slth_compile.certificate.backward import hybrid
from slth_compile.certificate.backward.images import image
from slth_compile.certificate.difference import Difference, LayerErrors, layer_arrays
from slth_compile.certificate.enclosure import Interval
from slth_compile.certificate.euclidean import LayerNorms, layer_norms
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounded import Rounded
from slth_compile.certificate.rounding import without_subnormals
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

CHUNK_ELEMENTS = 2**18
"""Elements of the largest node, all regions of a chunk together."""


def bound_difference_euclidean(
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
        progress: Called with `("bound", regions done, regions)`.

    Returns:
        One `Difference` an output leaf.
    """
    lower, upper = without_subnormals(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
    norms = norms_of_layers(graph, errors)
    together = max(1, CHUNK_ELEMENTS // max(map(math.prod, graph.shapes)))
    parts = []
    for start in range(0, len(lower), together):
        progress("bound", start, len(lower))
        rows = slice(start, start + together)
        with np.errstate(all="ignore"):
            parts.append(_walked(graph, errors, norms, lower[rows], upper[rows]))
    progress("bound", len(lower), len(lower))
    return tuple(
        Difference(*(np.concatenate(ends) for ends in zip(*leaf, strict=True))) for leaf in zip(*parts, strict=True)
    )


def norms_of_layers(graph: Graph, errors: Mapping[int, LayerErrors]) -> dict[int, LayerNorms]:
    """The Euclidean norms of every weighted layer, by position."""
    found = {}
    for i in graph.layers:
        node = graph.nodes[i]
        assert isinstance(node, n.Convolution | n.Dense)
        found[i] = layer_norms(node, graph.shapes[node.inputs[0]], graph.shapes[i], errors[i])
    return found


def _walked(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    norms: Mapping[int, LayerNorms],
    lower: np.ndarray,
    upper: np.ndarray,
) -> list[tuple[np.ndarray, ...]]:
    """`(d lower, d upper, x lower, x upper)` of every output leaf, regions first."""
    last = {i: k for k, node in enumerate(graph.nodes) for i in node.inputs}
    x = Interval(np.moveaxis(lower, 0, -1), np.moveaxis(upper, 0, -1))
    known = {0: hybrid.Operand(graph.input_shape, Pair(x, None), hybrid.beside_input(x))}
    for k, node in enumerate(graph.nodes[1:], 1):
        operands = [known[i] for i in node.inputs]
        layer = layer_arrays(node, errors[k]) if k in norms else None
        found = image(node, [o.pair for o in operands], layer, None)
        points = [o.beside.point() for o in operands]
        at_centre = points[0] if isinstance(node, Rounded) else image(node, points, layer, None)
        known[k] = hybrid.Operand(graph.shapes[k], *hybrid.joined(node, norms.get(k), operands, found, at_centre))
        for i in {*node.inputs} - {*graph.outputs}:
            if last[i] == k:
                del known[i]
    leaves = []
    for i in graph.outputs:
        x, d = known[i].pair
        d = x.each(np.zeros_like) if d is None else d
        leaves.append(tuple(np.moveaxis(end, -1, 0) for end in (*d, *x)))
    return leaves
