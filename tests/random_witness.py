"""Witnesses at random: rows and open units picked while the checker walks, as a compiler would, only without sense."""

from __future__ import annotations

from typing import Any

import numpy as np

from slth_compile.checker import tighten
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.branch import Branching
from slth_compile.checker.operations import State
from slth_compile.checker.targets import row_numbers
from slth_compile.checker.witness import Listed


class Picker:
    """Stands in for `Branching` in a walk: picks rows and units, bounds them, and keeps what it picked."""

    def __init__(
        self, net: tighten.Net, region: Interval, rng: np.random.Generator, most: int, only: set[int] | None = None
    ) -> None:
        self.net, self.region, self.rng, self.most, self.only = net, region, rng, most, only
        self.entered: list[tuple[Any, ...]] = []
        self.open: list[int] = []
        self.rows: dict[int, list[int]] = {}

    def enter(self, k: int, noise: Any, between: State) -> None:
        targets = self.net.targets
        self.entered.append((k, noise, between))
        crosses = (between.x.lower < 0) & (between.x.upper > 0)
        self.open += (targets.base[targets.of_bend[k]] + np.flatnonzero(crosses)).tolist()

    def least(self, places: Any, number: int, start: Any, elements: np.ndarray, found: np.ndarray) -> np.ndarray:
        if not self.open or (self.only is not None and number not in self.only):
            return found
        names = row_numbers(self.net.targets, number, elements, start.part).reshape(-1)
        for name in names[self.rng.random(len(names)) < 0.6].tolist():
            count = int(self.rng.integers(1, min(self.most, len(self.open)) + 1))
            self.rows[name] = self.rng.choice(self.open, count, replace=False).tolist()
        if not self.rows:
            return found
        return self.branching().least(places, number, start, elements, found)

    def branching(self) -> Branching:
        own = Branching(self.net.graph, self.net.targets, self.listed(), self.region, 5, map)
        for arguments in self.entered:
            own.enter(*arguments)
        return own

    def listed(self) -> Listed:
        splits = np.full((len(self.rows), self.most), -1, np.int32)
        for row, (_, units) in zip(splits, sorted(self.rows.items()), strict=True):
            row[: len(units)] = units
        return Listed(np.array(sorted(self.rows), np.int64), splits)


def picked(
    net: tighten.Net,
    lower: np.ndarray,
    upper: np.ndarray,
    rng: np.random.Generator,
    most: int = 3,
    only: set[int] | None = None,
) -> tuple[Listed, list[Interval | None]]:
    """A witness for one region, and what the walk that picked it found at the outputs.

    Args:
        net: The networks.
        lower: Lower ends of the region, `(1, *shape)`.
        upper: Upper ends.
        rng: Picks.
        most: Units a row at most.
        only: Targets whose rows may be picked; None for all.
    """
    picker: Any = Picker(net, Interval(lower[0], upper[0]), rng, most, only)
    walk = tighten._Region(net, map, picker)
    with np.errstate(all="ignore"):
        for k, node in enumerate(net.graph.nodes):
            walk.enter(k, node, State(Interval(lower, upper), None))
    return picker.listed(), [walk.states[i].d for i in net.graph.outputs]


def stored_witness(domain: int, regions: list[Listed]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The tensors of one domain, as they are written."""
    starts = np.concatenate([[0], np.cumsum([len(listed.rows) for listed in regions])]).astype("<i8")
    rows, splits = (np.concatenate(parts) for parts in zip(*regions, strict=True))
    arrays = {"regions": starts, "rows": rows.astype("<i8"), "splits": splits.astype("<i4")}
    return {
        f"{domain}/{name}": ("I32" if name == "splits" else "I64", array.shape, array.tobytes())
        for name, array in arrays.items()
    }
