"""Both networks in fixed point, against rational arithmetic with no tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from exact import exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import ALL_NETWORKS, drawer, grouped, residual
from targets import bent

from slth_compile.certificate import certificate, engine
from slth_compile.certificate.fixed_point import layers as exact_layer_module
from slth_compile.certificate.fixed_point import limbs, points
from slth_compile.certificate.fixed_point.constants import PRECISION, Reals, chain
from slth_compile.certificate.fixed_point.layers import ExactLayer, OutOfPlacesError, exact_layers
from slth_compile.certificate.fixed_point.limbs import LARGEST_LIMB, Places
from slth_compile.certificate.fixed_point.points import Exact, enclose_points
from slth_compile.certificate.pair import pair_of
from slth_compile.domain import Points
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)
UNIT = Fraction(1, 2**PRECISION)


def values(found: Any, head: int = 0) -> np.ndarray:
    """What limbs `(places, ...)` stand for, as fractions."""
    whole = np.vectorize(lambda v: Fraction(int(v)), otypes=[object])(np.asarray(found))
    return sum(whole[a] * Fraction(2) ** (20 * (head - a)) for a in range(len(whole)))


# ---------------------------------------------------------------- limbs

carried, signs, larger_of = limbs.program(limbs.carried, 1), limbs.program(limbs.signs), limbs.program(limbs.larger)


@given(seeds, st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_carrying_keeps_the_value_but_for_what_it_drops(seed: int, classes: int, count: int) -> None:
    count = min(count, classes)
    rng = np.random.default_rng(seed)
    sums = rng.integers(-(2**52), 2**52, (classes, 5)).astype(np.float64)
    sums = np.where(rng.random(sums.shape) < 0.3, rng.choice([2.0**52, -(2.0**52), 2.0**19, -(2.0**19), 0.0]), sums)
    with jax.enable_x64(True):
        found = np.asarray(carried(sums, count))
    unit = Fraction(2) ** (-20 * (count - 1))
    off = values(sums) - values(found)
    assert all(abs(v) <= Fraction(3, 4) * unit for v in off) if count < classes else not off.any()
    assert np.all(np.abs(found[1:]) <= LARGEST_LIMB)


@given(seeds, st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_signs_are_those_of_the_numbers(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    ends = rng.choice([LARGEST_LIMB, -LARGEST_LIMB, 0.0, 0.0, 1.0, -1.0], (count, 50))
    ends[: rng.integers(count)] *= rng.random(50) < 0.5
    with jax.enable_x64(True):
        found, larger = np.asarray(signs(ends)), np.asarray(larger_of(ends[:, :25], ends[:, 25:]))
    assert [np.sign(v) for v in found] == [(v > 0) - (v < 0) for v in values(ends)]
    exactly = values(ends)
    assert list(values(larger)) == [max(a, b) for a, b in zip(exactly[:25], exactly[25:], strict=True)]


@given(st.lists(st.floats(-(2.0**18), 2.0**18), min_size=1, max_size=4), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_digits_are_the_nearest(numbers: list[float], count: int) -> None:
    found, off = limbs.digits(np.array(numbers), Places(0, count))
    apart = [abs(Fraction(v) - w) for v, w in zip(numbers, values(found), strict=True)]
    assert max(apart) == Fraction(off)
    assert max(apart) <= Fraction(limbs.Places(0, count).unit) / 2


# ---------------------------------------------------------------- constants


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_folding_to_hundreds_of_bits(seed: int) -> None:
    """Two norms and an affine map, variances whose roots are rational; the error counted is never exceeded."""
    rng = np.random.default_rng(seed)
    bias, scale, shift = (rng.normal(0, 1, 3) for _ in range(3))
    roots = rng.integers(1, 9, (2, 3)) / 4
    norms = [
        n.BatchNorm(
            inputs=(1,),
            mean=rng.normal(0, 1, 3),
            variance=root**2 - 0.03125,
            scale=rng.normal(0, 1, 3) if seed % 2 else None,
            bias=rng.normal(0, 1, 3) if seed % 3 else None,
            epsilon=0.03125,
        )
        for root in roots
    ]
    found = chain((norms[0], n.Affine(inputs=(1,), scale=scale, shift=shift), norms[1]), bias, 3)
    for channel in range(3):
        for constant, start, own in zip(found, (1, 0), (Fraction(1), Fraction(bias[channel])), strict=True):
            for position in (0, 1, 2):
                if position == 1:
                    factor, mean, offset = Fraction(scale[channel]), Fraction(0), Fraction(shift[channel])
                else:
                    norm = norms[position // 2]
                    factor = 1 / Fraction(roots[position // 2][channel])
                    factor *= 1 if norm.scale is None else Fraction(norm.scale[channel])
                    mean = Fraction(norm.mean[channel])
                    offset = Fraction(0) if norm.bias is None else Fraction(norm.bias[channel])
                own = own * factor if start else (own - mean) * factor + offset
            assert constant is not None
            assert abs(Fraction(constant.values[channel]) * UNIT - own) <= constant.error * UNIT
            assert constant.error < 2**24


@given(seeds, st.integers(-2, 2), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_digits_of_reals(seed: int, head: int, count: int) -> None:
    reals = Reals.of(np.random.default_rng(seed).normal(0, 1, 6) * 2.0 ** (20 * head))
    found, off = reals.digits(Places(head, count))
    for exactly, near in zip(reals.values, values(found, head), strict=True):
        assert abs(Fraction(exactly) * UNIT - near) + UNIT * reals.error <= Fraction(off)
    assert off <= limbs.Places(head, count).unit


# ---------------------------------------------------------------- networks


def layers_of(weights: Mapping[int, LayerWeights]) -> dict[int, ExactLayer]:
    """Layers of float64 weights, with shifts for biases."""
    return {
        i: ExactLayer(
            (np.asarray(w.positive),),
            None if w.negative is None else (np.asarray(w.negative),),
            None,
            None if w.bias is None else Reals.of(np.asarray(w.bias)),
        )
        for i, w in weights.items()
    }


def random_weights(graph: Graph, rng: np.random.Generator, signed: bool) -> dict[int, LayerWeights]:
    """Weights near the graph's own, a kernel for each sign where asked for."""
    found = {}
    for i in graph.layers:
        node = graph.nodes[i]

        def near(array: np.ndarray) -> np.ndarray:
            return array + rng.integers(-8, 9, array.shape) * 2.0**-30

        bias = None if node.bias is None else near(node.bias)
        found[i] = LayerWeights(near(node.kernel), near(node.kernel) if signed else None, bias)
    return found


MANY = Places(1, 7)
QUICK = [(residual, MANY), (grouped, MANY)]
SLOW = [(make, places) for make in (*ALL_NETWORKS, bent) for places in (Places(0, 2), MANY)]
CASES = QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in QUICK]


@pytest.mark.parametrize(("make", "places"), CASES)
def test_differences_are_enclosed(make: Any, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any number of places; narrowly where there are enough, first limbs that are empty included."""
    rng = np.random.default_rng(7)
    graph = fold(make(drawer(rng, coarse=False)))
    f, g = random_weights(graph, rng, signed=False), random_weights(graph, rng, signed=True)
    x = rng.normal(0, 1, (3, *graph.input_shape))
    x[1] = np.round(4 * x[1]) / 4
    x[2] *= 2.0**-40
    monkeypatch.setattr(points, "_first_guess", lambda *_: places)
    monkeypatch.setattr(points, "_missing", lambda _: 0)
    found = enclose_points(graph, Exact(layers_of(f), layers_of(g)), {}, x)
    for row, point in enumerate(x):
        pair = [exact_evaluate(graph, point, weights) for weights in (f, g)]
        for leaf, a, b in zip(found, *pair, strict=True):
            assert is_inside(leaf, row, np.asarray(b - a, object))
            middle = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
            assert is_inside(middle, row, np.asarray(a, object))
            if places.limbs > 2:
                assert np.all(leaf.upper[row] - leaf.lower[row] <= 2.0**-46 * np.abs(leaf.upper[row]) + 2.0**-80)


def test_what_products_drop_is_in_the_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and weights that their limbs hold exactly: nothing but the products' last limbs is lost."""
    rng = np.random.default_rng(4)
    x, kernel = rng.integers(-(2**20), 2**20, (3, 50)) * 2.0**-20, rng.integers(-(2**40), 2**40, (50, 7)) * 2.0**-40
    graph = Graph((n.Input(shape=(50,)), n.Dense(inputs=(0,), kernel=kernel)), (1,))
    monkeypatch.setattr(points, "_first_guess", lambda *_: Places(0, 2))
    monkeypatch.setattr(points, "_missing", lambda _: 0)
    layers = Exact({1: ExactLayer((0 * kernel,))}, {1: ExactLayer((kernel,))})
    (found,) = enclose_points(graph, layers, {}, x)
    for row, point in enumerate(x):
        assert is_inside(found, row, np.asarray(exact_evaluate(graph, point)[0], object))


def test_long_sums_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of channels, carried one by one, and a sum that float64 could not hold."""
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.4, 0.5, (7000, 2))
    graph = Graph((n.Input(shape=(7000,)), n.Dense(inputs=(0,), kernel=kernel)), (1,))
    exact = Exact({1: ExactLayer((kernel,))}, {1: ExactLayer((kernel + 2.0**-30,))})
    x = rng.uniform(0.4, 0.5, (1, 7000))
    (found,) = enclose_points(graph, exact, {}, x)
    truth = sum(map(Fraction, x[0])) * Fraction(2) ** -30
    assert is_inside(found, 0, np.array([truth, truth]))
    assert np.all(found.upper - found.lower < 2.0**-20 * found.upper)
    monkeypatch.setattr(exact_layer_module, "MOST_PRODUCTS", 1)
    with pytest.raises(OutOfPlacesError, match="products in a sum"):
        enclose_points(graph, exact, {}, x)


def test_blocks_that_cancel_are_not_rounded() -> None:
    """Six blocks of 2^52 and more, of both signs: their sum is one, and float64 would have lost it."""
    large = 2.0**19
    x, kernel = np.full(6 * 16384, large), np.full(6 * 16384, large)
    kernel[0] = x[0] = x[-1] = large + 1
    kernel[len(kernel) // 2 :] *= -1
    kernel[-2] = -(large + 1)
    graph = Graph((n.Input(shape=(len(x),)), n.Dense(inputs=(0,), kernel=kernel[:, None])), (1,))
    layers = {1: ExactLayer((kernel[:, None],))}
    networks = Exact(layers, {1: ExactLayer((np.zeros((len(x), 1)),))})
    (found,) = enclose_points(graph, networks, {}, x[None])
    truth = sum(int(a) * int(b) for a, b in zip(x, kernel, strict=True))
    assert abs(truth) < 4
    assert is_inside(found, 0, np.array([Fraction(-truth)]))


def test_large_numbers_take_another_first_limb() -> None:
    kernel = np.array([[3.0, -1.0], [2.0, 5.0]])
    nodes = (n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=kernel), n.Relu(inputs=(1,)), n.Multiply(inputs=(2, 2)))
    graph = Graph(nodes, (3,))
    exact = Exact({1: ExactLayer((kernel,))}, {1: ExactLayer((kernel + 2.0**-20,))})
    x = np.array([[2.0**21 + 1, 7.0]])
    (found,) = enclose_points(graph, exact, {}, x)
    pair = [exact_evaluate(graph, x[0], {1: LayerWeights(k)}) for k in (kernel, kernel + 2.0**-20)]
    assert is_inside(found, 0, pair[1][0] - pair[0][0])
    assert np.all(found.upper - found.lower <= 2.0**-23 * np.abs(found.upper).max())
    with pytest.raises(OutOfPlacesError, match="places"):
        enclose_points(graph, exact, {}, np.array([[1e30, 0.0]]))
    with pytest.raises(OutOfPlacesError, match="weight of"):
        enclose_points(graph, exact._replace(f={1: ExactLayer((kernel * 1e6,))}), {}, x)


def test_norms_are_never_rounded() -> None:
    """A batch norm with a rational root: the difference is known far closer than folding in float64 would allow."""
    rng = np.random.default_rng(3)
    norm = n.BatchNorm(inputs=(1,), mean=rng.normal(0, 1, 2), variance=np.array([0.5, 2.0]), epsilon=0.25)
    alone = n.BatchNorm(
        inputs=(0,), mean=np.zeros(3), variance=np.full(3, 2.0), scale=rng.normal(0, 1, 3), epsilon=0.25
    )
    layer = n.Dense(inputs=(0,), kernel=rng.normal(0, 1, (3, 2)), bias=rng.normal(0, 1, 2))
    for nodes in ((n.Input(shape=(3,)), layer, norm), (n.Input(shape=(3,)), alone)):
        f = Graph(nodes, (len(nodes) - 1,))
        moved = dataclasses.replace(nodes[-1], mean=nodes[-1].mean + 2.0**-50)
        g = dataclasses.replace(f, nodes=(*nodes[:-1], moved))
        pair = pair_of(f, g)
        assert pair.exact is not None
        x = rng.normal(0, 1, (1, 3))
        (found,) = enclose_points(pair.graph, pair.exact, pair.errors, x)
        scale = 1 if nodes[-1].scale is None else np.vectorize(Fraction, otypes=[object])(nodes[-1].scale)
        root = np.vectorize(lambda v: Fraction(np.sqrt(v + 0.25)), otypes=[object])(nodes[-1].variance)
        before, after = (np.vectorize(Fraction, otypes=[object])(m.mean) for m in (nodes[-1], moved))
        truth = -(after - before) * scale / root
        assert is_inside(found, 0, truth)
        assert np.all(found.upper - found.lower <= 2.0**-22 * np.abs(found.upper))


# ---------------------------------------------------------------- certificates


def deep(rng: np.random.Generator, depth: int = 40, width: int = 16) -> Graph:
    """A network whose outputs stay near one while the product of its row sums is beyond 2^60."""
    nodes: list[n.Node] = [n.Input(shape=(width,))]
    for _ in range(depth):
        kernel = rng.normal(0, (2 / width) ** 0.5, (width, width))
        nodes.append(n.Dense(inputs=(len(nodes) - 1,), kernel=kernel, bias=rng.normal(0, 0.1, width)))
        nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
    return Graph((*nodes, n.Dense(inputs=(len(nodes) - 1,), kernel=rng.normal(0, 1, (width, 2)))), (len(nodes),))


def test_deep_networks_are_certified_exactly() -> None:
    rng = np.random.default_rng(5)
    f = deep(rng)
    g = dataclasses.replace(
        f,
        nodes=tuple(
            dataclasses.replace(node, kernel=node.kernel + rng.integers(-8, 9, node.kernel.shape) * 2.0**-40)
            if isinstance(node, n.Dense)
            else node
            for node in f.nodes
        ),
    )
    pair = pair_of(f, g)
    domain = Points(rng.uniform(0, 1, (6, 16)))
    errors = pair.errors_on(domain)
    found, _ = certificate.certify_enclosed(pair.graph, errors, domain, 0, exact=pair.exact)
    assert (found.method, found.arithmetic, found.float32) == ("exact", "real", None)
    truth = max(
        max(abs(v) for v in exact_evaluate(g, x)[0] - exact_evaluate(f, x)[0])  # type: ignore[operator]
        for x in domain.x
    )
    assert Fraction(found.lower) <= truth <= Fraction(found.bound) <= truth * Fraction(1 + 2.0**-19)
    without, _ = certificate.certify_enclosed(pair.graph, errors, domain, 0)
    assert without.method == "points"
    assert without.bound > 2 * found.bound


def test_smooth_nodes_go_on_in_intervals() -> None:
    """What reads a number without an exact result is left to intervals, which start from numbers that are exact."""
    rng = np.random.default_rng(6)
    nodes = deep(rng, depth=20).nodes
    last = len(nodes) - 1
    f = Graph((*nodes, n.Tanh(inputs=(last,)), n.Softmax(inputs=(last + 1,), axis=0)), (last + 2, last))
    weights = {i: f.nodes[i].kernel + rng.integers(-8, 9, f.nodes[i].kernel.shape) * 2.0**-30 for i in f.layers}
    g = dataclasses.replace(
        f,
        nodes=tuple(
            dataclasses.replace(node, kernel=weights[i]) if i in weights else node for i, node in enumerate(f.nodes)
        ),
    )
    pair, x = pair_of(f, g), rng.uniform(0, 1, (3, 16))
    assert pair.exact is not None
    soft, plain = enclose_points(pair.graph, pair.exact, pair.errors_on(Points(x)), x)
    for row, point in enumerate(x):
        a, b = (np.array(exact_evaluate(Graph(h.nodes[: last + 1], (last,)), point)[0]) for h in (f, g))
        assert is_inside(plain, row, b - a)
        ends = [np.exp(np.tanh(v.astype(np.longdouble))) for v in (a, b)]
        moved = ends[1] / ends[1].sum() - ends[0] / ends[0].sum()
        assert np.all((soft.lower[row] - 4e-16 <= moved) & (moved <= soft.upper[row] + 4e-16))
    assert np.all(soft.upper - soft.lower < 1e-13)


def test_points_that_do_not_fit_at_once_are_enclosed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunk by chunk, the last one not full, every point as it is alone."""
    rng = np.random.default_rng(7)
    f, g = deep(rng, depth=4), deep(rng, depth=4)
    pair, x = pair_of(f, g), rng.uniform(0, 1, (5, 16))
    assert pair.exact is not None
    (together,) = enclose_points(pair.graph, pair.exact, pair.errors, x)
    monkeypatch.setattr(points, "_points_at_once", lambda *_: 2)
    told = []
    (found,) = enclose_points(pair.graph, pair.exact, pair.errors, x, lambda *step: told.append(step))
    assert told[-1] == ("certify", 5, 5)
    assert found.lower.shape == together.lower.shape == (5, *pair.graph.shapes[pair.graph.outputs[0]])
    for row, point in enumerate(x):
        moved = np.subtract(exact_evaluate(g, point)[0], exact_evaluate(f, point)[0])
        assert is_inside(found, row, moved)
        assert is_inside(together, row, moved)


def test_scalars_are_left_to_intervals() -> None:
    nodes = (n.Input(shape=(2, 3)), n.Dense(inputs=(0,), kernel=np.ones((3, 2))), n.Mean(inputs=(1,), axes=(0, 1)))
    graph = Graph((*nodes, n.LeakyRelu(inputs=(2,), slope=0.5)), (3,))
    moved = ExactLayer((np.full((3, 2), 1 + 2.0**-20),))
    g = dataclasses.replace(
        graph, nodes=(nodes[0], dataclasses.replace(nodes[1], kernel=moved.positive[0]), *graph.nodes[2:])
    )
    pair, x = pair_of(graph, g), np.arange(12.0).reshape(2, 2, 3)
    assert pair.exact is not None
    (found,) = enclose_points(pair.graph, pair.exact, pair.errors, x)
    for row, point in enumerate(x):
        truth = exact_evaluate(g, point)[0] - exact_evaluate(graph, point)[0]
        assert is_inside(found, row, np.asarray(truth, object))


def test_intervals_serve_where_limbs_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    f = deep(rng, depth=16)
    pair = pair_of(f, f)

    def fails(*_: Any) -> None:
        raise OutOfPlacesError

    monkeypatch.setattr(engine, "enclose_points", fails)
    x = rng.uniform(0, 1, (2, 16))
    assert engine.enclose_closest(pair.graph, pair.errors_on(Points(x)), pair.exact, x).method == "points"
    assert exact_layers(f).keys() == pair.errors.keys()
