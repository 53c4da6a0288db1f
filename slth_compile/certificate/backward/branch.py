"""Branched bounds: the largest of a few passes, one for every pattern of signs of the units that matter most to it.

    bound of a row = min(plain bound, max over the 2^m sign patterns of its m units of (the pass that knows them))

Whatever the input, one of the patterns is its own. The units are the ones with the largest scores on the row's plain
pass (`split.leading`). Enclosures found so replace the plain ones, so that improvements add up along the walk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate.backward import cuts as c
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward.passes import Rows, Start, bound_of, carried, finite, in_chunks, upper_bounds
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.backward.split import Bend, bend_of, leading
from slth_compile.certificate.backward.targets import SPLITTABLE, Targets, row_of, targets_of
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.stopwatch import no_deadline
from slth_compile.certificate.witness import NONE, Witness, witness_of

MOST_LEAVES = 2**21
"""Leaves that are listed at a time."""


@dataclasses.dataclass(eq=False)
class Branches:
    """How a walk branches; grows with it.

    Attributes:
        splits: Most units a row is split at.
        targets: The numbering.
        bends: Activations passed that rows may be split at, by position.
        store: Cuts found so far.
        between: Called before every pass of some rows; what it raises ends the walk.
        listed: Samples, rows and units of the bounds that were improved, one entry a set of rows.
    """

    splits: int
    targets: Targets
    store: c.Store
    between: Callable[[], None] = no_deadline
    bends: dict[int, Bend] = dataclasses.field(default_factory=dict)
    listed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)

    def passed(self, walk: Walk, k: int) -> None:
        """Learns of node `k`, which the walk has passed."""
        if isinstance(walk.both.net.nodes[k], SPLITTABLE):
            self.bends[k] = bend_of(walk, k, self.targets.unit(k))

    def bounds(
        self, walk: Walk, start: Start, elements: np.ndarray, samples: np.ndarray, signs: np.ndarray
    ) -> np.ndarray:
        """As `passes.upper_bounds`, none of them larger."""
        first = self.targets.first(start)
        if first is None or not self.bends:
            return upper_bounds(walk, start, elements, samples, signs)
        bounds, scores, units = self._scored(walk, start, elements, samples, signs)
        units = np.where(scores > 0, units, NONE)
        chosen = np.flatnonzero((scores > 0).any(axis=1) & (bounds > -np.inf))
        step = max(1, min(c.most_keys(walk) // self.splits, MOST_LEAVES >> self.splits))
        for some in np.split(chosen, range(step, len(chosen), step)):
            if not len(some):
                continue
            found = self._branched(walk, start, (elements[some], samples[some], signs[some]), units[some])
            better = found < bounds[some]
            some = some[better]
            bounds[some] = found[better]
            rows = row_of(first + elements[some], start.difference, signs[some])
            self.listed.append((samples[some], rows, units[some]))
        return bounds

    def witness(self, regions: int) -> Witness:
        """What the walk's bounds rest on."""
        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, self.splits), np.int32)
        return witness_of(regions, *(np.concatenate(parts) for parts in zip(none, *self.listed, strict=True)))

    def _scored(
        self, walk: Walk, start: Start, elements: np.ndarray, samples: np.ndarray, signs: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Plain bounds, and every row's largest scores and their units."""
        reaches: list[Any] = [None] * len(walk.pairs)

        def run(rows: Rows, index: np.ndarray) -> tuple[Any, ...]:
            self.between()
            shape = len(index), self.splits
            best = jnp.zeros(shape), jnp.full(shape, NONE, jnp.int32)

            def step(m: int, form: f.Form, at: At) -> Any:
                nonlocal best
                if m in self.bends:
                    bend = self.bends[m]
                    best = leading(self.splits, form, bend.gaps, bend.units, best, rows.at)
                return walk.back[m](form, at)

            passed = carried(walk, start, rows, reaches, step)
            return bound_of(walk, passed, rows, reaches), *best

        bounds, scores, units = in_chunks(walk, start, elements, samples, signs, run)
        return bounds.copy(), scores, units

    def _branched(self, walk: Walk, start: Start, rows: tuple[np.ndarray, ...], units: np.ndarray) -> np.ndarray:
        """The largest leaf of every row, `(rows,)`; units of shape `(rows, K)`."""
        elements, samples, signs = rows
        base = {k: self.targets.unit(k) for k in self.bends}
        used = units >= 0
        keys = np.where(used, units.astype(np.int64) * walk.samples + samples[:, None], NONE)
        self.store = c.store_with(self.store, walk, self.bends, base, np.unique(keys[used]))
        owner, pattern = leaves_of(used.sum(axis=1))
        reaches: list[Any] = [None] * len(walk.pairs)
        box = c.box_of(walk)

        def run(leaves: Rows, index: np.ndarray) -> tuple[Any]:
            self.between()
            own, side = units[owner[index]].T, (pattern[index] >> np.arange(units.shape[1])[:, None]) & 1
            sides = jax.device_put(side)

            def step(m: int, form: f.Form, at: At) -> Any:
                bend = self.bends.get(m)
                if bend is None:
                    return walk.back[m](form, at)
                place = own - base[m]
                count = len(bend.places)
                here = (own >= 0) & (place >= 0) & (place < count)
                if not here.any():
                    return walk.back[m](form, at)
                known = np.where(here, bend.places[np.where(here, place, 0)], count)
                return bend.back(form, jax.device_put(known), sides, at)

            passed = carried(walk, start, leaves, reaches, step)
            if passed.form is None or passed.form.x is None:
                found = bound_of(walk, passed, leaves, reaches)
            else:
                taken = self.store.of(keys[owner[index]].T, side)
                found = jnp.minimum(passed.best, finite(c.least(passed, taken, box, leaves.at)))
            return (found,)

        (found,) = in_chunks(walk, start, elements[owner], samples[owner], signs[owner], run)
        return np.maximum.reduceat(found, np.searchsorted(owner, np.arange(len(units))))


def leaves_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All sign patterns of rows' units: the row each belongs to, ascending, and the pattern, bit k set for `y_k <= 0`.

    Args:
        counts: How many units every row has.
    """
    sizes = 1 << counts
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def branches_of(walk: Walk, splits: int, between: Callable[[], None] = no_deadline) -> Branches:
    """A walk's branches before it begins, rows split at most at so many units; `between` as in `Branches`."""
    return Branches(splits, targets_of(walk.both.net), c.empty_store(walk), between)
