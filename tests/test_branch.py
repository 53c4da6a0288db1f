"""Branched bounds against exact rationals, beside plain ones, and with a fault in them."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, drawer, random_case
from test_difference import REGIONS, inputs_of, random_regions

from slth_compile.certificate.backward.engine import bound_difference_branched

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.slow
@given(cases=st.data())
@settings(max_examples=400, deadline=None)
def test_never_below_the_exact_difference_at_length(cases: st.DataObject) -> None:
    sizes = st.sampled_from([1e-1, 1e-4, 1e-12])
    arguments = st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), sizes, st.integers(1, 4)
    test_never_below_the_exact_difference.hypothesis.inner_test(*(cases.draw(part) for part in arguments))


@given(
    st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4]), st.sampled_from([3])
)
@settings(max_examples=examples(20), deadline=None)
def test_never_below_the_exact_difference(network, seed, nonnegative, coarse, size, splits) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found, _ = bound_difference_branched(case.graph, case.errors, lower, upper, splits)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            values = difference_at(case, x)
            for leaf, exact in zip(found, values, strict=True):
                assert is_inside(leaf, region, exact)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)
