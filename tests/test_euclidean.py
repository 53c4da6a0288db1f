"""Euclidean bounds on target and ticket: true in exact arithmetic at every node, attained where theory says so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from exact import exact_evaluate
from hypothesis import given
from hypothesis import strategies as st
from random_networks import ALL_NETWORKS as NETWORKS
from random_networks import Case, drawer, random_case
from targets import TARGETS, Target
from test_engines import checker_layers, random_errors, regions

from slth_compile.certificate import euclidean as e
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.spectral import norms_of
from slth_compile.checker import euclidean as checker
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.graph import Node
from slth_compile.checker.spectral import vector_norms
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph


def walk(
    graph: Graph, norms: Mapping[int, e.LayerNorms], start: e.Euclidean, injected: Mapping[int, np.ndarray]
) -> list[e.Euclidean]:
    """The state of every node."""
    states = [start]
    for i, node in enumerate(graph.nodes[1:], 1):
        operands = [states[j] for j in node.inputs]
        if isinstance(node, n.Convolution | n.Dense):
            states.append(e.weighted_step(norms[i], operands[0], injected=injected.get(i)))
        else:
            states.append(e.unweighted_step(node, [graph.shapes[j] for j in node.inputs], operands))
    return states


def norms_of_layers(graph: Graph, errors: Mapping[int, LayerErrors]) -> dict[int, e.LayerNorms]:
    found = {}
    for i in graph.layers:
        node = graph.nodes[i]
        assert isinstance(node, n.Convolution | n.Dense)
        found[i] = e.layer_norms(node, graph.shapes[node.inputs[0]], graph.shapes[i], errors[i])
    return found


def squared(values: np.ndarray) -> Fraction:
    return sum((Fraction(v) ** 2 for v in np.asarray(values, object).reshape(-1).tolist()), Fraction(0))


def is_at_most(values: np.ndarray, bound: float) -> bool:
    """Whether the Euclidean norm of exact values is within a bound."""
    return math.isinf(bound) or squared(values) <= Fraction(float(bound)) ** 2


def at_every_node(case: Case, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What every node of target and ticket puts out, exactly."""
    nodes = case.graph.nodes
    every = Graph(nodes, tuple(range(len(nodes))), ("",) * len(nodes))
    target, ticket = (list(exact_evaluate(every, x, weights)) for weights in (case.target, case.ticket))
    return target, ticket


def injected_at(case: Case, centre: list[np.ndarray]) -> dict[int, np.ndarray]:
    """What the errors alone put out at the target's own activations, its norm rounded up."""
    found = {}
    for i in case.graph.layers:
        node = case.graph.nodes[i]
        source = node.inputs[0]
        single = Graph((n.Input(shape=case.graph.shapes[source]), dataclasses.replace(node, inputs=(0,))), (1,))
        moved = [exact_evaluate(single, centre[source], {1: w[i]})[0] for w in (case.ticket, case.target)]
        found[i] = np.array([math.sqrt(float(squared(np.asarray(moved[0] - moved[1])))) * (1 + 1e-12)])
    return found


def assert_sound(case: Case, rng: np.random.Generator, nonnegative: bool, radius: float) -> None:
    shape = case.graph.input_shape
    centre = rng.integers(0 if nonnegative else -8, 9, shape) / 8
    lower = np.maximum(centre - radius, 0) if nonnegative else centre - radius
    upper = centre + radius
    start = e.entered(lower[None], upper[None], centre[None])
    at_centre, _ = at_every_node(case, centre)
    norms = norms_of_layers(case.graph, case.errors)
    walks = [walk(case.graph, norms, start, {}), walk(case.graph, norms, start, injected_at(case, at_centre))]
    for share in (0.0, 1.0, rng.uniform(size=shape), rng.integers(0, 2, shape)):
        x = np.clip(lower + share * (upper - lower), lower, upper)
        target, ticket = at_every_node(case, x)
        for i, (a, b, c) in enumerate(zip(target, ticket, at_centre, strict=True)):
            for states in walks:
                norm, spread, difference = (float(v[0]) for v in states[i])
                assert is_at_most(a, norm) and is_at_most(a - c, spread) and is_at_most(b - a, difference)
        for i in case.graph.layers:
            source = walks[1][case.graph.nodes[i].inputs[0]]
            elements = e.element_bounds(norms[i], source)
            values = target[i], target[i] - at_centre[i], ticket[i] - target[i]
            for bound, value in zip(elements, values, strict=True):
                for s, most in enumerate(bound[0].tolist()):
                    assert all(is_at_most(np.array(v, object), most) for v in value[..., s].reshape(-1))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_no_node_is_further_than_its_bounds(network, seed: int) -> None:
    rng = np.random.default_rng(seed)
    draw, nonnegative = drawer(rng, seed % 2 == 0), seed >= 2
    case = random_case(network(draw), rng, (1e-3, 0.5)[seed % 2], draw, nonnegative)
    assert_sound(case, rng, nonnegative, (0.0, 0.25)[seed // 2])


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_whose_two_errors_are_one(network) -> None:
    """As of any two plain networks on inputs of both signs."""
    rng = np.random.default_rng(9)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 0.3, draw, False)
    errors, ticket = dict(case.errors), dict(case.ticket)
    for i, signed in case.signed.items():
        if signed:
            center, radius = errors[i].positive_center, errors[i].positive_radius
            errors[i] = dataclasses.replace(errors[i], negative_center=center, negative_radius=radius)
            ticket[i] = ticket[i]._replace(negative=ticket[i].positive)
    assert_sound(dataclasses.replace(case, errors=errors, ticket=ticket), rng, False, 0.25)


SLOW_TO_IMPORT = {"separable"}


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, id=t.name, marks=[pytest.mark.slow] if t.name in SLOW_TO_IMPORT else []) for t in TARGETS],
)
def test_compiler_and_checker_find_the_same(target: Target) -> None:
    rng = np.random.default_rng(len(target.name))
    graph = target.graph()
    folded = fold(graph)
    nonnegative = all(domain.is_nonnegative() for domain in target.domains)
    flags = nonnegative_nodes(folded, nonnegative)
    errors = random_errors(folded, {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}, rng, 1e-2)
    lower, upper = regions(rng, target.shape, nonnegative)
    centre = 0.5 * lower + 0.5 * upper
    injected = {i: rng.uniform(0, 0.1, len(lower)) for i in folded.layers[::2]}
    norms = norms_of_layers(folded, errors)
    states = walk(folded, norms, e.entered(lower, upper, centre), injected)

    own, layers = checker_layers(graph, folded, errors)
    where = {layer.node: position for layer, position in zip(own.layers, folded.layers, strict=True)}
    unknown = np.full(len(lower), np.inf)
    box = Interval(lower, upper), None, Interval(centre, centre)
    lengths = [checker.cut(checker.Lengths(unknown, unknown, np.zeros(len(lower))), *box)]
    for i, node in enumerate(own.graph.nodes[1:], 1):
        operands = [lengths[j] for j in node.inputs]
        shapes = [own.graph.nodes[j].shape for j in node.inputs]
        if i in layers:
            whole, rows = checker.norms_of(layers[i], shapes[0], math.prod(node.shape[:-1]))
            for mine, theirs in zip((*norms[where[i]].whole, *norms[where[i]].rows), (*whole, *rows), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-200)
            columns = checker.Lengths(*(v[:, None] for v in operands[0]))
            elements = e.element_bounds(norms[where[i]], states[folded.nodes[where[i]].inputs[0]])
            for mine, theirs in zip(elements, checker.weighted(rows, columns), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-200)
            lengths.append(checker.weighted(whole, operands[0], s=injected.get(where[i])))
        else:
            lengths.append(checker.unweighted(node, shapes, operands))
    assert len(lengths) == len(states)
    for mine, theirs in zip(states, lengths, strict=True):
        np.testing.assert_allclose(np.stack(mine), np.stack(theirs), rtol=1e-9, atol=1e-200)
    assert all(np.all(states[i].difference > 0) and np.all(np.isfinite(states[i].norm)) for i in folded.outputs)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1, max_size=6))
def test_norms_round_up(values: list[float]) -> None:
    vector = np.array([values])
    for found in (norms_of(vector)[0], vector_norms(vector)[0]):
        assert is_at_most(vector, found)
        if 1e-140 < np.abs(vector).max() < 1e150:
            assert found <= np.linalg.norm(vector) * (1 + 1e-14)


def one(norm: float, spread: float, difference: float) -> e.Euclidean:
    return e.Euclidean(np.array([norm]), np.array([spread]), np.array([difference]))


def dense(rng: np.random.Generator, **errors) -> tuple[n.Dense, e.LayerNorms]:
    node = n.Dense(inputs=(0,), kernel=rng.uniform(0, 1, (4, 3)), bias=rng.normal(size=3))
    found = LayerErrors(**({"positive_center": None, "positive_radius": 0.0} | errors))
    return node, e.layer_norms(node, (4,), (3,), found)


def test_a_layers_parts_are_attained() -> None:
    """Along the longest direction, which is non-negative for non-negative matrices."""
    rng = np.random.default_rng(1)
    error = rng.uniform(0, 0.1, (4, 3))
    node, norms = dense(rng, positive_center=error)
    w = np.asarray(node.kernel)
    size = np.linalg.norm(error, 2)
    assert e.weighted_step(norms, one(2.0, 0.0, 0.0)).difference[0] == pytest.approx(2 * size, rel=1e-7)
    moved = e.weighted_step(norms, one(0.0, 0.0, 1.0)).difference[0]
    assert moved == pytest.approx(np.linalg.norm(w + error, 2), rel=1e-7)
    at_centre = e.weighted_step(norms, one(9.0, 0.5, 0.0), injected=np.array([0.1])).difference[0]
    assert at_centre == pytest.approx(0.1 + 0.5 * size, rel=1e-7)
    known = e.weighted_step(norms, one(9.0, 9.0, 1.0), ticket=np.array([0.25])).difference[0]
    assert known == pytest.approx(np.linalg.norm(w, 2) + 0.25 * size, rel=1e-7)
    image = e.weighted_step(norms, one(2.0, 0.5, 0.0))
    assert image.norm[0] == pytest.approx(2 * np.linalg.norm(w, 2) + np.linalg.norm(node.bias), rel=1e-7)
    assert image.spread[0] == pytest.approx(0.5 * np.linalg.norm(w, 2), rel=1e-7)


def test_errors_of_two_signs_are_told_apart() -> None:
    """`E_p max(z, 0) + E_n min(z, 0)`: what a mean of the two would lose is not lost."""
    rng = np.random.default_rng(2)
    error = rng.uniform(0, 0.1, (4, 3))
    size = np.linalg.norm(error, 2)
    _, opposite = dense(rng, positive_center=error, negative_center=-error, negative_radius=0.0)
    found = e.weighted_step(opposite, one(1.0, 0.0, 0.0)).difference[0]
    assert size <= found <= math.sqrt(2) * size * (1 + 1e-7)
    _, same = dense(rng, positive_center=error, negative_center=error, negative_radius=0.0)
    assert e.weighted_step(same, one(1.0, 0.0, 0.0)).difference[0] == pytest.approx(size, rel=1e-7)
    _, unsure = dense(rng, positive_center=error, positive_radius=0.1, negative_center=error, negative_radius=0.1)
    largest = np.linalg.norm(error + 0.1, 2)
    assert e.weighted_step(unsure, one(1.0, 0.0, 0.0)).difference[0] >= largest
    at_centre = e.weighted_step(unsure, one(9.0, 0.5, 0.0), injected=np.zeros(1)).difference[0]
    assert 0.5 * largest <= at_centre <= (size + 0.1 * math.sqrt(12)) * 0.5 * (1 + 1e-7)
    _, nothing = dense(rng)
    assert e.weighted_step(nothing, one(1.0, 0.0, 0.0)).difference[0] <= 1e-300


def test_a_bias_counts_at_every_position() -> None:
    node = n.Convolution(
        inputs=(0,),
        kernel=np.zeros((1, 2, 2)),
        bias=np.array([3.0, 4.0]),
        stride=(1,),
        padding=((0, 0),),
        dilation=(1,),
    )
    errors = LayerErrors(positive_center=None, positive_radius=0.0, bias_center=np.array([0.0, 1.0]), bias_radius=1.0)
    image = e.weighted_step(e.layer_norms(node, (9, 2), (9, 2), errors), one(1.0, 1.0, 0.0))
    assert image.norm[0] == pytest.approx(15) and image.norm[0] >= 15
    assert image.difference[0] == pytest.approx(3 * math.sqrt(5)) and image.difference[0] ** 2 >= 45


def test_what_is_not_known_stays_so() -> None:
    _, norms = dense(np.random.default_rng(3), positive_center=np.zeros((4, 3)))
    image = e.weighted_step(norms, one(np.inf, np.inf, 0.0))
    assert image.norm[0] == np.inf == image.spread[0] == image.difference[0]
    cut = e.within(image, d=(np.full((1, 3), -np.inf), np.zeros((1, 3))))
    assert cut.difference[0] == np.inf
    cut = e.within(image, d=(np.full((1, 3), -2.0), np.ones((1, 3))), x=(np.zeros((1, 3)), np.ones((1, 3))))
    assert cut.difference[0] == pytest.approx(math.sqrt(12)) and cut.norm[0] == pytest.approx(math.sqrt(3))


def test_a_centre_need_not_be_in_the_middle() -> None:
    lower, upper = np.array([[0.0, -1.0]]), np.array([[1.0, 1.0]])
    for centre, far in (([0.75, -0.5], math.hypot(0.75, 1.5)), ([0.25, 0.5], math.hypot(0.75, 1.5))):
        start = e.entered(lower, upper, np.array([centre]))
        assert start.spread[0] == pytest.approx(far, rel=1e-12) and start.spread[0] >= far
        assert start.norm[0] == pytest.approx(math.sqrt(2), rel=1e-12) and start.difference[0] == 0
        unknown = checker.Lengths(np.array([np.inf]), np.array([np.inf]), np.zeros(1))
        point = Interval(np.array([centre]), np.array([centre]))
        other = checker.cut(unknown, Interval(lower, upper), None, point)
        np.testing.assert_allclose(np.stack(other), np.stack(start), rtol=1e-12)


@pytest.mark.parametrize(
    ("node", "shape", "moved", "factor"),
    [
        (n.MaxPool(inputs=(0,), window=(3,), stride=(1,), padding=((1, 1),)), (5, 1), [[0], [0], [1], [0], [0]], 3.0),
        (n.AveragePool(inputs=(0,), window=(2,), stride=(2,), padding=((0, 0),)), (4, 1), [[1], [1], [1], [1]], 0.5),
        (n.Mean(inputs=(0,), axes=(0,)), (4, 2), np.ones((4, 2)), 0.25),
        (n.Maximum(inputs=(0,), axes=(0,)), (2, 2), [[1, 1], [0, 0]], 1.0),
        (n.LeakyRelu(inputs=(0,), slope=0.5), (2,), [1, 2], 1.0),
        (n.Affine(inputs=(0,), scale=np.array([1.0, -2.0])), (2,), [0, 1], 4.0),
        (n.Add(inputs=(0, 0)), (2,), [1, 1], 4.0),
        (n.Concatenate(inputs=(0, 0, 0), axis=0), (2,), [1, 2], 3.0),
        (n.Dilate(inputs=(0,), factors=(3, 1)), (2, 1), [[1], [2]], 1.0),
        (n.Resample(inputs=(0,), axis=0, matrix=np.array([[2.0, 0], [2.0, 0], [0, 1]])), (2, 1), [[1], [0]], 8.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, n.Node) else "",
)
def test_a_factor_is_attained(node: n.Node, shape: tuple[int, ...], moved: object, factor: float) -> None:
    """An input, and with it a difference, that comes out longer by the square root of `factor`, and not by more."""
    x = np.asarray(moved, float).reshape(shape)
    graph = Graph((n.Input(shape=shape), node), (1,))
    image = exact_evaluate(graph, x, {})[0]
    assert squared(image) == Fraction(factor) * squared(x)
    size = norms_of(x.reshape(1, -1))[0]
    operands = [one(size, size, size)] * len(node.inputs)
    found = e.unweighted_step(node, [shape] * len(node.inputs), operands)
    for bound in found:
        assert is_at_most(image, bound[0]) and bound[0] <= math.sqrt(float(squared(image))) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (n.MaxPool(inputs=(0,), window=(3, 2), stride=(2, 1), padding=((1, 1), (0, 1))), (5, 4, 2)),
        (n.AveragePool(inputs=(0,), window=(3,), stride=(2,), padding=((1, 1),)), (7, 2)),
        (n.AveragePool(inputs=(0,), window=(3,), stride=(2,), padding=((1, 1),), count_padding=False), (7, 2)),
        (n.Mean(inputs=(0,), axes=(0, 1)), (5, 4, 2)),
        (n.Maximum(inputs=(0,), axes=(1,)), (3, 2)),
        (n.Softmax(inputs=(0,), axis=1), (3, 5)),
        (n.LogSoftmax(inputs=(0,), axis=0), (3, 5)),
        (n.Affine(inputs=(0,), scale=np.array([0.5, -3.0]), shift=np.array([1.0, 2.0])), (3, 2)),
        (n.Affine(inputs=(0,), shift=np.array(-1.5)), (3, 2)),
        (n.Concatenate(inputs=(0, 0), axis=0), (3,)),
        (n.Add(inputs=(0, 0)), (3,)),
        (n.Slice(inputs=(0,), start=(1,), limit=(3,), stride=(1,)), (3,)),
        (n.Dilate(inputs=(0,), factors=(3,)), (3,)),
        (n.Resample(inputs=(0,), axis=1, matrix=np.array([[0.25, -0.75, 0.0], [0.1, 0.2, 0.7]])), (2, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, n.Node) else "",
)
def test_compiler_and_checker_find_the_same_of_one_node(node: n.Node, shape: tuple[int, ...]) -> None:
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    own = Node(n.OPERATION_NAMES[type(node)], node.inputs, fields, n.parameters(node), ())
    values = np.random.default_rng(6).uniform(0.1, 9, (len(node.inputs), 3, 4))
    mine = e.unweighted_step(node, [shape] * len(values), [e.Euclidean(*v) for v in values])
    theirs = checker.unweighted(own, [shape] * len(values), [checker.Lengths(*v) for v in values])
    np.testing.assert_allclose(np.stack(mine), np.stack(theirs), rtol=1e-13)


@pytest.mark.parametrize("kind", [n.Softmax, n.LogSoftmax])
def test_softmax(kind) -> None:
    rng = np.random.default_rng(4)
    node, shape = kind(inputs=(0,), axis=1), (2, 5)

    def image(x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(1, keepdims=True)
        p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return p if kind is n.LogSoftmax else np.exp(p)

    for scale in (1e-2, 1.0, 30.0):
        for _ in range(50):
            x, d = rng.normal(size=shape) * rng.choice([0.1, 5.0]), rng.normal(size=shape) * scale
            found = e.unweighted_step(node, [shape], [one(np.linalg.norm(x), 0.0, np.linalg.norm(d))])
            assert np.linalg.norm(image(x)) <= found.norm[0]
            assert np.linalg.norm(image(x + d) - image(x)) <= found.difference[0]
    far = np.zeros((1, 2)), np.array([[1e-3, -1e-3]])
    found = e.unweighted_step(node, [(1, 2)], [one(0.0, 0.0, np.linalg.norm(far[1]))]).difference[0]
    attained = np.linalg.norm(image(sum(far)) - image(far[0]))
    assert attained <= found and attained >= found * (0.7 if kind is n.LogSoftmax else 1 - 1e-5)


def test_weights_of_a_layer_within_a_wide_radius() -> None:
    """Radii of both errors and of the target's own weights count, in the norm of W + E as well."""
    rng = np.random.default_rng(5)
    node = n.Dense(inputs=(0,), kernel=rng.uniform(0.5, 1, (4, 3)), kernel_error=0.125)
    norms = e.layer_norms(node, (4,), (3,), LayerErrors(positive_center=None, positive_radius=0.25))
    w = np.asarray(node.kernel)
    assert norms.whole.target >= np.linalg.norm(1.125 * w, 2)
    assert norms.whole.changed >= np.linalg.norm(1.125 * w + 0.25, 2)
    assert norms.whole.error >= 0.25 * math.sqrt(12)
    assert np.all(norms.rows.changed >= np.linalg.norm(1.125 * w + 0.25, axis=0) * (1 - 1e-15))
