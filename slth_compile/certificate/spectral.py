"""Upper bounds on the Euclidean norm of a weighted layer as a linear map: input of any position and channel to output.

Three bounds, of which the least counts:

    torus    max over frequencies of |M_w|, the layer wrapped around a torus large enough (`certificate.torus`)
    patches  sqrt(overlap) |R|, R the kernel as one matrix `(taps * C/groups, S/groups)`: an element lies in at most
             `overlap` windows
    sums     sqrt(largest column sum * largest row sum) of magnitudes

A kernel known within a radius adds the bound by sums of that radius: the norm of a matrix is at most that of any matrix
of larger magnitudes. Computed on the host, in float64, rounded outward.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from slth_compile.certificate.matrix_norm import largest_norm
from slth_compile.certificate.rounding import TINY, gamma, up
from slth_compile.certificate.torus import ROOT_ERROR, Axis, axis_of, phases, residues, sampled
from slth_compile.graph import nodes as n

WORK = 2**34
"""The torus is left out where `matrices * size^2 * (512 + size)` is more: about five seconds on one core."""

MOST_POINTS = (64, 32, 16)
"""Frequencies an axis at most, the first for which the work is affordable."""

MOST_FOUND = 2**12
"""Norms that are kept: three for every layer of a pair of networks, a few numbers each."""

_FOUND: dict[tuple[object, ...], float] = {}

_CHUNK = 2**20  # entries of matrices at a time


def operator_norm(
    node: n.Weighted, shape: tuple[int, ...], kernel: np.ndarray, radius: np.ndarray | float = 0.0
) -> float:
    """At least the norm of `x -> conv(x, K)`, without bias, for every K within `radius` of `kernel`.

    Args:
        node: Whose geometry it is; its own kernel is not read.
        shape: Of the node's input, `(spatial..., C)`.
        kernel: Shape `(taps..., C/groups, S)`, float64.
        radius: Non-negative, broadcast against `kernel`.

    Returns:
        A float64; infinite where an entry is not finite.
    """
    axes = axes_of(node, shape)
    if any(axis is None for axis in axes):
        return 0.0
    axes = [axis for axis in axes if axis is not None]
    kernel = np.asarray(kernel, np.float64)
    if not np.isfinite(kernel).all():
        return math.inf
    around = _by_sums(_by_group(node, np.broadcast_to(radius, kernel.shape), axes), axes) if np.any(radius) else 0.0
    grouped, exponent = scaled_to_one(_by_group(node, kernel, axes))
    if not grouped.any():
        return around
    found = _least(grouped, axes)
    with np.errstate(over="ignore"):
        return float(up(np.ldexp(found, exponent) + around))


def row_norms(kernel: np.ndarray, radius: np.ndarray | float = 0.0) -> np.ndarray:
    """At least the Euclidean norm of the weights of one output element, the largest of each channel, `(S,)`.

    Args:
        kernel: Shape `(taps..., C/groups, S)`.
        radius: As for `operator_norm`.
    """
    kernel = np.asarray(kernel, np.float64)
    rows = norms_of(kernel.reshape(-1, kernel.shape[-1]).T)
    if not np.any(radius):
        return rows
    around = np.broadcast_to(np.asarray(radius, np.float64), kernel.shape)
    return up(rows + norms_of(around.reshape(-1, kernel.shape[-1]).T))


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """At least the Euclidean norm of every row of `(count, size)`, of any scale; infinite where it is not a number."""
    scaled, exponents = scaled_to_one(vectors, axis=1)
    terms = max(1, vectors.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(scaled).sum(1) * (1 + gamma(terms + 8)) + terms * TINY
        found = up(np.ldexp(up(np.sqrt(squares)), exponents.reshape(-1)))
    found = np.where(np.any(vectors, axis=1), found, 0.0)
    return np.where(np.isnan(found), np.inf, found)


def matrix_sums(matrix: np.ndarray) -> tuple[float, float]:
    """Bounds on the largest sum of magnitudes of a row and of a column: `|M|_inf` and `|M|_1`, rounded up."""
    size = np.abs(np.asarray(matrix, np.float64))
    rows, columns = (up(size.sum(axis).max() * (1 + gamma(size.shape[axis]))) for axis in (1, 0))
    return float(rows), float(columns)


def scaled_to_one(array: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`(scaled, exponent)` with `array = scaled * 2^exponent` and the largest magnitude in [1/2, 1).

    Nothing is rounded but what becomes subnormal, by less than `TINY`.
    """
    largest = np.max(np.abs(array), axis=axis, keepdims=axis is not None, initial=0.0)
    exponent = np.frexp(np.where(np.isfinite(largest), largest, 1.0))[1]
    return np.ldexp(array, -exponent), exponent


def axes_of(node: n.Node, shape: tuple[int, ...]) -> list[Axis | None]:
    """How a weighted node or a pool lies on each of its spatial axes; a dense layer has none."""
    match node:
        case n.Convolution():
            ends = zip(shape, node.kernel.shape, node.stride, node.padding, node.dilation, strict=False)
            return [axis_of(*end) for end in ends]
        case n.MaxPool() | n.AveragePool():
            return [axis_of(*end) for end in zip(shape, node.window, node.stride, node.padding, strict=False)]
        case _:
            return []


def _least(grouped: np.ndarray, axes: list[Axis]) -> float:
    """The least of the three bounds; it is asked for again with every domain, and for every format of evaluation."""
    key = WORK, MOST_POINTS, tuple(axes), grouped.shape, hashlib.sha256(grouped.tobytes()).digest()
    if key in _FOUND:
        return _FOUND[key]
    found = min(_by_sums(grouped, axes), _by_patches(grouped, axes))
    if grouped.shape[1] > 1:  # one tap: the same matrix at every frequency
        found = min(found, _by_torus(grouped, axes))
    if len(_FOUND) >= MOST_FOUND:
        _FOUND.clear()
    _FOUND[key] = found
    return found


def _by_group(node: n.Weighted, kernel: np.ndarray, axes: list[Axis]) -> np.ndarray:
    """A kernel as `(groups, taps, C/groups, S/groups)`, taps that see nothing left out."""
    groups = 1 if isinstance(node, n.Dense) else node.groups
    for i, axis in enumerate(axes):
        kernel = kernel.take(axis.taps, axis=i)
    split = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
    return np.ascontiguousarray(split.transpose(2, 0, 1, 3))


@np.errstate(over="ignore", invalid="ignore")
def _by_sums(grouped: np.ndarray, axes: list[Axis]) -> float:
    """The square root of the largest sum over an output's inputs times the largest over an input's outputs."""
    size = np.abs(grouped)
    inputs = size.sum((1, 2)).max()
    outputs = max(size[:, taps].sum((1, 3)).max() for taps in residues(axes))
    exact = 1 + gamma(size[0].size + 8)
    # Roots first: the product of the sums may leave the range of float64.
    found = up(np.sqrt(up(inputs * exact))) * up(np.sqrt(up(outputs * exact)))
    return float(up(up(found))) if math.isfinite(found) else math.inf


def _by_patches(grouped: np.ndarray, axes: list[Axis]) -> float:
    groups, _, _, features = grouped.shape
    overlap = math.prod(axis.overlap for axis in axes)
    found = up(largest_norm(grouped.reshape(groups, -1, features)) + _flushed(grouped))
    return float(up(up(up(np.sqrt(np.float64(overlap)))) * found))


def _by_torus(grouped: np.ndarray, axes: list[Axis]) -> float:
    """The largest norm over frequencies, plus what the Fourier sums are off by.

    Each entry is a sum of at most `taps` products with rounded roots, real and imaginary part alike: it is off by
    `sqrt(2) gamma_taps (1 + ROOT_ERROR) + ROOT_ERROR` times the sum of magnitudes.
    """
    groups, taps, channels, features = grouped.shape
    parts = residues(axes)
    found = _frequencies(grouped.shape, axes)
    if found is None:
        return math.inf
    points, factor, _ = found
    chunk = max(1, _CHUNK // (groups * len(parts) * channels * features))
    sums = np.concatenate([np.abs(grouped[:, which]).sum(1) for which in parts], 1)
    off = (gamma(2 * taps + 8) + ROOT_ERROR) * norms_of(sums.reshape(groups, -1)).max() * (1 + 2.0**-20)
    largest = 0.0
    for real, imaginary in phases(axes, points, chunk):
        matrices = [_matrices(grouped, parts, turn) for turn in (real, imaginary) if turn is real or np.any(turn)]
        largest = max(largest, largest_norm(*matrices))
    return float(up(up(up(largest + off) + _flushed(grouped)) * (factor * (1 + 2.0**-50))))


def _frequencies(shape: tuple[int, ...], axes: list[Axis]) -> tuple[tuple[int, ...], float, int] | None:
    """Frequencies an axis for a kernel by groups, the factor that makes up for others, and the work; None for none."""
    groups, _, channels, features = shape
    size = min(len(residues(axes)) * channels, features)
    for most in MOST_POINTS:
        found = sampled(axes, most)
        if found is not None:
            work = groups * math.prod(found[0]) // 2 * size**2 * (512 + size)
            if work <= WORK:
                return *found, work
    return None


def work_of(node: n.Weighted, shape: tuple[int, ...]) -> int:
    """About how many multiplications `operator_norm` takes.

    Args:
        node: The layer.
        shape: Of its input.
    """
    axes = axes_of(node, shape)
    kernel = _by_group(node, node.kernel, [axis for axis in axes if axis is not None])
    groups, taps, channels, features = kernel.shape
    small, large = sorted((taps * channels, features))
    found = _frequencies(kernel.shape, [axis for axis in axes if axis is not None]) if taps > 1 else None
    return groups * small**2 * (large + 16 * min(small, 512)) + (0 if found is None else found[2])


def _matrices(grouped: np.ndarray, parts: list[np.ndarray], turn: np.ndarray) -> np.ndarray:
    """The sums over taps of each residue, one under the other: `(groups * frequencies, residues * C, S)`."""
    groups, _, channels, features = grouped.shape
    blocks = [turn[:, which] @ grouped[:, which].reshape(groups, len(which), -1) for which in parts]
    split = [block.reshape(groups * len(turn), channels, features) for block in blocks]
    return split[0] if len(split) == 1 else np.concatenate(split, 1)


def _flushed(grouped: np.ndarray) -> float:
    """More than the norm of what scaling and products have flushed to zero."""
    return grouped[0].size * 2.0**-1000
