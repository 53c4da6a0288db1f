"""The checker's passes through smooth activations, products, norms and softmaxes, beside the compiler's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_networks import Case, attended, drawer, excited, random_case, residual
from test_checker_backward import checker_differences, checker_net, without_radii
from test_difference import random_regions
from test_engines import checker_layers

from slth_compile.certificate.activations import activations
from slth_compile.certificate.backward import noise
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.certificate import certificate_of, certify_enclosed
from slth_compile.certificate.engine import Enclosed
from slth_compile.checker import backward, execution, lines, tighten
from slth_compile.graph.evaluate import LayerWeights

Regions = tuple[np.ndarray, np.ndarray]


def case_of(network: Callable, seed: int, size: float, scale: float) -> tuple[Case, Regions]:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False, scale)
    case = random_case(network(draw), rng, size, draw, False)
    return case, random_regions(rng, case.graph.input_shape, False, False)


@pytest.mark.parametrize(
    ("network", "seeds"),
    [(attended, range(1)), *(pytest.param(f, range(1, 7), marks=pytest.mark.slow) for f in (attended, excited))],
)
def test_both_engines_agree(network: Callable, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_checker_backward, and what is published is never below what the checker finds.

    Where norms multiply differences by a million, so do they what the compiler allows for roundings of evaluations.
    """
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    for seed in seeds:
        for size, scale in ((1e-1, 0.5), (1e-3, 0.5), (1e-1, 1.0)):
            case, regions = case_of(network, seed, size, scale)
            case = without_radii(case)
            own = checker_differences(checker_net(case), *regions)
            theirs = bound_difference_backward(case.graph, case.errors, *regions)
            published = certificate_of(Enclosed(theirs, "backward"), "balls", 0).per_output
            for a, b, claimed in zip(own, theirs, published, strict=True):
                for end in ("lower", "upper"):
                    np.testing.assert_allclose(getattr(a, end), getattr(b, end), rtol=1e-9, atol=1e-11)
                assert np.all(np.maximum(-a.lower, a.upper).max(0) <= claimed)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "seed", "size"), [(excited, 1, 1e-1), (residual, 7, 1.0)])
def test_evaluations_are_confirmed(network: Callable, seed: int, size: float) -> None:
    """Of float32 without its margin neither is: the compiler allows for more roundings, and other lines result."""
    case, regions = case_of(network, seed, size, 0.7)
    case = without_radii(case)
    domain: Any = SimpleNamespace(regions=lambda: regions, kind="balls")
    published, _ = certify_enclosed(case.graph, case.errors, domain, 0)
    assert published.method == "backward" and published.arithmetic == "real, float64"
    folded, layers = checker_layers(case.graph, case.graph, dict(case.errors))
    for name, claimed in (("float64", published.bound), ("float32", published.float32)):
        both = execution.evaluated(folded, layers, execution.FORMATS[name])
        assert both is not None and claimed is not None
        net = tighten.net_of(both.folded, both.layers)
        found = checker_differences(net, *execution.rounded_inputs(*regions, execution.FORMATS[name]))
        largest = max(float(np.maximum(-leaf.lower, leaf.upper).max()) for leaf in found)
        assert largest <= claimed <= largest * (1 + 2.0**-7)


def excess(network: Callable, seed: int) -> float:
    """How far differences that are seen exceed the checker's bounds, by corners of small regions and points in them."""
    case, (lower, upper) = case_of(network, seed, 1e-2, 1.0)
    middle = 0.5 * lower + 0.5 * upper
    lower, upper = middle + 0.1 * (lower - middle), middle + 0.1 * (upper - middle)
    found = checker_differences(checker_net(case), lower, upper)
    target, ticket = ({i: _in_float64(w) for i, w in weights.items()} for weights in (case.target, case.ticket))
    rng, largest = np.random.default_rng(seed), -np.inf
    for _ in range(100):
        share = rng.choice([0.0, 1.0, rng.random()], lower.shape)
        x = lower + share * (upper - lower)
        f, g = activations(case.graph, x, target), activations(case.graph, x, ticket)
        for leaf, i in zip(found, case.graph.outputs, strict=True):
            d = g[i] - f[i]
            largest = max(largest, float((d - leaf.upper).max()), float((leaf.lower - d).max()))
    return largest


def _in_float64(weights: LayerWeights) -> LayerWeights:
    arrays = (None if v is None else np.asarray(v, np.float64) for v in weights[:3])
    return LayerWeights(*arrays, clip=weights.clip)


@pytest.mark.parametrize("network", [attended, excited])
def test_what_is_seen_is_within(network: Callable) -> None:
    assert all(excess(network, seed) <= 1e-12 for seed in range(4))


def _no_ends(own: Callable) -> Callable:
    return lambda here, form, forms: 0.0 if here.node.op in backward.ENDS else own(here, form, forms)


def _turned_round(own: Callable) -> Callable:
    def lines_of(node, y, d):
        of_y, of_d = own(node, y, d)
        if of_d is not None:
            of_d = of_d._replace(lines=lines.Lines(*of_d.lines[2:], *of_d.lines[:2]))
        return of_y, of_d

    return lines_of


@pytest.mark.parametrize(("name", "broken"), [("step", _no_ends), ("activation_lines", _turned_round)])
def test_a_missing_end_and_lines_of_the_wrong_side_are_seen(name, broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, name, broken(getattr(backward, name)))
    assert any(excess(attended, seed) > 1e-6 for seed in range(4))


def test_passes_are_closer_than_intervals() -> None:
    """And no wider anywhere: enclosures are cut, never replaced."""
    case, (lower, upper) = case_of(attended, 1, 1e-1, 0.5)
    net = checker_net(case)
    middle = 0.5 * lower + 0.5 * upper
    lower, upper = middle + 0.1 * (lower - middle), middle + 0.1 * (upper - middle)
    found = checker_differences(net, lower, upper)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tighten._Region, "_cut", lambda self, known, *rest: known)
        plain = checker_differences(net, lower, upper)
    shrunk = [(a.upper - a.lower).mean() / (b.upper - b.lower).mean() for a, b in zip(found, plain, strict=True)]
    assert max(shrunk) < 0.9
