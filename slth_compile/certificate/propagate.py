"""Enclosures of the pair (target activation, difference) carried through a graph, node by node.

JAX arrays go through programs compiled for every shape, NumPy arrays through NumPy: the same lines serve both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate import kinked, pointwise, relaxations, resampling
from slth_compile.certificate.layer_norm import layer_norm_image
from slth_compile.certificate.matrix_product import matrix_product_image
from slth_compile.certificate.rounded import Rounded, absolute_column, rounded_image
from slth_compile.certificate.rounding import without_subnormals
from slth_compile.certificate.softmax import softmax_image
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts
from slth_compile.graph.graph import Graph


class Error(NamedTuple):
    """Errors of a kernel, as `enclosure.Term` takes them."""

    kernel: e.Array | None
    magnitude: e.Array | None
    radius: e.Array


class Layer(NamedTuple):
    """One weighted layer of both networks: `W`, its magnitude and relative error, `b`, and `E_p`, `E_n`, `e_b`."""

    kernel: e.Array
    magnitude: e.Array
    relative: e.Array
    bias: e.Offset | None
    positive: Error
    negative: Error | None
    bias_error: e.Offset | None


class Pair(NamedTuple):
    """The target's activation `x`, and `d`, ticket minus target; None where both networks agree."""

    x: e.Interval
    d: e.Interval | None


_NO_ARRAY = np.zeros(0)
_NO_ARRAY.setflags(write=False)


class Operation:
    """A node without its place, name and arrays: what decides whether a compiled program can be used again."""

    def __init__(self, node: n.Node) -> None:
        arrays = {*n.PARAMETER_FIELDS, "inputs", "name"}
        own = dataclasses.fields(node)
        fields = {f.name: getattr(node, f.name) for f in own if f.name not in arrays}
        needed = {f.name for f in own if f.name in n.PARAMETER_FIELDS and f.default is dataclasses.MISSING}
        blank: dict[str, Any] = dict.fromkeys(needed, _NO_ARRAY)
        self.node = type(node)(**({} if isinstance(node, n.Input) else {"inputs": ()}), **fields, **blank)
        self._key = (type(node), *fields.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def propagate(graph: Graph, layers: Callable[[int], Layer], lower: e.Array, upper: e.Array) -> list[list[e.Array]]:
    """Enclosures of every output leaf, `(d lower, d upper, x lower, x upper)`, over a batch of regions.

    Args:
        graph: The folded target.
        layers: Arrays of the weighted layer at a position, of the library that the regions come in.
        lower: Lower ends of the regions, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
    """
    return propagate_from(graph, layers, {0: _entered(lower, upper)}, {0})


def propagate_from(
    graph: Graph, layers: Callable[[int], Layer], known: Mapping[int, Pair], passed: Collection[int]
) -> list[list[e.Array]]:
    """Enclosures of every output leaf, `(d lower, d upper, x lower, x upper)`, over a batch of regions.

    For JAX arrays every node is a compiled program of its own, shared by all nodes of its shape: XLA on CPU would fuse
    neighbours and compute the first again for every use in the second.

    Args:
        graph: The folded target.
        layers: Arrays of the weighted layer at a position, of the library that the pairs come in.
        known: Pairs by node position, arrays of shape `(*shape, batch)`: all that the other nodes read, and outputs.
        passed: Nodes that are left alone.
    """
    compiled = not isinstance(next(iter(known.values())).x.lower, np.ndarray)
    by_layer, by_scale, by_slopes, by_matrix, by_error, by_node = (
        (
            _weighted_program,
            _scaled_program,
            _bent_program,
            _resampled_program,
            _rounded_program,
            _unweighted_program,
        )
        if compiled
        else (weighted, scaled, bent, resampled, rounded, unweighted)
    )
    last = {i: position for position, node in enumerate(graph.nodes) for i in node.inputs}
    pairs = dict(known)
    for position, node in enumerate(graph.nodes):
        if position in passed:
            continue
        operands = [pairs[i] for i in node.inputs]
        if isinstance(node, n.Convolution | n.Dense):
            pairs[position] = by_layer(window_of(node), operands[0], layers(position))
        elif isinstance(node, Rounded):
            pairs[position] = by_error(operands[0], node.relative, absolute_column(node))
        elif isinstance(node, n.Affine):
            pairs[position] = by_scale(operands[0], *affine_ends(node))
        elif isinstance(node, n.Prelu):
            pairs[position] = by_slopes(operands[0], pointwise.prelu_interval(node))
        elif isinstance(node, n.Resample):
            pairs[position] = by_matrix(node.axis, operands[0], matrix_of(node))
        else:
            pairs[position] = by_node(Operation(node), operands)
        for i in {*node.inputs} - {*graph.outputs}:
            if last[i] == position:
                del pairs[i]
    return [_left(pairs[i]) for i in graph.outputs]


def _entered(lower: e.Array, upper: e.Array) -> Pair:
    xp = e.library(lower)
    return Pair(e.Interval(xp.moveaxis(lower, 0, -1), xp.moveaxis(upper, 0, -1)), None)


def _left(pair: Pair) -> list[e.Array]:
    x, d = pair
    xp = e.library(x.lower)
    d = e.Interval(xp.zeros_like(x.lower), xp.zeros_like(x.lower)) if d is None else d
    return [xp.moveaxis(end, -1, 0) for end in (*d, *x)]


def weighted(window: e.Window, pair: Pair, layer: Layer) -> Pair:
    """A weighted layer: `W x + b`, and `W d + E_p max(z, 0) + E_n min(z, 0) + e_b` with `z = x + d`."""
    x, d = pair
    z = x if d is None else e.added(x, d)
    if layer.negative is None:
        x, z = e.nonnegative_part(x), e.nonnegative_part(z)
        parts = [e.Term(z, *layer.positive[:2], radius=layer.positive.radius)]
    else:
        parts = [
            e.Term(e.nonnegative_part(z), *layer.positive[:2], radius=layer.positive.radius),
            e.Term(e.nonpositive_part(z), *layer.negative[:2], radius=layer.negative.radius),
        ]
    target = e.Term(x, layer.kernel, layer.magnitude, layer.relative)
    moved = [] if d is None else [target._replace(values=d)]
    y = e.linear_image([target], window, layer.bias)
    return _both(Pair(y, e.linear_image([*moved, *parts], window, layer.bias_error)), e.repaired)


def scaled(pair: Pair, scale: e.Interval | None, shift: e.Interval | None) -> Pair:
    """`v * scale + shift` in both networks, either absent."""
    pair = pair if scale is None else _both(pair, lambda v: e.multiplied(v, scale))
    return _both(Pair(pair.x if shift is None else e.added(pair.x, shift), pair.d), e.repaired)


def bent(pair: Pair, slopes: e.Interval) -> Pair:
    """A PReLU, its slopes apart from it, as `pointwise.prelu_interval` gives them."""
    x, d = pair
    moved = None if d is None else kinked.prelu_difference(x, d, slopes)
    return _both(Pair(kinked.prelu_values(x, slopes), moved), e.repaired)


def resampled(axis: int, pair: Pair, matrix: e.Array) -> Pair:
    """A linear map along an axis in both networks, its matrix apart from it, as `matrix_of` gives it."""
    return _both(_both(pair, lambda v: resampling.resampled(v, matrix, axis)), e.repaired)


def rounded(pair: Pair, relative: Any, absolute: Any) -> Pair:
    """A rounding, its sizes apart from it, as `rounded.rounded_image` takes them."""
    return _both(Pair(*rounded_image(*pair, relative, absolute)), e.repaired)


def unweighted(operation: Operation, operands: Sequence[Pair]) -> Pair:
    """Any other node, free of arrays."""
    return _both(_image(operation.node, operands), e.repaired)


_weighted_program = functools.partial(jax.jit, static_argnums=0)(weighted)
_scaled_program = jax.jit(scaled)
_bent_program = jax.jit(bent)
_resampled_program = functools.partial(jax.jit, static_argnums=0)(resampled)
_rounded_program = jax.jit(rounded)
_unweighted_program = functools.partial(jax.jit, static_argnums=0)(unweighted)


def _image(node: n.Node, operands: Sequence[Pair]) -> Pair:
    x, d = operands[0]
    match node:
        case (
            n.Relu()
            | n.LeakyRelu()
            | n.Clip()
            | n.Sigmoid()
            | n.Tanh()
            | n.HardSigmoid()
            | n.HardSwish()
            | n.Silu()
            | n.Gelu()
        ):
            moved = None if d is None else pointwise.difference_image(node, x, d)
            return Pair(pointwise.value_image(node, x), moved)
        case n.Multiply():
            a, b = operands
            return Pair(*pointwise.product_image((a.x, b.x), (a.d, b.d)))
        case n.MatrixProduct():
            a, b = operands
            return Pair(*matrix_product_image((a.x, b.x), (a.d, b.d)))
        case n.LayerNorm():
            return Pair(*layer_norm_image(node, x, d))
        case n.MaxPool():
            window = window_of(node)
            return _largest(operands[0], lambda v: e.slices(v, window, -np.inf))
        case n.Maximum():
            axes = node.axes
            return _largest(operands[0], lambda v: e.elements(v, axes))
        case n.Softmax():
            return Pair(*softmax_image(x, d, node.axis))
        case n.LogSoftmax():
            return Pair(*relaxations.log_softmax_image(x, d, node.axis))
        case n.Add():
            a, b = operands
            d = b.d if a.d is None else a.d if b.d is None else e.added(a.d, b.d)
            return Pair(e.added(a.x, b.x), d)
        case n.AveragePool():
            window, terms = window_of(node), math.prod(node.window)
            counts = pool_counts(node, x.lower.shape[:-1])[..., None]
            return _both(
                operands[0],
                lambda v: e.mean(v, lambda a: functools.reduce(operator.add, e.slices(a, window)), counts, terms),
            )
        case n.Mean():
            axes = node.axes
            terms = math.prod(x.lower.shape[a] for a in axes)
            return _both(operands[0], lambda v: e.mean(v, lambda a: a.sum(axes), float(terms), terms))
        case n.Concatenate():
            return _concatenated(operands, node.axis)
        case _:
            return _both(operands[0], lambda v: v.each(lambda a: rearranged(node, a)))


def _both(pair: Pair, image: Callable[[e.Interval], e.Interval]) -> Pair:
    return Pair(image(pair.x), None if pair.d is None else image(pair.d))


def _largest(pair: Pair, parts: Callable[[Any], Sequence[Any]]) -> Pair:
    x, d = pair
    if d is None:
        return Pair(*relaxations.maximum_image(e.intervals(x, parts), None, None))
    return Pair(*relaxations.maximum_image(*(e.intervals(v, parts) for v in (x, d, e.added(x, d)))))


def _concatenated(operands: Sequence[Pair], axis: int) -> Pair:
    def join(intervals: Sequence[e.Interval]) -> e.Interval:
        return e.Interval(*(xp.concatenate(ends, axis) for ends in zip(*intervals, strict=True)))

    xp = e.library(operands[0].x.lower)
    xs = [pair.x for pair in operands]
    if all(pair.d is None for pair in operands):
        return Pair(join(xs), None)
    return Pair(join(xs), join([pair.x.each(xp.zeros_like) if pair.d is None else pair.d for pair in operands]))


def rearranged(node: n.Node, values: Any) -> Any:
    """What a node that only moves elements makes of an array `(*shape, batch)`."""
    match node:
        case n.Slice():
            return values[tuple(slice(*ends) for ends in zip(node.start, node.limit, node.stride, strict=True))]
        case n.Pad():
            return e.library(values).pad(values, (*node.padding, (0, 0)))
        case n.Dilate():
            return resampling.dilated(values, (*node.factors, 1))
        case n.Reshape():
            return values.reshape(*node.shape, values.shape[-1])
        case n.Transpose():
            return values.transpose(*node.permutation, values.ndim - 1)
        case _:
            raise TypeError(f"no enclosure for {type(node).__name__}")


def window_of(node: n.Node) -> e.Window:
    """The geometry of a weighted node or a pool."""
    match node:
        case n.Convolution():
            taps = node.kernel.shape[:-2]
            return e.Window(node.kernel.shape[-1], taps, node.stride, node.padding, node.dilation, node.groups)
        case n.MaxPool() | n.AveragePool():
            return e.Window(0, node.window, node.stride, node.padding, (1,) * len(node.window))
        case _:
            return e.Window(node.kernel.shape[-1])  # type: ignore[attr-defined]


def matrix_of(node: n.Resample) -> np.ndarray:
    """The matrix as `resampled` takes it; a checked graph has no subnormal entries."""
    return np.asarray(node.matrix, np.float64)


def affine_ends(node: n.Affine) -> tuple[e.Interval | None, e.Interval | None]:
    """Scale and shift as `scaled` takes them."""

    def exact(array: np.ndarray | None) -> e.Interval | None:
        if array is None:
            return None
        array = np.asarray(array, np.float64)[..., None]
        lower, upper = without_subnormals(array, array)
        return e.Interval(lower, upper)

    return exact(node.scale), exact(node.shift)
