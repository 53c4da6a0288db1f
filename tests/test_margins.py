"""Predictions proved by margins: never where an input flips, always where single outputs prove them, and in more."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import drawer

from slth_compile.certificate import margins as margins_module
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.difference import Difference
from slth_compile.certificate.margins import margin_graph, top1_by_margins
from slth_compile.certificate.pair import Pair, pair_of
from slth_compile.certificate.top1 import Top1, top1
from slth_compile.domain import Balls
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.graph import Graph

CLASSES = 4


def network(seed: int, size: float, softmax: bool = False) -> Graph:
    """A dense network of two layers; `size` moves its weights, the same seed draws the same ones."""
    draw = drawer(np.random.default_rng(seed), False)
    kernels = draw(3, 6), draw(6), draw(6, CLASSES), draw(CLASSES)
    a, b, c, d = (k + size * np.random.default_rng(i).normal(size=k.shape) for i, k in enumerate(kernels))
    nodes = [
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=a, bias=b),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=c, bias=d),
    ]
    return Graph((*nodes, n.Softmax(inputs=(3,), axis=0)) if softmax else tuple(nodes), (3 + softmax,))


def outputs(graph: Graph, x: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(evaluate(graph, jnp.asarray(x))[0])


@dataclasses.dataclass(frozen=True)
class Case:
    f: Graph
    g: Graph
    pair: Pair
    regions: tuple[np.ndarray, np.ndarray]
    classes: np.ndarray

    def found(self, **options) -> tuple[Top1, Top1]:
        """What is proved without margins, and with them."""
        errors = self.pair.errors_on(Balls(*self.ball))
        leaf = bound_difference_backward(self.pair.graph, errors, *self.regions)[0]
        plain = top1(leaf)
        assert plain is not None
        return plain, top1_by_margins(self.pair.graph, errors, self.regions, leaf, self.classes, **options)

    @property
    def ball(self) -> tuple[np.ndarray, float]:
        lower, upper = self.regions
        return 0.5 * lower + 0.5 * upper, float((upper - lower).max()) / 2


def case(seed: int, size: float = 0.02, radius: float = 0.2, softmax: bool = False) -> Case:
    f, g = network(seed, 0.0, softmax), network(seed, size, softmax)
    balls = Balls(np.random.default_rng(seed).uniform(-1, 1, (8, 3)), radius)
    return Case(f, g, pair_of(f, g), balls.regions(), outputs(f, balls.x).argmax(1))


def test_never_where_an_input_flips_and_never_less() -> None:
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    more = flips = lost = 0
    for seed, (size, radius) in itertools.product(range(5), [(0.02, 0.2), (0.3, 0.02)]):
        given = case(seed, size, radius)
        plain, found = given.found()
        assert np.all(found.proved >= plain.proved) and np.all(found.without_difference >= plain.without_difference)
        assert np.all(found.without_difference >= found.proved)
        more += found.unchanged - plain.unchanged
        lost += int(np.sum(found.without_difference & ~found.proved))
        lower, upper = given.regions
        share = np.concatenate([np.random.default_rng(seed).uniform(size=(500, 3)), corners])
        x = (lower[:, None] + share * (upper - lower)[:, None]).reshape(-1, 3)
        one, two = (outputs(graph, x).argmax(1).reshape(8, -1) for graph in (given.f, given.g))
        for chosen, proved in ((one, found.without_difference), (two, found.proved)):
            same = np.all(chosen == found.classes[:, None], axis=1)
            assert np.all(same | ~proved)
            flips += int(np.sum(~same))
    assert more > 2 and flips > 10 and lost > 0


@pytest.mark.parametrize("changed", ["difference", "rival"])
def test_a_wrong_margin_is_seen(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """With differences forgotten, or another class compared, something is claimed that an input refutes."""

    def wrong(graph: Graph, errors: dict, pairs: np.ndarray) -> tuple[Graph, dict]:
        return margin_graph(graph, errors, np.stack([pairs[:, 0], (pairs[:, 0] + 1) % CLASSES], axis=1))

    def bounds(*given, **options):
        (leaf,) = bound_difference_backward(*given, **options)
        return (dataclasses.replace(leaf, lower=0 * leaf.lower),)

    changes = {"difference": ("bound_difference_backward", bounds), "rival": ("margin_graph", wrong)}
    monkeypatch.setattr(margins_module, *changes[changed])
    refuted = 0
    for seed in range(4):
        given = case(seed, size=0.3, radius=0.02)
        found = given.found()[1]
        refuted += int(np.sum(found.proved & (outputs(given.g, given.ball[0]).argmax(1) != found.classes)))
    assert refuted > 0


def test_a_margin_counts_for_regions_of_its_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions of classes 0 and 2, each open towards 1; only 0 is ahead of 1, wherever that is asked."""
    given = case(0)
    low, high = np.array([[2.0, 0, -9, -9], [-9, 0, 2, -9]]), np.array([[3.0, 3, -9, -9], [-9, 3, 3, -9]])
    leaf = Difference(np.zeros((2, 4)), np.zeros((2, 4)), low, high)

    def bounds(graph: Graph, *rest, **options):
        assert np.array_equal(graph.nodes[-1].kernel, [[1, 0], [-1, -1], [0, 1], [0, 0]])
        margin = np.array([[1.0, -1.0], [1.0, -1.0]])
        return (Difference(0 * margin, 0 * margin, margin, margin),)

    monkeypatch.setattr(margins_module, "bound_difference_backward", bounds)
    regions = tuple(end[:2] for end in given.regions)
    found = top1_by_margins(given.pair.graph, {}, regions, leaf, np.array([0, 2]))
    assert found.proved.tolist() == found.without_difference.tolist() == [True, False]


def test_margins_are_differences_of_outputs() -> None:
    given = case(0)
    pairs = np.array([[0, 1], [3, 0], [2, 1]])
    x = np.random.default_rng(0).normal(size=(5, 3))
    errors = given.pair.errors_on(Balls(*given.ball))
    graph, own = margin_graph(given.pair.graph, errors, pairs)
    values = outputs(given.pair.graph, x)
    assert np.allclose(outputs(graph, x), values[:, pairs[:, 0]] - values[:, pairs[:, 1]], atol=1e-14)
    assert set(own) == {*errors, graph.outputs[0]}


def test_a_softmax_keeps_the_order_of_its_logits() -> None:
    logits, shares = (case(3, softmax=softmax) for softmax in (False, True))
    assert np.array_equal(logits.found()[1].proved, shares.found()[1].proved)
    graph, _ = margin_graph(shares.pair.graph, shares.pair.errors_on(Balls(*shares.ball)), np.array([[0, 1]]))
    assert not any(isinstance(node, n.Softmax) for node in graph.nodes)


def test_splits_and_batches_prove_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(0)
    plain = given.found()[1]
    assert np.all(given.found(splits=2)[1].proved >= plain.proved)
    monkeypatch.setattr(margins_module, "MOST_MARGINS", CLASSES - 1)
    shown: list[tuple[int, int]] = []
    again = given.found(progress=lambda _, done, total: shown.append((done, total)))[1]
    assert np.array_equal(again.proved, plain.proved)
    assert shown == sorted(shown) and shown[-1][0] == shown[-1][1] >= 200


def test_regions_are_repeated_only_where_they_are_walked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    given, sizes = case(1), []

    def bounds(graph: Graph, errors: dict, lower: np.ndarray, upper: np.ndarray, **options):
        sizes.append(len(lower))
        return bound_difference_backward(graph, errors, lower, upper, **options)

    monkeypatch.setattr(margins_module, "bound_difference_backward", bounds)
    given.found()
    monkeypatch.setattr(margins_module, "together_in", lambda _: 1)
    given.found()
    assert sizes[0] == 8 and 0 < sizes[1] < 8


def test_every_open_margin_is_in_one_batch() -> None:
    rng = np.random.default_rng(0)
    is_open, classes = rng.uniform(size=(300, 200)) < 0.01, rng.integers(0, 200, 300)
    is_open[np.arange(300), classes] = False
    is_open[7] = np.arange(200) != classes[7]
    seen = []
    for rows, pairs in margins_module._batches(is_open, classes):
        known = {tuple(pair) for pair in pairs.tolist()}
        assert len(known) == len(pairs) <= margins_module.MOST_MARGINS
        wanted = {(classes[row], j) for row in rows for j in np.flatnonzero(is_open[row])}
        assert known == wanted
        seen += rows.tolist()
    assert sorted(seen) == [row for row in np.flatnonzero(is_open.any(1)) if row != 7]
    assert not list(margins_module._batches(np.zeros_like(is_open), classes))
