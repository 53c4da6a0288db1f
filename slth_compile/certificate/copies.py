"""The target as a network of copies, so that a ticket that has every channel several times is compared with it.

A ticket of `constructions.burkholz` reads a channel `a_j` of the target as copies `a_j + d_jk`. Any split of a target's
weight, `w = sum_k w_k`, makes the target itself a network of the ticket's shape, all copies of a channel equal: it
computes the same function, exactly. The engines then bound the pair (this network, the ticket) as they bound any other.
With the kept entries `s_k` of the source the split is

    w_k = s_k for all k but one, k*: the first of those with the largest |s_k|,   w_k* = w - sum over the others of s_k

so that `s_k - w_k = 0` everywhere but at `k*`, where it is the weight's error `sum_k s_k - w`. All entries are
multiples of `2^(g-23)` and sums of 64 of them exact in float64; `w_k*` is rounded, and that and what folding left of
`w` is within `kernel_error` of it.

An evaluation of the target in floating point is one of this network too: a sum over inputs, each term off by a factor
`1 + delta_j`, is the sum over all copies with `delta_jk = delta_j`, and is allowed fewer roundings than that.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.fixed_point.layers import exact_layers, exact_ticket
from slth_compile.certificate.fixed_point.points import Exact
from slth_compile.certificate.weight_errors import layer_errors
from slth_compile.constructions.burkholz import families
from slth_compile.constructions.copies import repeated, widened
from slth_compile.constructions.da_cunha import POSITIVE
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import enclose_difference
from slth_compile.source.layout import BURKHOLZ
from slth_compile.source.network import hidden_kernel
from slth_compile.ticket.apply import kept_entries
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

_ROUNDED = 2.0**-52


def ticket_pair(
    graph: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]
) -> tuple[Graph, dict[int, LayerErrors]]:
    """The target in the ticket's shape, and the errors of the ticket's weights against it, by node position.

    Args:
        graph: The folded target; returned as it is where no layer of the ticket is built more than once.
        ticket: Layout, source and masks.
        layers: Its exact sums.
    """

    def enclosed(index: int) -> tuple[Weighted, LayerErrors]:
        node, layer, layout = graph.nodes[graph.layers[index]], layers[index], ticket.layout.layers[index]
        assert isinstance(node, Weighted)
        built = repeated(node, layout.copies)
        errors = layer_errors(built, layer, layout.kernel, layout.bias)
        return _direct(ticket, index, node, layer, errors) if layout.direct else (built, errors)

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(graph.layers, pool.map(enclosed, range(len(layers))), strict=True))
    nodes, errors = {i: node for i, (node, _) in found.items()}, {i: own for i, (_, own) in found.items()}
    if ticket.layout.construction != BURKHOLZ:
        return graph, errors
    return widened(graph, ticket.layout, nodes), errors


def exact_pair(graph: Graph, folded: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> Exact | None:
    """Both networks' layers with nothing rounded; None for a ticket of copies, which intervals serve.

    Args:
        graph: The target as given.
        folded: The target without batch norms.
        ticket: Layout, source and masks.
        layers: Its exact sums.
    """
    if ticket.layout.construction == BURKHOLZ:
        return None
    return Exact(exact_layers(graph), exact_ticket(folded, ticket, layers))


def _direct(
    ticket: Ticket, index: int, node: Weighted, layer: EffectiveLayer, errors: LayerErrors
) -> tuple[Weighted, LayerErrors]:
    """A direct layer: its split kernel, and the errors against it."""
    layout = ticket.layout.layers[index]
    family = families(ticket.source, index, node, layout)[0]
    entries = kept_entries(family, ticket.masks[index][POSITIVE]).astype(np.float64)
    chosen = np.argmax(np.abs(entries), axis=0)[None]
    rest = entries.sum(0) - np.take_along_axis(entries, chosen, 0)[0]
    last = family.weights - rest
    center, radius = enclose_difference(layer.positive, layout.kernel.gain, family.weights, family.error)
    split, centers, radii = entries, np.zeros_like(entries), np.zeros_like(entries)
    for array, value in ((split, last), (centers, center), (radii, radius)):
        np.put_along_axis(array, chosen, value[None], 0)
    node = repeated(node, layout.copies)
    kernel = hidden_kernel(node, split)
    center, radius = hidden_kernel(node, centers), hidden_kernel(node, radii)
    # A folded weight is known up to `family.error`; the share of it in `last`, the one entry that depends on it.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(family.error > 0, family.error / np.abs(last), 0.0)
    # Both parts of a signed layer: it has one kernel for inputs of either sign.
    negative = (center, radius) if layout.signed else (None, None)
    return dataclasses.replace(
        node, kernel=kernel, kernel_error=float(share.max(initial=0.0)) * (1 + _ROUNDED) + _ROUNDED
    ), dataclasses.replace(
        errors,
        positive_center=center,
        positive_radius=radius,
        negative_center=negative[0],
        negative_radius=negative[1],
    )
