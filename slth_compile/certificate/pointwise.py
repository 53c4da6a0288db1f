"""What every activation makes of an interval, of its slopes there, and of a difference: one place to ask.

`h(y, d) = a(y + d) - a(y)`. Activations that are linear on pieces have exact images; those of the others shrink in
proportion to d.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from slth_compile.certificate import kinked, relaxations
from slth_compile.certificate.enclosure import Interval, added, library, multiplied
from slth_compile.certificate.rounding import without_subnormals
from slth_compile.certificate.smooth import smooth_difference, smooth_slopes, smooth_values
from slth_compile.graph import nodes as n


def prelu_interval(node: n.Prelu) -> Interval:
    """The slopes of a PReLU as the functions here take them: with an axis for the batch, none subnormal."""
    slopes = np.asarray(node.slopes, np.float64)[..., None]
    return Interval(*without_subnormals(slopes, slopes))


def value_image(node: n.Activation, y: Interval, slopes: Interval | None = None) -> Interval:
    """All `a(y)`, rounded outward.

    Args:
        node: The activation.
        y: What it reads, float64, any shape of at least one axis.
        slopes: Of a PReLU, broadcast against `y`; None takes the node's own, for `y` of shape `(..., C, batch)`.
    """
    match node:
        case n.Relu():
            return relaxations.activation_image(y)
        case n.LeakyRelu():
            return relaxations.activation_image(y, node.slope)
        case n.Prelu():
            return kinked.prelu_values(y, slopes or prelu_interval(node))
        case n.Clip():
            return kinked.clip_values(node, y)
        case n.HardSigmoid():
            return kinked.clip_values(kinked.UNIT_CLIP, kinked.hard_sigmoid_argument(node, y))
        case _:
            return smooth_values(node, y)


def slope_image(node: n.Activation, y: Interval, slopes: Interval | None = None) -> Interval:
    """All slopes of `a` over the interval, at kinks those of both sides: `a(z) - a(y)` is one of them times `z - y`."""
    match node:
        case n.Relu():
            return kinked.clip_slopes(n.Clip(inputs=(), low=0.0), y)
        case n.LeakyRelu():
            slope = np.full((1,) * y.lower.ndim, node.slope)
            return kinked.prelu_slopes(y, Interval(*without_subnormals(slope, slope)))
        case n.Prelu():
            return kinked.prelu_slopes(y, slopes or prelu_interval(node))
        case n.Clip():
            return kinked.clip_slopes(node, y)
        case n.HardSigmoid():
            argument = kinked.hard_sigmoid_argument(node, y)
            return kinked.scaled(kinked.clip_slopes(kinked.UNIT_CLIP, argument), node.slope)
        case _:
            return smooth_slopes(node, y)


def difference_image(node: n.Activation, y: Interval, d: Interval, slopes: Interval | None = None) -> Interval:
    """All `h(y, d)`, rounded outward.

    Args:
        node: The activation.
        y: The target's pre-activation.
        d: Ticket minus target, before the activation.
        slopes: As in `value_image`.
    """
    match node:
        case n.Relu():
            return relaxations.activation_difference(y, d)
        case n.LeakyRelu():
            return relaxations.activation_difference(y, d, node.slope)
        case n.Prelu():
            return kinked.prelu_difference(y, d, slopes or prelu_interval(node))
        case n.Clip():
            return kinked.clip_difference(node, y, d)
        case n.HardSigmoid():
            argument = kinked.hard_sigmoid_argument(node, y)
            return kinked.clip_difference(kinked.UNIT_CLIP, argument, kinked.scaled(d, node.slope))
        case _:
            return smooth_difference(node, y, d)


def product_image(
    x: tuple[Interval, Interval], d: tuple[Interval | None, Interval | None]
) -> tuple[Interval, Interval | None]:
    """The product `a b` of two nodes, broadcast, and its difference.

    `(a + da)(b + db) - a b = a db + (b + db) da = (a + da) db + b da`: both bounds hold.

    Args:
        x: Enclosures of `a` and `b`.
        d: Enclosures of `da` and `db`; None where the two networks agree.
    """
    (a, b), (da, db) = x, d
    image = multiplied(a, b)
    if da is None or db is None:
        terms = [multiplied(v, w) for v, w in ((a, db), (b, da)) if w is not None]
        return image, functools.reduce(added, terms) if terms else None
    ways = [added(multiplied(v, db), multiplied(w, da)) for v, w in ((a, added(b, db)), (added(a, da), b))]
    return image, _common(ways)


def _common(ways: list[Interval]) -> Interval:
    xp: Any = library(ways[0].lower)
    return Interval(xp.maximum(ways[0].lower, ways[1].lower), xp.minimum(ways[0].upper, ways[1].upper))
