"""The files of a ticket directory and their digests."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Set
from pathlib import Path

from slth_compile.checker.schema import MAX_JSON_BYTES
from slth_compile.errors import InputError, VerificationError

SUMS = "SHA256SUMS"
MANIFEST = "manifest.json"
COVERED = ("certificate.json", "domain.safetensors", "masks.safetensors", "target.safetensors")
"""Files whose digests the manifest holds."""

SOURCE = "source.safetensors"
"""One more, where the source was supplied."""

WITNESS = "witness.safetensors"
"""One more, where a bound is branched."""

_REQUIRED = {SUMS, MANIFEST, *COVERED}
_OPTIONAL = {SOURCE, WITNESS, "stats.json", "report.html", "report.md", "README.md"}
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._]+)\Z")


def inventory(directory: Path, required: Set[str] = _REQUIRED, optional: Set[str] = _OPTIONAL) -> tuple[str, ...]:
    """The sorted names in `directory`, all of them known, regular files.

    Args:
        directory: The folder.
        required: Names that must be there.
        optional: Names that may be there.

    Raises:
        InputError: There is no such directory.
        VerificationError: A file is missing or unknown, or something is not a regular file.
    """
    if not directory.is_dir():
        raise InputError(
            f"'{ascii(str(directory))[1:-1]}' is not a directory; give the folder that holds manifest.json"
        )
    names = sorted(os.listdir(directory))
    for name in names:
        if name not in required | optional:
            raise VerificationError("format", f"unknown entry {name!a} in the directory")
        if not stat.S_ISREG(os.lstat(directory / name).st_mode):
            raise VerificationError("format", f"'{name}' is not a regular file")
    missing = sorted(required - set(names))
    if missing:
        raise VerificationError("format", f"missing {', '.join(missing)}")
    return tuple(names)


def check_sums(directory: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 of every file but `SHA256SUMS`, each found equal to its line there.

    Raises:
        VerificationError: A line is malformed, missing, unknown or out of order, or a digest differs.
    """
    lines = read_small(directory / SUMS, 1 << 16).decode("ascii").split("\n")
    if lines.pop() != "":
        raise VerificationError("digest", f"{SUMS} does not end with a newline")
    listed: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[2] in listed:
            raise VerificationError("digest", f"{SUMS} has the line {line[:120]!a}, expected '<sha256>  <name>' once")
        listed[match[2]] = match[1]
    expected = [name for name in names if name != SUMS]
    if list(listed) != expected:
        raise VerificationError("digest", f"{SUMS} lists {list(listed)}, expected {expected} in this order")
    for name, claimed in listed.items():
        found = file_digest(directory / name)
        if found != claimed:
            raise VerificationError("digest", f"'{name}' has SHA-256 {found}, {SUMS} says {claimed}")
    return listed


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a file of at most `limit` bytes."""
    with path.open("rb") as file:
        # room for what is there, not for what may be
        raw = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    if len(raw) > limit:
        raise VerificationError("format", f"'{path.name}' is longer than {limit} bytes")
    return raw
