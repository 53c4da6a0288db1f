"""How often layers are built, and how much nearer they must come for it, where layers read copies of channels.

A direct layer needs as many copies of the channels it reads as its weights need candidates, so a layer in front is
built that often; all nodes of a group of channels (`constructions.copies`) share the largest number. Building more
often means more weights that may miss, hence the least numbers are found by repetition: from one copy everywhere, all
of them only ever grow, the widths as the logarithm.

Tolerances. The budget bounds what errors within tolerances do in a network of the target's shape. Copies of a channel
differ, and a direct layer sums `s_k d_jk` over the kept ones where the target has `w d_j`. Its kept entries are larger
than its weights, so what arrives at it grows by about

    at points:   kappa = sqrt(1 + kept 4^g / 3 / mean w^2)         differences of copies add up like independent ones
    elsewhere:   kappa = max(1, kept 2^g / 2 / mean |w|)           they add up in the worst case

and every layer in front has its tolerance divided by it; at points the tolerances are those of `plan.typical`. All that
is an ESTIMATE, a function of the target and the plan alone. So the plan promises that every weight of every copy is met
within its tolerance with probability >= 1 - delta, and no bound of the outputs: the certificate decides, and above eps
`compile` refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from slth_compile.constructions.copies import SINGLE, channel_groups
from slth_compile.domain import Domain, Points
from slth_compile.errors import UnreachableError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.layout import BURKHOLZ, DA_CUNHA, SPARSEST, LayerLayout

ROUNDS = 40
LARGEST_LAYER = 1 << 26
"""Most random weights of a direct layer (times copies alone, of any other): the checker allows no more."""

_FEW_KEPT = 3
"""Candidates that the sparsest subset within a tolerance keeps, about."""


@dataclasses.dataclass(frozen=True)
class Built:
    """How a layer is to be built.

    Attributes:
        copies: How often every output channel is.
        direct: Whether it reads copies, as one random layer.
        nearer: What its tolerances are divided by.
    """

    copies: int = 1
    direct: bool = False
    nearer: float = 1.0


PlanLayers = Callable[[Sequence[Built]], tuple[LayerLayout, ...]]


def plan_copies(
    graph: Graph, domains: Sequence[Domain], objective: str, plan_layers: PlanLayers
) -> tuple[LayerLayout, ...]:
    """The layers of a network of copies, each built as often as those behind it need.

    Args:
        graph: The folded target.
        domains: Where eps is to hold; decides which estimate of the growth is used.
        objective: One of `source.layout.OBJECTIVES`.
        plan_layers: The plan of all layers for what is to be built.

    Raises:
        UnreachableError: As `plan_layers`, or the numbers of copies do not settle.
    """
    groups = channel_groups(graph)
    reads = {i: groups[graph.nodes[i].inputs[0]] for i in graph.layers}
    at_points = all(isinstance(domain, Points) for domain in domains)
    copies = dict.fromkeys(groups, 1)
    built = [Built(direct=reads[i] != SINGLE) for i in graph.layers]
    for _ in range(ROUNDS):
        found = plan_layers(built)
        for i, layer in zip(graph.layers, found, strict=True):
            if layer.direct:
                copies[reads[i]] = max(copies[reads[i]], layer.kernel.width)
        nearer = _growth(graph, found, objective, at_points)
        wanted = [
            Built(copies[groups[i]], old.direct, max(old.nearer, nearer[i]))
            for i, old in zip(graph.layers, built, strict=True)
        ]
        _refuse_large(graph, wanted, copies, reads)
        if wanted == built:
            return tuple(
                _reading(layer, copies[reads[i]]) if layer.direct else layer
                for i, layer in zip(graph.layers, found, strict=True)
            )
        built = wanted
    raise UnreachableError(f"plan: the numbers of copies did not settle in {ROUNDS} rounds; ask for a larger eps")


def _refuse_large(graph: Graph, built: Sequence[Built], copies: Mapping[int, int], reads: Mapping[int, int]) -> None:
    for index, (i, layer) in enumerate(zip(graph.layers, built, strict=True)):
        node = graph.nodes[i]
        assert isinstance(node, Weighted)
        size = node.kernel.size * layer.copies * (copies[reads[i]] if layer.direct else 1)
        if size > LARGEST_LAYER:
            raise UnreachableError(
                f"construction {BURKHOLZ}: layer '{node.name or index}' would have {size:,} random weights, and "
                f"{LARGEST_LAYER:,} are allowed; its {node.kernel.size:,} weights are too many for copies of channels, "
                f"take {DA_CUNHA}"
            )


def _reading(layer: LayerLayout, copies: int) -> LayerLayout:
    """The layer with all the copies there are as candidates; more than it needs miss no more often."""
    return dataclasses.replace(layer, kernel=dataclasses.replace(layer.kernel, width=copies))


def _growth(graph: Graph, layers: Sequence[LayerLayout], objective: str, at_points: bool) -> list[float]:
    """What a difference at each node grows by on its way to the outputs, for the sums of direct layers alone."""
    planned = dict(zip(graph.layers, layers, strict=True))
    found = [1.0] * len(graph.nodes)
    for i, node in reversed(list(enumerate(graph.nodes))):
        own = found[i]
        if isinstance(node, Weighted) and planned[i].direct:
            own *= _sum_growth(node, planned[i], objective, at_points)
        for j in node.inputs:
            found[j] = max(found[j], own)
    return found


def _sum_growth(node: Weighted, layer: LayerLayout, objective: str, at_points: bool) -> float:
    """kappa of one direct layer."""
    weights = np.abs(node.kernel[node.kernel != 0])
    if weights.size == 0:
        return 1.0
    window, gain = layer.kernel.window, layer.kernel.gain
    kept = min(_FEW_KEPT, window / 2) if objective == SPARSEST else window / 2
    if at_points:
        return float(np.sqrt(1 + kept * 4.0**gain / 3 / np.mean(weights**2)))
    return max(1.0, float(kept * 2.0**gain / 2 / np.mean(weights)))
