"""Arrays of `.npz` and `.npy` files, read without trusting them: sizes are known before anything of that size is made.

A zip member of some kilobytes can unfold into gigabytes, and a header can announce any shape. So the header's shape and
type must agree with the size that the zip directory states, and all members together may unfold to what the file's own
size makes plausible. Nothing is unpickled.
"""

from __future__ import annotations

import lzma
import math
import os
import pathlib
import stat
import struct
import tokenize
import zipfile
import zlib
from typing import IO

import numpy as np

MODEST_BYTES = 64 << 20
"""What any file may unfold to."""

LARGEST_RATIO = 200
"""Times its own size that a larger file may unfold to; arrays of weights and samples reach ten or so."""

UNREADABLE = (
    OSError,
    ValueError,  # among them damaged headers, object arrays, text that is no UTF-8
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    RuntimeError,  # encrypted members, unknown compression
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a damaged or hostile file may raise."""

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes, and what zipfile unfolds piece by piece
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST_HEADER = 1 << 16
_ZIP, _NPY = b"PK", b"\x93NUMPY"


def read_arrays(path: str | os.PathLike[str]) -> dict[str | None, np.ndarray]:
    """The arrays of an `.npz` file by name; the array of a `.npy` file has the name None.

    Args:
        path: The file.

    Raises:
        OSError: It is missing, cannot be read, or is no regular file.
        ValueError: It holds something other than arrays of numbers or text, or would unfold to too much; damaged files
            raise this or another of `UNREADABLE`.
    """
    with open_regular(pathlib.Path(path)) as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(len(_NPY))
        file.seek(0)
        if beginning == _NPY:
            return {None: _array(file, size)}
        if beginning[:2] != _ZIP:
            raise ValueError("it begins neither as .npz nor as .npy")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            refuse_unfolding(sum(member.file_size for member in members), size)
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in found:
                    raise ValueError(f"its member {name[:80]!r} is no .npy file or there twice")
                if member.compress_type not in _PLAIN:
                    raise ValueError(f"its member {name[:80]!r} is neither stored nor deflated")
                with archive.open(member) as content:
                    found[name] = _array(content, member.file_size)
            return found


def open_regular(path: pathlib.Path) -> IO[bytes]:
    """A regular file, open for reading: a pipe would never end, and opening one would wait for its writer.

    Raises:
        OSError: It is missing, cannot be read, or is no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("no regular file")
    return path.open("rb")


def refuse_unfolding(unfolded: int, size: int) -> None:
    """Nothing, where a file of some size may unfold to so many bytes.

    Args:
        unfolded: Bytes that it says it holds.
        size: Bytes that it has.

    Raises:
        ValueError: It says too much.
    """
    if unfolded > max(MODEST_BYTES, LARGEST_RATIO * size):
        raise ValueError(f"{size} bytes would unfold to {unfolded}, expected at most {LARGEST_RATIO} times as many")


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in `.npy` form that takes all of `size` bytes."""
    beginning = file.read(12)
    if beginning[6:7] == b"\2" and int.from_bytes(beginning[8:], "little") > _LONGEST_HEADER:
        raise ValueError(f"its header is said to be longer than {_LONGEST_HEADER} bytes")
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its format is {version}, expected (1, 0) or (2, 0)")
    shape, by_columns, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would have to be unpickled; expected an array of numbers")
    # items without bytes would be any number of items
    if min(shape, default=1) < 0 or not dtype.itemsize or dtype.itemsize * math.prod(shape) != size - file.tell():
        raise ValueError(f"its header says {shape} of {dtype}, and {size - file.tell()} bytes follow")
    content = bytearray(file.read(size))
    if len(content) != dtype.itemsize * math.prod(shape):
        raise ValueError("it ends too early")
    if not content:
        return np.empty(shape, dtype)
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)
