"""Both networks, ready for any regions: the rewritten graph, and every weighted layer's arrays for either direction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax

from slth_compile.certificate import propagate
from slth_compile.certificate.backward.layers import Kernels, PairLayer, kernels_of, pair_layer
from slth_compile.certificate.backward.rewrite import Rewritten, rewritten
from slth_compile.certificate.difference import LayerErrors, layer_arrays
from slth_compile.certificate.euclidean import LayerNorms, layer_norms
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

CHUNK_BYTES = 2**23
"""Memory for the coefficients of one node, all rows of a chunk together: what the caches hold, and malloc keeps."""

MOST_ROWS, FEWEST_ROWS = 256, 16


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """Target and ticket.

    Attributes:
        net: The rewritten graph.
        pairs: Weighted layers of both on the host, by position in it.
        images: Their arrays for the forward enclosures.
        norms: Their Euclidean norms.
        kernels: Their arrays for the backward passes, on the device.
        rows: Rows of a pass that are taken together.
    """

    net: Rewritten
    pairs: Mapping[int, PairLayer]
    images: Mapping[int, propagate.Layer]
    norms: Mapping[int, LayerNorms]
    kernels: Mapping[int, Kernels]
    rows: int


def networks_of(graph: Graph, errors: Mapping[int, LayerErrors], chunk_bytes: int = CHUNK_BYTES) -> Networks:
    """Both networks of a graph and its errors.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        chunk_bytes: Memory to aim at for the coefficients of the largest node.
    """
    net = rewritten(graph)
    pairs, images, norms, kernels = {}, {}, {}, {}
    for i, origin in net.origin.items():
        node = net.nodes[i]
        assert isinstance(node, n.Convolution | n.Dense)
        pairs[i], images[i] = pair_layer(node, errors[origin]), layer_arrays(node, errors[origin])
        norms[i] = layer_norms(node, net.shapes[node.inputs[0]], net.shapes[i], errors[origin])
        with jax.enable_x64(True):
            kernels[i] = kernels_of(pairs[i])
    largest = max(math.prod(shape) for shape in net.shapes)
    rows = 1 << (max(1, chunk_bytes // (16 * largest)).bit_length() - 1)
    return Networks(net, pairs, images, norms, kernels, min(MOST_ROWS, max(FEWEST_ROWS, rows)))
