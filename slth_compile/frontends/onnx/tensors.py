"""`TensorProto` -> array, its length compared with its shape before any memory is taken."""

from __future__ import annotations

import math
import os
import pathlib
import stat
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.onnx.reader import Source, onnx_package

MAX_RANK = 32
_PACKED = {"UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2"}
_INT32_DATA = {"INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16"}
_FIELDS = {"FLOAT": "float_data", "DOUBLE": "double_data", "INT64": "int64_data"} | dict.fromkeys(
    ("UINT32", "UINT64"), "uint64_data"
)
_BITS = {"FLOAT16", "BFLOAT16"}
_MAX_FLAT = 2**31 - 1


def array_of(tensor: Any, source: Source) -> np.ndarray:
    """The values of a tensor, in its own dtype.

    Raises:
        InputError: A length that does not fit the shape, a dtype that holds no numbers, external data outside the
            model's folder.
    """
    label = f"{source.label}: tensor '{tensor.name}'"
    dims = tuple(tensor.dims)
    if len(dims) > MAX_RANK or any(size < 0 for size in dims):
        raise InputError(f"{label}: shape {_short(dims)}; expected at most {MAX_RANK} axes, none negative")
    onnx = onnx_package()
    kind = _kind(onnx, tensor.data_type)
    if kind not in _FIELDS and kind not in _INT32_DATA and kind not in _PACKED:
        found = kind or f"type {tensor.data_type}"
        raise InputError(f"{label}: holds {found}; expected integers, or floats of 16 to 64 bits")
    count = math.prod(dims)
    if tensor.HasField("segment"):
        raise InputError(f"{label}: stored in segments; save the model again with onnx.save")
    if kind in _PACKED:
        return _packed(onnx, tensor, label, dims)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, source, label, dtype, dims)
    if tensor.HasField("raw_data"):
        _require(label, len(tensor.raw_data), count * dtype.itemsize, "bytes", dims)
        return np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dims)
    values = getattr(tensor, _FIELDS.get(kind, "int32_data"))
    _require(label, len(values), count, "numbers", dims)
    if kind in _BITS:
        return np.array(values, np.int64).astype(np.uint16).view(dtype).reshape(dims)
    with np.errstate(over="ignore"):
        wide = np.float64 if dtype.kind == "f" else np.uint64 if dtype.kind == "u" and dtype.itemsize > 2 else np.int64
        return np.array(values, wide).astype(dtype).reshape(dims)


def _external(tensor: Any, source: Source, label: str, dtype: np.dtype, dims: tuple[int, ...]) -> np.ndarray:
    """The tensor's part of a file in the model's folder."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if source.folder is None:
        raise InputError(f"{label}: stored in the file '{location}'; give the path of the model, not a ModelProto")
    path = _inside(source.folder, location, label)
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(math.prod(dims) * dtype.itemsize)))
    except ValueError:
        raise InputError(f"{label}: offset or length in '{location}' is no number") from None
    _require(label, length, math.prod(dims) * dtype.itemsize, "bytes", dims)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{label}: its file '{location}' is no regular file")
        if offset < 0 or offset + length > status.st_size:
            ends = f"bytes {offset} to {offset + length}"
            raise InputError(f"{label}: stored in {ends} of '{location}', which has {status.st_size}")
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        raise InputError(f"{label}: its file '{location}' cannot be read ({error.strerror})") from None
    _require(label, len(data), length, "bytes", dims)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dims)


def _inside(folder: pathlib.Path, location: str, label: str) -> pathlib.Path:
    """The path of a file in the folder or below it, links followed."""
    refusal = InputError(f"{label}: stored in '{location}'; expected a file in the model's own folder")
    parts = pathlib.PurePosixPath(location).parts
    if not parts or "\0" in location or "\\" in location or ".." in parts or location.startswith("/"):
        raise refusal
    if pathlib.PureWindowsPath(location).drive:
        raise refusal
    try:
        real, root = os.path.realpath(folder / location), os.path.realpath(folder)
    except OSError:
        raise refusal from None
    if os.path.commonpath([real, root]) != root or real == root:
        raise refusal
    return pathlib.Path(real)


def _packed(onnx: Any, tensor: Any, label: str, dims: tuple[int, ...]) -> np.ndarray:
    """Numbers of less than a byte."""
    per_byte = 4 if _kind(onnx, tensor.data_type).endswith("2") else 2
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else len(tensor.int32_data)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError(f"{label}: numbers of less than a byte in a file of their own; store them in the model")
    _require(label, found, -(-math.prod(dims) // per_byte), "bytes", dims)
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def _kind(onnx: Any, data_type: int) -> str:
    try:
        return onnx.TensorProto.DataType.Name(data_type)
    except ValueError:
        return ""


def _require(label: str, found: int, expected: int, unit: str, dims: tuple[int, ...]) -> None:
    if found != expected or expected > _MAX_FLAT * 64:
        raise InputError(f"{label}: {found} {unit} for shape {_short(dims)}; expected {expected}")


def _short(dims: tuple[int, ...]) -> str:
    return str(dims) if len(dims) <= MAX_RANK else f"of {len(dims)} axes"
