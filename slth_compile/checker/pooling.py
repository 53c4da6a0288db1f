"""Pools of a pair (x, d) over windows, one tap of the window after another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from slth_compile.checker.arithmetic import TINY, Interval, down, gamma, up
from slth_compile.checker.shapes import positions

Fields = Mapping[str, Any]


def max_pool(x: Interval, fields: Fields) -> Interval:
    """Maxima over windows; padding never wins."""
    return Interval(_largest(x.lower, fields), _largest(x.upper, fields))


def max_pool_difference(x: Interval, z: Interval, d: Interval, fields: Fields) -> Interval:
    """Difference of two maxima, by the rule of `activations.largest_difference`."""
    best_x, best_z = _largest(x.lower, fields), _largest(z.lower, fields)
    upper, lower = np.full(best_x.shape, -np.inf), np.full(best_x.shape, np.inf)
    for reach, value in zip(taps(z.upper, fields, -np.inf), taps(d.upper, fields, -np.inf), strict=True):
        np.maximum(upper, np.where(reach >= best_z, value, -np.inf), out=upper)
    for reach, value in zip(taps(x.upper, fields, -np.inf), taps(d.lower, fields, np.inf), strict=True):
        np.minimum(lower, np.where(reach >= best_x, value, np.inf), out=lower)
    np.minimum(upper, up(_largest(z.upper, fields) - best_x), out=upper)
    np.maximum(lower, down(best_z - _largest(x.upper, fields)), out=lower)
    return Interval(lower, upper)


def average_pool(x: Interval, fields: Fields) -> Interval:
    """Means over windows, rounded outward; linear, so it serves x and d alike."""
    terms = int(np.prod(fields["window"]))
    count = window_counts(fields, x.lower.shape[1:])
    return mean_of_sums(x, lambda array: window_sums(array, fields), count, terms)


def window_counts(fields: Fields, shape: tuple[int, ...]) -> np.ndarray:
    """What the sum over each window is divided by, for an operand of this per-sample shape."""
    if fields["count_padding"]:
        return np.array(float(np.prod(fields["window"])))
    return window_sums(np.ones((1, *shape[:-1], 1)), fields)


def mean_of_sums(x: Interval, total, count: Any, terms: int) -> Interval:
    """`total(x) / count`, rounded outward, for sums of at most `terms` elements in any order."""

    def noise(array: np.ndarray) -> np.ndarray:
        return total(np.abs(array)) / count * gamma(terms + 8) + TINY

    return Interval(total(x.lower) / count - noise(x.lower), total(x.upper) / count + noise(x.upper))


def _largest(array: np.ndarray, fields: Fields) -> np.ndarray:
    return functools.reduce(np.maximum, taps(array, fields, -np.inf))


def window_sums(array: np.ndarray, fields: Fields) -> np.ndarray:
    """Sums over windows, zeros where there is padding."""
    return functools.reduce(np.add, taps(array, fields, 0.0))


def taps(array: np.ndarray, fields: Fields, fill: float) -> Iterator[np.ndarray]:
    """For each tap of the window, the elements it meets at every position: views of shape `(n, spatial'..., C)`."""
    window, stride, padding = fields["window"], fields["stride"], fields["padding"]
    axes = zip(array.shape[1:-1], window, stride, padding, strict=True)
    spans = [(positions(n, k, s, p) - 1) * s + 1 for n, k, s, p in axes]
    if any(sum(pair) for pair in padding):
        array = np.pad(array, ((0, 0), *padding, (0, 0)), constant_values=fill)
    for tap in itertools.product(*map(range, window)):
        part = tuple(slice(a, a + span, s) for a, span, s in zip(tap, spans, stride, strict=True))
        yield array[(slice(None), *part)]
