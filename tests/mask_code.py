"""The code of masks in plain Python integers, bit by bit: a second reading of the format, and a way to write lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

CONTEXTS = 8


def numerator(q: int) -> int:
    return q * q if q <= 128 else 32768 - (256 - q) ** 2


def nearest(bits: Sequence[int]) -> int:
    """The number stored for the probability of a one."""
    ones, size = sum(bits), len(bits)
    distances = [abs(numerator(q) * size - 32768 * ones) for q in range(1, 256)]
    return 0 if ones == 0 else 1 + distances.index(min(distances))


def frequencies(q: int) -> list[int]:
    """Frequencies of the bytes, of 2^24."""
    one, zero = numerator(q), 32768 - numerator(q)
    found = []
    for byte in range(256):
        product = 1
        for i in range(8):
            product *= one if byte >> i & 1 else zero
        found.append(1 + (2**24 - 256) * product // 2**120)
    found[0 if one <= 16384 else 255] += 2**24 - sum(found)
    return found


def context(candidate: int) -> int:
    """The context of a candidate, in units of 2^-46."""
    return min(7, math.isqrt(abs(candidate) >> 40))


def lane_count(weights: int, window: int) -> int:
    return max(1, weights * window // 65536)


def lane_words(sequences: Sequence[Sequence[int]], numbers: Sequence[int], lanes: int) -> list[list[int]]:
    """The words of each lane, high half of the state first."""
    symbols: list[list[tuple[int, int, int]]] = [[] for _ in range(lanes)]  # byte, start, frequency
    for bits, q in zip(sequences, numbers, strict=True):
        if q:
            table = frequencies(q)
            for b in range(-(-len(bits) // 8)):
                byte = sum(bit << i for i, bit in enumerate(bits[8 * b : 8 * b + 8]))
                symbols[b % lanes].append((byte, sum(table[:byte]), table[byte]))
    found = []
    for lane in symbols:
        state, words = 2**32, []
        for _, start, frequency in reversed(lane):
            if state >= frequency << 40:
                words.append(state % 2**32)
                state >>= 32
            state = (state // frequency << 24) + state % frequency + start
        found.append([state >> 32, state % 2**32, *reversed(words)])
    return found


def assemble(levels: int, numbers: Sequence[int], words: Sequence[Sequence[int]]) -> bytes:
    """The bytes of a code."""
    lengths = b"".join(len(lane).to_bytes(4, "little") for lane in words[:-1])
    stream = b"".join(word.to_bytes(4, "little") for lane in words for word in lane)
    return levels.to_bytes(2, "little") + bytes(numbers) + lengths + stream


def sequences_of(
    empty: Sequence[int],
    windows: Sequence[int],
    subsets: Sequence[int],
    contexts: Callable[[int, int], Sequence[int]],
    window: int,
) -> list[list[int]]:
    """Flags, levels and contexts; `contexts(weight, number of its window)` are those of its candidates."""
    kept = [w for w, flag in enumerate(empty) if not flag]
    levels = [
        [int(windows[w] > level) for w in kept if windows[w] >= level]
        for level in range(max((windows[w] for w in kept), default=0))
    ]
    split: list[list[int]] = [[] for _ in range(CONTEXTS)]
    for w in kept:
        own = contexts(w, windows[w])
        for i in range(window):
            split[own[i]].append(subsets[w] >> i & 1)
    return [list(empty), *levels, *split]


def encode(
    windows: Sequence[int],
    subsets: Sequence[int],
    contexts: Callable[[int, int], Sequence[int]],
    window: int,
    empty: Sequence[int] | None = None,
) -> bytes:
    """The code of a mask; `empty` may lie about it."""
    empty = [int(subset == 0) for subset in subsets] if empty is None else empty
    sequences = sequences_of(empty, windows, subsets, contexts, window)
    numbers = [nearest(bits) for bits in sequences]
    words = lane_words(sequences, numbers, lane_count(len(subsets), window))
    return assemble(len(sequences) - 1 - CONTEXTS, numbers, words)


def decode(
    raw: bytes, weights: int, window: int, contexts: Callable[[int, int], Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Windows and subsets of a true code."""
    levels, lanes = int.from_bytes(raw[:2], "little"), lane_count(weights, window)
    numbers, rest = list(raw[2 : 3 + levels + CONTEXTS]), raw[3 + levels + CONTEXTS :]
    values = [int.from_bytes(rest[i : i + 4], "little") for i in range(0, len(rest), 4)]
    lengths, words = values[: lanes - 1], values[lanes - 1 :]
    streams = []
    for length in [*lengths, len(words) - sum(lengths)]:
        streams.append([words[0] << 32 | words[1], words[2:length]])
        words = words[length:]

    def read(size: int, q: int) -> list[int]:
        bits: list[int] = []
        table = frequencies(q)
        for b in range(-(-size // 8) if q else 0):
            stream = streams[b % lanes]
            slot, byte = stream[0] % 2**24, 0
            while slot >= table[byte]:
                slot, byte = slot - table[byte], byte + 1
            stream[0] = table[byte] * (stream[0] >> 24) + slot
            if stream[0] < 2**32:
                stream[0] = stream[0] << 32 | stream[1].pop(0)
            bits += [byte >> i & 1 for i in range(8)]
        assert not any(bits[size:])
        return bits[:size] if q else [0] * size

    kept = [w for w, flag in enumerate(read(weights, numbers[0])) if not flag]
    windows, subsets, further = [0] * weights, [0] * weights, kept
    for level in range(levels):
        further = [w for w, on in zip(further, read(len(further), numbers[1 + level]), strict=True) if on]
        for w in further:
            windows[w] = level + 1
    own = {w: contexts(w, windows[w]) for w in kept}
    counts = [sum(list(c).count(k) for c in own.values()) for k in range(CONTEXTS)]
    split = [read(count, q) for count, q in zip(counts, numbers[1 + levels :], strict=True)]
    for w in kept:
        subsets[w] = sum(split[own[w][i]].pop(0) << i for i in range(window))
    assert all(stream == [2**32, []] for stream in streams)
    return windows, subsets
