"""Solves a family of weights: its mask, and what was missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Set

import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.layout import CLOSEST
from slth_compile.subset_sum.cheapest_windows import LARGEST_WINDOW, family_costs, solve_cheapest
from slth_compile.subset_sum.search import Progress, Search, outer_error
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.masks import SubsetMask, subset_dtype


@dataclasses.dataclass(frozen=True)
class Miss:
    """A weight that no window met.

    Attributes:
        layer: Index of the layer.
        part: `"positive"`, `"negative"` or `"bias"`.
        position: Canonical position (tap, input channel, output channel of the group).
        weight: The target.
        error: Smallest |error| reached, rounded up.
        tolerance: What was planned.
    """

    layer: int
    part: str
    position: tuple[int, ...]
    weight: float
    error: float
    tolerance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """What solving a family left: its mask, and the weights that were missed."""

    mask: SubsetMask
    misses: tuple[Miss, ...]


def solve_family(
    family: Family,
    progress: Progress = lambda solved: None,
    objective: str = CLOSEST,
    exact_windows: Set[int] = frozenset(),
) -> Solution:
    """The mask of a family: every weight takes the first window whose closest subset meets its tolerance.

    For the other objectives it takes, in the first few windows that meet the tolerance, the subset that costs least
    (`subset_sum.cheapest_windows`); what rounding left unmet there takes the closest as well.

    Zero weights keep nothing, and one within the tolerance of zero never looks past the first window. A weight that no
    window meets keeps the best subset seen and is reported; nothing is hidden in the mask.

    Args:
        family: The problems.
        progress: Called with the number of weights settled, as they are.
        objective: One of `source.layout.OBJECTIVES`.
        exact_windows: Windows for which a program in 64 bits is in use: a few problems take it too, where 32 bits would
            do, and spare the compilation of another one.

    Returns:
        Mask and misses.
    """
    search = Search(family, progress, exact_windows)
    every = np.arange(family.weights.size)
    pending = search.wanting(every)
    progress(every.size - pending.size)
    if objective != CLOSEST and family.gadget.window <= LARGEST_WINDOW and pending.size:
        taken = solve_cheapest(family, pending, family_costs(family, objective), progress)
        # Not believed either: errors are those of the sums the booleans keep.
        errors = outer_error(family, taken.flat, taken.sums)
        met = errors <= search.tolerance
        flat = taken.flat[met]
        search.windows[flat], search.subsets[flat] = taken.windows[met], taken.subsets[met]
        search.sums[flat], search.best[flat] = taken.sums[met], errors[met]
        pending = np.setdiff1d(pending, flat)
    search.settle(pending)
    return solution(search)


def solution(search: Search) -> Solution:
    """What a search found for all weights of its family."""
    family, shape = search.family, search.family.weights.shape
    missed = np.flatnonzero(search.best > search.tolerance)
    misses = tuple(_miss(family, int(flat), float(search.best[flat])) for flat in missed)
    return Solution(SubsetMask(search.windows.reshape(shape), search.subsets.reshape(shape)), misses)


def meets(family: Family, mask: SubsetMask) -> bool:
    """Whether a mask of any origin is one of the family, and every weight within its tolerance."""
    shape, flat, dtype = family.weights.shape, np.arange(family.weights.size), subset_dtype(family.gadget.window)
    if (mask.windows.shape, mask.subsets.shape) != (shape, shape) or mask.subsets.dtype != dtype:
        return False
    windows, subsets = mask.windows.reshape(-1).astype(np.int64), mask.subsets.reshape(-1)
    missing = (windows < 0) | (windows >= family.windows[family.channel(flat)])
    if np.any(np.where(subsets == 0, windows != 0, missing)) or np.any(_beyond(subsets, family.gadget.window)):
        return False
    sums = masked_sums(family, mask).reshape(-1)
    return bool(np.all(outer_error(family, flat, sums) <= family.gadget.tolerance))


def _beyond(subsets: np.ndarray, window: int) -> np.ndarray:
    """Bits of candidates that the window does not have."""
    return np.zeros_like(subsets) if window == 8 * subsets.itemsize else subsets >> subsets.dtype.type(window)


def _miss(family: Family, flat: int, error: float) -> Miss:
    position = tuple(int(i) for i in np.unravel_index(flat, family.weights.shape))
    weight = float(family.weights.reshape(-1)[flat])
    return Miss(family.layer, family.part, position, weight, error, family.gadget.tolerance)
