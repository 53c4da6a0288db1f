"""Coded masks: flags, window numbers in unary and subsets, every bit in its context, out of `lanes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from slth_compile.checker.lanes import Lanes
from slth_compile.checker.safetensors import Tensor
from slth_compile.errors import VerificationError

CONTEXTS = 8
_CHUNK = 1 << 16  # candidates at a time

Contexts = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From window numbers `(weights,)` and which weights keep something, bool `(weights,)`, to the contexts of those
weights' candidates, uint8 `(kept, window)` in 0..7."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """What is kept of one gadget, one sign.

    Attributes:
        windows: Each weight's window number, int64, shape `(weights,)`.
        subsets: Each weight's subset, bit `i` for the window's candidate `i`, uint64, shape `(weights,)`.
    """

    windows: np.ndarray
    subsets: np.ndarray


def decode_mask(tensor: Tensor, weights: int, window: int, offered: int, contexts: Contexts, what: str) -> Mask:
    """The mask behind one coded tensor.

    The tensor holds, little-endian: the largest window number W, two bytes; a byte `q` for each sequence; the number of
    words of all lanes but the last, four bytes each; the words. The sequences are: 1 for a weight that keeps nothing;
    for W levels j, of the others with a window of j or more, 1 for more than j; the subset bits, by context.

    Args:
        tensor: The code.
        weights: How many weights there are.
        window: Candidates in a window, 1 to 64.
        offered: Windows that a channel can have at most.
        contexts: Tells the contexts of candidates.
        what: Names the mask in messages.

    Raises:
        VerificationError: It is too short, too long, or not the one code of a mask.
    """
    if tensor.dtype != "U8" or len(tensor.shape) != 1:
        raise VerificationError("masks", f"{what} is stored as {tensor.dtype} {tensor.shape}, expected bytes")
    levels, q, lanes = _parts(tensor.raw, max(1, weights * window // (1 << 16)), what)
    if levels >= max(1, offered):
        raise VerificationError("masks", f"{what}: a window lies beyond the {offered} that any channel can have")
    kept = ~lanes.read(weights, q[0])
    windows = np.zeros(weights, np.int64)
    further = np.flatnonzero(kept)
    for level in range(levels):
        further = further[lanes.read(len(further), q[1 + level])]
        windows[further] = level + 1
    if levels and not len(further):
        raise VerificationError("masks", f"{what}: no weight has the largest window number {levels}")
    found = contexts(windows, kept)
    counts = [np.count_nonzero(found == c) for c in range(CONTEXTS)]
    bits = [lanes.read(int(n), q[1 + levels + c]) for c, n in enumerate(counts)]
    lanes.finish()
    subsets = np.zeros(weights, np.uint64)
    subsets[kept] = _subsets(found, bits)
    if not subsets[kept].all():
        raise VerificationError("masks", f"{what}: an empty subset is not flagged as one")
    return Mask(windows, subsets)


def _parts(raw: np.ndarray, count: int, what: str) -> tuple[int, list[int], Lanes]:
    """The largest window number, `q` of each sequence, the lanes."""
    if len(raw) < 2:
        raise VerificationError("masks", f"{what}: {len(raw)} bytes, expected a code")
    levels = int(raw[0]) + 256 * int(raw[1])
    table = 3 + levels + CONTEXTS
    words = table + 4 * (count - 1)
    if len(raw) < words or (len(raw) - words) % 4:
        raise VerificationError("masks", f"{what}: {len(raw)} bytes, expected {words} and whole words")
    lengths = np.frombuffer(raw[table:words].tobytes(), "<u4").astype(np.int64)
    stream = np.frombuffer(raw[words:].tobytes(), "<u4")
    last = len(stream) - int(lengths.sum())
    if last < 0:
        raise VerificationError("masks", f"{what}: {len(stream)} words, expected {int(lengths.sum())} and more")
    return levels, raw[2:table].tolist(), Lanes(stream, np.append(lengths, last), what)


def _subsets(contexts: np.ndarray, bits: list[np.ndarray]) -> np.ndarray:
    """The next bit of its context for each candidate, packed, uint64 `(kept,)`."""
    kept, window = contexts.shape
    found = np.zeros((kept, 8), np.uint8)
    used = np.zeros(CONTEXTS, np.int64)
    step = max(1, _CHUNK // window)
    for at in range(0, kept, step):
        flat = contexts[at : at + step].reshape(-1)
        counts = [np.count_nonzero(flat == c) for c in range(CONTEXTS)]
        own = np.empty(len(flat), np.uint8)
        own[np.argsort(flat, kind="stable")] = np.concatenate(
            [bits[c][used[c] : used[c] + n] for c, n in enumerate(counts)]
        )
        used += counts
        packed = np.packbits(own.reshape(-1, window), axis=1, bitorder="little")
        found[at : at + step, : packed.shape[1]] = packed
    return found.view("<u8")[:, 0]
