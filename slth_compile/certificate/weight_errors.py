"""From exact sums to the errors the engine bounds: `E = K_hat - W` of every layer of a ticket."""

from __future__ import annotations

import numpy as np

from slth_compile.certificate.difference import LayerErrors
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import enclose_difference
from slth_compile.source.layout import Gadget
from slth_compile.source.network import from_canonical
from slth_compile.ticket.ticket import EffectiveLayer, Ticket


def weight_errors(graph: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> dict[int, LayerErrors]:
    """The errors of a ticket of two random layers for each, by node position; of any ticket, see `certificate.copies`.

    Args:
        graph: The folded target.
        ticket: For the gains.
        layers: The ticket's exact sums.
    """
    found = {}
    for position, layer, layout in zip(graph.layers, layers, ticket.layout.layers, strict=True):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        found[position] = layer_errors(node, layer, layout.kernel, layout.bias)
    return found


def largest_error(errors: LayerErrors) -> float:
    """The largest |error| of the layer's kernel, rounded up."""
    pairs = [(errors.positive_center, errors.positive_radius), (errors.negative_center, errors.negative_radius)]
    return max(float(np.max(np.abs(c) + r)) * (1 + 2.0**-52) for c, r in pairs if c is not None and r is not None)


def layer_errors(node: Weighted, layer: EffectiveLayer, gadget: Gadget, bias: Gadget | None) -> LayerErrors:
    """The errors of one layer's weights, enclosed in float64.

    Args:
        node: The folded target's layer, every output channel as often as it is built.
        layer: The ticket's exact sums.
        gadget: Of the kernel, for its gain.
        bias: Of the bias; None where there is none.
    """

    def kernel(sums: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        if sums is None:
            return None, None
        folding = node.kernel_error * np.abs(node.kernel)
        return enclose_difference(from_canonical(node, sums), gadget.gain, node.kernel, folding)

    positive, positive_radius = kernel(layer.positive)
    negative, negative_radius = kernel(layer.negative)
    assert positive_radius is not None
    bias_center, bias_radius = None, None
    if layer.bias is not None:
        assert bias is not None and node.bias is not None
        folding = np.zeros_like(node.bias) if node.bias_error is None else node.bias_error
        bias_center, bias_radius = enclose_difference(layer.bias.reshape(-1), bias.gain, node.bias, folding)
    return LayerErrors(
        positive_center=positive,
        positive_radius=positive_radius,
        negative_center=negative,
        negative_radius=negative_radius,
        bias_center=bias_center,
        bias_radius=bias_radius,
    )
