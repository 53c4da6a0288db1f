"""A ticket: layout, source, masks. Nothing else is needed to know every weight of the pruned network."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.source.layout import Layout
from slth_compile.source.source import Source
from slth_compile.ticket.masks import SubsetMask


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A pruned random network.

    Attributes:
        layout: What was drawn.
        source: Where its random numbers come from.
        masks: For every layer, the masks of its parts: `"positive"`, `"negative"` where signed, `"bias"` where it has
            one.
    """

    layout: Layout
    source: Source
    masks: tuple[dict[str, SubsetMask], ...]

    @property
    def seed(self) -> int | None:
        """The source's seed, unsigned 64 bit; None where it was supplied."""
        return self.source.seed

    @property
    def kept(self) -> int:
        """Number of kept entries of all `V` (and bias `v`)."""
        return sum(mask.kept for layer in self.masks for mask in layer.values())


@dataclasses.dataclass(frozen=True, eq=False)
class EffectiveLayer:
    """One layer of the ticket in closed form: `K+ max(z, 0) + K- min(z, 0) + b`, in exact integers.

    Attributes:
        positive: Sums of K+, int64, canonical shape, units of `2^(gain-46)`.
        negative: Sums of K-; None where the layer is one-signed.
        bias: Sums of the bias, int64 `(1, 1, S)`, units of `2^(bias gain-46)`; None where there is none.
    """

    positive: np.ndarray
    negative: np.ndarray | None
    bias: np.ndarray | None
