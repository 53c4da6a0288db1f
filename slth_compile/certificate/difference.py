"""The interval differential engine: how far a ticket can be from its target, in real arithmetic, over regions.

Every node carries an enclosure of the pair (`x`, the target's activation; `d`, ticket minus target). A weighted layer
`y = W x + b` of the target is `K+ max(z, 0) + K- min(z, 0) + b'` in the ticket, on its own input `z = x + d`. With
`E_p = K+ - W`, `E_n = K- - W`, `e_b = b' - b`,

    d_out = W d + E_p max(z, 0) + E_n min(z, 0) + e_b

and the last product is absent in one-signed layers, whose `x` and `z` are >= 0 by structure. The width of `d` shrinks
with the errors, which bounding the two networks apart would not give.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.propagate import Error, Layer, propagate, window_of
from slth_compile.certificate.rounding import TINY, without_subnormals
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

CHUNK_BYTES = 2**25
"""Memory for the largest layer's patches, all regions of a chunk together; more than the caches hold is slower."""

FEW_REGIONS = 2
"""Up to this many, NumPy is done before XLA has compiled a program for every shape; layers are prepared one by one."""

THREADS = 2
"""Chunks under way at a time: XLA leaves cores idle between small programs."""

# Stands in for the magnitude of a subnormal kernel entry: times the least relative error of `linear_image`, 2^-48, it
# still exceeds the entry.
_SUBNORMAL_MAGNITUDE = 2.0**-970


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerErrors:
    """Errors `K_hat - W` of one weighted layer, in the kernel layout of its node, float64.

    A radius covers every rounding in its centre, the folding error of `W` included. A radius of the kernel's shape
    costs a product, a scalar or one entry an output channel only a sum.

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
    if regions <= FEW_REGIONS:
        # Infinities and their differences are repaired where they come up.
        with np.errstate(all="ignore"):
            leaves = propagate(graph, lambda i: layer_arrays(graph.nodes[i], errors[i]), lower, upper)
        return tuple(Difference(*map(np.asarray, leaf)) for leaf in leaves)
    size = min(_power_of_two(chunk_bytes // _bytes_per_region(graph)), _power_of_two(2 * regions - 1))
    with jax.enable_x64(True):
        layers = {i: jax.device_put(layer_arrays(graph.nodes[i], _coarse(errors[i]))) for i in graph.layers}

    def chunk(start: int) -> list[list[np.ndarray]]:
        rows = np.minimum(np.arange(start, start + size), regions - 1)
        with jax.enable_x64(True):
            return jax.tree.map(
                np.asarray, propagate(graph, layers.__getitem__, *jax.device_put((lower[rows], upper[rows])))
            )

    # The first chunk alone, so that nothing is compiled twice.
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

    It contains `bound_difference` of any errors within the tolerances, up to rounding: no step of the engine shrinks
    when an operand grows.

    Args:
        graph: The folded target.
        tolerances: By node position, `(kernel, bias)` bounds on every `|E|` and every `|e_b|`; the second is not read
            in a layer without bias.
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


def _coarse(errors: LayerErrors) -> LayerErrors:
    """The errors with one radius an output channel, which costs a sum in place of a product."""

    def coarse(radius: np.ndarray | float | None) -> np.ndarray | float | None:
        return radius if radius is None or np.ndim(radius) < 2 else np.max(radius, tuple(range(np.ndim(radius) - 1)))

    positive = coarse(errors.positive_radius)
    assert positive is not None
    return dataclasses.replace(errors, positive_radius=positive, negative_radius=coarse(errors.negative_radius))


def layer_arrays(node: n.Node, errors: LayerErrors) -> Layer:
    """The layer's arrays, NumPy's."""
    assert isinstance(node, n.Weighted)
    window = window_of(node)
    features = node.kernel.shape[-1:]
    bias = None if node.bias is None else _offset(node.bias, node.bias_error, features)
    negative = errors.negative_center, errors.negative_radius
    return Layer(
        *_split(node.kernel, window),
        _magnitude(node.kernel_error),
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
    if not small.any():
        return kernel, magnitude
    return np.where(small, 0.0, kernel), np.where(small, _SUBNORMAL_MAGNITUDE, magnitude)


def _error(node: n.Weighted, center: np.ndarray | None, radius: np.ndarray | float) -> Error:
    window, radius = window_of(node), _magnitude(radius)
    if radius.ndim > 1:
        radius = e.arranged(np.broadcast_to(radius, node.kernel.shape), window)
    kernel, magnitude = (None, None) if center is None else _split(center, window)
    return Error(kernel, magnitude, radius)


def _offset(centre: np.ndarray | None, radius: np.ndarray | float | None, shape: tuple[int, ...]) -> e.Offset | None:
    if centre is None and radius is None:
        return None
    centre = np.zeros(shape) if centre is None else np.broadcast_to(np.asarray(centre, np.float64), shape)
    small = np.abs(centre) < TINY
    radius = np.broadcast_to(_magnitude(0.0 if radius is None else radius), shape)
    radius = np.where(small & (centre != 0), 2 * TINY + 2 * radius, radius)
    return e.Offset(np.where(small, 0.0, centre), radius)


def _magnitude(radius: np.ndarray | float) -> np.ndarray:
    radius = np.asarray(radius, np.float64)
    return np.where((radius > 0) & (radius < TINY), TINY, radius)


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
