"""Whole tickets with branched bounds: compiled, written, verified, and refused where they claim a little less."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import as_json, sha256

import slth_compile as slth
from slth_compile.checker import certificate, verify
from slth_compile.errors import VerificationError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def small() -> Graph:
    """4 -> 5 -> 5 -> 2 with a relu and a leaky relu, the latter an output too."""
    draw = functools.partial(_draw, np.random.default_rng(5))
    nodes = (
        n.Input(shape=(4,)),
        n.Dense(inputs=(0,), kernel=draw(4, 5), bias=draw(5)),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(5, 5), bias=draw(5)),
        n.LeakyRelu(inputs=(3,), slope=0.125),
        n.Dense(inputs=(4,), kernel=draw(5, 2)),
    )
    return Graph(nodes, (5, 4), ("", "hidden"))


def deep() -> Graph:
    """A signed convolution, max pool, residual add behind a leaky relu, dense layers."""
    draw = functools.partial(_draw, np.random.default_rng(5))
    fixed = {"stride": (1, 1), "dilation": (1, 1)}
    nodes = (
        n.Input(shape=(5, 5, 2)),
        n.Convolution(inputs=(0,), kernel=draw(2, 2, 2, 3), bias=draw(3), padding=((0, 0), (0, 0)), **fixed),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
        n.Convolution(inputs=(3,), kernel=draw(1, 1, 3, 3), bias=draw(3), padding=((0, 0), (0, 0)), **fixed),
        n.LeakyRelu(inputs=(4,), slope=0.125),
        n.Add(inputs=(3, 5)),
        n.Reshape(inputs=(6,), shape=(12,)),
        n.Dense(inputs=(7,), kernel=draw(12, 6), bias=draw(6)),
        n.Relu(inputs=(8,)),
        n.Dense(inputs=(9,), kernel=draw(6, 3)),
    )
    return Graph(nodes, (10, 6), ("logits", "map"))


NETWORKS = [small, pytest.param(deep, marks=pytest.mark.slow)]


class Ticket(NamedTuple):
    """What was compiled, and where it was saved."""

    compiled: slth.Compiled
    directory: Path


@pytest.fixture(scope="module", params=NETWORKS)
def ticket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ticket:
    graph = request.param()
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, *graph.input_shape)).astype(np.float32)
    regions = slth.Box(-1.0, 1.0, graph.input_shape), slth.Balls(x, 0.25)
    found = slth.compile(graph, 60.0, 0.05, domain=regions, splits=2, attack=False)
    directory = tmp_path_factory.mktemp("branched") / "ticket"
    found.save(directory)
    return Ticket(found, directory)


def test_a_compiled_ticket_is_verified(ticket: Ticket) -> None:
    verdict = verify(ticket.directory)
    assert "branched" in verdict.to_text()
    assert "by cases" in dict(verdict.checks)["witness"]
    for own, claim in zip(verdict.certificates, ticket.compiled.certificates, strict=True):
        assert own.method == claim.method == "branched"
        assert own.recomputed is not None and own.arithmetic == "real, float64" and own.float32 is not None
        assert own.recomputed <= claim.bound <= own.recomputed * (1 + 2.0**-28)
    quick = verify(ticket.directory, quick=True)
    assert all(entry.recomputed is None for entry in quick.certificates)


def test_a_claim_below_is_refused(ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the checker's own bound is, less a few parts in 10^9."""
    own, seen = certificate.backward_bounds, []

    def watched(*networks, **options):
        seen.append(own(*networks, **options))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(certificate, "backward_bounds", watched)
        verify(ticket.directory)
    found = [leaf.upper.reshape(-1) for leaf in seen[0]]
    for factor, accepted in ((1 + 2.0**-40, True), (1 - 2.0**-30, False)):
        directory = resigned(ticket.directory, tmp_path / str(accepted), [(leaf * factor).tolist() for leaf in found])
        if accepted:
            assert verify(directory).certificates[0].claimed == max(float(leaf.max()) for leaf in found) * factor
        else:
            with pytest.raises(VerificationError, match="the difference is bounded by") as caught:
                verify(directory)
            assert caught.value.check == "bound"


def resigned(ticket: Path, directory: Path, figures: list[list[float]]) -> Path:
    """The ticket with other figures of its first domain, every digest right."""
    contents = {path.name: path.read_bytes() for path in ticket.iterdir() if path.name != "SHA256SUMS"}
    claims, manifest = (json.loads(contents[name]) for name in ("certificate.json", "manifest.json"))
    claims[0].update(per_output=figures, bound=max(map(max, figures)))
    contents["certificate.json"] = as_json(claims)
    manifest["files"]["certificate.json"] = sha256(contents["certificate.json"])
    contents["manifest.json"] = as_json(manifest)
    directory.mkdir()
    for name, raw in contents.items():
        (directory / name).write_bytes(raw)
    sums = "".join(f"{sha256(raw)}  {name}\n" for name, raw in sorted(contents.items()))
    (directory / "SHA256SUMS").write_text(sums)
    return directory
