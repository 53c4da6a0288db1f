"""An ONNX file or `ModelProto`, read without trusting it: sizes are known before anything of that size is made."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from typing import Any

from slth_compile.errors import InputError
from slth_compile.frontends.onnx.wire import count_fields

MAX_BYTES = 2**31 - 1
"""Largest file; protocol buffers end there, larger models keep their weights in files of their own."""

MAX_FIELDS = 1_000_000
"""Most fields, those of nested messages included; networks of hundreds of layers have some ten thousand."""

MAX_DEPTH = 50
OPSETS = range(8, 23)
_MISSING = "reading ONNX models needs the package 'onnx': pip install 'slth-compile[onnx]'"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A parsed model.

    Attributes:
        label: What messages call it.
        proto: The `ModelProto`.
        folder: Where files of external data may lie; None for a model that is no file.
        opset: Version of the operator set.
    """

    label: str
    proto: Any
    folder: pathlib.Path | None
    opset: int


def onnx_package() -> Any:
    """The `onnx` package.

    Raises:
        InputError: It is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise InputError(_MISSING) from None
    return onnx


def read(model: Any) -> Source:
    """The model of a path or `ModelProto`.

    Raises:
        InputError: No such file, one that is damaged or too large, or an operator set outside 8 to 22.
    """
    onnx = onnx_package()
    if isinstance(model, onnx.ModelProto):
        label, folder, proto = "the ONNX model", None, model
    elif isinstance(model, str | os.PathLike):
        path = pathlib.Path(model)
        label, folder = str(path), path.parent
        proto = _parsed(onnx, _bytes_of(path), label)
    else:
        raise InputError(f"the model is a {type(model).__name__}; expected the path of an .onnx file or a ModelProto")
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise InputError(f"{label}: names {len(versions)} versions of the ONNX operators; expected one")
    if versions[0] not in OPSETS:
        raise InputError(
            f"{label}: opset {versions[0]}; expected {OPSETS[0]} to {OPSETS[-1]}, convert it with "
            "onnx.version_converter or export it again with opset_version=17"
        )
    return Source(label, proto, folder, versions[0])


def _bytes_of(path: pathlib.Path) -> bytes:
    try:
        # a pipe would never end, and opening one would wait for its writer
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: no regular file; expected an .onnx file")
        if status.st_size > MAX_BYTES:
            raise InputError(f"{path}: {status.st_size} bytes; expected at most {MAX_BYTES}")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _parsed(onnx: Any, data: bytes, label: str) -> Any:
    try:
        count = count_fields(data, onnx.ModelProto.DESCRIPTOR, MAX_FIELDS, MAX_DEPTH)
        if count > MAX_FIELDS:
            raise InputError(f"{label}: more than {MAX_FIELDS} nodes, attributes and names; no network has as many")
        proto = onnx.ModelProto.FromString(data)
    except InputError:
        raise
    except Exception as error:
        # ValueError of the count, DecodeError of protobuf, which is no dependency of ours to name
        raise InputError(f"{label}: no ONNX file, or a damaged one ({_first_line(error)})") from None
    if not proto.HasField("graph"):
        raise InputError(f"{label}: no ONNX file, it holds no graph")
    return proto


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
