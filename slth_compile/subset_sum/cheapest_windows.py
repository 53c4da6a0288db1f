"""The subset every weight of a family takes where not the closest is asked for, but one that costs least.

Windows are looked at in groups of `Costs.tried`; a weight takes the cheapest subset within its tolerance, the cost of
the window's number included, of the first group that has one. Of several the one in the first window, and there the
smallest number, is taken: nothing depends on how problems are put together. The empty subset has its own cost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import SPARSEST
from slth_compile.subset_sum.code_length import Costs, fit, kept_costs, needs_64_bits
from slth_compile.subset_sum.dispatch import solve_everywhere
from slth_compile.subset_sum.problem import batch_size, integer_targets, on_devices, solve_cheapest_batch

LARGEST_WINDOW = 24
"""Larger windows take the closest subset: all pairs of their halves are too many to look at."""

# Inside the tolerance, for whoever adds up an error in floating point: of the tolerance, and of the weight.
_INSIDE, _OF_WEIGHT = 2.0**-29, 2.0**-50


@dataclasses.dataclass(frozen=True, eq=False)
class Taken:
    """What some weights take.

    Attributes:
        flat: Their canonical flat positions, int64 `(count,)`, ascending.
        windows: Their windows, 0 where the subset is empty.
        subsets: Their subsets, uint32.
        sums: What these keep, int64, units of 2^-46 of the gain.
    """

    flat: np.ndarray
    windows: np.ndarray
    subsets: np.ndarray
    sums: np.ndarray


def family_costs(family: Family, objective: str) -> Costs:
    """What subsets of a family cost under an objective other than `closest`."""
    gadget = family.gadget
    if objective == SPARSEST:
        return kept_costs(gadget.window)
    return fit(family.weights, gadget.tolerance, gadget.gain, gadget.window)[0]


def solve_cheapest(
    family: Family, pending: np.ndarray, costs: Costs, progress: Callable[[int], None] = lambda solved: None
) -> Taken:
    """The cheapest subsets of the weights at `pending` that have one within the tolerance.

    Args:
        family: The problems.
        pending: Canonical flat positions of the weights, ascending.
        costs: What subsets cost.
        progress: Called with the number of weights settled, as they are.

    Returns:
        The weights that were met; the others have no subset within the tolerance, up to rounding.
    """
    allowed, targets = _tolerances(family, pending), _targets(family, pending)
    count, none = pending.size, np.iinfo(np.int64).max
    best = np.where(np.abs(targets) <= allowed, costs.empty, none)
    windows, subsets = np.zeros(count, np.int64), np.zeros(count, np.uint32)
    sums, available = np.zeros(count, np.int64), family.windows[family.channel(pending)]
    left, number = np.arange(count), 0
    while left.size:
        # Few weights left look at several groups at once, so that batches stay full.
        size = batch_size(family.gadget.window)
        groups = max(1, size // (left.size * costs.tried))
        ahead = number + np.arange(groups * costs.tried)
        which, column = np.nonzero(available[left][:, None] > ahead)
        rows, numbers = left[which], ahead[column]
        found, kept, cost, met = _solve(family, pending[rows], numbers, targets[rows], allowed[rows], costs, progress)
        # Where nothing need be kept only the first group is looked at, however many were solved.
        usable = met & (found != 0) & ((best[rows] == none) | (numbers < costs.tried))
        total = np.where(usable, cost + costs.window(numbers), none)
        # Sorted by weight, group, cost, window: the first entry of a weight is what it takes.
        order = np.lexsort((numbers, total, np.where(total < none, numbers // costs.tried, none), rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        first = first[total[first] < best[rows[first]]]
        taken = rows[first]
        best[taken], windows[taken] = total[first], numbers[first]
        subsets[taken], sums[taken] = found[first], kept[first]
        number += groups * costs.tried
        still = left[(best[left] == none) & (available[left] > number)]
        progress(int(np.count_nonzero(best[left] < none)))
        left = still
    met = best < none
    return Taken(pending[met], windows[met], subsets[met], sums[met])


def _targets(family: Family, flat: np.ndarray) -> np.ndarray:
    return integer_targets(family.weights.reshape(-1)[flat], family.gadget.gain, PRODUCT_BITS)


def _tolerances(family: Family, flat: np.ndarray) -> np.ndarray:
    """Integer tolerances, units of 2^-46 of the gain: a sum within one is within the weight's tolerance, surely."""
    weights = np.abs(family.weights.reshape(-1)[flat])
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    real = family.gadget.tolerance * (1 - _INSIDE) - error * (1 + _INSIDE) - weights * _OF_WEIGHT
    # A unit covers the rounding of the target.
    return np.floor(np.ldexp(real, PRODUCT_BITS - family.gadget.gain)).astype(np.int64) - 1


def _solve(
    family: Family,
    flat: np.ndarray,
    numbers: np.ndarray,
    targets: np.ndarray,
    allowed: np.ndarray,
    costs: Costs,
    progress: Callable[[int], None],
) -> tuple[np.ndarray, ...]:
    """Subsets, sums, costs and whether there is one, for the weights at `flat` in the windows `numbers`."""
    gadget = family.gadget
    exact = needs_64_bits(gadget.window, int(np.ldexp(gadget.tolerance, PRODUCT_BITS - gadget.gain)))
    solve = functools.partial(solve_cheapest_batch, window=gadget.window, exact=exact)
    arrays = (flat.astype(np.uint32), numbers.astype(np.uint32), targets, allowed)
    run = on_devices(family, solve, arrays, (costs.pruned, costs.kept))
    return solve_everywhere(run, flat.size, batch_size(gadget.window), lambda: progress(0))
