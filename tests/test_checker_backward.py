"""The checker's backward bounds against exact rationals, and beside the compiler's, which share no code with them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from exact import difference_at, is_inside
from hypothesis import given, settings
from random_networks import (
    ALL_NETWORKS,
    Case,
    Draw,
    _convolution,
    depthwise,
    drawer,
    grouped,
    random_case,
    residual,
    strided,
    upsampled,
    volume,
)
from targets import TARGETS, Target
from test_checker_units import CONV, Written
from test_difference import REGIONS, inputs_of, random_regions
from test_engines import BALLS, checker_domain, checker_layers, random_errors, regions

from slth_compile.certificate.backward import noise
from slth_compile.certificate.backward.engine import bound_difference_backward
from slth_compile.certificate.certificate import certificate_of
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.certificate.engine import Enclosed
from slth_compile.checker import bends, bounds, branch, certificate, forms, lines, matrices, rewriting, tighten, verify
from slth_compile.checker import graph as checker_graph
from slth_compile.checker import noise as checker_noise
from slth_compile.checker.arithmetic import Interval, up
from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Node
from slth_compile.errors import VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)
NO_TILTS = (Fraction(0),) * 2


def checker_net(case: Case, **options: bool) -> tighten.Net:
    """The case as the checker has it, ready for passes."""
    return tighten.net_of(*checker_case(case), **options)


def checker_case(case: Case) -> tuple[Folded, dict[int, matrices.PairLayer]]:
    """The case as the checker has it, every radius of its errors and of its folded weights included."""
    folded, layers = checker_layers(case.graph, case.graph, dict(case.errors))
    for position, pair in layers.items():
        node, errors = case.graph.nodes[position], case.errors[position]
        fold_error = np.abs(node.kernel) * node.kernel_error
        spreads = [fold_error, errors.positive_radius, errors.negative_radius]
        names = ("target", "error_positive", "error_negative")
        changes = {}
        for name, spread in zip(names, spreads, strict=True):
            known = getattr(pair, name)
            if known is not None:
                radius = pair.layer.canonical(np.asarray(spread).reshape(pair.layer.kernel.shape)) * (1 + 2.0**-50)
                own = matrices._matrix(np.zeros_like(radius), radius, pair.layer.groups)
                changes[name] = dataclasses.replace(
                    known, noise=known.noise + own.noise, magnitude=up(known.magnitude + own.magnitude)
                )
        grown = 1 + 2.0**-50
        if pair.bias is not None and node.bias_error is not None:
            changes["bias"] = (pair.bias[0], (pair.bias[1] + node.bias_error) * grown)
        if pair.bias_error is not None and errors.bias_radius is not None:
            changes["bias_error"] = (pair.bias_error[0], (pair.bias_error[1] + errors.bias_radius) * grown)
        layers[position] = dataclasses.replace(pair, **changes)
    return folded, layers


def checker_differences(net: tighten.Net, lower: np.ndarray, upper: np.ndarray) -> list[Difference]:
    """The checker's enclosures over several regions; those of the target's output are left open."""
    found = [tighten.output_differences(net, lower[i : i + 1], upper[i : i + 1]) for i in range(len(lower))]
    leaves = []
    for leaf in zip(*found, strict=True):
        ends = [np.concatenate([getattr(d, name) for d in leaf]) for name in ("lower", "upper")]
        leaves.append(Difference(*ends, *(np.full_like(ends[0], v) for v in (-np.inf, np.inf))))
    return leaves


@given(st.sampled_from(ALL_NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4, 1e-12]))
@settings(max_examples=examples(60), deadline=None)
def test_never_below_the_exact_difference(network, seed: int, nonnegative: bool, coarse: bool, size: float) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found = checker_differences(checker_net(case), lower, upper)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            for leaf, exact in zip(found, difference_at(case, x), strict=True):
                assert is_inside(leaf, region, exact)


def without_radii(case: Case) -> Case:
    nodes = [
        dataclasses.replace(node, kernel_error=0.0, bias_error=None) if i in case.errors else node
        for i, node in enumerate(case.graph.nodes)
    ]
    errors = {
        i: dataclasses.replace(
            e,
            positive_radius=np.zeros_like(e.positive_center),
            negative_radius=None if e.negative_center is None else np.zeros_like(e.negative_center),
            bias_radius=None if e.bias_center is None else 0.0,
        )
        for i, e in case.errors.items()
    }
    return dataclasses.replace(case, graph=dataclasses.replace(case.graph, nodes=tuple(nodes)), errors=errors)


def pooled(draw: Draw) -> Graph:
    """Two convolutions with overlapping, padded max pools, a residual add of a strided branch, dense layers."""
    nodes = (
        n.Input(shape=(8, 8, 2)),
        _convolution(draw, 0, (3, 3, 2, 4), padding=((1, 1), (1, 1))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(3, 3), stride=(2, 2), padding=((1, 0), (0, 1))),
        _convolution(draw, 3, (3, 3, 4, 4), padding=((1, 1), (1, 1))),
        n.LeakyRelu(inputs=(4,), slope=0.125),
        _convolution(draw, 0, (1, 1, 2, 4), stride=(2, 2)),
        n.Add(inputs=(5, 6)),
        n.Relu(inputs=(7,)),
        n.MaxPool(inputs=(8,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
        n.Reshape(inputs=(9,), shape=(16,)),
        n.Dense(inputs=(10,), kernel=draw(16, 8), bias=draw(8)),
        n.Relu(inputs=(11,)),
        n.Dense(inputs=(12,), kernel=draw(8, 3)),
        n.Softmax(inputs=(13,), axis=0),
    )
    return Graph(nodes, (14, 13), ("probabilities", "logits"))


SLOW = (depthwise, grouped, volume, upsampled, pooled)  # the compiler's passes are compiled for seconds


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("network", [strided, residual, *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW)])
def test_both_engines_agree(network, nonnegative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-9, once the compiler's allowance for summing up, which only ever adds, is made small."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    rng = np.random.default_rng(7)
    for power in (1, 4):
        draw = drawer(rng, False, 0.5)
        case = without_radii(random_case(network(draw), rng, 10.0**-power, draw, nonnegative))
        regions = random_regions(rng, case.graph.input_shape, nonnegative, False)
        own = checker_differences(checker_net(case), *regions)
        theirs = bound_difference_backward(case.graph, case.errors, *regions)
        for a, b in zip(own, theirs, strict=True):
            for end in ("lower", "upper"):
                np.testing.assert_allclose(getattr(a, end), getattr(b, end), rtol=1e-9, atol=1e-11)
            largest, published = (np.maximum(-leaf.lower, leaf.upper) for leaf in (a, b))
            assert np.all(largest <= published * (1 + 1e-12) + 2.0**-800)


@given(seeds, st.booleans())
@settings(max_examples=examples(20), deadline=None)
def test_huge_and_tiny_weights_stay_enclosed_or_are_refused(seed: int, nonnegative: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, False, float(rng.choice([1e-310, 1e-200, 1e-160, 1e100, 1e160])))
    case = random_case(residual(draw), rng, float(rng.choice([1e-3, 1e-120])), draw, nonnegative)
    lower, upper = (
        v * float(rng.choice([1.0, 1e-309, 1e150]))
        for v in random_regions(rng, case.graph.input_shape, nonnegative, False)
    )
    lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
    try:
        found = checker_differences(checker_net(case), lower[:1], upper[:1])
    except VerificationError as error:
        assert "not finite" in str(error)
        return
    for x in inputs_of(rng, lower[0], upper[0]):
        for leaf, values in zip(found, difference_at(case, x), strict=True):
            assert is_inside(leaf, 0, values)


def test_neither_rows_nor_boxes_change_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows a pass, which read few elements, against all in one, on all elements."""
    rng = np.random.default_rng(2)
    draw = drawer(rng, False, 0.5)
    case = random_case(pooled(draw), rng, 1e-3, draw, True)
    lower, upper = random_regions(rng, case.graph.input_shape, True, False)
    net = checker_net(case)
    few = checker_differences(dataclasses.replace(net, rows=2), lower[:2], upper[:2])
    own = branch.unit_rows

    def on_everything(elements: np.ndarray, signs: np.ndarray, shape: tuple[int, ...]) -> tuple[forms.Box, np.ndarray]:
        box, unit = own(elements, signs, shape)
        return forms.full(shape), forms.spread(unit, box, forms.full(shape))

    monkeypatch.setattr(branch, "unit_rows", on_everything)
    many = checker_differences(dataclasses.replace(net, rows=1 << 12), lower[:2], upper[:2])
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a.upper, b.upper, rtol=1e-10)
        np.testing.assert_allclose(a.lower, b.lower, rtol=1e-10)


def test_a_missing_charge_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients that cancel to nothing in real arithmetic, not in a pass."""
    assert _cancelled_difference_is_enclosed()
    monkeypatch.setattr(checker_noise, "gamma", lambda terms: 0.0)
    assert not _cancelled_difference_is_enclosed()


def _cancelled_difference_is_enclosed() -> bool:
    rng = np.random.default_rng(0)
    half, error = rng.normal(0, 1e8, (3, 100)), rng.normal(0, 1, (100, 2))
    order = rng.permutation(200)
    first = np.concatenate([half, -half], axis=1)[:, order]
    second = np.concatenate([error, error])[order]
    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=first),
        n.Dense(inputs=(1,), kernel=rng.normal(size=(200, 2))),
    )
    errors = {
        1: LayerErrors(positive_center=np.zeros((3, 200)), positive_radius=np.zeros((3, 200))),
        2: LayerErrors(
            positive_center=second,
            positive_radius=np.zeros((200, 2)),
            negative_center=second,
            negative_radius=np.zeros((200, 2)),
        ),
    }
    case = Case(Graph(nodes, (2,)), errors, {}, {}, {})
    net = checker_net(case)
    # Their radii, a few roundings of each weight, would hide what is looked for.
    exactly = {
        k: dataclasses.replace(own, target_off=0 * own.target_off, error_off=0 * own.error_off)
        for k, own in net.layers.items()
    }
    net = dataclasses.replace(net, layers=exactly)
    (leaf,) = checker_differences(net, np.full((1, 3), 0.5), np.full((1, 3), 1.0))
    return bool(np.all(leaf.lower <= 0) and np.all(leaf.upper >= 0))


@pytest.mark.parametrize("slope", [0.0, 0.125, 1 / 3, 1.0])
def test_lines_and_planes_are_on_their_sides(slope: float) -> None:
    assert _misplaced(slope) == 0


def test_lines_rounded_to_nearest_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("up", "down"):
        monkeypatch.setattr(lines, name, lambda value: value)
    assert _misplaced(1 / 3) > 0


def _misplaced(slope: float) -> int:
    """At how many of some points of boxes, in rationals, a function is not between its lines or planes."""
    rng = np.random.default_rng(5)
    size = 60
    ends = [np.where(rng.random((2, size)) < 0.3, np.round(v), v / 3) for v in rng.integers(-6, 7, (2, 2, size)) / 2]
    y, d = (Interval(v.min(0), v.max(0)) for v in ends)
    node = Node("leaky_relu", (0,), {"slope": slope}, {}, (size,))
    of_y, of_d = lines.activation_lines(node, y, d)
    of_z = lines.magnitude_lines(y)
    assert of_d is not None
    wrong = 0

    def activation(v: Fraction) -> Fraction:
        return max(v, Fraction(slope) * v)

    for i in range(size):
        ys, ds = (_some(v.lower[i], v.upper[i]) for v in (y, d))
        for a in ys:
            wrong += not _between(of_y, i, a, activation(a))
            wrong += not _between(of_z, i, a, abs(a))
            for b in ds:
                tilts = [Fraction(float(tilt[i])) * a for tilt in (of_d.above_tilt, of_d.below_tilt)]
                wrong += not _between(of_d.lines, i, b, activation(a + b) - activation(a), tilts)
    return wrong


def _some(low: float, high: float) -> list[Fraction]:
    first, last = Fraction(low), Fraction(high)
    inner = [v for v in (Fraction(0), -first, -last) if first <= v <= last]
    return [first, last, *inner, *(first + (last - first) * Fraction(k, 4) for k in (1, 2, 3))]


def _between(
    of: lines.Lines, i: int, at: Fraction, value: Fraction, tilts: Sequence[Fraction] = (Fraction(0),) * 2
) -> bool:
    above_slope, above, below_slope, below = (Fraction(float(v[i])) for v in of)
    return below_slope * at + below + tilts[1] <= value <= above_slope * at + above + tilts[0]


def test_an_unknown_operation_is_refused_by_name() -> None:
    point = Interval(np.zeros(1), np.ones(1))
    with pytest.raises(VerificationError, match="'cosine'"):
        bends.activation_lines(Node("cosine", (0,), {}, {}, (1,)), point, point)


def test_memory_is_bounded_before_it_is_used() -> None:
    """A pool of more windows than the checker would keep; a layer whose padding dwarfs what it reads."""
    fields = {"window": (256, 256), "stride": (1, 1), "padding": ((0, 0), (0, 0))}
    nodes = (
        Node("input", (), {"shape": (300, 300, 1)}, {}, (300, 300, 1)),
        Node("max_pool", (0,), fields, {}, (45, 45, 1)),
    )
    with pytest.raises(VerificationError, match="expected at most"):
        rewriting.rewrite(Folded(checker_graph.Graph(nodes, (1,)), ()), {})
    draw = drawer(np.random.default_rng(0), False)
    padding = ((1000, 1000), (1000, 1000))
    padded = Graph(
        (n.Input(shape=(1, 1, 1)), _convolution(draw, 0, (1, 1, 1, 1), stride=(999, 999), padding=padding)), (1,)
    )
    case = without_radii(random_case(padded, np.random.default_rng(0), 1e-3, draw, False))
    assert checker_net(case).rows == 2


def test_a_backward_claim_is_recomputed_but_by_quick(tmp_path):
    """Slightly above the checker's own bound it is accepted, slightly below refused; quick says what it left out."""
    ticket = copy.deepcopy(CONV)
    for entry in ticket.claims:
        entry["method"] = "points" if entry["kind"] == "points" else "backward"
    backward = [i for i, entry in enumerate(ticket.claims) if entry["method"] == "backward"]
    assert backward
    found = {}
    for i, entry in enumerate(verify(ticket.save(tmp_path / "loose")).certificates):
        found[i] = entry.recomputed
        assert entry.interval is None
    figures = claimed_by(ticket, tmp_path / "bounds")
    for i in backward:
        for factor, accepted in ((1 + 2.0**-30, True), (1 - 2.0**-30, False)):
            figures_now = [[v * factor for v in leaf] for leaf in figures[i]]
            tight = copy.deepcopy(ticket)
            tight.claims[i].update(bound=max(map(max, figures_now)), per_output=figures_now)
            directory = tight.save(tmp_path / f"{i}-{accepted}")
            if accepted:
                assert verify(directory).certificates[i].recomputed == found[i]
                quick = verify(directory, quick=True)
                entry = quick.certificates[i]
                assert entry.recomputed is None and entry.interval >= found[i] * (1 - 1e-9)
                assert dataclasses.replace(entry, float32=2.5).to_text().endswith("<= 2.5, NOT recomputed")
                assert "NOT recomputed" in quick.to_text() and quick.to_text().splitlines()[-1] != "verified"
            else:
                with pytest.raises(VerificationError, match="the difference is bounded by") as caught:
                    verify(directory)
                assert caught.value.check == "bound"


def claimed_by(ticket: Written, directory: Path) -> list[list[list[float]]]:
    """The checker's own backward bounds of every domain, output and element."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        own = certificate.backward_bounds

        def watched(folded, layers, domain):
            seen.append(own(folded, layers, domain))
            return seen[-1]

        patch.setattr(certificate, "backward_bounds", watched)
        verify(ticket.save(directory))
    bounds = iter(seen)
    return [
        [leaf.upper.reshape(-1).tolist() for leaf in next(bounds)] if entry["method"] == "backward" else []
        for entry in ticket.claims
    ]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_published_bounds_are_confirmed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of network that passes go through, folded by each engine on its own, without spare room."""
    monkeypatch.setattr(noise, "SPARE", 1 + 2.0**-40)
    rng = np.random.default_rng(len(target.name))
    graph = target.graph()
    folded = fold(graph)
    nonnegative = all(domain.is_nonnegative() for domain in target.domains)
    flags = nonnegative_nodes(folded, nonnegative)
    errors = random_errors(folded, {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}, rng, 1e-5)
    lower, upper = (v[BALLS] for v in regions(rng, target.shape, nonnegative))
    own_folded, layers = checker_layers(graph, folded, errors)
    own = bounds.backward_bounds(own_folded, layers, checker_domain("balls", lower, upper))
    leaves = bound_difference_backward(folded, errors, lower, upper)
    published = certificate_of(Enclosed(leaves, "backward"), "balls", 0)
    for found, claimed in zip(own, published.per_output, strict=True):
        # Outputs of rounding alone have room beside the largest one.
        room = 2.0**-39 * max(leaf.max() for leaf in published.per_output)
        assert np.all(found.upper <= claimed) and np.all(found.upper >= claimed * (1 - 1e-7) - room)
