"""Pruning, tickets and scores: exact masks, exact counts, exact gradients, the same bytes again."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slth_compile.baselines import edge_popup, files, lottery, magnitude, masks, plot, table
from slth_compile.baselines.accounting import cost
from slth_compile.baselines.data import Data, load_data
from slth_compile.baselines.networks import Conv4, Layer, LeNet5, LeNet300100, initial, kernels, layers, max_pool
from slth_compile.baselines.popup_source import KAIMING_NORMAL, SIGNED_CONSTANT, random_kernels
from slth_compile.baselines.records import begin
from slth_compile.baselines.scores import bernoulli_masks, popped, popup_masks, sampled, threshold
from slth_compile.baselines.study import Study, Trial
from slth_compile.baselines.train import CONSTANT, Masked, Training, fit, seed_key
from slth_compile.errors import InputError
from slth_compile.progress import silent
from slth_compile.source.threefry import TENSOR_V, tensor_key, words

SHORT = Training(steps=4, batch=8, schedule=CONSTANT)
TINY = LeNet300100(hidden=(6,), classes=3)


@pytest.fixture(scope="module")
def data() -> Data:
    """Three classes of 4x4 images: a bright row, and noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 3
    images = generator.random((60, 4, 4, 1)).astype(np.float32) * 0.3
    images[np.arange(60), labels] += 0.7
    return Data(images[:48], labels[:48], images[48:], labels[48:])


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# ---------------------------------------------------------------- masks


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_the_largest_are_kept_and_exactly_so_many(numbers, more):
    """Ties among them; the first in order win."""
    sizes = np.abs(np.array(numbers, np.float32))
    count = more.draw(st.integers(1, len(numbers)))
    mask = masks.largest(sizes, count)
    assert mask.sum() == count
    assert set(np.flatnonzero(mask)) == set(sorted(range(len(numbers)), key=lambda i: (-sizes[i], i))[:count])


@pytest.mark.parametrize("density", [1.0, 0.5, 0.21, 0.001])
def test_densities_are_exact_in_every_layer(density):
    generator = np.random.default_rng(1)
    weights = {"a": generator.normal(size=(7, 5)), "b": generator.normal(size=(3, 3, 2, 4)), "c": np.zeros((2, 2))}
    expected = {name: max(1, round(density * w.size)) for name, w in weights.items()}
    shapes = {name: w.shape for name, w in weights.items()}
    for found in (masks.layerwise(weights, density), masks.at_random(shapes, expected, 5)):
        assert {name: mask.sum() for name, mask in found.items()} == expected
        assert {name: mask.shape for name, mask in found.items()} == shapes
    assert sum(mask.sum() for mask in masks.overall(weights, 17).values()) == 17


def test_pruning_keeps_inside_what_was_kept():
    """A weight trained to zero still counts before one that is pruned, however large that one is."""
    weights = {"a": np.array([5.0, 0.0, 4.0, 3.0]), "b": np.array([0.0, -2.0])}
    allowed = {"a": np.array([False, True, True, False]), "b": np.array([True, True])}
    found = lottery.pruned(weights, allowed, 0.25)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "a": [False, True, True, False],
        "b": [False, True],
    }
    assert sum(mask.sum() for mask in lottery.pruned(weights, allowed, 0.9).values()) == 1


def test_one_shot_masks_by_hand():
    weights = {"a": np.array([1.0, -8.0, 3.0, 0.5]), "b": np.array([2.0, -0.1])}
    assert magnitude.masks_by(magnitude.GLOBAL, weights, 0.5, 0)["a"].tolist() == [False, True, True, False]
    assert magnitude.masks_by(magnitude.LAYERWISE, weights, 0.5, 0)["b"].tolist() == [True, False]
    assert magnitude.masks_by(magnitude.LAYERWISE, weights, 0.25, 0)["a"].tolist() == [False, True, False, False]


# ---------------------------------------------------------------- accounting


def test_costs_by_hand():
    """A 3x3 convolution 2 -> 4 at 5x5 places, with 4 biases, and a dense layer 10 -> 3."""
    found = (Layer("conv", (3, 3, 2, 4), 4, 25), Layer("dense", (10, 3), 3, 1))
    kept = {"conv": np.zeros((3, 3, 2, 4), bool), "dense": np.zeros((10, 3), bool)}
    kept["conv"].flat[:18] = True
    kept["dense"].flat[:6] = True
    own = cost(found, kept)
    assert (own.entries, own.kept_entries, own.biases) == (72 + 30, 24, 7)
    assert own.density == 24 / 102
    assert own.sparsity == 1 - 24 / 102
    assert own.compression == 109 / 31
    assert (own.macs, own.kept_macs) == (25 * 72 + 30, 25 * 18 + 6)
    assert own.speedup == 1830 / 456
    nothing = cost((Layer("dense", (2, 2), 0, 1),), {"dense": np.zeros((2, 2), bool)})
    assert nothing.compression == nothing.speedup == float("inf")


def test_layers_of_the_networks():
    """Kernels, biases and places; the published numbers of parameters on MNIST."""
    dense = layers(LeNet300100(), (28, 28, 1))
    assert [(layer.kernel, layer.bias, layer.positions) for layer in dense] == [
        ((784, 300), 300, 1),
        ((300, 100), 100, 1),
        ((100, 10), 10, 1),
    ]
    assert sum(layer.size + layer.bias for layer in dense) == 266_610
    assert sum(layer.size + layer.bias for layer in layers(LeNet5(), (28, 28, 1))) == 107_786
    conv = layers(Conv4(width=8, bias=False), (28, 28, 1))
    assert [layer.positions for layer in conv] == [196, 196, 49, 49, 1, 1, 1]
    assert [layer.fan_in for layer in conv[:3]] == [9, 72, 72]
    assert {layer.bias for layer in conv} == {0}


def test_the_pool_has_the_gradient_of_its_maximum():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 2, 3, 3)).astype(np.float32)
    ours = jax.jit(jax.grad(lambda x: jnp.sum(weights * max_pool(x))))
    plain = jax.jit(jax.grad(lambda x: jnp.sum(weights * nn.max_pool(x, (2, 2), (2, 2)))))
    assert np.array_equal(ours(x), plain(x))
    shared = ours(jnp.ones_like(x))[:, :4]
    assert np.array_equal(shared, np.repeat(np.repeat(weights, 2, 1), 2, 2)[:, :, :6] / 4)


# ---------------------------------------------------------------- scores


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=30), st.data())
def test_the_threshold_is_the_kth_largest(numbers, more):
    scores = np.zeros(30, np.float32)
    scores[: len(numbers)] = numbers
    k = more.draw(st.integers(1, 30))
    bits = np.asarray(THRESHOLD(scores, np.int32(k)))
    assert bits.view(np.float32) == np.sort(np.abs(scores))[-k]


THRESHOLD = jax.jit(threshold)


def test_edge_popup_passes_the_gradient_straight_through():
    """dL/ds = sign(s) w dL/dw' for every score, pruned ones too; exactly the largest are used."""
    w, s, g = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    used, back = jax.vjp(lambda s: popped(w, s, jnp.int32(7)), s)
    mask = popup_masks({"a": np.asarray(s)}, {"a": 7})["a"]
    assert np.array_equal(used, np.where(mask, w, 0))
    assert np.array_equal(back(g)[0], np.sign(s) * w * g)


def test_sampled_masks_pass_the_gradient_of_their_probability():
    """dL/ds = p (1 - p) w dL/dw': the derivative of the expected weight p w."""
    w, s, g = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    uniform = np.random.default_rng(1).random((6, 4), np.float32)
    used, back = jax.vjp(lambda s: sampled(w, s, uniform), s)
    assert np.array_equal(used, np.where(uniform < jax.nn.sigmoid(s), w, 0))
    expected = jax.grad(lambda s: jnp.sum(g * jax.nn.sigmoid(s) * w))(s)
    assert np.allclose(back(g)[0], expected, rtol=1e-5)


def test_drawn_masks_follow_their_probabilities():
    found = bernoulli_masks({"a": np.full(4000, np.log(0.2 / 0.8)), "b": np.array([-100.0, 100.0])}, 3)
    low, high = stats.binom.interval(1 - 1e-6, 4000, 0.2)
    assert low <= found["a"].sum() <= high
    assert found["b"].tolist() == [False, True]
    assert same(found, bernoulli_masks({"b": np.array([-100.0, 100.0]), "a": np.full(4000, np.log(0.25))}, 3))


def test_the_source_is_a_function_of_the_seed():
    """Signs are the top bits of the words; normal weights rise with the word and have their law."""
    own = (Layer("a", (3, 3, 2, 4), 0, 1), Layer("b", (40, 50), 0, 1))
    seed = 2**63 + 5
    with jax.enable_x64(True):
        word = np.asarray(words(tensor_key(seed, 1, TENSOR_V), jnp.arange(2000, dtype=jnp.uint64)))
    constant = random_kernels(own, seed, SIGNED_CONSTANT)
    size = np.float32(np.sqrt(2 / 40))
    assert np.array_equal(constant["b"].reshape(-1), np.where(word >> 31 == 1, size, -size))
    assert set(np.unique(constant["a"])) == {np.float32(np.sqrt(2 / 18)), -np.float32(np.sqrt(2 / 18))}
    normal = random_kernels(own, seed, KAIMING_NORMAL)["b"].reshape(-1)
    assert np.all(np.diff(normal[np.argsort(word)]) >= 0)
    assert stats.kstest(normal * np.sqrt(20), "norm").pvalue > 1e-6
    assert np.array_equal(np.sign(normal), np.sign(constant["b"].reshape(-1)))


# ---------------------------------------------------------------- training


def test_all_bits_of_a_seed_count():
    found = [jax.random.key_data(seed_key(seed)).tolist() for seed in (0, 5, 2**32, 2**64 - 1)]
    assert found == [[0, 0], [0, 5], [1, 0], [2**32 - 1, 2**32 - 1]]
    assert jax.random.key_data(jax.random.key(5)).tolist() == [0, 5]


def test_pruned_weights_do_not_move_and_seeds_reproduce(data):
    weights = initial(TINY, data.shape, jax.random.key(3))
    kept = masks.layerwise(kernels(weights), 0.5)
    first, second = (fit(Masked(TINY), weights, kept, data, SHORT, jax.random.key(4)) for _ in range(2))
    assert same(first, second)
    assert not same(first, fit(Masked(TINY), weights, kept, data, SHORT, jax.random.key(5)))
    for name, mask in kept.items():
        moved = np.asarray(first[name]["kernel"]) != np.asarray(weights[name]["kernel"])
        assert not moved[~mask].any()
        assert moved[mask].any()


def test_rewinding_restores_the_weights_of_that_step(data, tmp_path, tiny_networks, monkeypatch):
    """Every level and the random mask begin with them, to the bit; so does the other control with fresh ones."""
    begun: list[tuple[int, dict]] = []

    def spy(forward, trained, fixed, data, training, key, **options):
        begun.append((options.get("start", 0), trained))
        return fit(forward, trained, fixed, data, training, key, **options)

    monkeypatch.setattr(lottery, "fit", spy)
    plan = dataclasses.replace(PLAN, rewind=3, seeds=(7,))
    lottery.draw_tickets(plan, data, tmp_path / "out")
    (_, first), *others = begun
    weights = initial(TINY, data.shape, jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), 0))
    assert same(first, weights)
    # Three steps of a training of three are those of a training of four: the rate is constant.
    three = dataclasses.replace(plan.training, steps=3)
    everything = masks.everything(kernels(weights))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 1), 0)
    at_three = fit(Masked(TINY), weights, everything, data, three, key)
    assert not same(at_three, weights)
    levels = [trained for start, trained in others if start == 3]
    fresh = [trained for start, trained in others if start == 0]
    assert (len(levels), len(fresh)) == (4 + 1, 1)
    assert all(same(trained, at_three) for trained in levels)
    assert not same(fresh[0], weights)


# ---------------------------------------------------------------- studies


PLAN = lottery.Lottery(levels=3, controls=(2,), seeds=(0, 1), rewind=1, training=SHORT)


@pytest.fixture
def tiny_networks(monkeypatch):
    """Studies of networks that compile in no time."""
    for module in (lottery, magnitude):
        monkeypatch.setattr(module, "network", lambda name, classes: TINY)
    monkeypatch.setattr(plot, "render", lambda study, title, kind: kind.encode())
    monkeypatch.setattr(edge_popup.Popup, "model", lambda popup, classes: LeNet300100((6,), classes, bias=False))


def draw_and_write(data: Data, out: Path, progress=silent, **options) -> Study:
    study, records = lottery.draw_tickets(PLAN, data, out, progress=progress, **options)
    files.write(study, records, "title")
    return study


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tickets_and_controls_have_their_densities(data, tmp_path, tiny_networks):
    """A fifth less every level, over all layers; controls keep as many of every layer; levels are nested."""
    seen = []
    study = draw_and_write(data, tmp_path / "out", progress=lambda *where: seen.append(where))
    total = 16 * 6 + 6 * 3
    expected = [total]
    for _ in range(3):
        expected.append(round(0.8 * expected[-1]))
    found = [t.cost.kept_entries for t in study.trials if t.seed == 0 and t.method in (lottery.WINNING, "dense")]
    assert found == expected
    kept = [dict(np.load(tmp_path / "out" / "networks" / f"level-{level}-1.npz")) for level in range(4)]
    masks_of = [{k: v for k, v in arrays.items() if k.startswith("mask.")} for arrays in kept]
    for wide, narrow in itertools.pairwise(masks_of):
        assert all(np.all(wide[name] >= narrow[name]) for name in wide)
    for control in ("reinit", "random"):
        arrays = np.load(tmp_path / "out" / "networks" / f"{control}-2-1.npz")
        assert all(arrays[name].sum() == mask.sum() for name, mask in masks_of[2].items())
        assert all(np.array_equal(arrays[name], mask) for name, mask in masks_of[2].items()) == (control == "reinit")
    assert seen[-1] == ("train", PLAN.steps, PLAN.steps)
    done = [at for _, at, _ in seen]
    assert done == sorted(done)


def test_a_study_that_was_stopped_ends_with_the_same_bytes(data, tmp_path, tiny_networks):
    """After more and more of it, with a file that was not finished beside the others."""
    draw_and_write(data, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    out, starts = tmp_path / "out", 0

    def stop_after(count: int):
        left = [count]

        def progress(stage: str, done: int, total: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        return progress

    while True:
        try:
            draw_and_write(data, out, progress=stop_after(2 + 2 * starts), resume=True)
            break
        except KeyboardInterrupt:
            starts += 1
            assert not out.exists()
            kept = sorted((tmp_path / "out.partial" / "networks").iterdir())
            if kept:
                kept[-1].rename(kept[-1].with_name(kept[-1].name + ".tmp"))
    assert starts >= 3
    assert content(out) == expected


def test_occupied_and_foreign_directories_are_refused(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(InputError, match="is no study"):
        begin(out, "a", 1, resume=False, force=True)
    (out / "mine").unlink()
    out.rmdir()
    begin(out, "a", 1, resume=False, force=False)
    with pytest.raises(InputError, match="--resume"):
        begin(out, "a", 1, resume=False, force=False)
    with pytest.raises(InputError, match="other data or settings"):
        begin(out, "b", 1, resume=True, force=False)
    begin(out, "b", 1, resume=False, force=True).finish({"results.json": b"{}"})
    with pytest.raises(InputError, match="--force"):
        begin(out, "b", 1, resume=False, force=False)
    begin(out, "b", 1, resume=False, force=True).finish({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert "results.json" not in content(out)


def test_one_shot_pruning_has_its_controls(data, tmp_path, tiny_networks):
    plan = magnitude.Pruning(densities=(0.5, 0.1), seeds=(0, 1), training=SHORT, tuning=SHORT)
    study, records = magnitude.prune(plan, data, tmp_path / "out")
    files.write(study, records, "title")
    assert records.done == plan.steps
    assert [(s.method, s.density, s.seeds) for s in study.summaries()] == [
        ("dense", 1.0, 2),
        *((method, density, 2) for method in magnitude.METHODS[1:] for density in (0.5, 0.1)),
    ]
    total = 16 * 6 + 6 * 3
    for trial in study.trials:
        by_layer = sum(max(1, round(trial.density * size)) for size in (96, 18))
        assert trial.cost.kept_entries == (round(trial.density * total) if "global" in trial.method else by_layer)
        assert trial.cost.compression == (total + 9) / (trial.cost.kept_entries + 9)
        assert trial.correct_before is not None
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written == table.study_json(study)
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(study.trials)
    assert lines[1].split(",")[:3] == ["dense", "1.0", "0"]


def test_edge_popup_masks_are_masks_of_the_source(data, tmp_path, tiny_networks):
    """Exact densities in every layer; what is reported is the masked source, evaluated again here."""
    plan = edge_popup.Popup(densities=(0.5,), seeds=(3,), training=SHORT, sampling=SHORT, control=SHORT)
    study, records = edge_popup.search(plan, data, tmp_path / "out")
    files.write(study, records, "title")
    assert records.done == plan.steps
    model = LeNet300100((6,), 3, bias=False)
    own = layers(model, data.shape)
    found = {trial.method: trial for trial in study.trials}
    assert set(found) == set(edge_popup.METHODS)
    for law in plan.laws:
        arrays = np.load(tmp_path / "out" / "networks" / f"{law}-0.5-3.npz")
        weights, kept = random_kernels(own, 3, law), {layer.name: arrays[f"mask.{layer.name}"] for layer in own}
        assert [kept[layer.name].sum() for layer in own] == [48, 9]
        x = np.maximum(data.test_images.reshape(-1, 16) @ (weights["dense1"] * kept["dense1"]), 0)
        labels = (x @ (weights["dense2"] * kept["dense2"])).argmax(1)
        assert (labels == data.test_labels).sum() == found[edge_popup.POPUP[law]].correct == arrays["correct"]


def test_mean_and_deviation_over_seeds():
    layer = (Layer("a", (2, 2), 0, 1),)
    own = cost(layer, {"a": np.array([[True, False], [False, False]])})
    study = Study("s", {}, tuple(Trial("m", 0.25, seed, right, 10, own) for seed, right in enumerate((5, 6, 10))))
    (found,) = study.summaries()
    assert found.mean == pytest.approx(0.7)
    assert found.deviation == pytest.approx(0.07**0.5)
    assert (found.compression, found.speedup, found.kept) == (4, 4, 0.25)
    assert table.rows(study) == [["m", "25 %", "75 %", "4x", "4x", "70.00 ± 26.46", "3"]]
    (alone,) = Study("s", {}, study.trials[:1]).summaries()
    assert alone.deviation is None


def test_the_picture_shows_every_method_and_is_the_same_again():
    layer = (Layer("a", (10,), 0, 1),)
    trials = []
    for method, density, right in (("dense", 1.0, 9), ("one", 0.5, 8), ("one", 0.1, 6), ("two", 0.5, 7)):
        own = cost(layer, {"a": np.arange(10) < 10 * density})
        trials += [Trial(method, density, seed, right + seed, 10, own) for seed in range(2)]
    study = Study("s", {}, tuple(trials))
    figure = plot.draw(study, "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "dense (control)"]
    assert plot.render(study, "title", "svg") == plot.render(study, "title", "svg")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: magnitude.Pruning(densities=(0.5, 0.5)), "different numbers"),
        (lambda: magnitude.Pruning(densities=(0.0,)), "above 0"),
        (lambda: magnitude.Pruning(seeds=()), "integers"),
        (lambda: lottery.Lottery(levels=2, controls=(3,)), "levels from 1 to 2"),
        (lambda: lottery.Lottery(rewind=5000), "a step from 0 to"),
        (lambda: edge_popup.Popup(laws=("cauchy",)), "unknown"),
        (lambda: edge_popup.Popup(densities=(1.0,)), "density 1"),
        (lambda: Training(steps=0), "steps >= 1"),
        (lambda: Training(steps=1, optimizer="lbfgs"), "expected adam or sgd"),
    ],
)
def test_settings_without_meaning_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# ---------------------------------------------------------------- data and commands


def test_images_are_read_in_every_form(tmp_path):
    images, labels = np.full((10, 4, 4), 255, np.uint8), np.arange(10, dtype=np.int64) % 3
    np.savez(tmp_path / "xy.npz", x=images, y=labels)
    one = load_data(str(tmp_path / "xy.npz"))
    assert (one.images.shape, one.test_images.shape, one.classes) == ((8, 4, 4, 1), (2, 4, 4, 1), 3)
    assert one.images.max() == 1
    assert sorted([*one.labels, *one.test_labels]) == sorted(labels)
    train = {"train_images": images, "train_labels": labels}
    np.savez(tmp_path / "split.npz", **train, test_images=images[:3] / 255.0, test_labels=labels[:3])
    two = load_data(str(tmp_path / "split.npz"))
    assert (len(two.images), len(two.test_images), two.test_images.max()) == (10, 3, 1)
    assert len(two.first(4).images) == 4
    assert two.digest != two.first(4).digest


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "expected arrays"),
        ({"x": np.zeros((4, 4)), "y": np.zeros(4, int)}, "expected finite numbers"),
        ({"x": np.full((4, 2, 2), np.nan), "y": np.zeros(4, int)}, "expected finite numbers"),
        ({"x": np.zeros((4, 2, 2)), "y": np.zeros(3, int)}, "expected integers"),
        ({"x": np.zeros((4, 2, 2)), "y": np.full(4, -1)}, "expected integers"),
    ],
)
def test_other_files_are_refused(arrays, message, tmp_path, cli):
    np.savez(tmp_path / "bad.npz", **arrays)
    done = cli("prune", tmp_path / "bad.npz", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert message in done.message


def test_images_too_small_for_the_network_are_refused(tmp_path, cli):
    np.savez(tmp_path / "small.npz", x=np.zeros((300, 4, 4)), y=np.arange(300) % 3)
    done = cli("edge-popup", tmp_path / "small.npz", tmp_path / "out")
    assert done.code == 2
    assert "too small" in done.message
    assert not list(tmp_path.glob("out*"))


def test_commands_print_and_write(tmp_path, cli, data, tiny_networks):
    file = tmp_path / "data.npz"
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(file, **dict(zip(names, dataclasses.astuple(data), strict=True)))
    done = cli("edge-popup", file, tmp_path / "out", "--steps", 2, "--seeds", 1, "--samples", 20, "--density", 0.5)
    assert done.code == 2
    assert "choose a smaller batch" in done.message
    np.savez(file, **{name: np.repeat(array, 4, 0) for name, array in np.load(file).items()})
    done = cli("lottery", file, tmp_path / "out", "--steps", 2, "--seeds", 1, "--levels", 2, "--json", "--force")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["study"] == "lottery tickets"
    done = cli("prune", file, tmp_path / "pruned", "--steps", 2, "--tuning-steps", 1, "--seeds", 2, "--density", 0.5)
    assert (done.code, done.err) == (0, "")
    assert "layerwise magnitude" in done.out
    assert {path.name for path in (tmp_path / "pruned").iterdir()} == {
        *("results.json", "results.csv", "results.md", "plot.svg", "plot.png", "settings.json", "networks")
    }
    again = cli("prune", file, tmp_path / "pruned", "--steps", 2)
    assert again.code == 2
    assert "--force" in again.message
