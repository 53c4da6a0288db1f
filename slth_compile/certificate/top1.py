"""Samples on whose whole region both networks are proved to choose one and the same class."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

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


class Ahead(NamedTuple):
    """Whether a region's class `c` is proved larger than class `j` at every input, shape `(regions, classes)`.

    Attributes:
        alone: In `f`.
        both: In `f` and in `g`.
    """

    alone: np.ndarray
    both: np.ndarray


def top1(leaf: Difference) -> Top1 | None:
    """The regions on which one class is largest in both networks, at every input.

    No other class `c` can be ahead of all than the one of the largest lower end.

    Args:
        leaf: Enclosures over the regions, shape `(regions, classes)`.

    Returns:
        None where the leaf is no list of at least two classes.
    """
    if not is_list(leaf):
        return None
    classes = np.nan_to_num(leaf.output_lower, nan=-np.inf).argmax(1)
    return decided(classes, ahead(leaf, classes))


def is_list(leaf: Difference) -> bool:
    """Whether an output leaf is a list of at least two classes."""
    return leaf.lower.ndim == 2 and leaf.lower.shape[1] > 1


def ahead(leaf: Difference, classes: np.ndarray) -> Ahead:
    """Where a class is proved ahead of each other one, by what encloses every output.

    With `f_i in [l_i, u_i]` and `g_i - f_i in [d_i, e_i]` on the whole region,

        f_c - f_j >= l_c - u_j > 0   and   g_c - g_j >= (l_c - u_j) - (e_j - d_c) > 0.

    NaN and infinite ends prove nothing.

    Args:
        leaf: Enclosures over the regions, shape `(regions, classes)`.
        classes: `c` of every region, shape `(regions,)`.
    """
    rows = np.arange(len(leaf.lower))
    with np.errstate(invalid="ignore", over="ignore"):
        margin = leaf.output_lower[rows, classes][:, None] - leaf.output_upper
        lost = leaf.upper - leaf.lower[rows, classes][:, None]
    # Rounding to nearest is monotone: what is larger after it was larger before.
    return Ahead(margin > 0, (margin > 0) & (margin > lost))


def decided(classes: np.ndarray, found: Ahead) -> Top1:
    """The regions where `c` is ahead of every other class."""
    own = np.arange(found.alone.shape[1]) == classes[:, None]
    return Top1(classes, *(np.all(one | own, axis=1) for one in (found.both, found.alone)))
