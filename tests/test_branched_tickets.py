"""Tickets with branched certificates: compiled, saved, read back, damaged; and the same from the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import safetensors.numpy
from helpers import as_json, copy_ticket, sha256

import slth_compile as slth
from slth_compile.compiled import Compiled
from slth_compile.errors import InputError, VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.report.schema import certificate_schema
from slth_compile.ticket import format as ticket_format

WITNESS = "witness.safetensors"


def network() -> Graph:
    """Three layers of six with relus."""
    rng = np.random.default_rng(0)
    nodes: list[n.Node] = [n.Input(shape=(6,))]
    for before, after in ((6, 6),) * 3:
        kernel = rng.normal(size=(before, after)).astype(np.float32)
        nodes.append(n.Dense(inputs=(len(nodes) - 1,), kernel=kernel, bias=rng.normal(size=after).astype(np.float32)))
        nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
    return Graph(tuple(nodes[:-1]), (len(nodes) - 2,))


@pytest.fixture(scope="module")
def branched(tmp_path_factory) -> tuple[Compiled, Path]:
    x = np.random.default_rng(1).uniform(0.3, 0.7, (2, 6)).astype(np.float32)
    out = tmp_path_factory.mktemp("branched") / "ticket"
    domains = (slth.Points(x), slth.Balls(x, 0.2))
    return slth.compile(network(), 0.1, domain=domains, splits=2, window=8, attack=False, out=out), out


def test_a_ticket_with_splits_has_a_smaller_bound_and_its_witness(branched) -> None:
    ticket, out = branched
    plain = ticket.certify(ticket.domains[1])
    points, balls = ticket.certificates
    assert (points.method, points.witness, balls.method, balls.splits) == ("points", None, "branched", 2)
    assert plain.method == "backward" and balls.bound < plain.bound
    # float32 goes without.
    assert balls.float32 == plain.float32
    again = ticket.certify(ticket.domains[1], splits=2)
    assert again.bound == balls.bound
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["version"] == 5 and manifest["construction"] == "da-cunha"
    assert manifest["source"] == {"kind": "generated", "bits": 24, "signs": False}
    assert manifest["files"][WITNESS] == sha256((out / WITNESS).read_bytes())
    arrays = safetensors.numpy.load_file(out / WITNESS)
    assert sorted(arrays) == ["1/regions", "1/rows", "1/splits"]
    assert arrays["1/regions"].shape == (3,) and arrays["1/splits"].shape == (len(arrays["1/rows"]), 2)
    jsonschema.validate(json.loads((out / "certificate.json").read_bytes()), certificate_schema())


def test_it_is_read_back_and_saved_as_it_was(branched, tmp_path: Path) -> None:
    ticket, out = branched
    loaded = slth.load(out)
    assert loaded.save(tmp_path / "again") == ticket.ticket_id
    for path in out.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    for found, own in zip(loaded.certificates, ticket.certificates, strict=True):
        assert found.to_json() == own.to_json()
        assert (found.witness is None) == (own.witness is None)
    found, own = loaded.certificates[1].witness, ticket.certificates[1].witness
    for field in dataclasses.fields(own):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(own, field.name))
    assert "branched, 2 splits a bound" in (out / "report.md").read_text()


def test_a_ticket_without_branched_certificates_is_of_the_old_version(branched) -> None:
    ticket, _ = branched
    certificates = [c.to_json() for c in ticket.certificates]
    files = ticket_format.stated_files(ticket.graph, ticket.ticket, ticket.domains, certificates)
    assert WITNESS not in files and json.loads(files["manifest.json"])["version"] == 2


def signed(directory: Path, change) -> Path:
    """The ticket after a change to its witness's bytes (None removes it) and manifest, every digest made right."""
    manifest = json.loads((directory / "manifest.json").read_bytes())
    raw = change((directory / WITNESS).read_bytes(), manifest)
    (directory / WITNESS).unlink()
    if raw is not None:
        (directory / WITNESS).write_bytes(raw)
    (directory / "manifest.json").write_bytes(as_json(manifest))
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = "".join(f"{sha256((directory / name).read_bytes())}  {name}\n" for name in names)
    (directory / "SHA256SUMS").write_text(sums)
    return directory


def _gone(raw: bytes, manifest: dict) -> None:
    del manifest["files"][WITNESS]


def _older(raw: bytes, manifest: dict) -> bytes:
    manifest["version"] = 4
    return raw


def _unstated(raw: bytes, manifest: dict) -> bytes:
    del manifest["files"][WITNESS]
    return raw


def _other(raw: bytes, manifest: dict) -> bytes:
    return safetensors.numpy.save({"1/rows": np.zeros(3, np.int64)})


def _of_another_domain(raw: bytes, manifest: dict) -> bytes:
    arrays = {f"0{name[1:]}": array for name, array in safetensors.numpy.load(raw).items()}
    manifest["files"][WITNESS] = sha256(raw := safetensors.numpy.save(arrays))
    return raw


def _of_other_numbers(raw: bytes, manifest: dict) -> bytes:
    arrays = safetensors.numpy.load(raw)
    arrays["1/splits"] = arrays["1/splits"].astype(np.int64)
    manifest["files"][WITNESS] = sha256(raw := safetensors.numpy.save(arrays))
    return raw


def _out_of_order(raw: bytes, manifest: dict) -> bytes:
    arrays = safetensors.numpy.load(raw)
    arrays["1/regions"] = arrays["1/regions"][::-1].copy()
    manifest["files"][WITNESS] = sha256(raw := safetensors.numpy.save(arrays))
    return raw


@pytest.mark.parametrize(
    "change", [_gone, _older, _unstated, _other, _of_another_domain, _of_other_numbers, _out_of_order]
)
def test_a_witness_that_is_not_as_stated_is_refused(change, branched, tmp_path: Path) -> None:
    directory = copy_ticket(branched[1], tmp_path / "t")
    with pytest.raises(VerificationError):
        slth.load(signed(directory, change))


def test_one_byte_of_the_witness_is_seen(branched, tmp_path: Path) -> None:
    directory = copy_ticket(branched[1], tmp_path / "t")
    raw = bytearray((directory / WITNESS).read_bytes())
    raw[-1] ^= 1
    (directory / WITNESS).write_bytes(raw)
    with pytest.raises(VerificationError, match="witness"):
        slth.load(directory)


def test_the_same_for_two_networks(branched) -> None:
    f = network()
    kernels = {i: f.nodes[i].kernel * np.float32(1 + 1e-3) for i in f.layers}
    nodes = tuple(dataclasses.replace(v, kernel=kernels[i]) if i in kernels else v for i, v in enumerate(f.nodes))
    g = dataclasses.replace(f, nodes=nodes)
    domain = branched[0].domains[1]
    plain, near = (slth.certify(f, g, domain, splits=k, attack=False) for k in (0, 2))
    assert near.bound < plain.bound and near.rungs[0].splits == 2 and plain.rungs[0].splits is None
    entry = near.to_json()["certified"][0]
    assert (entry["method"], entry["splits"]) == ("branched", 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"splits": 13}, "0 to 12"), ({"seconds": -1.0}, "positive"), ({"splits": 1, "effort": "quick"}, "quick")],
)
def test_wrong_numbers_are_refused_at_once(options, said, branched) -> None:
    f = network()
    with pytest.raises(InputError, match=said):
        slth.compile(f, 0.1, **options)
    with pytest.raises(InputError, match=said):
        slth.certify(f, f, **options)


@pytest.mark.parametrize("option", [("--splits", "13"), ("--seconds", "0"), ("--splits", "1.5")])
def test_the_command_line_refuses_them_too(option, shared, cli, tmp_path: Path) -> None:
    done = cli("compile", *shared.arguments, tmp_path / "o", *option)
    assert done.code == 2 and option[0].strip("-") in done.message
    assert not (tmp_path / "o").exists()
