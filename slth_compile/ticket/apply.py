"""What the pruned network computes: the masks applied to the source, in exact integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.constructions.da_cunha import BIAS, NEGATIVE, POSITIVE, Family, families
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import entries, masked_sum, split
from slth_compile.source.network import from_canonical
from slth_compile.source.threefry import Key, words
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

_BATCH = 1 << 16


def masked_sums(family: Family, mask: SubsetMask) -> np.ndarray:
    """The sum every weight keeps, from the seed and the booleans alone.

    Args:
        family: The weights' copies and keys.
        mask: Their mask.

    Returns:
        int64, canonical shape, units of `2^(gain-46)`.
    """
    subsets = mask.subsets.reshape(-1)
    windows = mask.windows.reshape(-1).astype(np.int64)
    sums = np.zeros(subsets.size, np.int64)
    kept = np.flatnonzero(subsets)
    with jax.enable_x64(True):
        for start in range(0, kept.size, _BATCH):
            flat = kept[start : start + _BATCH]
            addresses, own = family.candidates(flat, windows[flat])
            # Padded to a power of two, so that few shapes are ever compiled.
            pad = (1 << max(10, (flat.size - 1).bit_length())) - flat.size
            padded = [np.pad(a, ((0, 0), (0, pad))) for a in (addresses, own)]
            bits = np.pad(subsets[flat], (0, pad))
            result = _kept_sums(family.key, jnp.asarray(padded[0]), jnp.asarray(padded[1]), jnp.asarray(bits))
            sums[flat] = np.asarray(result)[: flat.size]
    return sums.reshape(family.weights.shape)


def effective_layers(graph: Graph, ticket: Ticket) -> tuple[EffectiveLayer, ...]:
    """Every layer of the ticket in closed form.

    Args:
        graph: The folded target, for shapes.
        ticket: Layout, seed and masks.
    """
    found = []
    for layer, (position, masks) in enumerate(zip(graph.layers, ticket.masks, strict=True)):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        parts = {
            family.part: masked_sums(family, masks[family.part])
            for family in families(ticket.seed, layer, node, ticket.layout.layers[layer])
        }
        found.append(EffectiveLayer(parts[POSITIVE], parts.get(NEGATIVE), parts.get(BIAS)))
    return tuple(found)


def effective_weights(graph: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> dict[int, LayerWeights]:
    """The ticket's weights as `graph.evaluate` takes them, float64 (each the nearest to the exact dyadic)."""
    weights = {}
    for position, layer, layout in zip(graph.layers, layers, ticket.layout.layers, strict=True):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        gain = layout.kernel.gain
        weights[position] = LayerWeights(
            positive=from_canonical(node, _value(layer.positive, gain)),
            negative=None if layer.negative is None else from_canonical(node, _value(layer.negative, gain)),
            bias=None
            if layer.bias is None or layout.bias is None
            else _value(layer.bias, layout.bias.gain).reshape(-1),
            clip=not layout.signed,
        )
    return weights


def _value(sums: np.ndarray, gain: int) -> np.ndarray:
    high, low = split(sums, gain)
    return high + low


@jax.jit
def _kept_sums(key: Key, addresses: jax.Array, own: jax.Array, subsets: jax.Array) -> jax.Array:
    return masked_sum(entries(words(key, addresses)) * own, subsets)
