"""Bounds from norms, sensitivities and plain evaluation of large networks, on small ones where all can be checked."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from counts import few
from programs import at_once
from random_networks import ALL_NETWORKS as RANDOM
from random_networks import drawer, random_case
from targets import TARGETS
from test_promise import MARGIN, NETWORKS, case, dense, random_tolerances, scaled, worst_found

from slth_compile.certificate import difference
from slth_compile.certificate.activations import activations
from slth_compile.certificate.norms import point_norms
from slth_compile.certificate.promise import _promises, promise_at_points
from slth_compile.certificate.sensitivity import sensitivities
from slth_compile.domain import Points
from slth_compile.errors import UnreachableError
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.plan import budget
from slth_compile.plan.budget import allocate


@functools.cache
def many_outputs() -> Graph:
    """Two convolutions, a mean, and more outputs than anything else."""
    draw = drawer(np.random.default_rng(2), False)
    geometry = {"padding": ((1, 1),), "dilation": (1,)}
    nodes = (
        n.Input(shape=(5, 2)),
        n.Convolution(inputs=(0,), kernel=draw(3, 2, 4), bias=draw(4), stride=(1,), **geometry),
        n.Relu(inputs=(1,)),
        n.Convolution(inputs=(2,), kernel=draw(3, 4, 4), bias=draw(4), stride=(2,), **geometry),
        n.Add(inputs=(3, 3)),
        n.Relu(inputs=(4,)),
        n.Mean(inputs=(5,), axes=(0,)),
        n.Dense(inputs=(6,), kernel=draw(4, 12), bias=draw(12)),
    )
    return Graph(nodes, (7,))


def test_both_promises_hold_for_many_outputs() -> None:
    rng = np.random.default_rng(2)
    graph, x = many_outputs(), rng.uniform(0, 1, (2, 5, 2)).astype(np.float32)
    signed = dict.fromkeys(graph.layers, False)
    norms = point_norms(graph, x)
    for size in (1e-4, 1e-2):
        eta = random_tolerances(graph, size, rng)
        worst = worst_found(graph, eta, signed, x)
        by_passes, by_norms = promise_at_points(graph, eta, x), norms.bound(eta)
        assert worst.max() <= by_passes * MARGIN and np.all(worst <= by_norms * MARGIN)
        assert by_passes <= 3 * worst.max() and by_norms.max() <= 60 * worst.max()


@pytest.mark.parametrize("network", NETWORKS)
def test_norms_promise_smaller_tolerances_at_least_in_proportion(network) -> None:
    graph, x, _ = case(network)
    norms, eta = point_norms(graph, x), random_tolerances(graph, 0.1, np.random.default_rng(3))
    for larger, factor in ((1.0, 0.7), (1.0, 0.1), (0.1, 1e-3)):
        whole = norms.bound(scaled(eta, larger))
        assert np.all(norms.bound(scaled(eta, larger * factor)) <= factor * whole * (1 + 1e-9))


def test_one_layer_is_promised_exactly_what_can_happen() -> None:
    rng = np.random.default_rng(4)
    graph = dense([rng.normal(size=(5, 3))])
    x = rng.normal(size=(4, 5)).astype(np.float32)
    norms = point_norms(graph, x)
    np.testing.assert_allclose(norms.bound({1: (0.01, 0.0)}), 0.01 * np.abs(x.astype(float)).sum(1), rtol=1e-5)
    one = norms.picked(np.array([2])).bound({1: (0.01, 0.0)})
    assert one.shape == (1,) and one[0] == norms.bound({1: (0.01, 0.0)})[2]


@pytest.mark.parametrize("network", NETWORKS)
def test_norms_of_layers_are_not_below_those_of_their_matrices(network) -> None:
    """The layer as one matrix, by its action on every unit vector; entries in [-1, 1] too."""
    graph, x, _ = case(network)
    norms = point_norms(graph, x[:1])
    rng = np.random.default_rng(5)
    for i in graph.layers:
        node = graph.nodes[i]
        shape = graph.shapes[node.inputs[0]]
        units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
        single = Graph((n.Input(shape=shape), dataclasses.replace(node, inputs=(0,))), (1,))
        signs = rng.choice([-1.0, 1.0], node.kernel.shape)
        for kernel, largest in ((node.kernel, norms.maps[i][0]), (signs, norms.maps[i][1])):
            matrix = activations(single, units, {1: LayerWeights(kernel)})[1].reshape(len(units), -1)
            assert np.linalg.norm(matrix, 2) <= largest * (1 + 1e-9)


@pytest.mark.parametrize("network", few(NETWORKS, NETWORKS[0], NETWORKS[5], NETWORKS[7]))
def test_sensitivities_are_what_small_tolerances_do(network) -> None:
    """One backward pass an output against the promise itself, probed layer by layer."""
    graph, x, _ = case(network)
    # Copies of a point: the program that other tests of promises have.
    found, x = sensitivities(graph, x[:1]), np.broadcast_to(x[:1], x.shape)
    zero = dict.fromkeys(graph.layers, (0.0, 0.0))
    factor = 2.0 if any(isinstance(node, n.LogSoftmax) for node in graph.nodes) else 1.0
    for i in graph.layers:
        for which in (0, 1) if graph.nodes[i].bias is not None else (0,):
            probe = zero | {i: (1e-8, 0.0) if which == 0 else (0.0, 1e-8)}
            probed = _promises(graph, probe, x, 0).max() / 1e-8 / factor
            assert found[i][which] >= probed * (1 - 1e-3)
            assert found[i][which] <= probed * (1 + 1e-3) or factor > 1


def test_a_promise_that_overflows_is_infinite() -> None:
    """Differences of infinities are no numbers; they must not pass for small."""
    graph = dense([np.full((2, 2), 1e20)] * 3)
    assert promise_at_points(graph, dict.fromkeys(graph.layers, (1.0, 0.0)), np.ones((1, 2))) == np.inf


def test_networks_too_large_for_passes_are_promised_by_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    graph, x = many_outputs(), rng.uniform(0, 1, (2, 5, 2)).astype(np.float32)
    signed = dict.fromkeys(graph.layers, False)
    with monkeypatch.context() as patched:
        patched.setattr(budget, "is_affordable", lambda *_: False)
        found = allocate(graph, 0.5, (Points(x),), signed)
        for value in (1e-6, 1e-2):
            assert 0.9 * value < allocate(graph, value, (Points(x),), signed).bound <= value
    wider = allocate(graph, 0.5, (Points(x),), signed)
    assert 0.45 < found.bound <= 0.5
    assert worst_found(graph, found.tolerances, signed, x).max() <= 0.5
    assert all(found.tolerances[i][0] < wider.tolerances[i][0] for i in graph.layers)


def test_a_deep_network_is_allocated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of twenty layers is nowhere near proportional to the tolerances it starts from."""
    monkeypatch.setattr(budget, "is_affordable", lambda *_: False)
    rng = np.random.default_rng(7)
    graph, x = dense([rng.normal(size=(8, 8)) for _ in range(20)]), rng.normal(size=(1, 8))
    signed = dict.fromkeys(graph.layers, True)
    for eps in (1e-3, 1e12):
        assert 0.9 * eps < allocate(graph, eps, (Points(x),), signed).bound <= eps
    with pytest.raises(UnreachableError, match="not finite"):
        allocate(dense([np.full((2, 2), 1e200)] * 3), 1.0, (Points(np.ones((1, 2))),), dict.fromkeys((1, 2, 3), True))


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, id=t.name, marks=[pytest.mark.slow] if t.name == "convnext" else []) for t in TARGETS],
)
def test_numpy_evaluates_as_jax_does(target) -> None:
    graph = fold(target.graph())
    x = target.inputs(2).astype(np.float64)
    rng = np.random.default_rng(8)
    weights = {
        i: LayerWeights(
            np.asarray(w.positive, np.float64),
            rng.normal(size=w.positive.shape) if k % 3 == 0 else None,
            w.bias,
            clip=k % 3 == 1,
        )
        for k, (i, w) in enumerate(target_weights(graph).items())
    }
    with jax.enable_x64(True):
        both = at_once(lambda x: [evaluate(graph, x, used) for used in (None, weights)], x)
    for used, expected in zip((None, weights), both, strict=True):
        values = activations(graph, x, used)
        for i, leaf in zip(graph.outputs, expected, strict=True):
            np.testing.assert_allclose(values[i], leaf, rtol=1e-9, atol=1e-12)
    assert activations(graph, x.astype(np.float32))[-1].dtype == np.float32


@pytest.mark.parametrize("network", few(RANDOM, RANDOM[0], RANDOM[6]))
def test_numpy_encloses_as_compiled_programs_do(network, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    draw = drawer(rng, False)
    found = random_case(network(draw), rng, 1e-2, draw, False)
    x = rng.uniform(-1, 1, (2, *found.graph.input_shape))
    upper = x + np.array([0.0, 0.1]).reshape(-1, *(1,) * (x.ndim - 1))
    errors = {i: difference._coarse(error) for i, error in found.errors.items()}
    eager = difference.bound_difference(found.graph, errors, x, upper)
    finer = difference.bound_difference(found.graph, found.errors, x, upper)
    monkeypatch.setattr(difference, "FEW_REGIONS", 0)
    compiled = difference.bound_difference(found.graph, found.errors, x, upper)
    for a, b in zip(finer, eager, strict=True):
        assert np.all(b.lower <= a.lower + 1e-13) and np.all(a.upper <= b.upper + 1e-13)
    for a, b in zip(eager, compiled, strict=True):
        for field in dataclasses.fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12 * np.abs(right).max())
