"""Every target of the table through every stage: what comes out computes what went in."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from counts import examples
from programs import at_once
from targets import TARGETS, Target

import slth_compile as slth
from slth_compile.certificate import difference
from slth_compile.domain import Domain
from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate, target_weights
from slth_compile.graph.fold import fold

DELTA = 0.05
BACKWARD = ("strided", "signal", "bent", "smooth", "excite")
SLOW = ("convnext", "transformer", "bent", "excite", "smooth", "upsampled", "sparse", "alone", "half", "separable")


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=pytest.mark.slow if t.name in SLOW else ()) for t in TARGETS],
    ids=lambda target: target.name,
)
def test_every_stage_keeps_the_function(target: Target, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    # NumPy encloses as compiled programs do (test_norms), which take seconds.
    monkeypatch.setattr(difference, "FEW_REGIONS", examples(difference.FEW_REGIONS, 64))
    model = target.build()
    graph = check(import_model(model, target.shape))
    folded = check(fold(graph))
    x = target.inputs(4)
    own = (lambda x: jax.tree.leaves(model(x))) if callable(model) else (lambda x: evaluate(graph, x))
    expected, plain, whole = at_once(lambda x: (own(x), evaluate(graph, x), evaluate(folded, x)), x)
    _assert_close(expected, plain, 1e-5)
    _assert_close(plain, whole, 1e-5)

    # Backward bounds of the whole table are confirmed in test_checker_backward, which takes minutes.
    effort = "normal" if target.name in BACKWARD else "quick"
    shape, domains = target.shape, target.domains
    out = slth.compile(model, target.eps, DELTA, domain=domains, input_shape=shape, attack=False, seed=5, effort=effort)
    assert out.layout.failure <= DELTA and out.plan.bound <= target.eps
    for domain, certificate in zip(out.domains, out.certificates, strict=True):
        assert certificate.bound <= target.eps
        _assert_within(out, certificate, inside(domain, target.shape))
    literal = out.network
    _assert_close(_leaves(out(x)), _leaves(at_once(lambda x: literal(x), x)), 1e-4)

    ticket_id = out.save(tmp_path / "out")
    assert slth.verify(tmp_path / "out").ticket_id == ticket_id
    loaded = slth.load(tmp_path / "out")
    assert loaded.ticket_id == ticket_id and loaded.layout == out.layout
    for before, after in zip(_leaves(out(x)), _leaves(loaded(x)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_table_holds_every_node_type_and_geometry() -> None:
    graphs = [target.graph() for target in TARGETS]
    nodes = [node for graph in graphs for node in graph.nodes]
    assert {type(node) for node in nodes} == set(n.NODE_TYPES.values())
    convolutions = [node for node in nodes if isinstance(node, n.Convolution)]
    assert {len(node.stride) for node in convolutions} == {1, 2, 3}
    assert any(max(node.stride) > 1 for node in convolutions)
    assert any(max(node.dilation) > 1 for node in convolutions)
    assert any(low != high for node in convolutions for low, high in node.padding)
    channels = [(node.groups, node.kernel.shape[-2] * node.groups) for node in convolutions]
    assert any(1 < groups < inputs for groups, inputs in channels) and any(1 < g == c for g, c in channels)
    assert {node.count_padding for node in nodes if isinstance(node, n.AveragePool)} == {True, False}
    assert {node.trained for node in nodes if isinstance(node, n.Affine)} == {True, False}
    assert any(len(graph.outputs) > 1 for graph in graphs)
    folded = [fold(graph) for graph in graphs]
    assert any(
        isinstance(graph.nodes[i], n.Convolution) and graph.nodes[i].kernel.shape[:-2] == (1,) * 2 and i == 1
        for graph in folded
        for i in graph.layers
    )


def inside(domain: Domain, shape: tuple[int, ...], count: int = 16) -> np.ndarray:
    """Inputs of a domain, corners among them, float64."""
    rng = np.random.default_rng(3)
    lower, upper = domain.regions()
    rows = rng.integers(0, len(lower), count)
    share = rng.uniform(0, 1, (count, *shape))
    share[: count // 2] = np.round(share[: count // 2])
    return np.clip(lower[rows] + share * (upper[rows] - lower[rows]), lower[rows], upper[rows])


def _assert_within(out: slth.Compiled, certificate, x: np.ndarray) -> None:
    with jax.enable_x64(True):
        sides = target_weights(out.folded), out.weights
        target, ticket = at_once(lambda x: [evaluate(out.folded, x, weights) for weights in sides], x)
    for f, g, bound in zip(target, ticket, certificate.per_output, strict=True):
        assert f.dtype == g.dtype == np.float64
        largest = np.abs(np.asarray(f) - np.asarray(g)).max(0)
        assert np.all(largest <= bound * (1 + 1e-9) + 1e-12)
        assert np.any(largest > 0)


def _assert_close(expected, found, tolerance: float) -> None:
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        a = np.asarray(a, np.float32)
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * float(np.abs(a).max()))


def _leaves(outputs) -> tuple:
    return outputs if isinstance(outputs, tuple) else (outputs,)
