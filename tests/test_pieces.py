"""The interval engine against true suprema: small networks, all of whose linear pieces are enumerated exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact import difference_at, exact_evaluate, is_inside
from random_networks import Case, drawer, random_case

from slth_compile.certificate.difference import bound_difference
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_never_below_the_true_supremum_of_small_networks(inputs: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(inputs)
    for _ in range(6):
        draw = drawer(rng, bool(rng.random() < 0.3))
        case = random_case(_tiny(draw, inputs), rng, 0.1, draw, nonnegative)
        lower = rng.uniform(0, 0.5, inputs) if nonnegative else rng.uniform(-1, 0, inputs)
        upper = lower + rng.uniform(0, 1, inputs)
        (leaf,) = bound_difference(case.graph, case.errors, lower[None], upper[None])
        for x in vertices_of_pieces(case, lower, upper):
            (values,) = difference_at(case, x)
            assert is_inside(leaf, 0, values)


def _tiny(draw, inputs: int) -> Graph:
    nodes = (
        n.Input(shape=(inputs,)),
        n.Dense(inputs=(0,), kernel=draw(inputs, 4), bias=draw(4)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(4, 4), bias=draw(4)),
        n.Reshape(inputs=(3,), shape=(4, 1)),
        n.MaxPool(inputs=(4,), window=(2,), stride=(2,), padding=((0, 0),)),
        n.LeakyRelu(inputs=(5,), slope=0.25),
        n.Reshape(inputs=(6,), shape=(2,)),
        n.Dense(inputs=(7,), kernel=draw(2, 2), bias=draw(2)),
    )
    return Graph(nodes, (8,))


def vertices_of_pieces(case: Case, lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    """Every vertex of every piece of the box on which both networks are linear: a linear difference peaks at one."""
    low, high = ([Fraction(v) for v in ends] for ends in (lower, upper))
    if len(low) == 1:
        box = [(low[0],), (high[0],)]
    else:
        box = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    waiting, found = [box], {}
    while waiting:
        polygon = waiting.pop()
        signs = [_kinks(case, vertex) for vertex in polygon]
        split = next((k for k in zip(*signs, strict=True) if min(k) < 0 < max(k)), None)
        if split is None:
            found.update(dict.fromkeys(polygon))
        else:
            waiting += [_half(polygon, [sign * v for v in split]) for sign in (1, -1)]
    return [np.array(vertex, object) for vertex in found]


def _kinks(case: Case, vertex: tuple[Fraction, ...]) -> list[Fraction]:
    kinks: list[Fraction] = []
    for weights in (case.target, case.ticket):
        exact_evaluate(case.graph, np.array(vertex, object), weights, kinks)
    return kinks


def _half(polygon: list[tuple[Fraction, ...]], values: list[Fraction]) -> list[tuple[Fraction, ...]]:
    """The part of a convex polygon where a function, linear on it and known at its vertices, is not negative."""
    kept = []
    corners = list(zip(polygon, values, strict=True))
    for (a, va), (b, vb) in zip(corners, corners[1:] + corners[:1], strict=True):
        if va >= 0:
            kept.append(a)
        if va * vb < 0:
            kept.append(tuple(p + (q - p) * va / (va - vb) for p, q in zip(a, b, strict=True)))
    return list(dict.fromkeys(kept))
