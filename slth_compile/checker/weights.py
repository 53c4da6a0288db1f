"""What a masked random layer amounts to, in exact integers, and how far that is from the target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, dyadic, from_centre, two_product, two_sum
from slth_compile.checker.decode import Mask
from slth_compile.checker.rational import Triple
from slth_compile.checker.source import Entries
from slth_compile.errors import VerificationError

_CHUNK = 1 << 16  # weights at a time
_TABLE = 1 << 21  # entries of U at a time

_ROOTS = np.array([min(7, math.isqrt(i)) for i in range(65)], np.uint8)

Where = tuple[np.ndarray, ...]
"""Indices of taps, channels and outputs."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Where the candidates of one gadget, one sign, come from.

    Attributes:
        name: Names it in messages.
        u: The tensor U.
        v: The tensor V.
        shape: Canonical kernel shape `(P, C, S/groups)`.
        width: Copies `j` per input channel, `N < 2^15`.
        window: Candidates in a window, at most 64.
        sign: 1 keeps copies with `U > 0`, -1 those with `U < 0`.
        groups: Groups of the layer; U has `C/groups` entries for each copy of a channel.
    """

    name: str
    u: Entries
    v: Entries
    shape: tuple[int, int, int]
    width: int
    window: int
    sign: int
    groups: int


def contexts(part: Part, windows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The contexts of candidates `U * V`: `min(7, floor(sqrt(|U * V| * 64)))`, in integers.

    Args:
        part: The gadget.
        windows: Window numbers of all weights, in C order.
        kept: Which weights keep something, bool, in C order.

    Returns:
        uint8 in 0..7, shape `(kept weights, window)`, weights in C order.

    Raises:
        VerificationError: A window that the source does not have.
    """
    found = np.empty((np.count_nonzero(kept), part.window), np.uint8)
    row = (np.cumsum(kept) - 1).reshape(part.shape)
    for where, places, copies, values in _chosen(part, windows.reshape(part.shape), kept.reshape(part.shape)):
        rows = row[where]
        for i in range(part.window):
            size = np.abs(_entries(part, where, copies[places + i]) * values[places + i])
            found[rows, i] = _ROOTS[size >> 40]
    return found


def effective_integers(part: Part, mask: Mask) -> np.ndarray:
    """Every effective weight `sum over kept j of V[j, p, t, s] * U[j, t]`, in units of 2^(gain - 46).

    Args:
        part: The gadget.
        mask: Windows and subsets of all weights, in C order.

    Returns:
        int64, of the part's shape; magnitudes stay below `64 * 2^46`.

    Raises:
        VerificationError: A subset names a candidate that the source does not have.
    """
    subsets = mask.subsets.reshape(part.shape)
    found = np.zeros(part.shape, np.int64)
    for where, places, copies, values in _chosen(part, mask.windows.reshape(part.shape), subsets != 0):
        chosen, total = subsets[where], np.zeros(len(places), np.int64)
        for i in range(part.window):
            kept = np.flatnonzero((chosen >> np.uint64(i)) & np.uint64(1))
            own = places[kept] + i
            at = tuple(index[kept] for index in where)
            total[kept] += _entries(part, at, copies[own]) * values[own]
        found[where] = total
    if found.size and int(np.abs(found).max()) >= 1 << 62:
        raise VerificationError("source", f"{part.name}: an effective weight leaves the 62 bits of the format")
    return found


def kept_entries(part: Part, mask: Mask) -> np.ndarray:
    """The kept entries of V, zero elsewhere: int64 `(N, P, C, S/groups)`, units of 2^(gain - 23).

    Raises:
        VerificationError: A subset names a candidate that the source does not have.
    """
    subsets = mask.subsets.reshape(part.shape)
    found = np.zeros((part.width, *part.shape), np.int64)
    for where, places, copies, _ in _chosen(part, mask.windows.reshape(part.shape), subsets != 0):
        chosen = subsets[where]
        for i in range(part.window):
            kept = np.flatnonzero((chosen >> np.uint64(i)) & np.uint64(1))
            at, own = tuple(index[kept] for index in where), copies[places[kept] + i]
            found[(own, *at)] = _entries(part, at, own)
    return found


def _chosen(
    part: Part, windows: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[Where, np.ndarray, np.ndarray, np.ndarray]]:
    """Some chosen weights at a time: where they are, and the place of their window's first candidate in two lists.

    The lists hold usable copies and their entries of U.
    """
    channels = part.shape[1]
    step = max(1, _TABLE // part.width)
    for start in range(0, channels, step):
        some = slice(start, min(channels, start + step))
        copies, values, offsets = _usable(part, some)
        tap, local, output = np.nonzero(chosen[:, some])
        for at in range(0, len(tap), _CHUNK):
            p, c, s = (index[at : at + _CHUNK] for index in (tap, local, output))
            where = (p, c + start, s)
            first = windows[where] * part.window
            if np.any(first + part.window > offsets[c + 1] - offsets[c]):
                raise VerificationError("masks", f"{part.name}: a window lies beyond the usable copies of its channel")
            yield where, offsets[c] + first, copies, values


def _entries(part: Part, where: Where, copies: np.ndarray) -> np.ndarray:
    """Entries of V of some weights, in these copies."""
    taps, channels, outputs = part.shape
    p, t, s = where
    return part.v(((copies * taps + p) * channels + t) * outputs + s)


def weight_error(integers: np.ndarray, exponent: int, kernel: np.ndarray, scale: Triple | None) -> Interval:
    """`integers * 2^exponent - kernel * scale`, enclosed.

    The products and the leading difference are exact, so the enclosure is as narrow as float64 allows.

    Args:
        integers: Effective weights, int64.
        exponent: `gain - 46`.
        kernel: Unfolded weights, the same shape.
        scale: What folding multiplies them by, of the same shape; None for 1.
    """
    high, low = dyadic(integers, exponent)
    if scale is None:
        product, rest, radius = kernel, np.float64(0), np.float64(0)
    else:
        product, lost = two_product(kernel, scale.high)
        second = kernel * scale.low
        rest, radius = lost + second, np.abs(kernel) * scale.radius + 4 * UNIT * (np.abs(lost) + np.abs(second))
    first, left = two_sum(high, -product)
    total, left_too = two_sum(first, low)
    tail = left + left_too - rest
    radius = radius + 8 * UNIT * (np.abs(left) + np.abs(left_too) + np.abs(rest)) + TINY
    return from_centre(total + tail, radius + 2 * UNIT * np.abs(total + tail))


def folded_weight(kernel: np.ndarray, scale: Triple | None) -> tuple[np.ndarray, np.ndarray | None]:
    """`(centre, radius)` of `kernel * scale`; the radius is None where the centre is exact."""
    if scale is None:
        return kernel, None
    centre, lost = two_product(kernel, scale.high)
    radius = np.abs(lost) + np.abs(kernel) * (np.abs(scale.low) + scale.radius)
    return centre, radius * (1 + 16 * UNIT) + TINY


def _usable(part: Part, some: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copies that a sign can use, channel after channel, ascending: their numbers, their entries, where each starts."""
    channels = part.shape[1]
    t = np.arange(some.start, some.stop)[:, None]
    inputs = channels // part.groups
    address = (np.arange(part.width) * channels + t) * inputs + t % inputs
    value = part.u(address.reshape(-1)).reshape(address.shape) * part.sign
    channel, copies = np.nonzero(value > 0)
    offsets = np.zeros(len(t) + 1, np.int64)
    np.cumsum(np.bincount(channel, minlength=len(t)), out=offsets[1:])
    return copies, part.sign * value[channel, copies], offsets
