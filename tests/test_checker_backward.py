"""The checker's backward bounds against exact rationals, and beside the compiler's, which share no code with them."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from exact import Exact, difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, Case, drawer, random_case
from test_difference import REGIONS, inputs_of, random_regions
from test_engines import checker_layers

from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import Difference
from slth_compile.checker import matrices, tighten
from slth_compile.checker.arithmetic import Interval

seeds = st.integers(0, 2**32 - 1)


def checker_net(case: Case) -> tighten.Net:
    """The case as the checker has it, every radius of its errors and of its folded weights included."""
    folded, layers = checker_layers(case.graph, case.graph, case.errors)
    for position, pair in layers.items():
        node, errors = case.graph.nodes[position], case.errors[position]
        fold_error = np.abs(node.kernel) * node.kernel_error
        spreads = [fold_error, errors.positive_radius, errors.negative_radius]
        names = ("target", "error_positive", "error_negative")
        changes = {}
        for name, spread in zip(names, spreads, strict=True):
            known = getattr(pair, name)
            if known is not None:
                radius = pair.layer.canonical(np.asarray(spread).reshape(pair.layer.kernel.shape)) * (1 + 2.0**-50)
                own = matrices._matrix(np.zeros_like(radius), radius, pair.layer.groups)
                changes[name] = dataclasses.replace(
                    known, noise=known.noise + own.noise, magnitude=known.magnitude + own.magnitude
                )
        grown = 1 + 2.0**-50
        if pair.bias is not None and node.bias_error is not None:
            changes["bias"] = (pair.bias[0], (pair.bias[1] + node.bias_error) * grown)
        if pair.bias_error is not None and errors.bias_radius is not None:
            changes["bias_error"] = (pair.bias_error[0], (pair.bias_error[1] + errors.bias_radius) * grown)
        layers[position] = dataclasses.replace(pair, **changes)
    return tighten.net_of(folded, layers)


def checker_differences(net: tighten.Net, lower: np.ndarray, upper: np.ndarray) -> list[Difference]:
    """The checker's enclosures over several regions; those of the target's output are left open."""
    found = [tighten.output_differences(net, lower[i : i + 1], upper[i : i + 1]) for i in range(len(lower))]
    leaves = []
    for leaf in zip(*found, strict=True):
        ends = [np.concatenate([getattr(d, name) for d in leaf]) for name in ("lower", "upper")]
        leaves.append(Difference(*ends, *(np.full_like(ends[0], v) for v in (-np.inf, np.inf))))
    return leaves


@given(st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=100, deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = checker_differences(checker_net(case), lower, upper)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            for leaf, exact in zip(found, difference_at(case, x), strict=True):
                assert is_inside(leaf, region, exact)


def without_radii(case: Case) -> Case:
    nodes = [
        dataclasses.replace(node, kernel_error=0.0, bias_error=None) if i in case.errors else node
        for i, node in enumerate(case.graph.nodes)
    ]
    errors = {
        i: dataclasses.replace(
            e,
            positive_radius=np.zeros_like(e.positive_center),
            negative_radius=None if e.negative_center is None else np.zeros_like(e.negative_center),
            bias_radius=None if e.bias_center is None else 0.0,
        )
        for i, e in case.errors.items()
    }
    return dataclasses.replace(case, graph=dataclasses.replace(case.graph, nodes=tuple(nodes)), errors=errors)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_both_engines_agree(network, nonnegative: bool) -> None:
    rng = np.random.default_rng(7)
    for seed in range(4):
        draw = drawer(rng, False)
        case = without_radii(random_case(network(draw), rng, 10.0 ** -(1 + seed), draw, nonnegative))
        lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, False)
        assert_equal_bounds(case, lower, upper)


def assert_equal_bounds(case: Case, lower: np.ndarray, upper: np.ndarray) -> None:
    theirs = bound_difference_backward(case.graph, case.errors, lower, upper)
    own = checker_differences(checker_net(case), lower, upper)
    for a, b in zip(own, theirs, strict=True):
        for end in ("lower", "upper"):
            np.testing.assert_allclose(getattr(a, end), getattr(b, end), rtol=1e-9, atol=1e-12)
