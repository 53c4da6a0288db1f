"""The directory a study works in: `OUT.partial/` beside `OUT/`, finished networks on disk, one rename at the end.

No file holds a time or a path, so that a study that was killed and resumed ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from slth_compile.errors import InputError
from slth_compile.progress import Progress, part_of, silent
from slth_compile.ticket.workspace import put_in_place, write_whole

_KEY, _NETWORKS = "settings.json", "networks"

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass
class Records:
    """What is finished of a study.

    Attributes:
        out: The final directory.
        total: Steps of all trainings.
        progress: Called as they are done.
        done: Steps done, those of an earlier run included.
    """

    out: pathlib.Path
    total: int
    progress: Progress = silent
    done: int = 0

    @property
    def partial(self) -> pathlib.Path:
        """The directory everything is written to first."""
        return self.out.with_name(self.out.name + ".partial")

    def once(self, name: str, steps: int, make: Callable[[Progress], Arrays]) -> dict[str, np.ndarray]:
        """The arrays kept under a name, made and kept where there are none.

        Args:
            name: A file name without its ending.
            steps: Steps that making them takes.
            make: Makes them.
        """
        path = self.partial / _NETWORKS / f"{name}.npz"
        found = _read(path)
        if found is None:
            # What was made is read again: a resumed run goes on with what is in the file, and so does this one.
            _write_arrays(path, make(part_of(self.progress, "train", self.done, self.total)))
            found = _read(path)
            if found is None:
                raise InputError(f"{path}: was written and cannot be read; is the disk full?")
        self.done += steps
        self.progress("train", self.done, self.total)
        return found

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays that `once` keeps under a name.

        Raises:
            InputError: There are none.
        """
        path = self.partial / _NETWORKS / f"{name}.npz"
        found = _read(path)
        if found is None:
            raise InputError(f"{path}: cannot be read; it was there a moment ago")
        return found

    def finish(self, files: Mapping[str, bytes]) -> None:
        """`OUT/` with these files beside the settings and the networks; the rename is the last act."""
        for name, content in files.items():
            (self.partial / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.partial / name, content)
        put_in_place(self.partial, self.out)


def begin(
    out: pathlib.Path, settings: str, total: int, *, resume: bool, force: bool, progress: Progress = silent
) -> Records:
    """The directory of a study, made or taken up again.

    Args:
        out: The final directory.
        settings: What the study depends on, JSON.
        total: Steps of all trainings.
        resume: Whether an interrupted run is continued.
        force: Whether an existing `out`, or an interrupted run, is replaced.
        progress: Called as steps are done.

    Raises:
        InputError: There is something already, or an interrupted run of other settings.
    """
    records = Records(out, total, progress)
    for path in (out, records.partial):
        if path.exists() and not (path / _KEY).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is no study; not even --force replaces it, move it away")
    if out.exists() and not force:
        raise InputError(f"{out} exists already; choose another directory, or replace it with --force")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.absolute().parent} is not a directory; create it first")
    stored = records.partial / _KEY
    if records.partial.exists():
        if not (resume or force):
            raise InputError(
                f"{records.partial} is left from an interrupted run; continue it with --resume, or discard it with "
                "--force"
            )
        if resume and stored.is_file():
            if stored.read_text() != settings:
                raise InputError(
                    f"{records.partial} belongs to other data or settings; give the same arguments, or discard it with "
                    "--force alone"
                )
            return records
        shutil.rmtree(records.partial)
    try:
        (records.partial / _NETWORKS).mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{records.partial}: cannot be made ({error.strerror})") from None
    write_whole(stored, settings.encode())
    return records


def _read(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write_arrays(path: pathlib.Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())
