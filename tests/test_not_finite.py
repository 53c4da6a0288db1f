"""NaN and infinity in files of inputs, and behind them: one sentence and exit code 2, whichever command reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from counts import examples
from helpers import OPTIONS, PLAN
from hypothesis import HealthCheck, given, settings

WRONG = st.sampled_from([np.nan, np.inf, -np.inf])
EVERY = settings(
    max_examples=examples(80, 6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(cli, shared, arguments: Sequence[str], words: str) -> None:
    """By `compile` and by `certify`, before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        once = [shared.checkpoint, *OPTIONS, *PLAN[:4], *arguments, out]
        twice = [shared.checkpoint, shared.checkpoint, *OPTIONS, *arguments, "-o", out.with_suffix(".md")]
        for command, options in (("compile", once), ("certify", twice)):
            done = cli(command, *options)
            assert (done.code, done.out) == (2, ""), done.err
            assert "\n" not in done.message and words in done.message, done.message
        assert list(Path(folder).iterdir()) == []


@given(
    st.sampled_from(["points", "balls"]),
    st.sampled_from([".npy", ".npz"]),
    st.sampled_from([np.float16, np.float32, np.float64, ">f8"]),
    st.lists(st.tuples(st.integers(0, 17), WRONG), min_size=1, max_size=3),
)
@EVERY
def test_files_of_inputs(shared, cli, kind: str, suffix: str, dtype, wrong: list[tuple[int, float]]) -> None:
    x = np.full((2, 3, 3, 1), 0.5).astype(dtype)
    for place, value in wrong:
        x.reshape(-1)[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x" + suffix)
        np.savez(path, x=x) if suffix == ".npz" else np.save(path, x)
        domain = f"{kind}:{path}" + (",0.125" if kind == "balls" else "")
        refused(cli, shared, ["--domain", domain], "samples hold NaN or infinity")


@given(st.integers(0, 2), st.sampled_from(["nan", "NaN", "inf", "-inf", "1e999"]))
@EVERY
def test_numbers_of_balls(shared, cli, place: int, wrong: str) -> None:
    """A clip may be infinite, where that leaves a ball."""
    numbers = ["0.125", "-1", "1"]
    numbers[place] = wrong
    fine = (place, wrong) in [(1, "-inf"), (2, "inf"), (2, "1e999")]
    if fine:
        numbers[0] = "-1"
    said = (
        "a bound is NaN"
        if "n" in wrong.lower().replace("inf", "")
        else "empty"
        if place and not fine
        else "radius must"
    )
    refused(cli, shared, ["--domain", f"balls:{shared.points},{','.join(numbers)}"], said)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("part", ["x", "y"])
def test_labelled_inputs(shared, cli, part: str, value: float, tmp_path: Path) -> None:
    """1e39 is beyond float32, in which quality is measured; as a label it is a number."""
    arrays = {"x": np.zeros((2, 3, 3, 1)), "y": np.zeros((2, 2))}
    arrays[part].reshape(-1)[1] = value
    np.savez(tmp_path / "e.npz", **arrays)
    options = [shared.checkpoint, *OPTIONS, *PLAN, "--no-attack", "--evaluate", tmp_path / "e.npz", tmp_path / "out"]
    if (part, value) == ("y", 1e39):
        options.append("--dry-run")
    done = cli("compile", *options)
    if part == "y" and value == 1e39:
        assert done.code == 0
    else:
        assert done.code == 2 and "\n" not in done.message and "NaN or infinity" in done.message
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_held_out_inputs(shared, cli, value: float, tmp_path: Path) -> None:
    x = np.zeros((2, 3, 3, 1))
    x[1, 2, 2, 0] = value
    np.savez(tmp_path / "d.npz", x=x)
    done = cli("certify", shared.checkpoint, shared.checkpoint, *OPTIONS, "--data", tmp_path / "d.npz")
    assert done.code == 2 and "\n" not in done.message and "NaN or infinity" in done.message


def test_calibration_inputs_beyond_float32(shared, cli, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.full((2, 3, 3, 1), 1e39))
    done = cli("compile", *shared.arguments, tmp_path / "out", "--feedback", tmp_path / "c.npy")
    assert done.code == 2 and "\n" not in done.message and "NaN or infinity" in done.message
