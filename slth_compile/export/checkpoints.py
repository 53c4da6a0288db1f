"""Parameters by name as files that a model's own loader reads, and read back."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

NOTE = "slth_compile.json"
"""The file in an orbax directory that says which ticket its parameters are of."""

_STORED = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": jnp.bfloat16}

Arrays = Mapping[str, np.ndarray]


def write_safetensors(path: pathlib.Path, arrays: Arrays, properties: Mapping[str, str]) -> None:
    """Arrays by their path with dots, `params.Conv_0.kernel`, properties as metadata."""
    dotted = {name.replace("/", "."): np.ascontiguousarray(array) for name, array in arrays.items()}
    path.write_bytes(safetensors.numpy.save(dotted, metadata=dict(properties)))


def read_safetensors(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of some names in such a file."""
    found = dict(safetensors.deserialize(path.read_bytes()))
    entries = {name: found[name.replace("/", ".")] for name in names}
    return {
        name: np.frombuffer(entry["data"], _STORED[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
    }


def write_orbax(path: pathlib.Path, arrays: Arrays, properties: Mapping[str, str]) -> None:
    """Arrays as a tree of dictionaries in an orbax directory, properties as a JSON file beside them."""
    import orbax.checkpoint as ocp

    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *scopes, last = name.split("/")
        place = tree
        for scope in scopes:
            place = place.setdefault(scope, {})
        place[last] = array
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))
    (path / NOTE).write_text(json.dumps(dict(properties), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_orbax(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of some names in such a directory."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree: Any = checkpointer.restore(path.absolute())
    found = {}
    for name in names:
        place = tree
        for scope in name.split("/"):
            place = place[scope]
        found[name] = np.asarray(place)
    return found
