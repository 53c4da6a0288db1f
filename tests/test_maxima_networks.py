"""Networks with pools of three and four behind relus: both sides hold the exact difference, and find the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from counts import few
from exact import difference_at, is_inside
from random_networks import Case, Draw, _convolution, drawer, random_case
from test_both_branched import of_region
from test_checker_backward import checker_differences, checker_net, without_radii
from test_difference import REGIONS, inputs_of, random_regions

from slth_compile.certificate.backward import maxima, noise
from slth_compile.certificate.backward.engine import bound_difference_backward, bound_difference_branched
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.checker import maxima as checked
from slth_compile.checker import tighten
from slth_compile.checker.witness import Listed
from slth_compile.checker.witness import Witness as CheckerWitness
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def pools(draw: Draw) -> Graph:
    """A convolution, a pool of four, one of three behind a dense layer, each behind a relu."""
    nodes = (
        n.Input(shape=(4, 4, 1)),
        _convolution(draw, 0, (2, 2, 1, 2), padding=((1, 0), (0, 1))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
        n.Reshape(inputs=(3,), shape=(8,)),
        n.Dense(inputs=(4,), kernel=draw(8, 6), bias=draw(6)),
        n.Relu(inputs=(5,)),
        n.Reshape(inputs=(6,), shape=(6, 1)),
        n.MaxPool(inputs=(7,), window=(3,), stride=(2,), padding=((0, 1),)),
        n.Reshape(inputs=(8,), shape=(3,)),
        n.Dense(inputs=(9,), kernel=draw(3, 2)),
    )
    return Graph(nodes, (10,))


def at_the_end(draw: Draw) -> Graph:
    """A pool of four that is an output and that a relu reads, another output behind it."""
    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=draw(3, 6), bias=draw(6)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(6, 8), bias=draw(8)),
        n.Reshape(inputs=(3,), shape=(8, 1)),
        n.MaxPool(inputs=(4,), window=(4,), stride=(2,), padding=((0, 0),)),
        n.Relu(inputs=(5,)),
    )
    return Graph(nodes, (5, 6), ("maximum", "relu"))


def drawn(seed: int, coarse: bool, network: Callable[[Draw], Graph] = pools):
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse, 0.5)
    case = random_case(network(draw), rng, 1e-2, draw, False)
    return rng, case, random_regions(rng, case.graph.input_shape, False, coarse)


def all_hold(seed: int, coarse: bool) -> None:
    rng, case, (lower, upper) = drawn(seed, coarse)
    sides = [
        bound_difference_backward(case.graph, case.errors, lower, upper),
        bound_difference_branched(case.graph, case.errors, lower, upper, 2).leaves,
        checker_differences(checker_net(case), lower, upper),
    ]
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region]):
            for exact, *leaves in zip(difference_at(case, x), *sides, strict=True):
                assert all(is_inside(leaf, region, exact) for leaf in leaves)


@pytest.mark.parametrize("seed", few(range(30), 0))
def test_never_below_the_exact_difference(seed: int) -> None:
    all_hold(seed, bool(seed % 2))


def four() -> tuple[list[Difference], np.ndarray]:
    """Bounds of both sides on what a pool of four moves by, and what it moves by at some inputs: -1, 0 or 1."""
    nodes = (
        n.Input(shape=(4,)),
        n.Dense(inputs=(0,), kernel=np.eye(4), bias=np.zeros(4)),
        n.Relu(inputs=(1,)),
        n.Reshape(inputs=(2,), shape=(4, 1)),
        n.MaxPool(inputs=(3,), window=(4,), stride=(4,), padding=((0, 0),)),
        n.Reshape(inputs=(4,), shape=(1,)),
        n.Dense(inputs=(5,), kernel=np.eye(1)),
    )
    moves = np.array([1.0, -1.0, 0.0, 0.0])
    first, last = (
        LayerErrors(positive_center=zero, positive_radius=zero, negative_center=zero, negative_radius=zero)
        for zero in (np.zeros((4, 4)), np.zeros((1, 1)))
    )
    errors = {1: dataclasses.replace(first, bias_center=moves, bias_radius=np.zeros(4)), 6: last}
    lower, upper = np.full((1, 4), 4.0), np.full((1, 4), 8.0)
    sides = bound_difference_backward(Graph(nodes, (6,)), errors, lower, upper)
    net = checker_net(Case(Graph(nodes, (6,)), errors, {}, {}, {}))
    x = np.random.default_rng(0).uniform(4, 8, (200, 4))
    return [*sides, *checker_differences(net, lower, upper)], (x + moves).max(1) - x.max(1)


def test_what_a_pool_of_four_moves_by_is_found_exactly() -> None:
    sides, seen = four()
    for leaf in sides:
        assert leaf.lower[0, 0] <= seen.min() and seen.max() <= leaf.upper[0, 0]
        np.testing.assert_allclose([leaf.lower[0, 0], leaf.upper[0, 0]], [-1, 1])


@pytest.mark.parametrize(("module", "name"), [(maxima, "_most"), (checked, "_gap")], ids=["engine", "checker"])
def test_a_missing_intercept_is_seen(module, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the mean of the elements were as large as the largest."""
    monkeypatch.setattr(module, name, lambda u, weights, wins: np.zeros_like(weights[0]))
    sides, seen = four()
    assert any(seen.max() > leaf.upper[0, 0] for leaf in sides)


@pytest.mark.parametrize(("coarse", "network"), [(False, pools), (True, pools), (False, at_the_end)])
def test_both_sides_agree(coarse: bool, network: Callable[[Draw], Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-9, with cases and without, once the compiler's allowance for summing up is made small."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    _, case, (lower, upper) = drawn(3, coarse, network)
    case = without_radii(case)
    net = checker_net(case)
    plain = bound_difference_backward(case.graph, case.errors, lower, upper)
    branched, witness = bound_difference_branched(case.graph, case.errors, lower, upper, 2)
    assert len(witness.rows)
    CheckerWitness(0, witness.regions, Listed(witness.rows, witness.splits)).check(net.targets)
    for region in range(REGIONS):
        for leaves, listed in ((plain, None), (branched, of_region(witness, region))):
            some = slice(region, region + 1)
            found = tighten.output_differences(net, lower[some], upper[some], listed=listed)
            for own, expected in zip(found, leaves, strict=True):
                assert own is not None
                ends = [(getattr(own, end)[0], getattr(expected, end)[region]) for end in ("lower", "upper")]
                for mine, theirs in ends:
                    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
                largest = np.maximum(-expected.lower, expected.upper)[region]
                assert np.all(np.maximum(-own.lower, own.upper)[0] <= largest * (1 + 1e-12) + 2.0**-800)
    assert np.any(branched[0].upper < plain[0].upper * 0.999)
