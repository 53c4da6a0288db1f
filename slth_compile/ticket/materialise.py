"""The literal pruned random network: a flax module of random layers, every nonzero weight an entry of the source.

Layer by layer, `hidden = relu(U x)` and `output = V hidden`; the bias gadget is `v . relu(u)`. `U` is the grouped 1x1
convolution that is left of it after pruning, hidden channels in the order (input channel, copy); `dense=True` gives the
full matrices; `compact=True` leaves out copies that no kept entry of `V` reads, which changes no output. A direct layer
(`constructions.burkholz`) is `V` alone, on the copies of the channels it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.constructions.burkholz import families
from slth_compile.constructions.copies import repeated, widened
from slth_compile.constructions.da_cunha import BIAS, NEGATIVE, POSITIVE, Family
from slth_compile.graph.evaluate import evaluate, linear
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.layout import LayerLayout
from slth_compile.source.network import KernelShape, bias_entries, hidden_kernel, kernel_shape, own_entries
from slth_compile.ticket.apply import kept_entries
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.ticket import Ticket


class RandomLayer(nn.Module):
    """Two random layers in place of one: `V relu(U x) + v . relu(u)`; or one, `V x + v . relu(u)`, where `direct`.

    Parameters (all masked entries of the source, in float32, exact):
        U: `(1, C, N)` grouped by input channel, or the full `(C/groups, C*N)` matrix of each group where `dense`.
        V: The target's kernel with every input channel `N` times, `(taps..., N*C/groups, S)`.
        u, v: The bias gadget, `(N_b,)` and `(N_b, S)`.

    `node` is the target's, every output channel as often as it is built.
    """

    node: Any
    width: int
    bias_width: int
    dense: bool = False
    direct: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The layer's output for a batch `(batch, ..., C)`; `(batch, ..., N*C)` where it is direct."""
        shape = kernel_shape(self.node)
        fan_in = shape.inputs // shape.groups
        zeros = nn.initializers.zeros_init()
        hidden = x if self.direct else self._hidden(x)
        *taps, _, outputs = self.node.kernel.shape
        v = self.param("V", zeros, (*taps, fan_in * self.width, outputs))
        y = linear(self.node, hidden, v)
        if not self.bias_width:
            return y
        bias_u = self.param("u", zeros, (self.bias_width,))
        bias_v = self.param("v", zeros, (self.bias_width, outputs))
        bias_u, bias_v = bias_u.astype(x.dtype), bias_v.astype(x.dtype)
        return y + jnp.matmul(nn.relu(bias_u), bias_v, precision=lax.Precision.HIGHEST)

    def _hidden(self, x: jax.Array) -> jax.Array:
        """`relu(U x)`."""
        shape = kernel_shape(self.node)
        fan_in = shape.inputs // shape.groups
        zeros = nn.initializers.zeros_init()
        if self.dense:
            u = self.param("U", zeros, (shape.groups, fan_in, fan_in * self.width))
            grouped = x.reshape(*x.shape[:-1], shape.groups, fan_in)
            hidden = jnp.einsum("...gt,gth->...gh", grouped, u, precision=lax.Precision.HIGHEST)
        else:
            u = self.param("U", zeros, (shape.inputs, self.width))
            hidden = x[..., None] * u
        return nn.relu(hidden).reshape(*x.shape[:-1], shape.inputs * self.width)


class PrunedRandomNetwork(nn.Module):
    """The ticket as drawn and pruned: the target's graph with a `RandomLayer` for every weighted layer.

    `graph` has every channel as often as the ticket has it.
    """

    graph: Any
    layouts: tuple[LayerLayout, ...]
    widths: tuple[int, ...]
    dense: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """The network's output for a batch `(batch, *input_shape)`; a tuple where the target has several."""
        layers = {}
        for index, (position, layout) in enumerate(zip(self.graph.layers, self.layouts, strict=True)):
            layers[position] = RandomLayer(
                self.graph.nodes[position],
                self.widths[index],
                layout.bias.width if layout.bias else 0,
                self.dense and not layout.direct,
                layout.direct,
                name=f"layer{index}",
            )
        outputs = evaluate(self.graph, x, functions=layers)
        return outputs[0] if len(outputs) == 1 else outputs


def network(graph: Graph, ticket: Ticket, *, dense: bool = False, compact: bool = False) -> PrunedRandomNetwork:
    """The literal pruned network, bound to its variables: call it on a batch.

    Args:
        graph: The folded target, for structure.
        ticket: Layout, source and masks.
        dense: Whether `U` is stored as full matrices.
        compact: Whether copies made by a `U` that nothing reads are left out; the others keep their order.
    """
    variables, widths, nodes = {}, [], {}
    for index, (position, masks) in enumerate(zip(graph.layers, ticket.masks, strict=True)):
        node, layout = graph.nodes[position], ticket.layout.layers[index]
        assert isinstance(node, Weighted)
        found = {part.part: part for part in families(ticket.source, index, node, layout)}
        node = nodes[position] = repeated(node, layout.copies)
        if layout.direct:
            v = kept_entries(found[POSITIVE], masks[POSITIVE])
            kernels = {}
        else:
            u, v = _kernels(ticket, index, node, found, masks)
            if compact:
                u, v = _compacted(u, v)
            kernels = {"U": jax.device_put(_full(u.T, kernel_shape(node)) if dense else u.T)}
        kernels["V"] = jax.device_put(hidden_kernel(node, v))
        variables[f"layer{index}"] = kernels | _bias_variables(ticket, index, found, masks)
        widths.append(len(v))
    wide = widened(graph, ticket.layout, nodes)
    return PrunedRandomNetwork(wide, ticket.layout.layers, tuple(widths), dense).bind({"params": variables})


def _kernels(
    ticket: Ticket, index: int, node: Weighted, found: Mapping[str, Family], masks: Mapping[str, SubsetMask]
) -> tuple[np.ndarray, np.ndarray]:
    """The masked `U`, its own entries `(N, C)`, and the masked `V`, `(N, taps, C, S/groups)`; float32, exact."""
    layout = ticket.layout.layers[index]
    own = own_entries(ticket.source, index, kernel_shape(node), layout.kernel.width)
    usable = own != 0 if layout.signed else own > 0
    u = np.where(usable, own, 0).astype(np.float32) * np.float32(2.0**-ENTRY_BITS)
    parts = [found[part] for part in (POSITIVE, NEGATIVE) if part in found]
    return u, sum(kept_entries(family, masks[family.part]) for family in parts)  # type: ignore[return-value]


def _compacted(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many copies of every channel as the busiest one reads, those that are read first."""
    read = np.any(v != 0, axis=(1, 3))
    order = np.argsort(~read, axis=0, kind="stable")[: max(1, int(read.sum(0).max()))]
    return np.take_along_axis(u, order, 0), np.take_along_axis(v, order[:, None, :, None], 0)


def _bias_variables(
    ticket: Ticket, index: int, found: Mapping[str, Family], masks: Mapping[str, SubsetMask]
) -> dict[str, jax.Array]:
    layout = ticket.layout.layers[index]
    if layout.bias is None:
        return {}
    u = bias_entries(ticket.source, index, layout.bias.width)[:, 0]
    return {
        "u": jax.device_put(np.where(u > 0, u, 0).astype(np.float32) * np.float32(2.0**-ENTRY_BITS)),
        "v": jax.device_put(kept_entries(found[BIAS], masks[BIAS]).reshape(layout.bias.width, -1)),
    }


def _full(u: np.ndarray, shape: KernelShape) -> np.ndarray:
    """`U` as one full matrix a group, `(groups, C/groups, C/groups * N)`, zero off the kept entries."""
    fan_in = shape.inputs // shape.groups
    grouped = u.reshape(shape.groups, fan_in, 1, -1)
    return (grouped * np.eye(fan_in, dtype=u.dtype)[:, :, None]).reshape(shape.groups, fan_in, -1)
