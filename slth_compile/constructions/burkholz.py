"""A layer as ONE random layer, on channels that are there several times (Burkholz, 2022: depth l + 1).

    output[s, m] = W hidden,   hidden[c, k] = copy k of channel c
    W (N, taps, C, S*r/groups), entries 2^g * Uniform[-1, 1)
    K[p, c, (s, m)] = 2^g * sum of W[k, p, c, (s, m)] over the kept copies k

The first layer is built by `da_cunha`, every one of its output channels `r` times, each time by random weights of its
own; the copies stand in for the copies `relu(U x)` of two random layers. Each weight of each copy `m` of output channel
`s` is a random subset-sum problem whose candidates are uniform, no products. No two copies of a channel are equal,
since each of them misses the target's weights by something else; how far that leads is what the certificate bounds.

"Most activation functions can win the lottery without excessive depth" (NeurIPS 2022) and "Convolutional and residual
networks provably contain lottery tickets" (ICML 2022). Outside the theorems: biases, which keep the gadget of
`da_cunha`, and layers that read single channels (the network's input, what mixes channels): these take two random
layers wherever they are.
"""

from __future__ import annotations

import numpy as np

from slth_compile.constructions.copies import repeated
from slth_compile.constructions.da_cunha import POSITIVE, Family, bias_family
from slth_compile.constructions.da_cunha import families as two_layer_families
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.layout import LayerLayout
from slth_compile.source.network import kernel_shape, to_canonical
from slth_compile.source.source import Source
from slth_compile.source.threefry import TENSOR_V


def families(source: Source, layer: int, node: Weighted, layout: LayerLayout) -> tuple[Family, ...]:
    """The problems of one layer, of two random layers or of one: for every copy of every output channel its own.

    Args:
        source: What candidates are drawn from.
        layer: Index of the layer.
        node: The folded layer.
        layout: Its plan; a layer of the two-layer construction is one that is built once and is not direct.

    Returns:
        As `da_cunha.families`, outputs in the order (channel, copy); one family for the kernel where it is direct, with
        `own` 1 for every copy.
    """
    node = repeated(node, layout.copies)
    if not layout.direct:
        return two_layer_families(source, layer, node, layout)
    channels, width = kernel_shape(node).inputs, layout.kernel.width
    weights = to_canonical(node, node.kernel)
    kernel = Family(
        layer=layer,
        part=POSITIVE,
        gadget=layout.kernel,
        weights=weights,
        error=node.kernel_error * np.abs(weights),
        copies=np.broadcast_to(np.arange(width)[:, None], (width, channels)),
        counts=np.full(channels, width),
        own=np.full((width, channels), 1 << ENTRY_BITS),
        v=source.tensor(layer, TENSOR_V),
    )
    return (kernel, *bias_family(source, layer, node, layout))
