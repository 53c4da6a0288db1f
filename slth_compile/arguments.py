"""What the command line's words stand for: domains, data files, shapes."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from slth_compile.archive import UNREADABLE, read_arrays
from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.errors import InputError, suggestion

_KINDS = ("box", "points", "balls")
DOMAIN_FORMS = "box:LO,HI | points:FILE | balls:FILE,R[,LO,HI]"


def parse_domain(text: str) -> Domain:
    """The domain a word such as `box:0,1`, `points:x.npz` or `balls:x.npz,0.01,0,1` names.

    Raises:
        InputError: Another form, or a file that cannot be read.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "box":
            numbers = _numbers(text, rest.split(","))
            if len(numbers) != 2:
                raise InputError(f"--domain {text}: found {len(numbers)} bounds; expected box:LO,HI")
            return Box(numbers[0], numbers[1])
        case "points" if rest:
            return Points(load_arrays(rest, ("x",))["x"])
        case "balls":
            file, behind = split_balls(rest)
            numbers = _numbers(text, behind)
            if len(numbers) not in (1, 3):
                raise InputError(f"--domain {text}: expected balls:FILE,R or balls:FILE,R,LO,HI")
            return Balls(load_arrays(file, ("x",))["x"], *numbers)
        case _:
            close = suggestion(kind, _KINDS) if kind not in _KINDS else ""
            raise InputError(f"--domain {text}: unknown form; expected {DOMAIN_FORMS}{close}")


def split_balls(text: str) -> tuple[str, list[str]]:
    """The file of `C:\\x,y.npz,0.01,0,1` and the numbers behind it: a file's name may hold commas, numbers do not.

    The file is the shortest beginning that exists; where none does, what is left of the last one or three numbers.
    """
    parts = text.split(",")
    for i in range(1, len(parts)):
        if _place(",".join(parts[:i])).is_file():
            return ",".join(parts[:i]), parts[i:]
    trailing = 0
    while trailing < min(3, len(parts) - 1) and _is_number(parts[-1 - trailing]):
        trailing += 1
    return ",".join(parts[: len(parts) - trailing]), parts[len(parts) - trailing :]


def load_arrays(path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Named arrays of an `.npz` file; a `.npy` file holds the first name. Nothing is unpickled.

    Raises:
        InputError: The file is missing or unreadable, or lacks a name.
    """
    try:
        found = read_arrays(_place(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a readable .npz or .npy file ({reason})") from None
    first = names[0] if names else pathlib.Path(path).stem
    arrays = {first if name is None else name: array for name, array in found.items()}
    for name in names:
        if name not in arrays:
            close = suggestion(name, arrays)
            raise InputError(f"{path}: holds {sorted(arrays) or 'nothing'}; expected an array named '{name}'{close}")
    return arrays


def _place(path: str) -> pathlib.Path:
    """The path, with `~` as the home directory where no such file exists: no shell expands it behind a colon."""
    given = pathlib.Path(path)
    try:
        return given if given.exists() else given.expanduser()
    except (RuntimeError, OSError, ValueError):
        return given


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """The shape that `32,32,3` names."""
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"--input-shape {text}: expected positive sizes without the batch, such as 32,32,3")
    return shape


def parse_kwargs(text: str) -> dict[str, Any]:
    """The keyword arguments a JSON object holds."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"--model-kwargs: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError('--model-kwargs: expected a JSON object such as {"features": 64}')
    return found


def parse_processes(text: str) -> tuple[str | None, int | None, int | None]:
    """The arguments of `jax.distributed.initialize` that `HOST:PORT,N,I` names; for `auto` it finds them itself.

    Raises:
        InputError: Another form, or I is not one of 0 ... N - 1.
    """
    if text == "auto":
        return None, None, None
    address, *numbers = text.split(",")
    try:
        count, number = (int(part) for part in numbers)
    except ValueError:
        count, number = 0, 0
    if not 0 <= number < count or ":" not in address:
        raise InputError(f"--distributed {text}: expected auto, or HOST:PORT,N,I for process I of N, counted from 0")
    return address, count, number


def _numbers(text: str, parts: list[str]) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise InputError(f"--domain {text}: a bound is not a number; expected {DOMAIN_FORMS}") from None
