"""The directory a compile works in: `OUT.partial/` beside `OUT/`, finished layers on disk, one rename at the end."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping

import numpy as np
import safetensors
import safetensors.numpy

from slth_compile.errors import InputError
from slth_compile.ticket.masks import SubsetMask

_KEY, _MANIFEST = "key.txt", "manifest.json"


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where one compile keeps its finished layers until it is done.

    Attributes:
        out: The final directory, which does not exist or is to be replaced.
    """

    out: pathlib.Path

    def __post_init__(self) -> None:
        if self.out.name in ("", ".."):
            # "." has no name to put ".partial" behind
            object.__setattr__(self, "out", pathlib.Path(os.path.abspath(self.out)))

    @property
    def partial(self) -> pathlib.Path:
        """The directory everything is written to first."""
        return self.out.with_name(self.out.name + ".partial")

    def refuse_occupied(self, *, resume: bool, force: bool) -> None:
        """Nothing, where a compile may start.

        Raises:
            InputError: `OUT/` exists without `force`, or an interrupted run is there without `resume` or `force`.
        """
        if self.out.exists() and not force:
            raise InputError(
                f"{self.out} exists already; choose another directory, or replace it with --force (force=True)"
            )
        for path in (self.out, self.partial):
            if path.exists() and not _is_ours(path):
                raise InputError(
                    f"{path} exists and is no ticket directory; not even --force replaces it, move it away"
                )
        if self.partial.exists() and not (resume or force):
            raise InputError(
                f"{self.partial} is left from an interrupted run; continue it with --resume, or discard it with --force"
            )
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"{self.out.absolute().parent} is not a directory; create it first")

    def begin(self, key: str, *, resume: bool) -> None:
        """The partial directory, made or taken up again.

        Args:
            key: What the finished layers depend on.
            resume: Whether layers of an interrupted run are kept.

        Raises:
            InputError: The interrupted run had another key.
        """
        stored = self.partial / _KEY
        if self.partial.exists() and resume and stored.is_file():
            if stored.read_text("utf-8") != key:
                raise InputError(
                    f"{self.partial} belongs to another target, seed, eps, delta, domain or feedback; give the same "
                    "arguments, or discard it with --force"
                )
            return
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir()
        write_whole(stored, key.encode())

    def layer(self, index: int, part: str) -> SubsetMask | None:
        """The mask of a finished part of a layer, None where it was not finished."""
        path = self._layer_path(index, part)
        if not path.is_file():
            return None
        try:
            tensors = safetensors.numpy.load(path.read_bytes())
            return SubsetMask(tensors["windows"], tensors["subsets"])
        except (safetensors.SafetensorError, KeyError):
            return None

    def keep(self, index: int, part: str, mask: SubsetMask) -> None:
        """The mask of a finished part of a layer, on disk."""
        tensors = {"windows": np.array(mask.windows), "subsets": np.array(mask.subsets)}
        write_whole(self._layer_path(index, part), safetensors.numpy.save(tensors))

    def finish(self, files: Mapping[str, bytes]) -> None:
        """`OUT/` with these files and nothing else; the rename is the last act."""
        for name, content in files.items():
            write_whole(self.partial / name, content)
        for path in self.partial.iterdir():
            if path.name not in files:
                path.unlink()
        _sync_directory(self.partial)
        put_in_place(self.partial, self.out)

    def discard(self) -> None:
        """Nothing left of the partial directory."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def _layer_path(self, index: int, part: str) -> pathlib.Path:
        return self.partial / f"layer{index}.{part}"


def _is_ours(path: pathlib.Path) -> bool:
    """Whether a path is a ticket directory, one in the making, or an empty directory."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or bool(names & {_KEY, f"{_KEY}.tmp", _MANIFEST})


def put_in_place(partial: pathlib.Path, out: pathlib.Path) -> None:
    """A finished directory under its final name; what was there goes aside first and is deleted last."""
    aside = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(partial, out)
    except OSError:
        if aside.exists():
            os.rename(aside, out)
        raise
    _sync_directory(out.absolute().parent)
    # a file that somebody reads cannot be deleted everywhere; the new directory is in its place all the same
    shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """The file, whole or not at all, and on disk before this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_directory(path: pathlib.Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(directory: pathlib.Path, ticket_id: str, files: Callable[[], Mapping[str, bytes]], *, force: bool) -> None:
    """A ticket directory in its place, written beside it and renamed as the last act.

    Args:
        directory: Where; it must not exist unless `force`.
        ticket_id: Of the ticket.
        files: Makes the contents by name.
        force: Whether an existing one is replaced.

    Raises:
        InputError: The directory exists, or cannot be written.
    """
    workspace = Workspace(directory)
    workspace.refuse_occupied(resume=False, force=force)
    try:
        workspace.begin(ticket_id, resume=False)
        workspace.finish(files())
    except OSError as error:
        workspace.discard()
        raise InputError(f"{directory}: cannot be written ({error.strerror or error})") from error
