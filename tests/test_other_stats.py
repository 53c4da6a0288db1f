"""`stats.json` of other versions: what is not known is left out, what is missing is said in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import copy_ticket, sha256
from test_format import FILES

import slth_compile as slth


def with_stats(ticket: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The ticket with other stats, its sums right."""
    directory = copy_ticket(ticket, out)
    stats = json.loads((directory / "stats.json").read_bytes())
    # Attacks as they are written where any were made, and labelled data.
    stats["attacks"] = [{"value": 0.5, "steps": 3, "restarts": 2, "inputs": 7} for _ in stats["attacks"]]
    stats["evaluation"] = {"metric": "top-1 accuracy", "samples": 2, "target": 1.0, "ticket": 0.5, "literal": None}
    change(stats)
    (directory / "stats.json").write_text(json.dumps(stats))
    names = [file for file in FILES if file != "SHA256SUMS"]
    (directory / "SHA256SUMS").write_text("".join(f"{sha256((directory / n).read_bytes())}  {n}\n" for n in names))
    return directory


def newer(stats: dict[str, Any]) -> None:
    stats["temperature"] = 21.5
    stats["attacks"][0]["climbs"] = 2
    stats["evaluation"]["f1"] = 0.75


def test_what_is_not_known_is_left_out(shared, cli, tmp_path: Path) -> None:
    plain = with_stats(shared.ticket, tmp_path / "plain", lambda stats: None)
    other = with_stats(shared.ticket, tmp_path / "other", newer)
    assert slth.load(other).measured == slth.load(plain).measured
    for command in ("verify", "inspect"):
        done = cli(command, other)
        assert (done.code, done.err) == (0, "")
    for directory in (plain, other):
        done = cli("report", directory, "-o", directory.with_suffix(".md"))
        assert (done.code, done.err) == (0, "")
    assert other.with_suffix(".md").read_text() == plain.with_suffix(".md").read_text()


def lacking(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(stats: dict[str, Any]) -> None:
        for key in path[:-1]:
            stats = stats[key]
        del stats[path[-1]]

    return change


@pytest.mark.parametrize(
    "path", [("platform",), ("promise",), ("names",), ("attacks", 0, "steps"), ("evaluation", "target")]
)
def test_what_is_missing_is_said(path, shared, cli, tmp_path: Path) -> None:
    other = with_stats(shared.ticket, tmp_path / "other", lacking(*path))
    done = cli("report", other, "-o", tmp_path / "r.md")
    assert done.code == 3 and not (tmp_path / "r.md").exists()
    assert "\n" not in done.message and "stats.json: " in done.message and f"lacks '{path[-1]}'" in done.message
    assert cli("verify", other).code == 0


def test_times_of_bounds_may_be_missing(shared, tmp_path: Path) -> None:
    other = with_stats(shared.ticket, tmp_path / "other", lacking("bound_seconds"))
    assert slth.load(other).measured.bound_seconds == ()
