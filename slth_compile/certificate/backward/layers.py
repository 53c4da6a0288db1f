"""A weighted layer of both networks as the backward pass reads it: kernels turned round, and what rounding may add.

With `E_p`, `E_n` the errors for positive and negative input, `Em = (E_p + E_n) / 2` and `Eh = (E_p - E_n) / 2`,

    d_out = (W + Em) d + Em x + Eh |x + d| + e_b,

`Eh` absent where both are one or the input is never negative. A form `A_d d_out + A_x x_out` becomes one of `(d, x)`:

    A_d <- (W + Em)^T A_d,   A_x <- Em^T A_d + W^T A_x,   constant + A_d e_b + A_x b.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.backward.places import Into, placed
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.propagate import window_of
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, gamma
from slth_compile.graph import nodes as n


class Kernels(NamedTuple):
    """Arrays of one layer on the device; kernels arranged for the transposed product.

    Attributes:
        target: `W`.
        ticket: `W + Em`, rounded.
        error: `Em`.
        half: `Eh`, or None.
        bias: `b`, shape `(S,)`.
        bias_error: `e_b`, shape `(S,)`.
    """

    target: Any
    ticket: Any
    error: Any
    half: Any
    bias: Any
    bias_error: Any


@dataclasses.dataclass(frozen=True, eq=False)
class PairLayer:
    """One weighted layer on the host.

    Attributes:
        node: Its node.
        error: `Em`, of the kernel's shape.
        half: `Eh`, or None.
        radius: What `(E_p - Em - Eh) max(z, 0) + (E_n - Em + Eh) min(z, 0)` may add, an entry: of the kernel's shape.
        folding: Bounds on `|W - kernel|`, of the kernel's shape.
        bias: `b`, shape `(S,)`.
        bias_error: `e_b`, shape `(S,)`.
        bias_radius: Bounds on what `b` and `e_b` are off by, both `(S,)`.
    """

    node: n.Weighted
    kernel: np.ndarray
    error: np.ndarray
    half: np.ndarray | None
    radius: np.ndarray
    folding: np.ndarray
    bias: np.ndarray
    bias_error: np.ndarray
    bias_radius: tuple[np.ndarray, np.ndarray]

    @property
    def ticket(self) -> np.ndarray:
        """`W + Em`, rounded to float64."""
        return self.kernel + self.error


def pair_layer(node: n.Weighted, errors: LayerErrors) -> PairLayer:
    """The layer with its errors split into their mean and half their difference, every rounding in a radius.

    Args:
        node: The folded target's layer.
        errors: Its errors.
    """
    kernel, shape = np.asarray(node.kernel, np.float64), node.kernel.shape

    def full(array: np.ndarray | float | None) -> np.ndarray:
        return np.broadcast_to(np.asarray(0.0 if array is None else array, np.float64), shape)

    positive, radius = full(errors.positive_center), full(errors.positive_radius)
    error, half = positive, None
    if errors.negative_radius is not None and errors.negative_center is not errors.positive_center:
        negative = full(errors.negative_center)
        error, half = 0.5 * positive + 0.5 * negative, 0.5 * positive - 0.5 * negative
        radius = np.maximum(radius, full(errors.negative_radius))
        radius = radius + (abs(positive) + abs(negative)) * (4 * UNIT_ROUNDOFF)
    elif errors.negative_radius is not None:
        radius = np.maximum(radius, full(errors.negative_radius))
    features = kernel.shape[-1:]
    bias, bias_error = (
        np.broadcast_to(np.asarray(0.0 if b is None else b, np.float64), features)
        for b in (node.bias, errors.bias_center)
    )
    bias_radius = tuple(
        np.broadcast_to(np.asarray(0.0 if r is None else r, np.float64), features)
        for r in (node.bias_error, errors.bias_radius)
    )
    # A subnormal may be read as zero.
    return PairLayer(
        node=node,
        kernel=_normal(kernel),
        error=_normal(error),
        half=None if half is None else _normal(half),
        radius=radius + 4 * TINY,
        folding=abs(kernel) * node.kernel_error + 2 * TINY,
        bias=_normal(bias),
        bias_error=_normal(bias_error),
        bias_radius=(bias_radius[0] + 2 * TINY, bias_radius[1] + 2 * TINY),
    )


def _normal(array: np.ndarray) -> np.ndarray:
    return np.where(abs(array) < TINY, 0.0, array)


def kernels_of(layer: PairLayer) -> Kernels:
    """The layer's arrays, on the default device."""
    window = turned(layer.node)

    def turn(kernel: np.ndarray) -> Any:
        taps, groups = kernel.shape[:-2], window.groups
        split = np.flip(kernel, tuple(range(len(taps)))).reshape(*taps, kernel.shape[-2], groups, -1)
        # (taps, C/g, g, S/g) -> (taps, S/g, g, C/g)
        swapped = np.moveaxis(split, (-3, -1), (-1, -3)).reshape(*taps, -1, window.features)
        return jax.device_put(e.arranged(swapped, window))

    return Kernels(
        turn(layer.kernel),
        turn(layer.ticket),
        turn(layer.error),
        None if layer.half is None else turn(layer.half),
        jax.device_put(layer.bias),
        jax.device_put(layer.bias_error),
    )


def turned(node: n.Weighted) -> e.Window:
    """The window of the transposed map, over coefficients spread and padded by `transposed`."""
    window = window_of(node)
    features = node.kernel.shape[-2] * window.groups
    ones = (1,) * len(window.taps)
    return e.Window(features, window.taps, ones, ((0, 0),) * len(window.taps), window.dilation, window.groups)


class Geometry(NamedTuple):
    """What a program for the transposed map depends on beside the shapes of its arguments."""

    window: e.Window
    spread: tuple[tuple[int, int, int], ...]


def geometry_of(node: n.Weighted, shape: tuple[int, ...]) -> Geometry:
    """The transposed map of a layer whose input has the given shape.

    In terms of coefficients spread `stride` apart, input position `i` is read by taps at `i + low - tap * dilation`: a
    convolution with the taps in reverse, and `reach - low` zeros in front.
    """
    window = window_of(node)
    spread = []
    for axis, taps in enumerate(window.taps):
        stride, (low, high), reach = window.stride[axis], window.padding[axis], (taps - 1) * window.dilation[axis]
        outputs = (shape[axis] + low + high - reach - 1) // stride + 1
        front = reach - low
        back = shape[axis] + reach - front - ((outputs - 1) * stride + 1)
        spread.append((front, back, stride - 1))
    return Geometry(turned(node), tuple(spread))


def transposed(geometry: Geometry, pairs: list[tuple[Any, Any]], into: Into | None = None) -> Any:
    """Sum over pairs of `K^T A`: coefficients `(S, spatial'..., rows)` in, `(C, spatial..., rows)` out.

    Explicit products, one `gamma` for every order of summation.

    Args:
        geometry: The map's.
        pairs: Coefficients and arranged kernels.
        into: The window of the input that is wanted, where coefficients are those of a window; None for all of both.
    """
    rank = len(geometry.spread)
    spread = []
    for coefficients, kernel in pairs:
        if rank:
            ends = geometry.spread if into is None else [(0, 0, between) for _, _, between in geometry.spread]
            config = [(0, 0, 0), *ends, (0, 0, 0)]
            coefficients = lax.pad(coefficients, jnp.zeros((), coefficients.dtype), config)
        if rank and into is not None:
            coefficients = placed(coefficients, into.offset, read_by(geometry.window, into.sizes), into.margins)
        spread.append((coefficients, kernel))
    return e.contract(spread, geometry.window)


def read_by(window: e.Window, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """How many positions along every axis so many positions of the transposed map's result are made from."""
    taps = zip(sizes, window.taps, window.dilation, strict=True)
    return tuple(size + (count - 1) * dilation for size, count, dilation in taps)


def magnitudes_through(node: n.Weighted, terms: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Upper bounds of `sum |K| m` over the terms, `(spatial'..., S, samples)`.

    Args:
        node: The layer.
        terms: Magnitudes `m >= 0`, `(spatial..., C, samples)`, and kernels of the layer's shape, entries >= 0.
    """
    window = window_of(node)
    pairs = [(np.moveaxis(m, -2, 0), e.arranged(k, window)) for m, k in terms]
    total = e.contract(pairs, window)
    return np.moveaxis(total, 0, -2) * (1 + 4 * gamma(len(terms) * fan_in(node) + 8)) + 16 * TINY


def fan_in(node: n.Weighted) -> int:
    """Products that are added up for one output."""
    return math.prod(node.kernel.shape[:-1])


def fan_out(node: n.Weighted) -> int:
    """Products that are added up for one coefficient of the transposed map, at most."""
    window = window_of(node)
    return math.prod(window.taps) * (node.kernel.shape[-1] // window.groups)
