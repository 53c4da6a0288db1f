"""Elementwise and Euclidean bounds together: true in exact arithmetic, attained, and the same on both sides."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import ALL_NETWORKS, Case, Draw, _convolution, drawer, random_case
from targets import TARGETS, Target
from test_checker_backward import checker_case, checker_net, without_radii
from test_difference import REGIONS, inputs_of, random_regions
from test_engines import checker_domain, checker_layers, random_errors, regions
from test_euclidean import walk

from slth_compile.certificate import engine, euclidean, matrix_norm, spectral
from slth_compile.certificate.backward import balls, hybrid, joined, noise
from slth_compile.certificate.backward import engine as backward
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.certificate import certificate_of, certify_domain
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference
from slth_compile.certificate.enclosure import Interval as EnclosureInterval
from slth_compile.certificate.hybrid_bounds import bound_difference_euclidean, norms_of_layers
from slth_compile.certificate.propagate import Pair
from slth_compile.checker import balls as checker_balls
from slth_compile.checker import bounds as checker_bounds
from slth_compile.checker import certificate as checker_certificate
from slth_compile.checker import combined, forms, gram, tighten
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.bounds import last_reads
from slth_compile.checker.euclidean import Lengths
from slth_compile.checker.lengths import layer_norms, walk_with_lengths
from slth_compile.checker.operations import State
from slth_compile.domain import Box
from slth_compile.errors import VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


def checker_walk(case: Case, lower: np.ndarray, upper: np.ndarray) -> list[Difference]:
    """The checker's enclosures by lengths; those of the target's output are left open."""
    folded, layers = checker_case(case)
    norms, last = layer_norms(folded, layers), last_reads(folded.graph)
    with np.errstate(all="ignore"):
        states = walk_with_lengths(folded.graph, layers, norms, State(Interval(lower, upper), None), last)
    leaves = []
    for i in folded.graph.outputs:
        d = states[i].d
        assert d is not None
        leaves.append(Difference(*d, *(np.full_like(d.lower, v) for v in (-np.inf, np.inf))))
    return leaves


@given(st.sampled_from(ALL_NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=examples(30), deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = bound_difference_euclidean(case.graph, case.errors, lower, upper)
    other = checker_walk(case, lower, upper)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            for leaf, own, exact in zip(found, other, difference_at(case, x), strict=True):
                assert is_inside(leaf, region, exact) and is_inside(own, region, exact)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)


def deep(draw: Draw) -> Graph:
    """Eight convolutions with padded pools of both kinds and a residual add, a mean, a dense layer."""
    nodes: list[n.Node] = [n.Input(shape=(5, 5, 2))]

    def add(node: n.Node) -> int:
        nodes.append(node)
        return len(nodes) - 1

    place, kept = 0, 0
    for i in range(8):
        shape = (3, 3, 4 if i else 2, 4)
        place = add(n.Relu(inputs=(add(_convolution(draw, place, shape, padding=((1, 1), (1, 1)))),)))
        if i == 1:
            place = add(n.MaxPool(inputs=(place,), window=(2, 2), stride=(1, 1), padding=((0, 0), (1, 0))))
            kept = place
        if i == 3:
            place = add(n.Add(inputs=(place, kept)))
    place = add(n.AveragePool(inputs=(place,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))))
    place = add(n.Mean(inputs=(place,), axes=(0, 1)))
    place = add(n.Dense(inputs=(place,), kernel=draw(4, 2)))
    return Graph(tuple(nodes), (place,))


def deep_case(nonnegative: bool = True, size: float = 1e-4) -> tuple[Case, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    draw = drawer(rng, False, 0.5)
    case = without_radii(random_case(deep(draw), rng, size, draw, nonnegative))
    shape = (1, *case.graph.input_shape)
    return case, np.zeros(shape) if nonnegative else -np.ones(shape), np.ones(shape)


def largest(leaf: Difference) -> np.ndarray:
    return np.maximum(np.abs(leaf.lower), np.abs(leaf.upper))


def test_both_sides_agree_and_together_they_are_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the whole box of a deep network: below passes without Euclidean bounds, and these without enclosures."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    case, lower, upper = deep_case()
    (found,) = bound_difference_backward(case.graph, case.errors, lower, upper)
    folded, layers = checker_layers(case.graph, case.graph, dict(case.errors))
    own = checker_bounds.backward_bounds(folded, layers, checker_domain("box", lower, upper))[0].upper
    np.testing.assert_allclose(largest(found)[0], own, rtol=1e-9)
    assert np.all(own <= largest(found)[0])
    (forward,) = bound_difference_euclidean(case.graph, case.errors, lower, upper)
    norms = norms_of_layers(case.graph, case.errors)
    states = walk(case.graph, norms, euclidean.entered(lower, upper, 0.5 * lower + 0.5 * upper), {})
    last = case.graph.outputs[0]
    before = states[case.graph.nodes[last].inputs[0]]
    rows = euclidean.element_bounds(norms[last], before).difference
    alone = _without_norms(monkeypatch, case, lower, upper)
    assert np.all(largest(found) < 0.98 * largest(alone))
    assert np.all(largest(found) < 0.9 * largest(forward)) and np.all(largest(forward) < 0.9 * rows)
    (intervals,) = bound_difference(case.graph, case.errors, lower, upper)
    assert np.all(largest(forward) < 0.2 * largest(intervals))


def _without_norms(monkeypatch: pytest.MonkeyPatch, case: Case, lower: np.ndarray, upper: np.ndarray) -> Difference:
    with monkeypatch.context() as patched:
        unknown = hybrid.Beside

        def nothing(beside: hybrid.Beside) -> hybrid.Beside:
            infinite = np.full_like(beside.state.norm, np.inf)
            return unknown(beside.centre, euclidean.Euclidean(infinite, infinite, infinite))

        own = hybrid.joined
        patched.setattr(joined.hybrid, "joined", lambda a, b, c, image, e: (image, nothing(own(a, b, c, image, e)[1])))
        patched.setattr(joined.hybrid, "cut", lambda pair, beside: (pair, nothing(beside)))
        patched.setattr(backward, "within", lambda beside, pair: nothing(beside))
        (leaf,) = bound_difference_backward(case.graph, case.errors, lower, upper)
    return leaf


def test_both_sides_agree_where_inputs_have_two_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    case, lower, upper = deep_case(nonnegative=False)
    (found,) = bound_difference_euclidean(case.graph, case.errors, lower, upper)
    folded, layers = checker_layers(case.graph, case.graph, dict(case.errors))
    own = checker_bounds.euclidean_bounds(folded, layers, checker_domain("box", lower, upper))[0].upper
    np.testing.assert_allclose(largest(found)[0], own, rtol=1e-11)


SLOW = ("smooth", "convnext", "transformer", "separable", "bent", "heads", "excite", "signal", "alone", "half")


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, id=t.name, marks=[pytest.mark.slow] if t.name in SLOW else []) for t in TARGETS],
)
def test_every_operation_has_the_same_bounds_on_both_sides(target: Target) -> None:
    rng = np.random.default_rng(len(target.name))
    graph = target.graph()
    folded = fold(graph)
    nonnegative = all(domain.is_nonnegative() for domain in target.domains)
    flags = nonnegative_nodes(folded, nonnegative)
    errors = random_errors(folded, {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}, rng, 1e-3)
    lower, upper = regions(rng, target.shape, nonnegative)
    found = bound_difference_euclidean(folded, errors, lower[5:], upper[5:])
    other = checker_layers(graph, folded, errors)
    for row in range(3):
        domain = checker_domain("box", lower[5 + row : 6 + row], upper[5 + row : 6 + row])
        checked = checker_bounds.euclidean_bounds(*other, domain)
        leaves = tuple(
            Difference(*(getattr(leaf, f.name)[row : row + 1] for f in dataclasses.fields(leaf))) for leaf in found
        )
        published = certificate_of(engine.Enclosed(leaves, engine.EUCLIDEAN), "box", 0)
        for leaf, own, claimed in zip(leaves, checked, published.per_output, strict=True):
            np.testing.assert_allclose(largest(leaf)[0], own.upper, rtol=1e-9, atol=1e-9 * float(own.upper.max()))
            assert np.all(own.upper <= claimed) and own.upper.max() > 0


def test_balls_count_sample_by_sample() -> None:
    """What one sample gains by a ball is no affair of its neighbours: a checker takes them one by one."""
    wide = Interval(*(np.tile(end, (4, 2)) for end in (-1.0, 1.0)))
    small, large = 2 * balls.WORTH * (1 - 1e-9), 2 * balls.WORTH * (1 + 1e-9)
    lengths = np.array([small, large])
    beside = hybrid.Beside(np.zeros((4, 2)), euclidean.Euclidean(lengths, lengths, lengths))
    found = balls._balls(Pair(EnclosureInterval(*wide), EnclosureInterval(*wide)), beside)
    assert found is not None
    for radius in (found.d, found.x[1]):
        assert radius[0] >= small and radius[0] <= small * (1 + 1e-12) and radius[1] == np.inf
    for sample in (0, 1):
        around = combined.Around(np.zeros((1, 4)), Lengths(*[lengths[sample : sample + 1]] * 3))
        ends = Interval(-np.ones((1, 4)), np.ones((1, 4)))
        own = checker_balls.balls_of(State(ends, ends), around)
        assert (own.x is None) == (own.d is None) == (sample == 1)


HADAMARD = np.array([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
MOVED = 2.0**-10


def turned(layers: int = 5) -> Case:
    """Turns of four numbers, relus between them that are never off; one number of the first bias is off by `MOVED`.

    Behind an odd number of turns all of the difference is in one element again, as long as ever.
    """
    nodes: list[n.Node] = [n.Input(shape=(4,))]
    errors = {}
    for i in range(layers):
        bias = np.full(4, 4.0 ** (i + 2))
        nodes.append(n.Dense(inputs=(len(nodes) - 1,), kernel=HADAMARD, bias=bias))
        zero = np.zeros((4, 4))
        errors[len(nodes) - 1] = LayerErrors(
            positive_center=zero,
            positive_radius=zero,
            negative_center=zero,
            negative_radius=zero,
            bias_center=np.zeros(4),
            bias_radius=np.array([0.0 if i else MOVED, 0, 0, 0]),
        )
        if i + 1 < layers:
            nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
    graph = Graph(tuple(nodes), (len(nodes) - 1,))
    exact = np.vectorize(Fraction, otypes=[object])
    weights = {}
    for part, share in (("target", 0), ("ticket", 1)):
        weights[part] = {
            i: LayerWeights(exact(node.kernel), None, exact(node.bias + share * errors[i].bias_radius))
            for i, node in enumerate(nodes)
            if isinstance(node, n.Dense) and node.bias is not None
        }
    return Case(graph, errors, weights["target"], weights["ticket"], dict.fromkeys(errors, True))


BALL = -np.ones((1, 4)), np.ones((1, 4))
X = np.vectorize(Fraction, otypes=[object])(np.array([0.5, -1.0, 0.25, 1.0]))


def by_forward(case: Case) -> Difference:
    return bound_difference_euclidean(case.graph, case.errors, *BALL)[0]


def by_passes(case: Case) -> Difference:
    jitted: Any = balls._reached
    jitted.clear_cache()
    try:
        return bound_difference_backward(case.graph, case.errors, *BALL)[0]
    finally:
        jitted.clear_cache()


def by_lengths(case: Case) -> Difference:
    return checker_walk(case, *BALL)[0]


def by_checkers_passes(case: Case) -> Difference:
    d = tighten.output_differences(checker_net(case), *BALL)[0]
    assert d is not None
    return Difference(*d, d.lower, d.upper)


ENGINES = (by_forward, by_passes, by_lengths, by_checkers_passes)


@pytest.mark.parametrize("engine_of", ENGINES)
def test_turns_keep_their_length(engine_of: Callable[[Case], Difference]) -> None:
    """The bound is attained: enclosures alone are off by the factor two that every other turn adds."""
    case = turned()
    leaf = engine_of(case)
    (exact,) = difference_at(case, X)
    assert exact.tolist() == [Fraction(MOVED), 0, 0, 0] and is_inside(leaf, 0, exact)
    assert leaf.upper.max() <= MOVED * (1 + 1e-6)
    (intervals,) = bound_difference(case.graph, case.errors, *BALL)
    assert intervals.upper.max() >= 2 * MOVED


def _shorter(found: Any) -> Any:
    if hasattr(found, "_fields"):
        return found._replace(**{name: getattr(found, name) * (1 - 1e-6) for name in found._fields[-1:]})
    return found * (1 - 1e-6)


FAULTS = (
    (by_forward, euclidean, "weighted_step"),
    (by_forward, euclidean, "element_bounds"),
    (by_forward, euclidean, "unweighted_step"),
    (by_passes, balls, "_norm"),
    (by_lengths, combined.euclidean, "weighted"),
    (by_lengths, combined.euclidean, "unweighted"),
    (by_checkers_passes, checker_balls, "highest_in"),
)


@pytest.mark.parametrize(("engine_of", "module", "name"), FAULTS)
def test_a_length_that_is_too_short_is_seen(
    engine_of: Callable[[Case], Difference], module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = turned()
    own = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: _shorter(own(*args, **kwargs)))
    if module is checker_balls:
        monkeypatch.setattr(forms, name, getattr(module, name))
    (exact,) = difference_at(case, X)
    assert not is_inside(engine_of(case), 0, exact)


def test_a_centre_is_not_an_activation() -> None:
    """Weights within half of themselves: at one input they make a box of outputs, and all of it stays."""
    node = n.Dense(inputs=(0,), kernel=np.ones((1, 1)), kernel_error=0.5)
    graph = Graph((n.Input(shape=(1,)), node, n.Relu(inputs=(1,)), n.Relu(inputs=(2,))), (3,))
    errors = {1: LayerErrors(positive_center=None, positive_radius=0.25)}
    one = np.ones((1, 1))
    for found in (bound_difference_euclidean, bound_difference_backward):
        (leaf,) = found(graph, errors, one, one)
        assert leaf.output_lower <= 0.5 and leaf.output_upper >= 1.5 and leaf.upper >= 0.25
        assert leaf.output_lower >= 0.5 - 1e-9 and leaf.output_upper <= 1.5 + 1e-9


@pytest.mark.parametrize("method", [engine.EUCLIDEAN, engine.BACKWARD])
def test_a_claim_below_what_is_found_is_refused(method: str) -> None:
    case, lower, upper = deep_case()
    folded, layers = checker_layers(case.graph, case.graph, dict(case.errors))
    domain = checker_domain("box", lower, upper)
    bounds_of = checker_bounds.euclidean_bounds if method == engine.EUCLIDEAN else checker_bounds.backward_bounds
    own = [leaf.upper.reshape(-1) for leaf in bounds_of(folded, layers, domain)]
    highest = float(own[0].max())
    claim = checker_certificate.Claim("box", method, highest, 0.0, tuple(own), "real", None)
    assert checker_certificate.check_claim(claim, 0, folded, layers, domain, quick=False).recomputed == highest
    quick = checker_certificate.check_claim(claim, 0, folded, layers, domain, quick=True)
    assert quick.recomputed is None and quick.interval is not None and quick.interval > 2 * highest
    below = tuple(leaf * (1 - 1e-13) for leaf in own)
    with pytest.raises(VerificationError, match="the difference is bounded by"):
        checker_certificate.check_claim(
            dataclasses.replace(claim, per_output=below), 0, folded, layers, domain, quick=False
        )
    weaker = dataclasses.replace(claim, method=engine.INTERVAL)
    with pytest.raises(VerificationError, match="the difference is bounded by"):
        checker_certificate.check_claim(weaker, 0, folded, layers, domain, quick=False)


def test_networks_too_large_for_passes_have_euclidean_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _, _ = deep_case()
    monkeypatch.setattr(engine, "LARGEST_WORK", 0)
    domain = Box(0.0, 1.0, case.graph.input_shape)
    found = certify_domain(case.graph, case.errors, domain, 0)
    assert (found.method, found.arithmetic) == ("euclidean", "real, float64") and found.float32 is not None
    per_output = tuple(leaf.reshape(-1) for leaf in found.per_output)
    figures = found.bound, found.lower, per_output, found.arithmetic, found.float32
    own = checker_layers(case.graph, case.graph, dict(case.errors)), checker_domain("box", *domain.regions())
    claim = checker_certificate.Claim("box", found.method, *figures)
    recomputed = checker_certificate.check_claim(claim, 0, *own[0], own[1], quick=False).recomputed
    assert recomputed is not None and recomputed == pytest.approx(found.bound, rel=2e-9)
    quick = certify_domain(case.graph, case.errors, domain, 0, "quick")
    assert quick.method == "interval" and quick.bound > 5 * found.bound
    monkeypatch.setattr(engine, "LARGEST_NORMS", 0)
    assert certify_domain(case.graph, case.errors, domain, 0).to_json() == quick.to_json()


def test_norms_are_computed_once_for_all_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    case, lower, upper = deep_case(size=1e-5)
    monkeypatch.setattr(spectral, "_FOUND", {})
    calls, own = [], spectral._by_patches
    monkeypatch.setattr(spectral, "_by_patches", lambda *args: calls.append(1) or own(*args))
    for share in (0.5, 1.0):
        bound_difference_euclidean(case.graph, case.errors, lower, share * upper)
    assert len(calls) == 3 * len(case.graph.layers)


@pytest.mark.parametrize("shape", [(3, 2), (40, 56)], ids=str)
def test_norms_are_the_same_number_whoever_proves_them(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues or Lanczos steps, of complex matrices as they are or in their real form."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 2, *shape))
    real = np.concatenate([np.concatenate([x, -y], 2), np.concatenate([y, x], 2)], 1)
    for size, steps in itertools.product((512, 1), (96, 12)):
        monkeypatch.setattr(matrix_norm, "DENSE_SOLVER", size)
        monkeypatch.setattr(gram, "_SOLVED", size)
        monkeypatch.setattr(matrix_norm, "LANCZOS_STEPS", steps)
        monkeypatch.setattr(gram, "_STEPS", steps)
        assert matrix_norm.largest_norm(x) == pytest.approx(gram.spectral_norm(x), rel=1e-12)
        assert matrix_norm.largest_norm(x, y) == pytest.approx(gram.spectral_norm(real, 2), rel=1e-12)
