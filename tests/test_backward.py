"""The backward engine against exact rationals, and beside the interval engine."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, drawer, random_case
from test_difference import REGIONS, inputs_of, random_regions

from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import bound_difference

seeds = st.integers(0, 2**32 - 1)


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=200, deadline=None)
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


@given(st.sampled_from(NETWORKS), seeds, st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_is_no_wider_than_intervals(network, seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-3, draw, nonnegative)
    regions = random_regions(rng, case.graph.input_shape, nonnegative, False)
    for a, b in zip(
        bound_difference_backward(case.graph, case.errors, *regions),
        bound_difference(case.graph, case.errors, *regions),
        strict=True,
    ):
        print(network.__name__, ((a.upper - a.lower) / (b.upper - b.lower + 1e-300)).mean((*range(1, a.upper.ndim),)))
