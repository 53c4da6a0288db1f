"""Orbax directories: a root with steps, a step with items, or an item itself."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import numpy as np

from slth_compile.archive import refuse_unfolding
from slth_compile.errors import InputError

_FILES = ("_METADATA", "manifest.ocdbt")
# items that hold a whole set of variables, the likeliest first
_WHOLE = ("default", "state", "variables", "model", "model_state", "train_state")
_PARTS = ("params", "batch_stats")
_AT_MOST = 8


def read(path: pathlib.Path) -> Any:
    """The arrays of the latest step of a root, of a step, or of an item.

    Of several items the one named as whole states are (`default`, `state`, `model`, ...) is read, else `params` with
    `batch_stats` beside it.
    """
    items = _items(path.resolve())
    if len(items) == 1:
        return _read_item(items[0])
    return {item.name: _read_item(item) for item in items}


def _read_item(item: pathlib.Path) -> Any:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree: Any = checkpointer.metadata(item).item_metadata.tree
        _refuse_hostile(item, tree)
        # into NumPy: the devices it was saved from need not exist here
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _refuse_hostile(item: pathlib.Path, tree: Any) -> None:
    """Nothing, where the arrays lie in the directory and are no larger than its files make plausible.

    The library makes an array of the shape that is written before it looks for the numbers, and ends the process where
    there is no memory for it.
    """
    described = [entry for entry in jax.tree.leaves(tree) if hasattr(entry, "shape") and hasattr(entry, "dtype")]
    for entry in described:
        name = str(getattr(entry, "name", ""))
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise InputError(f"checkpoint '{item}': an array is named '{name[:80]}', outside the directory")
    size = sum(file.stat().st_size for file in item.rglob("*") if file.is_file())
    refuse_unfolding(sum(_bytes(entry) for entry in described), size)


def _bytes(entry: Any) -> int:
    """What an array takes while it is read, whole chunks of it."""
    shape = tuple(entry.shape or ())
    chunk = getattr(getattr(entry, "storage", None), "chunk_shape", None) or ()
    item = np.dtype(entry.dtype).itemsize if entry.dtype is not None else 8
    return item * max(math.prod(shape), math.prod(chunk))


def _items(path: pathlib.Path) -> list[pathlib.Path]:
    """The directories to read."""
    if _is_item(path):
        return [path]
    children = [child for child in path.iterdir() if child.is_dir()]
    steps = [child for child in children if _step(child.name) is not None]
    if steps:
        return _items(max(steps, key=lambda child: _step(child.name) or 0))
    items = {child.name: child for child in children if _is_item(child)}
    whole = [items[name] for name in _WHOLE if name in items]
    parts = [items[name] for name in _PARTS if name in items]
    chosen = whole[:1] or (parts if "params" in items else []) or list(items.values())
    if chosen and (whole or parts or len(items) == 1):
        return chosen
    found = ", ".join(sorted(child.name for child in path.iterdir())[:_AT_MOST]) or "nothing"
    raise InputError(
        f"checkpoint '{path}' is no orbax directory: found {found}; expected a step, or one item (name it: {path.name}/"
        "ITEM)"
        if items
        else f"checkpoint '{path}' is no orbax directory: found {found}; expected a step or one item"
    )


def _is_item(path: pathlib.Path) -> bool:
    return any((path / name).exists() for name in _FILES)


def _step(name: str) -> int | None:
    """The number of a step directory: `"12"`, `"step_12"`, `"checkpoint_12"`."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else None
