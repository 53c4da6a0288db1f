"""What a sign that is known of earlier units takes off a linear form of the input.

Where `s y >= 0`, and `s y <= C x + v` on all of the region, `beta (C x + v) >= 0` may be added to anything that is to
be bounded from above, for any `beta >= 0`: the multipliers of Wang et al., "Beta-CROWN: Efficient Bound Propagation
with Per-neuron Split Constraints" (NeurIPS 2021), here for constraints carried to the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, gamma, to_centre, up
from slth_compile.checker.forms import Box, Form, crop, flat, spread

_STEPS = 8
_FACTOR = 1.0123456789  # keeps the steps off multipliers at which coefficients vanish exactly
_TIE = 2.0**-30


class Cut(NamedTuple):
    """`s y <= C x + v` on a region: C on a box of the input, an array of its extents, and v."""

    box: Box
    x: np.ndarray
    value: float


class _Table(NamedTuple):
    """Some cuts over one box of the input: C, C times the radius, v, and four sums of each.

    `level` is `C c + v`, `total` is `|C| r`, `tie` is what counts as no slope, `size` is at least `|C| (|c| + r)`.
    """

    x: np.ndarray
    scaled: np.ndarray
    value: np.ndarray
    level: np.ndarray
    total: np.ndarray
    tie: np.ndarray
    size: np.ndarray


def lowered(
    form: Form, value: np.ndarray, cuts: Sequence[Cut], chosen: np.ndarray, region: Interval
) -> tuple[Form, np.ndarray]:
    """Forms of the input, and their constants, with multiples of cuts added to them.

    Multipliers are found one after the other, each by bisection of the slope of the form's maximum over the region.

    Args:
        form: Coefficients of x, one column a row.
        value: What is added to each row's form.
        cuts: Some cuts.
        chosen: Which of them hold for each row, in order, -1 for none after the last; shape `(rows, K)`.
        region: The inputs, of the input's shape.
    """
    assert form.x is not None
    boxes = [form.box, *(cut.box for cut in cuts)]
    box = tuple((min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*boxes, strict=True))
    centre, radius = (crop(array, box).reshape(-1) for array in to_centre(region))
    table, most = _table(cuts, box, centre, radius), np.abs(centre) + radius
    rows = np.array(flat(spread(form.x, form.box, box)).T, order="C")
    value, size = value.copy(), np.abs(rows) @ most * (1 + gamma(len(most) + 8)) + TINY
    lost = np.zeros(len(rows))
    for own in chosen.T:
        there = np.flatnonzero(own >= 0)
        if len(there) == 0:
            break
        some = _Table(*(array[own[there]] for array in table))
        beta = _multipliers(rows[there] * radius, some)
        there, some, beta = there[beta > 0], _Table(*(array[beta > 0] for array in some)), beta[beta > 0]
        rows[there] += beta[:, None] * some.x
        value[there] = up(value[there] + up(beta * some.value))
        # Both operations on a coefficient round it by a unit of its parts at most.
        more = up(beta * some.size)
        size[there] = up(size[there] + more)
        lost[there] = up(lost[there] + up(size[there] + more) * (4 * UNIT) + TINY * (1 + most.sum()))
    extents = tuple(b - a for a, b in box)
    return Form(box, rows.T.reshape(*extents, len(rows)), None), up(value + lost)


def _table(cuts: Sequence[Cut], box: Box, centre: np.ndarray, radius: np.ndarray) -> _Table:
    x = np.zeros((len(cuts), len(centre)))
    for row, cut in zip(x, cuts, strict=True):
        row[:] = spread(cut.x[..., None], cut.box, box).reshape(-1)
    value = np.array([cut.value for cut in cuts])
    total = np.abs(x) @ radius
    tie = _TIE * (np.abs(x) @ np.abs(centre) + total + np.abs(value))
    size = np.abs(x) @ (np.abs(centre) + radius) * (1 + gamma(len(centre) + 8)) + TINY
    return _Table(x, x * radius, value, x @ centre + value, total, tie, size)


def _multipliers(rows: np.ndarray, cuts: _Table) -> np.ndarray:
    """For each row, a multiplier of its cut that brings the row's maximum about as low as it gets; zero or more.

    Args:
        rows: Coefficients times the region's radius, `(n, inputs)`.
        cuts: One cut a row.
    """
    beta = np.zeros(len(rows))
    active = np.flatnonzero(~(_slope(rows, cuts, beta) >= -cuts.tie))
    if len(active) < len(rows):
        rows, cuts = rows[active], _Table(*(array[active] for array in cuts))
    scale = _FACTOR * np.abs(rows).sum(axis=1) / np.maximum(cuts.total, 1e-300)
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        falls = _slope(rows, cuts, scale * middle / (1 - middle)) < -cuts.tie
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    found = scale * low / (1 - low)
    beta[active] = np.where(np.isfinite(found), found, 0)
    return beta


def _slope(rows: np.ndarray, cuts: _Table, beta: np.ndarray) -> np.ndarray:
    """Of `max over the region of (A + beta C) x + beta v` in beta."""
    sign = cuts.scaled * beta[:, None]
    sign += rows
    np.sign(sign, out=sign)
    return cuts.level + np.einsum("ij,ij->i", cuts.scaled, sign)
