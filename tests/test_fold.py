"""Folding against exact rationals: the stated errors always cover what rounding did, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check, nonnegative_nodes
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

BITS = 400
"""Of the square roots that stand for the exact ones; float64 has 53."""

INPUT = n.Input(shape=(3, 2))
KINDS = ("batch norm", "plain batch norm", "affine", "scale", "shift", "scalar")


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of many magnitudes, cancelling now and then."""
    values = rng.normal(size=shape) * 2.0 ** rng.integers(-20, 20, shape)
    return np.where(rng.random(shape) < 0.1, 0.0, values).astype(rng.choice([np.float32, np.float64]))


def normalisation(rng: np.random.Generator, kind: str, place: int, channels: int) -> n.Node:
    match kind:
        case "batch norm" | "plain batch norm":
            full = kind == "batch norm"
            return n.BatchNorm(
                inputs=(place,),
                mean=draw(rng, channels),
                variance=np.abs(draw(rng, channels)),
                scale=draw(rng, channels) if full else None,
                bias=draw(rng, channels) if full else None,
                epsilon=float(rng.choice([1e-5, 1e-3, 0.1])),
            )
        case "affine":
            return n.Affine(inputs=(place,), scale=draw(rng, channels), shift=draw(rng, channels), trained=True)
        case "scale":
            return n.Affine(inputs=(place,), scale=draw(rng, channels), trained=True)
        case "shift":
            return n.Affine(inputs=(place,), shift=draw(rng, channels), trained=True)
        case _:
            return n.Affine(inputs=(place,), scale=draw(rng), shift=draw(rng), trained=False)


def exactly(array: np.ndarray | None, channels: int, missing: int = 0) -> list[Fraction]:
    if array is None:
        return [Fraction(missing)] * channels
    return [Fraction(v) for v in np.broadcast_to(np.asarray(array, np.float64), (channels,)).tolist()]


def root(value: Fraction) -> Fraction:
    """The square root, to a relative error far below any float's."""
    shift = 2 * (BITS + max(0, value.denominator.bit_length() - value.numerator.bit_length()))
    return Fraction(math.isqrt((value.numerator << shift) // value.denominator), 1 << (shift // 2))


def exact_chain(layer: n.Weighted, chain: list[n.Node]) -> tuple[list[Fraction], list[Fraction] | None]:
    """What every output channel is multiplied by, and the bias, in real arithmetic."""
    channels = layer.kernel.shape[-1]
    scale = [Fraction(1)] * channels
    bias = None if layer.bias is None else exactly(layer.bias, channels)
    for node in chain:
        if isinstance(node, n.BatchNorm):
            variance = exactly(node.variance, channels)
            scales = exactly(node.scale, channels, 1)
            factor = [s / root(v + Fraction(node.epsilon)) for s, v in zip(scales, variance, strict=True)]
            mean, beta = exactly(node.mean, channels), exactly(node.bias, channels)
        else:
            factor, mean = exactly(node.scale, channels, 1), [Fraction(0)] * channels
            beta = exactly(node.shift, channels)
        adds = isinstance(node, n.BatchNorm) or node.shift is not None
        if bias is not None or adds:
            before = bias or [Fraction(0)] * channels
            bias = [(b - m) * f + t for b, m, f, t in zip(before, mean, factor, beta, strict=True)]
        scale = [a * f for a, f in zip(scale, factor, strict=True)]
    return scale, bias


def assert_covered(folded: n.Weighted, layer: n.Weighted, chain: list[n.Node]) -> None:
    scale, bias = exact_chain(layer, chain)
    assert folded.kernel.dtype == np.float64
    for index in np.ndindex(*layer.kernel.shape):
        true = Fraction(float(layer.kernel[index])) * scale[index[-1]]
        found = Fraction(float(folded.kernel[index]))
        assert abs(true - found) <= Fraction(folded.kernel_error) * abs(found)
    if bias is None:
        assert folded.bias is None and folded.bias_error is None
        return
    errors = exactly(folded.bias_error, len(bias))
    for true, found, error in zip(bias, folded.bias.tolist(), errors, strict=True):
        assert abs(true - Fraction(found)) <= error


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1)
)
@settings(max_examples=200, deadline=None)
def test_stated_errors_cover_the_rounding_of_a_chain(kinds: list[str], bias: bool, dense: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer: n.Weighted
    if dense:
        layer = n.Dense(inputs=(0,), kernel=draw(rng, 2, 3), bias=draw(rng, 3) if bias else None)
    else:
        geometry = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
        layer = n.Convolution(inputs=(0,), kernel=draw(rng, 2, 2, 3), bias=draw(rng, 3) if bias else None, **geometry)
    chain = [normalisation(rng, kind, i + 1, 3) for i, kind in enumerate(kinds)]
    folded = fold(Graph((INPUT, layer, *chain), (len(chain) + 1,)))
    assert len(folded.nodes) == 2 and folded.outputs == (1,)
    assert_covered(folded.nodes[1], layer, chain)
    # Small beside the weights: a fold costs a few roundings, not more.
    assert folded.nodes[1].kernel_error <= len(chain) * 2.0**-49


@given(st.sampled_from(["batch norm", "plain batch norm", "affine", "scale"]), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_one_that_stands_alone_becomes_a_depthwise_layer(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    node = normalisation(rng, kind, 0, 2)
    (_, layer) = fold(Graph((INPUT, node), (1,))).nodes
    assert isinstance(layer, n.Convolution) and layer.groups == 2 and layer.kernel.shape == (1, 1, 2)
    ones = dataclasses.replace(layer, kernel=np.ones((1, 1, 2)), bias=None)
    assert_covered(layer, ones, [node])


def test_nothing_folded_is_exact() -> None:
    rng = np.random.default_rng(0)
    layer = n.Dense(inputs=(0,), kernel=draw(rng, 2, 3), bias=draw(rng, 3))
    (_, folded) = fold(Graph((INPUT, layer), (1,))).nodes
    assert folded.kernel_error == 0 and folded.bias_error is None
    assert np.array_equal(folded.kernel, layer.kernel) and np.array_equal(folded.bias, layer.bias)
    plain = dataclasses.replace(layer, bias=None)
    (_, shifted) = fold(Graph((INPUT, plain, n.Affine(inputs=(1,), shift=draw(rng, 3))), (2,))).nodes
    assert shifted.kernel_error == 0 and shifted.bias_error is None


def test_a_layer_that_others_read_too_is_left_alone() -> None:
    rng = np.random.default_rng(1)
    layer = n.Dense(inputs=(0,), kernel=draw(rng, 2, 2))
    norm, kept = normalisation(rng, "batch norm", 1, 2), normalisation(rng, "scalar", 1, 2)
    read_twice = fold(Graph((INPUT, layer, norm, n.Add(inputs=(1, 2))), (3,)))
    assert [type(node) for node in read_twice.nodes] == [n.Input, n.Dense, n.Convolution, n.Add]
    an_output = fold(Graph((INPUT, layer, kept), (2, 1)))
    assert [type(node) for node in an_output.nodes] == [n.Input, n.Dense, n.Affine]
    # The last of a chain is what must have one reader: here the second norm does not fold.
    chain = (INPUT, layer, norm, normalisation(rng, "affine", 2, 2), n.Relu(inputs=(2,)), n.Add(inputs=(3, 4)))
    assert [type(node) for node in fold(Graph(chain, (5,))).nodes] == [n.Input, n.Dense, n.Convolution, n.Relu, n.Add]


def test_folding_keeps_the_function_and_the_order_of_layers() -> None:
    rng = np.random.default_rng(2)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    norm = n.BatchNorm(inputs=(2,), mean=normal(4), variance=np.ones(4) * 0.3, scale=normal(4), epsilon=1e-3)
    nodes = (
        INPUT,
        n.Affine(inputs=(0,), scale=np.float32(2.0), shift=np.float32(-1.0)),
        n.Dense(inputs=(1,), kernel=normal(2, 4), name="first"),
        norm,
        n.Relu(inputs=(3,)),
        n.Affine(inputs=(4,), scale=normal(4), trained=True, name="second"),
        n.Dense(inputs=(5,), kernel=normal(4, 2), bias=normal(2), name="third"),
    )
    graph = Graph(nodes, (6, 4), ("a", "b"))
    folded = fold(graph)
    assert [folded.nodes[i].name for i in folded.layers] == ["first", "second", "third"]
    assert folded.output_names == ("a", "b")
    x = normal(5, 3, 2)
    for a, b in zip(evaluate(graph, x), evaluate(folded, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # An untrained affine with a negative shift is no longer structurally >= 0.
    assert nonnegative_nodes(folded, True)[:3] == (True, False, False)


@pytest.mark.parametrize(
    ("weight", "scale", "variance", "mean"),
    [
        (1e-10, 1e-300, 1.0, 0.0),
        (1e60, 1e-300, 1.0, 0.0),
        (1.0, 5e-324, 1e40, 0.0),
        (0.0, 5e-324, 1e40, 1e300),
        (1.0, 1e300, 1e-40, 0.0),
        (1e10, 1e300, 1.0, 0.0),
        (0.0, 1e100, 1.0, 1e300),
    ],
)
def test_weights_that_leave_the_floats_are_refused(weight: float, scale: float, variance: float, mean: float) -> None:
    kernel, one = np.array([[weight, 1.0]]), np.ones(2)
    norm = n.BatchNorm(inputs=(1,), mean=mean * one, variance=variance * one, scale=scale * one, epsilon=0.0)
    graph = check(Graph((n.Input(shape=(1,)), n.Dense(inputs=(0,), kernel=kernel), norm), (2,)))
    with pytest.raises(InputError, match="folding its scale leaves weights below 2\\^-900 or beyond float64"):
        fold(graph)


def test_what_no_graph_may_hold_is_refused() -> None:
    kernel = np.ones((2, 3))
    with pytest.raises(InputError, match="found int64, expected one of float16"):
        check(Graph((INPUT, n.Dense(inputs=(0,), kernel=kernel.astype(np.int64))), (1,)))
    with pytest.raises(UnsupportedModelError, match="one bias a column"):
        check(Graph((INPUT, n.Dense(inputs=(0,), kernel=kernel, bias=np.ones(1))), (1,)))
    damaged = np.where(np.eye(2, 3) == 1, np.nan, kernel)
    with pytest.raises(InputError, match=r"NaN or infinity in the model's weights: 'x' kernel \(2 of 6\)"):
        check(Graph((INPUT, n.Dense(inputs=(0,), name="x", kernel=damaged)), (1,)))
    norm = n.BatchNorm(inputs=(0,), name="y", mean=np.zeros(2), variance=np.array([-1.0, 0]), epsilon=1e-3)
    with pytest.raises(InputError, match=r"'y' \(batch norm\): variance \+ epsilon is not positive"):
        check(Graph((INPUT, norm, n.Dense(inputs=(1,), kernel=kernel)), (2,)))
    with pytest.raises(UnsupportedModelError, match="no weighted layer"):
        check(Graph((INPUT, n.Relu(inputs=(0,))), (1,)))
