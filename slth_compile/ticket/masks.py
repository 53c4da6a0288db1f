"""The pruning mask of one family of weights: for every weight a window of its copies and the subset kept in it."""

from __future__ import annotations

import dataclasses

import numpy as np

LARGEST_WINDOW = 64
"""Candidates a window may have: a subset is one word of at most 64 bits."""


def subset_dtype(window: int) -> type[np.uint32] | type[np.uint64]:
    """The type that holds a subset of `window` candidates: uint32 up to 32, uint64 above."""
    return np.uint32 if window <= 32 else np.uint64


@dataclasses.dataclass(frozen=True, eq=False)
class SubsetMask:
    """Which copies every weight keeps: copies `windows * m + i` of its channel, for the bits `i` of `subsets`.

    Attributes:
        windows: uint16, canonical shape; 0 where the subset is empty.
        subsets: uint32 (windows of up to 32 candidates) or uint64 (up to 64), canonical shape; bit `i` set = candidate
            `i` of the window is kept.
    """

    windows: np.ndarray
    subsets: np.ndarray

    def __post_init__(self) -> None:
        self.windows.setflags(write=False)
        self.subsets.setflags(write=False)

    @property
    def kept(self) -> int:
        """Number of kept random weights."""
        return int(np.bitwise_count(self.subsets).sum(dtype=np.int64))

    def raw_bits(self, window: int) -> int:
        """Bits without any modelling: every window's number in unary, and `window` bits a weight."""
        return int(self.windows.sum(dtype=np.int64)) + self.windows.size * (1 + window)
