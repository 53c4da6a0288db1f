"""Activations and maxima that keep their values, while their derivatives change gradually where their own jump.

The difference of two nearly equal networks hardly has a gradient where a unit switches: until the switch nothing shows
what it will be worth. With `f_{W + t E}` the networks between both, `d/dt` of a relu is `1[y > 0] dy/dt`; here

    d relu(y) = sigma(y / T s) dy,    d max_k y_k = sum_k softmax(y / T s)_k dy_k,

`s` how far y moves within the region and `T` a temperature: far above 1 every relu counts half, wherever it is, and at
0 the derivatives are the true ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import apply_node
from slth_compile.graph.graph import Graph

KINKED = (n.Relu, n.LeakyRelu, n.Prelu, n.Clip, n.HardSigmoid, n.MaxPool, n.Maximum)
"""Nodes whose derivative jumps from one constant to another."""

# Keeps quotients finite where nothing moves.
_LEAST = 2.0**-200


def gradual(graph: Graph, temperature: jax.Array, starts: int) -> dict[int, Callable[[jax.Array], jax.Array]]:
    """For every kinked node of a graph, by position, its function with gradual derivatives with respect to its input.

    Args:
        graph: The network.
        temperature: `T > 0`.
        starts: How many rows of a batch are of one region: row `i` is of region `i % (batch / starts)`.
    """
    return {
        i: functools.partial(_value, node, starts, temperature=temperature)
        for i, node in enumerate(graph.nodes)
        if isinstance(node, KINKED)
    }


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _value(node: n.Node, starts: int, y: jax.Array, temperature: jax.Array) -> jax.Array:
    return apply_node(node, [y])


@_value.defjvp
def _value_and_tangent(
    node: n.Node, starts: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (y, temperature), (dy, _) = primals, tangents
    scale = temperature * moved(y, starts) + _LEAST
    if isinstance(node, n.MaxPool):
        share = jax.nn.softmax(_taps(node, y, -jnp.inf) / scale, axis=0)
        tangent = (share * _taps(node, dy, 0.0)).sum(0)
    elif isinstance(node, n.Maximum):
        axes = tuple(a + 1 for a in node.axes)
        tangent = (jax.nn.softmax(y / scale, axis=axes) * dy).sum(axes)
    else:
        tangent = _slope(node, y, scale) * dy
    return apply_node(node, [y]), tangent


def moved(y: jax.Array, starts: int) -> jax.Array:
    """How far a node's elements move within a region, `(batch, 1, ...)`: the root mean square over all of them.

    Of one start alone nothing is known but the elements' size, which is taken instead.

    Args:
        y: The node, shape `(batch, *shape)`.
        starts: As for `gradual`.
    """
    rows = lax.stop_gradient(y).reshape(starts, -1, *y.shape[1:])
    off = rows - rows.mean(0, keepdims=True) if starts > 1 else rows
    size = jnp.sqrt((off * off).mean((0, *range(2, rows.ndim))))
    return jnp.tile(size, starts).reshape(-1, *(1,) * (y.ndim - 1))


def _slope(node: n.Node, y: jax.Array, scale: jax.Array) -> jax.Array | float:
    """The derivative of an elementwise node."""

    def beyond(kink: float) -> jax.Array:
        return jax.nn.sigmoid((y - kink) / scale)

    match node:
        case n.Relu():
            return beyond(0.0)
        case n.LeakyRelu():
            return node.slope + (1 - node.slope) * beyond(0.0)
        case n.Prelu():
            slopes = jnp.asarray(node.slopes, y.dtype)
            return slopes + (1 - slopes) * beyond(0.0)
        case n.Clip():
            return (1.0 if node.low is None else beyond(node.low)) - (0.0 if node.high is None else beyond(node.high))
        case n.HardSigmoid() if node.slope:
            low, high = sorted((end - node.offset) / node.slope for end in (0.0, 1.0))
            return node.slope * (beyond(low) - beyond(high))
        case n.HardSigmoid():
            return jnp.zeros_like(y)
        case _:
            raise TypeError(f"no gradual derivative for {type(node).__name__}")


def _taps(node: n.MaxPool, values: jax.Array, fill: float) -> jax.Array:
    """What every tap of the window sees, taps first; the padding holds `fill`."""
    found = [jnp.pad(values, ((0, 0), *node.padding, (0, 0)), constant_values=fill)]
    for axis, (window, stride) in enumerate(zip(node.window, node.stride, strict=True), 1):
        found = [
            lax.slice_in_dim(v, tap, tap + v.shape[axis] - window + 1, stride, axis)
            for v in found
            for tap in range(window)
        ]
    return jnp.stack(found)
