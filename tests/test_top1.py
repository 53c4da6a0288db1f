"""Predictions proved unchanged: never where brute force finds another class, always where the enclosures allow it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact_evaluate
from hypothesis import given, settings
from random_networks import drawer
from test_difference import inputs_of

from slth_compile.certificate.difference import Difference, bound_difference
from slth_compile.certificate.pair import pair_of
from slth_compile.certificate.top1 import top1
from slth_compile.domain import Balls
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


def random_leaf(seed: int, regions: int = 6, classes: int = 3) -> Difference:
    """Enclosures of small multiples of 1/4, with ties."""
    rng = np.random.default_rng(seed)
    output, width = rng.integers(-8, 9, (regions, classes)) / 4, rng.integers(0, 3, (regions, classes)) / 4
    lower, other = rng.integers(-2, 3, (regions, classes)) / 4, rng.integers(0, 3, (regions, classes)) / 4
    return Difference(lower, lower + other, output, output + width)


def exhaustive(leaf: Difference, region: int) -> tuple[bool, bool]:
    """Whether at every corner one class alone is largest, in both networks and in the first one."""
    ends = zip(leaf.output_lower[region], leaf.output_upper[region], strict=True)
    moved = zip(leaf.lower[region], leaf.upper[region], strict=True)
    f = np.array(list(itertools.product(*ends)))
    d = np.array(list(itertools.product(*moved)))
    g = (f[:, None] + d[None]).reshape(-1, f.shape[1])
    chosen = [{tuple(np.flatnonzero(row == row.max())) for row in rows} for rows in (f, np.concatenate([f, g]))]
    alone, both = (len(winners) == 1 and len(next(iter(winners))) == 1 for winners in chosen)
    return both, alone


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_it_is_proved_exactly_where_all_corners_agree(seed: int) -> None:
    leaf = random_leaf(seed)
    found = top1(leaf)
    assert found is not None
    for region in range(len(leaf.lower)):
        assert (found.proved[region], found.without_difference[region]) == exhaustive(leaf, region)
    assert found.unchanged == found.proved.sum()


@pytest.mark.parametrize("mutation", ["lower", "upper", "output_upper"])
def test_a_wrong_end_is_seen(mutation: str) -> None:
    """With the wrong end of any interval, something is claimed that a corner refutes."""
    wrong = {"lower": "upper", "upper": "lower", "output_upper": "output_lower"}[mutation]
    claims = []
    for seed in range(60):
        leaf = random_leaf(seed)
        fields = {name: getattr(leaf, name) for name in ("lower", "upper", "output_lower", "output_upper")}
        found = top1(Difference(**fields | {mutation: fields[wrong]}))
        assert found is not None
        claims += [found.proved[i] and not exhaustive(leaf, i)[0] for i in range(len(leaf.lower))]
    assert any(claims)


@given(seeds, st.sampled_from([1.0, 2.0**-52, 1e-300, 5e-324, 5e307]))
@settings(max_examples=150, deadline=None)
def test_what_rounding_does_proves_nothing(seed: int, scale: float) -> None:
    """Ends of every size that almost cancel: what is proved is so in exact rationals of the very same ends."""
    rng = np.random.default_rng(seed)
    ends = [rng.choice([-1.5, -1.0, 0.0, 1.0, 1.5], (20, 2)) + rng.integers(-3, 4, (20, 2)) * scale for _ in range(4)]
    leaf = Difference(*ends)
    found = top1(leaf)
    assert found is not None
    for region in np.flatnonzero(found.without_difference):
        c = int(found.classes[region])
        low, high, f_low, f_high = (
            [Fraction(float(v)) for v in end[region]]
            for end in (leaf.lower, leaf.upper, leaf.output_lower, leaf.output_upper)
        )
        margin = f_low[c] - f_high[1 - c]
        assert margin > 0
        assert not found.proved[region] or margin + low[c] - high[1 - c] > 0


def test_nan_infinity_and_other_shapes_prove_nothing() -> None:
    one = np.ones((1, 2))
    for bad in (np.nan, np.inf):
        unsure = Difference(0 * one, np.array([[0.0, bad]]), np.array([[5.0, 0.0]]), np.array([[5.0, 0.0]]))
        assert not top1(unsure).proved[0]
        unsure = Difference(0 * one, 0 * one, np.array([[5.0, -bad]]), np.array([[5.0, bad]]))
        assert not top1(unsure).proved[0] and not top1(unsure).without_difference[0]
    assert top1(Difference(*(np.zeros((3, 1)),) * 4)) is None
    assert top1(Difference(*(np.zeros((3, 2, 2)),) * 4)) is None


@given(seeds, st.sampled_from([0.02, 0.3]), st.sampled_from([0.02, 0.2]))
@settings(max_examples=25, deadline=None)
def test_never_where_an_input_flips(seed: int, radius: float, size: float) -> None:
    """Random inputs and corners of every ball, evaluated in float64; flips are confirmed in exact rationals."""
    rng = np.random.default_rng(seed)
    f, g = _network(rng, 0.0), None
    g = _network(np.random.default_rng(seed), size)
    pair = pair_of(f, g)
    balls = Balls(rng.uniform(-1, 1, (8, 3)), radius)
    lower, upper = balls.regions()
    leaves = bound_difference(pair.graph, pair.errors_on(balls), lower, upper)
    found = top1(leaves[0])
    assert found is not None
    share = np.concatenate([rng.uniform(size=(200, 3)), np.array(list(itertools.product((0, 1), repeat=3)))])
    x = lower[:, None] + share * (upper - lower)[:, None]
    with jax.enable_x64(True):
        outputs = [np.asarray(evaluate(graph, jnp.asarray(x.reshape(-1, 3)))[0]) for graph in (f, g)]
    classes = np.stack([o.reshape(8, -1, 3).argmax(-1) for o in outputs])
    for region in np.flatnonzero(found.proved):
        assert np.all(classes[:, region] == found.classes[region])
        for point in inputs_of(rng, lower[region], upper[region])[:2]:
            for graph in (f, g):
                (values,) = exact_evaluate(graph, point)
                assert all(
                    values[found.classes[region]] > v for j, v in enumerate(values) if j != found.classes[region]
                )


def test_something_is_proved_and_something_flips() -> None:
    """The test above sees both kinds of balls."""
    proved, flipped = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        f, g = _network(rng, 0.0), _network(np.random.default_rng(seed), 0.2)
        balls = Balls(rng.uniform(-1, 1, (8, 3)), 0.02)
        pair = pair_of(f, g)
        found = top1(bound_difference(pair.graph, pair.errors_on(balls), *balls.regions())[0])
        with jax.enable_x64(True):
            one, two = (np.asarray(evaluate(graph, jnp.asarray(balls.x))[0]).argmax(1) for graph in (f, g))
        proved, flipped = proved + found.unchanged, flipped + int(np.sum(one != two))
    assert proved > 10 and flipped > 3


def _network(rng: np.random.Generator, size: float) -> Graph:
    """A dense network of two layers; `size` moves its weights, the same rng draws the same ones."""
    draw = drawer(rng, False)
    kernels = draw(3, 5), draw(5), draw(5, 3), draw(3)
    a, b, c, d = (k + size * np.random.default_rng(i).normal(size=k.shape) for i, k in enumerate(kernels))
    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=a, bias=b),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=c, bias=d),
    )
    return Graph(nodes, (3,))
