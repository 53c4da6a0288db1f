"""How large the difference is seen to be: a lower bound beside the certificate, found by projected gradient.

Where a relu or a pool switches for one network and not yet for the other, `g - f` bends, and its gradient does not see
it coming: with errors `E` of the weights `W` it is the difference of two nearly equal slopes, blind to all switches but
those in a distance of `E`. The difference of a network with larger errors, `f_{W + a E} - f_W`, feels them from `a`
times as far away, but has its maximum elsewhere. So every start is climbed twice: along `g - f`, and along
`f_{W + a E} - f_W` while `a` falls from where the errors are a quarter of the weights to 1, where both are the same. On
both ways `g - f` itself decides what is the best.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.activations import FEW_INPUTS, activations
from slth_compile.domain import Balls, Domain, Points
from slth_compile.graph.evaluate import ArrayLike, LayerWeights, evaluate
from slth_compile.graph.graph import Graph

MAX_OUTPUTS = 64
"""Most output elements attacked one by one; of more, those with the largest difference at the starts."""

_ROWS = 1024

# Of the weights: at as much as the weights the switches are those of another network, at a thirtieth few are felt.
_LARGEST_ERRORS = 0.25

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
        climbs: Climbs from every start, of every output and sign; 0 for named points.
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
    climbs: int
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
) -> Attack:
    """The largest difference of two networks of one graph that sign gradient steps find in a domain.

    Every output element is maximised and minimised from every start, in every ball or in those `samples` whose centres
    show most, by

        x <- clip(x + r_k (upper - lower) sign(gradient of f_{W + a_k E}(x) - f_W(x))),   E = W_g - W,

    `r_k` falling linearly from 1/4 to 0: once with `a_k = 1`, which climbs `g - f`, and once with `a_k` falling
    geometrically from `.25 |W| / |E|` (Frobenius norms of all kernels together) to 1. What counts is the largest
    `|g - f|` on the way.

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
    """
    clips = tuple({i: w.clip for i, w in weights.items()} for weights in (target_weights, ticket_weights))
    lower, upper = domain.regions()
    if isinstance(domain, Points) and len(lower) <= FEW_INPUTS:
        eager = functools.partial(_difference_in_numpy, graph)
        pair = (target_weights, ticket_weights)
        return _best(graph, eager, pair, lower, (0, 0, 0), inputs=len(lower), attacked=None)
    with jax.enable_x64(True):
        weights = tuple(
            {i: w._replace(clip=None) for i, w in weights.items()} for weights in (target_weights, ticket_weights)
        )
        weights = jax.device_put(jax.tree.map(lambda a: np.asarray(a, np.float64), weights))
        difference = jax.jit(functools.partial(_difference, graph, clips))
        if isinstance(domain, Points):
            return _best(graph, difference, weights, lower, (0, 0, 0), inputs=len(lower), attacked=None)
        starts = np.empty((0, *lower.shape[1:]))
        if isinstance(domain, Balls):
            # The centres of all balls, and the balls in which they show most.
            starts = np.clip(lower + 0.5 * (upper - lower), lower, upper)
            seen = [np.abs(np.asarray(difference(weights, rows))).max(axis=1) for rows in _chunks(starts)]
            chosen = np.sort(np.argsort(-np.nan_to_num(np.concatenate(seen)), kind="stable")[:samples])
            lower, upper = lower[chosen], upper[chosen]
        ends = [starts]
        share = np.random.default_rng(seed).uniform(size=(restarts, *lower.shape))
        share[0] = 0.5
        starts = np.clip(lower + share * (upper - lower), lower, upper).reshape(-1, *lower.shape[1:])
        lows, highs = (np.tile(v, (restarts, *(1,) * (v.ndim - 1))) for v in (lower, upper))
        seen = np.abs(np.concatenate([np.asarray(difference(weights, rows)) for rows in _chunks(starts)]))
        picks = np.sort(np.argsort(seen.max(axis=0))[::-1][:MAX_OUTPUTS])
        climb = jax.jit(functools.partial(_climb, graph, clips))
        climbs = [np.geomspace(a, 1.0, steps + 1) for a in (1.0, _amplification(target_weights, ticket_weights))]
        chunks = list(zip(*map(_chunks, (starts, lows, highs)), strict=True))
        ends.append(starts)
        for pick in picks:
            for sign, amplifications in itertools.product((1.0, -1.0), climbs):
                ends += [np.asarray(climb(weights, amplifications, *rows, pick, sign)) for rows in chunks]
        inputs = len(ends[0]) + len(starts) * (1 + 2 * len(climbs) * len(picks) * (steps + 1))
        effort = (steps, restarts, len(climbs))
        return _best(graph, difference, weights, np.concatenate(ends), effort, inputs=inputs, attacked=len(picks))


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]


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
    return np.concatenate([(ticket[i] - target[i]).reshape(len(x), -1) for i in graph.outputs], axis=1)


def _amplification(target: Weights, ticket: Weights) -> float:
    """Where `a` begins: `_LARGEST_ERRORS |W| / |E|`, at least 1; 1 where no kernel has an error."""
    kernels = [np.asarray(w.positive, np.float64) for w in target.values()]
    errors = [np.asarray(ticket[i].positive, np.float64) - kernel for i, kernel in zip(target, kernels, strict=True)]
    size, error = (math.sqrt(sum(float(np.vdot(a, a)) for a in arrays)) for arrays in (kernels, errors))
    return max(1.0, _LARGEST_ERRORS * size / error) if error else 1.0


def _amplified(target: LayerWeights, ticket: LayerWeights, a: jax.Array) -> LayerWeights:
    """`W + a E` as `W_g + (a - 1) E`, which is `W_g` itself at 1."""

    def larger(v: ArrayLike | None, w: ArrayLike | None) -> ArrayLike | None:
        return None if v is None else v + (a - 1) * (v if w is None else v - w)

    own = larger(ticket.positive, target.positive)
    assert own is not None
    below = larger(ticket.negative, target.positive if target.negative is None else target.negative)
    return LayerWeights(own, below, larger(ticket.bias, target.bias), ticket.clip)


def _climb(
    graph: Graph,
    clips: Clips,
    weights: tuple[Weights, ...],
    amplifications: jax.Array,
    start: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    pick: jax.Array,
    sign: jax.Array,
) -> jax.Array:
    """The best input met on the way from every start, a step for every `a`."""
    target, ticket = weights

    def objective(x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        larger = {i: _amplified(target[i], w, a) for i, w in ticket.items()}
        climbed, values = (sign * _difference(graph, clips, (target, w), x)[:, pick] for w in (larger, ticket))
        return climbed.sum(), values

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]):
        x, best, at_best = carry
        size, a = now
        (_, values), gradient = jax.value_and_grad(objective, has_aux=True)(x, a)
        better = values > best
        at_best = jnp.where(better.reshape(-1, *(1,) * (x.ndim - 1)), x, at_best)
        moved = jnp.clip(x + size * (upper - lower) * jnp.sign(gradient), lower, upper)
        return (moved, jnp.maximum(values, best), at_best), None

    sizes = jnp.linspace(0.25, 0.0, len(amplifications))
    first = (start, jnp.full(start.shape[:1], -jnp.inf), start)
    return lax.scan(step, first, (sizes, amplifications))[0][2]


def _best(
    graph: Graph,
    difference: Callable[..., jax.Array | np.ndarray],
    weights: tuple[Weights, ...],
    x: np.ndarray,
    effort: tuple[int, int, int],
    *,
    inputs: int,
    attacked: int | None,
) -> Attack:
    """The row of `x`, and the output element, with the largest difference; `effort` is steps, restarts, climbs."""
    best, where, at = -1.0, 0, x[0]
    elements: list[np.ndarray] = []
    for rows in _chunks(x):
        seen = np.nan_to_num(np.abs(np.asarray(difference(weights, rows))), nan=0.0)
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
    steps, restarts, climbs = effort
    return Attack(
        value=best,
        x=np.array(at),
        output=(leaf, *map(int, index)),
        steps=steps,
        restarts=restarts,
        climbs=climbs,
        inputs=inputs,
        attacked=count if attacked is None else attacked,
        outputs=count,
        per_output=tuple(part.reshape(shape) for part, shape in zip(leaves, shapes, strict=True)),
    )
