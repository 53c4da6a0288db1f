"""A weighted layer of both networks as the maps that a backward pass transposes.

With `E_m = (E_p + E_n) / 2` and `E_h = (E_p - E_n) / 2`,

    W d + E_p max(z, 0) + E_n min(z, 0) + e_b = (W + E_m) d + E_m x + E_h |z| + e_b,    z = x + d

and in a one-signed layer, where z is never negative, `(W + E_p) d + E_p x + e_b`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.checker.arithmetic import UNIT, up
from slth_compile.checker.matrices import Matrix, PairLayer


@dataclasses.dataclass(frozen=True, eq=False)
class Halves:
    """Matrices of shape `(groups, P C/groups, S/groups)`.

    Attributes:
        pair: The layer in both networks.
        target: The centre of W.
        ticket: That of `W + E_m`, rounded.
        mean: That of `E_m`, rounded.
        half: That of `E_h`, rounded; None where it is zero or the layer is one-signed.
        target_off: At least the radius of W.
        error_off: At least the radii of E_m and E_h, added up.
        error_magnitude: At least `|E_m| + |E_h|`.
    """

    pair: PairLayer
    target: np.ndarray
    ticket: np.ndarray
    mean: np.ndarray
    half: np.ndarray | None
    target_off: np.ndarray
    error_off: np.ndarray
    error_magnitude: np.ndarray


def halves(pair: PairLayer) -> Halves:
    """The maps of a layer."""
    positive, negative = pair.error_positive, pair.error_negative
    half = None
    mean, off, magnitude = positive.centre, _radius(positive), positive.magnitude
    if negative is not None:
        # |E_m| + |E_h| is the larger of |E_p| and |E_n|; so is what they are off.
        off, magnitude = np.maximum(off, _radius(negative)), np.maximum(magnitude, negative.magnitude)
        if not np.array_equal(positive.centre, negative.centre):
            mean = 0.5 * positive.centre + 0.5 * negative.centre
            half = 0.5 * positive.centre - 0.5 * negative.centre
            off = up(off + 4 * UNIT * magnitude)  # both halves are rounded
    ticket = pair.target.centre + mean
    return Halves(pair, pair.target.centre, ticket, mean, half, _radius(pair.target), off, up(magnitude))


def _radius(matrix: Matrix) -> np.ndarray:
    """At least the radius, which the magnitude holds."""
    return up(matrix.magnitude - np.abs(matrix.centre))
