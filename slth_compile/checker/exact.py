"""How far the ticket's outputs are from the target's at points, by evaluating both networks at each of them.

Numbers are in fixed point of as many limbs as the claimed bound asks for, see `fixed_point`. Enclosures of whole
regions grow with the product of the layers' row sums, 2^68 in a network of twenty layers; here only the last digit's
unit does, and there can be more digits. Behind an operation that is not known in fixed point, `bounds` goes on.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from slth_compile.checker import exact_layers, exact_operations
from slth_compile.checker.bounds import Found, last_reads
from slth_compile.checker.domain import Domain
from slth_compile.checker.fixed_point import BITS, Number, add, enclosed, from_floats
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.operations import State, unweighted
from slth_compile.checker.weighted import weighted

MAX_LIMBS = 24
"""Most limbs behind the point."""

MAX_STORED = 1 << 28
"""Most limbs of one sample that are needed at one time, of both networks."""

_FIRST = 4  # limbs behind the point, to find out how many it takes
_SHARE = 2.0**-24  # of a claimed bound: how wide an enclosure of the difference may be
_SPREAD = 2.0**-20  # claims of elements below this share of the largest are not made out more closely
_BATCH = 1 << 21  # patches of one limb, or limbs of a node, at a time
_LARGE = 1 << 24  # limbs of a node that leave room for one batch at a time
_KEPT_WEIGHTS = 1 << 23  # more than these are cut into limbs again for every batch


class Both(NamedTuple):
    """A node's value in the target and in the ticket; one object twice where they agree."""

    x: Number
    z: Number


class _Layers(NamedTuple):
    """The layers by position: enclosed, and in limbs."""

    pairs: Mapping[int, PairLayer]
    weights: Callable[[int], tuple[exact_layers.TargetWeights, exact_layers.TicketWeights]]


def exact_bounds(
    folded: Folded, layers: Mapping[int, PairLayer], domain: Domain, claimed: Sequence[np.ndarray]
) -> list[Found]:
    """For each output leaf and element, how large `|f(x) - g(x)|` gets at the points.

    It takes as many limbs as it needs to be within 2^-24 of what is claimed, and more where that leaves a claim open,
    up to `MAX_LIMBS`.

    Args:
        folded: The folded target.
        layers: Its layers in both networks, by position in the folded graph, with their effective weights.
        domain: The points.
        claimed: What the elements of each output leaf are said not to exceed, flat arrays.

    Returns:
        float64 arrays of each output leaf's shape.

    Raises:
        VerificationError: A sample needs more memory than the checker allows, or a number is out of range.
    """
    shapes = [folded.graph.nodes[i].shape for i in folded.graph.outputs]
    claims = [leaf.reshape(shape) for leaf, shape in zip(claimed, shapes, strict=True)]
    limbs = _enough(lambda limbs: differences(folded, layers, domain, 1, limbs), claims)
    before = math.inf
    while True:
        found = differences(folded, layers, domain, domain.samples, limbs)
        false, open_width = False, 0.0
        for leaf, claim in zip(found, claims, strict=True):
            false |= bool((leaf.lower > claim).any())
            undecided = (leaf.upper > claim) & (leaf.lower <= claim)
            open_width = max(open_width, float((leaf.upper - leaf.lower)[undecided].max(initial=0.0)))
        if false or not 0 < open_width < before / 2 or limbs == MAX_LIMBS:
            return found
        before, limbs = open_width, limbs + 1


def differences(
    folded: Folded, layers: Mapping[int, PairLayer], domain: Domain, samples: int, limbs: int
) -> list[Found]:
    """What `|f(x) - g(x)|` amounts to at the first points.

    Args:
        folded: The folded target.
        layers: Its layers in both networks.
        domain: The points.
        samples: How many of them.
        limbs: How many limbs behind the point.

    Returns:
        The largest of each element over these points, enclosed; one an output leaf.

    Raises:
        VerificationError: As in `exact_bounds`.
    """
    graph = folded.graph
    last = last_reads(graph, MAX_STORED // (2 * (limbs + 2)))
    largest = max(math.prod(node.shape) for node in graph.nodes)
    step = max(1, _BATCH // (limbs * largest))
    found = [Found(*np.zeros((2, *graph.nodes[i].shape))) for i in graph.outputs]
    walked = _layers(folded, layers, -limbs)

    def batch(start: int) -> list[Found]:
        with np.errstate(all="ignore"):
            x, _ = domain.regions(start, min(samples, start + step))
            return _walk(graph, walked, x, last, -limbs)

    workers = min(4, os.cpu_count() or 1) if limbs * largest <= _LARGE else 1
    with ThreadPoolExecutor(workers) as pool:
        for some in pool.map(batch, range(0, samples, step)):
            for leaf, more in zip(found, some, strict=True):
                for end, value in zip(leaf, more, strict=True):
                    np.maximum(end, value, out=end)
    return found


def _layers(folded: Folded, pairs: Mapping[int, PairLayer], tail: int) -> _Layers:
    own = {layer.node: layer for layer in folded.layers}

    def weights(position: int) -> tuple[exact_layers.TargetWeights, exact_layers.TicketWeights]:
        return exact_layers.target_weights(own[position], tail), exact_layers.ticket_weights(pairs[position], tail)

    few = sum(layer.kernel.size for layer in folded.layers) <= _KEPT_WEIGHTS
    return _Layers(pairs, functools.cache(weights) if few else weights)


def _enough(probe: Callable[[int], list[Found]], claims: Sequence[np.ndarray]) -> int:
    """Limbs that bring the enclosures of one sample within `_SHARE` of the claims, or after which more do not help."""
    largest = max(float(leaf.max()) for leaf in claims)
    goals = [np.maximum(leaf, _SPREAD * largest) * _SHARE for leaf in claims]
    limbs, best, before, stalled = _FIRST, _FIRST, math.inf, 0
    while True:
        found = probe(limbs)
        missing = max(_missing(leaf, goal) for leaf, goal in zip(found, goals, strict=True))
        if missing <= 0:
            return max(1, limbs + math.ceil(max(missing, -MAX_LIMBS)))
        stalled = 0 if missing < before - 1 / BITS else stalled + 1
        best, before = (best, before) if stalled else (limbs, missing)
        # Enclosures that know nothing yet, such as of a softmax, may be of one width until they know something.
        if limbs == MAX_LIMBS or (stalled and any(leaf.lower.any() for leaf in found)):
            return best
        limbs = min(MAX_LIMBS, limbs + max(math.ceil(min(missing, _FIRST)), 2**stalled))


def _missing(leaf: Found, goal: np.ndarray) -> float:
    """How many limbs more it takes to reach a width, where each makes it `2^20` times smaller."""
    width = leaf.upper - leaf.lower
    wide = width > 0
    with np.errstate(all="ignore"):
        return float((np.log2(width[wide]) - np.log2(goal[wide])).max(initial=-np.inf)) / BITS


def _walk(graph: Graph, layers: _Layers, x: np.ndarray, last: list[int], tail: int) -> list[Found]:
    """The outputs' differences, largest over some samples."""
    entry = from_floats(x, tail)
    values: dict[int, Both | State] = {}
    for position, node in enumerate(graph.nodes):
        operands = [values[i] for i in node.inputs]
        if position == 0:
            value = Both(entry, entry)
        elif position in layers.pairs:
            value = _weighted(layers, position, operands[0], tail)
        else:
            value = _unweighted(node, operands, tail)
        if isinstance(value, State) and not _is_finite(value):
            return [_unknown(graph.nodes[i].shape) for i in graph.outputs]
        values[position] = value
        for i in {position, *node.inputs}:
            if last[i] <= position:
                del values[i]
    return [_largest(values[i], graph.nodes[i].shape) for i in graph.outputs]


def _weighted(layers: _Layers, position: int, operand: Both | State, tail: int) -> Both | State:
    if isinstance(operand, State):
        return weighted(layers.pairs[position], *operand)
    target, ticket = layers.weights(position)
    return Both(exact_layers.target_image(target, operand.x, tail), exact_layers.ticket_image(ticket, operand.z, tail))


def _unweighted(node: Node, operands: Sequence[Both | State], tail: int) -> Both | State:
    exact = [value for value in operands if isinstance(value, Both)]
    if len(exact) < len(operands) or node.op not in exact_operations.OPERATIONS:
        return unweighted(node, [_state(value) for value in operands])
    x = exact_operations.image(node, [value.x for value in exact], tail)
    if all(value.x is value.z for value in exact):
        return Both(x, x)
    return Both(x, exact_operations.image(node, [value.z for value in exact], tail))


def _state(value: Both | State) -> State:
    """Enclosures of x and of d."""
    if isinstance(value, State):
        return value
    return State(enclosed(value.x), None if value.x is value.z else enclosed(_change(value)))


def _change(value: Both) -> Number:
    return add(value.z, value.x, min(value.x.low, value.z.low), -1)


def _is_finite(state: State) -> bool:
    return all(np.isfinite(end).all() for interval in state if interval is not None for end in interval)


def _largest(value: Both | State, shape: tuple[int, ...]) -> Found:
    d = enclosed(_change(value)) if isinstance(value, Both) else value.d
    if d is None or (isinstance(value, Both) and value.x is value.z):
        return Found(np.zeros(shape), np.zeros(shape))
    upper = np.maximum(-d.lower, d.upper).max(axis=0)
    if not np.isfinite(upper).all():
        return _unknown(shape)
    return Found(np.maximum(np.maximum(d.lower, -d.upper), 0.0).max(axis=0), upper)


def _unknown(shape: tuple[int, ...]) -> Found:
    return Found(np.zeros(shape), np.full(shape, np.inf))
