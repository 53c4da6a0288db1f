"""Activations and products as nodes: what is refused, which are non-negative, what they evaluate to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_truth import SMOOTH
from targets import TARGETS

from slth_compile.certificate.activations import activations
from slth_compile.certificate.derivatives import derivative, remainder, steepest
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check, nonnegative_nodes
from slth_compile.graph.evaluate import apply_node
from slth_compile.graph.graph import Graph, graph_from_json, graph_json, target_arrays, target_digest

KERNEL = np.ones((2, 2), np.float32)


def behind_a_layer(*nodes: n.Node) -> Graph:
    first = (n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=KERNEL))
    return Graph((*first, *nodes), (1 + len(nodes),))


REFUSED = (
    (n.Clip(inputs=(1,)), "expected finite numbers low <= high"),
    (n.Clip(inputs=(1,), low=1.0, high=0.5), "expected finite numbers low <= high"),
    (n.Clip(inputs=(1,), low=float("nan")), "expected finite numbers low <= high"),
    (n.Clip(inputs=(1,), high=float("inf")), "expected finite numbers low <= high"),
    (n.Clip(inputs=(1,), high=5e-324), "expected finite numbers low <= high"),
    (n.HardSigmoid(inputs=(1,), slope=float("nan"), offset=0.0), "expected finite numbers"),
    (n.HardSigmoid(inputs=(1,), slope=1.0, offset=float("-inf")), "expected finite numbers"),
    (n.Prelu(inputs=(1,), slopes=np.ones(3)), "one slope, or one a channel"),
    (n.Dilate(inputs=(1,), factors=(2, 2)), "one positive factor for every axis"),
    (n.Dilate(inputs=(1,), factors=(0,)), "one positive factor for every axis"),
    (n.Resample(inputs=(1,), axis=1, matrix=np.ones((3, 2))), "axis 1 as long as the rows"),
    (n.Resample(inputs=(1,), axis=0, matrix=np.ones((2, 3))), "axis 0 as long as the rows"),
    (n.Resample(inputs=(1,), axis=0, matrix=np.array([[5e-324, 1.0]])), "below 2\\^-1022"),
    (n.Multiply(inputs=(1,)), "two shapes of one rank"),
    (n.Multiply(inputs=(0, 1, 1)), "two shapes of one rank"),
    (n.MatrixProduct(inputs=(0, 1)), "equal leading axes"),
    (n.LayerNorm(inputs=(1,), epsilon=0.0), "expected a positive finite number"),
    (n.LayerNorm(inputs=(1,), epsilon=float("nan")), "expected a positive finite number"),
)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_does_not_fit_is_refused(case: int) -> None:
    node, reason = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=reason):
        check(behind_a_layer(node))


def test_outputs_without_names_are_refused() -> None:
    graph = behind_a_layer(n.Relu(inputs=(1,)))
    with pytest.raises(UnsupportedModelError, match="2 outputs and 1 names of outputs"):
        check(Graph(graph.nodes, (1, 2)))
    assert check(Graph(graph.nodes, (1, 2), ("a", "b"))).outputs == (1, 2)


def test_slopes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        check(behind_a_layer(n.Prelu(inputs=(1,), slopes=np.array([0.5, np.nan]))))


def test_products_broadcast_the_second_operand_alone() -> None:
    nodes = (
        n.Input(shape=(3, 2)),
        n.Dense(inputs=(0,), kernel=KERNEL),
        n.Slice(inputs=(1,), start=(0, 0), limit=(1, 2), stride=(1, 1)),
    )
    assert check(Graph((*nodes, n.Multiply(inputs=(1, 2))), (3,))).shapes[3] == (3, 2)
    with pytest.raises(UnsupportedModelError, match="axes of the second"):
        check(Graph((*nodes, n.Multiply(inputs=(2, 1))), (3,)))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_which_are_nonnegative(nonnegative: bool) -> None:
    always = [n.Sigmoid(inputs=(0,)), n.HardSigmoid(inputs=(0,), slope=-1.0, offset=0.5), n.Clip(inputs=(0,), low=0.0)]
    always += [n.Prelu(inputs=(0,), slopes=np.array([-1.0, 0.0]))]
    keeps = [n.Clip(inputs=(0,), low=-1.0), n.Clip(inputs=(0,), high=0.5), n.Prelu(inputs=(0,), slopes=np.array(0.5))]
    keeps += [n.Tanh(inputs=(0,)), n.HardSwish(inputs=(0,)), n.Silu(inputs=(0,)), n.Gelu(inputs=(0,), approximate=True)]
    keeps += [n.Multiply(inputs=(0, 0)), n.Multiply(inputs=(0, 1))]
    keeps += [n.Dilate(inputs=(0,), factors=(2,)), n.Resample(inputs=(0,), axis=0, matrix=np.array([[0.5, 0.0]]))]
    keeps += [n.LayerNorm(inputs=(0,), epsilon=0.1, centred=False)]
    never = [n.Clip(inputs=(0,), low=-2.0, high=-1.0), n.Resample(inputs=(0,), axis=0, matrix=np.array([[1.0, -0.1]]))]
    never += [n.LayerNorm(inputs=(0,), epsilon=0.1)]
    graph = Graph((n.Input(shape=(2,)), *always, *keeps, *never), (1,))
    found = nonnegative_nodes(graph, nonnegative)[1:]
    assert found == (True,) * len(always) + (nonnegative,) * len(keeps) + (False,) * len(never)


def test_the_format_keeps_every_field() -> None:
    for target in TARGETS:
        graph = target.graph()
        again = graph_from_json(graph_json(graph), target_arrays(graph), graph.output_names)
        assert target_digest(again) == target_digest(graph)


NODES = (
    *(node for node, _, _ in SMOOTH.values()),
    n.Relu(inputs=()),
    n.LeakyRelu(inputs=(), slope=0.25),
    n.Prelu(inputs=(), slopes=np.array(-1.5)),
    n.Clip(inputs=(), low=-0.5, high=1.0),
    n.HardSigmoid(inputs=(), slope=0.5, offset=0.25),
)


@pytest.mark.parametrize("node", NODES, ids=lambda node: type(node).__name__)
def test_derivatives_and_remainders_are_those_of_the_function(node) -> None:
    """`a(y + d)` within the remainder of its tangent, slopes nowhere above the steepest; NumPy and JAX alike."""
    rng = np.random.default_rng(0)
    y, reach = rng.normal(0, 3, 500), rng.choice([1e-3, 0.1, 1.0, 4.0], 500)
    d = reach * rng.uniform(-1, 1, 500)
    slopes = np.asarray(getattr(node, "slopes", 0.0))
    with jax.enable_x64(True):
        before, after = (np.asarray(apply_node(node, [jnp.asarray(v)])) for v in (y, y + d))
        traced = np.asarray(derivative(node, jnp.asarray(y), jnp.asarray(slopes)))
    slope = derivative(node, y, slopes)
    np.testing.assert_allclose(traced, slope, atol=1e-12)
    assert np.all(np.abs(slope) <= steepest(node))
    room = remainder(node, y, reach, 0.0, slopes)
    assert np.all(np.abs(after - before - slope * d) <= room + 1e-12)
    assert np.all(np.abs(after - before) <= steepest(node) * np.abs(d) + 1e-12)


@pytest.mark.parametrize("node", NODES, ids=lambda node: type(node).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_jax_evaluate_alike(node, dtype) -> None:
    x = np.random.default_rng(1).normal(0, 4, (3, 7)).astype(dtype)
    graph = Graph((n.Input(shape=(7,)), type(node)(**{**vars(node), "inputs": (0,)})), (1,))
    with jax.enable_x64(True):
        expected = np.asarray(apply_node(node, [jnp.asarray(x)]))
    found = activations(graph, x)[1]
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(
        found, expected, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6 if dtype == np.float32 else 1e-14
    )
