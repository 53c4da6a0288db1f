"""The pruning mask of one family of weights: for every weight a window of its copies and the subset kept in it."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class SubsetMask:
    """Which copies every weight keeps: copies `windows * m + i` of its channel, for the bits `i` of `subsets`.

    Attributes:
        windows: uint16, canonical shape; 0 where the subset is empty.
        subsets: uint32, canonical shape; bit `i` set = candidate `i` of the window is kept.
    """

    windows: np.ndarray
    subsets: np.ndarray

    def __post_init__(self) -> None:
        self.windows.setflags(write=False)
        self.subsets.setflags(write=False)

    @property
    def kept(self) -> int:
        """Number of kept random weights."""
        return int(np.bitwise_count(self.subsets).sum())


def encode(mask: SubsetMask, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask as two bit streams, each padded with zeros to whole bytes, least significant bit first.

    Args:
        mask: The mask.
        window: Candidates m of a window.

    Returns:
        uint8 arrays: `windows`, for every weight in C order as many ones as its window's number and a zero; `subsets`,
        m bits a weight, candidate 0 first.
    """
    numbers = mask.windows.reshape(-1).astype(np.int64)
    ends = np.cumsum(numbers + 1) - 1
    unary = np.ones(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 0
    bits = (mask.subsets.reshape(-1, 1) >> np.arange(window, dtype=np.uint32)) & 1
    return np.packbits(unary, bitorder="little"), np.packbits(bits.astype(np.uint8), bitorder="little")


def decode(windows: np.ndarray, subsets: np.ndarray, window: int, shape: tuple[int, ...]) -> SubsetMask:
    """The mask that `encode` wrote.

    Raises:
        InputError: The streams do not hold exactly one code a weight.
    """
    size = int(np.prod(shape))
    unary = np.unpackbits(windows, bitorder="little")
    ends = np.flatnonzero(unary == 0)[:size]
    if len(ends) < size or len(windows) != ends[-1] // 8 + 1 or unary[ends[-1] + 1 :].any():
        raise InputError(f"masks: the window stream does not hold {size} numbers")
    bits = np.unpackbits(subsets, bitorder="little")
    if len(subsets) != -(-size * window // 8) or bits[size * window :].any():
        raise InputError(f"masks: the subset stream does not hold {size} subsets of {window} bits")
    weights = np.uint32(1) << np.arange(window, dtype=np.uint32)
    values = bits[: size * window].reshape(size, window).astype(np.uint32) @ weights
    numbers = np.diff(ends, prepend=-1) - 1
    return SubsetMask(numbers.astype(np.uint16).reshape(shape), values.astype(np.uint32).reshape(shape))
