"""Linear forms in a node's pair (x, d), many at a time, each row of a pass one form.

A form is kept on a box of the node's elements only, outside of which all of its coefficients are zero: an element deep
in a convolutional network reads a small part of the layers before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, gamma, to_centre, up
from slth_compile.checker.balls import NO_BALLS, Balls, highest_in
from slth_compile.checker.lines import Lines, Planes

Box = tuple[tuple[int, int], ...]
"""First and one past the last element on every axis."""


class Form(NamedTuple):
    """Coefficients of x and of d, None for zero; arrays of the box's extents and, last, one entry a row."""

    box: Box
    x: np.ndarray | None
    d: np.ndarray | None


class Reach(NamedTuple):
    """Centre and radius of x and of d at all elements of a node, the second pair None where d is.

    The radii include what the rounding of `sum_i A_i c_i + |A_i| r_i`, in any order, can take away. Balls are what they
    lie in as well.
    """

    x: tuple[np.ndarray, np.ndarray]
    d: tuple[np.ndarray, np.ndarray] | None
    balls: Balls = NO_BALLS


def full(shape: tuple[int, ...]) -> Box:
    """All elements."""
    return tuple((0, size) for size in shape)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of an array within a box of its leading axes."""
    return array[tuple(slice(*ends) for ends in box)]


def spread(array: np.ndarray, box: Box, into: Box) -> np.ndarray:
    """What is known on `box`, on the box `into` that contains it."""
    if box == into:
        return array
    found = np.zeros((*(b - a for a, b in into), array.shape[-1]))
    crop(found, tuple((a - low, b - low) for (a, b), (low, _) in zip(box, into, strict=True)))[...] = array
    return found


def unit_rows(elements: np.ndarray, signs: np.ndarray, shape: tuple[int, ...]) -> tuple[Box, np.ndarray]:
    """The forms `sign v_i` of some elements of a node, all channels of the box they are in."""
    where = np.unravel_index(elements, shape) if shape else ()
    box = tuple((int(own.min()), int(own.max()) + 1) for own in where[:-1]) + tuple((0, n) for n in shape[-1:])
    unit = np.zeros((*(b - a for a, b in box), len(elements)))
    inside = tuple(own - a for own, (a, _) in zip(where, box, strict=True))
    unit[(*inside, np.arange(len(elements)))] = signs
    return box, unit


def widened(form: Form, into: Box) -> Form:
    """The form on a larger box."""
    return Form(into, *(None if a is None else spread(a, form.box, into) for a in form[1:]))


def add(forms: dict[int, Form], node: int, form: Form) -> None:
    """Adds a form to what the node carries already; each of both meets one rounding."""
    if form.x is None and form.d is None:
        return
    if node in forms:
        into = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(form.box, forms[node].box, strict=True))
        parts = zip(widened(form, into)[1:], widened(forms[node], into)[1:], strict=True)
        form = Form(into, *(a if b is None else b if a is None else a + b for a, b in parts))
    forms[node] = form


def reach_of(x: Interval, d: Interval | None, balls: Balls = NO_BALLS) -> Reach:
    """Centres and radii of enclosures of the node's shape, and balls."""

    def ready(interval: Interval) -> tuple[np.ndarray, np.ndarray]:
        centre, radius = to_centre(interval)
        return centre, radius + (np.abs(centre) + radius) * gamma(centre.size + 8) + TINY

    return Reach(ready(x), None if d is None else ready(d), balls)


def highest(form: Form, reach: Reach) -> np.ndarray:
    """For each row, a number that the form exceeds nowhere."""
    total = None
    for coefficients, known, ball in zip(form[1:], (reach.x, reach.d), reach.balls, strict=True):
        if coefficients is None or known is None:
            continue
        rows = flat(coefficients)
        centre, radius = (crop(part, form.box).reshape(-1) for part in known)
        found = up(centre @ rows + radius @ np.abs(rows))
        if ball is not None:
            there = None if ball.centre is None else crop(ball.centre, form.box).reshape(-1)
            found = np.fmin(found, highest_in(rows, ball, there))
        total = found if total is None else up(total + found)
    assert total is not None
    return total


def weighed(coefficients: np.ndarray | None, charge: np.ndarray | None, box: Box) -> np.ndarray | float:
    """`sum_i |A_i| charge_i` for each row, rounded up: `charge` has room for the rounding of this sum."""
    if coefficients is None or charge is None:
        return 0.0
    return crop(charge, box).reshape(-1) @ np.abs(flat(coefficients))


def relaxed(coefficients: np.ndarray, lines: Lines, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The largest linear form above `A f(v)`: its coefficients of v, and what its intercepts add up to, rounded up.

    Coefficients meet one rounding each.
    """
    rows = flat(coefficients)
    own = [crop(line, box).reshape(-1, 1) for line in lines]
    above_slope, above, below_slope, below = own
    found = rows * below_slope
    bent = np.flatnonzero((above_slope != below_slope) | (above != 0) | (below != 0))
    if len(bent) == 0:
        return found.reshape(coefficients.shape), np.zeros(rows.shape[1])
    if len(bent) < len(rows):
        rows = rows[bent]
        above_slope, above, below_slope, below = (line[bent] for line in own)
    positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
    found[bent] = positive * above_slope + negative * below_slope
    tops, bottoms = np.hstack([above, np.abs(above)]).T, np.hstack([below, -np.abs(below)]).T
    constant, size = tops @ positive + bottoms @ negative
    return found.reshape(coefficients.shape), up(constant + size * gamma(len(rows) + 8))


def tilted(coefficients: np.ndarray, planes: Planes, box: Box) -> np.ndarray | None:
    """The coefficients of y that planes over y and d add; None for zero. They meet one rounding each."""
    above, below = (crop(tilt, box).reshape(-1, 1) for tilt in planes[1:])
    bent = np.flatnonzero((above != 0) | (below != 0))
    if len(bent) == 0:
        return None
    rows = flat(coefficients)
    found = np.zeros_like(rows)
    some = rows[bent]
    found[bent] = np.maximum(some, 0) * above[bent] + np.minimum(some, 0) * below[bent]
    return found.reshape(coefficients.shape)


def room(charge: np.ndarray) -> np.ndarray:
    """The charge with what the rounding of a sum over all elements can take away."""
    return charge * (1 + gamma(charge.size + 8)) + TINY


def flat(coefficients: np.ndarray) -> np.ndarray:
    """Coefficients as a matrix, one column a row of the pass."""
    return coefficients.reshape(-1, coefficients.shape[-1])
