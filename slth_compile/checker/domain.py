"""The inputs a ticket speaks about, as elementwise regions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slth_compile.checker.manifest import DomainEntry
from slth_compile.checker.safetensors import Tensor
from slth_compile.errors import InputError, VerificationError

_MODEST_BYTES, _LARGEST_RATIO = 64 << 20, 200
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_FIELDS = {"box": ("lower", "upper"), "points": ("x",), "balls": ("lower", "radius", "upper", "x")}


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """A box, balls around samples, or samples.

    Attributes:
        kind: `"box"`, `"balls"` or `"points"`.
        arrays: Its arrays by field; `x` has shape `(samples, *shape)`, all others the input's shape.
    """

    kind: str
    arrays: Mapping[str, np.ndarray]

    @property
    def samples(self) -> int:
        """Number of regions."""
        return len(self.arrays["x"]) if "x" in self.arrays else 1

    def regions(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of regions `start..stop`, float64, `(stop - start, *shape)`, rounded outward.

        For points both are the same array.
        """
        if self.kind == "box":
            return self.arrays["lower"][None].astype(np.float64), self.arrays["upper"][None].astype(np.float64)
        x = self.arrays["x"][start:stop].astype(np.float64)
        if self.kind == "points":
            return x, x
        radius = self.arrays["radius"]
        with np.errstate(over="ignore"):  # what has no end is refused
            low, high = np.nextafter(x - radius, -np.inf), np.nextafter(x + radius, np.inf)
        return np.maximum(low, self.arrays["lower"]), np.minimum(high, self.arrays["upper"])

    def is_nonnegative(self) -> bool:
        """Whether every input of the domain is elementwise >= 0."""
        if self.kind == "balls":
            x = self.arrays["x"]
            return all(
                bool(np.all((self.arrays["lower"] >= 0) | (row.astype(np.float64) >= self.arrays["radius"])))
                for row in x
            )
        return bool(np.all(self.arrays["lower" if self.kind == "box" else "x"] >= 0))


def load_domains(
    entries: tuple[DomainEntry, ...],
    tensors: Mapping[str, Tensor],
    shape: tuple[int, ...],
    domain_data: str | os.PathLike[str] | None,
) -> tuple[Domain, ...]:
    """Every domain, from the ticket's own file or from `domain_data`.

    Args:
        entries: The manifest's entries.
        tensors: Contents of `domain.safetensors`.
        shape: The network's per-sample input shape.
        domain_data: An `.npz` with the arrays of a domain that is not stored: `x`, for balls also `radius` and
            optionally `lower`, `upper`; a prefix `"<domain>."` tells several domains apart.

    Raises:
        VerificationError: Arrays are missing, unknown or empty, differ from the digest, or do not fit the network.
        InputError: `domain_data` cannot be read.
    """
    if not entries:
        raise VerificationError("domain", "no domain is declared, expected at least one")
    stored = {f"{i}.{field}" for i, entry in enumerate(entries) if entry.stored for field in _FIELDS[entry.kind]}
    if set(tensors) != stored:
        raise VerificationError(
            "domain", f"domain.safetensors holds {ascii(sorted(tensors))[:200]}, expected {sorted(stored)[:20]}"
        )
    domains = []
    for i, entry in enumerate(entries):
        arrays = {field: tensors[f"{i}.{field}"] for field in _FIELDS[entry.kind]} if entry.stored else None
        if arrays is None:
            if domain_data is None:
                raise VerificationError(
                    "domain", f"domain {i} is not stored here; give its samples with --domain-data FILE.npz"
                )
            arrays = _from_npz(Path(domain_data), i, entry.kind, shape)
        if _digest(arrays) != entry.digest:
            raise VerificationError("domain", f"the inputs of domain {i} have another SHA-256 than the manifest says")
        domains.append(_checked(i, entry.kind, arrays, shape))
    return tuple(domains)


def _digest(arrays: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for field, tensor in sorted(arrays.items()):
        shape = json.dumps(list(tensor.shape), separators=(",", ":"))
        digest.update(field.encode() + b"\0" + tensor.dtype.encode() + shape.encode())
        digest.update(tensor.raw.data)
    return digest.hexdigest()


def _checked(position: int, kind: str, arrays: Mapping[str, Tensor], shape: tuple[int, ...]) -> Domain:
    what = f"domain {position} ({kind})"
    for field, tensor in arrays.items():
        allowed = ("F32", "F64") if field == "x" else ("F64",)
        found = tensor.shape[1:] if field == "x" else tensor.shape
        if tensor.dtype not in allowed or found != shape or 0 in tensor.shape or (field == "x" and not tensor.shape):
            raise VerificationError(
                "domain", f"{what}: '{field}' is {tensor.dtype} {tensor.shape}, the input is {shape}"
            )
    domain = Domain(kind, {field: tensor.stored() for field, tensor in arrays.items()})
    for field, array in domain.arrays.items():
        finite = kind != "balls" or field in ("x", "radius")
        if not (np.isfinite(array) if finite else ~np.isnan(array)).all():
            raise VerificationError("domain", f"{what}: '{field}' holds NaN or infinity")
    if kind == "balls" and np.any(domain.arrays["radius"] < 0):
        raise VerificationError("domain", f"{what}: a radius is negative")
    step = max(1, (1 << 20) // max(1, domain.arrays["x"][0].size if "x" in domain.arrays else 1))
    for start in range(0, domain.samples, step):
        lower, upper = domain.regions(start, start + step)
        if not (np.isfinite(lower) & np.isfinite(upper) & (lower <= upper)).all():
            raise VerificationError("domain", f"{what}: a region is empty or unbounded")
    return domain


def _from_npz(path: Path, position: int, kind: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    defaults = {"lower": np.float64(-np.inf), "upper": np.float64(np.inf)} if kind == "balls" else {}
    arrays: dict[str, Tensor] = {}
    try:
        _refuse_bombs(path)
        with np.load(path, allow_pickle=False) as content:
            for field in _FIELDS[kind]:
                key = f"{position}.{field}" if f"{position}.{field}" in content else field
                array = content[key] if key in content or field not in defaults else defaults[field]
                if array.dtype.kind not in "fiub":
                    raise ValueError(f"'{field}' is {array.dtype}")
                if field != "x":
                    array = np.broadcast_to(np.asarray(array, np.float64), shape)
                elif array.dtype not in (np.float32, np.float64):
                    array = array.astype(np.float64)
                array = np.ascontiguousarray(array, "<f4" if array.dtype == np.float32 else "<f8").reshape(array.shape)
                dtype = "F32" if array.dtype.itemsize == 4 else "F64"
                arrays[field] = Tensor(dtype, array.shape, array.reshape(-1).view(np.uint8))
    except _UNREADABLE as error:
        raise InputError(
            f"cannot read the inputs of domain {position} from {str(path)!a} ({ascii(str(error))[:120]})"
        ) from None
    return arrays


def _refuse_bombs(path: Path) -> None:
    """Nothing, where an `.npz` file unfolds to a plausible multiple of its size, and its headers say no more.

    Args:
        path: The file.

    Raises:
        ValueError: It is no zip file of plainly compressed arrays, or says too much.
        OSError: It is no regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("no regular file")
    most = max(_MODEST_BYTES, _LARGEST_RATIO * status.st_size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most:
            raise ValueError(f"{status.st_size} bytes would unfold to more than {most}")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("a member is neither stored nor deflated")
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"an array of format {version}")
                first = version == (1, 0)
                reader = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, dtype = reader(content)
                size = member.file_size - content.tell()
                if min(shape, default=1) < 0 or not dtype.itemsize or math.prod(shape) * dtype.itemsize != size:
                    raise ValueError(f"an array's header says {shape} of {dtype}, its size another")
