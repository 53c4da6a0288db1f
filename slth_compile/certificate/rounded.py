"""An element that is known up to a rounding of its own in each network: the node that stands for it, and its image.

x' = x (1 + e) + t,   z' = z (1 + e') + t',   |e|, |e'| <= relative,   |t|, |t'| <= absolute
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.rounding import down, up
from slth_compile.graph import nodes as n


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rounded(n.Affine):
    """`v (1 + e) + t`; never part of a target.

    Attributes:
        relative: At least 0.
        absolute: At least 0, of shape `()` or `(C,)`.
    """

    relative: float
    absolute: np.ndarray


def moved_by(x: e.Interval, d: e.Interval | None, relative: Any, absolute: Any) -> tuple[Any, Any]:
    """How far `x` and `d` may be moved, elementwise, rounded up.

    Args:
        x: The target's element.
        d: Ticket minus target, or None where both networks agree.
        relative: A scalar.
        absolute: Of shape `()` or `(C, 1)`.
    """
    z = x if d is None else e.added(x, d)
    own, other = (up(up(_size(v) * relative) + absolute) for v in (x, z))
    return own, up(own + other)


def rounded_image(x: e.Interval, d: e.Interval | None, relative: Any, absolute: Any) -> tuple[e.Interval, e.Interval]:
    """Enclosures of `x'` and `z' - x'`; arguments as for `moved_by`."""
    own, both = moved_by(x, d, relative, absolute)
    low, high = (0.0, 0.0) if d is None else d
    return e.Interval(down(x.lower - own), up(x.upper + own)), e.Interval(down(low - both), up(high + both))


def _size(v: e.Interval) -> Any:
    xp = e.library(v.lower)
    return xp.maximum(abs(v.lower), abs(v.upper))


def absolute_column(node: Rounded) -> np.ndarray:
    """The node's `absolute`, against arrays with the batch last."""
    return node.absolute[..., None]
