"""What the words of the command line stand for, on every system: colons, commas, blanks and `~` in paths."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from slth_compile import arguments
from slth_compile.errors import InputError
from slth_compile.ticket.workspace import Workspace

WINDOWS = r"C:\Users\A B\data,1\x.npz"


@pytest.mark.parametrize(
    ("text", "file", "numbers"),
    [
        ("x.npz,0.01", "x.npz", ["0.01"]),
        ("x.npz,0.01,0,1", "x.npz", ["0.01", "0", "1"]),
        (f"{WINDOWS},0.01", WINDOWS, ["0.01"]),
        (f"{WINDOWS},1e-2,-1,1", WINDOWS, ["1e-2", "-1", "1"]),
        (r"\\server\share\x.npz,0.5", r"\\server\share\x.npz", ["0.5"]),
        ("a,b.npz,0.5", "a,b.npz", ["0.5"]),
        ("x.npz", "x.npz", []),
        ("x.npz,1,2", "x.npz", ["1", "2"]),
        ("0.5", "0.5", []),
    ],
)
def test_the_file_of_balls(text, file, numbers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arguments.split_balls(text) == (file, numbers)


@pytest.mark.parametrize("name", ["C:x.npz", "a,b.npz", "a, b c.npz", "1,2,3.npz", "x"])
def test_domains_of_files_with_strange_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        np.savez(file, x=np.full((2, 3), 0.5))
    assert arguments.parse_domain(f"points:{name}").x.shape == (2, 3)
    assert arguments.parse_domain(f"balls:{name},0.25,0,1").radius == 0.25
    assert arguments.parse_domain(f"points:{tmp_path}/{name}").x.shape == (2, 3)
    assert arguments.parse_domain(f"balls:{tmp_path}/{name},0.25").radius == 0.25


def test_home_is_expanded_behind_a_colon(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    np.savez(tmp_path / "x,y.npz", x=np.zeros((1, 2)))
    assert arguments.parse_domain("points:~/x,y.npz").x.shape == (1, 2)
    assert arguments.parse_domain("balls:~/x,y.npz,0.5").radius == 0.5
    with pytest.raises(InputError, match="no such file"):
        arguments.parse_domain("points:~nobody_of_this_name/x.npz")


def test_missing_windows_paths_are_named_whole():
    for text in (f"points:{WINDOWS}", f"balls:{WINDOWS},0.5"):
        with pytest.raises(InputError, match=re.escape(f"{WINDOWS}: no such file")):
            arguments.parse_domain(text)


@pytest.mark.parametrize(
    ("text", "meant"), [("boxx:0,1", "box"), ("ball:x,1", "balls"), ("Points:x", "points"), ("pts:x", "points")]
)
def test_kinds_of_domains_are_suggested(text, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        arguments.parse_domain(text)


def test_names_of_arrays_are_suggested(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros(1))
    with pytest.raises(InputError, match=r"holds \['X'\]; expected an array named 'x'; did you mean 'X'"):
        arguments.load_arrays(str(tmp_path / "x.npz"), ("x",))


def test_a_workspace_of_the_current_directory(tmp_path, monkeypatch):
    """`.` has no name to put `.partial` behind; it is refused like any other directory that is there."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for path, name in ((".", "inner"), ("..", tmp_path.name), ("new", "new")):
        assert Workspace(pathlib.Path(path)).partial.name == f"{name}.partial"
    with pytest.raises(InputError, match="exists already"):
        Workspace(pathlib.Path(".")).refuse_occupied(resume=False, force=False)
