"""How much a weighted layer can lengthen a vector: upper bounds on its norm as a map of whole inputs to whole outputs.

The least of three bounds counts:

* by sums of magnitudes: `sqrt(A B)`, A the largest of all outputs' sums, B the largest of all inputs' sums;
* by patches: a window's output is `R^T` times its patch, and an element lies in at most k patches: `sqrt(k) |R|`;
* by frequencies, for which the layer is laid on a torus.

On one axis, tap t of window p reads place `p * stride + o_t`, `o_t = t * dilation - padding`. Let `end` be the last
place read and n' of the n elements be read. On a circle of `stride * U` places zeros stay zeros for every window if
`stride * U > end` and `stride * U + min o >= n'`; with `U >= windows` all outputs are there. The circular map contains
the layer, and its norm is the largest of those of its blocks, one a frequency w: with `o_t = stride * a + r`, rows by
(r, input channel), `sum over t of exp(2 pi i w a_t / U) K_t`.

With more than N places on an axis, N frequencies are tried: the largest norm over all is at most `1 / cos(pi q / 2N)`
times the largest at the N, q the range of a (M. Riesz: a trigonometric polynomial of degree q/2 falls no faster than
the cosine of that frequency around its maximum).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import TINY, UNIT, gamma, up
from slth_compile.checker.fold import Layer
from slth_compile.checker.gram import spectral_norm
from slth_compile.checker.shapes import positions

_WORK = 1 << 34  # most of matrices * size^2 * (512 + size)
_FREQUENCIES = (64, 32, 16)  # most of one axis, the first that the work allows
_MOST_FOUND = 1 << 12
_found: dict[bytes, float] = {}
_ENTRIES = 1 << 19  # of matrices at a time
_TURN = Decimal("6.283185307179586476925286766559005768394338798750211641949889")


class _Axis(NamedTuple):
    taps: list[int]
    ahead: list[int]
    residue: list[int]
    places: int
    reads: int


def layer_norm(layer: Layer, shape: tuple[int, ...], centre: np.ndarray, radius: np.ndarray) -> float:
    """At least the norm of the layer, without bias, for every kernel in `centre +- radius`.

    Args:
        layer: Geometry.
        shape: Of the input of one sample, channels last.
        centre: One matrix a group, `(groups, taps * C/groups, S/groups)`.
        radius: The same shape, not negative.

    Returns:
        A float64; infinite where an entry is not finite or no bound was proved.
    """
    found = [_axis(*axis) for axis in zip(shape, layer.taps, layer.stride, layer.padding, layer.dilation, strict=False)]
    axes = [axis for axis in found if axis is not None]
    if len(axes) < len(found):
        return 0.0  # padding is all that is read
    groups, _, outputs = centre.shape

    def by_tap(array: np.ndarray) -> np.ndarray:
        split = array.reshape(groups, *layer.taps, -1, outputs)
        for place, axis in enumerate(axes, 1):
            split = split.take(axis.taps, axis=place)
        return split.reshape(groups, math.prod(len(axis.taps) for axis in axes), -1, outputs)

    if not (np.isfinite(centre).all() and np.isfinite(radius).all()):
        return math.inf
    around = _by_sums(by_tap(radius), axes) if radius.any() else 0.0
    kernel = by_tap(centre)
    if not kernel.any():
        return around
    exponent = math.frexp(np.abs(kernel).max())[1]
    kernel = np.ldexp(kernel, -exponent)
    with np.errstate(over="ignore"):
        return float(up(np.ldexp(np.array(_smallest(kernel, axes)), exponent) + around))


def _smallest(kernel: np.ndarray, axes: Sequence[_Axis]) -> float:
    """The least of the three; what was found for the same numbers before is not computed again."""
    kernel = np.ascontiguousarray(kernel)
    key = hashlib.sha256(repr((_WORK, _FREQUENCIES, axes, kernel.shape)).encode() + kernel.tobytes()).digest()
    if key not in _found:
        bounds = [_by_sums(kernel, axes), _by_patches(kernel, axes)]
        if kernel.shape[1] > 1:
            bounds.append(_by_frequencies(kernel, axes))
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        _found[key] = min(bounds)
        return min(bounds)
    return _found[key]


def row_norms(centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """At least the norm of one output's weights, for every output channel, `(S,)`; arguments as for `layer_norm`."""
    rows = [array.transpose(0, 2, 1).reshape(-1, array.shape[1]) for array in (centre, radius)]
    return up(vector_norms(rows[0]) + vector_norms(rows[1]))


def vector_norms(vectors: np.ndarray) -> np.ndarray:
    """At least the norm of each row of an array, whatever its scale; infinite where it is not a number."""
    with np.errstate(all="ignore"):
        largest = np.abs(vectors).max(axis=1, initial=0.0)
        exponent = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1], 0)
        squares = np.square(np.ldexp(vectors, -exponent[:, None])).sum(axis=1)
        roots = np.sqrt(squares * (1 + gamma(vectors.shape[1] + 8)) + TINY) * (1 + 4 * UNIT)
        found = np.where(largest == 0, 0.0, up(np.ldexp(roots, exponent)))
    return np.where(np.isnan(found), np.inf, found)


def most_reads(size: int, taps: int, stride: int, padding: tuple[int, int]) -> int:
    """How many windows of an axis hold one element, at most."""
    axis = _axis(size, taps, stride, padding, 1)
    return 0 if axis is None else axis.reads


def _axis(size: int, taps: int, stride: int, padding: tuple[int, int], dilation: int) -> _Axis | None:
    windows = positions(size, taps, stride, padding, dilation)
    counts = [0] * size
    used = []
    for tap in range(taps):
        places = [p * stride + tap * dilation - padding[0] for p in range(windows)]
        inside = [place for place in places if 0 <= place < size]
        for place in inside:
            counts[place] += 1
        if inside:
            used.append(tap)
    if not used:
        return None
    first, last = used[0] * dilation - padding[0], used[-1] * dilation - padding[0]
    end = (windows - 1) * stride + last
    needed = max(end + 1, min(size, end + 1) - first)
    split = [divmod(tap * dilation - padding[0], stride) for tap in used]
    return _Axis(used, [a for a, _ in split], [r for _, r in split], max(windows, -(-needed // stride)), max(counts))


def _by_sums(kernel: np.ndarray, axes: Sequence[_Axis]) -> float:
    with np.errstate(over="ignore"):
        magnitude = np.abs(kernel) * (1 + gamma(kernel[0].size + 8))
        outputs = magnitude.sum(axis=(1, 2)).max()
        inputs = max(magnitude[:, which].sum(axis=(1, 3)).max() for which in _by_residue(axes))
        return float(np.sqrt(outputs + TINY) * np.sqrt(inputs + TINY) * (1 + 8 * UNIT))


def _by_patches(kernel: np.ndarray, axes: Sequence[_Axis]) -> float:
    groups, _, _, outputs = kernel.shape
    reads = math.prod(axis.reads for axis in axes)
    norm = spectral_norm(kernel.reshape(groups, -1, outputs))
    return (norm + kernel[0].size * 2.0**-1000) * math.sqrt(reads) * (1 + 8 * UNIT)


def _by_frequencies(kernel: np.ndarray, axes: Sequence[_Axis]) -> float:
    groups, taps, channels, outputs = kernel.shape
    parts = _by_residue(axes)
    size = min(len(parts) * channels, outputs)
    for most in _FREQUENCIES:
        counts, factor = [], 1.0
        for axis in axes:
            q = max(axis.ahead) - min(axis.ahead)
            counts.append(1 if q == 0 else min(axis.places, most))
            if q and axis.places > most:
                # 2^-40 is far more than the error of a cosine whose argument is this far from pi/2.
                factor *= (1 + 2.0**-40) / math.cos(math.pi * q / (2 * most)) if q < most else math.inf
        if math.isfinite(factor) and groups * math.prod(counts) // 2 * size**2 * (512 + size) <= _WORK:
            break
    else:
        return math.inf
    half = counts.index(max(counts))  # opposite frequencies give conjugate matrices
    frequencies = itertools.product(*(range(n // 2 + 1 if i == half else n) for i, n in enumerate(counts)))
    ahead = list(itertools.product(*(axis.ahead for axis in axes)))
    circles = [_circle(n) for n in counts]
    room = max(1, _ENTRIES // (groups * len(parts) * channels * outputs))
    largest = 0.0
    while some := list(itertools.islice(frequencies, room)):
        turns = np.array([[(turn.real, turn.imag) for turn in (_turn(w, a, circles) for a in ahead)] for w in some])
        blocks = []
        for which in parts:
            flat = kernel[:, which].reshape(groups, len(which), -1)
            both = [np.matmul(np.ascontiguousarray(turns[:, which, part]), flat) for part in (0, 1)]
            blocks.append([part.reshape(-1, channels, outputs) for part in both])
        real, imaginary = (np.concatenate(part, axis=1) for part in zip(*blocks, strict=True))
        copies = 2 if imaginary.any() else 1
        if copies == 2:
            # A complex matrix X + i Y acts on real and imaginary parts as [[X, -Y], [Y, X]], of the same norm.
            upper, below = np.concatenate([real, -imaginary], axis=2), np.concatenate([imaginary, real], axis=2)
            real = np.concatenate([upper, below], axis=1)
        largest = max(largest, spectral_norm(real, copies))
    # An entry is off by sqrt(2) gamma_taps and the error of its roots, times the sum of magnitudes over taps.
    sums = np.concatenate([np.abs(kernel[:, which]).sum(axis=1) for which in parts], axis=1)
    off = float(vector_norms(sums.reshape(groups, -1)).max()) * (gamma(2 * taps + 8) + 16 * UNIT) * (1 + 2.0**-20)
    return (largest + off + kernel[0].size * 2.0**-1000) * factor * (1 + 8 * UNIT)


def _by_residue(axes: Sequence[_Axis]) -> list[list[int]]:
    """Numbers of the taps of each residue."""
    every = list(itertools.product(*(axis.residue for axis in axes)))
    return [[i for i, residue in enumerate(every) if residue == one] for one in sorted(set(every))]


def _turn(frequency: Sequence[int], ahead: Sequence[int], circles: Sequence[list[complex]]) -> complex:
    """`exp(2 pi i w a / n)` over all axes: up to three roots off by sqrt(2) u each, and their products' rounding."""
    found = complex(1)
    for w, a, circle in zip(frequency, ahead, circles, strict=True):
        found *= circle[w * a % len(circle)]
    return found


def _circle(count: int) -> list[complex]:
    """`exp(2 pi i j / count)` by their power series in 45 digits, rounded to float64."""
    found = []
    with localcontext(prec=45):
        for j in range(count):
            angle = _TURN * j / count
            term, sums = Decimal(1), [Decimal(0), Decimal(0)]
            for k in range(1, 80):
                sums[(k - 1) % 2] += term if (k - 1) % 4 < 2 else -term
                term = term * angle / k
            found.append(complex(float(sums[0]), float(sums[1])))
    return found
