"""Every network and domain of the table, attacked at length: nothing seen exceeds what is published."""

from __future__ import annotations

import math

import numpy as np
import pytest
from targets import TARGETS, Target

import slth_compile as slth
from slth_compile.certificate.attack import MAX_OUTPUTS, attack
from slth_compile.domain import Points
from slth_compile.graph.evaluate import target_weights

EVALUATIONS = 100_000
STEPS = 50

ATTACKED = [(t, i) for t in TARGETS for i, domain in enumerate(t.domains) if not isinstance(domain, Points)]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "place"), ATTACKED, ids=lambda v: getattr(v, "name", str(v)))
def test_no_evaluation_exceeds_the_certificate(target: Target, place: int, record_property) -> None:
    shape, domain = target.shape, target.domains[place]
    out = slth.compile(target.build(), target.eps, 0.05, domain=domain, input_shape=shape, attack=False, seed=7)
    (domain,), (certificate,) = out.domains, out.certificates
    regions = len(domain.regions()[0])
    outputs = min(MAX_OUTPUTS, sum(leaf.size for leaf in certificate.per_output))
    restarts = math.ceil(EVALUATIONS / (regions * (1 + 2 * outputs * (STEPS + 1))))
    weights = target_weights(out.folded), out.weights
    found = attack(out.folded, *weights, domain, steps=STEPS, restarts=restarts, samples=regions)
    record_property("evaluations", found.inputs)
    record_property("ratio", certificate.bound / found.value)
    assert found.inputs >= EVALUATIONS
    for seen, bound in zip(found.per_output, certificate.per_output, strict=True):
        assert np.all(seen <= bound)
    assert 0 < found.value <= certificate.bound
