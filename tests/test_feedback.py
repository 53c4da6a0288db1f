"""Error feedback: errors cancel on inputs it never saw, no weight misses for it, and everybody finds the same masks."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import at_once
from targets import TARGETS, Target, convolution, drawer

import slth_compile as slth
from slth_compile.constructions.da_cunha import Family, families
from slth_compile.errors import Note
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import evaluate, linear, target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.progress import silent
from slth_compile.source.layout import Gadget, LayerLayout, Layout
from slth_compile.source.source import Generated
from slth_compile.subset_sum import feedback, network, search
from slth_compile.subset_sum.compensation import DAMPING, Compensation, compensation
from slth_compile.subset_sum.layer_inputs import LayerInputs, moments
from slth_compile.subset_sum.problem import chunk_size
from slth_compile.subset_sum.search import Search
from slth_compile.subset_sum.windows import meets
from slth_compile.ticket.format import MANIFEST, STATED

SHAPE = (6, 6, 2)
OPTIONS = {"domain": slth.Points(np.full((1, *SHAPE), 0.5, np.float32)), "attack": False, "window": 8}
EPS = 2.0
SEEDS = (0, 1, 2)


@functools.lru_cache
def small() -> Graph:
    """A convolution, a depthwise one of a signed input, a dense layer."""
    draw = drawer(5)
    nodes = (
        n.Input(shape=SHAPE),
        convolution(draw, 0, (3, 3, 2, 6), padding=((1, 1), (1, 1))),
        n.LeakyRelu(inputs=(1,), slope=0.1),
        convolution(draw, 2, (3, 3, 1, 6), groups=6, stride=(1, 2)),
        n.Relu(inputs=(3,)),
        n.Reshape(inputs=(4,), shape=(48,)),
        n.Dense(inputs=(5,), kernel=draw(48, 4), bias=draw(4)),
    )
    return Graph(nodes, (6,))


def images(count: int, seed: int) -> np.ndarray:
    """Smooth ones in [0, 1], as images are."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(count, 3, 2))
    i, j = np.meshgrid(np.arange(6) / 6, np.arange(6) / 6, indexing="ij")
    basis = np.stack([np.ones_like(i), np.sin(3 * i), np.cos(4 * j)])
    x = np.einsum("bkc,kij->bijc", waves, basis) / 4 + 0.5
    return np.clip(x, 0, 1).astype(np.float32)


@functools.lru_cache
def compiled(seed: int = 0, calibration: int | None = None) -> slth.Compiled:
    x = None if calibration is None else images(100, calibration)
    return slth.compile(small(), EPS, 0.01, seed=seed, feedback=x, **OPTIONS)


def held_out_rms(found: slth.Compiled) -> float:
    """Root mean square of the difference on inputs that no compile has seen, in float64."""
    x = images(200, 999).astype(np.float64)
    with jax.enable_x64(True):
        sides = at_once(lambda x: [evaluate(found.folded, x, weights)[0] for weights in (found.weights, None)], x)
    difference = np.subtract(*map(np.asarray, sides))
    return float(np.sqrt(np.mean(difference**2)))


# ---------------------------------------------------------------- what it is for


def test_errors_on_held_out_inputs_shrink():
    """Measured: 4 to 14 times, 7 times in the geometric mean over six seeds."""
    ratios = [held_out_rms(compiled(seed)) / held_out_rms(compiled(seed, 1)) for seed in SEEDS]
    assert min(ratios) > 2 and np.prod(ratios) > 4 ** len(SEEDS)


@pytest.mark.parametrize(("factor", "least"), [(0.0, 1.5), (-1.0, 8.0)], ids=["none", "the wrong sign"])
def test_it_is_the_compensation_that_shrinks_them(monkeypatch, factor, least):
    """Not only that subsets come nearer: without coefficients they are 2.6 times larger, with the wrong sign 29."""
    make = network.compensation

    def other(h: np.ndarray) -> Compensation:
        found = make(h)
        return dataclasses.replace(found, coefficients=factor * found.coefficients)

    expected = [held_out_rms(compiled(seed, 1)) for seed in SEEDS]
    monkeypatch.setattr(network, "compensation", other)
    ratios = [held_out_rms(compiled.__wrapped__(seed, 1)) for seed in SEEDS] / np.array(expected)
    assert np.prod(ratios) > least ** len(SEEDS)


def test_every_weight_meets_the_plan_and_the_checker_agrees(tmp_path):
    found = compiled(0, 1)
    assert found.layout == compiled(0).layout
    assert [layer.signed for layer in found.layout.layers] == [False, True, False]
    for index, position in enumerate(found.folded.layers):
        node = found.folded.nodes[position]
        assert isinstance(node, n.Weighted)
        for family in families(Generated(0), index, node, found.layout.layers[index]):
            assert meets(family, found.ticket.masks[index][family.part])
    found.save(tmp_path / "out")
    assert slth.verify(tmp_path / "out").ticket_id == found.ticket_id


# ---------------------------------------------------------------- the promise of the plan


@functools.lru_cache
def scarce(seed: int) -> Family:
    """Weights of which some have no subset within the tolerance: fewer copies than a plan would ask for."""
    kernel = np.random.default_rng(seed).normal(0, 0.3, (6, 40))
    gadget = plan_gadget(Problems("test", np.abs(kernel).ravel(), 0.0, 1, 1e-2, 0.5), window=8)
    node = n.Dense(inputs=(0,), kernel=kernel)
    layout = LayerLayout(signed=False, kernel=dataclasses.replace(gadget, width=36), bias=None)
    return families(Generated(seed), 0, node, layout)[0]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 7), size=st.sampled_from([0.0, 0.4, 1.0, 30.0]), near=st.sampled_from([0.0, 0.1, 1.0]))
def test_what_is_met_without_a_shift_is_met_with_one(seed, size, near):
    family = scarce(seed)
    plain, shifted = (Search(family, lambda settled: None) for _ in range(2))
    flat = plain.wanting(np.arange(family.weights.size))
    plain.settle(flat)
    shift = np.random.default_rng(seed).uniform(-size, size, flat.size) * family.gadget.tolerance
    shifted.settle_shifted(flat, shift, near * family.gadget.tolerance)
    missed = plain.best > plain.tolerance
    assert 0 < np.count_nonzero(missed) < missed.size / 2
    assert not np.any((shifted.best > shifted.tolerance) & ~missed)
    error = np.abs(np.ldexp(shifted.sums.astype(np.float64), family.gadget.gain - 46) - family.weights.reshape(-1))
    assert np.all(error[~missed] <= family.gadget.tolerance)


def test_all_weights_are_counted_once():
    """The progress ends where it should, zeros, misses and second tries included."""
    family = dataclasses.replace(scarce(1), weights=scarce(1).weights * (np.arange(40) % 5 > 0))
    counted = []
    found = compensation(np.eye(7)[None])
    solutions = feedback.solve_layer([family], 1, found, counted.append)
    assert sum(counted) == family.weights.size
    assert solutions[0].misses
    assert np.all(solutions[0].mask.subsets[family.weights == 0] == 0)


# ---------------------------------------------------------------- the algebra


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40), groups=st.integers(1, 3), blocks=st.integers(1, 40))
def test_the_shift_is_the_best_answer_to_the_errors_before_it(seed, size, groups, blocks):
    """Against the normal equations: `c_R = -H_RR^-1 H_RP e_P` for all that is left, R."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 60, size)) @ rng.normal(size=(size, size)) / np.sqrt(size) + 1.0
    x = np.concatenate([x, np.ones((groups, 60, 1))], -1)
    h = x.transpose(0, 2, 1) @ x / 60
    found = compensation(h, blocks=blocks)
    errors = rng.uniform(-1, 1, (groups, size, 2))
    for g in range(groups):
        rows = np.append(found.order[g], size)
        assert sorted(rows) == list(range(size + 1))
        damped = h[g] + np.diag(np.append(np.full(size, DAMPING * np.trace(h[g, :size, :size]) / size), 0))
        damped = damped[np.ix_(rows, rows)]
        for block, begin in enumerate(found.edges):
            best = -np.linalg.solve(damped[begin:, begin:], damped[begin:, :begin] @ errors[g, :begin])
            shift = found.shift(block, errors, 1.0)[g]
            assert np.allclose(shift, best[: len(shift)], atol=2e-2 * np.sqrt(size))


NAMED = {target.name: target for target in TARGETS}


@pytest.mark.parametrize("name", ["strided", "signal", "volume", "rearranged", "depthwise"])
def test_moments_are_those_of_what_the_layer_reads(name):
    """`e^T H e` is the mean square of the layer itself with kernel and bias e, whatever its geometry."""
    target: Target = NAMED[name]
    graph = fold(target.graph())
    inputs, weights = LayerInputs(graph, target.inputs(7)), target_weights(graph)
    rng = np.random.default_rng(0)
    for position in graph.layers:
        node, x = graph.nodes[position], inputs.of(position)
        assert isinstance(node, n.Weighted)
        for signed in (False, True):
            h = moments(node, x, signed=signed)
            groups = len(h)
            kernels = [rng.normal(size=node.kernel.shape) for _ in range(1 + signed)]
            bias = rng.normal(size=node.kernel.shape[-1])
            with jax.enable_x64(True):
                parts = [jnp.maximum(x, 0), jnp.minimum(x, 0)][: 1 + signed]
                y = sum(np.asarray(linear(node, part, k)) for part, k in zip(parts, kernels, strict=True)) + bias
            expected = np.mean(y.reshape(-1, y.shape[-1]) ** 2, 0)
            split = [k.reshape(-1, groups, k.shape[-1] // groups).transpose(1, 0, 2) for k in kernels]
            e = np.concatenate([*split, bias.reshape(groups, 1, -1)], 1)
            assert np.allclose(np.einsum("gfs,gfh,ghs->gs", e, h, e).reshape(-1), expected, rtol=1e-9)
        inputs.set_weights(position, weights[position])


@pytest.mark.parametrize("name", ["strided", "signal", "rearranged", "heads"])
def test_layer_inputs_are_those_of_the_network(name):
    target = NAMED[name]
    graph = fold(target.graph())
    x, weights = target.inputs(5), target_weights(graph)
    inputs = LayerInputs(graph, x)
    for position in graph.layers:
        before = dataclasses.replace(graph, outputs=(graph.nodes[position].inputs[0],))
        with jax.enable_x64(True):
            expected = np.asarray(at_once(lambda x, g=before: evaluate(g, x)[0], x.astype(np.float64)))
        assert np.allclose(inputs.of(position), expected, atol=2.0**-10 * max(1.0, np.abs(expected).max()))
        inputs.set_weights(position, weights[position])


# ---------------------------------------------------------------- everybody finds the same


def test_sums_are_exact():
    """Another order of samples, and products of parts, give the same bits."""
    node, x = small().nodes[1], images(64, 3)
    assert isinstance(node, n.Convolution)
    values = LayerInputs(small(), x).of(1)
    h = moments(node, values, signed=True)
    again = moments(node, values[::-1], signed=True)
    assert np.array_equal(h, again)
    assert np.array_equal(compensation(h).coefficients, compensation(again).coefficients)


def test_batches_and_chunks_do_not_matter(monkeypatch):
    expected = compiled(0, 1).ticket_id
    monkeypatch.setattr(search, "batch_size", chunk_size)
    monkeypatch.setattr(search, "chunk_size", lambda window: 4096)
    assert compiled.__wrapped__(0, 1).ticket_id == expected


def test_no_feedback_is_what_it_was_before_there_was_any():
    """The masks of a fixed layout, to the byte, as the first release without feedback found them."""
    gadget = Gadget(width=400, gain=1, window=12, tolerance=0.02, failure=0.1)
    layers = tuple(LayerLayout(signed=signed, kernel=gadget, bias=gadget) for signed in (False, True, False))
    layout = Layout(eps=EPS, delta=0.01, layers=layers)
    ticket = network.solve_network(small(), layout, Generated(3), None, 0, silent)
    digest = hashlib.sha256()
    for masks in ticket.masks:
        for part in sorted(masks):
            digest.update(masks[part].windows.tobytes() + masks[part].subsets.tobytes())
    assert digest.hexdigest() == "f2d3d06dbdf49c7022cfb18c9a9850a4632672fc5d642bd3e49c9b2499fbd7e1"


def test_other_calibration_inputs_do_not_continue(tmp_path):
    out, options = tmp_path / "out", {**OPTIONS, "out": tmp_path / "out"}

    def stop(stage: str, done: int, total: int) -> None:
        if (tmp_path / "out.partial" / "layer1.negative").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slth.compile(small(), EPS, 0.01, feedback=images(100, 1), progress=stop, **options)
    for other in (None, images(100, 2), images(99, 1)):
        with pytest.raises(slth.InputError, match="belongs to another"):
            slth.compile(small(), EPS, 0.01, feedback=other, resume=True, **options)
    slth.compile(small(), EPS, 0.01, feedback=images(100, 1), resume=True, **options)
    expected = compiled(0, 1)._stated
    assert {name: (out / name).read_bytes() for name in (MANIFEST, *STATED)} == {
        name: expected[name] for name in (MANIFEST, *STATED)
    }


# ---------------------------------------------------------------- at the edges


def test_layers_that_are_too_large_say_so(monkeypatch):
    monkeypatch.setattr(network, "LARGEST", 40)
    with pytest.warns(Note, match=r"layer '2' \(48 features\)"):
        found = compiled.__wrapped__(0, 1)
    masks, closest = (c.ticket.masks[2]["positive"] for c in (found, compiled(0)))
    assert np.array_equal(masks.subsets, closest.subsets)


@pytest.mark.parametrize("x", [np.zeros((1, *SHAPE)), np.ones((3, *SHAPE)), images(1, 4)[:1]], ids=["0", "1", "one"])
def test_calibration_that_tells_little(x):
    found = slth.compile(small(), EPS, 0.01, feedback=x, **OPTIONS)
    assert found.certificate.bound <= EPS


def test_the_command_line_and_the_checker(shared, cli, tmp_path):
    done = cli("compile", *shared.arguments, tmp_path / "out", "--feedback", shared.points, "--json")
    assert done.code == 0, done.err
    assert cli("verify", tmp_path / "out", "--json").code == 0
    assert slth.verify(tmp_path / "out").ticket_id != slth.verify(shared.ticket).ticket_id
