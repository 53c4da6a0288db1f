"""Imports a model and compares the graph with it."""

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

RNG = np.random.default_rng(0)


def random(*shape, scale=0.5):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def assert_same(graph: Graph, model, shape, batch_axis=0):
    check(graph)
    x = random(3, *shape, scale=1.0)
    folded = [fold(graph)] if any(isinstance(node, n.BatchNorm | n.Affine) for node in graph.nodes) else []

    def compute(x):
        expected = jax.vmap(model)(x) if batch_axis is None else model(x)
        return jax.tree.leaves(expected), [evaluate(form, x) for form in (graph, *folded)]

    # one program, barely optimised: compiling is what takes the time
    leaves, forms = jax.jit(compute).lower(x).compile({"xla_backend_optimization_level": 0})(x)
    for computed in forms:
        assert len(leaves) == len(computed)
        for a, b in zip(leaves, computed, strict=True):
            np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=1e-5, atol=1e-5)


def imported(model, shape, batch_axis=0) -> Graph:
    graph = import_model(model, shape, batch_axis=batch_axis)
    assert_same(graph, model, shape, batch_axis)
    return graph


def randomised(variables):
    def fill(path, leaf):
        value = random(*leaf.shape)
        return np.abs(value) + 0.1 if "var" in str(path[-1]) or "var" in str(path[-2:]) else value

    return jax.tree_util.tree_map_with_path(fill, variables)


def bound(module, shape):
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return module.bind(randomised(variables))


def kinds(graph):
    return [type(node).__name__ for node in graph.nodes[1:]]
