"""Balls that x and d of a node lie in, and what linear forms are at most there.

`A x <= A c + |A| r` where `|x - c| <= r`, by the Cauchy-Schwarz inequality.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, gamma, up
from slth_compile.checker.combined import Around
from slth_compile.checker.euclidean import longest
from slth_compile.checker.operations import State
from slth_compile.checker.spectral import vector_norms

_WORTH = 7 / 8  # of what the elements' enclosures say: a larger ball gains next to nothing


class Ball(NamedTuple):
    """Its centre, None for zero, and its radius with room for the rounding of sums of the centre."""

    centre: np.ndarray | None
    radius: np.ndarray


class Balls(NamedTuple):
    """Of x and of d, None where boxes say as much."""

    x: Ball | None
    d: Ball | None


NO_BALLS = Balls(None, None)


def balls_of(state: State, around: Around) -> Balls:
    """The balls of a node over its one region."""
    point, (_, apart, d) = around
    x_ball = d_ball = None
    own = longest(Interval(up(point - state.x.lower), up(state.x.upper - point)))
    if apart[0] < _WORTH * own[0]:
        centre = vector_norms(point.reshape(1, -1))
        x_ball = Ball(point[0], up(apart + up(centre * gamma(point.size + 8)))[0])
    if state.d is not None and d[0] < _WORTH * longest(state.d)[0]:
        d_ball = Ball(None, d[0])
    return Balls(x_ball, d_ball)


def highest_in(rows: np.ndarray, ball: Ball, centre: np.ndarray | None) -> np.ndarray:
    """For each column of `rows`, a number that the form exceeds nowhere in the ball.

    Args:
        rows: Coefficients, one column a form.
        ball: The ball.
        centre: The part of its centre that they are for.
    """
    sizes = np.sqrt(np.square(rows).sum(axis=0) * (1 + gamma(len(rows) + 8)) + TINY)
    reach = up(up(sizes) * ball.radius)
    return reach if centre is None else up(reach + centre @ rows)
