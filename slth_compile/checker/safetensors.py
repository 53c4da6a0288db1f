"""A strict, bounded reader of safetensors files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slth_compile.checker.schema import integer, record, sequence, strict_json, text
from slth_compile.errors import VerificationError

ITEM_BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""The element types of networks, domains and masks, with their sizes in bytes."""

MAX_HEADER_BYTES = 1 << 24
_STORAGE = {"U8": "<u1", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One stored tensor; its bytes stay on disk until they are read.

    Attributes:
        dtype: A key of `ITEM_BYTES`, `"I32"` or `"I64"`.
        shape: Its shape.
        raw: Its little-endian bytes, a one-dimensional uint8 array.
    """

    dtype: str
    shape: tuple[int, ...]
    raw: np.ndarray

    def stored(self) -> np.ndarray:
        """The elements as they are stored (bfloat16 as uint16), in `shape`, without a copy."""
        return self.raw.view(_STORAGE[self.dtype]).reshape(self.shape)

    def float64(self) -> np.ndarray:
        """The elements at exactly their values, in `shape`."""
        return widen(self.stored(), self.dtype)


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements (bfloat16 as uint16) as float64, exactly."""
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def read_safetensors(path: Path, sizes: Mapping[str, int] = ITEM_BYTES) -> Mapping[str, Tensor]:
    """Every tensor in a file, by name.

    Args:
        path: The file.
        sizes: Element types that it may have, with their sizes in bytes.

    Raises:
        VerificationError: The header is too large or not JSON, a type is unknown, sizes and offsets disagree, or bytes
            are shared, left over or out of range.
    """
    what = f"'{path.name}'"
    size = path.stat().st_size
    if size < 8:
        raise VerificationError("format", f"{what} has {size} bytes, expected a safetensors file")
    content = np.memmap(path, np.uint8, "r")
    header_bytes = int.from_bytes(content[:8].tobytes(), "little")
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise VerificationError("format", f"{what} announces a header of {header_bytes} bytes in a file of {size}")
    data = content[8 + header_bytes :]
    entries = strict_json(content[8 : 8 + header_bytes].tobytes(), f"the header of {what}")
    if not isinstance(entries, dict):
        raise VerificationError("format", f"the header of {what} is not an object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise VerificationError("format", f"the metadata of {what} is not an object of strings")
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        where = f"tensor {name[:80]!a} of {what}"
        entry = record(entry, ("dtype", "shape", "data_offsets"), where)
        dtype, shape, (begin, end) = _layout(entry, where, len(data), sizes)
        spans.append((begin, end))
        tensors[name] = Tensor(dtype, shape, data[begin:end])
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise VerificationError("format", f"{what} has a gap or an overlap at byte {position} of its data")
        position = end
    if position != len(data):
        raise VerificationError("format", f"{what} has {len(data) - position} bytes after its last tensor")
    return tensors


def _layout(
    entry: dict, where: str, available: int, item_bytes: Mapping[str, int]
) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    dtype = text(entry["dtype"], f"the dtype of {where}")
    if dtype not in item_bytes:
        raise VerificationError("format", f"{where} has dtype {dtype[:40]!a}, expected one of {list(item_bytes)}")
    sizes = sequence(entry["shape"], f"the shape of {where}")
    if len(sizes) > 16:
        raise VerificationError("format", f"{where} has {len(sizes)} axes, expected at most 16")
    shape = tuple(integer(n, f"a size in the shape of {where}", 0, 1 << 40) for n in sizes)
    ends = sequence(entry["data_offsets"], f"the offsets of {where}", 2)
    begin, end = (integer(n, f"an offset of {where}", 0, available) for n in ends)
    if end - begin != math.prod(shape) * item_bytes[dtype]:
        raise VerificationError("format", f"{where} spans {end - begin} bytes, its shape and type say otherwise")
    return dtype, shape, (begin, end)
