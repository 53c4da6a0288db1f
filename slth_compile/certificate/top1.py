"""Samples on whose whole region both networks are proved to choose one and the same class."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.certificate.difference import Difference


@dataclasses.dataclass(frozen=True, eq=False)
class Top1:
    """What is proved about the largest output, region by region.

    Attributes:
        classes: The one class that both networks may choose, int64, shape `(regions,)`; read where `proved`.
        proved: Whether `f` and `g` both have that class as their only largest output on the whole region.
        without_difference: Whether `f` alone has; what is lost from here to `proved` is the difference's share.
    """

    classes: np.ndarray
    proved: np.ndarray
    without_difference: np.ndarray

    @property
    def unchanged(self) -> int:
        """Number of regions on which the prediction is proved to be unchanged."""
        return int(np.count_nonzero(self.proved))


def top1(leaf: Difference) -> Top1 | None:
    """The regions on which one class is largest in both networks, at every input.

    With `f_i in [l_i, u_i]` and `g_i - f_i in [d_i, e_i]` on the whole region, and `c` the class of the largest `l`,

        f_c - f_j >= l_c - u_j > 0   and   g_c - g_j >= (l_c - u_j) - (e_j - d_c) > 0   for every j != c.

    No other `c` can satisfy the first line. NaN and infinite ends prove nothing.

    Args:
        leaf: Enclosures over the regions, shape `(regions, classes)`.

    Returns:
        None where the leaf is no list of at least two classes.
    """
    if leaf.lower.ndim != 2 or leaf.lower.shape[1] < 2:
        return None
    rows = np.arange(len(leaf.lower))
    classes = np.nan_to_num(leaf.output_lower, nan=-np.inf).argmax(1)
    others = np.arange(leaf.lower.shape[1]) != classes[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        margin = leaf.output_lower[rows, classes][:, None] - leaf.output_upper
        lost = leaf.upper - leaf.lower[rows, classes][:, None]
    # Rounding to nearest is monotone: what is larger after it was larger before.
    alone = np.all((margin > 0) | ~others, axis=1)
    return Top1(classes, alone & np.all((margin > lost) | ~others, axis=1), alone)
