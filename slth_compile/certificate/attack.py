"""How large the difference is seen to be: a lower bound beside the certificate, found by projected gradient.

What is climbed is not `g - f` itself. With `f_{W + t E}` the networks between both, `g - f` is about `d/dt f` halfway.
That depends on which units are on, and its gradient does not see them switch. So the units switch gradually
(`gradual`), at a temperature that falls while the steps get shorter, from where every relu counts half wherever it is.
On the way `g - f` itself decides what is the best.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.activations import FEW_INPUTS, activations
from slth_compile.certificate.gradual import gradual
from slth_compile.domain import Balls, Domain, Points
from slth_compile.graph.evaluate import ArrayLike, LayerWeights, evaluate
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

MAX_OUTPUTS = 64
"""Most output elements attacked one by one; of more, those with the largest difference at the starts."""

_ROWS = 1024

# Where hardly any unit is decided, and where nearly all are, by how far they move within a region.
_TEMPERATURES = (30.0, 0.1)

Weights = Mapping[int, LayerWeights]
Clips = tuple[Mapping[int, bool], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """The largest `|g - f|` seen: a lower bound of the true maximum up to the rounding of float64 evaluation.

    Attributes:
        value: That difference.
        x: The input it was seen at, float64, of the input's shape.
        output: Where: the output leaf, then the index of the element.
        steps: Gradient steps from every start; 0 for named points.
        restarts: Starts in every region; 0 for named points.
        inputs: How many inputs were evaluated on the way.
        attacked: How many output elements were maximised one by one.
        outputs: How many there are; attacks leave out the smallest beyond `MAX_OUTPUTS`.
        per_output: The largest difference seen of every output element, one float64 array a leaf.
    """

    value: float
    x: np.ndarray
    output: tuple[int, ...]
    steps: int
    restarts: int
    inputs: int
    attacked: int
    outputs: int
    per_output: tuple[np.ndarray, ...]


def attack(
    graph: Graph,
    target_weights: Weights,
    ticket_weights: Weights,
    domain: Domain,
    *,
    steps: int = 50,
    restarts: int = 4,
    seed: int = 0,
    samples: int = 8,
    progress: Progress = silent,
) -> Attack:
    """The largest difference of two networks of one graph that sign gradient steps find in a domain.

    Every output element is maximised and minimised from every start, in every ball or in those `samples` whose centres
    show most, by

        x <- clip(x + r_k (upper - lower) sign(gradient of d/dt f_{W + t E}(x) at t = 1/2)),   E = W_g - W,

    `r_k` falling linearly from 1/4 to 0, and the temperature of `gradual.gradual` geometrically from 30 to .1. What
    counts is the largest `|g - f|` on the way.

    Named points are all evaluated instead.

    Args:
        graph: The network's graph, folded.
        target_weights: Weights of `f`, by node position.
        ticket_weights: Weights of `g`, by node position.
        domain: Where to look.
        steps: Gradient steps from every start.
        restarts: Starts in every region; the first is its centre.
        seed: Of the other starts.
        samples: Most balls to attack; the centres of all are evaluated.
        progress: Called with `("attack", climbs done, climbs)`; not for points.
    """
    clips = tuple({i: w.clip for i, w in weights.items()} for weights in (target_weights, ticket_weights))
    lower, upper = domain.regions()
    if isinstance(domain, Points) and len(lower) <= FEW_INPUTS:
        eager = functools.partial(_difference_in_numpy, graph)
        pair = (target_weights, ticket_weights)
        return _best(graph, eager, pair, lower, (0, 0), inputs=len(lower), attacked=None)
    with jax.enable_x64(True):
        weights = tuple(
            {i: w._replace(clip=None) for i, w in weights.items()} for weights in (target_weights, ticket_weights)
        )
        weights = jax.device_put(jax.tree.map(lambda a: np.asarray(a, np.float64), weights))
        difference = jax.jit(functools.partial(_difference, graph, clips))
        if isinstance(domain, Points):
            return _best(graph, difference, weights, lower, (0, 0), inputs=len(lower), attacked=None)
        starts = np.empty((0, *lower.shape[1:]))
        if isinstance(domain, Balls):
            # The centres of all balls, and the balls in which they show most.
            starts = np.clip(0.5 * lower + 0.5 * upper, lower, upper)
            seen = [np.abs(np.asarray(difference(weights, rows))).max(axis=1) for rows in _chunks(starts)]
            chosen = np.sort(np.argsort(-np.nan_to_num(np.concatenate(seen)), kind="stable")[:samples])
            lower, upper = lower[chosen], upper[chosen]
        ends = [starts]
        share = np.random.default_rng(seed).uniform(size=(restarts, *lower.shape))
        share[0] = 0.5
        starts = np.clip((1 - share) * lower + share * upper, lower, upper)
        rows = starts.reshape(-1, *lower.shape[1:])
        ends.append(rows)
        seen = np.abs(np.concatenate([np.asarray(difference(weights, some)) for some in _chunks(rows)]))
        picks = np.sort(np.argsort(seen.max(axis=0))[::-1][:MAX_OUTPUTS])
        climb = jax.jit(functools.partial(_climb, graph, clips))
        temperatures = np.geomspace(*_TEMPERATURES, steps + 1)
        directions = list(itertools.product(picks, (1.0, -1.0)))
        for done, (pick, sign) in enumerate(directions):
            progress("attack", done, len(directions))
            ends += [
                np.asarray(climb(weights, temperatures, *some, pick, sign)) for some in _groups(starts, lower, upper)
            ]
        progress("attack", len(directions), len(directions))
        inputs = len(ends[0]) + len(rows) * (1 + 2 * len(picks) * (steps + 1))
        effort = (steps, restarts)
        return _best(graph, difference, weights, np.concatenate(ends), effort, inputs=inputs, attacked=len(picks))


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]


def _groups(starts: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Starts of some regions, `(starts, regions, *input_shape)`, and the regions' ends: `_ROWS` starts at a time."""
    step = max(1, _ROWS // len(starts))
    for first, region in itertools.product(range(0, len(starts), _ROWS), range(0, len(lower), step)):
        regions = slice(region, region + step)
        yield starts[first : first + _ROWS, regions], lower[regions], upper[regions]


def _difference(graph: Graph, clips: Clips, weights: tuple[Weights, ...], x: jax.Array) -> jax.Array:
    """`g - f`, all leaves, as `(batch, elements)`; `clips` holds the one field of weights that is no array."""
    target, ticket = (
        evaluate(graph, x, {i: w._replace(clip=clip[i]) for i, w in arrays.items()})
        for clip, arrays in zip(clips, weights, strict=True)
    )
    return jnp.concatenate([(g - f).reshape(len(x), -1) for f, g in zip(target, ticket, strict=True)], axis=1)


def _difference_in_numpy(graph: Graph, weights: tuple[Weights, ...], x: np.ndarray) -> np.ndarray:
    """The same without compiling anything."""
    target, ticket = (activations(graph, x, w) for w in weights)
    with np.errstate(invalid="ignore"):
        return np.concatenate([(ticket[i] - target[i]).reshape(len(x), -1) for i in graph.outputs], axis=1)


def _between(target: LayerWeights, ticket: LayerWeights) -> tuple[LayerWeights, LayerWeights]:
    """A layer halfway between both networks, and what the ticket's has more than the target's."""

    def pair(v: ArrayLike | None, w: ArrayLike | None) -> tuple[Any, Any]:
        return (None, None) if v is None else (0.5 * v, v) if w is None else (0.5 * (v + w), v - w)

    below = target.positive if target.negative is None else target.negative
    parts = pair(ticket.positive, target.positive), pair(ticket.negative, below), pair(ticket.bias, target.bias)
    halfway, more = (ticket._make((*arrays, None)) for arrays in zip(*parts, strict=True))
    return halfway, more


def _climb(
    graph: Graph,
    clips: Clips,
    weights: tuple[Weights, ...],
    temperatures: jax.Array,
    starts: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    pick: jax.Array,
    sign: jax.Array,
) -> jax.Array:
    """The best input met on the way from every start, a step for every temperature, `(starts * regions, ...)`."""
    target, ticket = weights
    start = starts.reshape(-1, *lower.shape[1:])
    lower, upper = (jnp.broadcast_to(end, starts.shape).reshape(start.shape) for end in (lower, upper))
    layers = {i: _between(target[i], w) for i, w in ticket.items()}
    halfway, more = ({i: pair[side] for i, pair in layers.items()} for side in (0, 1))

    def objective(x: jax.Array, temperature: jax.Array) -> jax.Array:
        functions = gradual(graph, temperature, len(starts))

        def outputs(w: Weights) -> jax.Array:
            clipped = {i: layer._replace(clip=clips[1][i]) for i, layer in w.items()}
            leaves = evaluate(graph, x, clipped, functions=functions)
            return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)[:, pick]

        return sign * jax.jvp(outputs, (halfway,), (more,))[1].sum()

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]):
        x, best, at_best = carry
        size, temperature = now
        values = sign * _difference(graph, clips, weights, x)[:, pick]
        better = values > best
        at_best = jnp.where(better.reshape(-1, *(1,) * (x.ndim - 1)), x, at_best)
        uphill = jnp.sign(jnp.nan_to_num(jax.grad(objective)(x, temperature)))
        moved = jnp.clip(x + (size * upper - size * lower) * uphill, lower, upper)
        return (moved, jnp.maximum(values, best), at_best), None

    sizes = jnp.linspace(0.25, 0.0, len(temperatures))
    first = (start, jnp.full(start.shape[:1], -jnp.inf), start)
    return lax.scan(step, first, (sizes, temperatures))[0][2]


def _best(
    graph: Graph,
    difference: Callable[..., jax.Array | np.ndarray],
    weights: tuple[Weights, ...],
    x: np.ndarray,
    effort: tuple[int, int],
    *,
    inputs: int,
    attacked: int | None,
) -> Attack:
    """The row of `x`, and the output element, with the largest difference; `effort` is steps, restarts."""
    best, where, at = -1.0, 0, x[0]
    elements: list[np.ndarray] = []
    for rows in _chunks(x):
        # Where outputs overflow no difference is seen.
        seen = np.nan_to_num(np.abs(np.asarray(difference(weights, rows))), nan=0.0, posinf=0.0)
        elements.append(seen.max(axis=0))
        row, element = np.unravel_index(np.argmax(seen), seen.shape)
        if seen[row, element] > best:
            best, where, at = float(seen[row, element]), int(element), rows[row]
    shapes = [graph.shapes[i] for i in graph.outputs]
    sizes = [math.prod(shape) for shape in shapes]
    leaves = np.split(np.max(elements, axis=0), np.cumsum(sizes)[:-1])
    leaf = int(np.searchsorted(np.cumsum(sizes), where, side="right"))
    index = np.unravel_index(where - sum(sizes[:leaf]), shapes[leaf])
    count = sum(sizes)
    steps, restarts = effort
    return Attack(
        value=best,
        x=np.array(at),
        output=(leaf, *map(int, index)),
        steps=steps,
        restarts=restarts,
        inputs=inputs,
        attacked=count if attacked is None else attacked,
        outputs=count,
        per_output=tuple(part.reshape(shape) for part, shape in zip(leaves, shapes, strict=True)),
    )
