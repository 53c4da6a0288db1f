"""Draft -> Draft of target nodes: patterns recognised, everything nothing needs left behind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.frontends import activations, normalisation, patterns
from slth_compile.frontends.channels import add_affine
from slth_compile.frontends.draft import (
    Activation,
    Draft,
    Elementwise,
    Entry,
    Pairwise,
    Select,
    Sum,
    Unknown,
    WindowSum,
)
from slth_compile.frontends.resampling import repeated
from slth_compile.graph import nodes as n

_MATCHERS = (
    activations.leaky_relu,
    activations.hard_swish,
    activations.hard_sigmoid,
    activations.silu,
    activations.gelu,
    patterns.mean,
    patterns.average_pool,
    patterns.softmax,
    patterns.log_softmax,
    normalisation.batch_norm,
    normalisation.bias,
    normalisation.scale_and_shift,
)
_PAIRWISE = {
    "mul": "a product of two activations",
    "div": "a quotient of two activations",
    "max": "a maximum of two activations",
    "min": "a minimum of two activations",
}


def rewrite(draft: Draft, outputs: Sequence[int]) -> tuple[list[Entry], list[int]]:
    """The entries of the target, in topological order, and the outputs' places among them.

    What no target node stands for is still there, as `Unknown`.
    """
    live = reachable(draft.entries, outputs)
    consumers = [0] * len(draft.entries)
    for read in (*outputs, *(j for i in live for j in draft.entries[i].node.inputs)):
        consumers[read] += 1
    view = patterns.View(draft.entries, consumers)
    target = Draft(draft.batch)
    place: dict[int, int] = {}
    for i in live:
        target.site = draft.entries[i].site
        match = next((found for matcher in _MATCHERS if (found := matcher(view, i)) is not None), None)
        place[i] = _add(target, draft.entries[i], match, place)
    return compact(target.entries, [place[i] for i in outputs])


def reachable(entries: Sequence[Entry], outputs: Sequence[int]) -> list[int]:
    """Positions the outputs depend on, ascending; the input is always among them."""
    found, waiting = {0}, list(outputs)
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += entries[i].node.inputs
    return sorted(found)


def compact(entries: Sequence[Entry], outputs: Sequence[int]) -> tuple[list[Entry], list[int]]:
    """The entries the outputs depend on, renumbered."""
    live = reachable(entries, outputs)
    place = {old: new for new, old in enumerate(live)}
    kept = [
        dataclasses.replace(
            entries[old],
            node=dataclasses.replace(entries[old].node, inputs=tuple(place[j] for j in entries[old].node.inputs)),
        )
        for old in live
    ]
    return kept, [place[i] for i in outputs]


def _add(target: Draft, entry: Entry, match: patterns.Match | None, place: dict[int, int]) -> int:
    node, leaves = (entry.node, entry.leaves) if match is None else (match.node, match.leaves)
    inputs = tuple(place[j] for j in node.inputs)
    match node:
        case Elementwise() if node.operation in ("ge", "gt", "le", "lt"):
            node = Unknown(inputs=inputs, operation=node.operation, reason="a comparison of activations")
        case Elementwise():
            return add_affine(target, node, inputs[0])
        case Sum():
            count = math.prod(target.entries[inputs[0]].shape[axis] for axis in node.axes)
            return _scaled(target, n.Mean(inputs=inputs, axes=node.axes), count)
        case WindowSum():
            pool = n.AveragePool(inputs=inputs, window=node.window, stride=node.stride, padding=node.padding)
            return _scaled(target, pool, math.prod(node.window))
        case Pairwise() if node.operation == "mul":
            return _product(target, inputs, node.axes)
        case Pairwise() if node.operation in ("add", "sub"):
            return _broadcast_sum(target, inputs, node.axes, node.operation == "sub")
        case Pairwise():
            reason = _PAIRWISE.get(node.operation, "an operation on two activations")
            node = Unknown(inputs=inputs, operation=node.operation, reason=reason)
        case Unknown() if node.operation == "abs" and not node.reason:
            return target.add(n.Prelu(inputs=inputs, slopes=np.asarray(-1, np.float32)))
        case Select():
            node = Unknown(inputs=inputs, operation="select_n", reason="a choice that depends on the input")
    shape = entry.shape if isinstance(node, Unknown | n.Input) else None
    return target.add(dataclasses.replace(node, inputs=inputs), shape, leaves)


def _product(target: Draft, inputs: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """A product of two entries; the axes of the second are axes `axes` of the first, the others get size one."""
    return target.add(n.Multiply(inputs=(inputs[0], _of_one_rank(target, inputs, axes))))


def _broadcast_sum(target: Draft, inputs: tuple[int, ...], axes: tuple[int, ...], minus: bool) -> int:
    """`a + b` or `a - b`, the second repeated along the axes that it lacks."""
    second = _of_one_rank(target, inputs, axes)
    if minus:
        second = target.add(n.Affine(inputs=(second,), scale=np.asarray(-1, np.float32)))
    shape = target.entries[inputs[0]].shape
    whole = Activation(second, tuple(range(len(shape))))
    return target.add(n.Add(inputs=(inputs[0], repeated(target, whole, shape).entry)))


def _of_one_rank(target: Draft, inputs: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """The second entry with its axes in the order of the first one's, axes of size one where it has none."""
    first, second = inputs
    sizes = dict(zip(axes, target.entries[second].shape, strict=True))
    second = target.add(n.Transpose(inputs=(second,), permutation=tuple(int(i) for i in np.argsort(axes))))
    shape = tuple(sizes.get(axis, 1) for axis in range(len(target.entries[first].shape)))
    return target.add(n.Reshape(inputs=(second,), shape=shape))


def _scaled(target: Draft, node: n.Node, count: int) -> int:
    added = target.add(node)
    return added if count == 1 else target.add(n.Affine(inputs=(added,), scale=np.asarray(count, np.float32)))
