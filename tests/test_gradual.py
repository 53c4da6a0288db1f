"""Gradual derivatives: values are the node's own, derivatives go from the mean of both sides to the true ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slth_compile.certificate.gradual import KINKED, gradual, moved
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import apply_node
from slth_compile.graph.graph import Graph

NODES = [
    n.Relu(inputs=(0,)),
    n.LeakyRelu(inputs=(0,), slope=0.25),
    n.Prelu(inputs=(0,), slopes=np.array([0.5, -0.5, 2.0])),
    n.Clip(inputs=(0,), low=-0.5, high=0.75),
    n.Clip(inputs=(0,), low=None, high=0.75),
    n.Clip(inputs=(0,), low=-0.5, high=None),
    n.HardSigmoid(inputs=(0,), slope=0.5, offset=0.25),
    n.HardSigmoid(inputs=(0,), slope=-0.5, offset=0.25),
    n.HardSigmoid(inputs=(0,), slope=0.0, offset=0.25),
    n.MaxPool(inputs=(0,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
    n.MaxPool(inputs=(0,), window=(3, 2), stride=(2, 1), padding=((1, 0), (1, 1))),
    n.Maximum(inputs=(0,), axes=(0, 1)),
]
MEANS = [0.5, 0.625, np.array([0.75, 0.25, 1.5]), 0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
"""Of the slopes on both sides of all kinks: what derivatives are where every unit counts half."""

SHAPE = (4, 6, 3)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def tangent(node: n.Node, y: np.ndarray, dy: np.ndarray, temperature: float, starts: int = 2) -> list[np.ndarray]:
    function = gradual(Graph((n.Input(shape=SHAPE), node), (1,)), jnp.asarray(temperature), starts)[1]
    return [np.asarray(array) for array in jax.jvp(function, (y,), (dy,))]


def arrays(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 6, *SHAPE))


@pytest.mark.parametrize("node", NODES)
def test_values_stay_and_cold_derivatives_are_true(node: n.Node) -> None:
    y, dy = arrays()
    value, change = tangent(node, y, dy, 1e-12)
    expected = jax.jvp(lambda v: apply_node(node, [v]), (y,), (dy,))
    assert np.array_equal(value, expected[0])
    assert np.allclose(change, expected[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("node", "mean"), list(zip(NODES, MEANS, strict=False)))
def test_hot_units_count_half(node: n.Node, mean: np.ndarray) -> None:
    y, dy = arrays()
    assert np.allclose(tangent(node, y, dy, 1e9)[1], mean * dy, rtol=0, atol=1e-7)


@pytest.mark.parametrize("node", NODES[-3:])
@pytest.mark.parametrize("temperature", [1e-3, 0.3, 1e9])
def test_shares_of_a_maximum_add_up_to_one(node: n.Node, temperature: float) -> None:
    y, dy = arrays()
    steady = tangent(node, y, np.full_like(y, 0.75), temperature)[1]
    assert np.allclose(steady, 0.75, rtol=1e-12)
    change = tangent(node, y, dy, temperature)[1]
    assert np.all(change <= apply_node(node, [dy]) + 1e-12)
    assert np.all(change >= -np.asarray(apply_node(node, [-dy])) - 1e-12)


def test_hot_maxima_are_means() -> None:
    y, dy = arrays()
    change = tangent(NODES[-3], y, dy, 1e9)[1]
    assert np.allclose(change, dy.reshape(6, 2, 2, 3, 2, 3).mean((2, 4)), atol=1e-7)


def test_units_switch_as_far_as_they_move_within_their_own_region() -> None:
    """Rows 0 and 2 are of one region, 1 and 3 of another, which moves a thousand times as far."""
    y = np.array([[1.0, 5.0], [1000.0, -5.0], [3.0, 5.0], [3000.0, -5.0]])
    size = np.asarray(moved(jnp.asarray(y), 2))
    assert np.allclose(size, np.sqrt([[0.5], [500_000.0]] * 2))
    assert np.allclose(moved(jnp.asarray(y[:1]), 1), np.sqrt(13.0))


def test_second_derivatives_see_a_switch_coming() -> None:
    """The gradient of `d relu(y)` pulls towards the side where `dy` counts, and is finite where nothing moves."""
    node = NODES[0]

    def change(y: jax.Array) -> jax.Array:
        function = gradual(Graph((n.Input(shape=(2,)), node), (1,)), jnp.asarray(0.5), 1)[1]
        return jax.jvp(function, (y,), (jnp.ones_like(y),))[1].sum()

    assert np.all(np.asarray(jax.grad(change)(jnp.array([[-1.0, 2.0]]))) > 0)
    assert np.all(np.isfinite(jax.grad(change)(jnp.zeros((1, 2)))))


def test_every_kinked_node_is_covered() -> None:
    assert {type(node) for node in NODES} == set(KINKED)
