"""One random tensor: its entries at any flat positions, drawn where they are needed or given from outside."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.source.dyadic import ENTRY_BITS, entries, sign_entries
from slth_compile.source.threefry import Key, words

_DRAWS = (1 << 10, 1 << 15, 1 << 20)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """A tensor of a generated source.

    Attributes:
        key: Its key.
        bits: Binary digits of an entry.
        signs: Whether entries are signed constants.
    """

    key: Key
    bits: int = dataclasses.field(default=ENTRY_BITS + 1, metadata={"static": True})
    signs: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """A tensor of a supplied source.

    Attributes:
        values: Its entries in C order, int32, units of 2^-23 of its scale; zeros may follow them.
    """

    values: Any


Tensor = Drawn | Given


def entries_at(tensor: Tensor, elements: jax.Array, dtype: Any = jnp.int64) -> jax.Array:
    """The entries at flat positions `elements` (uint64; call inside `jax.enable_x64(True)`), in [-2^23, 2^23]."""
    if isinstance(tensor, Given):
        return tensor.values.at[elements].get(mode="promise_in_bounds").astype(dtype)
    drawn = words(tensor.key, elements)
    return sign_entries(drawn, dtype) if tensor.signs else entries(drawn, tensor.bits, dtype)


def read_entries(tensor: Tensor, elements: np.ndarray) -> np.ndarray:
    """The entries at flat positions `elements` of a tensor, int64 of their shape, in units of 2^-23."""
    if isinstance(tensor, Given):
        return np.asarray(tensor.values)[elements.astype(np.int64)].astype(np.int64)
    flat = elements.reshape(-1).astype(np.uint64)
    found = np.zeros(flat.size, np.int64)
    # Padded to the next of a few sizes, so that few shapes are ever compiled.
    size = next((size for size in _DRAWS if size >= flat.size), _DRAWS[-1])
    with jax.enable_x64(True):
        for start in range(0, flat.size, size):
            part = flat[start : start + size]
            padded = np.pad(part, (0, size - part.size))
            found[start : start + size] = np.asarray(_ENTRIES_AT(tensor, padded))[: part.size]
    return found.reshape(elements.shape)


_ENTRIES_AT = jax.jit(entries_at)
