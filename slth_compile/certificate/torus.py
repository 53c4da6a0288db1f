"""A convolution on a torus: which one contains the layer, and its matrices at all frequencies.

On one axis, an input of size n is seen through offsets `o_t = t * dilation - padding` from windows `p * stride`,
`0 <= p < m`. Taps that meet padding alone are left out. Wrapped around a circle of `stride * U` places the convolution
is still the layer, for inputs that vanish outside [0, n) and the first m outputs, where no window sees an element it
does not see without the wrapping. With `last = (m - 1) stride + max o` and `n' = min(n, last + 1)` the elements seen,

    stride * U > last,   stride * U >= n' - min o,   U >= m.

A circle of n places is too small in general. The layer is part of the circular map's matrix: its norm is no larger.
With `o = stride * a + r`, the elements of each residue r are input channels of their own, and the circular map is block
diagonal in the Fourier basis: at frequency w, `M_w[(r, c), s] = sum over t of residue r of K[t, c, s] exp(i w a_t)`.

**Fewer frequencies.** `u^H M_w v` is a trigonometric polynomial whose degrees span `q = max a - min a` on an axis.
Turned so that it is real where it is largest, it has degree q/2 around the middle and falls off no faster than
`cos(q x / 2)` from there (M. Riesz). Among N equidistant points one is within `pi / N`, so the maximum over all
frequencies is at most `1 / cos(pi q / (2 N))` times that over the N points, axis by axis, for `q < N`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from slth_compile.certificate.rounding import UNIT_ROUNDOFF

_ONE = 2**128
_TWO_PI = 6283185307179586476925286766559005768394338798750211641949 * _ONE // 10**57

ROOT_ERROR = 16 * UNIT_ROUNDOFF
"""On a product of up to three rounded roots: each is off by `sqrt(2) u`, each product adds `sqrt(2) gamma_2`."""


class Axis(NamedTuple):
    """One spatial axis of a layer.

    Attributes:
        taps: Which taps ever see an element.
        ahead: `a` of each of them.
        residue: `r` of each of them.
        circle: `U`.
        overlap: In how many windows one element lies at most.
    """

    taps: tuple[int, ...]
    ahead: tuple[int, ...]
    residue: tuple[int, ...]
    circle: int
    overlap: int

    @property
    def span(self) -> int:
        """`q`, the degree along this axis."""
        return max(self.ahead) - min(self.ahead)


def axis_of(size: int, taps: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> Axis | None:
    """How a layer lies on one axis; None where its windows see padding alone.

    Args:
        size: Elements of the input.
        taps: Of the kernel, or of a pool's window.
        stride: Distance of neighbouring windows.
        padding: Zeros below and above.
        dilation: Distance of neighbouring taps.
    """
    places = (size + sum(padding) - (taps - 1) * dilation - 1) // stride + 1
    windows = np.arange(places) * stride
    offsets = {t: t * dilation - padding[0] for t in range(taps)}
    seen = {t: (windows + o)[(windows + o >= 0) & (windows + o < size)] for t, o in offsets.items()}
    used = tuple(t for t in range(taps) if seen[t].size)
    if not used:
        return None
    low, last = offsets[used[0]], (places - 1) * stride + offsets[used[-1]]
    around = max(last + 1, min(size, last + 1) - low)
    return Axis(
        used,
        tuple(offsets[t] // stride for t in used),
        tuple(offsets[t] % stride for t in used),
        max(places, -(-around // stride)),
        int(np.bincount(np.concatenate([seen[t] for t in used])).max()),
    )


def sampled(axes: Sequence[Axis], most: int) -> tuple[tuple[int, ...], float] | None:
    """Frequencies an axis, at most `most` points on each, and the factor that makes up for those left out.

    A layer that reads with one tap is the same at every frequency. None where a polynomial is too long for the points.
    """
    points, factor = [], 1.0
    for axis in axes:
        if axis.span == 0:
            points.append(1)
        elif axis.circle <= most:
            points.append(axis.circle)
        elif axis.span < most:
            points.append(most)
            # The margin is far more than what a library's cosine is off by where it is not near zero.
            factor *= (1 + 2.0**-40) / math.cos(math.pi * axis.span / (2 * most))
        else:
            return None
    return tuple(points), factor


def phases(axes: Sequence[Axis], points: Sequence[int], chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Real and imaginary parts of `exp(i w a_t)`, chunk by chunk, `(frequencies, taps)`, taps in C order.

    Of two opposite frequencies, whose matrices are conjugate, one may be left out: half of the longest axis is enough.
    """
    halved = max(range(len(points)), key=points.__getitem__, default=0)
    extents = [n // 2 + 1 if i == halved else n for i, n in enumerate(points)]
    ahead = np.array(list(itertools.product(*(axis.ahead for axis in axes))), np.int64)
    tables = [roots(n) for n in points]
    every = np.array(list(np.ndindex(*extents)), np.int64).reshape(math.prod(extents), len(axes))
    for start in range(0, len(every), chunk):
        w = every[start : start + chunk]
        turn = np.ones((len(w), len(ahead)), np.complex128)
        for i, (n, table) in enumerate(zip(points, tables, strict=True)):
            turn = turn * table[(w[:, i, None] * ahead[:, i]) % n]
        yield np.ascontiguousarray(turn.real), np.ascontiguousarray(turn.imag)


def residues(axes: Sequence[Axis]) -> list[np.ndarray]:
    """The taps of each residue, as positions in C order."""
    every = list(itertools.product(*(axis.residue for axis in axes)))
    return [np.array([i for i, r in enumerate(every) if r == one]) for one in sorted(set(every))]


@functools.lru_cache(maxsize=256)
def roots(count: int) -> np.ndarray:
    """`exp(2 pi i j / count)`, both parts within half a unit in the last place: integers over 2^128, then rounded."""
    angle = _TWO_PI // count
    term, step = _ONE, [0, 0]
    for k in range(1, 64):
        step[(k - 1) % 2] += term if (k - 1) % 4 < 2 else -term
        term = term * angle // (k * _ONE)
    real, imaginary, found = _ONE, 0, []
    for _ in range(count):
        found.append(complex(real / _ONE, imaginary / _ONE))
        real, imaginary = (
            (real * step[0] - imaginary * step[1]) // _ONE,
            (real * step[1] + imaginary * step[0]) // _ONE,
        )
    table = np.array(found)
    table.setflags(write=False)
    return table
