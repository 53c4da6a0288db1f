"""Sums of products in dense networks (Pensia, Rajput, Nagle, Vishwakarma & Papailiopoulos, NeurIPS 2020).

    hidden = relu(U x),   W_hat = V hidden:   every weight is a random subset-sum problem with candidates `2^g V U`

It is `da_cunha` where all kernels are of one tap: dense layers and 1x1 convolutions. Nothing else is different.
"""

from __future__ import annotations

from slth_compile.errors import UnsupportedModelError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.network import kernel_shape


def refuse_kernels(graph: Graph) -> None:
    """Nothing, for a folded target whose kernels all have one tap.

    Raises:
        UnsupportedModelError: One is larger; names all such layers.
    """
    found = []
    for index, position in enumerate(graph.layers):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        if kernel_shape(node).taps > 1:
            taps = "x".join(map(str, node.kernel.shape[:-2]))
            found.append(f"layer '{node.name or index}' has a {taps} kernel")
    if found:
        raise UnsupportedModelError(
            f"construction pensia: {'; '.join(found)}; expected dense layers and 1x1 convolutions only, larger kernels "
            "are construction da-cunha"
        )
