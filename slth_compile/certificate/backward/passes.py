"""One backward pass: upper bounds of single elements of `x` or `d`, many rows at a time."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward.noise import magnitudes
from slth_compile.certificate.backward.rewrite import Larger
from slth_compile.certificate.backward.steps import on_device, reach_of
from slth_compile.certificate.backward.walk import ACTIVATIONS, Walk
from slth_compile.certificate.rounding import UNIT_ROUNDOFF, up

THREADS = 2
"""Chunks of rows under way at a time: XLA leaves cores idle between small programs."""

# Relative error of a sum of one number a step: gamma of more steps than any graph has.
_STEPS = 2.0**-40
# Stands in for every product that was flushed to zero in sums of values; coefficients have `Walk.flushed`.
_FLUSHED = 2.0**-900


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """What a pass bounds.

    Attributes:
        node: An element of this node's output; of a `Larger` where `between`, of its operands' difference.
        between: See above.
        difference: True for `d`, False for `x`.
    """

    node: int
    between: bool
    difference: bool


def upper_bounds(walk: Walk, start: Start, elements: np.ndarray, samples: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Upper bounds of `sign * v`, `v` the element of a sample that each row names, `(rows,)`.

    Args:
        walk: Enclosures of all nodes before.
        start: The node.
        elements: Elements of its output, in C order.
        samples: Their samples.
        signs: 1.0 or -1.0.
    """
    places = _places(walk.both.net.shapes[start.node])[elements]
    reaches = [None] * len(walk.pairs)
    size = walk.both.rows

    def run(first: int) -> np.ndarray:
        rows = np.minimum(np.arange(first, first + size), len(elements) - 1)
        with jax.enable_x64(True):
            row = _Rows(*(jax.device_put(v[rows]) for v in (places.astype(np.int32), samples.astype(np.int32), signs)))
            return np.asarray(_pass(walk, start, row, reaches))[: len(elements) - first]

    # The first chunk alone, so that nothing is compiled twice.
    found = [run(0)]
    if len(elements) > size:
        with ThreadPoolExecutor(THREADS) as pool:
            found += pool.map(run, range(size, len(elements), size))
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    element: Any
    sample: Any
    sign: Any


def _places(shape: tuple[int, ...]) -> np.ndarray:
    """Where each element, counted in C order, is once the channels come first."""
    order = np.arange(math.prod(shape)).reshape(shape)
    order = np.moveaxis(order, -1, 0) if len(shape) > 1 else order
    places = np.empty(order.size, np.int64)
    places[order.reshape(-1)] = np.arange(order.size)
    return places


def _pass(walk: Walk, start: Start, rows: _Rows, reaches: list[Any]) -> Any:
    nodes, sample = walk.both.net.nodes, rows.sample
    value = spread = jnp.zeros(len(sample))
    forms = _started(walk, start, rows)
    best = jnp.full(len(sample), jnp.inf)
    for m in range(max(forms), -1, -1):
        if m == 0 or (m in forms and isinstance(nodes[m], (*ACTIVATIONS, Larger))):
            best = jnp.minimum(best, _stopped(walk, forms, value, spread, sample, reaches))
        if m == 0 or m not in forms:
            continue
        operands, more = walk.back[m](forms.pop(m), sample)
        more = more + f.spread(walk.flushed[m], sample)
        value, spread = value + more, spread + abs(more)
        for i, form in operands:
            if form.d is None and form.x is None:
                continue
            if i in forms:
                form, more = f.merged(forms[i], form, _merging(walk, i), sample)
                value, spread = value + more, spread + abs(more)
            forms[i] = form
    return best


def _started(walk: Walk, start: Start, rows: _Rows) -> dict[int, f.Form]:
    shape = walk.both.net.shapes[start.node]
    hot = f.one_hot(math.prod(shape), rows.element, rows.sign)
    hot = hot.reshape(*shape[-1:], *shape[:-1], len(rows.sample))

    def form(a: Any) -> f.Form:
        return f.Form(a, None) if start.difference else f.Form(None, a)

    if not start.between:
        return {start.node: form(hot)}
    first, second = walk.both.net.nodes[start.node].inputs
    return {first: form(hot), second: form(-hot)}


def _stopped(walk: Walk, forms: dict[int, f.Form], value: Any, spread: Any, sample: Any, reaches: list[Any]) -> Any:
    """What the forms amount to, at most, over the enclosures of the nodes they have reached."""
    for i, form in forms.items():
        if reaches[i] is None:
            reaches[i] = reach_of(walk.pairs[i])
        more = f.reached(form, reaches[i], sample)
        value, spread = value + more, spread + abs(more)
    return up(value + spread * _STEPS) + _FLUSHED


def _merging(walk: Walk, i: int) -> f.Pairs:
    size = magnitudes(*walk.pairs[i])
    return f.Pairs(*(on_device(m * (4 * UNIT_ROUNDOFF)) for m in (size.d, size.x)))
