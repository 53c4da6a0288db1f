"""Solves a family of weights: window after window, the misses only, until every tolerance is met or none is left."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS, enclose_difference
from slth_compile.source.layout import CLOSEST
from slth_compile.subset_sum.cheapest_windows import LARGEST_WINDOW, family_costs, solve_cheapest
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW
from slth_compile.subset_sum.problem import ALWAYS_ENOUGH, batch_size, chunk_size, integer_targets, solve_batch
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.masks import SubsetMask, subset_dtype

Progress = Callable[[int], None]


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


def solve_family(family: Family, progress: Progress = lambda solved: None, objective: str = CLOSEST) -> Solution:
    """The mask of a family: every weight takes the first window whose closest subset meets its tolerance.

    For the other objectives it takes, in the first few windows that meet the tolerance, the subset that costs least
    (`subset_sum.cheapest_windows`); what rounding left unmet there takes the closest as well.

    Zero weights keep nothing, and one within the tolerance of zero never looks past the first window. A weight that no
    window meets keeps the best subset seen and is reported; nothing is hidden in the mask.

    Args:
        family: The problems.
        progress: Called with the number of weights settled, as they are.
        objective: One of `source.layout.OBJECTIVES`.

    Returns:
        Mask and misses.
    """
    weights = family.weights.reshape(-1)
    # A hair inside, so that a checker that rounds otherwise finds the tolerance met too.
    tolerance = family.gadget.tolerance * (1 - 2.0**-30)
    windows = np.zeros(weights.size, np.uint16)
    subsets = np.zeros(weights.size, subset_dtype(family.gadget.window))
    best = _outer_error(family, np.arange(weights.size), np.zeros(weights.size, np.int64))
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
    number = 0
    while pending.size:
        # Few weights left take several windows at once, so that batches stay full; the first one met is theirs.
        # A window above 28 is dear and hardly ever misses.
        size = chunk_size if family.gadget.window > MAXIMUM_WINDOW else batch_size
        together = max(1, min(size(family.gadget.window) // pending.size, int(available.max()) - number))
        exists = available[family.channel(pending)][:, None] > number + np.arange(together)
        which, ahead = np.nonzero(exists)
        flat, numbers = pending[which], number + ahead
        found, sums = _solve(family, flat, numbers, progress)
        errors = _outer_error(family, flat, sums)
        for step in range(together):
            rows = np.flatnonzero(ahead == step)
            rows = rows[(errors[rows] < best[flat[rows]]) & ((best[flat[rows]] > tolerance) | (number + step == 0))]
            chosen = flat[rows]
            windows[chosen] = np.where(found[rows] == 0, 0, numbers[rows])
            subsets[chosen], best[chosen] = found[rows], errors[rows]
        number += together
        left = pending[(best[pending] > tolerance) & (available[family.channel(pending)] > number)]
        progress(pending.size - left.size)
        pending = left
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


def _solve(family: Family, flat: np.ndarray, numbers: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Closest subsets and their sums of the weights at `flat` in the windows `numbers`, in padded batches of one size.

    Batches run side by side on the cores of a CPU: one program uses one core. `progress(0)` after each lets the caller
    stop between two.
    """
    gadget = family.gadget
    size = batch_size(gadget.window)
    targets = integer_targets(family.weights.reshape(-1)[flat], gadget.gain, PRODUCT_BITS)
    enough = _enough(family, flat)

    def run(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(start, start + size)
        addresses, own = family.candidates(flat[part], numbers[part])
        pad = ((0, 0), (0, size - own.shape[1]))
        with jax.enable_x64(True):
            found, sums = solve_batch(
                family.key,
                jnp.asarray(np.pad(addresses, pad)),
                jnp.asarray(np.pad(own, pad)),
                jnp.asarray(np.pad(targets[part], pad[1])),
                jnp.asarray(np.pad(enough[part], pad[1], constant_values=ALWAYS_ENOUGH)),
            )
            return np.asarray(found)[: own.shape[1]], np.asarray(sums)[: own.shape[1]]

    results = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for result in pool.map(run, range(0, flat.size, size)):
            results.append(result)
            progress(0)
    finally:
        pool.shutdown(cancel_futures=True)
    found, sums = zip(*results, strict=True)
    return np.concatenate(found), np.concatenate(sums)


def _enough(family: Family, flat: np.ndarray) -> np.ndarray:
    """Integer errors that surely meet the tolerance: half a step goes to rounding the target, the rest is spare."""
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    allowed = np.ldexp(family.gadget.tolerance * (1 - 2.0**-30) - error, PRODUCT_BITS - family.gadget.gain)
    return np.clip(np.floor(allowed) - 2, -1, ALWAYS_ENOUGH).astype(np.int64)


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
