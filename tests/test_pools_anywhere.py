"""Pools of six and pools that read the input, over balls: the exact difference is inside what either side finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, is_inside
from hypothesis import given, settings
from random_networks import Case, Draw, _convolution, drawer, random_case
from test_both_branched import of_region
from test_checker_backward import checker_case, checker_net, without_radii

from slth_compile.certificate import difference
from slth_compile.certificate.backward import noise
from slth_compile.certificate.backward.engine import bound_difference_backward, bound_difference_branched
from slth_compile.certificate.difference import Difference, bound_difference
from slth_compile.certificate.hybrid_bounds import bound_difference_euclidean
from slth_compile.checker import bounds, tighten
from slth_compile.checker.domain import Domain
from slth_compile.domain import Balls
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


def six(draw: Draw) -> Graph:
    """Two overlapping pools of 2 x 3, one that reads the input, padded, one behind a relu."""
    nodes = (
        n.Input(shape=(3, 5, 1)),
        n.MaxPool(inputs=(0,), window=(2, 3), stride=(1, 2), padding=((0, 1), (1, 0))),
        _convolution(draw, 1, (2, 1, 1, 3), padding=((1, 0), (0, 1))),
        n.Relu(inputs=(2,)),
        n.MaxPool(inputs=(3,), window=(2, 3), stride=(1, 1), padding=((0, 0), (0, 0))),
        n.Reshape(inputs=(4,), shape=(6,)),
        n.Dense(inputs=(5,), kernel=draw(6, 2), bias=draw(2)),
    )
    return Graph(nodes, (6,))


def at_the_input(draw: Draw) -> Graph:
    """Pools of two and of 2 x 3 of the input itself, an output and read by a layer; one of 2 x 3 without a relu."""
    nodes = (
        n.Input(shape=(2, 4, 1)),
        n.MaxPool(inputs=(0,), window=(1, 2), stride=(1, 2), padding=((0, 0), (0, 0))),
        n.MaxPool(inputs=(0,), window=(2, 3), stride=(1, 1), padding=((0, 0), (0, 0))),
        n.Reshape(inputs=(1,), shape=(4,)),
        n.Reshape(inputs=(2,), shape=(2,)),
        n.Concatenate(inputs=(3, 4), axis=0),
        n.Dense(inputs=(5,), kernel=draw(6, 6), bias=draw(6)),
        n.Reshape(inputs=(6,), shape=(2, 3, 1)),
        n.MaxPool(inputs=(7,), window=(2, 3), stride=(1, 1), padding=((0, 1), (0, 1))),
        n.Reshape(inputs=(8,), shape=(4,)),
        n.Dense(inputs=(9,), kernel=draw(4, 2)),
    )
    return Graph(nodes, (10, 5), ("read", "pools"))


def drawn(network: Callable[[Draw], Graph], seed: int, coarse: bool, nonnegative: bool) -> tuple[Case, Balls]:
    """A case, and two balls with a radius of their own an element, cut off where inputs are not negative."""
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse, 0.5)
    case = random_case(network(draw), rng, float(rng.choice([1e-1, 1e-4])), draw, nonnegative)
    shape = case.graph.input_shape
    x = rng.uniform(0 if nonnegative else -1, 1, (2, *shape))
    x = np.round(x * 4) / 4 if coarse else x
    # Some elements are known; a coarse ball meets its neighbours.
    radius = rng.choice([0.0, 0.25, float(rng.uniform(0, 0.5))], shape)
    clips = (0.0, 1.0) if nonnegative else (-np.inf, 1.0)
    return case, Balls(x, radius, *clips).with_shape(shape)


def checked(domain: Balls) -> Domain:
    """The balls as the checker has them."""
    arrays = {"x": domain.x, "radius": domain.radius, "lower": domain.lower, "upper": domain.upper}
    return Domain("balls", {name: np.asarray(array) for name, array in arrays.items()})


def inside(domain: Balls, seed: int) -> list[list[np.ndarray]]:
    """For each ball its centre, corners and a point in the middle of nowhere, as fractions."""
    rng = np.random.default_rng(seed)
    found = []
    for low, high in zip(*domain.regions(), strict=True):
        low, high = (np.vectorize(Fraction, otypes=[object])(end) for end in (low, high))
        shares = [
            np.full(low.shape, 4),
            *(8 * rng.integers(0, 2, low.shape) for _ in range(3)),
            rng.integers(0, 9, low.shape),
        ]
        found.append(
            [low + (high - low) * np.vectorize(lambda v: Fraction(int(v), 8), otypes=[object])(s) for s in shares]
        )
    return found


Leaves = Sequence[Difference]


def by_the_checker(case: Case, domain: Balls) -> list[list[np.ndarray]]:
    """The largest difference of every output, by intervals, lengths and passes."""
    folded, layers = checker_case(case)
    methods = bounds.output_bounds, bounds.euclidean_bounds, bounds.backward_bounds
    return [[leaf.upper for leaf in method(folded, layers, checked(domain))] for method in methods]


def all_hold(network: Callable[[Draw], Graph], seed: int, coarse: bool, nonnegative: bool, methods: Sequence) -> None:
    case, domain = drawn(network, seed, coarse, nonnegative)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "FEW_REGIONS", domain.count)  # by NumPy
        sides: list[Leaves] = [method(case.graph, case.errors, *domain.regions()) for method in methods]
    largest = by_the_checker(case, domain)
    lower, upper = domain.regions()
    assert all(np.array_equal(a, b) for a, b in zip(checked(domain).regions(0, 2), (lower, upper), strict=True))
    for region, points in enumerate(inside(domain, seed)):
        for x in points:
            values = difference_at(case, x)
            for leaves in sides:
                assert all(is_inside(leaf, region, exact) for leaf, exact in zip(leaves, values, strict=True))
            for found in largest:
                for most, exact in zip(found, values, strict=True):
                    assert all(abs(d) <= Fraction(b) for d, b in zip(exact.flat, most.flat, strict=True))


FORWARD = bound_difference, bound_difference_euclidean


def branched(*case) -> Leaves:
    return bound_difference_branched(*case, 2).leaves


@given(st.sampled_from([six, at_the_input]), seeds, st.booleans(), st.booleans())
@settings(max_examples=examples(60, 8), deadline=None)
def test_the_exact_difference_is_inside(network, seed: int, coarse: bool, nonnegative: bool) -> None:
    """By the compiler's forward engines and all of the checker's: nothing is compiled."""
    all_hold(network, seed, coarse, nonnegative, FORWARD)


@pytest.mark.slow
@given(st.sampled_from([six, at_the_input]), seeds, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_exact_difference_is_inside_passes_as_well(network, seed: int, coarse: bool, nonnegative: bool) -> None:
    all_hold(network, seed, coarse, nonnegative, (bound_difference_backward, branched))


Method = Callable[..., Leaves]


def agree(network: Callable[[Draw], Graph], seed: int, coarse: bool, mine: Method, theirs: Callable) -> None:
    case, domain = drawn(network, seed, coarse, False)
    case = without_radii(case)
    found = mine(case.graph, case.errors, *domain.regions())
    for a, b in zip(found, theirs(*checker_case(case), checked(domain)), strict=True):
        largest = np.maximum(-a.lower, a.upper).max(axis=0)
        np.testing.assert_allclose(largest, b.upper, rtol=1e-9, atol=1e-11)
        assert np.all(b.upper <= largest * (1 + 1e-12) + 2.0**-800)


@given(st.sampled_from([six, at_the_input]), seeds, st.booleans())
@settings(max_examples=examples(40, 5), deadline=None)
def test_both_sides_agree_by_lengths(network, seed: int, coarse: bool) -> None:
    agree(network, seed, coarse, bound_difference_euclidean, bounds.euclidean_bounds)


@pytest.mark.slow
@given(st.sampled_from([six, at_the_input]), seeds, st.booleans())
@settings(max_examples=20, deadline=None)
def test_both_sides_agree_by_passes(network, seed: int, coarse: bool) -> None:
    """To 1e-9, once the compiler's allowance for summing up is made small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "SPARE", 1 + 2.0**-40)
        agree(network, seed, coarse, bound_difference_backward, bounds.backward_bounds)


@pytest.mark.slow
@given(st.sampled_from([six, at_the_input]), seeds, st.booleans())
@settings(max_examples=10, deadline=None)
def test_both_sides_agree_by_cases(network, seed: int, coarse: bool) -> None:
    case, domain = drawn(network, seed, coarse, False)
    case, (lower, upper) = without_radii(case), domain.regions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "SPARE", 1 + 2.0**-40)
        leaves, witness = bound_difference_branched(case.graph, case.errors, lower, upper, 2)
    net = checker_net(case)
    for region in range(domain.count):
        some = slice(region, region + 1)
        own = tighten.output_differences(net, lower[some], upper[some], listed=of_region(witness, region))
        for a, b in zip(own, leaves, strict=True):
            for end in ("lower", "upper"):
                found = 0.0 if a is None else getattr(a, end)[0]
                np.testing.assert_allclose(found, getattr(b, end)[region], rtol=1e-9, atol=1e-11)
