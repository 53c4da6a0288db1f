"""`B(eta)` at points: what the plan may promise there, far below the interval engine's answer in deep networks.

At a point the target's activations y are numbers. Write the difference of every node as a linear map of the differences
before it and a residual:

    layer      d' = W d + r,             |r| <= eta * sum of |z| over the window + eta_b,  |z| <= |x| + D
    relu       d' = [y > 0] d + r,       0 <= r <= max(0, D - |y|)
    smooth     d' = a'(y) d + r,     |r| <= sup |a''| D^2 / 2, kinks as above
    product    d' = b da + a db + r, |r| <= Da Db; of matrices likewise
    layer norm, inner softmax        their derivative, and remainders of second order below
    max-pool   d' = d[argmax x] + r,     0 <= r <= max(0, max over others of (x + D) - (x - D)[argmax])

with D an interval bound on |d|. Then `|d_out| <= sum over nodes |A| |r|` with A the output's derivative by the
residual, one backward pass an output: errors of all layers meet with their signs, as in the backward engines of the
verifiers (Zhang et al., CROWN, NeurIPS 2018).

Every residual grows at least as fast as the tolerances, and A does not depend on them, so

    B(s * eta) <= s * B(eta)   for 0 <= s <= 1.

Computed in float32 without outward rounding, with a slack for activations near zero: the plan keeps a margin of 1e-3,
and what is certified about the ticket that was drawn is computed, and checked, apart from it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.derivatives import derivative, remainder, steepest
from slth_compile.certificate.difference import window_of
from slth_compile.certificate.enclosure import slices
from slth_compile.certificate.row_derivatives import layer_norm_moved, layer_norm_reach, softmax_moved, softmax_reach
from slth_compile.certificate.sensitivity import multiplications
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import apply_node, linear, resample
from slth_compile.graph.graph import Graph, Structure

LARGEST_WORK = 2**37
"""Multiplications of all backward passes, one a point and output, that one value of `B` may cost."""

_ROWS = 64
_BATCH = 64
_CHUNK_BYTES = 2**27
# Stands in for the rounding of activations, relative to the largest of their node.
_SLACK = 2.0**-19


def is_affordable(graph: Graph, points: int) -> bool:
    """Whether `promise_at_points` is within `LARGEST_WORK`; `certificate.norms` serves larger networks."""
    outputs = sum(math.prod(graph.shapes[i]) for i in graph.outputs)
    return outputs * points * multiplications(graph) <= LARGEST_WORK


def promise_at_points(graph: Graph, tolerances: Mapping[int, tuple[float, float]], x: np.ndarray) -> float:
    """Largest difference of any output at any of the points, for all errors within the tolerances.

    Backward passes that stop at the last convolution, with the interval bound D for all before it, are cheap and
    already close; only points whose cheap bound exceeds the largest full one found go through the whole network.

    Args:
        graph: The folded target.
        tolerances: `(kernel, bias)` by node position.
        x: Points, `(samples, *input_shape)`.

    Returns:
        `B(eta)` over the points.
    """
    convolutions = [i for i in graph.layers if isinstance(graph.nodes[i], n.Convolution)]
    last = max(convolutions, default=0)
    cheap = _promises(graph, tolerances, x, last)
    if last <= graph.layers[0]:
        return float(cheap.max())
    largest, left = 0.0, np.argsort(-cheap)
    while left.size and cheap[left[0]] > largest:
        rows, left = left[:_BATCH], left[_BATCH:]
        # A max-pool's linear form may lose to its interval: both bounds hold.
        full = np.minimum(_promises(graph, tolerances, x[rows], 0), cheap[rows])
        largest = max(largest, float(full.max()))
    return largest


def _promises(graph: Graph, tolerances: Mapping[int, tuple[float, float]], x: np.ndarray, start: int) -> np.ndarray:
    """`B(eta)` of every point, `(samples,)`, by backward passes that stop at node `start`."""
    outputs = sum(math.prod(graph.shapes[i]) for i in graph.outputs)
    elements = max(math.prod(shape) for shape in graph.shapes) * min(outputs, _ROWS)
    size = max(1, min(_BATCH, _CHUNK_BYTES // (8 * elements)))
    weights = {i: _arrays(node) for i, node in enumerate(graph.nodes)}
    eta = {i: (np.float32(kernel), np.float32(bias)) for i, (kernel, bias) in tolerances.items()}
    program = _program(Structure(graph), start)
    bounds = []
    for first in range(0, len(x), size):
        rows = np.minimum(np.arange(first, first + size), len(x) - 1)
        bounds.append(np.asarray(program(weights, eta, _single(x[rows])), np.float64))
    # What overflows on the way is bounded by nothing.
    return np.nan_to_num(np.concatenate(bounds)[: len(x)], nan=np.inf, posinf=np.inf)


def _arrays(node: n.Node) -> tuple[jax.Array | None, ...]:
    """A node's parameters, which reach a program as arguments: it serves all graphs of one structure."""
    match node:
        case n.Convolution() | n.Dense():
            found = node.kernel, node.bias
        case n.Affine():
            found = node.scale, node.shift
        case n.Prelu():
            found = (node.slopes,)
        case n.Resample():
            found = (node.matrix,)
        case _:
            return ()
    return tuple(None if array is None else _single(array) for array in found)


@functools.lru_cache(maxsize=32)
def _program(structure: Structure, start: int):
    return jax.jit(functools.partial(_promise, structure.graph, start))


def _promise(graph: Graph, start: int, weights: Any, eta: Any, x: jax.Array) -> jax.Array:
    values, residuals, interval = _forward(graph, weights, eta, x)
    reach = jnp.max(jnp.stack([_largest(interval[i]) for i in graph.outputs]), 0)
    sizes = {i: interval[i] if _is_entrance(graph, i, start) else r for i, r in residuals.items() if i >= start}
    sizes |= {j: interval[j] for j in range(1, start) if _is_read_past(graph, j, start)}

    def outputs(noise: dict[int, jax.Array]) -> jax.Array:
        found = _linearised(graph, start, weights, values, noise)
        return jnp.concatenate([d.reshape(len(x), -1) for d in found], 1)

    # Linear in the noise: one transposed pass an output gives its derivatives by every residual.
    flat, transpose = jax.vjp(outputs, {i: jnp.zeros_like(size) for i, size in sizes.items()})

    def bound(row: jax.Array) -> jax.Array:
        (derivatives,) = transpose(jnp.broadcast_to(row, flat.shape))
        shares = [jnp.sum((jnp.abs(a) * sizes[i]).reshape(len(x), -1), 1) for i, a in derivatives.items()]
        return jnp.sum(jnp.stack(shares), 0)

    rows = lax.map(bound, jnp.eye(flat.shape[1], dtype=x.dtype))
    factor = max((2.0 if isinstance(graph.nodes[i], n.LogSoftmax) else 1.0) for i in graph.outputs)
    return jnp.minimum(factor * jnp.max(rows, 0), reach)


def _is_entrance(graph: Graph, i: int, start: int) -> bool:
    """Whether node `i` is a layer past `start` that reads a node before it: its interval bound enters as a residual."""
    node = graph.nodes[i]
    return isinstance(node, n.Convolution | n.Dense) and node.inputs[0] < start <= i


def _is_inner(graph: Graph, i: int) -> bool:
    """Whether anything but outputs reads a softmax; one at an output alone counts as what it reads."""
    return graph.consumers[i] > graph.outputs.count(i)


def _is_read_past(graph: Graph, j: int, start: int) -> bool:
    """Whether a node past `start` that is no layer reads node `j` before it: the interval bound of `j` enters there."""
    readers = [i for i in range(start, len(graph.nodes)) if j in graph.nodes[i].inputs]
    return j in graph.outputs or any(not _is_entrance(graph, i, start) for i in readers)


def _forward(graph: Graph, weights: Any, eta: Any, x: jax.Array) -> tuple[list[jax.Array], dict[int, jax.Array], list]:
    """Activations, bounds on every residual, and the interval bound D of every node."""
    values, reach, residuals = [x], [jnp.zeros_like(x)], {}
    for i, node in enumerate(graph.nodes[1:], 1):
        operands, ds = [values[j] for j in node.inputs], [reach[j] for j in node.inputs]
        y, d = operands[0], ds[0]
        match node:
            case n.Convolution() | n.Dense():
                kernel, bias = weights[i]
                out = linear(node, y, kernel)
                values.append(out if bias is None else out + bias)
                residuals[i] = jnp.broadcast_to(_windows(node, jnp.abs(y) + d) * eta[i][0] + eta[i][1], out.shape)
                reach.append(linear(node, d, jnp.abs(kernel)) + residuals[i])
                continue
            case n.Relu() | n.LeakyRelu():
                slope = node.slope if isinstance(node, n.LeakyRelu) else 0.0
                residuals[i] = (1 - slope) * jnp.clip(d + _near(y) - jnp.abs(y), 0, d)
                reach.append(jnp.where(y > 0, d, slope * d + residuals[i]))
            case n.Prelu():
                (slopes,) = weights[i]
                residuals[i] = remainder(node, y, d, _near(y), slopes)
                reach.append(jnp.abs(derivative(node, y, slopes)) * d + residuals[i])
                values.append(jnp.where(y >= 0, y, slopes * y))
                continue
            case n.Resample():
                (matrix,) = weights[i]
                values.append(resample(y, matrix, node.axis + 1))
                reach.append(resample(d, jnp.abs(matrix), node.axis + 1))
                continue
            case n.Clip() | n.Sigmoid() | n.Tanh() | n.HardSigmoid() | n.HardSwish() | n.Silu() | n.Gelu():
                residuals[i] = remainder(node, y, d, _near(y))
                reach.append(jnp.minimum(jnp.abs(derivative(node, y)) * d + residuals[i], steepest(node) * d))
            case n.Multiply():
                residuals[i] = d * ds[1]
                reach.append(d * jnp.abs(operands[1]) + jnp.abs(y) * ds[1] + residuals[i])
            case n.MatrixProduct():
                residuals[i] = apply_node(node, ds)
                apart = apply_node(node, [d, jnp.abs(operands[1])]) + apply_node(node, [jnp.abs(y), ds[1]])
                reach.append(apart + residuals[i])
            case n.LayerNorm():
                out, residual = layer_norm_reach(node, y, d)
                residuals[i] = residual
                reach.append(out)
            case n.Softmax() if _is_inner(graph, i):
                out, residual = softmax_reach(node, y, d)
                residuals[i] = residual
                reach.append(out)
            case n.MaxPool() | n.Maximum():
                top, low, best = _maxima(node, y, d)
                residuals[i] = jnp.maximum(0, top - low)
                reach.append(best)
            case n.Softmax():
                reach.append(jnp.broadcast_to(jnp.max(d, node.axis + 1, keepdims=True), d.shape))
            case n.LogSoftmax():
                reach.append(jnp.broadcast_to(2 * jnp.max(d, node.axis + 1, keepdims=True), d.shape))
            case n.Affine():
                scale, shift = weights[i]
                y, d = (y, d) if scale is None else (y * scale, d * jnp.abs(scale))
                values.append(y if shift is None else y + shift)
                reach.append(d)
                continue
            case _:
                reach.append(apply_node(node, ds))
        values.append(apply_node(node, operands))
    return values, residuals, reach


def _linearised(
    graph: Graph, start: int, weights: Any, values: Sequence[jax.Array], noise: Mapping[int, jax.Array]
) -> list[jax.Array]:
    """Differences of the outputs for given residuals, linear in them."""
    found: list[jax.Array] = []
    for i, node in enumerate(graph.nodes):
        if i == 0 or i < start:
            found.append(noise[i] if i in noise else jnp.zeros_like(values[i]))
            continue
        ds, y = [found[j] for j in node.inputs], values[node.inputs[0]]
        d = ds[0]
        match node:
            case n.Convolution() | n.Dense():
                d = jnp.zeros_like(values[i]) if _is_entrance(graph, i, start) else linear(node, d, weights[i][0])
            case n.Relu():
                d = jnp.where(y > 0, d, 0)
            case n.LeakyRelu():
                d = jnp.where(y > 0, d, node.slope * d)
            case n.Prelu():
                d = d * derivative(node, y, weights[i][0])
            case n.Clip() | n.Sigmoid() | n.Tanh() | n.HardSigmoid() | n.HardSwish() | n.Silu() | n.Gelu():
                d = d * derivative(node, y)
            case n.Multiply():
                d = d * values[node.inputs[1]] + y * ds[1]
            case n.MatrixProduct():
                d = apply_node(node, [d, values[node.inputs[1]]]) + apply_node(node, [y, ds[1]])
            case n.LayerNorm():
                d = layer_norm_moved(node, y, d)
            case n.Softmax() if _is_inner(graph, i):
                d = softmax_moved(node, y, d)
            case n.MaxPool() | n.Maximum():
                rows, axis = _rows(node, y, -jnp.inf)
                moved, _ = _rows(node, d)
                # A product with the winner's indicator: its transpose is a sum, a gather's is a scatter.
                index = lax.broadcasted_iota(jnp.int32, rows.shape, axis)
                won = index == jnp.expand_dims(jnp.argmax(rows, axis).astype(jnp.int32), axis)
                d = jnp.sum(jnp.where(won, moved, 0), axis)
            case n.Resample():
                d = resample(d, weights[i][0], node.axis + 1)
            case n.Softmax() | n.LogSoftmax():
                pass
            case n.Affine():
                scale, _ = weights[i]
                d = d if scale is None else d * scale
            case _:
                d = apply_node(node, ds)
        found.append(d + noise[i] if i in noise else d)
    return [found[i] for i in graph.outputs]


def _windows(node: n.Weighted, z: jax.Array) -> jax.Array:
    """Sum of `z` over every window of a layer, each group apart, `(batch, spatial'..., S)` or broadcastable."""
    if isinstance(node, n.Dense):
        return jnp.sum(z, -1, keepdims=True)
    sums = functools.reduce(jnp.add, slices(z, window_of(node), first=1))
    grouped = sums.reshape(*sums.shape[:-1], node.groups, -1).sum(-1)
    return jnp.repeat(grouped, node.kernel.shape[-1] // node.groups, -1)


def _rows(node: n.MaxPool | n.Maximum, values: jax.Array, fill: float = 0.0) -> tuple[jax.Array, int]:
    """The elements a maximum is taken over, along one axis."""
    if isinstance(node, n.MaxPool):
        return jnp.stack(slices(values, window_of(node), fill, first=1)), 0
    axes = tuple(a + 1 for a in node.axes)
    moved = jnp.moveaxis(values, axes, range(-len(axes), 0))
    return moved.reshape(*moved.shape[: -len(axes)], -1), values.ndim - len(axes)


def _maxima(node: n.MaxPool | n.Maximum, y: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Largest `x + D` of the others, `x - D` of the winner, and the largest D that can win."""
    rows, axis = _rows(node, y, -jnp.inf)
    ds, _ = _rows(node, d)
    first = jnp.expand_dims(jnp.argmax(rows, axis), axis)
    low = jnp.squeeze(jnp.take_along_axis(rows - ds, first, axis), axis)
    index = lax.broadcasted_iota(first.dtype, rows.shape, axis)
    top = jnp.max(jnp.where(index == first, -jnp.inf, rows + ds), axis)
    floor = jnp.max(rows - ds, axis, keepdims=True)
    return top, low, jnp.max(jnp.where(rows + ds >= floor, ds, 0), axis)


def _near(y: jax.Array) -> jax.Array:
    """What an activation may be off by, of the rank of `y`."""
    return _SLACK * _largest(jnp.abs(y)).reshape(-1, *(1,) * (y.ndim - 1))


def _largest(values: jax.Array) -> jax.Array:
    return jnp.max(values.reshape(len(values), -1), 1)


def _single(values: Any) -> jax.Array:
    with np.errstate(over="ignore"):  # what is beyond float32 makes bounds infinite
        return jax.device_put(np.asarray(values, np.float32))
