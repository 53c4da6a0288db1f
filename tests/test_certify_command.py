"""`slth-compile certify`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import factories
import numpy as np
import pytest
from helpers import OPTIONS, save_checkpoint
from test_report import Page

import slth_compile as slth


@pytest.fixture
def rounded(tmp_path: Path) -> Path:
    """The tiny model's weights, one of them moved by 1/16."""
    variables = factories.variables()
    kernel = np.array(variables["params"]["conv"]["kernel"])
    kernel[0, 0, 0, 0] += 1 / 16
    variables["params"]["conv"]["kernel"] = kernel
    return save_checkpoint(tmp_path / "rounded.safetensors", variables)


def test_the_ladder_and_its_sentences(shared, rounded, cli, monkeypatch, tmp_path):
    """Every domain with its bound and attack, then predictions and samples; the report in three forms."""
    monkeypatch.chdir(tmp_path)
    points = shared.points
    domains = ("--domain", f"points:{points}", "--domain", "box:-0.5,1")
    files = ("-o", "found.html", "-o", "found.md", "-o", "found.json")
    done = cli("certify", shared.checkpoint, rounded, *OPTIONS, *domains, "--data", points, *files)
    assert (done.code, done.err) == (0, "")
    for words in ("|tiny - rounded|", "6 points", "box [-0.5, 1]", "interval", "Certified", "Ratio", "Time"):
        assert words in done.out
    assert "Prediction provably unchanged on " in done.out
    assert "with 95 % confidence, P(|tiny - rounded| > " in done.out
    record = json.loads((tmp_path / "found.json").read_text())
    assert [entry["kind"] for entry in record["certified"]] == ["points", "box"]
    for entry in record["certified"]:
        assert 0 < entry["measured"]["attack"]["value"] <= entry["bound"]
        assert entry["statement"] in record["statements"]
        assert max(entry["per_output"][0]) == entry["bound"]
    assert [(layer["name"], layer["changed"], layer["largest_change"]) for layer in record["layers"]] == [
        ("conv", 1, pytest.approx(1 / 16)),
        ("last", 0, 0),
    ]
    assert record["statistical"]["samples"] == 6
    html, text = (tmp_path / "found.html").read_text(), (tmp_path / "found.md").read_text()
    page = Page(html)
    assert "://" not in html and not page.tags & {"script", "link", "img"}
    assert html.count('<svg class="plot"') == 4
    for section in ("certified", "predictions", "samples", "weights", "limits"):
        assert page.text[section]
    shown = "".join(page.text.values()).replace("\N{NO-BREAK SPACE}", " ")
    for figure in ("6 points", "real, float64", "100 steps, 4 restarts", record["headline"]):
        assert figure in shown
    assert record["headline"].split(" differs")[0] in text
    taken = cli("certify", shared.checkpoint, rounded, *OPTIONS, "-o", "found.md")
    assert (taken.code, "exists already" in taken.message) == (2, True)


def test_a_ticket_against_its_target(shared, cli):
    """The ticket's own certificates, with and without a shape on the command line; one JSON object."""
    done = cli("certify", shared.checkpoint, shared.ticket, "--factory-a", "factories:tiny", "--domain", "box:-0.5,1",
               "--no-attack", "--json")  # fmt: skip
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    found = json.loads(done.out)
    own = slth.load(shared.ticket).certificates[0]
    assert found["certified"][0]["bound"] == own.bound
    assert found["certified"][0]["per_output"] == own.to_json()["per_output"]
    assert found["certified"][0]["measured"]["attack"] is None


def test_what_cannot_be_compared(shared, rounded, cli, tmp_path):
    """One sentence and the right exit code; nothing written."""
    variables = factories.variables()
    variables["params"]["last"] = {"kernel": np.full((8, 3), 0.25, np.float32), "bias": np.zeros(3, np.float32)}
    three = save_checkpoint(tmp_path / "three.safetensors", variables)
    quick = ("--no-attack", "--domain", "box:0,1", "-o", tmp_path / "out.html")
    other = cli("certify", rounded, three, *OPTIONS, "--model-kwargs-b", '{"outputs": 3}', *quick)
    assert other.code == 4
    assert other.message.startswith("the networks differ at node ")
    assert "'last': dense with kernel of shape (8, 2) in the first" in other.message
    assert cli("certify", shared.ticket, shared.ticket, *quick).code == 4
    assert cli("certify", rounded, tmp_path / "missing.msgpack", *OPTIONS, *quick).code == 2
    assert "--factory" in cli("certify", rounded, rounded, *quick).message
    assert cli("certify", rounded, rounded, *OPTIONS, *quick[:3], "balls:no").code == 2
    assert cli("certify", rounded, rounded, *OPTIONS, *quick[:4], "-o", tmp_path / "out.txt").code == 2
    assert cli("certify", rounded, rounded, *OPTIONS, *quick, "--data", shared.folder / "no.npz").code == 2
    assert cli("certify", rounded).code == 2
    assert not (tmp_path / "out.html").exists()
