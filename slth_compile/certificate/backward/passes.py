"""One backward pass: upper bounds of single elements of `x` or `d`, many rows at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward import places
from slth_compile.certificate.backward.balls import known_of, reached
from slth_compile.certificate.backward.noise import magnitudes
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.backward.rewrite import MAXIMA
from slth_compile.certificate.backward.steps import on_device
from slth_compile.certificate.backward.tour import Chunk, Tour, tour_of
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
        node: An element of this node's output.
        less: A node of the same shape, whose element is subtracted; None for none.
        difference: True for `d`, False for `x`.
        reader: The node for whose sake: an activation, or `node` itself where it is an output; None for the sake of
            a `Largest`, whose passes have no number.
    """

    node: int
    less: int | None
    difference: bool
    reader: int | None

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes that a pass starts at."""
        return (self.node,) if self.less is None else (self.node, self.less)


class Rows(NamedTuple):
    """Rows of a pass.

    Attributes:
        element: Each row's element of what it sees of the start, channels in front, on the device, `(rows,)`; and of
            what it sees of the node that is subtracted.
        sign: 1.0 or -1.0, likewise.
        chunk: Where the rows are.
    """

    element: tuple[Any, ...]
    sign: Any
    chunk: Chunk

    @property
    def at(self) -> At:
        """Where the rows are at nodes that they see whole."""
        return At(self.chunk.sample)


class Passed(NamedTuple):
    """What a pass has found when it comes to the input: `A x + value` bounds every row's element from above.

    Attributes:
        best: The least bound over the enclosures on the way, `(rows,)`.
        form: The form at the input; None where none came so far.
        value: The constant.
        spread: The sum of all that was added to it, in absolute value.
    """

    best: Any
    form: f.Form | None
    value: Any
    spread: Any


Step = Callable[[int, f.Form, At], tuple[Sequence[tuple[int, f.Form]], Any]]
"""A form's way from a node to its operands, as `walk.Back`."""


def upper_bounds(walk: Walk, start: Start, elements: np.ndarray, samples: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Upper bounds of `sign * v`, `v` the element of a sample that each row names, `(rows,)`.

    Args:
        walk: Enclosures of all nodes before.
        start: The node.
        elements: Elements of its output, in C order.
        samples: Their samples.
        signs: 1.0 or -1.0.
    """
    reaches: list[Any] = [None] * len(walk.pairs)

    def run(rows: Rows, index: np.ndarray) -> tuple[Any]:
        return (bound_of(walk, carried(walk, start, rows, reaches), rows, reaches),)

    tour = None if walk.samples > 1 else tour_of(walk.both, start.nodes, elements)
    if tour is None:
        return in_chunks(walk, start, elements, samples, signs, run)[0]
    found = np.empty(len(elements))
    some = elements[tour.order], samples[tour.order], signs[tour.order]
    (found[tour.order],) = in_chunks(walk, start, *some, run, tour)
    return found


def in_chunks(
    walk: Walk,
    start: Start,
    elements: np.ndarray,
    samples: np.ndarray,
    signs: np.ndarray,
    run: Callable[[Rows, np.ndarray], tuple[Any, ...]],
    tour: Tour | None = None,
) -> tuple[np.ndarray, ...]:
    """What `run` finds of all rows, some at a time; it takes rows and their places among all, and returns arrays.

    Args:
        walk: For how many rows are taken together.
        start: The node.
        elements: Elements of its output, in C order.
        samples: Their samples.
        signs: 1.0 or -1.0.
        run: Its arrays have the rows first.
        tour: That the rows are in its order; None for rows in any order, which see whole nodes.
    """
    samples, size = samples.astype(np.int32), walk.both.rows if tour is None else tour.size
    shape = walk.both.net.shapes[start.node]

    def part(first: int) -> tuple[np.ndarray, ...]:
        index = np.minimum(np.arange(first, first + size), len(elements) - 1)
        with jax.enable_x64(True):
            chunk = Chunk(jax.device_put(samples[index]))
            if tour is not None:
                origin = tuple(map(int, tour.origins[first // size]))
                chunk = dataclasses.replace(chunk, windows=tour.windows, origin=origin)
            seen = tuple(jax.device_put(chunk.element(k, shape, elements[index])) for k in start.nodes)
            found = run(Rows(seen, jax.device_put(signs[index]), chunk), index)
            return tuple(np.asarray(array)[: len(elements) - first] for array in found)

    # The first chunk alone, so that nothing is compiled twice.
    found = [part(0)]
    if len(elements) > size:
        with ThreadPoolExecutor(THREADS) as pool:
            for rows in pool.map(part, range(size, len(elements), size)):
                found.append(rows)
                walk.felt()
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))


def carried(walk: Walk, start: Start, rows: Rows, reaches: list[Any], step: Step | None = None) -> Passed:
    """The pass down to the input.

    Args:
        walk: Enclosures of all nodes before.
        start: The node.
        rows: What is bounded.
        reaches: For every node `forms.reached`'s boxes, found where None; shared by passes from one start.
        step: A form's way from a node; the walk's own by None.
    """
    nodes, chunk, count = walk.both.net.nodes, rows.chunk, len(rows.sign)
    value = spread = jnp.zeros(count)
    forms = _started(walk, start, rows)
    best = jnp.full(count, jnp.inf)
    for m in range(max(forms), 0, -1):
        if m not in forms:
            continue
        if isinstance(nodes[m], (*ACTIVATIONS, *MAXIMA)):
            best = jnp.minimum(best, _stopped(walk, forms, value, spread, rows, reaches))
        form, at = forms.pop(m), chunk.at(m)
        operands, more = walk.back[m](form, at) if step is None else step(m, form, at)
        more = more + places.spread(walk.flushed[m], at)
        value, spread = value + more, spread + abs(more)
        for i, form in operands:
            if form.d is None and form.x is None:
                continue
            if (into := chunk.onto(m, i)) is not None:
                form = f.moved(form, into)
            if i in forms:
                form, more = f.merged(forms[i], form, _merging(walk, i), chunk.at(i))
                value, spread = value + more, spread + abs(more)
            forms[i] = form
    return Passed(best, forms.get(0), value, spread)


def bound_of(walk: Walk, passed: Passed, rows: Rows, reaches: list[Any]) -> Any:
    """The least bound, the input's own box included, `(rows,)`."""
    forms = {} if passed.form is None else {0: passed.form}
    return jnp.minimum(passed.best, _stopped(walk, forms, passed.value, passed.spread, rows, reaches))


def rounded_up(value: Any, spread: Any) -> Any:
    """At least what a sum of values amounts to, `spread` the sum of their absolute values."""
    return up(value + spread * _STEPS) + _FLUSHED


def _started(walk: Walk, start: Start, rows: Rows) -> dict[int, f.Form]:
    forms = {}
    for k, element, sign in zip(start.nodes, rows.element, (rows.sign, -rows.sign), strict=False):
        shape = walk.both.net.shapes[k]
        shape = (*shape[-1:], *rows.chunk.spatial(k, shape[:-1]))
        hot = f.one_hot(math.prod(shape), element, sign).reshape(*shape, len(sign))
        forms[k] = f.Form(hot, None) if start.difference else f.Form(None, hot)
    return forms


def _stopped(walk: Walk, forms: dict[int, f.Form], value: Any, spread: Any, rows: Rows, reaches: list[Any]) -> Any:
    """What the forms amount to, at most, over the enclosures of the nodes they have reached."""
    for i, form in forms.items():
        if reaches[i] is None:
            reaches[i] = known_of(walk, i)
        more = reached(form, reaches[i], rows.chunk.at(i))
        value, spread = value + more, spread + abs(more)
    # Nothing is learnt from what overflowed.
    return finite(rounded_up(value, spread))


def finite(bounds: Any) -> Any:
    """The bounds, infinite where they are no numbers."""
    return jnp.where(jnp.isfinite(bounds), bounds, jnp.inf)


def _merging(walk: Walk, i: int) -> f.Pairs:
    # Later enclosures are no wider.
    if i not in walk.merging:
        size = magnitudes(*walk.pairs[i])
        walk.merging[i] = f.Pairs(*(on_device(m * (4 * UNIT_ROUNDOFF)) for m in (size.d, size.x)))
    return walk.merging[i]
