"""Where exports go: the form an ending chooses, refused early; written beside their place and renamed whole."""

from __future__ import annotations

import difflib
import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from slth_compile.errors import InputError

ONNX, STABLEHLO, SAFETENSORS, ORBAX = ".onnx", ".stablehlo", ".safetensors", ".orbax"
FORMS = {
    ONNX: "an ONNX model",
    STABLEHLO: "a serialised jax.export",
    SAFETENSORS: "the target's own parameters",
    ORBAX: "the target's own parameters in a directory",
}
_MARKS = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")


def form_of(path: pathlib.Path) -> str:
    """The ending that says what is written.

    Raises:
        InputError: Another one; names those that are known, and the one that is meant where that shows.
    """
    ending = path.suffix.lower()
    if ending in FORMS:
        return ending
    close = difflib.get_close_matches(ending, FORMS, n=1) if ending else []
    known = ", ".join(f"{known} ({what})" for known, what in FORMS.items())
    meant = f"did you mean '{close[0]}'? " if close else ""
    raise InputError(f"{path}: the ending chooses the form; {meant}expected one of {known}")


def refuse_occupied(path: pathlib.Path, force: bool) -> None:
    """Nothing, where an export can be written.

    Raises:
        InputError: No such folder, or something there that is not to be replaced.
    """
    directory = form_of(path) == ORBAX
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}")
    if path.is_dir() != directory and path.exists():
        found, expected = ("a directory", "a file") if path.is_dir() else ("a file", "a directory")
        raise InputError(f"{path}: is {found}, expected a place for {expected}; choose another name")
    if path.exists() and not force:
        raise InputError(f"{path} exists already; choose another name, or replace it with --force")
    if directory and path.exists() and any(path.iterdir()) and not any((path / mark).exists() for mark in _MARKS):
        raise InputError(f"{path}: is no orbax checkpoint and is not replaced; choose another name")


@contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; renamed to it if all goes well, nothing is left behind otherwise.

    Raises:
        InputError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        _remove(partial)
        yield partial
        if path.is_dir():
            # A directory cannot be replaced by another one: the old one steps aside and is deleted last.
            aside = path.with_name(f"{path.name}.replaced")
            os.replace(path, aside)
            os.replace(partial, path)
            shutil.rmtree(aside)
        else:
            os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); nothing was left behind") from error
    finally:
        _remove(partial)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
