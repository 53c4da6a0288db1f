"""The checker's backward bounds against exact rationals, and beside the compiler's, which share no code with them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from exact import difference_at, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, Case, Draw, _convolution, drawer, random_case
from test_checker_units import CONV, Written
from test_difference import REGIONS, inputs_of, random_regions
from test_engines import checker_layers

from slth_compile.certificate.backward import noise
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import Difference
from slth_compile.checker import certificate, matrices, tighten, verify
from slth_compile.errors import VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

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


def pooled(draw: Draw) -> Graph:
    """Two convolutions with overlapping, padded max pools, a residual add of a strided branch, dense layers."""
    nodes = (
        n.Input(shape=(8, 8, 2)),
        _convolution(draw, 0, (3, 3, 2, 4), padding=((1, 1), (1, 1))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(3, 3), stride=(2, 2), padding=((1, 0), (0, 1))),
        _convolution(draw, 3, (3, 3, 4, 4), padding=((1, 1), (1, 1))),
        n.LeakyRelu(inputs=(4,), slope=0.125),
        _convolution(draw, 0, (1, 1, 2, 4), stride=(2, 2)),
        n.Add(inputs=(5, 6)),
        n.Relu(inputs=(7,)),
        n.MaxPool(inputs=(8,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
        n.Reshape(inputs=(9,), shape=(16,)),
        n.Dense(inputs=(10,), kernel=draw(16, 8), bias=draw(8)),
        n.Relu(inputs=(11,)),
        n.Dense(inputs=(12,), kernel=draw(8, 3)),
        n.Softmax(inputs=(13,), axis=0),
    )
    return Graph(nodes, (14, 13), ("probabilities", "logits"))


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("network", [*NETWORKS, pooled])
def test_both_engines_agree(network, nonnegative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-9, once the compiler's allowance for summing up, which only ever adds, is made small."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    rng = np.random.default_rng(7)
    for power in (1, 4):
        draw = drawer(rng, False)
        case = without_radii(random_case(network(draw), rng, 10.0**-power, draw, nonnegative))
        regions = random_regions(rng, case.graph.input_shape, nonnegative, False)
        own = checker_differences(checker_net(case), *regions)
        theirs = bound_difference_backward(case.graph, case.errors, *regions)
        for a, b in zip(own, theirs, strict=True):
            for end in ("lower", "upper"):
                np.testing.assert_allclose(getattr(a, end), getattr(b, end), rtol=1e-9, atol=1e-13)
            largest, published = (np.maximum(-leaf.lower, leaf.upper) for leaf in (a, b))
            assert np.all(largest[:2] <= published[:2] * (1 + 1e-9))


def test_a_backward_claim_is_recomputed_but_by_quick(tmp_path):
    """Slightly above the checker's own bound it is accepted, slightly below refused; quick says what it left out."""
    ticket = copy.deepcopy(CONV)
    for entry in ticket.claims:
        entry["method"] = "points" if entry["kind"] == "points" else "backward"
    backward = [i for i, entry in enumerate(ticket.claims) if entry["method"] == "backward"]
    assert backward
    found = {}
    for i, entry in enumerate(verify(ticket.save(tmp_path / "loose")).certificates):
        found[i] = entry.recomputed
        assert entry.interval is None
    figures = claimed_by(ticket, tmp_path / "bounds")
    for i in backward:
        for factor, accepted in ((1 + 2.0**-30, True), (1 - 2.0**-30, False)):
            figures_now = [[v * factor for v in leaf] for leaf in figures[i]]
            tight = copy.deepcopy(ticket)
            tight.claims[i].update(bound=max(map(max, figures_now)), per_output=figures_now)
            directory = tight.save(tmp_path / f"{i}-{accepted}")
            if accepted:
                assert verify(directory).certificates[i].recomputed == found[i]
                quick = verify(directory, quick=True)
                entry = quick.certificates[i]
                assert entry.recomputed is None and entry.interval >= found[i] * (1 - 1e-9)
                assert "NOT recomputed" in quick.to_text() and quick.to_text().splitlines()[-1] != "verified"
            else:
                with pytest.raises(VerificationError, match="the difference is bounded by") as caught:
                    verify(directory)
                assert caught.value.check == "bound"


def claimed_by(ticket: Written, directory: Path) -> list[list[list[float]]]:
    """The checker's own backward bounds of every domain, output and element."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        own = certificate.backward_bounds

        def watched(folded, layers, domain):
            seen.append(own(folded, layers, domain))
            return seen[-1]

        patch.setattr(certificate, "backward_bounds", watched)
        verify(ticket.save(directory))
    bounds = iter(seen)
    return [
        [leaf.reshape(-1).tolist() for leaf in next(bounds)] if entry["method"] == "backward" else []
        for entry in ticket.claims
    ]
