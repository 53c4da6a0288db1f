"""Derivatives of layer norm and softmax and how far they can change, for plans: nothing here is rounded outward.

For all `|d| <= D`, each bound on `r = f(x + d) - f(x) - f'(x) d` grows at least as fast as D.

    layer norm  y = t / s over n features, m = d - mean(d), w = rms(m) <= rms(D), s' >= max(s - w, sqrt(epsilon)):
                f' d = (m - y g) / s,  g = mean(y m);  s' - s = g + h,  0 <= h <= 2 w^2 / (s + s')
                |f(x + d) - f(x)| <= (|m| + |y| w) / s'
                |r| <= (|m| + |y| w) w / (s s') + 2 |y| w^2 / (s (s + s'))
    softmax     p' = p exp(u),  u_i = d_i - log sum p exp(d),  |u_i| <= U_i = D_i + max D:
                f' d = p (d - p . d),  |r| <= p (U^2 exp(U) + (max D)^2) / 2 for U <= 30, and always
                |r| <= max D / 2 + p (D + p . D), as |p' - p| <= max D / 2; the log is within (max D)^2 / 2 of p . d.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from slth_compile.graph import nodes as n

_LARGEST_EXPONENT = 30.0


def layer_norm_moved(node: n.LayerNorm, x: Any, d: Any) -> Any:
    """`f'(x) d`, for JAX arrays with the features last."""
    y, scale = _normed(node, x)
    moved = _centred(node, d)
    return (moved - y * jnp.mean(y * moved, -1, keepdims=True)) / scale


def layer_norm_reach(node: n.LayerNorm, x: Any, reach: Any) -> tuple[Any, Any]:
    """Bounds on `|f(x + d) - f(x)|` and on `|r|`, for all `|d| <= reach`."""
    y, scale = _normed(node, x)
    moved = reach + jnp.mean(reach, -1, keepdims=True) if node.centred else reach
    rise = jnp.sqrt(jnp.mean(reach * reach, -1, keepdims=True))
    ticket = jnp.maximum(scale - rise, math.sqrt(node.epsilon))
    whole = (moved + jnp.abs(y) * rise) / ticket
    return whole, whole * rise / scale + 2 * jnp.abs(y) * rise * rise / (scale * (scale + ticket))


def softmax_moved(node: n.Softmax, x: Any, d: Any) -> Any:
    """`f'(x) d`, for JAX arrays of a batch."""
    p, axis = _shares(node, x)
    return p * (d - jnp.sum(p * d, axis, keepdims=True))


def softmax_reach(node: n.Softmax, x: Any, reach: Any) -> tuple[Any, Any]:
    """Bounds on `|f(x + d) - f(x)|` and on `|r|`, for all `|d| <= reach`."""
    p, axis = _shares(node, x)
    most = jnp.max(reach, axis, keepdims=True)
    exponent = reach + most
    near = exponent <= _LARGEST_EXPONENT
    safe = jnp.where(near, exponent, 0)
    second = jnp.where(near, p * (safe * safe * jnp.exp(safe) + most * most) / 2, jnp.inf)
    first = p * (reach + jnp.sum(p * reach, axis, keepdims=True))
    residual = jnp.minimum(second, most / 2 + first)
    return jnp.minimum(most / 2, first + residual), residual


def _normed(node: n.LayerNorm, x: Any) -> tuple[Any, Any]:
    """`y` and `s`."""
    spread = _centred(node, x)
    scale = jnp.sqrt(jnp.mean(spread * spread, -1, keepdims=True) + jnp.asarray(node.epsilon, x.dtype))
    return spread / scale, scale


def _centred(node: n.LayerNorm, v: Any) -> Any:
    return v - jnp.mean(v, -1, keepdims=True) if node.centred else v


def _shares(node: n.Softmax, x: Any) -> tuple[Any, int]:
    axis = node.axis + 1
    shifted = jnp.exp(x - jnp.max(x, axis, keepdims=True))
    return shifted / jnp.sum(shifted, axis, keepdims=True), axis
