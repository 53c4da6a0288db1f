"""The backward engine against exact rationals, beside the interval engine, and with a fault in it."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, drawer, random_case
from targets import TARGETS
from test_difference import REGIONS, inputs_of, random_regions

from slth_compile.certificate.activations import activations
from slth_compile.certificate.backward import engine, lines, networks, steps
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import LayerErrors, bound_difference
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.slow
@given(cases=st.data())
@settings(max_examples=400, deadline=None)
def test_never_below_the_exact_difference_at_length(cases: st.DataObject) -> None:
    arguments = st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12])
    test_never_below_the_exact_difference.hypothesis.inner_test(*(cases.draw(part) for part in arguments))


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=examples(20, 2), deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = bound_difference_backward(case.graph, case.errors, lower, upper)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            values = difference_at(case, x)
            for leaf, exact in zip(found, values, strict=True):
                assert is_inside(leaf, region, exact)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)


def dense(seed: int) -> tuple[Graph, dict[int, LayerErrors], np.ndarray]:
    """Three layers of eight with relus, errors of 1e-3, and six inputs: layers alike share what XLA compiles."""
    rng = np.random.default_rng(seed)
    nodes: list[n.Node] = [n.Input(shape=(8,))]
    errors = {}
    for before, after in itertools.pairwise((8, 8, 8, 8)):
        nodes.append(
            n.Dense(inputs=(len(nodes) - 1,), kernel=rng.normal(size=(before, after)), bias=rng.normal(size=after))
        )
        error = rng.uniform(-1e-3, 1e-3, (before, after))
        errors[len(nodes) - 1] = LayerErrors(positive_center=error, positive_radius=0.0)
        nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
    return Graph(tuple(nodes[:-1]), (len(nodes) - 2,)), errors, rng.uniform(0.2, 1, (6, 8))


def width(leaf) -> np.ndarray:
    return (leaf.upper - leaf.lower).mean(axis=1)


def test_it_is_far_closer_than_intervals_in_balls_and_the_same_at_points() -> None:
    graph, errors, x = dense(0)
    for radius, factor in ((0.0, 1 + 1e-6), (0.02, 0.25), (0.1, 0.5)):
        ((near,), (far,)) = (
            bound(graph, errors, x - radius, x + radius) for bound in (bound_difference_backward, bound_difference)
        )
        assert width(near).mean() <= factor * width(far).mean() + 1e-13


def test_neither_batches_nor_rows_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors, x = dense(1)
    (whole,) = bound_difference_backward(graph, errors, x - 0.05, x + 0.05)
    monkeypatch.setattr(engine, "TOGETHER", 3)
    monkeypatch.setattr(networks, "MOST_ROWS", 16)
    (parts,) = bound_difference_backward(graph, errors, x - 0.05, x + 0.05)
    for a, b in ((whole.lower, parts.lower), (whole.upper, parts.upper)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-15)


def test_progress_counts_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors, x = dense(1)
    first = Graph(graph.nodes[:2], (1,))
    monkeypatch.setattr(engine, "TOGETHER", 4)
    seen: list[tuple[str, int, int]] = []
    bound_difference_backward(first, errors, x, x, progress=lambda *step: seen.append(step))
    assert seen == [("bound", done, 6) for done in (0, 4, 6)]


def _flipped_error(layer):
    return dataclasses.replace(layer, error=-layer.error)


def _no_bias_error(layer):
    return dataclasses.replace(layer, bias_error=0 * layer.bias_error)


@pytest.mark.parametrize("change", [_flipped_error, _no_bias_error])
def test_a_layer_that_is_wrong_in_the_passes_alone_is_seen(change, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors, x = dense(2)
    shift = {
        i: dataclasses.replace(e, bias_center=np.full(e.positive_center.shape[1], 0.01)) for i, e in errors.items()
    }
    own = networks.kernels_of
    monkeypatch.setattr(networks, "kernels_of", lambda layer: own(change(layer)))
    (leaf,) = bound_difference_backward(graph, shift, x - 0.02, x + 0.02)
    weights = target_weights(graph)
    other = {
        i: w._replace(positive=w.positive + shift[i].positive_center, bias=w.bias + shift[i].bias_center)
        for i, w in weights.items()
    }
    difference = activations(graph, x, other)[-1] - activations(graph, x)[-1]
    assert np.any(difference > leaf.upper + 1e-9) or np.any(difference < leaf.lower - 1e-9)


@pytest.mark.slow
def test_lines_taken_for_the_wrong_sign_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    own = steps.difference_planes

    def swapped(*arguments):
        planes = own(*arguments)
        return lines.Planes(*planes[3:], *planes[:3])

    monkeypatch.setattr(steps, "difference_planes", swapped)
    with pytest.raises(AssertionError):
        test_never_below_the_exact_difference()


def test_a_coefficient_that_is_flushed_to_zero_still_counts() -> None:
    """1e-160 * 1e-160 is no float64 a device has to keep, and it meets a difference of 1e190."""
    nodes: list[n.Node] = [n.Input(shape=(1,))]
    for weight in (1e200, 1e-160, 1e-160):
        nodes += [n.Dense(inputs=(len(nodes) - 1,), kernel=np.array([[weight]])), n.Relu(inputs=(len(nodes),))]
    errors = {
        i: LayerErrors(positive_center=np.array([[size]]), positive_radius=0.0)
        for i, size in ((1, 1e190), (3, 0.0), (5, 0.0))
    }
    one = np.ones((1, 1))
    (leaf,) = bound_difference_backward(Graph(tuple(nodes), (6,)), errors, 0.5 * one, one)
    assert leaf.upper[0, 0] >= 0.99e-130


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bent", "smooth", "excite"])
def test_smooth_activations_and_products_hold_what_is_seen(name: str) -> None:
    graph = fold(next(target for target in TARGETS if target.name == name).graph())
    rng = np.random.default_rng(0)
    weights = target_weights(graph)
    moves = {i: rng.uniform(-1e-3, 1e-3, w.positive.shape) for i, w in weights.items()}
    errors = {
        i: LayerErrors(positive_center=e, positive_radius=1e-18, negative_center=e, negative_radius=1e-18)
        for i, e in moves.items()
    }
    other = {i: w._replace(positive=np.asarray(w.positive, np.float64) + moves[i]) for i, w in weights.items()}
    x = rng.uniform(-1, 1, (3, *graph.input_shape))
    radius = np.array([0, 0.05, 0.5]).reshape(-1, *(1,) * (x.ndim - 1))
    found = bound_difference_backward(graph, errors, x - radius, x + radius)
    far = bound_difference(graph, errors, x - radius, x + radius)
    for near, wide in zip(found, far, strict=True):
        assert np.mean(near.upper - near.lower) < np.mean(wide.upper - wide.lower)
    for _ in range(200):
        at = x + radius * rng.choice([-1, 1, rng.uniform(-1, 1)], x.shape)
        f, g = activations(graph, at), activations(graph, at, other)
        for leaf, i in zip(found, graph.outputs, strict=True):
            d = g[i] - f[i]
            assert np.all(d <= leaf.upper + 1e-12) and np.all(d >= leaf.lower - 1e-12)
