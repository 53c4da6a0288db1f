"""Which engine bounds differences: the one place where it is chosen."""

from __future__ import annotations

from collections.abc import Mapping

from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference
from slth_compile.domain import Domain
from slth_compile.graph.graph import Graph

METHODS = {"points": "points", "balls": "interval", "box": "interval"}
"""What the engine's method is called, by the kind of domain."""

ARITHMETIC = "real arithmetic and exact weights"
"""What the bounds are true for."""


def enclose(graph: Graph, errors: Mapping[int, LayerErrors], domain: Domain) -> tuple[Difference, ...]:
    """Enclosures of `g - f` and of `f`, one a leaf, for every region of a domain.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        domain: The inputs.
    """
    return bound_difference(graph, errors, *domain.regions())
