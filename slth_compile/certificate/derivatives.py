"""Derivatives of activations and how far they can change, for plans: nothing here is rounded outward.

With `r = a(y + d) - a(y) - a'(y) d` and `|d| <= D`, for slopes that change at most K per unit and jump by J at kinks k,

    |r| <= K D^2 / 2 + sum over kinks of J max(0, D - |y - k|),

which grows at least as fast as D.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.scipy.special as jax_special
import numpy as np
import scipy.special as numpy_special

from slth_compile.certificate.enclosure import library
from slth_compile.graph import nodes as n

_CUBIC, _ROOT = 0.044715, math.sqrt(2 / math.pi)


def normal_distribution(x: Any) -> Any:
    """`Phi(x)`, in the type of `x`."""
    special = numpy_special if library(x) is np else jax_special
    return special.erfc(x * x.dtype.type(-math.sqrt(0.5))) * x.dtype.type(0.5)


def logistic(x: Any) -> Any:
    """`1 / (1 + exp(-x))`, in the type of `x`."""
    return 0.5 * library(x).tanh(0.5 * x) + 0.5


def tanh_distribution(x: Any) -> Any:
    """`(1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`, in the type of `x`."""
    return logistic(2 * _ROOT * (x + _CUBIC * x**3))


def derivative(node: n.Activation, y: Any, slopes: Any = None) -> Any:
    """`a'(y)`, at kinks one of the two.

    Args:
        node: The activation.
        y: Its argument, a floating point array of NumPy or JAX.
        slopes: Of a PReLU, broadcast against `y`.
    """
    xp = library(y)
    one, zero = xp.ones_like(y), xp.zeros_like(y)
    match node:
        case n.Relu():
            return xp.where(y > 0, one, zero)
        case n.LeakyRelu():
            return xp.where(y > 0, one, node.slope * one)
        case n.Prelu():
            return xp.where(y > 0, one, slopes)
        case n.Clip():
            return xp.where(_is_inside(y, node.low, node.high), one, zero)
        case n.HardSigmoid():
            return xp.where(_is_inside(node.slope * y + node.offset, 0.0, 1.0), node.slope * one, zero)
        case n.HardSwish():
            return xp.where(y >= 3, one, xp.where(y <= -3, zero, (2 * y + 3) / 6))
        case n.Sigmoid():
            s = logistic(y)
            return s * (1 - s)
        case n.Tanh():
            return 1 - xp.tanh(y) ** 2
        case n.Silu():
            s = logistic(y)
            return s + y * s * (1 - s)
        case n.Gelu(approximate=False):
            near = xp.clip(y, -9, 9)
            return normal_distribution(near) + near * xp.exp(-0.5 * near * near) * math.sqrt(0.5 / math.pi)
        case n.Gelu():
            near = xp.clip(y, -9, 9)
            s = tanh_distribution(near)
            return s + near * s * (1 - s) * (2 * _ROOT) * (1 + 3 * _CUBIC * near * near)


def steepest(node: n.Activation) -> float:
    """The largest `|a'|`."""
    match node:
        case n.Prelu():
            return max(1.0, float(np.abs(np.asarray(node.slopes, np.float64)).max()))
        case n.HardSigmoid():
            return abs(node.slope)
        case n.HardSwish():
            return 1.5
        case n.Sigmoid():
            return 0.25
        case n.Silu():
            return 1.1
        case n.Gelu():
            return 1.13
        case _:
            return 1.0


def remainder(node: n.Activation, y: Any, reach: Any, near: Any, slopes: Any = None) -> Any:
    """A bound on `|a(y + d) - a(y) - a'(y) d|` for all `|d| <= reach`.

    Args:
        node: The activation.
        y: Its argument.
        reach: Non-negative, of the same shape.
        near: How far `y` may be from what it stands for, broadcast.
        slopes: Of a PReLU, broadcast against `y`.
    """
    xp = library(y)
    kinks, jump, curvature = _changes(node, slopes)
    past = [jump * xp.clip(reach + near - abs(y - kink), 0, reach) for kink in kinks]
    return functools.reduce(lambda a, b: a + b, past, 0.5 * curvature * reach * reach)


def _changes(node: n.Activation, slopes: Any) -> tuple[Sequence[float], Any, float]:
    """Kinks, the jump of the slope there, and the largest `|a''|` elsewhere."""
    match node:
        case n.Relu():
            return (0.0,), 1.0, 0.0
        case n.LeakyRelu():
            return (0.0,), 1.0 - node.slope, 0.0
        case n.Prelu():
            return (0.0,), abs(1 - slopes), 0.0
        case n.Clip():
            return [v for v in (node.low, node.high) if v is not None], 1.0, 0.0
        case n.HardSigmoid():
            ends = [(end - node.offset) / node.slope for end in (0.0, 1.0)] if node.slope else []
            return [end for end in ends if math.isfinite(end)], abs(node.slope), 0.0
        case n.HardSwish():
            return (-3.0, 3.0), 0.5, 1 / 3
        case n.Sigmoid():
            return (), 0.0, 0.0963
        case n.Tanh():
            return (), 0.0, 0.77
        case n.Silu():
            return (), 0.0, 0.5
        case n.Gelu():
            return (), 0.0, 0.8


def _is_inside(y: Any, low: float | None, high: float | None) -> Any:
    inside = y == y
    inside = inside if low is None else inside & (y > low)
    return inside if high is None else inside & (y < high)
