"""Interval enclosures of batches, and of what linear maps make of them.

Every function works on JAX arrays, and on NumPy arrays with NumPy alone: many regions are worth a compiled program for
every shape, a few are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, gamma, up

BLOCK = 512
"""Most products that NumPy adds up at once."""

Array = jax.Array | np.ndarray


class Interval(NamedTuple):
    """All arrays `v` with `lower <= v <= upper`, elementwise; both of shape `(*shape, batch)`, float64.

    The batch comes last: then every slice, pad and concatenation moves long contiguous rows.
    """

    lower: Any
    upper: Any

    def each(self, function: Callable[[Any], Any]) -> Interval:
        """The image under a monotone function that rounds nothing."""
        return Interval(function(self.lower), function(self.upper))


class Window(NamedTuple):
    """Where the taps of a convolution or a pool lie; no taps for a product on the channels alone.

    Attributes:
        features: Output channels `S`; not used by pools.
    """

    features: int = 0
    taps: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


class Term(NamedTuple):
    """One summand `K v` of a linear map: `v` in `values`, and `K` within a stated distance of `kernel`.

        |K - kernel| <= relative * magnitude + radius,   magnitude >= |kernel|

    Attributes:
        values: The operand.
        kernel: As `arranged` returns it, no entry subnormal; None where it is zero.
        magnitude: Of the kernel's shape.
        relative: A scalar.
        radius: Of the kernel's shape, or `(S,)`, or `()`; None where it is zero.
    """

    values: Interval
    kernel: Any
    magnitude: Any
    relative: Any = 0.0
    radius: Any = None


class Offset(NamedTuple):
    """A constant `b` with `|b - centre| <= radius`, each of shape `(S,)`."""

    centre: Any
    radius: Any


def library(values: Array) -> Any:
    """NumPy for its own arrays, `jax.numpy` for all others."""
    return np if isinstance(values, np.ndarray) else jnp


def intervals(values: Interval, parts: Callable[[Any], Sequence[Any]]) -> list[Interval]:
    """The intervals of the parts that `parts` takes from an array."""
    return [Interval(*ends) for ends in zip(*map(parts, values), strict=True)]


def elements(values: Any, axes: tuple[int, ...]) -> list[Any]:
    """The slices along `axes`, one for each index."""
    front = library(values).moveaxis(values, axes, tuple(range(len(axes))))
    return list(front.reshape(-1, *front.shape[len(axes) :]))


def repaired(values: Interval) -> Interval:
    """The interval with every bound that overflowed, or is not a number, replaced by an infinity that is true."""
    xp = library(values.lower)
    lower = xp.where(values.lower < np.inf, values.lower, -np.inf)
    return Interval(lower, xp.where(values.upper > -np.inf, values.upper, np.inf))


def added(a: Interval, b: Interval) -> Interval:
    """All sums."""
    return Interval(down(a.lower + b.lower), up(a.upper + b.upper))


def multiplied(a: Interval, b: Interval) -> Interval:
    """All products, elementwise."""
    ends = [x * y for x in a for y in b]
    xp = library(ends[0])
    low = xp.minimum(xp.minimum(ends[0], ends[1]), xp.minimum(ends[2], ends[3]))
    high = xp.maximum(xp.maximum(ends[0], ends[1]), xp.maximum(ends[2], ends[3]))
    return Interval(down(low), up(high))


def nonnegative_part(values: Interval) -> Interval:
    """All `max(v, 0)`."""
    return values.each(lambda v: library(v).maximum(v, 0.0))


def nonpositive_part(values: Interval) -> Interval:
    """All `min(v, 0)`."""
    return values.each(lambda v: library(v).minimum(v, 0.0))


def centred(values: Interval) -> tuple[Any, Any]:
    """`(centre, radius)` with every element within `radius` of `centre`; only rounding where the bounds meet."""
    centre = 0.5 * values.lower + 0.5 * values.upper
    return centre, library(centre).maximum(up(values.upper - centre), up(centre - values.lower))


def mean(values: Interval, total: Callable[[Any], Any], counts: np.ndarray | float, terms: int) -> Interval:
    """All means `total(v) / counts`.

    Args:
        values: The operand.
        total: Sums of at most `terms` elements each, in any order.
        counts: What each sum is divided by, broadcast against the sums.
        terms: Length of the longest sum.
    """
    share, error = 1.0 / counts, gamma(terms + 8)

    def end(v: Any) -> tuple[Any, Any]:
        return total(v) * share, total(abs(v)) * share * (error * (1 + 4 * error)) + 4 * terms * TINY

    (low, low_error), (high, high_error) = end(values.lower), end(values.upper)
    return Interval(down(low - low_error), up(high + high_error))


def slices(values: Any, window: Window, fill: float = 0.0, first: int = 0) -> list[Any]:
    """What each tap sees from every position, one array a tap, taps in C order.

    Args:
        values: The spatial axes are `first`, `first + 1`, ...
        window: The taps.
        fill: What the padding holds.
        first: The first spatial axis.
    """
    found = [_padded(values, window, fill, first)]
    for axis, taps in enumerate(window.taps):
        found = [_shifted(v, window, axis, tap, first) for v in found for tap in range(taps)]
    return found


def linear_image(terms: Sequence[Term], window: Window, offset: Offset | None) -> Interval:
    """All sums of the terms' `K v` over the window, plus the offset.

    In centre and radius form, `K (c +- r) = kernel c +- |kernel| r`. Rounding of the first product is at most
    `gamma |kernel| |c|`, gamma taken of the roundings that any one summand may meet; it joins the radius before the
    second product, whose own rounding the factor `1 + 4 gamma` covers: `(1 + gamma) / (1 - gamma) <= 1 + 4 gamma`, the
    few elementwise operations being part of the 32 spare terms.

    Args:
        terms: The summands, of one geometry; values of shape `(spatial..., C, batch)`.
        window: That geometry.
        offset: The constant, or None.

    Returns:
        Shape `(spatial'..., S, batch)`.
    """
    xp = library(terms[0].values.lower)
    channels = terms[0].values.lower.shape[-2] // window.groups
    count = 2 * len(terms) * math.prod(window.taps) * channels + 32
    error = gamma(2 * len(terms) * _roundings(window, channels) + 32 if xp is np else count)
    inflate = 1 + 4 * error
    products: list[tuple[Any, Any]] = []
    spreads: list[tuple[Any, Any]] = []
    sums: list[Any] = []
    for values, kernel, magnitude, relative, radius in terms:
        centre, spread = centred(values.each(lambda v: xp.moveaxis(v, -2, 0)))
        size = abs(centre) + spread
        if kernel is not None and magnitude is not None:
            products.append((centre, kernel))
            spreads.append(((spread + (relative + error) * size) * inflate + 4 * TINY, magnitude))
        if radius is not None and radius.ndim < 2:
            # One sum over all channels, in no blocks.
            sums.append(_window_sums(size * (1 + 4 * gamma(count)) + 4 * TINY, window) * _column(radius, size.ndim))
        elif radius is not None:
            spreads.append((size * inflate + 4 * TINY, radius))
    sums += [contract(spreads, window)] if spreads else []
    reach: Any = sum(sums[1:], sums[0])
    middle: Any = contract(products, window) if products else xp.zeros_like(reach)
    if offset is not None:
        middle = middle + _column(offset.centre, reach.ndim)
        reach = reach + _column(offset.radius, reach.ndim)
    reach = reach * (1 + 32 * UNIT_ROUNDOFF) + (abs(middle) * (2 * UNIT_ROUNDOFF) + 16 * count * TINY)
    image = Interval(down(middle - reach), up(middle + reach))
    shape = (window.features, *image.lower.shape[1:])
    return image.each(lambda v: xp.moveaxis(xp.broadcast_to(v, shape), 0, -2))


def arranged(kernel: np.ndarray, window: Window) -> np.ndarray:
    """A kernel `(taps..., C/groups, S)` as `(groups, outer taps..., S/groups, inner taps..., C/groups)`, for products.

    Outer taps become output features, shifted and added after the product; inner taps become input channels.
    """
    rank, (channels, features) = len(window.taps), kernel.shape[-2:]
    outer = _outer_axes(window, channels, features // window.groups)
    split = kernel.reshape(*window.taps, channels, window.groups, features // window.groups)
    order = (rank + 1, *range(outer), rank + 2, *range(outer, rank), rank)
    return np.ascontiguousarray(split.transpose(order))


def contract(factors: Sequence[tuple[Any, Any]], window: Window) -> Any:
    """Sum over pairs `(values, kernel)`, taps and channels: explicit products, never a convolution routine.

    Values have shape `(C, spatial..., batch)`, kernels are `arranged`; the result is `(S, spatial'..., batch)`.
    """
    results = []
    for values, kernel in factors:
        if kernel.shape[-1] == 1:
            by_tap = kernel.reshape(window.features, -1).T
            parts = [_repeated(part, window) for part in slices(values, window, first=1)]
            results += [part * _column(k, part.ndim) for part, k in zip(parts, by_tap, strict=True)]
        else:
            padded = _padded(values, window, 0.0, 1)
            groups = padded.reshape(window.groups, -1, *padded.shape[1:])
            product = functools.partial(_product, window=window)
            if window.groups == 1:
                result = product(groups[0], kernel[0])
            elif isinstance(values, np.ndarray):
                result = np.stack([product(*pair) for pair in zip(groups, kernel, strict=True)])
            else:
                result = jax.vmap(product)(groups, kernel)
            results.append(result.reshape(window.features, *result.shape[1 - values.ndim :]))
    return sum(results[1:], results[0])


def _product(values: Any, kernel: Any, window: Window) -> Any:
    """One group's product of `(C, padded..., batch)` and `(outer taps..., S, inner taps..., C)`."""
    xp = library(values)
    features = window.features // window.groups
    outer = _outer_axes(window, len(values), features)
    for axis in reversed(range(outer, len(window.taps))):
        values = xp.concatenate([_shifted(values, window, axis, t, 1) for t in range(window.taps[axis])])
    # Row-major operands: XLA's CPU product of a transposed one is three times slower.
    flat = kernel.reshape(-1, len(values)), values.reshape(len(values), -1)
    result = _blocked(*flat) if xp is np else lax.dot(*flat, precision=lax.Precision.HIGHEST)
    result = result.reshape(*window.taps[:outer], features, *values.shape[1:])
    for axis in reversed(range(outer)):
        by_tap = xp.moveaxis(result, axis, 0)
        parts = [_shifted(part, window, axis, t, axis + 1) for t, part in enumerate(by_tap)]
        result = sum(parts[1:], parts[0])
    return result


def _roundings(window: Window, channels: int) -> int:
    """How many roundings a product may meet on its way through `_blocked` and the sums over outer taps."""
    taps = math.prod(window.taps)
    terms = taps * channels
    return terms if terms <= BLOCK else BLOCK + -(-terms // BLOCK) + taps


def _blocked(kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The product of two matrices as a sum over blocks of what is added up: rounding grows with the longest sum."""
    result = kernel[:, :BLOCK] @ values[:BLOCK]
    for start in range(BLOCK, len(values), BLOCK):
        result += kernel[:, start : start + BLOCK] @ values[start : start + BLOCK]
    return result


def _outer_axes(window: Window, channels: int, features: int) -> int:
    """How many spatial axes are added up after the product: what moves the fewest numbers through memory."""
    if channels == 1:
        return 0

    def cost(outer: int) -> int:
        patches = math.prod(window.taps[outer:]) * channels
        return (2 * patches + math.prod(window.taps[:outer]) * features) * math.prod(window.stride[:outer])

    return min(range(max(1, len(window.taps))), key=cost)


def _padded(values: Any, window: Window, fill: float, first: int) -> Any:
    if not any(map(any, window.padding)):
        return values
    after = values.ndim - first - len(window.padding)
    widths = ((0, 0),) * first + window.padding + ((0, 0),) * after
    return library(values).pad(values, widths, constant_values=fill)


def _shifted(values: Any, window: Window, axis: int, tap: int, first: int) -> Any:
    """What one tap of one spatial axis sees from every position along it."""
    dilation, stride = window.dilation[axis], window.stride[axis]
    reach = values.shape[axis + first] - (window.taps[axis] - 1) * dilation
    return values[(slice(None),) * (axis + first) + (slice(tap * dilation, tap * dilation + reach, stride),)]


def _repeated(values: Any, window: Window) -> Any:
    """One entry a group, repeated for each of the group's output features; one group is left to broadcasting."""
    groups, features = window.groups, window.features
    return values if groups in (1, features) else library(values).repeat(values, features // groups, axis=0)


def _column(channels: Any, rank: int) -> Any:
    """A scalar, or one entry a channel along the first of `rank` axes."""
    return channels.reshape(-1, *(1,) * (rank - 1))


def _window_sums(values: Any, window: Window) -> Any:
    """The sum of what each output reads: one reduction, shape `(S or 1, spatial'..., batch)`."""
    sums = values.reshape(window.groups, -1, *values.shape[1:]).sum(1)
    parts = slices(sums, window, first=1)
    return _repeated(sum(parts[1:], parts[0]), window)
