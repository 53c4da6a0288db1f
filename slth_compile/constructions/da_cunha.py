"""How one weighted layer becomes two random ones (da Cunha, Natale & Viennot, ICLR 2022).

    hidden = relu(U x),   U (N, C, C/groups): copy (j, t) keeps the single entry of its own channel t
    output = V hidden,    V (N, taps, C, S/groups), entries 2^g * Uniform[-1, 1)
    K+-[p, t, s] = 2^g * sum of V[j, p, t, s] * U[j, t] over the kept copies j with U[j, t] > 0 (< 0)

    layer(x) = K+ max(x, 0) + K- min(x, 0)   for every real x

so every weight is a random subset-sum problem with candidates `2^g V U`, and in a signed layer a second one with the
other sign of `U`. The bias is the same gadget on the constant 1, `v . relu(u)`, outside the theorem. Dense layers and
1x1 convolutions are the construction of Pensia et al., NeurIPS 2020.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.graph.nodes import Weighted
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.network import bias_entries, kernel_shape, own_entries, to_canonical, usable_copies
from slth_compile.source.source import Source
from slth_compile.source.tensor import Tensor
from slth_compile.source.threefry import TENSOR_BIAS_V, TENSOR_V

POSITIVE, NEGATIVE, BIAS = "positive", "negative", "bias"


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """The subset-sum problems of one part of a layer: one for every weight, all with one gain and one set of copies.

    Attributes:
        layer: Index of the layer.
        part: `"positive"`, `"negative"` (input sign) or `"bias"`.
        gadget: Width, gain, window, tolerance.
        weights: Targets, float64, canonical shape `(taps, C, S/groups)`; `(1, 1, S)` for a bias.
        error: Relative (kernel) or absolute (bias, broadcastable) error of `weights` after folding.
        copies: Usable copies of every channel, ascending, int64 `(width, C)`, valid up to `counts`.
        counts: Number of usable copies of every channel, int64 `(C,)`.
        own: Entries of `U` in the order of `copies`, int64 `(width, C)`, units of 2^-23.
        v: The tensor `V` (`v` for a bias).
    """

    layer: int
    part: str
    gadget: Gadget
    weights: np.ndarray
    error: np.ndarray
    copies: np.ndarray
    counts: np.ndarray
    own: np.ndarray
    v: Tensor

    @property
    def windows(self) -> np.ndarray:
        """Number of disjoint windows every channel offers, `(C,)`."""
        return self.counts // self.gadget.window

    def channel(self, flat: np.ndarray) -> np.ndarray:
        """Input channel of the weights at canonical flat positions `flat`."""
        return flat // self.weights.shape[2] % self.weights.shape[1]

    def candidates(self, flat: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the candidates of some weights are.

        Args:
            flat: Canonical flat positions of the weights, `(batch,)`.
            windows: The window of each, `(batch,)`; it must exist.

        Returns:
            Flat positions in `V`, uint64 `(m, batch)`, and entries of `U`, int64 `(m, batch)`.
        """
        rank = windows * self.gadget.window + np.arange(self.gadget.window)[:, None]
        channel = self.channel(flat)
        addresses = self.copies[rank, channel] * self.weights.size + flat
        return addresses.astype(np.uint64), self.own[rank, channel]


def families(source: Source, layer: int, node: Weighted, layout: LayerLayout) -> tuple[Family, ...]:
    """The problems of one layer: its kernel, once for each input sign it must serve, and its bias.

    Args:
        source: What candidates are drawn from.
        layer: Index of the layer.
        node: The folded layer.
        layout: Its plan.

    Returns:
        One family for `"positive"`, one for `"negative"` where signed, one for `"bias"` where there is a bias.
    """
    shape = kernel_shape(node)
    own = own_entries(source, layer, shape, layout.kernel.width)
    weights = to_canonical(node, node.kernel)
    error = node.kernel_error * np.abs(weights)
    v = source.tensor(layer, TENSOR_V)
    found = [_family(layer, POSITIVE, layout.kernel, weights, error, own, +1, v)]
    if layout.signed:
        found.append(_family(layer, NEGATIVE, layout.kernel, weights, error, own, -1, v))
    return (*found, *bias_family(source, layer, node, layout))


def bias_family(source: Source, layer: int, node: Weighted, layout: LayerLayout) -> tuple[Family, ...]:
    """The problems of a layer's bias, none where it has no bias; arguments as for `families`."""
    if layout.bias is None:
        return ()
    assert node.bias is not None
    bias = node.bias.reshape(1, 1, -1)
    error = np.zeros_like(bias) if node.bias_error is None else node.bias_error.reshape(1, 1, -1)
    own = bias_entries(source, layer, layout.bias.width)
    v = source.tensor(layer, TENSOR_BIAS_V)
    return (_family(layer, BIAS, layout.bias, bias, error, own, +1, v),)


def _family(
    layer: int, part: str, gadget: Gadget, weights: np.ndarray, error: np.ndarray, own: np.ndarray, sign: int, v: Tensor
) -> Family:
    copies, counts = usable_copies(own, sign)
    return Family(layer, part, gadget, weights, error, copies, counts, np.take_along_axis(own, copies, 0), v)
