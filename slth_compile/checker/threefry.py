"""Random words of the generator `threefry2x32-20-v1`, each computable alone.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): Threefry with two 32-bit words and
20 rounds.
"""

from __future__ import annotations

import numpy as np

GENERATOR = "threefry2x32-20-v1"
KERNEL_U, KERNEL_V, BIAS_U, BIAS_V = range(4)
"""Numbers of a layer's four random tensors."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_CHUNK = 1 << 15  # elements at a time: the working set stays in the second-level cache


def threefry2x32(key: tuple[int, int], high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two output words of each counter `(high, low)` under `key`.

    Args:
        key: Two unsigned 32-bit words.
        high: First counter word, uint32, any shape.
        low: Second counter word, uint32, the same shape.

    Returns:
        First and second output word, uint32, in the same shape.
    """
    schedule = [np.uint32(k) for k in (key[0], key[1], key[0] ^ key[1] ^ _PARITY)]
    x, y = high + schedule[0], low + schedule[1]
    carried = np.empty_like(y)
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x += y
            np.right_shift(y, np.uint32(32 - rotation), out=carried)
            y <<= np.uint32(rotation)
            y |= carried
            y ^= x
        x += schedule[(block + 1) % 3]
        y += schedule[(block + 2) % 3]
        y += np.uint32(block + 1)
    return x, y


def tensor_key(seed: int, layer: int, tensor: int) -> tuple[int, int]:
    """The key of one random tensor of one layer."""
    counter = (np.array([layer], np.uint32), np.array([tensor], np.uint32))
    x, y = threefry2x32((seed >> 32, seed & 0xFFFFFFFF), *counter)
    return int(x[0]), int(y[0])


def entries(key: tuple[int, int], addresses: np.ndarray, bits: int = 24, signs: bool = False) -> np.ndarray:
    """Random entries `((word >> (32 - bits)) << (24 - bits)) - 2^23`, in units of 2^-23.

    Args:
        key: The tensor's key.
        addresses: Flat positions in the tensor, int64, non-negative, shape `(n,)`.
        bits: Digits of a word that count, from the top.
        signs: Whether the entries are 2^23 where a word's top bit is set, and -2^23 elsewhere.

    Returns:
        Integers in `[-2^23, 2^23]`, int64, shape `(n,)`.
    """
    found = np.empty(addresses.shape, np.int64)
    count, unit = (1, 24) if signs else (bits, 24 - bits)
    for start in range(0, len(addresses), _CHUNK):
        part = addresses[start : start + _CHUNK]
        block = part >> 1
        x, y = threefry2x32(key, (block >> 32).astype(np.uint32), (block & 0xFFFFFFFF).astype(np.uint32))
        word = np.where(part & 1, y, x)
        found[start : start + _CHUNK] = ((word >> np.uint32(32 - count)).astype(np.int64) << unit) - (1 << 23)
    return found
