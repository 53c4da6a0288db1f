"""Solves a family of weights: window after window, the misses only, until every tolerance is met or none is left."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Set

import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS, enclose_difference
from slth_compile.source.layout import CLOSEST
from slth_compile.subset_sum.cheapest_windows import LARGEST_WINDOW, family_costs, solve_cheapest
from slth_compile.subset_sum.dispatch import Device, solve_everywhere
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW
from slth_compile.subset_sum.problem import (
    batch_size,
    chunk_size,
    gadget_rounding,
    integer_targets,
    on_devices,
    solve_batch,
    solve_near_batch,
)
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.masks import SubsetMask, subset_dtype

Progress = Callable[[int], None]

_FEW = 1 << 14


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
    narrow = gadget_rounding(family.gadget) > 0 and not (
        family.weights.size < _FEW and family.gadget.window in exact_windows
    )
    weights = family.weights.reshape(-1)
    # A hair inside, so that a checker that rounds otherwise finds the tolerance met too.
    tolerance = family.gadget.tolerance * (1 - 2.0**-30)
    windows = np.zeros(weights.size, np.uint16)
    subsets = np.zeros(weights.size, subset_dtype(family.gadget.window))
    # Of the empty subset: its size, rounded up.
    best = (np.abs(weights) + np.broadcast_to(family.error, family.weights.shape).reshape(-1)) * (1 + 2.0**-50)
    available = family.windows
    # Where a channel offers no window, every weight is within the tolerance of zero by plan, or is missed.
    pending = np.flatnonzero((weights != 0) & (available[family.channel(np.arange(weights.size))] > 0))
    pending = pending[available[family.channel(pending)] > 0]
    progress(weights.size - pending.size)
    if objective != CLOSEST and family.gadget.window <= LARGEST_WINDOW and pending.size:
        taken = solve_cheapest(family, pending, family_costs(family, objective), progress)
        # Not believed either: errors are those of the sums the booleans keep.
        met = _outer_error(family, taken.flat, taken.sums) <= tolerance
        flat = taken.flat[met]
        windows[flat], subsets[flat] = taken.windows[met], taken.subsets[met]
        best[flat] = 0.0
        pending = np.setdiff1d(pending, flat)
    offered = available[family.channel(pending)]
    number = 0
    while pending.size:
        # Few weights left take several windows at once, so that batches stay full; the first one met is theirs.
        # A window above 28 is dear and hardly ever misses.
        size = chunk_size if family.gadget.window > MAXIMUM_WINDOW else batch_size
        together = max(1, min(size(family.gadget.window) // pending.size, int(offered.max()) - number))
        which, ahead = _pairs(offered - number, together)
        flat, numbers = pending[which], number + ahead
        found, errors = _solve(family, flat, numbers, narrow, progress)
        for step in range(together):
            rows = np.flatnonzero(ahead == step) if together > 1 else np.arange(flat.size)
            rows = rows[(errors[rows] < best[flat[rows]]) & ((best[flat[rows]] > tolerance) | (number + step == 0))]
            chosen = flat[rows]
            windows[chosen] = np.where(found[rows] == 0, 0, numbers[rows])
            subsets[chosen], best[chosen] = found[rows], errors[rows]
        number += together
        left = (best[pending] > tolerance) & (offered > number)
        progress(int(np.count_nonzero(~left)))
        pending, offered = pending[left], offered[left]
    missed = np.flatnonzero(best > tolerance)
    misses = tuple(_miss(family, int(flat), float(best[flat])) for flat in missed)
    shape = family.weights.shape
    return Solution(SubsetMask(windows.reshape(shape), subsets.reshape(shape)), misses)


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
    return bool(np.all(_outer_error(family, flat, sums) <= family.gadget.tolerance))


def _pairs(offered: np.ndarray, together: int) -> tuple[np.ndarray, np.ndarray]:
    """Which weight and which of the next `together` windows, for every window that is offered."""
    if together == 1:
        return np.arange(offered.size), np.zeros(offered.size, np.int64)
    return np.nonzero(offered[:, None] > np.arange(together))  # type: ignore[return-value]


def _solve(
    family: Family, flat: np.ndarray, numbers: np.ndarray, narrow: bool, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Closest subsets (near ones above 28) of the weights at `flat` in the windows `numbers`, and their errors.

    `progress(0)` after each batch lets the caller stop between two.
    """
    gadget = family.gadget
    targets = integer_targets(family.weights.reshape(-1)[flat], gadget.gain, PRODUCT_BITS)
    arrays = (flat.astype(np.uint32), numbers.astype(np.uint32), targets)
    if gadget.window > MAXIMUM_WINDOW:
        solve = on_devices(
            family, functools.partial(solve_near_batch, window=gadget.window), (*arrays, _enough(family, flat))
        )
    else:
        solve = on_devices(family, functools.partial(solve_batch, window=gadget.window, narrow=narrow), arrays)

    def run(device: Device, part: slice) -> tuple[np.ndarray, ...]:
        found, sums = solve(device, part)
        return found, _outer_error(family, flat[part], sums)

    found, errors = solve_everywhere(run, flat.size, batch_size(gadget.window), lambda: progress(0))
    return found, errors


def _enough(family: Family, flat: np.ndarray) -> np.ndarray:
    """Integer errors that surely meet the tolerance: half a step goes to rounding the target, the rest is spare."""
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    allowed = np.ldexp(family.gadget.tolerance * (1 - 2.0**-30) - error, PRODUCT_BITS - family.gadget.gain)
    return np.clip(np.floor(allowed) - 2, -1, 2.0**60).astype(np.int64)


def _beyond(subsets: np.ndarray, window: int) -> np.ndarray:
    """Bits of candidates that the window does not have."""
    return np.zeros_like(subsets) if window == 8 * subsets.itemsize else subsets >> subsets.dtype.type(window)


def _outer_error(family: Family, flat: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Upper bounds on |effective weight - weight| at `flat`."""
    weights = family.weights.reshape(-1)[flat]
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    center, radius = enclose_difference(sums, family.gadget.gain, weights, error)
    return (np.abs(center) + radius) * (1 + 2.0**-52)


def _miss(family: Family, flat: int, error: float) -> Miss:
    position = tuple(int(i) for i in np.unravel_index(flat, family.weights.shape))
    weight = float(family.weights.reshape(-1)[flat])
    return Miss(family.layer, family.part, position, weight, error, family.gadget.tolerance)
