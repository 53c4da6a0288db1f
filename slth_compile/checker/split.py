"""An activation some of whose elements have their sign known, in some rows of a pass: lines of half intervals there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval, gamma, up
from slth_compile.checker.backward import Bent, Place, bent, step
from slth_compile.checker.forms import Form, add
from slth_compile.checker.graph import Node
from slth_compile.checker.noise import Noise
from slth_compile.checker.operations import State

Pair = tuple[np.ndarray | None, np.ndarray | None]


class HalfLines(NamedTuple):
    """Split units of an activation: their elements, and lines where `y >= 0` of each, then where `y <= 0`."""

    elements: np.ndarray
    lines: Bent


class Split(NamedTuple):
    """Where columns of a pass are split at one activation: elements, columns, and which lines of `HalfLines`."""

    elements: np.ndarray
    columns: np.ndarray
    lines: np.ndarray


def half_lines(node: Node, elements: np.ndarray, noise: Noise, between: State) -> HalfLines:
    """Lines for some elements of an activation.

    One whose sign is known already keeps its lines in both halves: all of its interval holds in either. Whoever listed
    it may have found it open by a rounding.

    Args:
        node: The operation.
        elements: Its elements, increasing.
        noise: Its rounding.
        between: Enclosures of its pre-activation, that its own lines were made of; first axis one region.
    """
    x, d = (v and Interval(*(end.reshape(-1)[elements] for end in v)) for v in between)
    assert x is not None
    low, high = x
    is_open, zero = (low < 0) & (high > 0), np.zeros_like(low)
    on, off = Interval(np.where(is_open, zero, low), high), Interval(low, np.where(is_open, zero, high))
    both = State(_twice(on, off), d and _twice(d, d))
    charge = None
    if noise.charge is not None:
        parts = (np.broadcast_to(part[0], node.shape).reshape(-1) for part in noise.charge)
        own_x, own_d = (np.tile(part[elements], 2) for part in parts)
        charge = own_x, own_d
    return HalfLines(elements, bent(node, both, charge))


def _twice(a: Interval, b: Interval) -> Interval:
    """One interval behind the other, with a first axis of one region."""
    return Interval(*(np.concatenate(ends)[None] for ends in zip(a, b, strict=True)))


def past_split(here: Place, lines: Bent, split: Split, form: Form, forms: dict[int, Form]) -> np.ndarray:
    """As `step` past an activation, some elements of some columns by other lines."""
    box = form.box
    where = np.unravel_index(split.elements, here.node.shape) if box else ()
    inside = np.ones(len(split.elements), bool)
    for own, (a, b) in zip(where, box, strict=True):
        inside &= (own >= a) & (own < b)
    at = (*(own[inside] - a for own, (a, _) in zip(where, box, strict=True)), split.columns[inside])
    columns, own_lines = split.columns[inside], split.lines[inside]
    x, d = (None if coefficients is None else coefficients[at] for coefficients in form[1:])
    # The others as ever: what is zero adds nothing. Then those that are split, as a form of their own.
    constant = step(here, Form(box, *(_without(coefficients, at) for coefficients in form[1:])), forms)
    moved, left, more = _through(lines, x, d, own_lines)
    total = [np.bincount(columns, weights, len(constant)) for weights in (more, np.abs(more))]
    for i, parts in zip(here.node.inputs, (moved, left), strict=False):
        add(forms, i, Form(box, *(None if part is None else _scattered(part, at, form) for part in parts)))
    return up(constant + up(total[0] + total[1] * gamma(len(more) + 8)))


def _without(coefficients: np.ndarray | None, at: tuple[np.ndarray, ...]) -> np.ndarray | None:
    if coefficients is None:
        return None
    found = coefficients.copy()
    found[at] = 0.0
    return found


def _through(
    lines: Bent, x: np.ndarray | None, d: np.ndarray | None, which: np.ndarray
) -> tuple[Pair, Pair, np.ndarray]:
    """Single coefficients of x and of d through lines and planes.

    Returns:
        Those of the first operand, those left to the second, and what each entry leaves behind.
    """
    own_x = own_d = None
    more = np.zeros(len(which))
    for coefficients, charge in zip((x, d), lines.charge or (None, None), strict=True):
        if coefficients is not None and charge is not None:
            more = up(more + up(np.abs(coefficients) * charge[which]))
    if x is not None:
        own_x, constant = _relaxed(x, *(line[which] for line in lines.lines))
        more = up(more + constant)
    if d is not None and lines.planes is not None:
        own_d, constant = _relaxed(d, *(line[which] for line in lines.planes.lines))
        more = up(more + constant)
        above, below = (tilt[which] for tilt in lines.planes[1:])
        tilt = np.maximum(d, 0) * above + np.minimum(d, 0) * below
        own_x = tilt if own_x is None else own_x + tilt
    return (own_x, own_d), (_minus(x, own_x), _minus(d, own_d)), more


def _relaxed(a: np.ndarray, above_slope: np.ndarray, above: np.ndarray, below_slope: np.ndarray, below: np.ndarray):
    """A coefficient of the operand, and a constant."""
    positive, negative = np.maximum(a, 0), np.minimum(a, 0)
    return positive * above_slope + negative * below_slope, up(positive * above + negative * below)


def _minus(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return a if b is None else -b if a is None else a - b


def _scattered(part: np.ndarray, at: tuple[np.ndarray, ...], form: Form) -> np.ndarray:
    some = form.x if form.x is not None else form.d
    assert some is not None
    found = np.zeros(some.shape)
    found[at] = part
    return found
