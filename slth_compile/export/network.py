"""What is exported: one function of a ticket in float32, and where its statement holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.domain import Domain
from slth_compile.graph.evaluate import ArrayLike, LayerWeights, evaluate
from slth_compile.graph.graph import Graph
from slth_compile.ticket.materialise import PrunedRandomNetwork

Function = Callable[[np.ndarray], Sequence[ArrayLike]]
"""A batch of inputs in, every output leaf out."""

EFFECTIVE, LITERAL = "effective", "literal"


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A ticket as it is exported.

    Attributes:
        graph: The folded target, for structure.
        weights: Effective weights by node position, float32.
        exact: The same in float64.
        literal: The pruned random network of 2l layers, where that is what is exported.
        domains: Where the ticket is certified; None for a domain that was not stored.
        properties: What a file says about the ticket, by name.
    """

    graph: Graph
    weights: Mapping[int, LayerWeights]
    exact: Mapping[int, LayerWeights]
    literal: PrunedRandomNetwork | None
    domains: tuple[Domain | None, ...]
    properties: Mapping[str, str]

    @property
    def kind(self) -> str:
        """`"effective"` or `"literal"`."""
        return EFFECTIVE if self.literal is None else LITERAL

    def outputs(self, x: ArrayLike) -> tuple[jax.Array, ...]:
        """Every output leaf for a batch, in float32; can be traced, weights are constants in it."""
        x = jnp.asarray(x, jnp.float32)
        if self.literal is None:
            return evaluate(self.graph, x, self.weights)
        found = self.literal(x)
        return found if isinstance(found, tuple) else (found,)

    def reference(self) -> Function:
        """The ticket in float64; `exact` weights."""
        program = jax.jit(lambda x: evaluate(self.graph, x, self.exact))

        def function(x: np.ndarray) -> tuple[jax.Array, ...]:
            with jax.enable_x64(True):
                return program(np.asarray(x, np.float64))

        return function
