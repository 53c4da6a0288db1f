"""A weighted layer's image of a pair (x, d): one of the target, one of the difference to the ticket."""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, from_centre, gamma, to_centre
from slth_compile.checker.matrices import EXTRA_ROUNDINGS, Ball, PairLayer
from slth_compile.checker.operations import State, shifted
from slth_compile.checker.products import enclosed_product


def weighted(layer: PairLayer, x: Interval, d: Interval | None) -> State:
    """`W x + b` and `W d + E_p max(z, 0) + E_n min(z, 0) + e_b`, `z = x + d`, rounded outward.

    In a one-signed layer x and z are never negative, by structure, and the E_n term is absent.
    """
    signed = layer.error_negative is not None
    if not signed:
        x = _part(x, 0, None)
    exact = x.lower is x.upper or np.array_equal(x.lower, x.upper)
    terms = layer.target.centre.shape[1] + EXTRA_ROUNDINGS
    centre, radius = (x.lower, None) if exact else to_centre(x)
    one = d is None and not signed  # z is x: one set of patches serves both products
    found = enclosed_product(
        layer.layer, centre, radius, [layer.target, layer.error_positive] if one else [layer.target]
    )
    y = _sum(found[:1], layer.bias, terms)
    if one:
        return State(y, _sum(found[1:], layer.bias_error, terms))
    z, parts = x, []
    if d is not None:
        z = shifted(x, d)
        parts += enclosed_product(layer.layer, *to_centre(d), [layer.target])
    if layer.error_negative is not None:
        parts += enclosed_product(layer.layer, *to_centre(_part(z, None, 0)), [layer.error_negative])
    parts += enclosed_product(layer.layer, *to_centre(_part(z, 0, None)), [layer.error_positive])
    return State(y, _sum(parts, layer.bias_error, terms))


def _sum(parts: list[Ball], bias: Ball | None, terms: int) -> Interval:
    """The sum of enclosed products and a bias; `terms` roundings at most touch each of their terms."""
    centre, radius = parts[0]
    for more, more_radius in parts[1:]:
        centre, radius = centre + more, radius + more_radius
    if bias is not None:
        centre = centre + bias[0]
        radius = radius + (np.abs(bias[0]) * gamma(EXTRA_ROUNDINGS) + bias[1])
    return from_centre(centre, radius * (1 + gamma(terms + 4)) + TINY)


def _part(x: Interval, low: float | None, high: float | None) -> Interval:
    """The image of `x` under clipping."""
    return Interval(np.clip(x.lower, low, high), np.clip(x.upper, low, high))
