"""What rounding may add at a node, for one unit of coefficient: in the pass itself, and in evaluating both networks.

A pass computes coefficients in float64; `|fl(K^T A) - K^T A| <= gamma |K|^T |A|`, and what that is worth is at most
`|A| (gamma |K| m)` with `m` the magnitudes of the operand: one product forward for a layer, and none a row. What
evaluating both networks in float64 rounds, `gamma (|W| |x| + |b|)` at a layer, is of the same size and is carried as
well, but the forward enclosures do not have it: what holds for evaluations is `certificate.execution`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.backward import maxima
from slth_compile.certificate.backward.layers import PairLayer, fan_in, fan_out, magnitudes_through
from slth_compile.certificate.backward.lines import Lines, Planes
from slth_compile.certificate.enclosure import Interval
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, gamma, up

LARGEST_NODE = 2**22
"""Elements that a node may have."""

SPARE = 1 + 2.0**-30
"""Covers the rounding of sums of noise: relative gamma of `LARGEST_NODE` terms."""


class Noise(NamedTuple):
    """Sizes for coefficients of `d` and of `x`, each of the node's shape and samples."""

    d: np.ndarray
    x: np.ndarray


class Magnitudes(NamedTuple):
    """`|d|`, `|x|` and `|z|` at most, `z` the ticket's activation, elementwise; `d` is zero where both agree."""

    d: np.ndarray
    x: np.ndarray
    z: np.ndarray


def magnitudes(x: Interval, d: Interval | None) -> Magnitudes:
    """The magnitudes of a pair's elements."""
    size = np.maximum(abs(x.lower), abs(x.upper))
    moved = np.zeros_like(size) if d is None else np.maximum(abs(d.lower), abs(d.upper))
    return Magnitudes(moved, size, up(size + moved))


def layer_noise(layer: PairLayer, m: Magnitudes, moves: bool, outputs: int) -> Noise:
    """At a weighted layer's output.

    Args:
        layer: The layer.
        m: Magnitudes at its input.
        moves: Whether its input differs between the networks.
        outputs: Elements of its output.
    """
    node = layer.node
    turned, own, summed = gamma(2 * fan_out(node) + 16), gamma(2 * fan_in(node) + 16), gamma(outputs + 16)
    target, ticket, error = abs(layer.kernel), abs(layer.ticket), abs(layer.error)
    largest = ticket if layer.half is None else ticket + abs(layer.half)
    half = 0.0 if layer.half is None else turned * abs(layer.half)
    used = own + 2 * UNIT_ROUNDOFF
    terms: list[tuple[np.ndarray, np.ndarray]] = [
        (m.x, turned * error + used * target),
        (m.z, layer.radius + half + used * largest),
    ]
    if moves:
        terms.append((m.d, (turned + 2 * UNIT_ROUNDOFF) * ticket + layer.folding))
    b, e_b = abs(layer.bias), abs(layer.bias_error)
    b_off, e_off = layer.bias_radius
    evaluated = used * (2 * b + e_b)
    d = magnitudes_through(node, terms) + _column(summed * e_b + e_off + evaluated)
    x = magnitudes_through(node, [(m.x, (turned + used) * target + layer.folding)])
    return _noise(d, x + _column((summed + used) * b + b_off))


def activation_noise(lines_d: Planes | None, lines_x: Lines, m: Magnitudes, exact: bool) -> Noise:
    """At an activation's output, lines taken at its input.

    Args:
        lines_d: Lines of the difference, or None.
        lines_x: Lines of the activation.
        m: Magnitudes at the input.
        exact: Whether evaluation rounds nothing, as relu.
    """
    summed, own = gamma(math.prod(m.x.shape[:-1]) + 16), 0.0 if exact else 4 * UNIT_ROUNDOFF
    d = own * (m.x + m.z)
    if lines_d is not None:
        d = d + _around(lines_d, m.d, summed)
        d = d + 4 * UNIT_ROUNDOFF * np.maximum(abs(lines_d.upper_tilt), abs(lines_d.lower_tilt)) * m.x
    return _noise(d, _around(lines_x, m.x, summed) + own * m.x)


def maximum_noise(d: maxima.Planes | None, x: maxima.Planes, m: Sequence[Magnitudes]) -> Noise:
    """At the maximum of a few nodes.

    Args:
        d: Planes of the difference, or None.
        x: Planes of the maximum.
        m: Magnitudes of every operand.
    """
    summed = gamma(math.prod(m[0].x.shape[:-1]) + 16)

    def around(planes: maxima.Planes, sizes: list[np.ndarray]) -> np.ndarray:
        zero = np.zeros_like(planes.upper_intercept)
        each = zip(planes.upper, planes.lower, sizes, strict=True)
        weighed = [_around(Lines(above, zero, below, zero), size, summed) for above, below, size in each]
        return sum(weighed, summed * np.maximum(abs(planes.upper_intercept), abs(planes.lower_intercept)))

    moved = np.zeros_like(m[0].x) if d is None else around(d, [v.d for v in m])
    return _noise(moved, around(x, [v.x for v in m]))


def line_noise(lines: Lines, m: np.ndarray) -> np.ndarray:
    """What rounding adds where a coefficient takes one of two lines."""
    return _around(lines, m, gamma(math.prod(m.shape[:-1]) + 16)) * SPARE + TINY


def flushed(operands: list[Magnitudes], products: int) -> np.ndarray:
    """What a row loses where coefficients of the operands are flushed to zero, whatever they were: `(samples,)`.

    A coefficient is a sum of at most `products` products, then of a few terms more, each of which may be off by `TINY`;
    it meets the operand's magnitude.

    Args:
        operands: Magnitudes of the node's operands.
        products: Products of one coefficient.
    """
    size = np.sum([(m.d + m.x).reshape(-1, m.x.shape[-1]).sum(0) for m in operands], axis=0)
    return up((4 * products + 256) * TINY * (1.0 + size * SPARE))


def sum_noise(m: Magnitudes, terms: int) -> Noise:
    """At a node that adds up to `terms` operands, whose magnitudes, added in the same way, are `m`; means likewise."""
    error = 2 * gamma(terms + 8)
    return _noise(error * (m.x + m.z + m.d), error * m.x)


def scale_noise(scale: np.ndarray, shift: np.ndarray, m: Magnitudes) -> Noise:
    """At `v * scale + shift`, magnitudes taken at the input, `scale` and `shift` of shape `(C, 1)` or `()`."""
    summed = gamma(math.prod(m.x.shape[:-1]) + 16)
    size = 8 * UNIT_ROUNDOFF * abs(scale)
    d = size * (m.d + m.x + m.z) + 8 * UNIT_ROUNDOFF * abs(shift)
    return _noise(d, 2 * size * m.x + (summed + 8 * UNIT_ROUNDOFF) * abs(shift))


def _around(lines: Lines | Planes, m: np.ndarray, summed: float) -> np.ndarray:
    slopes = np.maximum(abs(lines.upper_slope), abs(lines.lower_slope))
    intercepts = np.maximum(abs(lines.upper_intercept), abs(lines.lower_intercept))
    return 4 * UNIT_ROUNDOFF * slopes * m + summed * intercepts


def _noise(d: np.ndarray, x: np.ndarray) -> Noise:
    return Noise(d * SPARE + TINY, x * SPARE + TINY)


def _column(channels: np.ndarray) -> np.ndarray:
    return channels[:, None]
