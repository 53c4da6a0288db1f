"""Points certificates by exact evaluation: numbers in fixed point and both networks against rational arithmetic."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from test_checker_units import (
    CONV,
    OPERATIONS,
    SHAPE,
    Pair,
    Written,
    build,
    correlate,
    evaluate,
    networks,
    node,
    rationals,
)

from slth_compile.checker import exact, exact_layers, fixed_point, verify
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.bounds import output_bounds
from slth_compile.checker.certificate import Claim, check_claim
from slth_compile.checker.domain import Domain
from slth_compile.checker.exact import differences, exact_bounds
from slth_compile.checker.exact_operations import image
from slth_compile.checker.fixed_point import Number
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.matrices import Dyadic, Effective, enclose
from slth_compile.checker.rational import Enclosure
from slth_compile.checker.signs import nonnegative_nodes
from slth_compile.errors import VerificationError

seeds = st.integers(0, 2**32 - 1)
TAIL = -4


def middles(x: Number) -> np.ndarray:
    """The limbs' values as rationals."""
    units = [Fraction(2) ** (fixed_point.BITS * (x.head - i)) for i in range(len(x.limbs))]
    return sum((rationals(limb) * one for limb, one in zip(x.limbs, units, strict=True)), Fraction(0))


def holds(x: Number, truth: np.ndarray) -> bool:
    """Whether the number's radius covers exact values, its limbs being as they are stated."""
    assert np.all(x.limbs == np.rint(x.limbs))
    assert np.all(np.abs(x.limbs) <= 2.0**19)
    radius = np.broadcast_to(rationals(x.radius), truth.shape[1:])
    return truth.shape == x.limbs.shape[1:] and bool(np.all(np.abs(middles(x) - truth) <= radius))


def numbers(rng: np.random.Generator, shape: tuple[int, ...], limbs: int, head: int = 0) -> Number:
    """Numbers of many magnitudes, with zeros and extreme limbs, and radii, some of them zero."""
    values = rng.integers(-(2**19), 2**19, (limbs, *shape), endpoint=True).astype(np.float64)
    ends = rng.choice([-(2.0**19), 2.0**19, 0.0, 1.0, -1.0], values.shape)
    values = np.where(rng.random(values.shape) < 0.3, ends, values)
    values[: int(rng.integers(limbs))] *= rng.random(shape) < 0.5
    radius = rng.random(shape[1:]) * 2.0 ** (-20.0 * rng.integers(1, 6)) * (rng.random(shape[1:]) < 0.7)
    return Number(values, head, radius)


def members(rng: np.random.Generator, x: Number) -> np.ndarray:
    """Reals that the number may be, the ends of its radius among them."""
    share = np.vectorize(lambda v: Fraction(int(v), 4), otypes=[object])(rng.integers(-4, 5, x.limbs.shape[1:]))
    return middles(x) + share * rationals(np.broadcast_to(x.radius, x.limbs.shape[1:]))


# ---------------------------------------------------------------- numbers


@given(seeds, st.integers(1, 6), st.integers(-9, 3))
@settings(max_examples=60, deadline=None)
def test_carrying_keeps_the_value_and_rounding_is_covered(seed: int, limbs: int, tail: int) -> None:
    rng = np.random.default_rng(seed)
    large = rng.integers(-(2**52), 2**52, (limbs, 7), endpoint=True).astype(np.float64)
    large = np.where(rng.random(large.shape) < 0.3, rng.choice([2.0**52, -(2.0**52), 2.0**19, 0.0], large.shape), large)
    truth = middles(Number(large, 2, np.zeros(())))
    low = 2 - limbs + 1
    whole, head = fixed_point.carried(large.copy(), 2)
    assert np.array_equal(middles(Number(whole, head, np.zeros(()))), truth)
    assert np.all(np.abs(whole) <= 2.0**19)
    cut = fixed_point.settled(large.copy(), 2, np.zeros(()), tail)
    assert holds(cut, truth)
    assert cut.low >= min(tail, cut.head)
    if tail <= low:
        assert not cut.radius.any()
    else:
        assert float(cut.radius) <= 0.51 * 2.0 ** (20 * tail)


@given(seeds, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_values_have_the_sign_of_the_number(seed: int, limbs: int) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, (40,), limbs, int(rng.integers(-2, 3)))
    truth, found = middles(x), fixed_point.value(x)
    for exactly, near in zip(truth, rationals(found), strict=True):
        assert (exactly > 0) == (near > 0)
        assert (exactly < 0) == (near < 0)
        assert abs(exactly - near) * 2**51 <= abs(exactly)
    assert rationals(fixed_point.magnitude(x)) >= max(abs(truth))
    ends = fixed_point.enclosed(x)
    for exactly in (truth - rationals(x.radius), truth + rationals(x.radius)):
        assert np.all(rationals(ends.lower) <= exactly)
        assert np.all(exactly <= rationals(ends.upper))


@given(seeds, st.integers(-8, 1))
@settings(max_examples=40, deadline=None)
def test_sums_products_and_quotients_are_covered(seed: int, tail: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (numbers(rng, (2, 3, 2), int(rng.integers(1, 5)), int(rng.integers(-2, 2))) for _ in range(2))
    row = numbers(rng, (1, 2), 3)
    count = rng.integers(1, 50, (3, 1)).astype(np.float64)
    x, y, z = (members(rng, v) for v in (a, b, row))
    assert holds(fixed_point.add(a, b, tail), x + y)
    assert holds(fixed_point.add(a, row, tail, -1), x - z)
    assert holds(fixed_point.times(a, b, tail), x * y)
    assert holds(fixed_point.times(a, row, tail), x * z)
    assert holds(fixed_point.divided(a, count, tail), x / rationals(count))
    exact_sum = fixed_point.add(a, b._replace(radius=a.radius * 0), -99)
    assert np.array_equal(middles(exact_sum), middles(a) + middles(b))


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=5), st.integers(-30, 2))
@settings(max_examples=60, deadline=None)
def test_floats_are_taken_as_they_are(values: list[float], tail: int) -> None:
    found = fixed_point.from_floats(np.array([values]), tail)
    truth = rationals(np.array([values]))
    assert holds(found, truth)
    if all(v == 0 or abs(v) > 2.0 ** (20 * tail + 60) for v in values):
        assert np.array_equal(middles(found), truth)


@given(seeds, st.integers(-12, 2), st.integers(-90, 20))
@settings(max_examples=60, deadline=None)
def test_dyadic_numbers_and_enclosed_reals_are_covered(seed: int, tail: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-(2**62) + 1, 2**62, (1, 4))
    found = fixed_point.from_dyadic(integers, exponent, tail)
    assert holds(found, np.array([[Fraction(int(i)) * Fraction(2) ** exponent for i in integers[0]]], object))
    reals = [Fraction(int(a), int(b)) for a, b in rng.integers(1, 10**9, (5, 2))]
    enclosures = [Enclosure(-r, -r + Fraction(1, 3**60)) for r in reals]
    for end in (0, 1):
        truth = np.array([[enclosure[end] for enclosure in enclosures]], object)
        assert holds(fixed_point.from_rationals(enclosures, tail), truth)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(VerificationError, match="beyond 2"):
        fixed_point.from_floats(np.array([1e300]), TAIL)
    large = fixed_point.from_floats(np.array([2.0**300]), TAIL)
    with pytest.raises(VerificationError, match="beyond 2"):
        fixed_point.times(large, large, TAIL)


# ---------------------------------------------------------------- operations

MORE = {
    "prelu": node("prelu", 0, slopes=np.array([-1.7, 0.3])),
    "one_slope": node("prelu", 0, slopes=np.array(2.5)),
    "clip": node("clip", 0, low=-0.3, high=0.7),
    "clip_below": node("clip", 0, low=0.1),
    "hard_sigmoid": node("hard_sigmoid", 0, slope=-0.3, offset=0.4),
    "hard_swish": node("hard_swish", 0),
    "square": node("multiply", 0, 0),
    "large_pool": node("max_pool", 0, window=[3, 4], stride=[1, 1], padding=[[2, 2], [3, 3]]),
}


def applied(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The one operation of a graph on one sample of rationals."""
    one = graph.nodes[1]
    fields = one.fields
    match one.op:
        case "prelu":
            return np.where(x >= 0, x, rationals(one.arrays["slopes"]) * x)
        case "clip":
            x = np.maximum(x, Fraction(fields["low"]))
            return np.minimum(x, Fraction(fields["high"])) if "high" in fields else x
        case "hard_sigmoid":
            moved = Fraction(fields["slope"]) * x + Fraction(fields["offset"])
            return np.clip(moved, Fraction(0), Fraction(1))
        case "hard_swish":
            return x * np.clip(x + 3, Fraction(0), Fraction(6)) / 6
        case "multiply":
            return x * x
        case _:
            return evaluate(graph, x, lambda *_: x)[0]


def kinked_numbers(rng: np.random.Generator) -> Number:
    """Numbers around every kink above, and ties."""
    x = rng.choice([-3.0, -0.3, 0.0, 0.1, 0.7, 3.0, 1.0], (2, *SHAPE)) + rng.choice([0, 2.0**-70, -1e-3, 0.9], SHAPE)
    found = fixed_point.from_floats(x, -9)
    return found._replace(radius=numbers(rng, (1, *SHAPE), 1).radius)


@pytest.mark.parametrize("name", [*OPERATIONS, *MORE])
def test_operations_cover_their_images(name: str) -> None:
    graph = build([node("input", shape=list(SHAPE)), (OPERATIONS | MORE)[name]], [1])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = kinked_numbers(rng) if seed % 2 else numbers(rng, (2, *SHAPE), 3)
        for tail in (-2, -6):
            found = image(graph.nodes[1], [x] * len(graph.nodes[1].inputs), tail)
            for _ in range(2):
                truth = np.array([applied(graph, sample) for sample in members(rng, x)], object)
                assert holds(found, truth)


def test_a_gate_is_broadcast() -> None:
    gate = node("mean", 0, axes=[0, 1]), node("reshape", 1, shape=[1, 1, 4])
    graph = build([node("input", shape=[2, 3, 4]), *gate, node("multiply", 0, 2)], [3])
    rng = np.random.default_rng(0)
    a, b = numbers(rng, (2, 2, 3, 4), 3), numbers(rng, (2, 1, 1, 4), 2)
    assert holds(image(graph.nodes[3], [a, b], -3), members(rng, a) * members(rng, b))


# ---------------------------------------------------------------- layers and networks


def exact_pair(name: str, signed: bool, seed: int) -> Pair:
    """A network of the checker's own tests whose layers carry the ticket's exact weights."""
    rng = np.random.default_rng(seed)
    pair = Pair(networks(rng)[name], True, -44, rng)
    with_weights(pair, signed)
    return pair


def with_weights(pair: Pair, signed: bool) -> None:
    """Adds the exact weights; without signs, inputs are >= 0 and layers that read no others lose their second half."""
    nonnegative = nonnegative_nodes(pair.folded, not signed)
    for layer in pair.folded.layers:
        kernels, bias, exponent = pair.exact[layer.node]
        one = nonnegative[pair.folded.graph.nodes[layer.node].inputs[0]]
        parts = [Dyadic(canonical_integers(layer, kernel, exponent), exponent) for kernel in kernels]
        own_bias = None if bias is None else Dyadic(bias.astype(np.int64), exponent)
        effective = Effective(parts[0], None if one else parts[1], own_bias)
        negative = None if one else pair.layers[layer.node].error_negative
        pair.layers[layer.node] = dataclasses.replace(
            pair.layers[layer.node], effective=effective, error_negative=negative
        )
        if one:
            pair.exact[layer.node] = [kernels[0], np.full(kernels[0].shape, Fraction(0), object)], bias, exponent


def canonical_integers(layer: Any, kernel: np.ndarray, exponent: int) -> np.ndarray:
    """The inverse of `Pair.unfolded`."""
    return layer.canonical(np.vectorize(lambda v: int(v / Fraction(2) ** exponent), otypes=[np.int64])(kernel))


def test_sums_longer_than_float64_holds_are_carried() -> None:
    """60000 products of the largest limbs, two at a position: more than 2^54, and odd."""
    terms, largest = 60_000, 2**19 - 1
    limbs = np.full((2, 1, terms), float(largest))
    limbs[1, 0, 0] -= 2
    layer, weights = exact_layers.matrix_layer(np.full((1, terms), largest * (1 + 2.0**-20)), 0, -5)
    found = exact_layers.linear_image(layer, weights, Number(limbs, 0, np.zeros(terms)), -5)
    both = 1 + Fraction(1, 2**20)
    truth = (terms * largest * both - Fraction(2, 2**20)) * largest * both
    assert holds(found, np.array([[truth]], object))
    assert found.radius[0] < 2.0**-100


def test_more_products_than_two_limbs_hold() -> None:
    """2^21 and some products of a quarter, in blocks: what is carried out of the first of them must not be lost."""
    terms = 2**21 + 2**14
    layer, weights = exact_layers.matrix_layer(np.full((1, terms), 0.5), 0, -1)
    found = exact_layers.linear_image(layer, weights, fixed_point.from_floats(np.full((1, terms), 0.5), -1), -1)
    assert holds(found, np.array([[Fraction(terms, 4)]], object))


def worst(pair: Pair, x: np.ndarray) -> list[np.ndarray]:
    """The largest difference of every output element over samples, exactly."""
    return [np.max(leaves, axis=0) for leaves in zip(*(pair.difference(sample) for sample in x), strict=True)]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["dense", "conv", "lines"])
def test_layers_cover_their_images(name: str, signed: bool) -> None:
    """Whatever is cut from inputs, weights and products, of inputs that are known closely, poorly or not at all."""
    pair = exact_pair(name, signed, 4)
    for seed, layer in [(seed, layer) for layer in pair.folded.layers for seed in range(3)]:
        rng = np.random.default_rng(seed)
        shape = pair.folded.graph.nodes[pair.folded.graph.nodes[layer.node].inputs[0]].shape
        x = numbers(rng, (2, *shape), int(rng.integers(1, 4)), int(rng.integers(-1, 4)))
        kernels, bias, exponent = pair.exact[layer.node]
        one_signed = pair.layers[layer.node].effective.negative is None
        if one_signed:
            x = Number(np.abs(x.limbs), x.head, x.radius * 0)
        inputs = members(rng, x)
        for tail in (0, -1, -5):
            target = exact_layers.target_weights(layer, tail)
            found = exact_layers.linear_image(layer, target.kernel, x, tail)
            kernel = rationals(layer.kernel)
            assert holds(found, np.array([correlate(sample, kernel, layer) for sample in inputs], object))
            ticket = exact_layers.ticket_weights(pair.layers[layer.node], tail)
            truth = np.array(
                [
                    correlate(np.maximum(sample, Fraction(0)), kernels[0], layer)
                    + correlate(np.minimum(sample, Fraction(0)), kernels[-1], layer)
                    + (0 if bias is None else rationals(bias) * Fraction(2) ** exponent)
                    for sample in inputs
                ],
                object,
            )
            assert holds(exact_layers.ticket_image(ticket, x, tail), truth)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["dense", "spread", "conv", "pools", "residual", "lines"])
def test_differences_are_enclosed(name: str, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any number of limbs; narrowly, where there are a few; with sums carried in between and one by one, too."""
    pair = exact_pair(name, signed, 1)
    rng = np.random.default_rng(2)
    x = rng.uniform(-1 if signed else 0, 1, (3, *pair.graph.nodes[0].shape))
    x[2] *= 2.0**-60
    domain, truth = Domain("points", {"x": x}), worst(pair, x)
    for limbs, most in ((1, 1 << 13), (4, 1 << 13), (6, 4)):
        monkeypatch.setattr(exact_layers, "MOST_PRODUCTS", most)
        monkeypatch.setattr(exact, "_BATCH", most)
        monkeypatch.setattr(exact, "_KEPT_WEIGHTS", 0 if limbs == 4 else 1000)
        for leaf, exactly in zip(differences(pair.folded, pair.layers, domain, 3, limbs), truth, strict=True):
            assert np.all(rationals(leaf.lower) <= exactly)
            assert np.all(exactly <= rationals(leaf.upper))
            if limbs > 4:
                assert np.all(leaf.upper - leaf.lower <= 2.0**-48 * leaf.upper + 2.0**-100)


def deep_network() -> Pair:
    """Twenty layers on two copies of each feature, whose weights cancel: features do not grow, bounds do by 2^60.

    Only the last layer of the ticket has errors.
    """
    rng = np.random.default_rng(5)
    nodes = [node("input", shape=[2]), node("concatenate", 0, 0, axis=0)]
    for i in range(20):
        turn = np.rint(np.linalg.qr(rng.normal(size=(2, 2)))[0] * 9) / 8
        kernel = np.block([[5 * turn, -4 * turn], [-4 * turn, 5 * turn]])
        bias = np.tile(rng.integers(0, 4, 2) / 8, 2)
        nodes += [node("dense", 2 * i + 1, kernel=kernel, bias=bias), node("leaky_relu", 2 * i + 2, slope=0.875)]
    nodes.append(node("dense", 41, kernel=rng.normal(size=(4, 2))))
    pair = Pair(build(nodes, [42]), True, -44, rng)
    for layer in pair.folded.layers[:-1]:
        integers, biases = (np.ldexp(v, 44).astype(np.int64) for v in (layer.kernel, layer.bias.high))
        pair.exact[layer.node] = [Pair.unfolded(layer, layer.canonical(integers), -44)] * 2, biases, -44
        none = [Interval(np.zeros_like(v), np.zeros_like(v)) for v in (layer.canonical(layer.kernel), layer.bias.high)]
        pair.layers[layer.node] = enclose(layer, none[0], none[0], none[1])
    with_weights(pair, True)
    assert math.prod(float(np.abs(layer.kernel).sum(axis=1).max()) for layer in pair.folded.layers) > 2.0**60
    return pair


@pytest.mark.parametrize("factor", [1.0001, 1 + 2.0**-40, 1 - 2.0**-40, 0.999])
def test_a_deep_network_is_confirmed_where_intervals_say_nothing(factor: float) -> None:
    pair = deep_network()
    x = np.random.default_rng(3).uniform(-1, 1, (4, 2))
    domain, truth = Domain("points", {"x": x}), worst(pair, x)[0]
    claims = [truth.astype(float) * factor]
    assert output_bounds(pair.folded, pair.layers, domain)[0].upper.max() > 1e3 * float(truth.max())
    (found,) = exact_bounds(pair.folded, pair.layers, domain, claims)
    assert np.all(rationals(found.upper) >= truth) and np.all(rationals(found.lower) <= truth)
    assert np.all(found.upper <= claims[0]) == (factor > 1)


@pytest.mark.parametrize("lower", [0.0, 0.999, 1.001, 100.0])
def test_a_lower_end_must_surely_be_reached(lower: float) -> None:
    """Where intervals say little, a claim between what is surely reached and what is surely not exceeded is refused."""
    pair = deep_network()
    x = np.random.default_rng(3).uniform(-1, 1, (4, 2))
    domain, truth = Domain("points", {"x": x}), float(worst(pair, x)[0].max())
    bound = output_bounds(pair.folded, pair.layers, domain)[0].upper
    assert bound.max() > 100 * truth
    for method in ("points", "exact"):
        claim = Claim("points", method, float(bound.max()), lower * truth, (bound,), "real", None)
        if lower and (method == "points" or lower > 1):
            with pytest.raises(VerificationError, match="surely reached"):
                check_claim(claim, 0, pair.folded, pair.layers, domain, quick=False)
        else:
            check_claim(claim, 0, pair.folded, pair.layers, domain, quick=False)


def test_smooth_operations_go_on_in_intervals() -> None:
    """Behind a sigmoid bounds are intervals again; those of the exact numbers before it are as narrow as they get."""
    pair = deep_network()
    nodes = [*pair.graph.nodes, Node("sigmoid", (42,), {}, {}, (2,)), Node("softmax", (42,), {"axis": 0}, {}, (2,))]
    graph = Graph((*nodes, Node("multiply", (43, 42), {}, {}, (2,))), (45, 44, 0))
    folded = dataclasses.replace(pair.folded, graph=dataclasses.replace(graph, nodes=bare(graph, pair)))
    x = np.random.default_rng(3).uniform(-1, 1, (4, 2))
    domain = Domain("points", {"x": x})
    truth = [pair_values(pair, sample) for sample in x]
    exactly = [
        np.max([np.abs(np.asarray(at(g) - at(f), float)) for f, g in truth], axis=0)
        for at in (lambda v: v / (1 + np.exp(-v)), lambda v: np.exp(v) / np.exp(v).sum(), lambda v: 0 * v)
    ]
    found = exact_bounds(folded, pair.layers, domain, [leaf * (1 + 1e-9) for leaf in exactly])
    for bounds, leaf in zip(found, exactly, strict=True):
        np.testing.assert_allclose(bounds.upper, leaf, rtol=1e-9)
    assert output_bounds(folded, pair.layers, domain)[0].upper.max() > 1e3 * exactly[0].max()


def bare(graph: Graph, pair: Pair) -> tuple[Node, ...]:
    return tuple(dataclasses.replace(n, arrays={}) if i in pair.layers else n for i, n in enumerate(graph.nodes))


def pair_values(pair: Pair, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer puts out in both networks, in float64: from the rational value of the layer before it."""
    last = len(pair.graph.nodes) - 1
    layer = pair.by_node[last]
    values = evaluate(
        Graph(pair.graph.nodes, (last - 1,)),
        rationals(x),
        lambda i, a: (
            correlate(a, rationals(pair.by_node[i].kernel), pair.by_node[i])
            + rationals(pair.graph.nodes[i].arrays["bias"])
            if i != last
            else a[:2]
        ),
    )[0]
    kernels, _, _ = pair.exact[last]
    above, below = np.maximum(values, Fraction(0)), np.minimum(values, Fraction(0))
    ticket = correlate(above, kernels[0], layer) + correlate(below, kernels[1], layer)
    return correlate(values, rationals(layer.kernel), layer).astype(float), ticket.astype(float)


# ---------------------------------------------------------------- certificates


def exact_ticket() -> Written:
    """A ticket whose points have a certificate by exact evaluation."""
    ticket = copy.deepcopy(CONV)
    ticket.claims[2] |= {"method": "exact", "arithmetic": "real", "float32": None}
    return ticket


def checked(ticket: Written, folder: Path) -> Any:
    return verify(ticket.save(folder)).certificates[2]


def test_an_exact_certificate_is_checked(tmp_path: Path) -> None:
    ticket = exact_ticket()
    found = checked(ticket, tmp_path / "loose")
    assert (found.kind, found.method, found.interval) == ("points", "exact", None)
    assert found.recomputed == pytest.approx(checked(CONV, tmp_path / "points").recomputed, rel=1e-9)
    assert 0 < found.recomputed < 9
    tight = copy.deepcopy(ticket)
    largest = found.recomputed
    for factor in (1.0001, 0.999):
        tight.claims[2] |= {"per_output": [[factor * largest] * 2] * 2, "bound": factor * largest}
        if factor > 1:
            tight.claims[2]["lower"] = 0.999 * largest
            assert checked(tight, tmp_path / "tight").claimed == factor * largest
            tight.claims[2]["lower"] = 1.00001 * largest
            assert refused(tight, tmp_path / "lower") == "bound"
            tight.claims[2]["lower"] = 0.0
        else:
            assert refused(tight, tmp_path / "false") == "bound"


def refused(ticket: Written, folder: Path) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(ticket.save(folder))
    assert "\n" not in str(caught.value)
    return caught.value.check


LIES: dict[str, Callable[[list], None]] = {
    "a box": lambda claims: claims[0].update(method="exact"),
    "balls": lambda claims: claims[1].update(method="exact"),
    "another spelling": lambda claims: claims[2].update(method="Exact"),
    "a list": lambda claims: claims[2].update(method=["exact"]),
    "float64": lambda claims: claims[2].update(arithmetic="real, float64"),
    "float32": lambda claims: claims[2].update(float32=9.0),
    "no number": lambda claims: claims[2].update(per_output=[[9.0, math.nan], [9.0, 9.0]]),
    "infinity": lambda claims: claims[2].update(bound=math.inf, per_output=[[math.inf, 9.0], [9.0, 9.0]]),
    "zero": lambda claims: claims[2].update(bound=0.0, per_output=[[0.0, 0.0], [0.0, 0.0]]),
    "negative": lambda claims: claims[2].update(per_output=[[9.0, -1e-9], [9.0, 9.0]]),
    "a lower end above the bound": lambda claims: claims[2].update(lower=9.5),
    "one element": lambda claims: claims[2].update(per_output=[[9.0, 1e-30], [9.0, 9.0]]),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str, tmp_path: Path) -> None:
    ticket = exact_ticket()
    LIES[lie](ticket.claims)
    assert refused(ticket, tmp_path / "ticket") in ("bound", "format")


@pytest.mark.parametrize("lie", ["float64", "float32"])
def test_exact_certificates_are_for_real_numbers(lie: str, tmp_path: Path) -> None:
    ticket = exact_ticket()
    LIES[lie](ticket.claims)
    with pytest.raises(VerificationError, match="for real numbers alone"):
        verify(ticket.save(tmp_path / "ticket"))
