"""What a checkpoint holds, where nothing is known of the model it belongs to."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.frontends.checkpoint.read import Arrays
from slth_compile.frontends.checkpoint.torch_names import looks_like_torch

_VECTORS = {
    "bias": "bias",
    "scale": "scale of a norm",
    "mean": "mean of a batch norm",
    "var": "variance of a batch norm",
    "running_mean": "mean of a batch norm",
    "running_var": "variance of a batch norm",
    "num_batches_tracked": "step counter",
    "embedding": "embedding (entries, features)",
}


@dataclasses.dataclass(frozen=True)
class ArrayRow:
    """One array.

    Attributes:
        name: Its path.
        shape: Its shape.
        dtype: Its dtype.
        reading: What it probably is, from its name and shape alone; empty where they do not say.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    reading: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def describe(arrays: Arrays) -> tuple[str, tuple[ArrayRow, ...]]:
    """Whose layout the names suggest, `"torch"`, `"flax"` or the empty string, and a row for every array."""
    leaves = {name.rpartition("/")[2] for name in arrays}
    layout = "torch" if looks_like_torch(arrays) else "flax" if leaves & {"kernel", "scale", "embedding"} else ""
    rows = (
        ArrayRow(name, tuple(map(int, a.shape)), str(a.dtype), _reading(name.rpartition("/")[2], a.ndim))
        for name, a in arrays.items()
    )
    return layout, tuple(rows)


def _reading(leaf: str, rank: int) -> str:
    if leaf == "weight":
        by_rank = {0: "slope", 1: "scale of a norm", 2: "linear (out, in)"}
        return by_rank.get(rank, "convolution (out, in/groups, taps)")
    if leaf == "kernel":
        return "dense (in, out)" if rank == 2 else "convolution (taps, in/groups, out)" if rank > 2 else ""
    return _VECTORS.get(leaf, "") if rank < 2 or leaf == "embedding" else ""
