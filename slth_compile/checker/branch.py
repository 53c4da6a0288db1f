"""Bounds by cases: for each sign that some earlier units may have, a backward pass with what that sign tells.

A unit is the pre-activation y of an element of an activation with a kink at zero. Where it is split, `y >= 0` in one
half of the cases and `y <= 0` in the other, and every input of the region is in one of the cases. A case has lines and
planes of the half intervals, and may add multiples of `s y >= 0` (`cuts`). The largest bound of all cases holds on the
region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.backward import Place, amount, carried, step
from slth_compile.checker.cuts import Cut, lowered
from slth_compile.checker.forms import Box, Form, unit_rows
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.noise import Noise
from slth_compile.checker.operations import State
from slth_compile.checker.split import HalfLines, Split, half_lines, past_split
from slth_compile.checker.targets import PARTS, Targets, row_numbers
from slth_compile.checker.witness import Listed

_CUTS = 1 << 24  # numbers of the cuts that are kept
_CASES = 1 << 16  # that are prepared at a time

Map = Callable[..., Iterable[Any]]
"""Applies a function to several arguments, in order."""


class Start(NamedTuple):
    """What is bounded: elements of x or of d of a node, or of the difference of two.

    Attributes:
        signs: What each node's elements are multiplied by in their sum.
        shape: Of the nodes.
        part: `"x"` or `"d"`.
    """

    signs: dict[int, float]
    shape: tuple[int, ...]
    part: str

    def forms(self, elements: np.ndarray, sides: np.ndarray) -> dict[int, Form]:
        """The forms `side * v` of some elements, by node."""
        box, unit = unit_rows(elements, sides, self.shape)
        return {k: Form(box, *_either(sign * unit, self.part)) for k, sign in self.signs.items()}


def _either(coefficients: np.ndarray, part: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    return (coefficients, None) if part == PARTS[0] else (None, coefficients)


def before(node: Node) -> dict[int, float]:
    """What an activation is applied to, as `Start.signs`: its operand, or the difference of two."""
    return dict(zip(node.inputs, (1.0, -1.0), strict=False))


class Branching:
    """What the witness lists for one region, with the lines and the cuts of its units so far."""

    def __init__(
        self, graph: Graph, targets: Targets, listed: Listed, region: Interval, columns: int, each: Map
    ) -> None:
        self.graph, self.targets, self.listed, self.region = graph, targets, listed, region
        self.columns, self.each = columns, each
        self._half_lines: dict[int, HalfLines] = {}
        self._cuts: dict[int, Cut] = {}  # by twice the unit, and one more for y <= 0

    def enter(self, k: int, noise: Noise, between: State) -> None:
        """Makes lines for the listed units of the activation at `k`; the rest is as for `half_lines`."""
        first, last = self._units_of(k)
        listed = self.listed.splits
        elements = np.unique(listed[(listed >= first) & (listed < last)].astype(np.int64)) - first
        if len(elements) == 0:
            return
        self._half_lines[k] = half_lines(self.graph.nodes[k], elements, noise, between)

    def least(
        self, places: list[Place], target: int, start: Start, elements: np.ndarray, found: np.ndarray
    ) -> np.ndarray:
        """Upper bounds, those of the listed rows by cases where that is less.

        Args:
            places: All nodes so far.
            target: What is bounded, by its number.
            start: The same, by its nodes.
            elements: Its elements.
            found: Bounds of `+v` and of `-v` without any case, shape `(n, 2)`.
        """
        rows, splits = self.listed
        numbers = row_numbers(self.targets, target, elements, start.part).reshape(-1)
        at = np.minimum(np.searchsorted(rows, numbers), len(rows) - 1)
        chosen = np.flatnonzero(rows[at] == numbers) if len(rows) else np.zeros(0, np.int64)
        found = found.reshape(-1).copy()
        most = splits.shape[1]
        together = max(1, min(_CUTS // (2 * most * self.region.lower.size), _CASES >> most))
        for first in range(0, len(chosen), together):
            some = chosen[first : first + together]
            sides = np.where(some % 2 == 0, 1.0, -1.0)
            bounds = self._by_cases(places, start, elements[some // 2], sides, splits[at[some]].astype(np.int64))
            found[some] = np.minimum(found[some], bounds)
        return found.reshape(-1, 2)

    def _by_cases(
        self, places: list[Place], start: Start, elements: np.ndarray, sides: np.ndarray, units: np.ndarray
    ) -> np.ndarray:
        """The largest bound of all cases of each row."""
        self._keep_cuts(places, np.unique(units[units >= 0]))
        row, signs, first = cases((units >= 0).sum(axis=1), units.shape[1])

        def passes(begin: int) -> np.ndarray:
            with np.errstate(all="ignore"):
                own = row[begin : begin + self.columns]
                forms = start.forms(elements[own], sides[own])
                return self._bounds(places, forms, units[own], signs[begin : begin + self.columns])

        found = list(self.each(passes, range(0, len(row), self.columns)))
        return np.maximum.reduceat(np.concatenate(found), first)

    def _bounds(self, places: list[Place], forms: dict[int, Form], units: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """One bound a case; units and signs have shape `(cases, K)`."""
        splits = self._splits(units, signs)

        def past(k: int, form: Form, forms: dict[int, Form]) -> np.ndarray:
            if k in splits:
                return past_split(places[k], self._half_lines[k].lines, splits[k], form, forms)
            return step(places[k], form, forms)

        value, best = carried(places, forms, len(units), past)
        if 0 in forms:
            names = np.where(units >= 0, 2 * units + (signs < 0), -1)
            known, chosen = np.unique(names, return_inverse=True)
            none = int(known[0] == -1)
            cuts = [self._cuts[int(name)] for name in known[none:]]
            forms[0], value = lowered(forms[0], value, cuts, chosen.reshape(names.shape) - none, self.region)
        return np.minimum(best, amount(places, forms, value))

    def _splits(self, units: np.ndarray, signs: np.ndarray) -> dict[int, Split]:
        """Where the columns of a pass are split, by position of the activation."""
        found = {}
        for k, halves in self._half_lines.items():
            first, last = self._units_of(k)
            columns, places = np.nonzero((units >= first) & (units < last))
            if len(columns):
                own = units[columns, places] - first
                lines = np.searchsorted(halves.elements, own)
                found[k] = Split(own, columns, lines + len(halves.elements) * (signs[columns, places] < 0))
        return found

    def _keep_cuts(self, places: list[Place], units: np.ndarray) -> None:
        """Finds the cuts of some units that are not known yet."""
        missing = units[[2 * int(unit) not in self._cuts for unit in units]]
        if (len(self._cuts) + 2 * len(missing)) * self.region.lower.size > _CUTS:
            self._cuts.clear()
            missing = units
        for k in self._half_lines:
            first, last = self._units_of(k)
            own = missing[(missing >= first) & (missing < last)]
            names = np.repeat(own, 2) * 2 + np.tile([0, 1], len(own))
            self._cuts.update(zip(names.tolist(), self._cuts_of(places, k, own - first), strict=True))

    def _cuts_of(self, places: list[Place], k: int, elements: np.ndarray) -> list[Cut]:
        """Two a unit of an activation, of y and of -y."""
        node, together = self.graph.nodes[k], max(1, self.columns // 2)
        start = Start(before(node), node.shape, PARTS[0])

        def passes(begin: int) -> list[Cut]:
            with np.errstate(all="ignore"):
                some = np.repeat(elements[begin : begin + together], 2)
                return _input_forms(places, start.forms(some, np.tile([1.0, -1.0], len(some) // 2)), len(some))

        return [cut for part in self.each(passes, range(0, len(elements), together)) for cut in part]

    def _units_of(self, k: int) -> tuple[int, int]:
        target = self.targets.of_bend[k]
        return int(self.targets.base[target]), int(self.targets.base[target + 1])


def cases(counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All signs of rows with so many units each.

    Returns:
        The row of each case, its signs `(cases, most)`, 1 or -1, and the first case of each row.
    """
    size = np.left_shift(1, counts)
    first = np.cumsum(size) - size
    row = np.repeat(np.arange(len(counts)), size)
    number = np.arange(len(row)) - first[row]
    return row, np.where(number[:, None] >> np.arange(most) & 1, -1.0, 1.0), first


def _input_forms(places: list[Place], forms: dict[int, Form], rows: int) -> list[Cut]:
    """For each form, one of the input that it exceeds nowhere on the region; zero where a number is not finite."""
    value, _ = carried(places, forms, rows)
    if 0 not in forms:
        box: Box = tuple((0, 1) for _ in places[0].node.shape)
        return [Cut(box, np.zeros((1,) * len(box)), 0.0)] * rows
    box, x, _ = forms[0]
    assert x is not None
    known = np.isfinite(value) & np.isfinite(x).reshape(-1, rows).all(axis=0)
    x = np.ascontiguousarray(np.moveaxis(np.where(known, x, 0.0), -1, 0))
    return [Cut(box, *cut) for cut in zip(x, np.where(known, value, 0.0).tolist(), strict=True)]
