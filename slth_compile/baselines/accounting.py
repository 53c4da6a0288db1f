"""What pruning saves, as Blalock et al. (2020, ShrinkBench) define it.

compression ratio    = parameters / kept parameters           (biases are parameters, and are all kept)
theoretical speed-up = multiplications / multiplications by kept kernel entries
density              = kept kernel entries / kernel entries,  sparsity = 1 - density, the pruned fraction
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from slth_compile.baselines.networks import Kernels, Layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network has, and what is left of it.

    Attributes:
        entries: Kernel entries.
        kept_entries: Those that are kept.
        biases: Parameters that are never pruned.
        macs: Multiplications of one image.
        kept_macs: Those by kept kernel entries.
    """

    entries: int
    kept_entries: int
    biases: int
    macs: int
    kept_macs: int

    @property
    def density(self) -> float:
        """The kept fraction of the kernel entries."""
        return self.kept_entries / self.entries

    @property
    def sparsity(self) -> float:
        """The pruned fraction of the kernel entries."""
        return 1 - self.density

    @property
    def compression(self) -> float:
        """Parameters by kept parameters; infinite where none is kept."""
        kept = self.kept_entries + self.biases
        return (self.entries + self.biases) / kept if kept else float("inf")

    @property
    def speedup(self) -> float:
        """Multiplications by kept multiplications; infinite where none is kept."""
        return self.macs / self.kept_macs if self.kept_macs else float("inf")


def cost(layers: Sequence[Layer], masks: Kernels) -> Cost:
    """What masks keep: a kernel entry costs one multiplication at every position of its layer.

    Args:
        layers: The weighted layers.
        masks: For every layer, True where a kernel entry is kept.
    """
    kept = [int(np.count_nonzero(masks[layer.name])) for layer in layers]
    return Cost(
        entries=sum(layer.size for layer in layers),
        kept_entries=sum(kept),
        biases=sum(layer.bias for layer in layers),
        macs=sum(layer.positions * layer.size for layer in layers),
        kept_macs=sum(layer.positions * count for layer, count in zip(layers, kept, strict=True)),
    )
