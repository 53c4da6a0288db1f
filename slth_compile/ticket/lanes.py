"""Sequences of bits, each with one probability, as 32-bit words: static asymmetric numeral systems in lanes.

A sequence is cut into bytes of eight bits, the first bit lowest, the last byte filled up with zeros. Its probability of
a one is `a(q) / 2^15` with one stored number `q`,

    a(q) = q^2 for q <= 128,   2^15 - (256 - q)^2 above;   q = 0: the sequence has no ones and is not coded

and a byte with `j` ones has the frequency, of 2^24,

    f(j) = 1 + floor((2^24 - 256) (a / 2^15)^j (1 - a / 2^15)^(8-j))

where what is missing to 2^24 goes to byte 0 (a <= 2^14) or 255. Bytes are in ascending order in the cumulative table.
Byte `i` of a sequence is coded in lane `i mod L`, one sequence after the other; every lane is the rANS coder with a
state of 64 bits, words of 32 and start 2^32 (`constriction`'s `AnsCoder`). The spacing of a(q) costs at most 2.3e-5
bits for each bit coded, at any probability that is stored.

`constriction` takes floats for probabilities and makes them fixed-point itself: entry `i` of its cumulative table is
`floor(sum of the first i floats * scale) + i`, `scale = (2^24 - 256) / (sum of all)`. Given the floats `f - 1`, which
float32 holds exactly, `scale` is 1 and the table is ours to the bit; a test compares it with a coder in integers, word
for word, for every `q`. So `constriction` writes the words, and reads them back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np

from slth_compile.errors import InputError

_ONE, _TOTAL = 1 << 15, 1 << 24
_ans: Any = constriction.stream  # type: ignore[attr-defined]
_START = np.array([0, 1], np.uint32)  # the state 2^32
_A = np.array([q * q if q <= 128 else _ONE - (256 - q) ** 2 for q in range(256)], np.int64)


def quantised(ones: int, size: int) -> int:
    """The `q` whose probability is nearest to `ones / size`, the smaller of two; 0 exactly where there are no ones.

    Args:
        ones: Ones of a sequence.
        size: Its bits, below 2^47.
    """
    return 0 if ones == 0 else 1 + int(np.argmin(np.abs(_A[1:] * size - (ones << 15))))


@functools.lru_cache(256)
def frequencies(q: int) -> np.ndarray:
    """Frequencies of the bytes 0..255 of a sequence with probability `a(q) / 2^15`, int64, summing to 2^24."""
    a = int(_A[q])
    of_count = [1 + (a**j * (_ONE - a) ** (8 - j) * (_TOTAL - 256) >> 120) for j in range(9)]
    found = np.array(of_count, np.int64)[np.bitwise_count(np.arange(256, dtype=np.uint8))]
    found[0 if a <= _ONE // 2 else 255] += _TOTAL - found.sum()
    found.setflags(write=False)
    return found


def write(sequences: Sequence[np.ndarray], numbers: Sequence[int], lanes: int) -> list[np.ndarray]:
    """The words of every lane, in the order in which they are read.

    Args:
        sequences: Bytes of each sequence, uint8.
        numbers: Their `q`; a sequence with 0 is left out.
        lanes: Number of lanes L.

    Returns:
        uint32 arrays: high and low half of the state, then the words.
    """
    coded = [(len(data), _dealt(data, lanes), _model(q)) for data, q in zip(sequences, numbers, strict=True) if q]
    found = []
    for lane in range(lanes):
        coder = _ans.stack.AnsCoder(_START)
        for size, dealt, model in reversed(coded):  # what is written last is read first
            coder.encode_reverse(dealt[lane, : _share(size, lane, lanes)].astype(np.int32), model)
        found.append(coder.get_compressed()[::-1])
    return found


class Reader:
    """Reads the sequences back, in the order they were written.

    Args:
        words: The words of every lane, as `write` returns them.

    Raises:
        InputError: A lane has no whole state.
    """

    def __init__(self, words: Sequence[np.ndarray]) -> None:
        if any(len(lane) < 2 or lane[0] == 0 for lane in words):
            raise InputError("masks: a lane has no state of 2^32 or more")
        self._coders = [_ans.stack.AnsCoder(np.ascontiguousarray(lane[::-1])) for lane in words]

    def read(self, size: int, q: int) -> np.ndarray:
        """The next sequence's bits, uint8 of shape `(size,)`.

        Raises:
            InputError: `q` is not that of the bits, or the last byte is not filled up with zeros.
        """
        data = np.zeros(-(-size // 8), np.uint8)
        if q:
            for lane, coder in enumerate(self._coders[: len(data)]):
                data[lane :: len(self._coders)] = coder.decode(
                    _model(q), len(range(lane, len(data), len(self._coders)))
                )
        bits = np.unpackbits(data, bitorder="little")
        if bits[size:].any():
            raise InputError("masks: the last byte of a sequence is not filled up with zeros")
        if quantised(int(np.count_nonzero(bits[:size])), size) != q:
            raise InputError(f"masks: a sequence of {size} bits does not have the probability stored for it")
        return bits[:size]

    def finish(self) -> None:
        """Nothing, where every lane is used up.

        Raises:
            InputError: Words are missing or left over. A lane that runs out of words stays below 2^32 for good.
        """
        if any(coder.get_compressed().tolist() != _START.tolist() for coder in self._coders):
            raise InputError("masks: a lane does not end in the state 2^32 with all of its words read")


def _dealt(data: np.ndarray, lanes: int) -> np.ndarray:
    """Bytes by lane, `(lanes, steps)`, zeros where a lane gets one less."""
    steps = -(-len(data) // lanes)
    return np.ascontiguousarray(np.pad(data, (0, steps * lanes - len(data))).reshape(steps, lanes).T)


def _share(size: int, lane: int, lanes: int) -> int:
    """How many of `size` bytes a lane gets."""
    return len(range(lane, size, lanes))


@functools.lru_cache(256)
def _model(q: int) -> Any:
    return _ans.model.Categorical((frequencies(q) - 1).astype(np.float32), perfect=False, lazy=False)
