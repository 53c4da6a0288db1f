"""Plans for typical errors, at points of networks that are too deep for promises."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from exact import exact_evaluate
from test_fixed_point import deep

import slth_compile as slth
from slth_compile.domain import Box, Points
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.plan.budget import ALL, AUTO, FINEST, TYPICAL, allocate
from slth_compile.plan.plan import plan
from slth_compile.plan.typical import typical_tolerances, widening
from slth_compile.report.html import render_html
from slth_compile.report.plan_text import plan_text

EPS = 1e-2


def network() -> Graph:
    return deep(np.random.default_rng(5))


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (count, 16)).astype(np.float32)


def worst(graph: Graph, tolerances: dict[int, tuple[float, float]], x: np.ndarray, seed: int) -> float:
    """The largest difference that errors drawn within the tolerances make, in float64 by NumPy."""
    rng = np.random.default_rng(seed)

    def drawn(i: int, node: n.Node) -> n.Node:
        if not isinstance(node, n.Dense):
            return node
        kernel = node.kernel + rng.uniform(-1, 1, node.kernel.shape) * tolerances[i][0]
        bias = None if node.bias is None else node.bias + rng.uniform(-1, 1, node.bias.shape) * tolerances[i][1]
        return dataclasses.replace(node, kernel=kernel, bias=bias)

    def run(nodes: tuple[n.Node, ...]) -> np.ndarray:
        values = x.astype(np.float64)
        for node in nodes[1:]:
            if isinstance(node, n.Dense):
                values = values @ node.kernel + (0 if node.bias is None else node.bias)
            else:
                values = np.maximum(values, 0)
        return values

    moved = tuple(drawn(i, node) for i, node in enumerate(graph.nodes))
    return float(np.abs(run(moved) - run(graph.nodes)).max())


def test_errors_within_the_tolerances_keep_within_eps() -> None:
    """Of other seeds than those that were planned with, and not far below it either."""
    graph, x = network(), inputs(40)
    tolerances = typical_tolerances(graph, EPS, x)
    found = [worst(graph, tolerances, x, seed) for seed in range(10)]
    assert EPS / 10 < max(found) <= EPS
    wider = typical_tolerances(graph, EPS, x, 3.0)
    assert all(wider[i][0] == pytest.approx(3 * tolerances[i][0]) for i in graph.layers)
    assert all(tolerances[i][1] == 0 for i in graph.layers if graph.nodes[i].bias is None)


def test_weights_that_are_all_zero_have_tolerances_too(tmp_path) -> None:
    rng = np.random.default_rng(0)
    nodes = (
        n.Input(shape=(4,)),
        n.Dense(inputs=(0,), kernel=rng.normal(0, 1, (4, 5)), bias=np.zeros(5)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=rng.normal(0, 1, (5, 2))),
    )
    x = Points(rng.uniform(0, 1, (3, 4)))
    slth.compile(Graph(nodes, (3,)), 0.3, domain=x, promise="typical", window=8, attack=False, out=tmp_path / "out")
    assert slth.verify(tmp_path / "out").certificates


def test_tolerances_are_never_wider_than_weights() -> None:
    graph = Graph((n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=np.array([[0.5, 0.0], [0.25, 0.0]]))), (1,))
    assert typical_tolerances(graph, 1e9, np.ones((1, 2)))[1][0] == 0.5
    assert typical_tolerances(graph, 1e-3, np.zeros((1, 2)))[1] == (0.5, 0.0)
    with pytest.raises(slth.UnreachableError, match="not finite"):
        typical_tolerances(graph, 1e-3, np.full((1, 2), np.inf))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_closest_sums_are_as_close_as_that(scale: float) -> None:
    """The closest of many sums scattered at random, beside the ratio that widens tolerances."""
    rng = np.random.default_rng(0)
    nearest = np.abs(rng.uniform(-scale, scale, (4000, 500))).min(axis=1)
    failure = 1e-2
    tolerance = np.quantile(nearest, 1 - failure)
    uniform = tolerance / widening(failure) / math.sqrt(3)
    assert math.sqrt((nearest**2).mean()) == pytest.approx(uniform, rel=0.1)
    assert widening(0.5) == 1.0


def test_only_deep_networks_at_points_go_without_a_promise() -> None:
    graph, x = network(), Points(inputs(4))
    signed = dict.fromkeys(graph.layers, False)
    shallow = Graph(graph.nodes[:2], (1,))
    assert allocate(shallow, EPS, (x,), signed, AUTO).promise == ALL
    assert allocate(shallow, EPS, (x,), signed, TYPICAL).promise == TYPICAL
    assert allocate(graph, EPS, (x,), signed, AUTO).promise == TYPICAL
    assert min(kernel for kernel, _ in allocate(graph, EPS, (x,), signed, ALL).tolerances.values()) < FINEST
    # A box is promised for, and both hold at once.
    box = Box(0.0, 1.0, (16,))
    promised = allocate(shallow, EPS, (box,), signed, TYPICAL)
    assert promised.promise == ALL
    both = allocate(shallow, EPS, (box, x), signed, TYPICAL)
    assert both.promise == TYPICAL
    assert both.tolerances[1][0] <= promised.tolerances[1][0]


def test_a_deep_network_is_compiled_and_verified(tmp_path) -> None:
    # A large eps, so that windows stay small.
    graph, x, eps = network(), inputs(3), 0.3
    found = slth.compile(graph, eps, domain=Points(x), window=8, out=tmp_path / "out")
    certificate = found.certificate
    assert (certificate.method, found.plan.promise) == ("exact", TYPICAL)
    assert certificate.bound <= eps
    ticket = {i: found.weights[i] for i in graph.layers}
    apart = [exact_evaluate(found.folded, p, ticket)[0] - exact_evaluate(found.folded, p)[0] for p in x]
    assert max(max(map(abs, leaf)) for leaf in apart) <= certificate.bound * (1 + 1e-9)
    assert slth.verify(tmp_path / "out").certificates[0].recomputed is not None
    assert "nothing is promised" in plan_text(found.plan)
    assert "no promise" in render_html(found.summary)
    again = slth.load(tmp_path / "out")
    assert again.plan.promise == TYPICAL
    with pytest.raises(slth.UnreachableError, match=r"out of reach|no tolerances|not finite|larger eps"):
        slth.dry_run(graph, eps, domain=Points(x), promise="all")


def test_other_promises_are_refused() -> None:
    with pytest.raises(slth.InputError, match=r"promise is 'typicl'.*typical"):
        slth.dry_run(network(), EPS, domain=Points(inputs(1)), promise="typicl")


def test_a_plan_says_what_it_is() -> None:
    graph = Graph(network().nodes[:2], (1,))
    text = plan_text(plan(graph, EPS, 1e-3, (Points(inputs(2)),)))
    assert "promised bound" in text
    assert "typical" not in text
