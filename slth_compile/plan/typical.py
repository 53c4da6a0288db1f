"""Tolerances for points from what errors typically do: for networks so deep that all errors cannot be promised for.

A promise for *all* errors within the tolerances must fear that every weight is off by its tolerance, in the worst
direction, and that every unit near its kink crosses it: in a network of 20 layers it asks for tolerances below 1e-16.
Errors of a ticket come from independent problems and mostly cancel. With independent errors, uniform within the
tolerances,

    variance of an output ~ sum_l (s_l eta_l)^2,   s_l = what layer l alone does, measured by drawing its errors

and the widest tolerances with `sum_l (s_l eta_l)^2 = goal^2` are (Lagrange, a weight met to eta costs log2(1/eta)
candidates) `eta_l = goal / s_l * sqrt(k_l / k)`. A share of it all is equal among layers, as in `plan.budget`.

Closest subsets are mostly far closer than a tolerance that hardly any of a million problems may miss: the distance to
the closest of many sums scattered at random is exponential, `P(|E| > t) = exp(-t / m)`, so where a tolerance `tau` is
missed with probability p the root of the mean square is `sqrt(2) tau / log(1/p)`, beside `tau / sqrt(3)` of uniform
errors, which other objectives come near to: `tau` may be larger than `eta` by the ratio of the two.

Nothing is promised by this: what is certified about the ticket that was drawn decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from slth_compile.errors import UnreachableError
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.graph import Graph, Structure

SAFETY = 2.0
"""How far the largest difference seen is kept below eps."""

FEW_DRAWS, MANY_DRAWS, FEW_POINTS, MANY_POINTS = 2, 8, 4, 64
"""Some errors and points tell layers apart, more of them how far all layers together may go: draws differ widely."""

EQUAL_SHARE = 0.25
ZERO_SHARE = 2.0**-20
"""Of eps, for weights that are all zero."""

# A difference this large, of the largest output, is far above float32's rounding and about proportional to errors.
_SEEN, _ROUNDS, _STEP = (2.0**-12, 2.0**-4), 8, 16.0

Tolerances = dict[int, tuple[float, float]]


def widening(failure: float) -> float:
    """How many times as wide a tolerance may be as that of uniform errors of the same mean square.

    Args:
        failure: Probability that the closest subset misses the tolerance.
    """
    return max(1.0, math.log(1 / failure) / math.sqrt(6))


def typical_tolerances(graph: Graph, eps: float, x: np.ndarray, wider: float = 1.0) -> Tolerances:
    """Tolerances within which errors, drawn as they usually are, move no output by more than `eps / 2`.

    Args:
        graph: The folded target.
        eps: Allowed difference of any output.
        x: Points, `(samples, *input_shape)`.
        wider: How many times as wide as uniform errors a tolerance may be, as `widening` says.

    Returns:
        `(kernel, bias)` by node position; the bias entry is 0.0 where there is none.

    Raises:
        UnreachableError: Outputs that are not finite.
    """
    parts = [(i, which) for i in graph.layers for which in (0, 1) if _largest(graph, i, which)]
    total = sum(_weights(graph, i)[which].size for i, which in parts)
    few = _moved(graph, _spread(x, FEW_POINTS), FEW_DRAWS)
    many = _moved(graph, _spread(x, MANY_POINTS), MANY_DRAWS)
    shaped = {}
    for i, which in parts:
        largest = _largest(graph, i, which)
        share = (1 - EQUAL_SHARE) * _weights(graph, i)[which].size / total + EQUAL_SHARE / len(parts)
        moved = _proportional(few, {(i, which): largest})
        shaped[i, which] = min(largest, eps * math.sqrt(share) / moved * largest if moved else largest)
    factor = min(1.0, eps / (SAFETY * _proportional(many, shaped) or eps)) * wider
    within = {part: min(factor * shaped[part], _largest(graph, *part)) for part in parts}

    def tolerance(i: int, which: int) -> float:
        # Weights that are all zero are met exactly.
        return within.get((i, which), ZERO_SHARE * eps if _weights(graph, i)[which].size else 0.0)

    return {i: (tolerance(i, 0), tolerance(i, 1)) for i in graph.layers}


Parts = dict[tuple[int, int], float]


def _proportional(moved: Callable[[Parts], tuple[float, float]], sizes: Parts) -> float:
    """How far errors of these sizes move an output, were it proportional to them: from smaller ones, or larger."""
    factor, distance = 2.0**-8, 0.0
    for _ in range(_ROUNDS):
        distance, largest = moved({part: factor * size for part, size in sizes.items()})
        if not math.isfinite(largest):
            raise UnreachableError("plan: an output is not finite at a point; use other points")
        low, high = (bound * largest for bound in _SEEN)
        if low <= distance <= high or largest == 0:
            break
        factor *= _STEP if distance < low else 1 / _STEP
    return distance / factor


def _moved(graph: Graph, x: np.ndarray, draws: int) -> Callable[[Parts], tuple[float, float]]:
    """A function from sizes of errors to the largest difference they make at these points, and the largest output."""
    program = _program(Structure(graph))
    exact = {i: tuple(np.asarray(w, np.float32) for w in _weights(graph, i)) for i in graph.layers}
    placed = jax.device_put(exact)
    # Few at a time, in batches of one size: one program.
    size = min(len(x), FEW_POINTS)
    chunks = (x[np.minimum(np.arange(at, at + size), len(x) - 1)] for at in range(0, len(x), size))
    with np.errstate(over="ignore"):  # points beyond float32 have outputs that are not finite
        rows = [chunk.astype(np.float32) for chunk in chunks]
    plain = [program(placed, part) for part in rows]
    largest = float(np.max([_size(leaf) for leaves in plain for leaf in leaves]))

    def moved(sizes: Parts) -> tuple[float, float]:
        def distances(draw: int) -> list[float]:
            # Layers without errors stay where they are.
            weights = {i: list(placed[i]) for i in graph.layers}
            for (i, which), eta in sizes.items():
                error = np.float32(eta) * _shares(exact[i][which].shape, draw, i, which)
                weights[i][which] = jax.device_put(exact[i][which] + error)
            found = [program({i: tuple(pair) for i, pair in weights.items()}, part) for part in rows]
            pairs = [pair for leaves in zip(plain, found, strict=True) for pair in zip(*leaves, strict=True)]
            with np.errstate(invalid="ignore"):  # errors too large are not finite, and smaller ones are tried
                return [_size(np.asarray(a) - np.asarray(b)) for a, b in pairs]

        # Errors are drawn while the network of others runs.
        with ThreadPoolExecutor(2) as pool:
            return float(np.max(list(pool.map(distances, range(draws))))), largest

    return moved


def _size(leaf: Any) -> float:
    return float(np.abs(np.asarray(leaf)).max(initial=0.0))


@functools.lru_cache(maxsize=8)
def _program(structure: Structure) -> Callable[..., Any]:
    graph = structure.graph
    biased = {i: _weights(graph, i)[1].size > 0 for i in graph.layers}

    def outputs(weights: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        layers = {i: LayerWeights(w, None, b if biased[i] else None) for i, (w, b) in weights.items()}
        return evaluate(graph, x, layers)

    return jax.jit(outputs)


def _shares(shape: tuple[int, ...], draw: int, position: int, which: int) -> np.ndarray:
    """Shares of the tolerances in [-1, 1), one a weight."""
    generator = np.random.Generator(np.random.Philox(key=[draw, 2 * position + which]))
    return 2 * generator.random(shape, np.float32) - 1


def _weights(graph: Graph, position: int) -> tuple[np.ndarray, np.ndarray]:
    node = graph.nodes[position]
    assert isinstance(node, n.Weighted)
    return node.kernel, np.zeros(0) if node.bias is None else node.bias


def _largest(graph: Graph, position: int, which: int) -> float:
    return float(np.abs(_weights(graph, position)[which]).max(initial=0.0))


def _spread(x: np.ndarray, wanted: int) -> np.ndarray:
    return x[np.unique(np.linspace(0, len(x) - 1, min(len(x), wanted)).astype(np.int64))]
