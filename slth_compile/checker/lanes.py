"""Bits out of lanes: a static rANS decoder, one NumPy operation for all lanes.

A sequence of bits has one stored number q, and with it the probability `a / 2^15` of a one: `a = q^2` up to q = 128,
`2^15 - (256 - q)^2` above. Its bits are coded eight at a time, as bytes of fixed frequencies of 2^24; byte `i` is in
lane `i mod L`. A lane is a state below 2^64 and words of 32 bits:

    slot = state mod 2^24,  byte = the one with start <= slot < start + frequency
    state = frequency * floor(state / 2^24) + slot - start;  below 2^32 a word is appended: state * 2^32 + word
"""

from __future__ import annotations

import numpy as np

from slth_compile.errors import VerificationError

_ONE = 1 << 15
_STATE_BITS, _WORD_BITS = np.uint64(24), np.uint64(32)
_SLOT, _LOWEST = np.uint64((1 << 24) - 1), np.uint64(1 << 32)


def numerator(q: int) -> int:
    """The probability of a one that `q` in 0..255 stands for, times 2^15."""
    return q * q if q <= 128 else _ONE - (256 - q) ** 2


def nearest(ones: int, size: int) -> int:
    """The `q` that a sequence must have: 0 without ones, otherwise the nearest to `ones / size`, the smaller of two."""
    if ones == 0:
        return 0
    return min(range(1, 256), key=lambda q: (abs(numerator(q) * size - _ONE * ones), q))


def frequencies(q: int) -> list[int]:
    """Frequencies of the bytes 0 to 255, of 2^24.

    `1 + floor((2^24 - 256) p^j (1-p)^(8-j))` for a byte with j ones; the rest to byte 0, or to 255 where p > 1/2.
    """
    a, room = numerator(q), (1 << 24) - 256
    found = [
        1 + room * a ** byte.bit_count() * (_ONE - a) ** (8 - byte.bit_count()) // (1 << 120) for byte in range(256)
    ]
    found[255 if 2 * a > _ONE else 0] += (1 << 24) - sum(found)
    return found


class Lanes:
    """What is left to read of some lanes.

    Args:
        words: All words, lane after lane, uint32.
        lengths: How many words each lane has, int64.
        what: Names the mask in messages.

    Raises:
        VerificationError: A lane does not begin with a state of at least 2^32, high word first.
    """

    def __init__(self, words: np.ndarray, lengths: np.ndarray, what: str) -> None:
        self._words, self._what = words.astype(np.uint64), what
        self._ends = np.cumsum(lengths)
        begin = self._ends - lengths
        if len(words) != self._ends[-1] or np.any(lengths < 2):
            raise VerificationError("masks", f"{what}: {len(words)} words do not hold the states of all lanes")
        self._states = self._words[begin] << _WORD_BITS | self._words[begin + 1]
        self._next = begin + 2
        if np.any(self._states < _LOWEST):
            raise VerificationError("masks", f"{what}: a lane begins with a state below 2^32")

    def read(self, size: int, q: int) -> np.ndarray:
        """The next `size` bits, as bool.

        Raises:
            VerificationError: The words end early, the last byte is not filled up with zeros, or `q` is not nearest.
        """
        data = np.zeros(-(-size // 8), np.uint8)
        if q:
            try:
                self._decode(data, frequencies(q))
            except IndexError:
                raise VerificationError("masks", f"{self._what}: the words end before the mask does") from None
        bits = np.unpackbits(data, bitorder="little")
        if bits[size:].any():
            raise VerificationError("masks", f"{self._what}: a sequence is not filled up with zeros")
        found = nearest(int(np.count_nonzero(bits[:size])), size)
        if q != found:
            raise VerificationError("masks", f"{self._what}: a sequence states {q} where its bits ask for {found}")
        return bits[:size].view(bool)

    def finish(self) -> None:
        """Nothing, where every lane is used up and back at its start.

        Raises:
            VerificationError: Words are left over or were read from another lane, or a state is not 2^32.
        """
        if np.any(self._next != self._ends) or np.any(self._states != _LOWEST):
            raise VerificationError("masks", f"{self._what}: a lane does not end in the state 2^32 at its last word")

    def _decode(self, data: np.ndarray, counts: list[int]) -> None:
        frequency = np.array(counts, np.uint64)
        above = np.cumsum(frequency)
        start = above - frequency
        for first in range(0, len(data), len(self._states)):
            part = data[first : first + len(self._states)]
            states, following = self._states[: len(part)], self._next[: len(part)]
            slot = states & _SLOT
            byte = np.searchsorted(above, slot, side="right")
            states[:] = frequency[byte] * (states >> _STATE_BITS) + slot - start[byte]
            low = np.flatnonzero(states < _LOWEST)
            states[low] = states[low] << _WORD_BITS | self._words[following[low]]
            following[low] += 1
            part[:] = byte
