"""The interval engine against exact rational arithmetic: never below the truth, and equal to it where theory says so."""

from __future__ import annotations

import dataclasses
import itertools
from decimal import Decimal, localcontext
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact_evaluate
from hypothesis import given, settings
from random_networks import NETWORKS, Case, drawer, random_case

from slth_compile.certificate import certificate, enclosure, relaxations
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference, bound_tolerances
from slth_compile.certificate.enclosure import Interval
from slth_compile.domain import Box, Points
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph

REGIONS = 4
seeds = st.integers(0, 2**32 - 1)


def difference_at(case: Case, x: np.ndarray) -> list[np.ndarray]:
    """Ticket minus target at `x`, exactly."""
    pair = (exact_evaluate(case.graph, x, weights) for weights in (case.ticket, case.target))
    return [g - f for g, f in zip(*pair, strict=True)]


def is_inside(leaf: Difference, region: int, values: np.ndarray) -> bool:
    """Whether exact values lie within the enclosures of one region, with no tolerance."""
    ends = zip(leaf.lower[region].flat, values.flat, leaf.upper[region].flat, strict=True)
    return all(Fraction(low) <= value <= Fraction(high) for low, value, high in ends)


def random_regions(rng: np.random.Generator, shape: tuple[int, ...], nonnegative: bool, coarse: bool):
    """A box, a ball of radius 1e-3, and two points."""
    x = rng.uniform(0 if nonnegative else -1, 1, (REGIONS, *shape))
    x = np.round(x * 4) / 4 if coarse else x
    radius = np.array([0.3, 1e-3, 0, 0]).reshape(-1, *(1,) * len(shape))
    lower, upper = x - radius, x + radius
    return (np.maximum(lower, 0), np.maximum(upper, 0)) if nonnegative else (lower, upper)


def inputs_of(rng: np.random.Generator, lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    """Corners and inner points of a region, as fractions."""
    shares = [rng.integers(0, 2, lower.shape), rng.integers(0, 2, lower.shape), rng.integers(0, 9, lower.shape)]
    weights = [share * (8 if i < 2 else 1) for i, share in enumerate(shares)]
    low, high = (np.vectorize(Fraction, otypes=[object])(v) for v in (lower, upper))
    return [low + (high - low) * np.vectorize(lambda w: Fraction(int(w), 8), otypes=[object])(w) for w in weights]


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=200, deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = bound_difference(case.graph, case.errors, lower, upper)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            for leaf, values in zip(found, difference_at(case, x), strict=True):
                assert is_inside(leaf, region, values)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)


@given(seeds, st.booleans())
@settings(max_examples=30, deadline=None)
def test_huge_and_tiny_weights_stay_enclosed(seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False, float(rng.choice([1e-310, 1e-200, 1e-160, 1e100, 1e160])))
    case = random_case(NETWORKS[2](draw), rng, float(rng.choice([1e-3, 1e-120])), draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, False)
    scale = float(rng.choice([1.0, 1e-309, 1e150]))
    found = bound_difference(case.graph, case.errors, lower * scale, upper * scale)
    for x in inputs_of(rng, lower[0] * scale, upper[0] * scale):
        for leaf, values in zip(found, difference_at(case, x), strict=True):
            ends = zip(leaf.lower[0].flat, values.flat, leaf.upper[0].flat, strict=True)
            for low, value, high in ends:
                assert (low == -np.inf or Fraction(low) <= value) and (high == np.inf or value <= Fraction(high))


@given(st.sampled_from(NETWORKS), seeds, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_point_leaves_only_rounding(network, seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = _certain(random_case(network(draw), rng, 1e-2, draw, nonnegative))
    x, _ = random_regions(rng, case.graph.input_shape, nonnegative, False)
    for leaf in bound_difference(case.graph, case.errors, x, x):
        assert np.all(leaf.upper - leaf.lower < 1e-12)
        assert np.all(leaf.output_upper - leaf.output_lower < 1e-12)


def _certain(case: Case) -> Case:
    """The case without any radius, up to 2^-60."""
    nodes = [
        dataclasses.replace(node, kernel_error=0.0, bias_error=None) if i in case.errors else node
        for i, node in enumerate(case.graph.nodes)
    ]
    errors = {
        i: dataclasses.replace(
            e,
            positive_radius=np.zeros_like(e.positive_center),
            negative_radius=None if e.negative_center is None else np.zeros_like(e.negative_center),
        )
        for i, e in case.errors.items()
    }
    return dataclasses.replace(case, graph=Graph(tuple(nodes), case.graph.outputs), errors=errors)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_one_layer_over_a_box_is_tight(seed: int) -> None:
    """Per output, the sup over the box of `E_p max(z, 0) + E_n min(z, 0) + e_b`; no coordinate changes sign."""
    rng = np.random.default_rng(seed)
    kernel, positive, negative, bias = (rng.normal(size=s) for s in ((6, 3), (6, 3), (6, 3), (3,)))
    graph = Graph((n.Input(shape=(6,)), n.Dense(inputs=(0,), kernel=kernel, bias=bias)), (1,))
    zero = np.zeros((6, 3))
    errors = {
        1: LayerErrors(
            positive_center=positive, positive_radius=zero, negative_center=negative, negative_radius=zero, bias_center=bias
        )
    }
    centre = rng.uniform(0.5, 1, 6) * rng.choice([-1, 1], 6)
    lower, upper = centre - 0.25, centre + 0.25
    (leaf,) = bound_difference(graph, errors, lower[None], upper[None])
    used = np.where(centre[:, None] > 0, positive, negative)
    ends = used * lower[:, None], used * upper[:, None]
    np.testing.assert_allclose(leaf.upper[0], np.maximum(*ends).sum(0) + bias, rtol=0, atol=1e-12)
    np.testing.assert_allclose(leaf.lower[0], np.minimum(*ends).sum(0) + bias, rtol=0, atol=1e-12)


@given(st.sampled_from(NETWORKS), seeds, st.booleans())
@settings(max_examples=40, deadline=None)
def test_tolerances_contain_all_errors_within_them(network, seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-3, draw, nonnegative)
    eta = {i: _tolerance(e) for i, e in case.errors.items()}
    regions = random_regions(rng, case.graph.input_shape, nonnegative, False)
    inner = bound_difference(case.graph, case.errors, *regions)
    outer = bound_tolerances(case.graph, eta, case.signed, *regions)
    for a, b in zip(inner, outer, strict=True):
        slack = 1e-12 * np.maximum(np.abs(b.lower), np.abs(b.upper))
        assert np.all(b.lower <= a.lower + slack) and np.all(a.upper <= b.upper + slack)


def _tolerance(e: LayerErrors) -> tuple[float, float]:
    pairs = [(e.positive_center, e.positive_radius), (e.negative_center, e.negative_radius)]
    kernel = max(float((np.abs(c) + r).max()) for c, r in pairs if c is not None)
    return kernel * (1 + 1e-15), 0.0 if e.bias_center is None else float((np.abs(e.bias_center) + e.bias_radius).max())


def test_chunks_do_not_change_bounds() -> None:
    rng = np.random.default_rng(0)
    draw = drawer(rng, False)
    case = random_case(NETWORKS[0](draw), rng, 1e-3, draw, True)
    x = rng.uniform(0, 1, (7, *case.graph.input_shape))
    (whole,) = bound_difference(case.graph, case.errors, x, x + 0.1)
    (parts,) = bound_difference(case.graph, case.errors, x, x + 0.1, chunk_bytes=1)
    assert whole.lower.shape == parts.lower.shape == (7, 3)
    np.testing.assert_allclose(whole.upper, parts.upper, rtol=1e-12)


# Radii of the kernel's shape, one entry an output channel, one a layer.


@pytest.mark.parametrize("network", NETWORKS)
def test_coarser_radii_enclose_finer_ones(network) -> None:
    rng = np.random.default_rng(1)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-2, draw, False)
    regions = random_regions(rng, case.graph.input_shape, False, False)
    results = []
    for reduce in (lambda r: r, lambda r: r.max(tuple(range(r.ndim - 1))), lambda r: float(r.max())):
        errors = {i: _with_radii(e, reduce) for i, e in case.errors.items()}
        results.append(bound_difference(case.graph, errors, *regions))
    for finer, coarser in itertools.pairwise(results):
        for a, b in zip(finer, coarser, strict=True):
            assert np.all(b.lower <= a.lower + 1e-13) and np.all(a.upper <= b.upper + 1e-13)


def _with_radii(e: LayerErrors, reduce) -> LayerErrors:
    negative = None if e.negative_center is None else reduce(np.abs(e.negative_center) * 0.01)
    return dataclasses.replace(e, positive_radius=reduce(np.abs(e.positive_center) * 0.01), negative_radius=negative)


# Exact suprema by enumerating all linear pieces.


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_never_below_the_true_supremum_of_small_networks(inputs: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(inputs)
    for _ in range(6):
        draw = drawer(rng, bool(rng.random() < 0.3))
        case = random_case(_tiny(draw, inputs), rng, 0.1, draw, nonnegative)
        lower = rng.uniform(0, 0.5, inputs) if nonnegative else rng.uniform(-1, 0, inputs)
        upper = lower + rng.uniform(0, 1, inputs)
        (leaf,) = bound_difference(case.graph, case.errors, lower[None], upper[None])
        for x in vertices_of_pieces(case, lower, upper):
            (values,) = difference_at(case, x)
            assert is_inside(leaf, 0, values)


def _tiny(draw, inputs: int) -> Graph:
    nodes = (
        n.Input(shape=(inputs,)),
        n.Dense(inputs=(0,), kernel=draw(inputs, 4), bias=draw(4)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(4, 4), bias=draw(4)),
        n.Reshape(inputs=(3,), shape=(4, 1)),
        n.MaxPool(inputs=(4,), window=(2,), stride=(2,), padding=((0, 0),)),
        n.LeakyRelu(inputs=(5,), slope=0.25),
        n.Reshape(inputs=(6,), shape=(2,)),
        n.Dense(inputs=(7,), kernel=draw(2, 2), bias=draw(2)),
    )
    return Graph(nodes, (8,))


def vertices_of_pieces(case: Case, lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    """Every vertex of every piece of the box on which both networks are linear: a linear difference peaks at one."""
    low, high = ([Fraction(v) for v in ends] for ends in (lower, upper))
    if len(low) == 1:
        box = [(low[0],), (high[0],)]
    else:
        box = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    waiting, found = [box], {}
    while waiting:
        polygon = waiting.pop()
        signs = [_kinks(case, vertex) for vertex in polygon]
        split = next((k for k in zip(*signs, strict=True) if min(k) < 0 < max(k)), None)
        if split is None:
            found.update(dict.fromkeys(polygon))
        else:
            waiting += [_half(polygon, [sign * v for v in split]) for sign in (1, -1)]
    return [np.array(vertex, object) for vertex in found]


def _kinks(case: Case, vertex: tuple[Fraction, ...]) -> list[Fraction]:
    kinks: list[Fraction] = []
    for weights in (case.target, case.ticket):
        exact_evaluate(case.graph, np.array(vertex, object), weights, kinks)
    return kinks


def _half(polygon: list[tuple[Fraction, ...]], values: list[Fraction]) -> list[tuple[Fraction, ...]]:
    """The part of a convex polygon where a function, linear on it and known at its vertices, is not negative."""
    kept = []
    for (a, va), (b, vb) in zip(zip(polygon, values), zip(polygon[1:] + polygon[:1], values[1:] + values[:1])):
        if va >= 0:
            kept.append(a)
        if va * vb < 0:
            kept.append(tuple(p + (q - p) * va / (va - vb) for p, q in zip(a, b)))
    return list(dict.fromkeys(kept))


# Relaxations alone.

small = st.integers(-6, 6).map(float)
tiny_or_large = st.sampled_from([-1e-300, -1e-17, -2.0**-60, 0.0, 2.0**-60, 1e-17, 1.0, -1.0, 3.0, -1e8, 1e8])


def image(function, *ends: float, **options) -> tuple[float, float]:
    with jax.enable_x64(True):
        arrays = [jnp.asarray([v], jnp.float64) for v in ends]
        pairs = [Interval(*arrays[i : i + 2]) for i in range(0, len(arrays), 2)]
        found = function(*pairs, **options)
        return float(found.lower[0]), float(found.upper[0])


def activation(y: Fraction, slope: Fraction) -> Fraction:
    return max(y, slope * y)


@given(tiny_or_large, tiny_or_large, tiny_or_large, tiny_or_large, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(max_examples=400, deadline=None)
def test_activation_difference_is_the_exact_image(a: float, b: float, c: float, d: float, slope: float) -> None:
    (yl, yu), (dl, du), s = sorted((a, b)), sorted((c, d)), Fraction(slope)
    low, high = image(relaxations.activation_difference, yl, yu, dl, du, slope=slope)
    ys, ds = _grid(yl, yu), _grid(dl, du)
    values = [activation(y + d, s) - activation(y, s) for y in ys for d in ds]
    assert Fraction(low) <= min(values) and max(values) <= Fraction(high)
    size = Fraction(1, 10**15) * (max(map(abs, ds)) * 4) + Fraction(1, 10**300)
    assert max(values) >= Fraction(high) - size and min(values) <= Fraction(low) + size


def _grid(low: float, high: float) -> list[Fraction]:
    a, b = Fraction(low), Fraction(high)
    inner = [a + (b - a) * Fraction(k, 8) for k in range(9)]
    return inner + ([Fraction(0)] if a <= 0 <= b else [])


@given(*[small] * 6, st.sampled_from([0.0, 0.5]))
@settings(max_examples=400, deadline=None)
def test_activation_difference_clipped_to_the_ticket(a, b, c, d, e, f, slope: float) -> None:
    (yl, yu), (dl, du), (zl, zu) = sorted((a, b)), sorted((c, d)), sorted((e, f))
    grids = [[Fraction(k, 2) for k in range(int(2 * low), int(2 * high) + 1)] for low, high in ((yl, yu), (dl, du))]
    pairs = [(y, d) for y, d in itertools.product(*grids) if zl <= y + d <= zu]
    if not pairs:
        return
    low, high = image(
        lambda y, d, z: relaxations.activation_difference(y, d, slope, z), yl, yu, dl, du, zl, zu
    )
    values = [activation(y + d, Fraction(slope)) - activation(y, Fraction(slope)) for y, d in pairs]
    assert Fraction(low) <= min(values) and max(values) <= Fraction(high)
    assert high - max(values) < 1e-12 and min(values) - low < 1e-12


@given(st.lists(st.tuples(small, small, small, small), min_size=1, max_size=4), seeds)
@settings(max_examples=200, deadline=None)
def test_maximum_encloses_the_difference_of_maxima(rows: list[tuple[float, ...]], seed: int) -> None:
    xs = [sorted(row[:2]) for row in rows]
    ds = [sorted(row[2:]) for row in rows]
    with jax.enable_x64(True):
        pairs = [[Interval(jnp.asarray([low]), jnp.asarray([high])) for low, high in ends] for ends in (xs, ds)]
        found, moved = (Interval(*map(np.asarray, v)) for v in relaxations.maximum_image(*pairs))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        x, d = ([low + (high - low) * rng.integers(0, 5) / 4 for low, high in ends] for ends in (xs, ds))
        z = [a + b for a, b in zip(x, d, strict=True)]
        assert found.lower[0] <= max(x) <= found.upper[0]
        assert moved.lower[0] <= max(z) - max(x) <= moved.upper[0]


@given(st.integers(2, 4), seeds, st.sampled_from([1e-9, 0.1, 30.0]))
@settings(max_examples=60, deadline=None)
def test_softmax_rules_enclose_high_precision_values(size: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, d = rng.normal(0, 2, size), rng.normal(0, 1, size) * scale
    with jax.enable_x64(True):
        pairs = [Interval(jnp.asarray(v), jnp.asarray(v)) for v in (x, d)]
        soft = relaxations.softmax_image(*pairs, 0)
        logs = relaxations.log_softmax_image(*pairs, 0)
    with localcontext() as context:
        context.prec = 60
        tables = []
        for shift in (np.zeros(size), d):
            powers = [(Decimal(a) + Decimal(b)).exp() for a, b in zip(x.tolist(), shift.tolist(), strict=True)]
            tables.append([p / sum(powers) for p in powers])
        for i, (f, g) in enumerate(zip(*tables, strict=True)):
            for (value, moved), a, b in ((soft, f, g), (logs, f.ln(), g.ln())):
                assert Decimal(float(value.lower[i])) <= a <= Decimal(float(value.upper[i]))
                assert Decimal(float(moved.lower[i])) <= b - a <= Decimal(float(moved.upper[i]))


# What everything hangs on: the same crafted inputs pass, and fail once a rounding is taken away.


def test_a_missing_outward_rounding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    y, d = -(2.0**-60), 1.0
    truth = Fraction(y) + Fraction(d)
    assert Fraction(image(relaxations.activation_difference, y, y, d, d)[0]) <= truth
    monkeypatch.setattr(relaxations, "down", lambda v: v)
    assert Fraction(image(relaxations.activation_difference, y, y, d, d)[0]) > truth


def test_a_missing_gamma_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cancelling_sum_is_enclosed()
    monkeypatch.setattr(enclosure, "gamma", lambda terms: 0.0)
    assert not _cancelling_sum_is_enclosed()


def _cancelling_sum_is_enclosed() -> bool:
    rng = np.random.default_rng(0)
    half = rng.normal(0, 1e8, (200, 4))
    kernel = rng.permuted(np.concatenate([half, -half]), axis=0)
    window = enclosure.Window(4)
    with jax.enable_x64(True):
        ones = Interval(jnp.ones((400, 1)), jnp.ones((400, 1)))
        arrays = (jnp.asarray(enclosure.arranged(k, window)) for k in (kernel, np.abs(kernel)))
        found = Interval(*map(np.asarray, enclosure.linear_image([enclosure.Term(ones, *arrays)], window, None)))
    return bool(np.all((found.lower <= 0) & (found.upper >= 0)))


def test_a_certificate_rounded_to_nearest_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 0.12345678901234
    leaf = Difference(*(np.full((1, 1), v) for v in (value, value, 0.0, 0.0)))
    assert certificate.certificate_of([leaf], "points", 0).bound >= value
    monkeypatch.setattr(certificate, "published_up", lambda v: float(f"{v:.9e}"))
    assert certificate.certificate_of([leaf], "points", 0).bound < value


# Certificates.


def _line() -> tuple[Graph, dict[int, LayerErrors]]:
    graph = Graph((n.Input(shape=(1,)), n.Dense(inputs=(0,), kernel=np.ones((1, 2)))), (1,))
    error = np.array([[0.25, -0.5]])
    return graph, {1: LayerErrors(positive_center=error, positive_radius=0.0)}


def test_certificate_of_points_and_box() -> None:
    graph, errors = _line()
    points = certificate.certify_domain(graph, errors, Points(np.array([[0.5], [2.0]])), 3)
    assert (points.domain, points.kind, points.method, points.bound) == (3, "points", "points", 1.0 + 1e-9)
    assert 1 - 1e-9 <= points.lower <= 1
    assert points.per_output[0].tolist() == [0.5000000001, 1.000000001]
    box = certificate.certify_domain(graph, errors, Box(0.0, 3.0, (1,)), 0)
    assert box.method == "interval" and box.lower == 0.0 and 1.5 <= box.bound <= 1.5 * (1 + 1e-8)
    again = certificate.Certificate.from_json(box.to_json(), graph)
    assert again.to_json() == box.to_json()


def test_overflow_gives_an_infinite_bound_and_no_nan() -> None:
    graph = Graph((n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=np.full((2, 1), 1e308))), (1,))
    errors = {1: LayerErrors(positive_center=np.full((2, 1), 1e308), positive_radius=0.0)}
    assert certificate.certify_domain(graph, errors, Box(0.0, 1e10, (2,)), 0).bound == np.inf


def test_layer_weights_semantics_match_the_float_evaluator() -> None:
    """The exact evaluator is itself checked, against the evaluator every other part uses."""
    from slth_compile.graph.evaluate import evaluate

    rng = np.random.default_rng(5)
    draw = drawer(rng, False)
    for network in NETWORKS:
        case = random_case(network(draw), rng, 0.1, draw, False)
        x = rng.normal(size=case.graph.input_shape)
        plain = {
            i: LayerWeights(*(None if a is None else np.asarray(a, np.float64) for a in w[:3]), clip=w.clip)
            for i, w in case.ticket.items()
        }
        with jax.enable_x64(True):
            floats = evaluate(case.graph, jnp.asarray(x[None]), plain)
        for a, b in zip(floats, exact_evaluate(case.graph, x, case.ticket), strict=True):
            np.testing.assert_allclose(np.asarray(a)[0], b.astype(np.float64), rtol=1e-9, atol=1e-9)
