"""Layer norms of a pair (x, d): values, and an exact expression of their change.

For one position with n features let `t = x - mean x`, `q = mean t^2 + epsilon`, `y = t / sqrt(q)`, and let `t', q', y'`
belong to `z = x + d`. With `m = d - mean d` and `g = sqrt(q') - sqrt(q)`,

    g = mean((t + t') m) / (sqrt(q) + sqrt(q')),    y' - y = (m - g y) / sqrt(q').

`g` is never larger than `sqrt(mean m^2)` (two points' distances to a third one, in n + 1 dimensions), and no `|y|` is
larger than `sqrt(n - 1)`: its features have the sum 0 and the square sum n at most. An uncentred norm has t = x, m = d
and the limit `sqrt(n)`.
"""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import UNIT, Interval, down, up
from slth_compile.checker.pooling import mean_of_sums

_SLACK = 8 * UNIT  # of one root or quotient, each within half a unit


def layer_norm(x: Interval, epsilon: float, centred: bool) -> Interval:
    """All `y` for x of shape `(n, ..., features)`."""
    t = _deviation(x, centred)
    return _limited(_ratio(t, _root(t, epsilon)), _limit(x, centred))


def layer_norm_change(x: Interval, d: Interval, epsilon: float, centred: bool) -> Interval:
    """All `y' - y`, by the expression above and as a difference of two values: both hold."""
    t, m = _deviation(x, centred), _deviation(d, centred)
    z = Interval(down(x.lower + d.lower), up(x.upper + d.upper))
    t2 = _deviation(z, centred)
    root, root2 = _root(t, epsilon), _root(t2, epsilon)
    limit = _limit(x, centred)
    y, y2 = (_limited(_ratio(a, b), limit) for a, b in ((t, root), (t2, root2)))
    g = _ratio(_mean(_product(_sum(t, t2), m)), _sum(root, root2))
    g = _limited(g, _upper_root(_mean(_square(m)).upper))
    found = _ratio(_less(m, _product(y, g)), root2)
    apart = _less(y2, y)
    # What overflowed is no number, which the other bound replaces.
    return Interval(np.fmax(found.lower, apart.lower), np.fmin(found.upper, apart.upper))


def _deviation(v: Interval, centred: bool) -> Interval:
    return _less(v, _mean(v)) if centred else v


def _limit(x: Interval, centred: bool) -> np.ndarray:
    return _upper_root(np.array(float(x.lower.shape[-1] - centred)))


def _root(t: Interval, epsilon: float) -> Interval:
    """All `sqrt(q)`."""
    q = _mean(_square(t))
    lower = np.fmax(down(np.fmax(q.lower, 0.0) + epsilon), epsilon * (1 - _SLACK))
    return Interval(np.sqrt(lower) * (1 - _SLACK), _upper_root(up(q.upper + epsilon)))


def _upper_root(value: np.ndarray) -> np.ndarray:
    return np.sqrt(value) * (1 + _SLACK)


def _mean(v: Interval) -> Interval:
    """Over the features, kept as an axis of one."""
    features = v.lower.shape[-1]
    return mean_of_sums(v, lambda array: array.sum(axis=-1, keepdims=True), float(features), features)


def _square(v: Interval) -> Interval:
    low, high = np.abs(v.lower), np.abs(v.upper)
    crosses = (v.lower <= 0) & (v.upper >= 0)
    least = np.where(crosses, 0.0, np.minimum(low, high))
    largest = np.maximum(low, high)
    return Interval(np.maximum(down(least * least), 0.0), up(largest * largest))


def _ratio(a: Interval, b: Interval) -> Interval:
    """`a / b` for positive b."""
    return Interval(
        down(np.where(a.lower >= 0, a.lower / b.upper, a.lower / b.lower)),
        up(np.where(a.upper >= 0, a.upper / b.lower, a.upper / b.upper)),
    )


def _product(a: Interval, b: Interval) -> Interval:
    ends = np.broadcast_arrays(*(p * q for p in a for q in b))
    return Interval(down(np.minimum.reduce(ends)), up(np.maximum.reduce(ends)))


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower + b.lower), up(a.upper + b.upper))


def _less(a: Interval, b: Interval) -> Interval:
    return Interval(down(a.lower - b.upper), up(a.upper - b.lower))


def _limited(v: Interval, limit: np.ndarray) -> Interval:
    return Interval(np.fmax(v.lower, -limit), np.fmin(v.upper, limit))
