"""What the plan promises of all errors within the tolerances: never below what such errors do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import UNOPTIMISED
from random_networks import depthwise, drawer, excited, grouped, residual, strided

from slth_compile.certificate.norms import point_norms
from slth_compile.certificate.promise import _promises, promise_at_points
from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.errors import UnreachableError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.graph import Graph
from slth_compile.plan.budget import allocate

Tolerances = dict[int, tuple[float, float]]
MARGIN = 1 + 1e-3
STEPS = 5


def heads(draw: Callable[..., np.ndarray]) -> Graph:
    """Two convolutions, then softmax, log-softmax and scores."""
    plain = {"stride": (1,), "padding": ((0, 1),), "dilation": (1,)}
    nodes = (
        n.Input(shape=(4, 2)),
        n.Convolution(inputs=(0,), kernel=draw(2, 2, 3), bias=draw(3), **plain),
        n.Relu(inputs=(1,)),
        n.Convolution(inputs=(2,), kernel=draw(2, 3, 3), **plain),
        n.Mean(inputs=(3,), axes=(0,)),
        n.Dense(inputs=(4,), kernel=draw(3, 3), bias=draw(3)),
        n.Softmax(inputs=(5,), axis=0),
        n.LogSoftmax(inputs=(5,), axis=0),
    )
    return Graph(nodes, (6, 7, 4), ("probabilities", "logarithms", "features"))


def curved(draw: Callable[..., np.ndarray]) -> Graph:
    """A smooth activation behind every layer, a gate at the end."""
    plain = {"stride": (1,), "padding": ((0, 1),), "dilation": (1,)}
    nodes = (
        n.Input(shape=(3, 2)),
        n.Convolution(inputs=(0,), kernel=draw(2, 2, 3), bias=draw(3), **plain),
        n.Silu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(3, 3)),
        n.Gelu(inputs=(3,), approximate=False),
        n.Dense(inputs=(4,), kernel=draw(3, 2), bias=draw(2)),
        n.Tanh(inputs=(5,)),
        n.Dense(inputs=(4,), kernel=draw(3, 2)),
        n.Sigmoid(inputs=(7,)),
        n.Multiply(inputs=(6, 8)),
        n.Gelu(inputs=(9,), approximate=True),
        n.Mean(inputs=(10,), axes=(0,)),
        n.Dense(inputs=(11,), kernel=draw(2, 2)),
    )
    return Graph(nodes, (12,))


def attending(draw: Callable[..., np.ndarray]) -> Graph:
    """Tokens from a convolution, a layer norm, attention of one head, a residual sum, an RMS norm."""
    nodes = (
        n.Input(shape=(4, 2)),
        n.Convolution(inputs=(0,), kernel=draw(2, 2, 3), bias=draw(3), stride=(1,), padding=((0, 1),), dilation=(1,)),
        n.LayerNorm(inputs=(1,), epsilon=0.05),
        n.Dense(inputs=(2,), kernel=draw(3, 2), bias=draw(2)),
        n.Dense(inputs=(2,), kernel=draw(3, 2)),
        n.Transpose(inputs=(4,), permutation=(1, 0)),
        n.MatrixProduct(inputs=(3, 5)),
        n.Softmax(inputs=(6,), axis=1),
        n.Dense(inputs=(2,), kernel=draw(3, 3)),
        n.MatrixProduct(inputs=(7, 8)),
        n.Add(inputs=(1, 9)),
        n.LayerNorm(inputs=(10,), epsilon=0.05, centred=False),
        n.Mean(inputs=(11,), axes=(0,)),
        n.Dense(inputs=(12,), kernel=draw(3, 2)),
    )
    return Graph(nodes, (13, 7), ("scores", "attention"))


NETWORKS = (strided, depthwise, residual, grouped, heads, excited, curved, attending)


@functools.cache
def case(network) -> tuple[Graph, np.ndarray, dict[int, bool]]:
    """A network, points of both signs and zero, and its signed layers."""
    rng = np.random.default_rng(7)
    graph = network(drawer(rng, False))
    x = rng.normal(size=(6, *graph.input_shape)).astype(np.float32)
    x[-1] = 0
    return graph, x, signed_layers(graph, False)


def signed_layers(graph: Graph, nonnegative: bool) -> dict[int, bool]:
    flags = nonnegative_nodes(graph, nonnegative)
    return {i: not flags[graph.nodes[i].inputs[0]] for i in graph.layers}


def random_tolerances(graph: Graph, size: float, rng: np.random.Generator) -> Tolerances:
    """Tolerances of different sizes; a layer without bias has none for it."""
    found = {}
    for i in graph.layers:
        kernel, bias = size * 10 ** rng.uniform(-1, 0, 2)
        found[i] = (float(kernel), float(bias) if graph.nodes[i].bias is not None else 0.0)
    return found


def scaled(tolerances: Tolerances, factor: float) -> Tolerances:
    return {i: (kernel * factor, bias * factor) for i, (kernel, bias) in tolerances.items()}


def worst_found(graph: Graph, eta: Tolerances, signed: dict[int, bool], x: np.ndarray) -> np.ndarray:
    """Largest |difference| of any output at each point: random corner errors, then steps along the gradient's sign."""
    with jax.enable_x64(True):
        attack = _program(graph, tuple(signed.values()))
        return np.asarray(attack(jnp.asarray(x, jnp.float64)[:, None], jax.tree.map(jnp.float64, eta)))


@functools.cache
def _program(graph: Graph, signs: tuple[bool, ...]):
    signed = dict(zip(graph.layers, signs, strict=True))
    return jax.jit(jax.vmap(functools.partial(_attacked, graph, signed), (0, None)), compiler_options=UNOPTIMISED)


def _attacked(graph: Graph, signed: dict[int, bool], x: jax.Array, eta) -> jax.Array:
    target, rng = target_weights(graph), np.random.default_rng(0)
    truth = _outputs(graph, x, target)

    def outputs(shares) -> jax.Array:
        weights = {}
        for i, w in target.items():
            positive, negative, bias = shares[i]
            weights[i] = LayerWeights(
                w.positive + eta[i][0] * positive,
                w.positive + eta[i][0] * negative if signed[i] else None,
                None if w.bias is None else w.bias + eta[i][1] * bias,
                clip=not signed[i],
            )
        return _outputs(graph, x, weights) - truth

    def start(i: int) -> tuple[np.ndarray, ...]:
        shapes = [target[i].positive.shape] * 2 + [target[i].positive.shape[-1:]]
        return tuple(rng.choice([-1.0, 1.0], shape) for shape in shapes)

    starts = {i: start(i) for i in target}

    def attack(goal: jax.Array) -> jax.Array:
        def step(shares, _):
            found, transpose = jax.vjp(outputs, shares)
            (gradient,) = transpose(goal)
            return jax.tree.map(lambda g: jnp.where(g >= 0, 1.0, -1.0), gradient), jnp.abs(found).max()

        return jax.lax.scan(step, starts, length=STEPS)[1].max()

    goals = jnp.eye(truth.size)
    return jax.lax.map(attack, jnp.concatenate([goals, -goals])).max()


def _outputs(graph: Graph, x: jax.Array, weights) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in evaluate(graph, x, weights)])


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, marks=[pytest.mark.slow] if network in (grouped, depthwise, curved, attending) else [])
        for network in NETWORKS
    ],
)
def test_never_below_the_difference_of_errors_within_the_tolerances(network) -> None:
    graph, x, signed = case(network)
    rng = np.random.default_rng(1)
    for size in (1e-4, 1e-2, 0.3):
        eta = random_tolerances(graph, size, rng)
        worst = worst_found(graph, eta, signed, x)
        assert np.all(worst <= _promises(graph, eta, x, 0) * MARGIN)
        assert np.all(worst <= point_norms(graph, x).bound(eta) * MARGIN)
        assert worst.max() <= promise_at_points(graph, eta, x) * MARGIN
        # The sign attack comes close where little is unstable: the promise says something.
        assert size > 1e-4 or promise_at_points(graph, eta, x) <= 4 * worst.max()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_cheap_pass_is_never_below_what_is_promised(network) -> None:
    graph, x, _ = case(network)
    last = max((i for i in graph.layers if isinstance(graph.nodes[i], n.Convolution)), default=0)
    for size in (1e-4, 1e-2, 0.3):
        eta = random_tolerances(graph, size, np.random.default_rng(2))
        cheap = _promises(graph, eta, x, last)
        best = np.minimum(_promises(graph, eta, x, 0), cheap) if last > graph.layers[0] else cheap
        assert promise_at_points(graph, eta, x) == pytest.approx(best.max(), rel=1e-5)
        # Copies of a point, so that one program serves all.
        each = [promise_at_points(graph, eta, np.broadcast_to(row, x.shape)) for row in x]
        np.testing.assert_allclose(each, best, rtol=1e-5, atol=1e-9)
        if not any(isinstance(node, n.MaxPool | n.Maximum) for node in graph.nodes):
            assert np.all(_promises(graph, eta, x, 0) <= cheap * (1 + 1e-5))


@pytest.mark.parametrize("network", NETWORKS)
def test_smaller_tolerances_promise_at_least_in_proportion(network) -> None:
    graph, x, _ = case(network)
    eta = random_tolerances(graph, 0.1, np.random.default_rng(3))
    for larger, factor in ((1.0, 0.7), (1.0, 0.1), (0.1, 0.5), (0.1, 1e-3)):
        whole = promise_at_points(graph, scaled(eta, larger), x)
        assert promise_at_points(graph, scaled(eta, larger * factor), x) <= factor * whole * (1 + 1e-4)


def test_a_program_serves_graphs_of_one_structure() -> None:
    """Constants reach it as arguments: what is promised of one network does not depend on those seen before."""
    kernel = np.ones((2, 2), np.float32)

    def promised(slope: float, scale: float) -> float:
        nodes = (
            n.Input(shape=(2,)),
            n.Dense(inputs=(0,), kernel=kernel),
            n.Prelu(inputs=(1,), slopes=np.full(2, slope, np.float32)),
            n.Affine(inputs=(2,), scale=np.full(2, scale, np.float32)),
        )
        return promise_at_points(Graph(nodes, (3,)), {1: (0.01, 0.0)}, np.full((1, 2), -1.0, np.float32))

    assert [promised(*pair) for pair in ((0.5, 1.0), (-3.0, 1.0), (0.5, 2.0))] == pytest.approx([0.01, 0.06, 0.02])


def test_one_layer_is_promised_exactly_what_can_happen() -> None:
    rng = np.random.default_rng(4)
    kernel, bias = rng.normal(size=(5, 3)), rng.normal(size=3)
    graph = Graph((n.Input(shape=(5,)), n.Dense(inputs=(0,), kernel=kernel, bias=bias)), (1,))
    x = rng.normal(size=(4, 5)).astype(np.float32)
    largest = 0.01 * np.abs(x.astype(float)).sum(1).max() + 0.002
    assert promise_at_points(graph, {1: (0.01, 0.002)}, x) == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "kink"),
    [
        (n.Relu(inputs=(1,)), 0.0),
        (n.LeakyRelu(inputs=(1,), slope=0.1), 0.0),
        (n.Prelu(inputs=(1,), slopes=np.full(2, 0.2, np.float32)), 0.0),
        (n.HardSwish(inputs=(1,)), -3.0),
    ],
)
def test_an_activation_at_a_kink_is_promised_no_more_than_what_reaches_it(activation: n.Node, kink: float) -> None:
    """The other one is far larger: what stands for its rounding must not outgrow the tolerances."""
    kernel = np.array([[1.0, 2.0**10], [1.0, 2.0**10]], np.float32)
    layer = n.Dense(inputs=(0,), kernel=kernel, bias=np.array([kink - 2.0 - 2.0**-10, 0.0], np.float32))
    graph, x = Graph((n.Input(shape=(2,)), layer, activation), (2,)), np.ones((1, 2), np.float32)
    for eta in (1e-3, 1e-6, 1e-9):
        assert promise_at_points(graph, {1: (eta, 0.0)}, x) == pytest.approx(2 * eta, rel=1e-2)


DOMAINS = {
    "points": lambda x: (Points(np.abs(x)),),
    "box": lambda x: (Box(0.0, 1.0),),
    "balls": lambda x: (Balls(np.abs(x[:2]), 0.01),),
    "signed points and box": lambda x: (Points(x), Box(0.0, 0.5)),
    "all": lambda x: (Balls(x[:2], 0.02), Points(x), Box(-0.1, 0.1)),
}


@pytest.mark.parametrize(("network", "name"), [(strided, "all"), *((residual, name) for name in DOMAINS)])
def test_allocated_tolerances_keep_every_domain_within_eps(network, name: str) -> None:
    graph, x, _ = case(network)
    domains = tuple(domain.with_shape(graph.input_shape) for domain in DOMAINS[name](x))
    signed = signed_layers(graph, all(domain.is_nonnegative() for domain in domains))
    eps = 0.5
    budget = allocate(graph, eps, domains, signed)
    assert 0.9 * eps < budget.bound <= eps
    for i, (kernel, bias) in budget.tolerances.items():
        assert kernel > 0 and (bias > 0) == (graph.nodes[i].bias is not None)
    for domain in domains:
        assert worst_found(graph, budget.tolerances, signed, corners(domain)).max() <= eps


def corners(domain: Domain) -> np.ndarray:
    """Six corners of a domain's regions."""
    lower, upper = domain.regions()
    rng = np.random.default_rng(5)
    rows = rng.integers(0, len(lower), 6)
    return np.where(rng.random((6, *lower.shape[1:])) < 0.5, lower[rows], upper[rows])


def dense(kernels: Sequence[np.ndarray], *last: n.Node) -> Graph:
    """Dense layers one after the other, without bias."""
    nodes: list[n.Node] = [n.Input(shape=kernels[0].shape[:1])]
    nodes += [n.Dense(inputs=(i,), kernel=kernel) for i, kernel in enumerate(kernels)]
    nodes += [n.Softmax(inputs=(len(nodes) - 1,), axis=0)] if last else []
    return Graph(tuple(nodes), (len(nodes) - 1,))


def test_an_eps_no_error_can_exceed_is_within_reach() -> None:
    """A softmax moves by at most 1; a network without bias gives 0 at 0 whatever its weights."""
    kernel = np.random.default_rng(6).normal(size=(3, 3))
    graph = dense([kernel], n.Softmax(inputs=(1,), axis=0))
    assert allocate(graph, 4.0, (Box(0.0, 1.0, (3,)),), {1: False}).bound <= 4.0
    graph = dense([kernel, kernel])
    budget = allocate(graph, 0.1, (Points(np.zeros((1, 3))),), {1: False, 2: True})
    assert budget.bound == 0.0 and all(kernel > 0 for kernel, _ in budget.tolerances.values())


def test_a_layer_of_zeros_takes_nothing_from_the_others() -> None:
    """Its weights are met exactly."""
    kernel = np.random.default_rng(6).normal(size=(3, 3))
    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=kernel),
        n.Dense(inputs=(0,), kernel=np.zeros((3, 3))),
        n.Add(inputs=(1, 2)),
    )
    box, signed = (Box(0.0, 1.0, (3,)),), {1: False, 2: False}
    alone = allocate(Graph(nodes[:2], (1,)), 0.1, box, signed).tolerances[1][0]
    beside = allocate(Graph(nodes, (3,)), 0.1, box, signed).tolerances[1][0]
    assert beside > 0.5 * alone


def test_a_bound_that_is_never_finite_is_refused() -> None:
    graph = dense([np.full((2, 2), 1e200)] * 3)
    with pytest.raises(UnreachableError, match="plan: the bound is not finite"):
        allocate(graph, 1e-3, (Box(0.0, 1.0, (2,)),), {1: False, 2: True, 3: True})
