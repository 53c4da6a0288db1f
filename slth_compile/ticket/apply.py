"""What the pruned network computes: the masks applied to the source, in exact integers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.constructions.burkholz import families
from slth_compile.constructions.copies import repeated
from slth_compile.constructions.da_cunha import BIAS, NEGATIVE, POSITIVE, Family
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import ENTRY_BITS, split
from slth_compile.source.layout import LayerLayout
from slth_compile.source.network import from_canonical, hidden_kernel
from slth_compile.source.tensor import Tensor, entries_at, read_entries
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

_BATCH, _CHUNK = 1 << 16, 1 << 10
_THREADS = 2
# An entry, -2^23 to 2^23, takes one bit more than its magnitude and its sign.
_COPY_SHIFT = ENTRY_BITS + 2


def masked_sums(family: Family, mask: SubsetMask) -> np.ndarray:
    """The sum every weight keeps, from the source and the booleans alone.

    Args:
        family: The weights' copies and tensors.
        mask: Their mask.

    Returns:
        int64, canonical shape, units of `2^(gain-46)`.
    """
    subsets, windows = mask.subsets.reshape(-1), mask.windows.reshape(-1)
    _, channels, features = family.weights.shape
    # Copy and entry of U in one number, channel by channel; sizes are rounded up, so that few shapes are compiled.
    table = ((family.copies << _COPY_SHIFT) + (family.own + (1 << ENTRY_BITS))).T.reshape(-1)
    table = np.pad(table, (0, _rounded(table.size, 4) - table.size))
    batch = min(_BATCH, _rounded(subsets.size, 3))
    with jax.enable_x64(True):
        sizes = np.array([len(family.copies), channels, features, subsets.size], np.int64)
        arguments = (family.v, *jax.device_put((table, sizes)))

    def run(start: int) -> np.ndarray:
        parts = [a[start : start + batch] for a in (windows, subsets)]
        with jax.enable_x64(True):
            padded = [np.pad(part, (0, batch - part.size)) for part in parts]
            found = _kept_sums(family.gadget.window, *arguments, np.int64(start), *padded)
            return np.asarray(found)[: parts[0].size]

    with ThreadPoolExecutor(_THREADS) as pool:
        sums = np.concatenate(list(pool.map(run, range(0, subsets.size, batch))))
    return sums.reshape(family.weights.shape)


def effective_layers(graph: Graph, ticket: Ticket) -> tuple[EffectiveLayer, ...]:
    """Every layer of the ticket in closed form.

    Args:
        graph: The folded target, for shapes.
        ticket: Layout, source and masks.
    """
    found = []
    for layer, (position, masks) in enumerate(zip(graph.layers, ticket.masks, strict=True)):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        found.append(effective_layer(families(ticket.source, layer, node, ticket.layout.layers[layer]), masks))
    return tuple(found)


def effective_layer(problems: Sequence[Family], masks: Mapping[str, SubsetMask]) -> EffectiveLayer:
    """A layer of the ticket in closed form, from its families and their masks by part."""
    parts = {family.part: masked_sums(family, masks[family.part]) for family in problems}
    return EffectiveLayer(parts[POSITIVE], parts.get(NEGATIVE), parts.get(BIAS))


def effective_weights(graph: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> dict[int, LayerWeights]:
    """The ticket's weights as `graph.evaluate` takes them, float64 (each the nearest to the exact dyadic).

    A direct layer has all that its mask keeps, exactly; its weights, and those of a layer that is built several times,
    are for a graph that has every channel as often as the ticket (`constructions.copies`).
    """
    weights = {}
    for index, (position, layer, layout) in enumerate(zip(graph.layers, layers, ticket.layout.layers, strict=True)):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        found = layer_weights(repeated(node, layout.copies), layer, layout)
        if layout.direct:
            kernel = direct_kernel(ticket, index, node)
            found = found._replace(positive=kernel, clip=False)
        weights[position] = found
    return weights


def direct_kernel(ticket: Ticket, index: int, node: Weighted) -> np.ndarray:
    """What is left of a direct layer: float64 `(taps..., N*C/groups, r*S)`, every nonzero entry one of the source."""
    layout = ticket.layout.layers[index]
    family = families(ticket.source, index, node, layout)[0]
    kept = kept_entries(family, ticket.masks[index][POSITIVE]).astype(np.float64)
    return hidden_kernel(repeated(node, layout.copies), kept)


def layer_weights(node: Weighted, layer: EffectiveLayer, layout: LayerLayout) -> LayerWeights:
    """The weights of one layer, float64 (each the nearest to the exact dyadic)."""
    gain = layout.kernel.gain
    return LayerWeights(
        positive=from_canonical(node, _value(layer.positive, gain)),
        negative=None if layer.negative is None else from_canonical(node, _value(layer.negative, gain)),
        bias=None if layer.bias is None or layout.bias is None else _value(layer.bias, layout.bias.gain).reshape(-1),
        clip=not layout.signed,
    )


def kept_entries(family: Family, mask: SubsetMask) -> np.ndarray:
    """The kept entries of `V`, zero elsewhere: float32 `(width, *canonical shape)`, exact."""
    gadget = family.gadget
    found = np.zeros((gadget.width, family.weights.size), np.float32)
    flat = np.flatnonzero(mask.subsets)
    addresses, _ = family.candidates(flat, mask.windows.reshape(-1)[flat].astype(np.int64))
    bit = np.arange(gadget.window, dtype=np.uint32)[:, None]
    kept = (mask.subsets.reshape(-1)[flat] >> bit) & 1 == 1
    drawn = read_entries(family.v, addresses[kept])
    found.reshape(-1)[addresses[kept]] = drawn.astype(np.float32) * np.float32(2.0 ** (gadget.gain - ENTRY_BITS))
    return found.reshape(gadget.width, *family.weights.shape)


def _value(sums: np.ndarray, gain: int) -> np.ndarray:
    high, low = split(sums, gain)
    return high + low


def _rounded(size: int, step: int) -> int:
    """The next of `2^10, 2^(10 + step), ...`."""
    return 1 << (10 + step * max(0, -(-((size - 1).bit_length() - 10) // step)))


@functools.partial(jax.jit, static_argnums=0)
def _kept_sums(
    window: int, v: Tensor, table: jax.Array, sizes: jax.Array, start: jax.Array, windows: jax.Array, subsets: jax.Array
) -> jax.Array:
    """The sums of the weights from flat position `start` on, chunk by chunk."""
    width, channels, features, total = sizes

    def chunk(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        flat, window_of, bits = part
        # Where nothing is kept, and past the end, any entry of the table will do.
        rank = window_of.astype(jnp.int64) * window + jnp.arange(window)[:, None]
        packed = table[(flat // features % channels) * width + jnp.minimum(rank, width - 1)]
        # Integers below 2^53 all along, at most 32 products of 46 bits: float64 is exact, and faster than int64.
        own = ((packed & ((1 << _COPY_SHIFT) - 1)).astype(jnp.int32) - (1 << ENTRY_BITS)).astype(jnp.float64)
        addresses = ((packed >> _COPY_SHIFT) * total + flat).astype(jnp.uint64)
        entries = entries_at(v, addresses, jnp.int32).astype(jnp.float64)
        kept = (bits >> jnp.arange(window, dtype=jnp.uint32)[:, None]) & jnp.uint32(1) == 1
        return jnp.where(kept, own * entries, 0.0).sum(0).astype(jnp.int64)

    flat = start + jnp.arange(windows.size, dtype=jnp.int64)
    parts = (x.reshape(-1, _CHUNK) for x in (flat, windows, subsets))
    return lax.map(chunk, tuple(parts)).reshape(-1)
