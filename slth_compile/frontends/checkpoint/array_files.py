"""Files of named arrays: safetensors, npz, and the msgpack of flax."""

from __future__ import annotations

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import serialization

from slth_compile.archive import read_arrays
from slth_compile.errors import InputError

_STORED = {
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)},
    **{"BF16": jnp.bfloat16, "BOOL": np.bool_},
}


def read_safetensors(path: pathlib.Path) -> Any:
    """The tensors by name; a dot separates as a slash does."""
    found = dict(safetensors.deserialize(path.read_bytes()))
    unknown = sorted({entry["dtype"] for entry in found.values()} - _STORED.keys())
    if unknown:
        raise InputError(f"checkpoint '{path}': holds {', '.join(unknown)}; expected {', '.join(_STORED)}")
    arrays = {
        name: np.frombuffer(entry["data"], _STORED[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in found.items()
    }
    return slashed(path, arrays)


def read_npz(path: pathlib.Path) -> Any:
    """The arrays of `np.savez` by name; a dot separates as a slash does. Object arrays are refused, not unpickled."""
    found = read_arrays(path)
    if None in found:
        raise InputError(f"checkpoint '{path}': holds a single array without a name; expected the file of np.savez")
    return slashed(path, {str(name): array for name, array in found.items()})


def read_msgpack(path: pathlib.Path) -> Any:
    """The tree that `flax.serialization` wrote."""
    return serialization.msgpack_restore(path.read_bytes())


def slashed(path: pathlib.Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays with slashes in their names where there were dots."""
    found = {name.replace(".", "/"): array for name, array in arrays.items()}
    if len(found) != len(arrays):
        raise InputError(f"checkpoint '{path}': two tensors have one name once '.' and '/' are the same")
    return found
