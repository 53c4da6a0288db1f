"""The search for the subsets of a family: window after window, the misses only, until every tolerance is met."""

from __future__ import annotations

import functools
from collections.abc import Callable, Set

import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS, enclose_difference
from slth_compile.subset_sum.dispatch import Device, solve_everywhere
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW
from slth_compile.subset_sum.problem import (
    batch_size,
    chunk_size,
    gadget_rounding,
    integer_targets,
    on_devices,
    placed,
    solve_batch,
    solve_near_batch,
)
from slth_compile.ticket.masks import subset_dtype

Progress = Callable[[int], None]

_FEW = 1 << 14
_SHARES = 16
_BLOCK = 1 << 21
"""Weights settled at a time: arrays of more are fetched from the system, page by page, whenever one is made."""


class Search:
    """The subsets of a family's weights, as far as they are found; its arrays change as it goes on.

    Attributes:
        family: The problems.
        tolerance: What counts as met: a hair inside the plan's, so that a checker that rounds otherwise agrees.
        windows: The window every weight takes, uint16 `(weights,)`.
        subsets: The subset it keeps.
        sums: The sum that it keeps, int64, units of 2^-46 of the gain.
        best: Upper bound on its |error|, float64; of the empty subset where none was looked for.
    """

    def __init__(self, family: Family, progress: Progress, exact_windows: Set[int] = frozenset()) -> None:
        gadget, weights = family.gadget, family.weights.reshape(-1)
        self.family, self._progress = family, progress
        self.tolerance = gadget.tolerance * (1 - 2.0**-30)
        self.windows = np.zeros(weights.size, np.uint16)
        self.subsets = np.zeros(weights.size, subset_dtype(gadget.window))
        self.sums = np.zeros(weights.size, np.int64)
        # Of the empty subset: its size, rounded up.
        folding = np.broadcast_to(family.error, family.weights.shape).reshape(-1)
        self.best = (np.abs(weights) + folding) * (1 + 2.0**-50)
        self._narrow = gadget_rounding(gadget) > 0 and not (weights.size < _FEW and gadget.window in exact_windows)
        self._tables = functools.cache(lambda: placed(family))

    def wanting(self, flat: np.ndarray) -> np.ndarray:
        """Those of the weights at `flat` that a window is looked for: not zero, and their channel offers one."""
        # Where a channel offers no window, every weight is within the tolerance of zero by plan, or is missed.
        weights = self.family.weights.reshape(-1)[flat]
        return flat[(weights != 0) & (self.family.windows[self.family.channel(flat)] > 0)]

    def settle(self, flat: np.ndarray) -> None:
        """Every weight at `flat` takes the first window whose closest subset meets its tolerance.

        One within the tolerance of zero never looks past the first window; one that no window meets keeps the best
        subset seen.
        """
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK]
            self._look(part, self.family.weights.reshape(-1)[part], None)

    def settle_shifted(self, flat: np.ndarray, shift: np.ndarray, near: float) -> None:
        """The subset closest to `weight + shift` of those that meet the tolerance of the weight itself.

        Windows are looked at until one comes near enough. A weight that no window meets so is settled as if it had no
        shift: whatever `settle` meets is met here.

        Args:
            flat: Canonical flat positions of the weights, `(count,)`.
            shift: float64 `(count,)`.
            near: Distance from `weight + shift` at which the search for a weight ends; 0 looks at all windows.
        """
        limit = 2.0**self.family.gadget.gain
        goals = np.clip(self.family.weights.reshape(-1)[flat] + shift, -limit, limit)
        met = self._look(flat, goals, near)
        self.settle(flat[~met])

    def _look(self, flat: np.ndarray, goals: np.ndarray, near: float | None) -> np.ndarray:
        """Window after window for the goals; which of the weights are met.

        Where `near` is None the goals are the weights and errors count, until within the tolerance; else distances to
        the goals, infinite where the tolerance is not met.
        """
        shifted = near is not None
        limit = self.tolerance if near is None else near
        best = np.where(self.best[flat] <= self.tolerance, np.abs(goals), np.inf) if shifted else self.best[flat]
        left, number = np.arange(flat.size), 0
        offered = self.family.windows[self.family.channel(flat)]
        # Few weights left take several windows at once, so that batches stay full; the first one met is theirs.
        # A window above 30 is dear and hardly ever misses; the blocks of a layer are small, but there are many.
        size = chunk_size if shifted or self.family.gadget.window > MAXIMUM_WINDOW else batch_size
        while left.size:
            together = max(1, min(size(self.family.gadget.window) // left.size, int(offered.max()) - number))
            which, ahead = _pairs(offered - number, together)
            rows, numbers = left[which], number + ahead
            found, sums, distances, errors = self._solve(flat[rows], numbers, goals[rows], shifted)
            for step in range(together):
                these = np.flatnonzero(ahead == step) if together > 1 else np.arange(rows.size)
                own = rows[these]
                these = these[(distances[these] < best[own]) & ((best[own] > limit) | (number + step == 0))]
                own, chosen = rows[these], flat[rows[these]]
                self.windows[chosen] = np.where(found[these] == 0, 0, numbers[these])
                self.subsets[chosen], self.sums[chosen] = found[these], sums[these]
                self.best[chosen], best[own] = errors[these], distances[these]
            number += together
            still = (best[left] > limit) & (offered > number)
            # Who has no window left is settled, or starts again.
            gone = ~still & np.isfinite(best[left])
            self._progress(int(np.count_nonzero(gone)))
            left, offered = left[still], offered[still]
        return np.isfinite(best)

    def _solve(self, flat: np.ndarray, numbers: np.ndarray, goals: np.ndarray, shifted: bool) -> tuple[np.ndarray, ...]:
        """Closest subsets (near ones above 30) in the windows `numbers`, their sums, distances and errors.

        `progress(0)` after each batch lets the caller stop between two.
        """
        family, gadget = self.family, self.family.gadget
        targets = integer_targets(goals, gadget.gain, PRODUCT_BITS)
        arrays = (flat.astype(np.uint32), numbers.astype(np.uint32), targets)
        if gadget.window > MAXIMUM_WINDOW:
            near = functools.partial(solve_near_batch, window=gadget.window)
            solve = on_devices(family, near, (*arrays, self._enough(flat, goals)), tables=self._tables())
        else:
            closest = functools.partial(solve_batch, window=gadget.window, narrow=self._narrow)
            solve = on_devices(family, closest, arrays, tables=self._tables())

        def run(device: Device, part: slice) -> tuple[np.ndarray, ...]:
            found, sums = solve(device, part)
            errors = outer_error(family, flat[part], sums)
            if not shifted:
                return found, sums, errors, errors
            distances = np.abs(np.ldexp((sums - targets[part]).astype(np.float64), gadget.gain - PRODUCT_BITS))
            return found, sums, np.where(errors <= self.tolerance, distances, np.inf), errors

        size, chunk = batch_size(gadget.window), chunk_size(gadget.window)
        # The blocks of a layer are solved one after the other: each is shared by all cores.
        size = min(size, chunk * -(-flat.size // (_SHARES * chunk))) if shifted else size
        return solve_everywhere(run, flat.size, size, lambda: self._progress(0))

    def _enough(self, flat: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Integer errors that surely meet the tolerance: half a step goes to rounding the target, the rest is spare."""
        error = np.broadcast_to(self.family.error, self.family.weights.shape).reshape(-1)[flat]
        shift = np.abs(goals - self.family.weights.reshape(-1)[flat])
        allowed = np.ldexp(self.tolerance - error - shift, PRODUCT_BITS - self.family.gadget.gain)
        return np.clip(np.floor(allowed) - 2, -1, 2.0**60).astype(np.int64)


def outer_error(family: Family, flat: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Upper bounds on |effective weight - weight| at `flat`, whatever subsets keep the exact `sums`."""
    weights = family.weights.reshape(-1)[flat]
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    center, radius = enclose_difference(sums, family.gadget.gain, weights, error)
    return (np.abs(center) + radius) * (1 + 2.0**-52)


def _pairs(offered: np.ndarray, together: int) -> tuple[np.ndarray, np.ndarray]:
    """Which weight and which of the next `together` windows, for every window that is offered."""
    if together == 1:
        return np.arange(offered.size), np.zeros(offered.size, np.int64)
    return np.nonzero(offered[:, None] > np.arange(together))  # type: ignore[return-value]
