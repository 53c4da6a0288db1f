"""Evaluations in floating point, every rounding as unlucky as a format allows, against bounds that hold for them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import windows
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import ALL_NETWORKS, drawer, random_case
from targets import TARGETS
from test_engines import checker_domain, checker_layers, random_errors

from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import LayerErrors, bound_difference
from slth_compile.certificate.execution import FLOAT32, FLOAT64, Format, evaluated, widened
from slth_compile.certificate.hybrid_bounds import bound_difference_euclidean
from slth_compile.checker import execution
from slth_compile.checker.bounds import output_bounds
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, evaluate, pool_counts
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

ENGINES = (bound_difference, bound_difference_backward)
COARSE = Format(2.0**-10, 2.0**-126)
"""Ten bits, so that roundings are seen beside what bounds have to spare."""


class Machine:
    """Arithmetic whose every result is moved by as much as `COARSE` allows, up, down or either.

    Args:
        rng: Draws directions.
        mood: 1 moves everything away from zero, -1 towards it, 0 draws.
    """

    def __init__(self, rng: np.random.Generator, mood: int) -> None:
        self.rng, self.mood = rng, mood

    def __call__(self, exact: np.ndarray) -> np.ndarray:
        """What comes of exact results; a hair less than the format's unit, float64 rounds on the way."""
        direction = self.mood if self.mood else self.rng.choice([-1, 1], np.shape(exact))
        return exact * (1 + direction * COARSE.unit * (1 - 2.0**-30))

    def total(self, parts: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(lambda a, b: self(a + b), parts)

    def layer(self, node: n.Weighted, weights: LayerWeights, x: np.ndarray) -> np.ndarray:
        positive, negative, bias, clip = (
            None if w is None else w if isinstance(w, bool) else self(w.astype(float)) for w in weights
        )
        if negative is None:
            parts = self.products(node, np.maximum(x, 0) if clip else x, positive)
        else:
            parts = self.products(node, np.maximum(x, 0), positive) + self.products(node, np.minimum(x, 0), negative)
        return self.total(parts if bias is None else [*parts, np.broadcast_to(bias, parts[0].shape)])

    def products(self, node: n.Weighted, x: np.ndarray, kernel: np.ndarray) -> list[np.ndarray]:
        """One array a product that is summed up."""
        if isinstance(node, n.Dense):
            return [self(x[..., c, None] * kernel[c]) for c in range(len(kernel))]
        taps = windows(x, kernel.shape[:-2], node.stride, node.padding, node.dilation, 0)
        size, features = kernel.shape[-2], kernel.shape[-1] // node.groups
        found = []
        for tap, k in zip(taps, kernel.reshape(-1, *kernel.shape[-2:]), strict=True):
            grouped = tap.reshape(*tap.shape[:-1], node.groups, size).astype(float)
            for c in range(size):
                product = np.repeat(grouped[..., c], features, -1) * k[c]
                found.append(self(product))
        return found

    def apply(self, node: n.Node, operands: list[np.ndarray], weights: LayerWeights | None) -> np.ndarray:
        x = operands[0]
        match node:
            case n.Convolution() | n.Dense():
                assert weights is not None
                return self.layer(node, weights, x)
            case n.Affine():
                y = x if node.scale is None else self(x * self(node.scale))
                return y if node.shift is None else self(y + self(node.shift))
            case n.Relu():
                return np.maximum(x, 0)
            case n.LeakyRelu():
                return np.where(x > 0, x, self(x * self(np.float64(node.slope))))
            case n.Prelu():
                return np.where(x > 0, x, self(x * self(node.slopes)))
            case n.Clip():
                low = -np.inf if node.low is None else self(np.float64(node.low))
                return np.clip(x, low, np.inf if node.high is None else self(np.float64(node.high)))
            case n.HardSigmoid():
                y = self(self(x * self(np.float64(node.slope))) + self(np.float64(node.offset)))
                return np.clip(y, 0, 1)
            case n.HardSwish():
                return self(self(x * np.clip(self(x + 3), 0, 6)) / 6)
            case n.MaxPool():
                taps = windows(x, node.window, node.stride, node.padding, (1,) * len(node.window), -np.inf)
                return functools.reduce(np.maximum, [t.astype(float) for t in taps])
            case n.Maximum():
                return x.max(node.axes)
            case n.AveragePool():
                taps = windows(x, node.window, node.stride, node.padding, (1,) * len(node.window), 0)
                return self(self.total([t.astype(float) for t in taps]) * self(1.0 / pool_counts(node, x.shape)))
            case n.Mean():
                parts = np.moveaxis(x, node.axes, range(len(node.axes)))
                parts = parts.reshape(-1, *parts.shape[len(node.axes) :])
                return self(self.total(list(parts)) / len(parts))
            case n.Dilate():
                y = np.zeros([(size - 1) * f + 1 for size, f in zip(x.shape, node.factors, strict=True)])
                y[tuple(slice(None, None, f) for f in node.factors)] = x
                return y
            case n.Resample():
                matrix, front = self(node.matrix.astype(float)), np.moveaxis(x, node.axis, -1)
                parts = [self(front[..., k, None] * matrix[:, k]) for k in range(matrix.shape[1])]
                return np.moveaxis(self.total(parts), -1, node.axis)
            case n.Add():
                return self(operands[0] + operands[1])
            case n.Multiply():
                return self(operands[0] * operands[1])
            case n.Concatenate():
                return np.concatenate(operands, node.axis)
            case n.Slice():
                return x[tuple(slice(*ends) for ends in zip(node.start, node.limit, node.stride, strict=True))]
            case n.Pad():
                return np.pad(x, node.padding)
            case n.Reshape():
                return x.reshape(node.shape)
            case n.Transpose():
                return x.transpose(node.permutation)
        raise TypeError(type(node).__name__)

    def run(self, graph: Graph, x: np.ndarray, weights: Mapping[int, LayerWeights]) -> list[np.ndarray]:
        values = [x]
        for i, node in enumerate(graph.nodes[1:], 1):
            values.append(self.apply(node, [values[j] for j in node.inputs], weights.get(i)))
        return [values[i] for i in graph.outputs]


MOODS = ((0, 0), (1, -1), (-1, 1))


def assert_contains(engine: Callable, network: Callable, seed: int) -> float:
    """Every pair of evaluations lies within the engine's bounds; returns how much of them the widest one takes."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-3, draw, True)
    found = evaluated(case.graph, case.errors, COARSE)
    assert found is not None
    x = rng.uniform(0, 1, (2, *case.graph.input_shape))
    leaves, used = engine(*found, x, x), 0.0
    for region, moods in itertools.product(range(2), MOODS):
        f, g = (
            Machine(rng, mood).run(case.graph, x[region], weights)
            for mood, weights in zip(moods, (case.target, case.ticket), strict=True)
        )
        for leaf, a, b in zip(leaves, f, g, strict=True):
            assert np.all(leaf.lower[region] <= b - a) and np.all(b - a <= leaf.upper[region])
            room = np.where(b > a, leaf.upper[region], -leaf.lower[region])
            used = max(used, float(np.max(np.abs(b - a) / np.maximum(room, 2.0**-500))))
    return used


@pytest.mark.parametrize("network", ALL_NETWORKS)
def test_the_worst_evaluations_are_within_intervals(network: Callable) -> None:
    # And not by far: the same networks in real arithmetic would not be.
    assert max(assert_contains(bound_difference, network, seed) for seed in range(4)) > 0.02


@pytest.mark.slow
@given(st.sampled_from(ALL_NETWORKS), st.integers(0, 2**32 - 1), st.sampled_from(ENGINES))
@settings(max_examples=300, deadline=None)
def test_the_worst_evaluations_are_within_any_bound(network: Callable, seed: int, engine: Callable) -> None:
    assert_contains(engine, network, seed)


@pytest.mark.parametrize("network", ALL_NETWORKS)
def test_the_worst_evaluations_are_within_euclidean_bounds(network: Callable) -> None:
    for seed in range(2):
        assert_contains(bound_difference_euclidean, network, seed)


@pytest.mark.slow
def test_the_worst_evaluations_are_within_backward_bounds() -> None:
    for seed, network in enumerate(ALL_NETWORKS[1:3]):
        assert_contains(bound_difference_backward, network, seed)


@pytest.mark.parametrize("name", ["strided", "trained affine", "bent", "depthwise", "upsampled"])
@pytest.mark.parametrize("format", ["float32", "float64"])
def test_both_engines_know_the_same_of_evaluations(name: str, format: str) -> None:
    """The checker allows for no more than the compiler: what is published is confirmed."""
    target = next(t for t in TARGETS if t.name == name)
    graph = target.graph()
    folded = fold(graph)
    flags = nonnegative_nodes(folded, True)
    signed = {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}
    errors = random_errors(folded, signed, np.random.default_rng(1), 1e-12)
    x = np.random.default_rng(2).uniform(0, 1, (2, *target.shape))
    found = evaluated(folded, errors, {"float32": FLOAT32, "float64": FLOAT64}[format])
    other = execution.evaluated(*checker_layers(graph, folded, errors), execution.FORMATS[format])
    assert found is not None and other is not None
    for leaf, own in zip(
        bound_difference(*found, x, x), output_bounds(*other, checker_domain("points", x, x)), strict=True
    ):
        largest = np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)).max(0)
        assert np.all(own.upper <= largest) and np.all(largest <= 1.6 * own.upper)


def test_float32_stays_within_its_bounds() -> None:
    target = next(t for t in TARGETS if t.name == "strided")
    graph = fold(target.graph())
    found = evaluated(graph, dict.fromkeys(graph.layers, NO_ERROR), FLOAT32)
    assert found is not None
    x = np.random.default_rng(0).uniform(0, 1, (3, *target.shape)).astype(np.float32)
    with jax.enable_x64(True):
        exact = evaluate(graph, jnp.asarray(x, jnp.float64))
    leaves = bound_difference(*found, *widened((x.astype(np.float64),) * 2, FLOAT32))
    for leaf, single, double in zip(leaves, evaluate(graph, jnp.asarray(x)), exact, strict=True):
        off = np.asarray(single, np.float64) - np.asarray(double)
        assert np.any(off != 0) and np.all(leaf.lower <= off) and np.all(off <= leaf.upper)


NO_ERROR = LayerErrors(positive_center=None, positive_radius=0.0, negative_radius=0.0, bias_radius=0.0)


def test_inputs_too_small_for_a_format_may_become_zero() -> None:
    small = np.array([[2.0**-140, -(2.0**-140), 0.0, 0.5]])
    for rounded in (
        widened((small, small), FLOAT32),
        execution.rounded_inputs(small, small, execution.FORMATS["float32"]),
    ):
        lower, upper = rounded
        assert np.all(lower[0, :3] <= 0) and np.all(upper[0, :3] >= 0)
        assert lower[0, 0] == 0 and upper[0, 1] == 0 and lower[0, 2] == upper[0, 2] == 0
        assert np.all(lower <= small) and np.all(small <= upper)


def test_what_is_not_known_is_not_stated() -> None:
    dense = n.Dense(inputs=(0,), kernel=np.array([[1.0, 2.0**-130]]))
    nodes = (n.Input(shape=(1,)), dense, n.Softmax(inputs=(1,), axis=0))
    errors = {1: NO_ERROR}
    assert evaluated(Graph(nodes, (2,)), errors, FLOAT64) is None
    long = Graph((n.Input(shape=(300,)), n.Dense(inputs=(0,), kernel=np.ones((300, 1)))), (1,))
    assert evaluated(long, errors, COARSE) is None and evaluated(long, errors, FLOAT32) is not None
    plain = Graph(nodes[:2], (1,))
    assert evaluated(plain, errors, FLOAT64) is not None and evaluated(plain, errors, FLOAT32) is None
