"""`compile` and what it returns: arguments, several domains, seeds, measurements, both forms of the network."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

import slth_compile as slth
from slth_compile import compiler, measure
from slth_compile.errors import InputError, UnreachableError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

SHAPE = (4,)
WINDOW = 8
UNIT = slth.Box(0.0, 1.0, SHAPE)
POINTS = slth.Points(np.random.default_rng(0).uniform(0, 1, (6, *SHAPE)).astype(np.float32))
X = np.random.default_rng(1).normal(size=(8, *SHAPE)).astype(np.float32)


@functools.cache
def model(heads: int = 1) -> Graph:
    """4 -> 5 -> 3, with a second output of 2 where there are two heads."""
    rng = np.random.default_rng(2)

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / 2).astype(np.float32)

    nodes = [
        n.Input(shape=SHAPE),
        n.Dense(inputs=(0,), kernel=draw(4, 5), bias=draw(5), name="first"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(5, 3), bias=draw(3), name="second"),
        n.Dense(inputs=(2,), kernel=draw(5, 2), name="third"),
    ]
    return Graph(tuple(nodes[: heads + 3]), (3, 4)[:heads], ("", "other")[:heads])


@functools.cache
def compiled(seed: int = 0, heads: int = 1) -> slth.Compiled:
    return slth.compile(model(heads), 4.0, 0.05, domain=(UNIT, POINTS), window=WINDOW, seed=seed, attack=False)


def test_a_relative_eps_is_relative_to_the_largest_output() -> None:
    out = compiler.dry_run(model(), "50rel", 0.05, domain=POINTS)
    largest = measure.largest_output(model(), POINTS)
    (outputs,) = compiled()._effective(POINTS.x)
    assert out.layout.eps == pytest.approx(50 * largest)
    assert largest == pytest.approx(float(np.abs(outputs).max()), abs=compiled().certificates[1].bound)
    with pytest.raises(InputError, match="eps is relative, but the target's output is zero"):
        zero = n.Dense(inputs=(0,), kernel=np.zeros((4, 2)))
        compiler.dry_run(Graph((n.Input(shape=SHAPE), zero), (1,)), "1e-3rel", domain=POINTS)


def test_every_domain_has_its_certificate() -> None:
    out = compiled()
    assert [c.kind for c in out.certificates] == ["box", "points"]
    assert [c.domain for c in out.certificates] == [0, 1]
    assert out.certificate is out.certificates[0]
    box, points = out.certificates
    assert points.bound <= box.bound <= out.layout.eps == 4.0
    assert 0 < points.lower <= points.bound and box.lower == 0.0
    assert points.bound - points.lower < 1e-6 * points.bound
    assert [leaf.shape for leaf in box.per_output] == [(3,)] and box.bound == box.per_output[0].max()


def test_the_default_domain_is_the_unit_box_of_the_input_shape() -> None:
    kernel = np.random.default_rng(3).normal(size=(2, 2)).astype(np.float32)
    out = slth.compile(lambda x: x @ kernel, 2.0, 0.05, input_shape=(2,), attack=False)
    (domain,) = out.domains
    assert isinstance(domain, slth.Box) and domain.shape == (2,)
    lower, upper = domain.regions()
    assert np.all(lower == 0) and np.all(upper == 1) and not out.layout.layers[0].signed
    assert measure.largest_output(out.folded, domain) > 0


def test_certify_speaks_about_other_domains() -> None:
    out = compiled()
    inner = out.certify(slth.Box(0.25, 0.5, SHAPE))
    balls = out.certify(slth.Balls(POINTS.x[:2] + 0.1, 0.05))
    assert inner.bound < out.certificate.bound and balls.kind == "balls"
    assert out.certify(slth.Box(0.0, 1.0)).per_output[0].tolist() == out.certificate.per_output[0].tolist()
    with pytest.raises(InputError, match="compiled for inputs >= 0"):
        out.certify(slth.Box(-1.0, 1.0, SHAPE))
    with pytest.raises(InputError, match=r"the model's input has shape \(4,\)"):
        out.certify(slth.Box(0.0, 1.0, (5,)))


def test_the_seed_and_nothing_else_decides_the_ticket() -> None:
    first = compiled()
    again = slth.compile(model(), 4.0, 0.05, domain=(UNIT, POINTS), window=WINDOW, seed=0, attack=False)
    other = compiled(seed=2**63 + 5)
    assert first.ticket_id == again.ticket_id != other.ticket_id
    assert first.layout == other.layout
    np.testing.assert_array_equal(first(X), again(X))
    assert not np.array_equal(first(X), other(X))


def test_both_forms_agree_and_compile() -> None:
    out = compiled()
    effective = np.asarray(out(X))
    scale = float(np.abs(effective).max())
    for network in (out.network, out.dense_network(), out.compact_network()):
        np.testing.assert_allclose(network(X), effective, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(jax.jit(lambda x, net=network: net(x))(X), effective, rtol=1e-4, atol=1e-5 * scale)
    fresh = slth.compile(model(), 4.0, 0.05, domain=UNIT, window=WINDOW, attack=False)
    np.testing.assert_allclose(jax.jit(lambda x: fresh.network(x))(X), fresh.network(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda x: fresh(x))(X), fresh(X), rtol=1e-5, atol=1e-5)


def test_several_outputs_come_as_a_tuple() -> None:
    out = compiled(heads=2)
    assert isinstance(compiled()(X), jax.Array)
    for outputs in (out(X), out.network(X)):
        assert isinstance(outputs, tuple) and [leaf.shape for leaf in outputs] == [(8, 3), (8, 2)]
    assert [leaf.shape for leaf in out.certificate.per_output] == [(3,), (2,)]
    assert out.certificate.bound == max(float(leaf.max()) for leaf in out.certificate.per_output)


@pytest.mark.parametrize("labels", ["classes", "values"])
def test_quality_is_measured_on_labelled_data(labels: str) -> None:
    x = np.random.default_rng(4).uniform(0, 1, (20, *SHAPE)).astype(np.float32)
    y = np.arange(20) % 3 if labels == "classes" else np.random.default_rng(5).normal(size=(20, 3))
    out = slth.compile(model(), 4.0, 0.05, domain=UNIT, window=WINDOW, attack=False, evaluate=(x, y), literal=True)
    found = out.measured.evaluation
    assert found is not None and found.samples == 20
    outputs = np.asarray(out(x), np.float64)
    if labels == "classes":
        assert found.metric == "top-1 accuracy"
        assert found.ticket == np.mean(outputs.argmax(1) == y) and 0 <= found.target <= 1
        assert found.literal == found.ticket
    else:
        assert found.metric == "mean squared difference"
        assert found.ticket == pytest.approx(np.mean((outputs - y) ** 2), rel=1e-5)
        assert found.literal == pytest.approx(found.ticket, rel=1e-4)
    with pytest.raises(InputError, match="evaluate: inputs"):
        slth.compile(model(), 4.0, domain=UNIT, evaluate=(x[:, :3], y))


def test_an_attack_stays_below_the_certificate() -> None:
    out = slth.compile(model(), 4.0, 0.05, domain=(UNIT, POINTS), window=WINDOW)
    for row, certificate in zip(out.measured.attacks, out.certificates, strict=True):
        assert row is not None and 0 < row.value <= certificate.bound * (1 + 1e-6)
    assert out.measured.attacks[1].value == pytest.approx(out.certificates[1].bound, rel=1e-4)
    assert compiled().measured.attacks == (None, None)


def test_progress_goes_through_the_stages_in_order() -> None:
    seen: list[tuple[str, int, int]] = []
    slth.compile(model(), 4.0, 0.05, domain=UNIT, window=WINDOW, progress=lambda *step: seen.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["plan", "solve", "certify", "attack"]
    for stage in stages:
        steps = [(done, total) for name, done, total in seen if name == stage]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1] > 0
        assert len({total for _, total in steps}) == 1
    signs = 1 + np.array([layer.signed for layer in compiled().layout.layers])
    assert {stage: total for stage, _, total in seen}["solve"] == signs @ [20, 15] + 8


def test_the_plan_is_what_compile_draws() -> None:
    planned = compiler.dry_run(model(), 4.0, 0.05, domain=(UNIT, POINTS), window=WINDOW)
    out = compiled()
    assert planned.layout == out.layout and 0 < planned.bound <= 4.0 and planned.layout.failure <= 0.05
    assert [size.name for size in planned.layers] == ["first", "second"]
    widths = [(layer.kernel.width, layer.bias.width) for layer in out.layout.layers]
    sizes = [(20, 5, 4), (15, 3, 5)]
    for size, (width, bias_width), (weights, outputs, inputs) in zip(planned.layers, widths, sizes, strict=True):
        assert size.parameters_v == width * weights + bias_width * outputs
        assert size.parameters_u == width * inputs**2 + bias_width
    assert planned.constant_v > 0 and planned.seconds > 0 and planned.memory > 0


def test_an_eps_out_of_reach_names_layer_and_number() -> None:
    with pytest.raises(UnreachableError, match=r"layer 'first' kernel: needs a tolerance of .*e-\d\d, below the grid"):
        slth.compile(model(), 1e-13, domain=UNIT)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_seeds_that_are_none_are_refused(seed) -> None:
    with pytest.raises(InputError, match="expected an integer from 0 to 2\\^64 - 1"):
        slth.compile(model(), 4.0, domain=UNIT, seed=seed)


@pytest.mark.parametrize("domain", [(0, 1), X, "box:0,1", [UNIT, 3]])
def test_what_is_no_domain_is_refused(domain) -> None:
    with pytest.raises(InputError, match=r"expected slth\.Box, slth\.Points, slth\.Balls"):
        slth.dry_run(model(), 4.0, domain=domain)
    with pytest.raises(InputError, match=r"expected slth\.Box, slth\.Points, slth\.Balls"):
        compiled().certify(domain)


def test_other_slips_get_a_sentence() -> None:
    with pytest.raises(InputError, match="delta is '1e-3'"):
        slth.dry_run(model(), 4.0, "1e-3", domain=UNIT)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="verify takes a directory, not a Compiled"):
        slth.verify(compiled())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"x has shape \(4,\); expected \(batch, 4,\)"):
        compiled()(X[0])


def test_what_is_printed_of_it_is_one_line() -> None:
    text = repr(compiled())
    assert text.startswith("Compiled(2 layers, 43 weights, seed 0, box: <= ") and "\n" not in text and len(text) < 120


def test_the_public_names_stay_what_they_are() -> None:
    compiled()
    assert callable(slth.dry_run) and callable(slth.compile) and set(slth.__all__) <= set(dir(slth))
    with pytest.raises(AttributeError, match="no attribute 'comple'"):
        slth.comple  # noqa: B018


def test_a_bound_above_eps_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the plan promised: the certificate itself is held against eps."""
    honest = compiler.certify_domain
    monkeypatch.setattr(compiler, "certify_domain", lambda *args: dataclasses.replace(honest(*args), bound=4.0001))
    with pytest.raises(UnreachableError, match="above eps"):
        slth.compile(model(), 4.0, 0.05, domain=UNIT, window=WINDOW, attack=False)
