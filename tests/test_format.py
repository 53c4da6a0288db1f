"""The ticket directory: written the same every time, read back as it was, refused by name where it is hostile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import factories
import jsonschema
import numpy as np
import pytest
from helpers import as_json, sha256, take_apart

import slth_compile as slth
from slth_compile.checker import verify
from slth_compile.errors import InputError, VerificationError
from slth_compile.report.schema import certificate_schema
from slth_compile.ticket import format as ticket_format

FILES = [
    "README.md", "SHA256SUMS", "certificate.json", "domain.safetensors", "manifest.json", "masks.safetensors",
    "report.html", "report.md", "stats.json", "target.safetensors",
]  # fmt: skip
STATED = [name for name in FILES if name.endswith(".safetensors")] + ["certificate.json", "manifest.json"]


@pytest.fixture(scope="module")
def loaded(shared):
    return slth.load(shared.ticket)


# ---------------------------------------------------------------- there and back


def test_files(shared):
    """Exactly the files of the format."""
    assert sorted(path.name for path in shared.ticket.iterdir()) == FILES


def test_two_compiles_write_the_same_bytes(shared, again):
    """In processes of their own: everything stated is byte-identical."""
    for name in STATED:
        assert (shared.ticket / name).read_bytes() == (again.ticket / name).read_bytes()


def test_load_and_save(shared, loaded, tmp_path):
    """What is loaded is saved as it was, every file of it, and computes the same."""
    assert loaded.ticket_id == verify(shared.ticket).ticket_id
    assert loaded.save(tmp_path / "out") == loaded.ticket_id
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (shared.ticket / name).read_bytes(), name
    again = slth.load(tmp_path / "out")
    x = np.load(shared.points)["x"]
    np.testing.assert_array_equal(loaded(x), again(x))
    np.testing.assert_allclose(loaded(x), loaded.network(x), atol=1e-4)
    assert [c.to_json() for c in again.certificates] == json.loads((shared.ticket / "certificate.json").read_bytes())
    assert (again.ticket.seed, again.layout) == (loaded.ticket.seed, loaded.layout)


def test_outputs_stay_within_the_certificate(shared, loaded):
    """On the certified points the loaded ticket is as near to the model as it says."""
    x = np.load(shared.points)["x"]
    model = factories.tiny().bind(factories.variables())
    difference = float(np.abs(np.asarray(loaded(x)) - np.asarray(model(x))).max())
    points = loaded.certificates[1]
    assert points.lower - 1e-5 <= difference <= points.bound + 1e-5
    assert points.bound <= loaded.certificate.bound <= loaded.layout.eps


def test_save_refuses_what_is_there(loaded, tmp_path):
    """A directory in the way is replaced only on request; nothing is left beside it."""
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        loaded.save(tmp_path / "out")
    with pytest.raises(InputError, match="not a directory"):
        loaded.save(tmp_path / "no" / "where")
    loaded.save(tmp_path / "out", force=True)
    assert verify(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_force_replaces_tickets_only(loaded, tmp_path, name):
    """Somebody's photographs are not a ticket, whatever the flags."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "photograph.jpg").write_bytes(b"dear")
    with pytest.raises(InputError, match="no ticket directory"):
        loaded.save(tmp_path / "out", force=True)
    assert (tmp_path / name / "photograph.jpg").read_bytes() == b"dear"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
def test_sums_are_those_of_coreutils(shared):
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=shared.ticket, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK\n") == len(FILES) - 1


def test_certificates_follow_the_published_schema(shared):
    entries = json.loads((shared.ticket / "certificate.json").read_bytes())
    validator = jsonschema.Draft202012Validator(certificate_schema())
    validator.validate(entries)
    for change in ({"bound": -1.0}, {"kind": "ball"}, {"extra": 1}, {"per_output": []}, {"bound": "0.1"}):
        assert list(validator.iter_errors([entries[0] | change])), change


def test_manifest(shared):
    """Canonical JSON; the id is its digest; every stated file is in it."""
    raw = (shared.ticket / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert raw == as_json(manifest)
    assert verify(shared.ticket).ticket_id == sha256(raw) == ticket_format.ticket_id(shared.ticket)
    assert sorted(manifest["files"]) == sorted(set(STATED) - {"manifest.json"})
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((shared.ticket / name).read_bytes()).hexdigest() == digest


# ---------------------------------------------------------------- unknown and hostile


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 1), ("generator", "threefry2x32-20-v9"), ("format", "slth-boat")],
)
def test_the_unknown_is_refused_by_name(field, value, shared, tmp_path):
    """By the checker too; of another format it says what was expected."""
    parts = take_apart(shared.ticket)
    parts.manifest[field] = value
    parts.write(tmp_path)
    for read in (verify, slth.load):
        with pytest.raises(VerificationError, match="slth-ticket" if field == "format" else str(value)):
            read(tmp_path)


def layout(**tensors: object) -> bytes:
    """A safetensors file with a header and 8 bytes of data."""
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


def one(**fields: object) -> bytes:
    return layout(a={"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} | fields)


def raw(header: bytes, data: bytes = bytes(8), length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


U8 = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "header beyond the file": raw(b"{}", length=1000),
    "header of 2^63 bytes": raw(b"{}", length=1 << 63),
    "header of 2^64-1 bytes": raw(b"{}", length=(1 << 64) - 1),
    "header above 100 MB": raw(b"{}", length=100_000_001),
    "header that is a list": raw(b"[]"),
    "header that is a number": raw(b"1"),
    "header that is null": raw(b"null"),
    "header that is no JSON": raw(b"{'a': 1}"),
    "header that is no UTF-8": raw(b'{"\xff": 1}'),
    "header of many brackets": raw(b"[" * 100_000),
    "header with NaN": raw(b'{"a": NaN}'),
    "duplicate names": raw(b'{"a": %b, "a": %b}' % ((json.dumps(U8).encode(),) * 2), bytes(4)),
    "duplicate fields": raw(b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}'),
    "no tensors and data": raw(b"{}"),
    "entry that is a list": layout(a=[]),
    "entry that is null": layout(a=None),
    "no dtype": layout(a={"shape": [8], "data_offsets": [0, 8]}),
    "unknown field": one(pickle="cos\nsystem"),
    "dtype unknown": one(dtype="OBJ"),
    "dtype a number": one(dtype=8),
    "dtype of another size": one(dtype="F32"),
    "dtype of another package": one(dtype="I64", shape=[1]),
    "negative size": one(shape=[-8]),
    "sizes that cancel": one(shape=[-1, -8]),
    "size as text": one(shape=["8"]),
    "size as a float": one(shape=[8.0]),
    "size true": one(shape=[True, 8]),
    "size that overflows": one(shape=[1 << 62, 4]),
    "size of hundreds of digits": one(shape=[10**400]),
    "many axes": one(shape=[8] + [1] * 64),
    "shape a number": one(shape=8),
    "offsets negative": one(data_offsets=[-8, 0]),
    "offsets beyond the file": one(data_offsets=[8, 16]),
    "offsets reversed": one(data_offsets=[8, 0]),
    "offsets one": one(data_offsets=[8]),
    "offsets as text": one(data_offsets=["0", "8"]),
    "offsets that leave bytes": one(shape=[4], data_offsets=[0, 4]),
    "offsets with a gap": layout(a=U8, b={"dtype": "U8", "shape": [3], "data_offsets": [5, 8]}),
    "offsets that overlap": layout(a=U8, b={"dtype": "U8", "shape": [6], "data_offsets": [2, 8]}),
    "offsets of two the same": layout(a=U8, b=U8),
    "metadata a list": layout(__metadata__=[], a={"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}),
    "metadata of numbers": layout(__metadata__={"a": 1}, a={"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}),
    "a pickle": b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a zip file": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_are_refused(name, shared, tmp_path):
    """In each of the three places, with every digest right: refused by the checker and by `load`, nothing executed."""
    parts = take_apart(shared.ticket)
    good = {f"{part}.safetensors": (shared.ticket / f"{part}.safetensors").read_bytes() for part in parts.tensors}
    for file in good:
        directory = parts.write_files(tmp_path / file, good | {file: HOSTILE[name]})
        with pytest.raises(VerificationError):
            verify(directory)
        with pytest.raises(VerificationError):
            slth.load(directory)


def test_there_are_thirty_hostile_files():
    assert len(HOSTILE) >= 30


HOSTILE_JSON = [
    b"", b"{", b"null", b"[]", b"{}", b"1", b'"x"', b"NaN", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0",
    b'{"format": "slth-ticket"}', b"[[[]]]", b"[null]", b"[1, 2]",
]  # fmt: skip


@pytest.mark.parametrize("name", ["manifest.json", "certificate.json", "stats.json", "SHA256SUMS"])
def test_hostile_json_is_refused(name, shared, tmp_path):
    """Every digest that there is stays right."""
    for i, content in enumerate(HOSTILE_JSON):
        directory = take_apart(shared.ticket).write(tmp_path / str(i))
        (directory / name).write_bytes(content)
        if name == "certificate.json":
            manifest = json.loads((directory / "manifest.json").read_bytes())
            manifest["files"][name] = sha256(content)
            (directory / "manifest.json").write_bytes(as_json(manifest))
        if name != "SHA256SUMS":
            names = [file for file in FILES if file != "SHA256SUMS"]
            sums = "".join(f"{sha256((directory / file).read_bytes())}  {file}\n" for file in names)
            (directory / "SHA256SUMS").write_text(sums)
        with pytest.raises(VerificationError):
            slth.load(directory)
        if name == "stats.json":  # informational: nothing of the statement rests on it
            assert verify(directory)
        else:
            with pytest.raises(VerificationError):
                verify(directory)


# ---------------------------------------------------------------- domains too large to store


def test_a_large_domain_is_named_by_its_digest(shared, tmp_path, monkeypatch, cli):
    """Not stored above the limit: `verify` asks for the inputs and takes no others; everything else still works."""
    monkeypatch.setattr(ticket_format, "LARGEST_STORED_DOMAIN", 160)
    compiled = dataclasses.replace(slth.load(shared.ticket), stated=None)  # as if just compiled
    out = tmp_path / "out"
    ticket_id = compiled.save(out)
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert [entry["stored"] for entry in manifest["domains"]] == [True, False]
    assert ticket_id != verify(shared.ticket).ticket_id
    with pytest.raises(VerificationError, match="--domain-data"):
        verify(out)
    assert verify(out, domain_data=shared.points).ticket_id == ticket_id
    assert cli("verify", out).code == 3
    assert "verified" in cli("verify", out, "--domain-data", shared.points).out
    np.savez(tmp_path / "other.npz", x=np.load(shared.points)["x"] + 1)
    with pytest.raises(VerificationError, match="domain 1"):
        verify(out, domain_data=tmp_path / "other.npz")
    with pytest.raises(InputError):
        verify(out, domain_data=tmp_path / "missing.npz")
    again = slth.load(out)
    assert again.ticket_id == ticket_id
    assert again.domains[1] is None
    assert again.save(tmp_path / "copy") == ticket_id
    assert cli("inspect", out, "--json").code == 0
    assert cli("report", out, "-o", tmp_path / "report.html").code == 0


# ---------------------------------------------------------------- nothing but data


def test_loading_never_unpickles(shared, tmp_path, monkeypatch):
    """Neither loading nor verifying calls pickle, on good files and hostile ones."""
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    verify(shared.ticket)
    slth.load(shared.ticket)
    parts = take_apart(shared.ticket)
    files = {f"{part}.safetensors": HOSTILE["a pickle"] for part in parts.tensors}
    parts.write_files(tmp_path / "out", files)
    with pytest.raises(VerificationError):
        slth.load(tmp_path / "out")
    assert "posix.system" not in sys.modules
