"""Quality on labelled data, and the sizes of outputs: what is observed, never what is certified."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from slth_compile.certificate.activations import FEW_INPUTS, activations
from slth_compile.domain import Domain, order_hint
from slth_compile.errors import InputError
from slth_compile.graph.evaluate import ArrayLike, evaluate, target_weights
from slth_compile.graph.graph import Graph
from slth_compile.report.summary import Evaluation

Network = Callable[[np.ndarray], object]
TOP1, SQUARED = "top-1 accuracy", "mean squared difference"


def labelled(graph: Graph, data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in float32 and their labels, found to fit a network.

    Args:
        graph: The folded target.
        data: Inputs `(samples, *input_shape)` and labels: integers `(samples,)` for top-1 of the first output, else
            that output's values.

    Raises:
        InputError: Shapes that do not fit, or entries that are no numbers.
    """
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 is refused
            x, y = np.asarray(data[0], np.float32), np.asarray(data[1])
    except (TypeError, ValueError):
        raise InputError("evaluate: the inputs are not numbers") from None
    if x.shape[1:] != graph.input_shape or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise InputError(
            f"evaluate: inputs {x.shape} and labels {y.shape}; expected (samples, *{graph.input_shape}) "
            f"and one label a sample{order_hint(x.shape[1:], graph.input_shape)}"
        )
    if not np.isfinite(x).all() or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise InputError("evaluate: inputs or labels hold NaN or infinity in float32; leave such samples out")
    outputs = graph.shapes[graph.outputs[0]]
    if y.dtype.kind not in "iuf" or (_metric(y) == SQUARED and y[0].size != math.prod(outputs)):
        raise InputError(
            f"evaluate: labels are {y.dtype} {y.shape}; expected integers (samples,), or values (samples, *{outputs})"
        )
    return x, y


def quality(
    graph: Graph, data: tuple[np.ndarray, np.ndarray], ticket: Network, literal: Network | None, batch: int = 256
) -> Evaluation:
    """How well target and ticket do on labelled data, in float32.

    Args:
        graph: The folded target.
        data: Inputs and labels, as `labelled` takes them.
        ticket: The effective form.
        literal: The literal pruned network, None to leave it out.
        batch: Samples evaluated together.

    Raises:
        InputError: Shapes that do not fit.
    """
    x, y = labelled(graph, data)
    weights = target_weights(graph)
    target = jax.jit(lambda batch: evaluate(graph, batch, weights))
    metric = _metric(y)
    return Evaluation(
        metric=metric,
        samples=len(x),
        target=_score(target, x, y, metric, batch),
        ticket=_score(ticket, x, y, metric, batch),
        literal=None if literal is None else _score(literal, x, y, metric, batch),
    )


def largest_output(graph: Graph, domain: Domain, samples: int = 256) -> float:
    """Largest |output| of the target seen on a domain; see `output_range`."""
    low, high = output_range(graph, domain, samples)
    return max(-low, high)


def output_range(graph: Graph, domain: Domain, samples: int = 256) -> tuple[float, float]:
    """Least and largest output of the target over the centres of some regions of a domain and random inputs of them.

    In float32, and in float64 where that overflows; where float64 does, too, both are infinite.
    """
    lower, upper = domain.regions()
    rows = np.unique(np.linspace(0, len(lower) - 1, min(samples, len(lower))).astype(np.int64))
    generator = np.random.default_rng(0)
    weights, program = target_weights(graph), jax.jit(lambda x, weights: evaluate(graph, x, weights))

    def function(x: np.ndarray) -> Sequence[ArrayLike]:
        if len(x) > FEW_INPUTS and x.dtype == np.float32:
            return program(x, {i: w._replace(clip=None) for i, w in weights.items()})
        values = activations(graph, x)
        return [values[i] for i in graph.outputs]

    low, high = math.inf, -math.inf
    draws = 1 if np.array_equal(lower, upper) else max(1, samples // len(rows))
    half_low, half_high = 0.5 * lower[rows], 0.5 * upper[rows]
    for draw in range(draws):
        share = 0.5 if draw == 0 else generator.random((len(rows), *lower.shape[1:]))
        # Halves, as the width of a region may be beyond float64.
        x = 2 * np.minimum(half_low + share * (half_high - half_low), half_high)
        with np.errstate(over="ignore"):
            outputs = function(x.astype(np.float32))
        if not all(np.isfinite(out).all() for out in outputs):
            outputs = function(x)
        if not all(np.isfinite(out).all() for out in outputs):
            return -math.inf, math.inf
        low = min(low, *(float(np.min(out)) for out in outputs))
        high = max(high, *(float(np.max(out)) for out in outputs))
    return low, high


def _metric(y: np.ndarray) -> str:
    return TOP1 if y.ndim == 1 and y.dtype.kind in "iu" else SQUARED


def _score(network: Network, x: np.ndarray, y: np.ndarray, metric: str, batch: int) -> float:
    total = 0.0
    for start in range(0, len(x), batch):
        outputs = network(x[start : start + batch])
        first = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs, np.float64)
        labels = y[start : start + batch]
        if metric == TOP1:
            total += float(np.sum(first.reshape(len(first), -1).argmax(1) == labels))
        else:
            total += float(np.sum(np.mean((first - labels.reshape(first.shape)) ** 2, tuple(range(1, first.ndim)))))
    return total / len(x)
