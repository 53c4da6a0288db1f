"""The interval differential engine: how far a ticket can be from its target, over regions of inputs, in real arithmetic.

Every node carries an enclosure of the pair (`x`, the target's activation; `d`, ticket minus target). A weighted layer
`y = W x + b` of the target is `K+ max(z, 0) + K- min(z, 0) + b'` in the ticket, on its own input `z = x + d`. With
`E_p = K+ - W`, `E_n = K- - W`, `e_b = b' - b`,

    d_out = W d + E_p max(z, 0) + E_n min(z, 0) + e_b

and the last product is absent in one-signed layers, whose `x` and `z` are >= 0 by structure. The width of `d` shrinks with
the errors, which bounding the two networks apart would not give.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from concurrent.futures import ThreadPoolExecutor
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate import enclosure as e
from slth_compile.certificate import relaxations
from slth_compile.certificate.rounding import TINY, without_subnormals
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts
from slth_compile.graph.graph import Graph

THREADS = 2
CHUNK_BYTES = 2**25
"""Memory for the largest layer's patches, all regions of a chunk together."""

# Stands in for the magnitude of a subnormal kernel entry: times the least relative error of `linear_image`, 2^-48, it
# still exceeds the entry.
_SUBNORMAL_MAGNITUDE = 2.0**-970


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerErrors:
    """Errors `K_hat - W` of one weighted layer, in the kernel layout of its node, float64.

    A radius covers every rounding in its centre, the folding error of `W` included. A radius of the kernel's shape costs
    a product, a scalar or one entry an output channel only a sum.

    Attributes:
        positive_center: Error for positive inputs; None stands for zero.
        positive_radius: `|E_p - center| <= radius`, of the kernel's shape, `(S,)` or `()`.
        negative_center: Error for negative inputs; None stands for zero.
        negative_radius: As for positive inputs; None where the layer is one-signed, which its input must be >= 0 for.
        bias_center: Shape `(S,)`; None stands for zero.
        bias_radius: Shape `(S,)` or `()`; None where the bias is exact or absent.
    """

    positive_center: np.ndarray | None
    positive_radius: np.ndarray | float
    negative_center: np.ndarray | None = None
    negative_radius: np.ndarray | float | None = None
    bias_center: np.ndarray | None = None
    bias_radius: np.ndarray | float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """Bounds for one output leaf, each of shape `(regions, *output_shape)`, float64, rounded outward.

    Attributes:
        lower: Lower bound of ticket minus target.
        upper: Upper bound of ticket minus target.
        output_lower: Lower bound of the target's output.
        output_upper: Upper bound of the target's output.
    """

    lower: np.ndarray
    upper: np.ndarray
    output_lower: np.ndarray
    output_upper: np.ndarray


class _Error(NamedTuple):
    kernel: jax.Array | None
    magnitude: jax.Array | None
    radius: jax.Array


class _Layer(NamedTuple):
    kernel: jax.Array
    magnitude: jax.Array
    relative: jax.Array
    bias: e.Offset | None
    positive: _Error
    negative: _Error | None
    bias_error: e.Offset | None


class _Pair(NamedTuple):
    x: e.Interval
    d: e.Interval | None


def bound_difference(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Difference, ...]:
    """Outward bounds on ticket minus target over every region, for real arithmetic and the exact weights.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        lower: Lower ends of the regions, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
        chunk_bytes: Memory to aim at for the largest layer's patches.

    Returns:
        One `Difference` an output leaf.
    """
    lower, upper = without_subnormals(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
    regions = len(lower)
    size = min(_power_of_two(chunk_bytes // _bytes_per_region(graph)), _power_of_two(2 * regions - 1))
    with jax.enable_x64(True):
        layers = {
            i: jax.tree.map(jnp.asarray, _layer(node, errors[i]))
            for i, node in enumerate(graph.nodes)
            if isinstance(node, n.Convolution | n.Dense)
        }

    def chunk(start: int) -> list[list[np.ndarray]]:
        rows = np.minimum(np.arange(start, start + size), regions - 1)
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, _walk(graph, layers, jnp.asarray(lower[rows]), jnp.asarray(upper[rows])))

    # The first chunk compiles; then two at a time, as XLA leaves cores idle between small programs.
    chunks = [chunk(0)]
    with ThreadPoolExecutor(THREADS) as pool:
        chunks += pool.map(chunk, range(size, regions, size))
    return tuple(
        Difference(*(np.concatenate([chunk[leaf][k] for chunk in chunks])[:regions] for k in range(4)))
        for leaf in range(len(graph.outputs))
    )


def bound_tolerances(
    graph: Graph,
    tolerances: Mapping[int, tuple[float, float]],
    signed: Mapping[int, bool],
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Difference, ...]:
    """Outward bounds on ticket minus target for every ticket whose weights keep their tolerances.

    It contains `bound_difference` of any errors within the tolerances, up to rounding: no step of the engine shrinks when
    an operand grows.

    Args:
        graph: The folded target.
        tolerances: By node position, `(kernel, bias)` bounds on every `|E|` and every `|e_b|`; the second is not read in
            a layer without bias.
        signed: By node position, whether the layer is signed.
        lower: Lower ends of the regions, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
        chunk_bytes: Memory to aim at for the largest layer's patches.

    Returns:
        One `Difference` an output leaf.
    """
    errors = {}
    for i, (kernel, bias) in tolerances.items():
        has_bias = getattr(graph.nodes[i], "bias", None) is not None
        negative = kernel if signed[i] else None
        errors[i] = LayerErrors(
            positive_center=None,
            positive_radius=kernel,
            negative_radius=negative,
            bias_radius=bias if has_bias else None,
        )
    return bound_difference(graph, errors, lower, upper, chunk_bytes=chunk_bytes)


class _Operation:
    """A node without its place, name and arrays: what decides whether a compiled program can be used again."""

    def __init__(self, node: n.Node) -> None:
        arrays = {*n.PARAMETER_FIELDS, "inputs", "name"}
        fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in arrays}
        self.node = type(node)(**({} if isinstance(node, n.Input) else {"inputs": ()}), **fields)
        self._key = (type(node), *fields.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Operation) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _walk(graph: Graph, layers: Mapping[int, _Layer], lower: jax.Array, upper: jax.Array) -> list[list[jax.Array]]:
    """`(d lower, d upper, x lower, x upper)` of every output leaf; one compiled program a node, which XLA cannot fuse."""
    last = {i: position for position, node in enumerate(graph.nodes) for i in node.inputs}
    pairs = {0: _entered(lower, upper)}
    for position, node in enumerate(graph.nodes[1:], 1):
        operands = [pairs[i] for i in node.inputs]
        if isinstance(node, n.Convolution | n.Dense):
            pairs[position] = _weighted(window_of(node), operands[0], layers[position])
        elif isinstance(node, n.Affine):
            pairs[position] = _scaled(operands[0], *_affine(node))
        else:
            pairs[position] = _unweighted(_Operation(node), operands)
        for i in {*node.inputs} - {*graph.outputs}:
            if last[i] == position:
                del pairs[i]
    return [_left(pairs[i]) for i in graph.outputs]


@jax.jit
def _entered(lower: jax.Array, upper: jax.Array) -> _Pair:
    return _Pair(e.Interval(jnp.moveaxis(lower, 0, -1), jnp.moveaxis(upper, 0, -1)), None)


@jax.jit
def _left(pair: _Pair) -> list[jax.Array]:
    x, d = pair
    d = e.Interval(jnp.zeros_like(x.lower), jnp.zeros_like(x.lower)) if d is None else d
    return [jnp.moveaxis(end, -1, 0) for end in (*d, *x)]


@functools.partial(jax.jit, static_argnums=0)
def _weighted(window: e.Window, pair: _Pair, layer: _Layer) -> _Pair:
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
    return _both(_Pair(y, e.linear_image([*moved, *parts], window, layer.bias_error)), e.repaired)


@jax.jit
def _scaled(pair: _Pair, scale: e.Interval | None, shift: e.Interval | None) -> _Pair:
    pair = pair if scale is None else _both(pair, lambda v: e.multiplied(v, scale))
    return _both(_Pair(pair.x if shift is None else e.added(pair.x, shift), pair.d), e.repaired)


@functools.partial(jax.jit, static_argnums=0)
def _unweighted(operation: _Operation, operands: Sequence[_Pair]) -> _Pair:
    return _both(_image(operation.node, operands), e.repaired)


def _image(node: n.Node, operands: Sequence[_Pair]) -> _Pair:
    x, d = operands[0]
    match node:
        case n.Relu() | n.LeakyRelu():
            slope = node.slope if isinstance(node, n.LeakyRelu) else 0.0
            moved = None if d is None else relaxations.activation_difference(x, d, slope)
            return _Pair(relaxations.activation_image(x, slope), moved)
        case n.MaxPool():
            window = window_of(node)
            xs = e.intervals(x, lambda v: e.slices(v, window, -jnp.inf))
            ds = None if d is None else e.intervals(d, lambda v: e.slices(v, window))
            return _Pair(*relaxations.maximum_image(xs, ds))
        case n.Maximum():
            axes = node.axes
            parts = [None if v is None else e.intervals(v, lambda a: e.elements(a, axes)) for v in (x, d)]
            return _Pair(*relaxations.maximum_image(*parts))
        case n.Softmax():
            return _Pair(*relaxations.softmax_image(x, d, node.axis))
        case n.LogSoftmax():
            return _Pair(*relaxations.log_softmax_image(x, d, node.axis))
        case n.Add():
            a, b = operands
            d = b.d if a.d is None else a.d if b.d is None else e.added(a.d, b.d)
            return _Pair(e.added(a.x, b.x), d)
        case n.AveragePool():
            window, terms = window_of(node), math.prod(node.window)
            counts = pool_counts(node, x.lower.shape[:-1])[..., None]
            return _both(operands[0], lambda v: e.mean(v, lambda a: sum(e.slices(a, window)), counts, terms))
        case n.Mean():
            axes = node.axes
            terms = math.prod(x.lower.shape[a] for a in axes)
            return _both(operands[0], lambda v: e.mean(v, lambda a: jnp.sum(a, axes), np.float64(terms), terms))
        case n.Concatenate():
            return _concatenated(operands, node.axis)
        case _:
            return _both(operands[0], lambda v: v.each(lambda a: _moved(node, a)))


def _both(pair: _Pair, image) -> _Pair:  # noqa: ANN001
    return _Pair(image(pair.x), None if pair.d is None else image(pair.d))


def _concatenated(operands: Sequence[_Pair], axis: int) -> _Pair:
    def join(intervals: Sequence[e.Interval]) -> e.Interval:
        return e.Interval(*(jnp.concatenate(ends, axis) for ends in zip(*intervals, strict=True)))

    xs = [pair.x for pair in operands]
    if all(pair.d is None for pair in operands):
        return _Pair(join(xs), None)
    return _Pair(join(xs), join([pair.x.each(jnp.zeros_like) if pair.d is None else pair.d for pair in operands]))


def _moved(node: n.Node, values: jax.Array) -> jax.Array:
    match node:
        case n.Slice():
            batch = values.shape[-1]
            return lax.slice(values, (*node.start, 0), (*node.limit, batch), (*node.stride, 1))
        case n.Pad():
            return jnp.pad(values, (*node.padding, (0, 0)))
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


def _layer(node: n.Weighted, errors: LayerErrors) -> _Layer:
    window = window_of(node)
    features = node.kernel.shape[-1:]
    bias = None if node.bias is None else _offset(node.bias, node.bias_error, features)
    negative = errors.negative_center, errors.negative_radius
    return _Layer(
        *_split(node.kernel, window),
        np.float64(node.kernel_error),
        bias,
        _error(node, errors.positive_center, errors.positive_radius),
        None if negative[1] is None else _error(node, negative[0], negative[1]),
        _offset(errors.bias_center, errors.bias_radius, features),
    )


def _split(kernel: np.ndarray, window: e.Window) -> tuple[np.ndarray, np.ndarray]:
    """The kernel without subnormal entries, and magnitudes that make up for those left out."""
    kernel = e.arranged(np.asarray(kernel, np.float64), window)
    magnitude = np.abs(kernel)
    small = (magnitude < TINY) & (magnitude > 0)
    return np.where(small, 0.0, kernel), np.where(small, _SUBNORMAL_MAGNITUDE, magnitude)


def _error(node: n.Weighted, center: np.ndarray | None, radius: np.ndarray | float) -> _Error:
    window, radius = window_of(node), _magnitude(radius)
    if radius.ndim > 1:
        radius = e.arranged(np.broadcast_to(radius, node.kernel.shape), window)
    return _Error(*((None, None) if center is None else _split(center, window)), radius)


def _offset(centre: np.ndarray | None, radius: np.ndarray | float | None, shape: tuple[int, ...]) -> e.Offset | None:
    if centre is None and radius is None:
        return None
    centre = np.zeros(shape) if centre is None else np.broadcast_to(np.asarray(centre, np.float64), shape)
    small = np.abs(centre) < TINY
    radius = np.broadcast_to(_magnitude(0.0 if radius is None else radius), shape)
    return e.Offset(np.where(small, 0.0, centre), np.where(small & (centre != 0), 2 * TINY + 2 * radius, radius))


def _magnitude(radius: np.ndarray | float) -> np.ndarray:
    radius = np.asarray(radius, np.float64)
    return np.where((radius > 0) & (radius < TINY), TINY, radius)


def _affine(node: n.Affine) -> tuple[e.Interval | None, e.Interval | None]:
    def exact(array: np.ndarray | None) -> e.Interval | None:
        if array is None:
            return None
        array = np.asarray(array, np.float64)[..., None]
        return e.Interval(*without_subnormals(array, array))

    return exact(node.scale), exact(node.shift)


def _power_of_two(limit: int) -> int:
    """The largest power of two up to the limit; at least 1."""
    return 1 << (max(1, limit).bit_length() - 1)


def _bytes_per_region(graph: Graph) -> int:
    """Memory of the largest node's patches, six arrays of them."""
    largest = max(math.prod(shape) for shape in graph.shapes)
    for i in graph.layers:
        window, channels = window_of(graph.nodes[i]), graph.shapes[graph.nodes[i].inputs[0]][-1]
        largest = max(largest, math.prod(graph.shapes[i][:-1]) * math.prod(window.taps) * channels)
    return 6 * 8 * largest
