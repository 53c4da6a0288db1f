"""The interval engine against exact rationals: never below the truth, and equal to it where theory says so."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts import examples
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from programs import at_once
from random_networks import ALL_NETWORKS as NETWORKS
from random_networks import Case, drawer, random_case

from slth_compile.certificate import difference, enclosure
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference, bound_tolerances
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import arithmetic, matrices, products
from slth_compile.checker.fold import Layer
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.graph import Graph

REGIONS = 4
seeds = st.integers(0, 2**32 - 1)


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


@pytest.mark.slow
@given(cases=st.data())
@settings(max_examples=1000, deadline=None)
def test_never_below_the_exact_difference_at_length(cases: st.DataObject) -> None:
    arguments = st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12])
    test_never_below_the_exact_difference.hypothesis.inner_test(*(cases.draw(part) for part in arguments))


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=examples(60, 4), deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = bound_difference(case.graph, case.errors, lower, upper)
    # A few regions are enclosed in NumPy, with the radii as they are.
    few = [bound_difference(case.graph, case.errors, lower[rows], upper[rows]) for rows in (slice(2), slice(2, 4))]
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            values = difference_at(case, x)
            for leaf, fewer, exact in zip(found, few[region // 2], values, strict=True):
                assert is_inside(leaf, region, exact) and is_inside(fewer, region % 2, exact)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)


@given(seeds, st.booleans())
@settings(max_examples=examples(30), deadline=None)
def test_huge_and_tiny_weights_stay_enclosed(seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False, float(rng.choice([1e-310, 1e-200, 1e-160, 1e100, 1e160])))
    case = random_case(NETWORKS[2](draw), rng, float(rng.choice([1e-3, 1e-120])), draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, False)
    scale = float(rng.choice([1.0, 1e-309, 1e150]))
    found = bound_difference(case.graph, case.errors, lower * scale, upper * scale)
    for x in inputs_of(rng, lower[0] * scale, upper[0] * scale):
        for leaf, values in zip(found, difference_at(case, x), strict=True):
            assert is_inside(leaf, 0, values)


@given(st.sampled_from(NETWORKS), seeds, st.booleans())
@settings(max_examples=examples(30), deadline=None)
def test_a_point_leaves_only_rounding(network, seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = _certain(random_case(network(draw), rng, 1e-2, draw, nonnegative))
    x, _ = random_regions(rng, case.graph.input_shape, nonnegative, False)
    for leaf in bounded(case, case.errors, (x, x)):
        assert np.all(leaf.upper - leaf.lower < 1e-12)
        assert np.all(leaf.output_upper - leaf.output_lower < 1e-11)


def bounded(case: Case, errors: Mapping[int, LayerErrors], regions: tuple[np.ndarray, np.ndarray]) -> list[Difference]:
    """What NumPy finds, and in runs of everything the compiled programs too, which take seconds."""
    found = []
    for few in (REGIONS, *([] if examples(0, 1) else [0])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(difference, "FEW_REGIONS", few)
            found += bound_difference(case.graph, errors, *regions)
    return found


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
@settings(max_examples=examples(30), deadline=None)
def test_one_layer_over_a_box_is_tight(seed: int) -> None:
    """Per output, the sup over the box of `E_p max(z, 0) + E_n min(z, 0) + e_b`; no coordinate changes sign."""
    rng = np.random.default_rng(seed)
    kernel, positive, negative, bias = (rng.normal(size=s) for s in ((6, 3), (6, 3), (6, 3), (3,)))
    graph = Graph((n.Input(shape=(6,)), n.Dense(inputs=(0,), kernel=kernel, bias=bias)), (1,))
    zero = np.zeros((6, 3))
    errors = {
        1: LayerErrors(
            positive_center=positive,
            positive_radius=zero,
            negative_center=negative,
            negative_radius=zero,
            bias_center=bias,
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
@settings(max_examples=examples(40), deadline=None)
def test_tolerances_contain_all_errors_within_them(network, seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-3, draw, nonnegative)
    eta = {i: _tolerance(e) for i, e in case.errors.items()}
    regions = random_regions(rng, case.graph.input_shape, nonnegative, False)
    inner = bounded(case, case.errors, regions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "FEW_REGIONS", examples(0, REGIONS))
        outer = bound_tolerances(case.graph, eta, case.signed, *regions)
    outer = (*outer, *outer)[: len(inner)]
    for a, b in zip(inner, outer, strict=True):
        slack = 1e-12 * np.maximum(np.abs(b.lower), np.abs(b.upper))
        assert np.all(b.lower <= a.lower + slack) and np.all(a.upper <= b.upper + slack)


@pytest.mark.parametrize("signed", [False, True])
def test_tolerances_are_attained(signed: bool) -> None:
    """`g - f` is `eta sum |x| + eta_b` where every error has its input's sign; the bound over tolerances is that."""
    kernel, eta, bias = np.array([[0.5], [-0.25], [2.0]]), 2.0**-10, 2.0**-8
    graph = Graph((n.Input(shape=(3,)), n.Dense(inputs=(0,), kernel=kernel, bias=np.ones(1))), (1,))
    x = np.array([[3.0, 5.0, 0.5], [1.0, 0.0, 0.0]])
    for point in (x, -x) if signed else (x,):
        (leaf,) = bound_tolerances(graph, {1: (eta, bias)}, {1: signed}, point, point)
        exact = eta * np.abs(point).sum(1) + bias
        for ends in (leaf.upper, -leaf.lower):
            assert np.all(ends[:, 0] >= exact) and np.all(ends[:, 0] <= exact * (1 + 1e-12))


def _tolerance(e: LayerErrors) -> tuple[float, float]:
    pairs = [(e.positive_center, e.positive_radius), (e.negative_center, e.negative_radius)]
    kernel = max(float((np.abs(c) + r).max()) for c, r in pairs if c is not None)
    return kernel * (1 + 1e-15), 0.0 if e.bias_center is None else float((np.abs(e.bias_center) + e.bias_radius).max())


def test_chunks_do_not_change_bounds() -> None:
    rng = np.random.default_rng(0)
    draw = drawer(rng, False)
    case = random_case(NETWORKS[2](draw), rng, 1e-3, draw, True)
    x = rng.uniform(0, 1, (7, *case.graph.input_shape))
    _, whole = bound_difference(case.graph, case.errors, x, x + 0.1)
    _, parts = bound_difference(case.graph, case.errors, x, x + 0.1, chunk_bytes=1)
    assert whole.lower.shape == parts.lower.shape == (7, 2)
    np.testing.assert_allclose(whole.upper, parts.upper, rtol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_coarser_radii_enclose_finer_ones(network) -> None:
    """Radii of the kernel's shape, one entry an output channel, one a layer."""
    rng = np.random.default_rng(1)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-2, draw, False)
    regions = random_regions(rng, case.graph.input_shape, False, False)
    results = []
    for reduce in (lambda r: r, lambda r: r.max(tuple(range(r.ndim - 1))), lambda r: float(r.max())):
        errors = {i: _with_radii(e, reduce) for i, e in case.errors.items()}
        results.append(bounded(case, errors, regions))
    for finer, coarser in itertools.pairwise(results):
        for a, b in zip(finer, coarser, strict=True):
            assert np.all(b.lower <= a.lower + 1e-13) and np.all(a.upper <= b.upper + 1e-13)


def _with_radii(e: LayerErrors, reduce) -> LayerErrors:
    negative = None if e.negative_center is None else reduce(np.abs(e.negative_center) * 0.01)
    return dataclasses.replace(e, positive_radius=reduce(np.abs(e.positive_center) * 0.01), negative_radius=negative)


def test_a_missing_gamma_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cancelling_sum_is_enclosed()
    monkeypatch.setattr(enclosure, "gamma", lambda terms: 0.0)
    assert not _cancelling_sum_is_enclosed()


def _cancelling_sum_is_enclosed() -> bool:
    rng = np.random.default_rng(0)
    half = rng.normal(0, 1e8, (200, 4))
    kernel = rng.permuted(np.concatenate([half, -half]), axis=0)
    window = enclosure.Window(4)
    ones = Interval(np.ones((400, 1)), np.ones((400, 1)))
    arrays = (enclosure.arranged(k, window) for k in (kernel, np.abs(kernel)))
    found = enclosure.linear_image([enclosure.Term(ones, *arrays)], window, None)
    return bool(np.all((found.lower <= 0) & (found.upper >= 0)))


@pytest.mark.parametrize("rows", [300, 512, 513, 2000])
def test_long_sums_in_blocks_stay_enclosed(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that cancel to nothing, by both engines; in blocks their enclosures are narrower than in one piece."""
    rng = np.random.default_rng(rows)
    half = rng.normal(0, 1e8, (rows // 2, 3))
    kernel = rng.permuted(np.concatenate([half, -half, np.zeros((rows % 2, 3))]), axis=0)
    values = rng.uniform(0.5, 1, (1, rows))
    exact = [sum(Fraction(v) * Fraction(w) for v, w in zip(values[0], column, strict=True)) for column in kernel.T]
    window = enclosure.Window(3)
    ones = Interval(values.T.copy(), values.T.copy())
    arrays = [enclosure.arranged(k, window) for k in (kernel, np.abs(kernel))]
    layer = Layer(0, kernel[None], None, None, (), (), (), (), 1)

    def widths() -> tuple[np.ndarray, np.ndarray]:
        own = enclosure.linear_image([enclosure.Term(ones, *arrays)], window, None)
        matrix = matrices._matrix(kernel[None], None, 1)
        ((centre, radius),) = products.enclosed_product(layer, values, None, [matrix])
        for low, high in ((own.lower[:, 0], own.upper[:, 0]), ((centre - radius)[0], (centre + radius)[0])):
            assert all(Fraction(a) <= b <= Fraction(c) for a, b, c in zip(low, exact, high, strict=True))
        return (own.upper - own.lower)[:, 0], 2 * radius[0]

    blocked = widths()
    for module in (enclosure, arithmetic, products):
        monkeypatch.setattr(module, "BLOCK", 1 << 20)
    for narrow, wide in zip(blocked, widths(), strict=True):
        assert np.all(narrow < wide / 2) == (rows > 1000)


def test_layer_weights_semantics_match_the_float_evaluator() -> None:
    """The exact evaluator is itself checked, against the evaluator every other part uses."""
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
            floats = at_once(lambda x, case=case, plain=plain: evaluate(case.graph, x, plain), jnp.asarray(x[None]))
        for a, b in zip(floats, exact_evaluate(case.graph, x, case.ticket), strict=True):
            np.testing.assert_allclose(np.asarray(a)[0], b.astype(np.float64), rtol=1e-9, atol=1e-9)
