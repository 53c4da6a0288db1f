"""What forms amount to where a node's pair is known to lie in balls as well as in boxes.

`A_d d <= |A_d| |d|` and `A_x x <= A_x c + |A_x| |x - c|`, Euclidean norms: a form whose coefficients are of one size
over n elements that cannot all be large at once gains up to sqrt(n) on their boxes. Of either part the smaller one
counts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward.hybrid import Beside, within
from slth_compile.certificate.backward.places import At, spread
from slth_compile.certificate.backward.steps import on_device, reach_of
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounding import TINY, gamma, up
from slth_compile.certificate.spectral import norms_of

WORTH = 7 / 8
"""A ball is left out, sample by sample, unless it is this much smaller than one around the box: it gains too little."""

# More than the rounding of a root and of a few products, in XLA as well.
_ABOVE = 1 + 2.0**-42


class Balls(NamedTuple):
    """Of `d` the radius, of `x` centre and radius, each radius of shape `(samples,)`; None where boxes are as good."""

    d: Any
    x: Any


class Known(NamedTuple):
    """Boxes and balls of a node; no balls where boxes are as good."""

    reach: f.Reach
    balls: Balls | None


def known_of(walk: Walk, i: int) -> Known:
    """What node `i` is known to lie in."""
    pair, beside = walk.pairs[i], walk.besides[i]
    return Known(reach_of(pair), _balls(pair, beside))


def reached(form: f.Form, known: Known, at: At) -> Any:
    """The largest value of the form where `d` and `x` lie in their boxes and balls."""
    if known.balls is None:
        return f.reached(form, known.reach, at)
    return _reached(form, known.reach, known.balls, at)


def _balls(pair: Pair, beside: Beside) -> Balls | None:
    size = math.prod(beside.centre.shape[:-1])
    boxes = within(Beside(beside.centre, beside.state._make([np.full_like(v, np.inf) for v in beside.state])), pair)
    d, x = (
        np.where(own < WORTH * box, own, np.inf)
        for own, box in zip(beside.state[:0:-1], boxes.state[:0:-1], strict=True)
    )
    d = jax.device_put(d) if np.isfinite(d).any() else None
    if not np.isfinite(x).any():
        return None if d is None else Balls(d, None)
    # The sum of A_x c is off by gamma |A_x| |c|.
    off = up(norms_of(np.moveaxis(beside.centre, -1, 0).reshape(-1, size)) * gamma(2 * size + 32))
    return Balls(d, (on_device(beside.centre), jax.device_put(up(x + off))))


@jax.jit
def _reached(form: f.Form, reach: f.Reach, balls: Balls, at: At) -> Any:
    value: Any = 0.0
    if form.d is not None and reach.d is not None:
        found = f.reached(f.Form(form.d, None), reach, at)
        if balls.d is not None:
            found = jnp.fmin(found, _norm(form.d) * spread(balls.d, at))
        value = value + found
    if form.x is not None:
        found = f.reached(f.Form(None, form.x), reach, at)
        if balls.x is not None:
            centre, radius = balls.x
            found = jnp.fmin(found, f.total(form.x * spread(centre, at, form.x)) + _norm(form.x) * spread(radius, at))
        value = value + found
    return value


def _norm(a: Any) -> Any:
    """Of every row's coefficients; what squares lose by being flushed is less than `TINY` each."""
    terms = math.prod(a.shape[:-1])
    return jnp.sqrt(f.total(a * a) * (1 + gamma(terms + 16)) + terms * (2 * TINY)) * _ABOVE
