"""Found tickets: the same mask, network and id after a round trip; every lie in their files is named."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import slth_compile as slth
from slth_compile.baselines import edge_popup
from slth_compile.baselines.data import Data
from slth_compile.baselines.networks import LeNet300100
from slth_compile.baselines.train import CONSTANT, Training
from slth_compile.checker import FoundVerdict
from slth_compile.checker.found import decode_bits
from slth_compile.checker.safetensors import Tensor
from slth_compile.cli.baselines import _tickets
from slth_compile.errors import InputError, SlthError, VerificationError
from slth_compile.found import Found
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Convolution, Dense, Input, Relu, Reshape
from slth_compile.source.initialisation import KAIMING_NORMAL, LAWS, SIGNED_CONSTANT, random_kernel
from slth_compile.ticket.found import FORMAT, STATEMENT, decode_mask, encode_mask, found_ticket

SHAPES = ((3, 3, 2, 4), (16, 3))
ID = "ad3fa4dc"


def graph(bias: np.ndarray | None = None) -> Graph:
    kernels = [np.zeros(shape, np.float32) for shape in SHAPES]
    layer = Convolution(inputs=(0,), kernel=kernels[0], stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1))
    nodes = (Input(shape=(4, 4, 2)), layer, Relu(inputs=(1,)), Reshape(inputs=(2,), shape=(16,)))
    return Graph((*nodes, Dense(inputs=(3,), kernel=kernels[1], bias=bias)), (4,))


def masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random(shape) < share for shape, share in zip(SHAPES, (0.5, 0.2), strict=True)]


def make(law: str = SIGNED_CONSTANT) -> Found:
    return Found(found_ticket(graph(), 2**63 + 7, law, masks()), {"accuracy": 1.0})


# ---------------------------------------------------------------- masks


@given(st.data())
def test_a_mask_has_one_code_and_the_checker_reads_it_too(data):
    size = data.draw(st.integers(1, 300))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    coded = encode_mask(mask)
    assert np.array_equal(decode_mask(coded, (size,)), mask)
    assert np.array_equal(decode_bits(Tensor("U8", coded.shape, coded), size, "mask"), mask)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_masks_of_several_lanes_cost_their_entropy(share):
    size = 3 * (1 << 16) + 5
    mask = np.random.default_rng(1).random(size) < share
    coded = encode_mask(mask)
    assert np.array_equal(decode_mask(coded, (size,)), mask)
    assert np.array_equal(decode_bits(Tensor("U8", coded.shape, coded), size, "mask"), mask)
    p = mask.mean()
    entropy = 0.0 if p in (0, 1) else -size * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert entropy <= 8 * coded.size <= 1.002 * entropy + 3 * 200


@given(st.integers(0, 40), st.integers(1, 255))
def test_no_other_bytes_are_a_code_of_the_same_size_unseen(at, by):
    """A changed byte is refused by both readers, or both read the same other mask, which then has that code."""
    mask = masks()[0]
    coded = encode_mask(mask).copy()
    coded[at % coded.size] ^= by
    try:
        own = decode_mask(coded, mask.shape)
    except InputError:
        own = None
    try:
        other = decode_bits(Tensor("U8", coded.shape, coded), mask.size, "mask")
    except VerificationError:
        other = None
    assert (own is None) == (other is None)
    if own is not None and other is not None:
        assert np.array_equal(own.reshape(-1), other)
        assert np.array_equal(encode_mask(own), coded)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("law", LAWS)
def test_a_found_ticket_comes_back(law, tmp_path):
    made = make(law)
    ticket_id = made.save(tmp_path / "t")
    again = slth.load(tmp_path / "t")
    assert isinstance(again, Found)
    assert again.ticket_id == ticket_id == hashlib.sha256((tmp_path / "t/manifest.json").read_bytes()).hexdigest()
    assert all(np.array_equal(a, b) for a, b in zip(again.ticket.masks, masks(), strict=True))
    for layer, (position, mask) in enumerate(zip(again.graph.layers, masks(), strict=True)):
        kernel = random_kernel(2**63 + 7, layer, mask.shape, law)
        assert np.array_equal(again.graph.nodes[position].kernel, np.where(mask, kernel, 0))
    x = np.random.default_rng(2).normal(size=(5, 4, 4, 2)).astype(np.float32)
    assert np.array_equal(again(x), evaluate(made.graph, x)[0])
    again.save(tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "t")


def test_the_format_has_not_changed():
    """Signed constants are exact everywhere, entries too: the id is one number."""
    assert make().ticket_id[:8] == ID


def test_the_verdict_says_no_more_than_is_so(tmp_path):
    ticket_id = make(KAIMING_NORMAL).save(tmp_path / "t")
    verdict = slth.verify(tmp_path / "t", expected_id=ticket_id)
    assert isinstance(verdict, FoundVerdict)
    kept = sum(int(mask.sum()) for mask in masks())
    assert (verdict.kept, verdict.weights, verdict.laws) == (kept, 72 + 48, (KAIMING_NORMAL,) * 2)
    assert verdict.to_text().endswith(f"verified: {STATEMENT}")
    assert "accuracy" not in json.dumps(verdict.to_json())
    with pytest.raises(VerificationError, match="ticket id"):
        slth.verify(tmp_path / "t", expected_id="0" * 64)
    with pytest.raises(InputError, match="no domain"):
        slth.verify(tmp_path / "t", domain_data="x.npz")


def test_what_has_other_parameters_is_no_found_ticket():
    with pytest.raises(InputError, match=r"no kernels \(4\.bias\)"):
        found_ticket(graph(np.zeros(3, np.float32)), 0, SIGNED_CONSTANT, masks())
    with pytest.raises(InputError, match="expected bool"):
        found_ticket(graph(), 0, SIGNED_CONSTANT, [mask.astype(np.uint8) for mask in masks()])
    with pytest.raises(InputError, match="law"):
        found_ticket(graph(), 0, "normal", masks())
    with pytest.raises(InputError, match="no report"):
        make().report("r.html")
    with pytest.raises(InputError, match="its own literal network"):
        make().export("net.onnx", literal=True)


def test_a_found_ticket_is_a_network_that_certify_takes(tmp_path):
    made = make()
    made.save(tmp_path / "t")
    fewer = [mask.copy() for mask in masks()]
    fewer[1][:8] = False
    other = Found(found_ticket(graph(), 2**63 + 7, SIGNED_CONSTANT, fewer))
    x = np.random.default_rng(3).random((3, 4, 4, 2)).astype(np.float32)
    found = slth.certify(tmp_path / "t", other, slth.Points(x), attack=False)
    seen = float(np.abs(np.asarray(made(x)) - np.asarray(other(x))).max())
    assert seen > 0.1
    assert seen * (1 - 1e-6) <= found.rungs[0].bound <= seen * (1 + 1e-5)


# ---------------------------------------------------------------- studies


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_study_writes_tickets_that_reach_what_it_says(everything, tmp_path, monkeypatch):
    monkeypatch.setattr(edge_popup.Popup, "model", lambda popup, classes: LeNet300100((6,), classes, bias=False))
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 3
    images = generator.random((60, 4, 4, 1)).astype(np.float32)
    images[np.arange(60), labels] += 0.7
    data = Data(images[:48], labels[:48], images[48:], labels[48:])
    short = Training(steps=4, batch=8, schedule=CONSTANT)
    popup = edge_popup.Popup(
        densities=(0.5,), seeds=(5,), training=short, sampling=short, control=short, bernoulli=everything,
        laws=LAWS if everything else LAWS[:1],
    )  # fmt: skip
    study, records = edge_popup.search(popup, data, tmp_path / "out")
    files = _tickets(popup, data, study, records)
    names = {path.split("/")[1] for path in files}
    assert names == {f"{law}-0.5-5" for law in (*popup.laws, *["bernoulli"] * everything)}
    records.finish(files)
    for name in names:
        folder = tmp_path / "out/tickets" / name
        verdict, ticket = slth.verify(folder), slth.load(folder)
        right = int(np.sum(np.argmax(ticket(data.test_images), -1) == data.test_labels))
        assert right == ticket.stats["correct"]
        assert verdict.kept == (57 if name[0] != "b" else ticket.ticket.kept)


# ---------------------------------------------------------------- hostile files


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def signed(folder: Path, manifest: dict, masks: dict[str, np.ndarray] | bytes, certificate) -> Path:
    """A directory whose digests are all redone."""
    raw = masks if isinstance(masks, bytes) else safetensors.numpy.save(masks)
    files = {"masks.safetensors": raw, "certificate.json": json.dumps(certificate).encode(), "stats.json": b"{}"}
    if isinstance(manifest.get("files"), dict):
        for name in manifest["files"]:
            manifest["files"][name] = hashlib.sha256(files.get(name, b"")).hexdigest()
    files["manifest.json"] = json.dumps(manifest).encode()
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return write(folder, files | {"SHA256SUMS": "".join(lines).encode()})


def other_mask(change):
    def make_other(parts):
        mask = masks()[1].reshape(-1)
        change(mask)
        parts[1]["1"] = np.array(encode_mask(mask))

    return make_other


def move_one(mask):
    mask[np.flatnonzero(mask)[0]], mask[np.flatnonzero(~mask)[0]] = False, True


def drop_one(mask):
    mask[np.flatnonzero(mask)[0]] = False


def edit(*path_and_value):
    *path, key, value = path_and_value

    def change(parts):
        place = parts[0]
        for step in path:
            place = place[step]
        place[key] = value

    return change


def recode(change):
    def apply(parts):
        parts[1]["0"] = np.array(change(parts[1]["0"]), np.uint8)

    return apply


def describe(entry):
    def change(parts):
        parts[0]["graph"]["nodes"][4]["bias"] = entry

    return change


LIES = [
    ("a bit less", other_mask(drop_one), {"masks"}),
    ("another bit", other_mask(move_one), {"source"}),
    ("another seed", edit("seed", 1), {"source"}),
    ("no seed", edit("seed", None), {"source"}),
    ("a seed too large", edit("seed", 1 << 64), {"source"}),
    ("another law", edit("layers", 0, "law", "uniform"), {"source"}),
    ("one kept more", edit("layers", 0, "kept", 40), {"masks"}),
    ("a count that is none", edit("layers", 0, "kept", True), {"format"}),
    ("other weights", edit("layers", 1, "weights", 47), {"network"}),
    ("another fan-in", edit("layers", 0, "fan_in", 9), {"network"}),
    ("another digest", edit("layers", 0, "entries", "0" * 64), {"source"}),
    ("a layer less", lambda parts: parts[0]["layers"].pop(), {"format"}),
    ("a layer more", lambda parts: parts[0]["layers"].append(parts[0]["layers"][0]), {"format"}),
    ("layers exchanged", lambda parts: parts[0]["layers"].reverse(), {"network"}),
    ("a huge kernel", edit("graph", "nodes", 4, "kernel", "shape", [1 << 26, 3]), {"format"}),
    ("a kernel that does not fit", edit("graph", "nodes", 4, "kernel", "shape", [3, 16]), {"target"}),
    ("a kernel of another type", edit("graph", "nodes", 4, "kernel", "dtype", "float64"), {"target"}),
    ("a bias", describe({"dtype": "float32", "shape": [3]}), {"target"}),
    ("another stride", edit("graph", "nodes", 1, "stride", [2, 2]), {"target"}),
    ("an unknown operation", edit("graph", "nodes", 2, "op", "erf"), {"target"}),
    ("no nodes", edit("graph", "nodes", []), {"format", "target"}),
    ("two output names", edit("output_names", ["a", "b"]), {"format"}),
    ("a name that is none", edit("output_names", [1]), {"format"}),
    ("an unknown key", edit("eps", 1e-2), {"format"}),
    ("another version", edit("version", 2), {"version"}),
    ("a version that is none", edit("version", True), {"version"}),
    ("another generator", edit("generator", "threefry"), {"version"}),
    ("another file", edit("files", "target.safetensors", "0" * 64), {"format"}),
    ("a code without its end", recode(lambda raw: raw[:-4]), {"masks"}),
    ("a code without a byte", recode(lambda raw: raw[:-1]), {"masks"}),
    ("no code", recode(lambda raw: raw[:0]), {"masks"}),
    ("a word more", recode(lambda raw: [*raw, 0, 0, 0, 0]), {"masks"}),
    ("another probability", recode(lambda raw: [raw[0] ^ 1, *raw[1:]]), {"masks"}),
    ("an extra mask", lambda parts: parts[1].update({"2": parts[1]["0"]}), {"masks"}),
    ("no mask", lambda parts: parts[1].pop("0"), {"masks"}),
    ("masks exchanged", lambda parts: parts[1].update({"0": parts[1]["1"], "1": parts[1]["0"]}), {"masks"}),
    ("floats for a mask", lambda parts: parts[1].update({"0": np.zeros(4, np.float32)}), {"masks"}),
    ("a certificate about a target", lambda parts: parts[2].append({"bound": 1e-9}), {"statement"}),
    ("a certificate of more", lambda parts: parts[2][0].update(kept=120), {"statement"}),
    ("no certificate", lambda parts: parts[2].clear(), {"statement"}),
]


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found") / "t"
    make().save(folder)
    return folder


@pytest.mark.parametrize(("name", "change", "expected"), LIES, ids=[name for name, _, _ in LIES])
def test_signed_lies_are_named(name, change, expected, ticket, tmp_path):
    files = content(ticket)
    tensors = {key: np.array(a) for key, a in safetensors.numpy.load(files["masks.safetensors"]).items()}
    parts = (json.loads(files["manifest.json"]), tensors, json.loads(files["certificate.json"]))
    slth.verify(signed(tmp_path / "honest", copy.deepcopy(parts[0]), tensors, parts[2]))
    change(parts)
    folder = signed(tmp_path / "t", *parts)
    with pytest.raises(VerificationError) as caught:
        slth.verify(folder)
    assert caught.value.check in expected, caught.value
    with pytest.raises(SlthError):
        slth.load(folder)


def test_files_that_were_changed_are_refused(ticket, tmp_path):
    """A flipped bit or a lost end of any file, digests as they were; a file less, a file more, a link."""
    whole, generator = content(ticket), np.random.default_rng(4)
    number = 0
    for name, raw in whole.items():
        flipped = bytearray(raw)
        flipped[int(generator.integers(len(raw)))] ^= 1 << int(generator.integers(8))
        for changed in (bytes(flipped), raw[: len(raw) // 2], raw[:-1], b""):
            folder = write(tmp_path / str(number), whole | {name: changed})
            number += 1
            with pytest.raises((VerificationError, InputError)):
                slth.verify(folder)
            # `load` reads what it needs: no README, and of the list only what it reads.
            if name not in ("README.md", "SHA256SUMS"):
                with pytest.raises((VerificationError, InputError)):
                    slth.load(folder)
    for name in ("manifest.json", "masks.safetensors", "certificate.json", "SHA256SUMS"):
        folder = write(tmp_path / f"no-{name}", {key: raw for key, raw in whole.items() if key != name})
        with pytest.raises((VerificationError, InputError)):
            slth.verify(folder)
    with pytest.raises(VerificationError, match="unknown entry"):
        slth.verify(write(tmp_path / "more", whole | {"target.safetensors": b""}))


def test_stats_are_not_believed(ticket, tmp_path):
    """Any accuracy may stand there: the verdict is the same, and does not repeat it."""
    files = content(ticket) | {"stats.json": b'{"accuracy": 7.0}'}
    lines = [f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files) if n != "SHA256SUMS"]
    folder = write(tmp_path / "t", files | {"SHA256SUMS": "".join(lines).encode()})
    assert slth.verify(folder) == slth.verify(ticket)


def test_the_manifest_says_what_it_is(ticket):
    manifest = json.loads((ticket / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert [layer["fan_in"] for layer in manifest["layers"]] == [18, 16]


@pytest.mark.slow
def test_commands_take_found_tickets(ticket, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "slth_compile", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("verify", str(ticket)).stdout.endswith(f"verified: {STATEMENT}\n")
    assert run("verify", str(ticket), "--against", "x.npz", "--factory", "a:b").returncode == 2
    assert json.loads(run("inspect", str(ticket), "--json").stdout)["statement"] == STATEMENT
    for name in ("net.onnx", "net.stablehlo"):
        done = run("export", str(ticket), str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    assert run("export", str(ticket), str(tmp_path / "net.safetensors")).returncode == 2
    assert run("report", str(ticket)).returncode == 2
    checker = [sys.executable, "-m", "slth_compile.checker", str(ticket), "--json"]
    verdict = json.loads(subprocess.run(checker, capture_output=True, text=True, check=True).stdout)
    assert (verdict["verified"], verdict["kind"]) == (True, "found")
