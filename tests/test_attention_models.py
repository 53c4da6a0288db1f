"""Layer norms and attention as libraries write them: which nodes they become, and that these compute the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from targets import bound, drawer

from slth_compile.errors import UnsupportedModelError
from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

SHAPE = (4, 6)
KERNEL = drawer(1)(6, 6)


class Before(nnx.Module):
    """A layer of nnx in front of a linear one."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer
        self.last = nnx.Linear(6, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.last(self.layer(x))


class Behind(nn.Module):
    """A linear layer in front of one of linen."""

    layer: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x):
        return self.layer()(nn.Dense(6)(x))


def linen(layer: Callable[[], nn.Module]) -> Any:
    return bound(Behind(layer), SHAPE, drawer(2))


def by_hand(axes: tuple[int, ...], root: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    def model(x):
        x = x @ KERNEL
        return (x - x.mean(axes, keepdims=True)) * root(x.var(axes, keepdims=True) + 1e-3)

    return model


def quotient(x):
    x = x @ KERNEL
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


NORMS = {
    "linen": lambda: linen(nn.LayerNorm),
    "linen, slow variance": lambda: linen(lambda: nn.LayerNorm(use_fast_variance=False, use_scale=False)),
    "linen, two axes": lambda: linen(lambda: nn.LayerNorm(reduction_axes=(1, 2), feature_axes=(1, 2))),
    "linen rms": lambda: linen(nn.RMSNorm),
    "nnx": lambda: Before(nnx.LayerNorm(6, rngs=rngs())),
    "nnx, slow variance": lambda: Before(nnx.LayerNorm(6, use_fast_variance=False, use_bias=False, rngs=rngs())),
    "nnx rms": lambda: Before(nnx.RMSNorm(6, rngs=rngs())),
    "by hand": lambda: by_hand((-1,), jax.lax.rsqrt),
    "two axes": lambda: by_hand((1, 2), jax.lax.rsqrt),
    "another axis": lambda: by_hand((1,), jax.lax.rsqrt),
    "quotient": lambda: quotient,
}


def imported(model: Any, shape: tuple[int, ...]) -> Graph:
    """The graph, found to compute what the model does, folded too."""
    graph = check(import_model(model, shape))
    x = np.random.default_rng(0).normal(0, 1, (3, *shape)).astype(np.float32)
    expected = np.asarray(model(x))
    for network in (graph, fold(graph)):
        np.testing.assert_allclose(evaluate(network, x)[0], expected, rtol=1e-4, atol=1e-5)
    return graph


def counted(graph: Graph) -> Counter[str]:
    return Counter(type(node).__name__ for node in graph.nodes)


@pytest.mark.parametrize("name", NORMS)
def test_norms_become_one_node(name: str) -> None:
    graph = imported(NORMS[name](), SHAPE)
    assert counted(graph)["LayerNorm"] == 1 and not {"Mean", "Multiply"} & set(counted(graph))
    assert all(node.centred == ("rms" not in name) for node in graph.nodes if isinstance(node, n.LayerNorm))


def heads(x):
    q, k, v = ((x @ (factor * KERNEL)).reshape(x.shape[0], 4, 2, 3) for factor in (1, 0.5, -1))
    return jax.nn.dot_product_attention(q, k, v)


def one_head(x):
    q, k, v = (x @ (factor * KERNEL) for factor in (1, 0.5, -1))
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) / 2) @ v


ATTENTION = {
    "linen": lambda: bound(nn.MultiHeadDotProductAttention(2), SHAPE, drawer(3)),
    "nnx": lambda: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs()),
    "jax": lambda: heads,
    "one head": lambda: one_head,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_becomes_two_products_and_a_softmax(name: str) -> None:
    graph = imported(ATTENTION[name](), SHAPE)
    found = counted(graph)
    assert (found["MatrixProduct"], found["Softmax"]) == (2, 1) and not {"Multiply", "Mean"} & set(found)
    # Queries, keys, values and what comes after the heads; every bias of heads is folded.
    assert len(fold(graph).layers) == (4 if name in ("linen", "nnx") else 3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda x: jax.nn.dot_product_attention(*[(x @ KERNEL).reshape(-1, 4, 2, 3)] * 3, is_causal=True), "mask"),
        (lambda x: (x @ KERNEL) * jax.lax.rsqrt(((x @ KERNEL) ** 2).mean(-1, keepdims=True)), "rsqrt"),
    ],
)
def test_what_is_none_is_refused_by_name(model, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        import_model(model, SHAPE)
