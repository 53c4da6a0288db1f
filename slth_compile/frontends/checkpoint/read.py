"""Every array of a checkpoint by its path, whatever kind of file holds it. Nothing is ever unpickled."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from slth_compile.errors import InputError, suggestion
from slth_compile.frontends.checkpoint import array_files, orbax_directory, torch_file

KINDS = "an orbax directory, .safetensors, .msgpack, .npz, .pt or .pth"
"""What can be read, in words."""

_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    ".safetensors": array_files.read_safetensors,
    ".msgpack": array_files.read_msgpack,
    ".npz": array_files.read_npz,
    **dict.fromkeys(torch_file.SUFFIXES, torch_file.read),
}
_VALUE_LEVELS = ("/value", "/raw_value")

Arrays = dict[str, Any]


def read_checkpoint(path: str | pathlib.Path) -> Arrays:
    """Every array of a checkpoint by its path, `"params/Conv_0/kernel"`, in the order of the file.

    Raises:
        InputError: Missing, unreadable, of an unknown kind, without arrays, or with two arrays of one name.
    """
    path = pathlib.Path(path)
    if not path.exists():
        path = path.expanduser()
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"checkpoint '{path}' does not exist{suggestion(path.name, beside)}")
    reader = orbax_directory.read if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"checkpoint '{path}': unknown kind '{path.suffix}'; expected {KINDS}")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"checkpoint '{path}' is no regular file; expected {KINDS}")
    try:
        leaves = named_leaves(reader(path))
    except InputError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}); it is damaged or of another kind") from error
    arrays: Arrays = {}
    for name, leaf in leaves:
        if name in arrays:
            raise InputError(f"checkpoint '{path}': two tensors have the name '{name}' once '.' and '/' are the same")
        arrays[name] = leaf
    if not arrays:
        raise InputError(f"checkpoint '{path}' holds no arrays")
    return arrays


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Arrays with their paths, dictionaries in their own order; the `value` level that nnx states have is taken out."""
    found: list[tuple[str, Any]] = []

    def walk(prefix: str, branch: Any) -> None:
        # JAX would sort a dictionary's keys, and the order of a file is the order of the layers
        if type(branch) is dict:
            for key, value in branch.items():
                walk(f"{prefix}/{key}" if prefix else str(key), value)
            return
        for path, leaf in jax.tree_util.tree_flatten_with_path(branch)[0]:
            if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
                inner = jax.tree_util.keystr(path, simple=True, separator="/")
                found.append((f"{prefix}/{inner}" if prefix and inner else prefix or inner, leaf))

    walk("", tree)
    for level in _VALUE_LEVELS:
        found = [(name.removesuffix(level), leaf) for name, leaf in found]
    return found
