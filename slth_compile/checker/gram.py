"""Proved upper bounds on the spectral norms of real matrices.

For a number t above the largest eigenvalue of `G = M^T M`, `t - G` has a Cholesky factor L, and whatever L is,

    |M|^2 <= t + |t - G - L L^T|,

as `L L^T` has no negative eigenvalue. NumPy finds t and L and is believed in neither: the residual is computed.
"""

from __future__ import annotations

import math

import numpy as np

from slth_compile.checker.arithmetic import UNIT, gamma

_SOLVED = 512  # up to this size NumPy finds all eigenvalues; above it the Lanczos method finds the largest
_STEPS = 96
_EXCESS = (2.0**-26, 2.0**-20, 2.0**-14, 2.0**-8)  # of t over the eigenvalue found, in the order they are tried
_FLUSHED = 2.0**-500  # times the size: above the norm of entries whose squares are flushed


@np.errstate(all="ignore")
def spectral_norm(matrices: np.ndarray, copies: int = 1) -> float:
    """A number at least the norm of every matrix, infinite where nothing is proved.

    Args:
        matrices: Shape `(count, rows, columns)`, real, with entries that are not much larger than 1.
        copies: How often every eigenvalue of `M^T M` comes up, two in the real form of complex matrices.
    """
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.transpose(0, 2, 1)
    gram, off = _product(matrices.transpose(0, 2, 1), matrices)
    if not np.isfinite(off).all():
        return math.inf
    size = gram.shape[1]
    largest = max(_largest_eigenvalue(gram, copies * _SOLVED), 0.0)
    for excess in _EXCESS:
        t = largest * (1 + excess) + 2.0**-200
        rest = -gram
        rest[:, np.arange(size), np.arange(size)] += t
        try:
            lower = np.linalg.cholesky(rest)
        except np.linalg.LinAlgError:
            continue
        square, square_off = _product(lower, lower.transpose(0, 2, 1))
        # The rounding of t - g on the diagonal is relative to what came out; 1.01 is for the rounding of these norms.
        rounding = 2 * UNIT * np.abs(rest.diagonal(axis1=1, axis2=2)).max(axis=1)
        residual = 1.01 * np.linalg.norm(rest - square, axis=(1, 2))
        total = t + 1.01 * float((residual + square_off + rounding + off).max()) + size * _FLUSHED
        bound = math.sqrt(total * (1 + 4 * UNIT)) * (1 + 4 * UNIT)
        return bound if math.isfinite(bound) else math.inf
    return math.inf


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric `a b` where `b` is a's transpose, and how far it may be off in the Frobenius norm, one a matrix."""
    found = np.matmul(a, b)
    squares = np.square(a).sum(axis=(1, 2))
    off = 1.01 * gamma(a.shape[2] + 8) * squares + a[0].size * 2.0**-1000
    return (found + found.transpose(0, 2, 1)) / 2, off


def _largest_eigenvalue(gram: np.ndarray, solved: int) -> float:
    try:
        if gram.shape[1] <= solved:
            return float(np.linalg.eigvalsh(gram).max())
        return max(_lanczos(matrix) for matrix in gram)
    except np.linalg.LinAlgError:
        return float(np.trace(gram, axis1=1, axis2=2).max())


def _lanczos(gram: np.ndarray) -> float:
    """The largest Ritz value, every direction kept orthogonal to all before it."""
    start = np.cos(np.arange(len(gram)))
    directions = [start / np.linalg.norm(start)]
    diagonal, beside = [], []
    while True:
        image = gram @ directions[-1]
        diagonal.append(float(directions[-1] @ image))
        known = np.array(directions)
        for _ in range(2):
            image -= known.T @ (known @ image)
        length = float(np.linalg.norm(image))
        if len(directions) == _STEPS or length <= 2.0**-40 * abs(diagonal[0]):
            small = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
            return float(np.linalg.eigvalsh(small)[-1])
        beside.append(length)
        directions.append(image / length)
