"""What a masked random layer amounts to, in exact integers, and how far that is from the target."""

from __future__ import annotations

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, Interval, dyadic, from_centre, two_product, two_sum
from slth_compile.checker.decode import Mask
from slth_compile.checker.rational import Triple
from slth_compile.checker.threefry import entries
from slth_compile.errors import VerificationError

_CHUNK = 1 << 18  # weights at a time
_TABLE = 1 << 21  # entries of U at a time

Keys = tuple[tuple[int, int], tuple[int, int]]


def effective_integers(
    keys: Keys, shape: tuple[int, int, int], width: int, window: int, mask: Mask, *, sign: int, groups: int, what: str
) -> np.ndarray:
    """Every effective weight `sum over kept j of V[j, p, t, s] * U[j, t]`, in units of 2^(gain - 46).

    Args:
        keys: Keys of the tensors U and V.
        shape: Canonical kernel shape `(P, C, S/groups)`.
        width: Copies `j` per input channel, `N < 2^15`.
        window: Candidates in a window.
        mask: Windows and subsets of all weights, in C order of `shape`.
        sign: 1 keeps copies with `U > 0`, -1 those with `U < 0`.
        groups: Groups of the layer; U has `C/groups` entries for each copy of a channel.
        what: Names the gadget in messages.

    Returns:
        int64, of `shape`; magnitudes stay below `32 * 2^46`.

    Raises:
        VerificationError: A subset names a candidate that the source does not have.
    """
    taps, channels, outputs = shape
    windows, subsets = mask.windows.reshape(shape), mask.subsets.reshape(shape)
    found = np.zeros(shape, np.int64)
    step = max(1, _TABLE // width)
    for start in range(0, channels, step):
        part = slice(start, min(channels, start + step))
        copies, values, offsets = _usable(keys[0], width, channels, groups, part, sign)
        tap, channel, output = np.nonzero(subsets[:, part])
        for at in range(0, len(tap), _CHUNK):
            p, local, s = tap[at : at + _CHUNK], channel[at : at + _CHUNK], output[at : at + _CHUNK]
            t = local + start
            first = windows[p, t, s] * window
            if np.any(first + window > offsets[local + 1] - offsets[local]):
                raise VerificationError("masks", f"{what}: a window lies beyond the usable copies of its channel")
            chosen, total = subsets[p, t, s], np.zeros(len(p), np.int64)
            for bit in range(window):
                kept = np.flatnonzero((chosen >> np.uint32(bit)) & np.uint32(1))
                place = offsets[local[kept]] + first[kept] + bit
                address = ((copies[place] * taps + p[kept]) * channels + t[kept]) * outputs + s[kept]
                total[kept] += entries(keys[1], address) * values[place]
            found[p, t, s] = total
    if found.size and int(np.abs(found).max()) >= 1 << 62:
        raise VerificationError("source", f"{what}: an effective weight leaves the 62 bits of the format")
    return found


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


def _usable(key: tuple[int, int], width: int, channels: int, groups: int, part: slice, sign: int):
    """Copies that a sign can use, channel after channel, ascending: their numbers, their entries, where each starts."""
    t = np.arange(part.start, part.stop)[:, None]
    inputs = channels // groups
    address = (np.arange(width) * channels + t) * inputs + t % inputs
    value = entries(key, address.reshape(-1)).reshape(address.shape) * sign
    channel, copies = np.nonzero(value > 0)
    offsets = np.zeros(len(t) + 1, np.int64)
    np.cumsum(np.bincount(channel, minlength=len(t)), out=offsets[1:])
    return copies, sign * value[channel, copies], offsets
