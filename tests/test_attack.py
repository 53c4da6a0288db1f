"""Attacks: exact on linear networks, never above a certificate, never outside the domain."""

from __future__ import annotations

import numpy as np
import pytest
from counts import few
from exact import difference_at, is_inside
from random_networks import ALL_NETWORKS as NETWORKS
from random_networks import drawer, random_case

from slth_compile.certificate import attack as attack_module
from slth_compile.certificate.attack import attack
from slth_compile.certificate.difference import bound_difference
from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph


def linear(inputs: int, outputs: int, seed: int = 0) -> tuple[Graph, dict, dict, np.ndarray]:
    """A dense layer and a perturbed one; and the perturbation."""
    rng = np.random.default_rng(seed)
    kernel, error = rng.normal(size=(2, inputs, outputs))
    graph = Graph((n.Input(shape=(inputs,)), n.Dense(inputs=(0,), kernel=kernel)), (1,))
    return graph, {1: LayerWeights(kernel)}, {1: LayerWeights(kernel + error)}, error


@pytest.mark.parametrize("sign", [1, -1])
def test_a_linear_difference_is_maximised_exactly(sign: int) -> None:
    graph, target, ticket, error = linear(5, 3)
    ticket = {1: LayerWeights(target[1].positive + sign * error)}
    found = attack(graph, target, ticket, Box(0.0, 1.0, (5,)), steps=20, restarts=2)
    best = np.maximum(np.maximum(error, 0).sum(0), np.maximum(-error, 0).sum(0))
    assert found.value == pytest.approx(best.max(), rel=1e-12)
    assert found.output == (0, int(best.argmax()))
    assert set(found.x) <= {0.0, 1.0}
    assert (found.steps, found.restarts, found.attacked, found.outputs) == (20, 2, 3, 3)
    assert found.inputs == 2 * (1 + 3 * 2 * 21)


def test_points_are_all_evaluated() -> None:
    graph, target, ticket, error = linear(4, 2)
    x = np.random.default_rng(1).normal(size=(3000, 4))
    found = attack(graph, target, ticket, Points(x))
    seen = np.abs(x @ error)
    assert found.value == pytest.approx(seen.max(), rel=1e-12)
    assert np.array_equal(found.x, x[seen.max(1).argmax()])
    assert (found.steps, found.restarts, found.inputs) == (0, 0, 3000)


def test_balls_are_left_nowhere() -> None:
    graph, target, ticket, _ = linear(4, 2)
    x = np.random.default_rng(1).uniform(size=(5, 4))
    found = attack(graph, target, ticket, Balls(x, 0.01, 0.0, 1.0), steps=10, restarts=2, samples=3)
    assert np.all((found.x >= 0) & (found.x <= 1))
    assert np.abs(x - found.x).max(1).min() <= 0.01 + 1e-15


@pytest.mark.parametrize(("starts", "regions"), [(3, 4), (3, 1), (1, 9), (9, 2)])
def test_groups_hold_every_start_of_every_region_once(monkeypatch, starts: int, regions: int) -> None:
    monkeypatch.setattr(attack_module, "_ROWS", 4)
    x = np.arange(starts * regions).reshape(starts, regions, 1)
    ends = np.arange(regions)[:, None]
    found = []
    for some, lower, upper in attack_module._groups(x, ends, ends + 1):
        assert some.shape[0] * some.shape[1] <= 4
        assert np.array_equal(upper, lower + 1) and np.all(some % regions == lower)
        found += some.reshape(-1).tolist()
    assert sorted(found) == list(range(starts * regions))


def test_of_many_outputs_the_largest_are_attacked() -> None:
    graph, target, ticket, error = linear(3, 100)
    seen: list[tuple[str, int, int]] = []
    box = Box(0.0, 1.0, (3,))
    found = attack(graph, target, ticket, box, steps=5, restarts=1, progress=lambda *step: seen.append(step))
    assert seen == [("attack", done, 128) for done in range(129)]
    assert (found.attacked, found.outputs) == (attack_module.MAX_OUTPUTS, 100)
    assert found.value <= np.maximum(np.abs(error).sum(0), 0).max() + 1e-12


def test_the_seed_decides() -> None:
    graph, target, ticket, _ = linear(3, 2)
    runs = [attack(graph, target, ticket, Box(0.0, 1.0, (3,)), steps=3, restarts=3, seed=7) for _ in range(2)]
    assert runs[0].value == runs[1].value and np.array_equal(runs[0].x, runs[1].x)


@pytest.mark.parametrize("network", few(NETWORKS, NETWORKS[0], NETWORKS[2], NETWORKS[6]))
def test_bounds_hold_exactly_where_the_attack_ends(network) -> None:
    rng = np.random.default_rng(3)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-2, draw, True)
    box = Box(0.0, 1.0, case.graph.input_shape)
    found = attack(case.graph, _floats(case.target), _floats(case.ticket), box, steps=15, restarts=2)
    leaves = bound_difference(case.graph, case.errors, *box.regions())
    bounds = [np.maximum(-leaf.lower[0], leaf.upper[0]) for leaf in leaves]
    assert found.value <= max(b.max() for b in bounds) + 1e-12
    for leaf, values in zip(leaves, difference_at(case, found.x), strict=True):
        assert is_inside(leaf, 0, values)
    assert found.value > 0.05 * max(b.max() for b in bounds)


def test_gradual_switches_show_the_way_to_a_unit_that_is_off(abruptly) -> None:
    """`g - f = relu((1 + e) x - .7) - relu(x - .7) - d x` with `d < e`: misleading below .7, largest at 1."""
    e, d = 1e-3, 1e-4
    layers = (np.array([[1.0, 1.0]]), np.array([-0.7, 0.0])), (np.array([[1.0], [1.0]]), None)
    first, second = (n.Dense(inputs=(i,), kernel=w, bias=b) for i, (w, b) in zip((0, 2), layers, strict=True))
    graph = Graph((n.Input(shape=(1,)), first, n.Relu(inputs=(1,)), second), (3,))
    target = {i: LayerWeights(w, bias=b) for i, (w, b) in zip((1, 3), layers, strict=True)}
    errors = {1: np.array([[e, 0.0]]), 3: np.array([[0.0], [-d]])}
    ticket = {i: w._replace(positive=w.positive + errors[i]) for i, w in target.items()}
    found, plain = (run(graph, target, ticket, Box(0.0, 1.0, (1,)), steps=20, restarts=1) for run in (attack, abruptly))
    assert plain.value <= 0.75 * d
    assert found.value == pytest.approx(e - d, rel=1e-9) and found.x == 1.0


def test_every_region_is_climbed_whatever_is_taken_together(monkeypatch) -> None:
    """Four balls in groups of all, of two, and of one and some of its starts."""
    rng = np.random.default_rng(4)
    first, second = (n.Dense(inputs=(i,), kernel=rng.normal(size=(4, 4))) for i in (0, 2))
    graph = Graph((n.Input(shape=(4,)), first, n.Relu(inputs=(1,)), second), (3,))
    target = {i: LayerWeights(node.kernel) for i, node in ((1, first), (3, second))}
    ticket = {i: w._replace(positive=w.positive * rng.uniform(0.99, 1.01, (4, 4))) for i, w in target.items()}
    given = graph, target, ticket, Balls(rng.uniform(size=(4, 4)), 0.05, 0.0, 1.0)
    runs = []
    for rows in (1024, 6, 2):
        monkeypatch.setattr(attack_module, "_ROWS", rows)
        runs.append(attack(*given, steps=10, restarts=3, seed=5))
    assert runs[0].value == pytest.approx(runs[1].value, rel=1e-9) and runs[2].value > 0.8 * runs[0].value
    assert len({run.inputs for run in runs}) == 1


def test_equal_networks(abruptly) -> None:
    graph, target, _, _ = linear(3, 2)
    for run in (attack, abruptly):
        assert run(graph, target, target, Box(0.0, 1.0, (3,)), steps=2, restarts=1).value == 0.0


@pytest.fixture
def abruptly(monkeypatch: pytest.MonkeyPatch):
    """The attack with units that switch as they do."""

    def run(*given, **options) -> attack_module.Attack:
        with monkeypatch.context() as patched:
            patched.setattr(attack_module, "_TEMPERATURES", (1e-12, 1e-12))
            return attack(*given, **options)

    return run


def _floats(weights: dict) -> dict:
    return {
        i: LayerWeights(*(None if a is None else np.asarray(a, np.float64) for a in w[:3]), clip=w.clip)
        for i, w in weights.items()
    }


@pytest.mark.parametrize("domain", [Box(0.5, 0.5, (4,)), Balls(np.full((1, 4), 0.5), 0.0)])
def test_a_region_that_is_a_point(domain: Domain) -> None:
    graph, target, ticket, error = linear(4, 2)
    found = attack(graph, target, ticket, domain, steps=2, restarts=1)
    assert found.value == pytest.approx(np.abs(0.5 * error.sum(0)).max(), rel=1e-12)
