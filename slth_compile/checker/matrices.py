"""A weighted layer of target and ticket as enclosed matrices."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval, gamma, roundings, to_centre, up
from slth_compile.checker.fold import Layer
from slth_compile.checker.rational import Triple
from slth_compile.checker.weights import folded_weight

EXTRA_ROUNDINGS = 8
"""Roundings of a product beyond its own terms: additions of other products and of the bias."""

Ball = tuple[np.ndarray, np.ndarray]
"""Centre and radius, of one shape."""


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Real matrices `centre +- radius`, one a group, ready for enclosing products; shapes `(groups, K, S/groups)`.

    Attributes:
        centre: The centre.
        noise: At least `radius + gamma |centre|`: multiplies the centre of what it is applied to.
        magnitude: At least `radius + |centre|`: multiplies its radius.
    """

    centre: np.ndarray
    noise: np.ndarray
    magnitude: np.ndarray


class Dyadic(NamedTuple):
    """The numbers `integers * 2^exponent`, `|integers| < 2^62`, int64."""

    integers: np.ndarray
    exponent: int


class Effective(NamedTuple):
    """The ticket's weights without any error: K+ and K-, canonical shape `(P, C, S/groups)`, and the bias, `(S,)`."""

    positive: Dyadic
    negative: Dyadic | None
    bias: Dyadic | None


@dataclasses.dataclass(frozen=True, eq=False)
class PairLayer:
    """The layer in both networks, `f: W x + b` and `g: (W + E_p) max(z, 0) + (W + E_n) min(z, 0) + b + e_b`.

    Attributes:
        layer: Geometry and position.
        target: W.
        error_positive: E_p.
        error_negative: E_n; None in a one-signed layer, whose input is never negative.
        bias: b, of shape `(S,)`; None where there is none.
        bias_error: e_b, likewise.
        effective: What g's weights are exactly; None where only their errors are known.
    """

    layer: Layer
    target: Matrix
    error_positive: Matrix
    error_negative: Matrix | None
    bias: Ball | None
    bias_error: Ball | None
    effective: Effective | None = None


def enclose(
    layer: Layer,
    positive: Interval,
    negative: Interval | None,
    bias_error: Interval | None,
    effective: Effective | None = None,
) -> PairLayer:
    """The layer with these weight errors.

    Args:
        layer: The folded target's layer.
        positive: E_p, canonical shape `(P, C, S/groups)`.
        negative: E_n, likewise; None in a one-signed layer.
        bias_error: e_b, shape `(S,)`; None where the layer has no bias.
        effective: The weights that have these errors, where they are to be kept.
    """
    target = folded_weight(layer.canonical(layer.kernel), spread_scale(layer))
    errors = [None if error is None else _matrix(*to_centre(error), layer.groups) for error in (positive, negative)]
    assert errors[0] is not None
    return PairLayer(
        layer=layer,
        target=_matrix(*target, layer.groups),
        error_positive=errors[0],
        error_negative=errors[1],
        bias=_bias(layer),
        bias_error=None if bias_error is None else to_centre(bias_error),
        effective=effective,
    )


def enclose_split(
    layer: Layer, target: Interval, error: Interval, bias_error: Interval | None, *, signed: bool
) -> PairLayer:
    """A layer on copies of its channels: the target's weights split over them, and the ticket's errors.

    Args:
        layer: The folded target's layer, every output channel as often as it is built.
        target: Weights, canonical shape `(P, C N, S/groups)`.
        error: E, likewise, the same for inputs of either sign.
        bias_error: e_b, shape `(S,)`; None where the layer has no bias.
        signed: Whether an input may be negative.
    """
    groups, taps = layer.groups, target.lower.shape[0]
    split, errors = (_matrix(*to_centre(part), groups) for part in (target, error))
    fan_in, outputs = target.lower.shape[1] // groups, target.lower.shape[2]
    centre = split.centre.reshape(groups, taps, fan_in, outputs).transpose(1, 2, 0, 3)
    wide = dataclasses.replace(layer, kernel=centre.reshape(taps, fan_in, groups * outputs), scale=None)
    bias_pair = _bias(layer), None if bias_error is None else to_centre(bias_error)
    return PairLayer(wide, split, errors, errors if signed else None, *bias_pair)


def spread_scale(layer: Layer) -> Triple | None:
    """The layer's scale for every entry of the canonical kernel; None where nothing was folded."""
    if layer.scale is None:
        return None
    return Triple(*(layer.canonical(np.broadcast_to(part, layer.kernel.shape)) for part in layer.scale))


def _bias(layer: Layer) -> Ball | None:
    return None if layer.bias is None else (layer.bias.high, up(np.abs(layer.bias.low) + layer.bias.radius))


def grouped(array: np.ndarray, groups: int) -> np.ndarray:
    """A canonical kernel as one matrix a group, `(groups, K, S/groups)`."""
    taps, channels, outputs = array.shape
    split = array.reshape(taps, groups, channels // groups, outputs).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(split.reshape(groups, -1, outputs))


def _matrix(centre: np.ndarray, radius: np.ndarray | None, groups: int) -> Matrix:
    taps, channels, _ = centre.shape
    magnitude = np.abs(centre)
    noise = gamma(roundings(taps * channels // groups) + EXTRA_ROUNDINGS) * magnitude
    if radius is not None:
        noise, magnitude = noise + radius, up(magnitude + radius)
    return Matrix(*(grouped(array, groups) for array in (centre, up(noise), magnitude)))
