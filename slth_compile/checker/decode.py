"""Coded masks: for every weight a window number in unary and a subset of that window in bits."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.checker.safetensors import Tensor
from slth_compile.errors import VerificationError

_CHUNK = 1 << 20  # bytes unpacked at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """What is kept of one gadget, one sign.

    Attributes:
        windows: Each weight's window number, int64, shape `(weights,)`.
        subsets: Each weight's subset, bit `i` for the window's candidate `i`, uint32, shape `(weights,)`.
    """

    windows: np.ndarray
    subsets: np.ndarray


def decode_mask(windows: Tensor, subsets: Tensor, weights: int, window: int, what: str) -> Mask:
    """The mask behind two coded tensors.

    Args:
        windows: Unary codes, `k` ones and a zero for each weight, least significant bit of each byte first.
        subsets: `window` bits a weight, least significant first.
        weights: How many weights there are.
        window: Candidates in a window, 1 to 32.
        what: Names the mask in messages.

    Raises:
        VerificationError: A code is too short, too long, not padded with zeros, or not the canonical one.
    """
    for tensor in (windows, subsets):
        if tensor.dtype != "U8" or len(tensor.shape) != 1:
            raise VerificationError("masks", f"{what} is stored as {tensor.dtype} {tensor.shape}, expected bytes")
    if 8 * len(subsets.raw) != -(-weights * window // 8) * 8:
        raise VerificationError(
            "masks", f"{what}: {len(subsets.raw)} bytes of subsets, expected {-(-weights * window // 8)}"
        )
    if 8 * len(windows.raw) < weights:
        raise VerificationError(
            "masks", f"{what}: {len(windows.raw)} bytes of windows, expected a bit a weight at least"
        )
    mask = Mask(_unary(windows.raw, weights, what), _fixed(subsets.raw, weights, window, what))
    if np.any((mask.subsets == 0) & (mask.windows != 0)):
        raise VerificationError("masks", f"{what}: an empty subset names a window, expected window 0")
    return mask


def _unary(raw: np.ndarray, weights: int, what: str) -> np.ndarray:
    """How many ones stand before each of the zeros."""
    zeros: list[np.ndarray] = []
    count = 0
    for start in range(0, len(raw), _CHUNK):
        bits = np.unpackbits(raw[start : start + _CHUNK], bitorder="little")
        zeros.append(np.flatnonzero(bits == 0) + 8 * start)
        count += len(zeros[-1])
        if count > weights + 8:
            raise VerificationError("masks", f"{what}: more than {weights} window codes")
    ends = np.concatenate(zeros) if zeros else np.empty(0, np.int64)
    if count < weights:
        raise VerificationError("masks", f"{what}: {count} window codes, expected {weights}")
    last = int(ends[weights - 1]) + 1
    if len(raw) != -(-last // 8) or count != weights + 8 * len(raw) - last:
        raise VerificationError("masks", f"{what}: the window codes are not padded with zeros to the next byte")
    return np.diff(ends[:weights], prepend=-1) - 1


def _fixed(raw: np.ndarray, weights: int, window: int, what: str) -> np.ndarray:
    """The numbers of `window` bits each."""
    values = np.empty(weights, np.uint32)
    place = np.uint32(1) << np.arange(window, dtype=np.uint32)
    step = _CHUNK // 32 * 8  # a multiple of 8 weights starts at a byte
    for start in range(0, weights, step):
        stop = min(weights, start + step)
        part = raw[start * window // 8 : -(-stop * window // 8)]
        bits = np.unpackbits(part, bitorder="little")
        used = (stop - start) * window
        if bits[used:].any():
            raise VerificationError("masks", f"{what}: the subsets are not padded with zeros")
        values[start:stop] = bits[:used].reshape(-1, window) @ place
    return values
