"""Output files that a command was asked for: refused early, written whole."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from slth_compile.errors import InputError


def require_writable(paths: Sequence[pathlib.Path], endings: Sequence[str], force: bool) -> None:
    """Returns where every file can be written.

    Args:
        paths: The files.
        endings: Known endings, in lower case.
        force: Whether existing files are replaced.

    Raises:
        InputError: An unknown ending, a missing folder, one path twice, or a file that exists, without `force`.
    """
    for path in paths:
        if path.suffix.lower() not in endings:
            raise InputError(f"--output {path}: the ending chooses the form; expected one of {', '.join(endings)}")
        if not path.parent.is_dir():
            raise InputError(f"--output {path}: there is no directory {path.parent}")
        if path.is_dir():
            raise InputError(f"--output {path}: is a directory, expected a file")
        if path.exists() and not force:
            raise InputError(f"{path} exists already; choose another --output, or replace it with --force")
    if len({os.path.normcase(path.absolute()) for path in paths}) < len(paths):
        raise InputError("--output: the same file is named twice")


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file; it is whole or not there.

    Raises:
        InputError: The file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
