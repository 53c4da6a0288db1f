"""Bounds by cases of compiler and checker, which share no code, at equal witness."""

from __future__ import annotations

import numpy as np
import pytest
from random_networks import depthwise, drawer, grouped, random_case, residual, strided, upsampled, volume
from targets import TARGETS, Target
from test_checker_backward import checker_net, pooled, without_radii
from test_difference import REGIONS, random_regions
from test_engines import checker_layers, random_errors

from slth_compile.certificate.backward import noise
from slth_compile.certificate.backward.engine import bound_difference_backward, bound_difference_branched
from slth_compile.certificate.backward.rewrite import rewritten
from slth_compile.certificate.backward.targets import targets_of
from slth_compile.certificate.certificate import SMALLEST
from slth_compile.certificate.execution import FLOAT64, evaluated
from slth_compile.certificate.witness import Witness
from slth_compile.checker import rewriting, tighten
from slth_compile.checker import targets as checker_targets
from slth_compile.checker.execution import FORMATS
from slth_compile.checker.execution import evaluated as checker_evaluated
from slth_compile.checker.witness import Listed
from slth_compile.checker.witness import Witness as CheckerWitness
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold

SLOW = (depthwise, grouped, volume, upsampled, pooled)  # XLA compiles for seconds


def of_region(witness: Witness, region: int) -> Listed:
    own = slice(*witness.regions[region : region + 2])
    return Listed(witness.rows[own], witness.splits[own])


@pytest.mark.parametrize("network", [strided, residual, *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW)])
@pytest.mark.parametrize(("nonnegative", "coarse"), [(False, False), (True, False), (False, True)])
def test_both_engines_agree(network, nonnegative: bool, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-9, once the compiler's allowance for summing up is made small; coarse weights make ties."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    rng = np.random.default_rng(7)
    draw = drawer(rng, coarse, 0.5)
    case = without_radii(random_case(network(draw), rng, 1e-2, draw, nonnegative))
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, False)
    net = checker_net(case)
    theirs, witness = bound_difference_branched(case.graph, case.errors, lower, upper, 3)
    plain = bound_difference_backward(case.graph, case.errors, lower, upper)
    CheckerWitness(0, witness.regions, Listed(witness.rows, witness.splits)).check(net.targets)
    assert len(witness.rows)
    gained = 0
    for region in range(REGIONS):
        some = slice(region, region + 1)
        own = tighten.output_differences(net, lower[some], upper[some], listed=of_region(witness, region))
        for a, b, c in zip(own, theirs, plain, strict=True):
            assert a is not None
            scale = max(float(np.abs(end[region]).max()) for end in (b.lower, b.upper))
            for end in ("lower", "upper"):
                found, expected = getattr(a, end)[0], getattr(b, end)[region]
                # Where nothing differs, what may be flushed to zero is all there is: no bound is published below.
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=max(1e-10 * scale, SMALLEST))
                gained += int(np.sum(np.abs(expected) < np.abs(getattr(c, end)[region]) * 0.999))
    # Most of its pool has no cases.
    assert gained or coarse or network is strided


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_both_number_the_same_targets(target: Target) -> None:
    """In real arithmetic, and with what evaluation rounds: activations, sizes and leaves of the whole table."""
    graph = target.graph()
    folded = fold(graph)
    flags = nonnegative_nodes(folded, False)
    errors = random_errors(
        folded, {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}, np.random.default_rng(0), 1e-3
    )
    own = checker_layers(graph, folded, errors)
    theirs = [(folded, errors), evaluated(folded, errors, FLOAT64)]
    ours = [own, checker_evaluated(*own, FORMATS["float64"])]
    for a, b in zip(theirs, ours, strict=True):
        assert (a is None) == (b is None)
        if a is None or b is None:
            continue
        net = rewritten(a[0])
        expected = targets_of(net)
        found = checker_targets.targets_of(rewriting.rewrite(*b).graph)
        assert found.base.tolist() == expected.base.tolist()
        assert found.bends == len(expected.bends)
        names = [type(net.nodes[k]).__name__.lower() for k in expected.bends]
        nodes = rewriting.rewrite(*b).graph.nodes
        assert [nodes[k].op.replace("_", "") for k in found.nodes[: found.bends]] == names
