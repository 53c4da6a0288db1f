"""Inputs near the end of floating point: nothing is warned of, what is measured is right or infinite."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import slth_compile as slth
from slth_compile import measure
from slth_compile.checker.domain import Domain
from slth_compile.errors import InputError, UnreachableError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def one_layer(*weights: float) -> Graph:
    """The sum of the inputs, each times its weight."""
    kernel = np.array(weights, np.float32)[:, None]
    return Graph((n.Input(shape=(len(weights),)), n.Dense(inputs=(0,), kernel=kernel)), (1,))


BALL = slth.Balls(np.zeros((1, 2)), 1e308)


@pytest.mark.parametrize("domain", [BALL, slth.Box(-1e308, 1e308), slth.Balls(np.zeros((3, 2)), 1e308)])
def test_the_largest_output_over_huge_balls(domain: slth.Balls | slth.Box) -> None:
    """Inputs beyond float32, and widths beyond float64."""
    weight = float(np.float32(2.0**-10))
    low, high = measure.output_range(one_layer(weight, weight), domain.with_shape((2,)))
    assert -2e308 * weight < low / 1 < -1e308 * weight and 1e308 * weight < high < 2 * (1e308 * weight)


def test_outputs_beyond_float64_are_infinite() -> None:
    assert measure.output_range(one_layer(2.0, 2.0), BALL) == (-math.inf, math.inf)
    # Infinity less infinity: no number, though the difference of the inputs is one.
    assert measure.output_range(one_layer(2.0, -2.0), slth.Points(np.full((1, 2), 1e308))) == (-math.inf, math.inf)


def test_points_are_taken_as_they_are() -> None:
    x = np.array([[0.1, 0.2]], np.float32)
    assert measure.output_range(one_layer(1.0, 0.0), slth.Points(x)) == (float(x[0, 0]),) * 2
    assert measure.output_range(one_layer(1.0, 0.0), slth.Points(np.array([[1e300, 0.0]]))) == (1e300, 1e300)


def test_balls_beyond_float64_are_refused() -> None:
    """By the checker too; clips make them finite."""
    x = np.full((1, 2), 1e308)
    with pytest.raises(InputError, match="beyond the numbers of float64"):
        slth.Balls(x, 1e308)
    lower, upper = slth.Balls(x, 1e308, upper=1.5e308).regions()
    assert np.all(np.abs(lower) < 1e293) and np.all(upper == 1.5e308)
    ends = {"lower": np.full(2, -np.inf), "upper": np.full(2, np.inf)}
    _, upper = Domain("balls", {"x": x, "radius": np.full(2, 1e308)} | ends).regions(0, 1)
    assert np.all(upper == np.inf)  # which `load_domains` refuses


@pytest.mark.parametrize("domain", [BALL, slth.Points(np.full((2, 2), 1e308))])
def test_statements_over_huge_inputs(domain: slth.Balls | slth.Points) -> None:
    f, g = one_layer(3.0, 3.0), one_layer(3.0, 0.5)
    rung = slth.certify(f, g, domain).rungs[0]
    # At (1e308, 1e308): more than float64 holds, in either network and between them.
    assert rung.bound == math.inf and rung.is_vacuous and rung.output_range == (-math.inf, math.inf)
    assert rung.attack is not None and rung.attack.value < 1.7e308  # infinite values are not seen as large ones
    with pytest.raises(UnreachableError, match="finite"):
        slth.compile(f, 1.0, domain=domain, window=8)


def test_a_bound_over_a_huge_ball_is_finite_where_it_can_be() -> None:
    f = one_layer(2.0**-10, 2.0**-10)
    nodes = f.nodes[0], dataclasses.replace(f.nodes[1], kernel=f.nodes[1].kernel * np.float32(1.5))
    rung = slth.certify(f, Graph(nodes, (1,)), BALL).rungs[0]
    exact = 1e308 * 2.0**-10
    assert exact <= rung.bound < exact * (1 + 1e-6)
