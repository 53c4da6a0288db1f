"""The plan's record: what is drawn and what every weight must meet, fixed before the first word is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from slth_compile.source.law import STANDARD, SourceLaw

MAXIMUM_WIDTH = 2**15 - 1
"""Largest width: effective weights stay below 2^62 in units of 2^(gain-46)."""


CLOSEST, SPARSEST, FEWEST_BITS = "closest", "sparsest", "fewest-bits"
OBJECTIVES = (CLOSEST, SPARSEST, FEWEST_BITS)
"""Which subset within its tolerance a weight takes: the closest, one that keeps fewest, one that codes shortest."""

DA_CUNHA, PENSIA, MALACH, BURKHOLZ = "da-cunha", "pensia", "malach", "burkholz"
CONSTRUCTIONS = (DA_CUNHA, PENSIA, MALACH, BURKHOLZ)
"""Whose proof a network is built by: da Cunha et al. (2022); its dense case, Pensia et al. (2020); Malach et al.
(2020), where a weight keeps one product and no sum; or Burkholz (2022), one random layer for each behind the first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gadget:
    """One family of subset-sum problems: a layer's kernel, or its bias.

    Attributes:
        width: Copies N of every input channel (of the constant 1, for a bias).
        gain: Exponent g; entries of `V` are `2^g * Uniform[-1, 1)`.
        window: Candidates solved together, m.
        tolerance: Largest allowed |effective weight - weight|.
        failure: Bound on P(some weight misses its tolerance), over seeds; None where none is stated.
    """

    width: int
    gain: int
    window: int
    tolerance: float
    failure: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerLayout:
    """One weighted layer of the target as two random layers, or as one.

    Attributes:
        signed: Whether its input may be negative, see `graph.check.nonnegative_nodes`: of two random layers, the first
            then keeps copies of both signs of U.
        kernel: The gadget of the kernel.
        bias: The gadget of the bias, None where the layer has none.
        copies: How often every output channel is built.
        direct: Whether it is one random layer, which reads the `kernel.width` copies of its input channels.
    """

    signed: bool
    kernel: Gadget
    bias: Gadget | None
    copies: int = 1
    direct: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything about the source but its words: a function of what was asked, never of the seed.

    Attributes:
        eps: Allowed difference, output units.
        delta: Allowed probability, over seeds, that some weight misses its tolerance; None where nothing is stated.
        layers: Every weighted layer in topological order.
        objective: One of `OBJECTIVES`.
        construction: One of `CONSTRUCTIONS`.
        law: Of the entries; None where the source is supplied.
    """

    eps: float
    delta: float | None
    layers: tuple[LayerLayout, ...]
    objective: str = CLOSEST
    construction: str = DA_CUNHA
    law: SourceLaw | None = STANDARD

    @property
    def depth(self) -> int:
        """Random layers in place of the target's, the gadgets of biases beside them."""
        return sum(1 if layer.direct else 2 for layer in self.layers)

    @property
    def failure(self) -> float | None:
        """Bound on P(some weight of the network misses its tolerance), the union over gadgets; None if not stated."""
        gadgets = [g for layer in self.layers for g in (layer.kernel, layer.bias) if g is not None]
        return added([g.failure for g in gadgets])


def layers_json(layout: Layout) -> list[dict[str, Any]]:
    """The layers as plain data; how each is built is left out where all are built alike."""
    layers = [dataclasses.asdict(layer) for layer in layout.layers]
    if layout.construction == BURKHOLZ:
        return layers
    return [{key: layer[key] for key in ("signed", "kernel", "bias")} for layer in layers]


def added(failures: Sequence[float | None]) -> float | None:
    """The sum of some stated probabilities, None where one of them is not stated."""
    stated = [failure for failure in failures if failure is not None]
    return sum(stated) if len(stated) == len(failures) else None
