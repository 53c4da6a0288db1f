"""Malach's construction: the closest product alone, wide enough by plan; Pensia's: da Cunha's without kernels."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from helpers import as_json, sha256
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

import slth_compile as slth
from slth_compile.checker import verify
from slth_compile.cli.frame import app
from slth_compile.constructions.assumptions import violated
from slth_compile.constructions.da_cunha import Family, families
from slth_compile.constructions.malach import WINDOW, continuous_hit_probability, hit_probability
from slth_compile.errors import InputError, UnreachableError, UnsupportedModelError, VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.plan.law import usable_share
from slth_compile.plan.one_product import plan_one_product
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.report.plan_text import plan_json, plan_text
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.law import STANDARD, SourceLaw
from slth_compile.source.layout import CONSTRUCTIONS, MAXIMUM_WIDTH, Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.subset_sum.closest_product import solve_closest_product
from slth_compile.ticket import format as ticket_format
from slth_compile.ticket.apply import masked_sums

EPS, DELTA = 0.25, 1e-2
BOX = slth.Box(-0.5, 1.0)
X = np.random.default_rng(5).uniform(-0.5, 1, (4, 4, 4, 1)).astype(np.float32)


def convolutional() -> Graph:
    """A signed 3x3 convolution with bias and a zero weight, and a dense layer behind a relu."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.3, (3, 3, 1, 2))
    kernel[0, 0] = 0
    nodes = (
        n.Input(shape=(4, 4, 1)),
        n.Convolution(
            inputs=(0,),
            kernel=kernel,
            bias=rng.normal(0, 0.2, 2),
            stride=(1, 1),
            padding=((0, 0),) * 2,
            dilation=(1, 1),
            name="conv",
        ),
        n.Relu(inputs=(1,)),
        n.Mean(inputs=(2,), axes=(0, 1)),
        n.Dense(inputs=(3,), kernel=rng.normal(0, 0.3, (2, 3)), name="dense"),
    )
    return Graph(nodes, (4,))


def dense(scale: float = 0.3) -> Graph:
    """Two dense layers, 6-4-2."""
    rng = np.random.default_rng(2)
    nodes = (
        n.Input(shape=(6,)),
        n.Dense(inputs=(0,), kernel=rng.uniform(-scale, scale, (6, 4)), name="one"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=rng.uniform(-scale, scale, (4, 2)), name="two"),
    )
    return Graph(nodes, (3,))


@functools.cache
def compiled() -> slth.Compiled:
    return slth.compile(convolutional(), EPS, DELTA, domain=BOX, construction="malach", attack=False)


@functools.cache
def sums() -> slth.Compiled:
    return slth.compile(dense(), EPS, DELTA, window=8, attack=False)


def family(seed: int, gain: int, width: int, weights: np.ndarray, signed: bool = False) -> tuple[Family, ...]:
    gadget = Gadget(width=width, gain=gain, window=WINDOW, tolerance=1e-2, failure=1.0)
    node = n.Dense(inputs=(0,), kernel=weights)
    return families(Generated(seed), 3, node, LayerLayout(signed=signed, kernel=gadget, bias=None))


# ---------------------------------------------------------------- the closest product


def exhaustive(own: Family, flat: int) -> tuple[Fraction, list[Fraction]]:
    """The target on its grid and all products that a weight may keep, exact."""
    channel = int(own.channel(np.array([flat]))[0])
    ranks = np.arange(own.windows[channel] * WINDOW)
    entries = read_entries(own.v, (own.copies[ranks, channel] * own.weights.size + flat).astype(np.uint64))
    unit = Fraction(2) ** (own.gadget.gain - PRODUCT_BITS)
    target = round(Fraction(own.weights.reshape(-1)[flat]) / unit) * unit
    return target, [int(v) * int(u) * unit for v, u in zip(entries, own.own[ranks, channel], strict=True)]


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**64 - 1), gain=st.integers(-3, 2), width=st.integers(1, 200), data=st.data())
def test_every_weight_keeps_the_closest_of_all_products_or_nothing(seed, gain, width, data):
    """In exact rationals, both signs of the input; weights far outside the range and near zero among them."""
    sizes = data.draw(st.lists(st.sampled_from([0.0, 1e-9, 0.01, -0.2, 0.37, -1.0, 9.5]), min_size=12, max_size=12))
    weights = np.array(sizes).reshape(3, 4) * np.random.default_rng(seed).uniform(0.5, 1, (3, 4))
    for own in family(seed, gain, width, weights, signed=True):
        solution = solve_closest_product(own)
        subsets, windows = solution.mask.subsets.reshape(-1), solution.mask.windows.reshape(-1)
        sums = masked_sums(own, solution.mask).reshape(-1)
        assert np.bitwise_count(subsets).max() <= 1 and not windows[subsets == 0].any()
        for flat in range(weights.size):
            target, products = exhaustive(own, flat)
            if target == 0 and weights.reshape(-1)[flat] == 0:
                assert subsets[flat] == 0
                continue
            kept = int(sums[flat]) * Fraction(2) ** (gain - PRODUCT_BITS)
            assert abs(kept - target) == min(abs(x - target) for x in [*products, Fraction(0)])
            place = int(windows[flat]) * WINDOW + int(subsets[flat]).bit_length() - 1
            assert kept == (products[place] if subsets[flat] else 0)
            missed = abs(kept - Fraction(weights.reshape(-1)[flat])) > Fraction(own.gadget.tolerance)
            position = np.unravel_index(flat, own.weights.shape)
            assert missed == (position in [miss.position for miss in solution.misses])


def test_many_weights_and_more_windows_than_a_mask_of_sums_ever_has():
    """Batches and chunks end anywhere; window numbers go into the hundreds."""
    weights = np.random.default_rng(0).uniform(-0.4, 0.4, (2, 700))
    (own,) = family(11, 0, 12_000, weights)
    solution = solve_closest_product(own)
    assert solution.mask.windows.max() > 300 and not solution.misses
    for flat in (0, 511, 512, 1399):
        target, products = exhaustive(own, flat)
        kept = int(masked_sums(own, solution.mask).reshape(-1)[flat]) * Fraction(2) ** -PRODUCT_BITS
        assert abs(kept - target) == min(abs(x - target) for x in products)


# ---------------------------------------------------------------- the law of a product


def exact_hits(weight: Fraction, tolerance: Fraction, law: SourceLaw, negative: bool) -> Fraction:
    """P(|U V - w| <= tol) given the sign of U, by counting the grid: all values of U, V by interval."""
    h = 1 << (law.bits - 1)
    sizes = np.array([h]) if law.signs else np.arange(1, h + negative, dtype=np.int64)
    unit = Fraction(1, h * h)
    low, high = -((tolerance - weight) // unit), (weight + tolerance) // unit
    # U V is a size of U times any integer from -h to h - 1; of the negative U, from 1 - h to h.
    first, last = (1 - h, h) if negative else (-h, h - 1)
    count = np.minimum(int(high) // sizes, last) - np.maximum(-(-int(low) // sizes), first) + 1
    return Fraction(int(np.maximum(count, 0).sum()), len(sizes) * 2 * h)


@pytest.mark.parametrize("bits", [4, 8, 12, 17])
@pytest.mark.parametrize("signs", [False, True])
def test_the_probability_is_a_lower_bound_for_what_is_drawn_and_close_to_it(bits, signs):
    """Exact counts over the source's grid; the continuous law is within a few steps of the grid."""
    law, rng = SourceLaw(bits, signs), np.random.default_rng(bits)
    for weight, tolerance in [(0.0, 0.1), (0.5, 0.5), (1.0, 0.25), (1.2, 0.1), *rng.uniform(0, [1, 0.3], (20, 2))]:
        one = np.array([weight])
        bound = Fraction(float(hit_probability(one, tolerance, law)[0]))
        near = Fraction(float(continuous_hit_probability(one, tolerance, law)[0]))
        for negative in (False, True):
            exact = exact_hits(Fraction(weight), Fraction(tolerance), law, negative)
            assert bound <= exact
            assert abs(near - exact) <= 8 * Fraction(2) ** (1 - bits)


def test_the_probability_falls_with_the_weight_and_is_all_of_the_law_in_the_end():
    weights = np.linspace(0, 1.2, 50)
    found = hit_probability(weights, 0.01, STANDARD)
    assert np.all(np.diff(found) <= 0) and found[0] > 0.05 and found[-1] == 0
    assert hit_probability(np.zeros(1), 5.0, STANDARD)[0] > 1 - 1e-6
    density = continuous_hit_probability(np.array([0.25]), 1e-4, STANDARD)[0] / 2e-4
    assert density == pytest.approx(np.log(4) / 2, rel=1e-4)


# ---------------------------------------------------------------- widths


def problems(weights: np.ndarray, tolerance: float, failure: float, **more) -> Problems:
    return Problems("layer 'x' kernel", np.abs(weights).reshape(-1), 0.0, 1, tolerance, failure, **more)


def seeds_with_a_miss(weights: np.ndarray, gadget: Gadget, seeds: int, shrink: int = 1) -> int:
    node, count = n.Dense(inputs=(0,), kernel=weights), 0
    kernel = Gadget(**{**vars(gadget), "width": gadget.width // shrink})
    for seed in range(seeds):
        layout = LayerLayout(signed=False, kernel=kernel, bias=None)
        count += bool(solve_closest_product(families(Generated(seed), 0, node, layout)[0]).misses)
    return count


@pytest.mark.parametrize("seeds", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_planned_widths_are_wide_enough_and_no_wider_than_they_must_be(seeds):
    """Seeds that miss, against the planned probability; the union bound gives little away here, so half misses most."""
    weights, failure = np.random.default_rng(3).normal(0, 0.2, (5, 8)), 0.1
    gadget = plan_one_product(problems(weights, 0.01, failure))
    assert gadget.failure is not None and 0.95 * failure < gadget.failure <= failure
    missed = seeds_with_a_miss(weights, gadget, seeds)
    assert missed <= stats.binom.ppf(1 - 1e-6, seeds, gadget.failure)
    if seeds == 400:
        print(f"{missed} of {seeds} seeds miss a tolerance, planned {gadget.failure:.3f}, width {gadget.width}")
        assert missed >= stats.binom.ppf(1e-6, seeds, gadget.failure / 2)
    assert seeds_with_a_miss(weights, gadget, seeds, shrink=2) > seeds / 2


def test_the_width_grows_as_one_over_the_tolerance_and_that_of_sums_as_its_logarithm():
    weights = np.random.default_rng(4).normal(0, 0.2, 1000)
    one = [plan_one_product(problems(weights, tol, 1e-3)).width for tol in (0.02, 0.01, 0.005, 0.0025)]
    sums = [plan_gadget(problems(weights, tol, 1e-3)).width for tol in (0.02, 0.01, 0.005, 0.0025)]
    assert one[0] > 10 * sums[0] / 2 and all(1.8 < b / a < 2.2 for a, b in itertools.pairwise(one))
    assert sums[-1] < 1.5 * sums[0]


def test_the_stated_failure_is_that_of_the_binomial_law_at_most():
    """Equation (1) against the exact law of whole windows."""
    weights = np.array([0.1, 0.3, 0.4])
    gadget = plan_one_product(problems(weights, 0.02, 1e-2))
    targets = np.ldexp(weights, -gadget.gain)
    hits = hit_probability(targets, np.ldexp(0.02 * (1 - 2.0**-29), -gadget.gain), STANDARD)
    copies = np.arange(gadget.width + 1)
    law = stats.binom.pmf(copies, gadget.width, usable_share(STANDARD))
    exact = sum((law * (1 - p) ** (copies // WINDOW * WINDOW)).sum() for p in hits)
    assert exact <= gadget.failure <= 1.5 * exact


def test_widths_out_of_hand_are_refused_with_the_width():
    with pytest.raises(
        UnreachableError, match=r"needs about 1,[\d]{3},[\d]{3} copies .* more than the 32,767 .* da-cunha"
    ):
        plan_one_product(problems(np.full(100, 0.3), 1e-5, 1e-3))
    # No bound here, as the tolerance is finer than the entries of V; an estimate all the same.
    with pytest.raises(UnreachableError, match=r"needs about 1\d,\d{3},\d{3},\d{3} copies"):
        plan_one_product(problems(np.full(100, 0.3), 1e-9, 1e-3))
    with pytest.raises(UnreachableError, match="copies of an input channel") as found:
        slth.dry_run(dense(), 1e-3, construction="malach")
    assert "layer 'one' kernel" in str(found.value) and "\n" not in str(found.value)


def test_nothing_but_weights_near_zero_needs_nothing():
    gadget = plan_one_product(problems(np.full(3, 1e-3), 1e-2, 1e-3))
    assert (gadget.width, gadget.failure) == (1, 0.0)
    assert plan_one_product(problems(np.zeros(0), 1e-2, 1e-3)).width == 1


def test_coarse_sources_are_planned_for_by_estimate_or_refused():
    layout = slth.dry_run(dense(), 0.5, 0.05, construction="malach", source=SourceLaw(6)).layout
    assert layout.delta is None and layout.failure is None and layout.layers[0].kernel.width > 16
    finer = slth.dry_run(dense(), 2.0, 0.05, construction="malach", source=SourceLaw(12)).layout
    assert finer.failure is not None and finer.failure <= 0.05
    with pytest.raises(UnreachableError, match="bits or more"):
        slth.dry_run(dense(), 0.02, 0.05, construction="malach", source=SourceLaw(4))


# ---------------------------------------------------------------- tickets


def test_a_ticket_of_single_products_is_certified_verified_and_literal(tmp_path):
    out = compiled()
    out.save(tmp_path / "out")
    verdict = verify(tmp_path / "out")
    assert verdict.ticket_id == out.ticket_id and out.certificate.bound <= EPS
    assert dict(verdict.checks)["construction"] == "of malach: no weight keeps more than one product"
    assert verdict.kept == sum(mask.kept for masks in out.ticket.masks for mask in masks.values())
    # 18 weights of the convolution, 2 of them zero, twice; 2 biases; 6 of the dense layer.
    assert verdict.kept == 2 * 16 + 2 + 6 and max(size.parameters_v for size in out.plan.layers) > 1e4
    again = slth.load(tmp_path / "out")
    assert again.layout == out.layout and again.layout.construction == "malach"
    np.testing.assert_array_equal(again(X), out(X))
    np.testing.assert_allclose(out.network(X), out(X), atol=1e-5)
    assert "malach" in (tmp_path / "out" / "report.html").read_text()
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")])
    assert shown.exit_code == 0 and "malach" in shown.output
    assert out.layout == slth.dry_run(convolutional(), EPS, DELTA, domain=BOX, construction="malach").layout


def signed_again(good, bad, **changes) -> str:
    """The check that refuses a ticket whose manifest says something else, every digest made to agree."""
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    manifest = json.loads((bad / "manifest.json").read_bytes()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not ...}
    (bad / "manifest.json").write_bytes(as_json(manifest))
    names = sorted(path.name for path in bad.iterdir() if path.name != "SHA256SUMS")
    (bad / "SHA256SUMS").write_text("".join(f"{sha256((bad / name).read_bytes())}  {name}\n" for name in names))
    with pytest.raises(VerificationError) as found:
        verify(bad)
    return found.value.check


STANDARD_SOURCE = {"kind": "generated", "bits": 24, "signs": False}


def test_the_construction_is_part_of_the_manifest_and_checked(tmp_path):
    compiled().save(tmp_path / "one")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_bytes())
    assert (manifest["version"], manifest["construction"], manifest["source"]) == (4, "malach", STANDARD_SOURCE)
    # What it cannot read is refused by `read` as well, what is false by the checker alone.
    wrong = {
        "another construction": ({"construction": "da-cunha"}, "construction"),
        "of another type": ({"construction": ["malach"]}, "construction"),
        "none": ({"construction": ...}, "format"),
        "an older version": ({"version": 3}, "format"),
        "a version with a witness": ({"version": 5}, "format"),
        "a newer version": ({"version": 6}, "version"),
        "no source": ({"source": ...}, "format"),
        "no delta": ({"delta": None}, "delta|format"),
        "a kernel": ({"construction": "pensia"}, "construction"),
    }
    for name, (changes, check) in wrong.items():
        assert signed_again(tmp_path / "one", tmp_path / "bad", **changes) in check, name
        if name not in ("an older version", "no delta", "a kernel"):
            with pytest.raises(VerificationError):
                ticket_format.read(tmp_path / "bad")
    sums().save(tmp_path / "sums")
    plain = json.loads((tmp_path / "sums" / "manifest.json").read_bytes())
    assert plain["version"] == 2 and not {"construction", "source"} & set(plain)
    claimed = {"version": 4, "construction": "malach", "source": STANDARD_SOURCE}
    assert signed_again(tmp_path / "sums", tmp_path / "bad", **claimed) == "construction"


def test_pensias_is_da_cunhas_without_kernels(tmp_path):
    other = slth.compile(dense(), EPS, DELTA, window=8, construction="pensia", attack=False)
    for masks, others in zip(sums().ticket.masks, other.ticket.masks, strict=True):
        for part, mask in masks.items():
            assert np.array_equal(mask.subsets, others[part].subsets)
    other.save(tmp_path / "out")
    assert dict(verify(tmp_path / "out").checks)["construction"] == "of pensia: every kernel has one tap"
    assert slth.load(tmp_path / "out").layout.construction == "pensia"
    with pytest.raises(UnsupportedModelError, match="layer 'conv' has a 3x3 kernel; expected dense layers and 1x1"):
        slth.dry_run(convolutional(), EPS, domain=BOX, construction="pensia")


def test_one_by_one_convolutions_are_pensias_too():
    conv = n.Convolution(
        inputs=(0,), kernel=np.full((1, 1, 2, 3), 0.25), stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1)
    )
    graph = Graph((n.Input(shape=(3, 3, 2)), conv), (1,))
    assert slth.dry_run(graph, 1.0, construction="pensia").layout.construction == "pensia"


# ---------------------------------------------------------------- what the theorems assume


def test_a_network_inside_a_theorem_is_not_said_to_be_outside():
    small = slth.Points(np.full((1, 6), 0.4))
    for construction in CONSTRUCTIONS:
        assert violated(dense(scale=0.05), [small], construction) == ()
        assert slth.dry_run(dense(scale=0.05), EPS, construction=construction, domain=small).violated == ()


@pytest.mark.parametrize(
    ("construction", "expected"),
    [
        ("malach", ["no operations", "mean", "no biases", "dense layers only", "max |w| sqrt(n_in)", "||x||_2"]),
        ("da-cunha", ["no operations", "mean", "no biases", "||K||_1 <= 1; above in 2 of 2", "[0, 1]; the domain"]),
    ],
)
def test_a_plan_says_what_a_theorem_assumes_and_is_not_so(construction, expected):
    planned = slth.dry_run(convolutional(), EPS, DELTA, domain=BOX, construction=construction)
    text = plan_text(planned)
    assert all(words in text for words in expected), text
    assert plan_json(planned)["violated"] == planned.violated and "stride" not in text


def test_the_norms_that_are_named_are_those_of_the_layers():
    graph = dense(scale=1.0)
    found = violated(graph, [slth.Points(np.full((1, 6), 0.4))], "pensia")
    kernels = [graph.nodes[i].kernel for i in graph.layers]
    worst = max(np.linalg.norm(kernel, 2) for kernel in kernels)
    assert [f"{worst:.3g}" in sentence for sentence in found] == [True]


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"construction": "malack"}, "did you mean 'malach'"),
        ({"construction": "Burkholz et al."}, "expected da-cunha"),
        ({"construction": None}, "construction is None"),
        ({"construction": ["malach"]}, "construction is"),
        ({"construction": "malach", "objective": "sparsest"}, "so objective cannot be chosen"),
        ({"construction": "malach", "window": 16}, "so window cannot be chosen"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        slth.dry_run(dense(), EPS, **arguments)


def test_feedback_chooses_among_subsets_and_there_are_none():
    with pytest.raises(InputError, match="so feedback cannot be chosen"):
        slth.compile(dense(), EPS, construction="malach", feedback=np.zeros((3, 6)))


def test_widths_of_this_size_fit_the_format():
    assert max(layer.kernel.width for layer in compiled().layout.layers) > 1000
    assert MAXIMUM_WIDTH < 2**15


@pytest.mark.slow
@pytest.mark.parametrize("source", [SourceLaw(8), SourceLaw(8, True), SourceLaw(24, True), "supplied"])
def test_single_products_of_other_sources(source, tmp_path):
    rng = np.random.default_rng(0)

    def entries(layer: int, tensor: str, index: np.ndarray) -> np.ndarray:
        return rng.integers(-(1 << 23), 1 << 23, np.shape(index)) * 2.0**-23

    given = entries if source == "supplied" else source
    options = {"construction": "malach", "source": given, "attack": False}
    out = slth.compile(dense(), 0.5, 0.05, **options, out=tmp_path / "out")
    assert dict(verify(tmp_path / "out").checks)["construction"].startswith("of malach")
    assert slth.load(tmp_path / "out").layout == out.layout and out.certificate.bound <= 0.5
    x = rng.uniform(0, 1, (3, 6)).astype(np.float32)
    np.testing.assert_allclose(out.network(x), out(x), atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path):
    """Finished parts are kept and taken up again, and the ticket is the same."""
    calls = 0

    def stop(stage: str, done: int, total: int) -> None:
        nonlocal calls
        calls += stage == "certify"
        if calls:
            raise KeyboardInterrupt

    options = {"domain": BOX, "construction": "malach", "attack": False, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        slth.compile(convolutional(), EPS, DELTA, **options, progress=stop)
    assert (tmp_path / "out.partial").exists()
    out = slth.compile(convolutional(), EPS, DELTA, **options, resume=True)
    assert out.ticket_id == compiled().ticket_id
