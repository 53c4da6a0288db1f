"""Error feedback: a layer's weights are solved block by block, and later ones make up for what earlier ones miss by.

Every weight still meets the tolerance of the plan, and the plan's promise holds: a weight aims beside its target only
where the subset found is within the tolerance of the target itself, and otherwise is solved as it would be without
feedback. So whatever seed meets all tolerances without feedback meets them with it, and the probability `delta` of a
miss is no larger.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from slth_compile.constructions.da_cunha import BIAS, Family
from slth_compile.source.dyadic import enclose_difference
from slth_compile.subset_sum.compensation import Compensation
from slth_compile.subset_sum.search import Progress, Search
from slth_compile.subset_sum.windows import Solution, solution

ROOM = 0.5
"""Share of the tolerance that a weight may aim beside its target."""

NEAR = 1 / 8
"""Share of the tolerance that a kernel's subset may be away from what it aims at without another window being tried."""


def solve_layer(
    families: Sequence[Family],
    groups: int,
    compensation: Compensation,
    progress: Progress = lambda solved: None,
    exact_windows: Set[int] = frozenset(),
) -> tuple[Solution, ...]:
    """The masks of a layer's families, in their order.

    Args:
        families: Those of the layer's kernel, positive and, where signed, negative; that of its bias, where it has one.
        groups: Groups of channels.
        compensation: Order and coefficients; its features are those of the kernel's families, one after the other.
        progress: Called with the number of weights settled, as they are.
        exact_windows: As for `windows.solve_family`.
    """
    searches = [Search(family, progress, exact_windows) for family in families]
    kernels = [search for search in searches if search.family.part != BIAS]
    places = np.concatenate([_places(search.family, groups) for search in kernels], 1)
    size = places.shape[1] // len(kernels)
    errors = np.zeros((groups, places.shape[1], places.shape[2]))
    unit = max(search.family.gadget.tolerance for search in kernels)
    edges = compensation.edges
    for block in range(len(edges) - 1):
        chosen = compensation.order[:, edges[block] : edges[block + 1]]
        flat = np.take_along_axis(places, chosen[:, :, None], 1)
        shift = compensation.shift(block, errors, unit)
        found = errors[:, edges[block] : edges[block + 1]]
        for number, search in enumerate(kernels):
            own = chosen // size == number
            if own.any():
                found[own] = _settle(search, NEAR, flat[own], shift[own], progress)
    for search in searches:
        if search.family.part == BIAS:
            flat = np.arange(search.family.weights.size).reshape(groups, 1, -1)
            # Nothing makes up for a bias, and there are few: all windows are tried.
            _settle(search, 0.0, flat, compensation.shift(len(edges) - 1, errors, unit), progress)
    return tuple(solution(search) for search in searches)


def _settle(search: Search, near: float, flat: np.ndarray, shift: np.ndarray, progress: Progress) -> np.ndarray:
    """Subsets of the weights at `flat`, and the errors that they leave; both of the shape of `flat`."""
    family, all_flat = search.family, flat.reshape(-1)
    room = ROOM * family.gadget.tolerance
    wanted = search.wanting(all_flat)
    progress(all_flat.size - wanted.size)
    shifts = np.zeros(family.weights.size)
    shifts[all_flat] = np.clip(shift.reshape(-1), -room, room)
    search.settle_shifted(wanted, shifts[wanted], near * family.gadget.tolerance)
    weights = family.weights.reshape(-1)[all_flat]
    center, _ = enclose_difference(search.sums[all_flat], family.gadget.gain, weights, np.zeros(1))
    # A miss is reported at the end; nobody can make up for it.
    return np.clip(center, -family.gadget.tolerance, family.gadget.tolerance).reshape(flat.shape)


def _places(family: Family, groups: int) -> np.ndarray:
    """Canonical flat positions of a kernel's weights, `(groups, features, S/groups)`."""
    taps, channels, outputs = family.weights.shape
    flat = np.arange(family.weights.size).reshape(taps, groups, channels // groups, outputs)
    return flat.transpose(1, 0, 2, 3).reshape(groups, -1, outputs)
