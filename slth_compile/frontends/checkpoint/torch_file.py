"""PyTorch's own files, read by PyTorch in its mode that unpickles tensors and plain containers alone."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.checkpoint.array_files import slashed

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_SAFE = (2, 6)


def read(path: pathlib.Path) -> Any:
    """The tensors by name, of nested dictionaries too, on the host.

    Raises:
        InputError: PyTorch is missing, or too old for its restricted mode to be safe (before 2.6 it can be made to run
            code, CVE-2025-32434); or a tensor is sparse or quantised.
    """
    torch = _torch(path)
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, torch.Tensor):
            found[prefix] = _as_numpy(torch, path, prefix, value.detach())

    walk("", torch.load(path, weights_only=True, map_location="cpu"))
    return slashed(path, found)


def _torch(path: pathlib.Path) -> Any:
    convert = (
        "where torch is: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('"
        f"{path.name}', weights_only=True), '{path.stem}.safetensors')\""
    )
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(
            f"checkpoint '{path}': a PyTorch file needs torch, which is not installed; install it, or convert {convert}"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE:
        raise InputError(
            f"checkpoint '{path}': found torch {torch.__version__}, whose restricted unpickling can be made to run "
            f"code; expected 2.6 or later, or convert {convert}"
        )
    return torch


def _as_numpy(torch: Any, path: pathlib.Path, name: str, tensor: Any) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"checkpoint '{path}': '{name}' is sparse or quantised; expected a dense tensor")
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(jnp.bfloat16)
    return tensor.contiguous().numpy()
