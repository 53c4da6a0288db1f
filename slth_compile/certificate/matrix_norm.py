"""An upper bound on the spectral norms of matrices that no eigenvalue solver is trusted for.

With G = M^H M and any number mu, a factor L of `mu - G` proves `|M|^2 <= mu + |mu - G - L L^H|`, since `L L^H` has no
negative eigenvalue. The solver's largest eigenvalue only proposes mu, a little above it; a Cholesky factorisation only
proposes L; what is believed is the residual, a few products whose rounding is bounded.
"""

from __future__ import annotations

import math

import numpy as np

from slth_compile.certificate.rounding import UNIT_ROUNDOFF, gamma, up

DENSE_SOLVER = 512
"""Up to this size all eigenvalues are computed; above it Lanczos steps find the largest."""

LANCZOS_STEPS = 96

_MARGINS = (2.0**-26, 2.0**-20, 2.0**-14, 2.0**-8)  # by how much mu exceeds what the solver says, tried in this order
_SPARE = 1.01  # more than the rounding of any sum of non-negative terms that only adds to an error
_FLUSHED = 2.0**-500  # times the size: more than the norm of entries whose squares are flushed to zero


@np.errstate(over="ignore", invalid="ignore")
def largest_norm(real: np.ndarray, imaginary: np.ndarray | None = None) -> float:
    """At least the spectral norm of every matrix `real + i imaginary`, within about 1e-8 of the largest.

    The computed G is within `2 gamma |M|_F^2` of the exact one in the Frobenius norm: its entries are sums of at most
    `2 rows + 8` rounded terms, and `|X|^T |X| + |Y|^T |Y| + |X|^T |Y| + |Y|^T |X| = (|X| + |Y|)^T (|X| + |Y|)`, whose
    norm is at most `2 |M|_F^2`. The same holds for `L L^H`.

    Args:
        real: Shape `(count, rows, columns)`, of magnitude about 1: entries above 2^400 are not finite when squared.
        imaginary: The same shape; None for real matrices.

    Returns:
        A float64; infinite where nothing could be proved.
    """
    if real.shape[1] < real.shape[2]:
        real, imaginary = real.swapaxes(1, 2), None if imaginary is None else -imaginary.swapaxes(1, 2)
    gram, gram_error = _gram(real, imaginary)
    if not np.isfinite(gram_error).all():
        return math.inf
    peak = max(0.0, _largest_eigenvalue(gram))
    size = gram.shape[-1]
    for margin in _MARGINS:
        mu = peak * (1 + margin) + 2.0**-200
        rest = -gram
        diagonal = np.einsum("kii->ki", rest)
        diagonal += mu
        try:
            factor = np.linalg.cholesky(rest)
        except np.linalg.LinAlgError:
            continue
        back = factor.swapaxes(1, 2)
        product, product_error = _gram(back.real, -back.imag if np.iscomplexobj(back) else None)
        residual = np.sqrt(_squares(rest - product)) * _SPARE
        shifted = 2 * UNIT_ROUNDOFF * np.abs(diagonal).max(1)
        above = float(np.max((residual + product_error + shifted + gram_error) * _SPARE)) + size * _FLUSHED
        found = float(up(np.sqrt(up(np.float64(mu) + above))))
        return found if math.isfinite(found) else math.inf
    return math.inf


def _gram(x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """`M^H M` of `M = x + i y`, exactly Hermitian, and a bound on its error in the Frobenius norm, one a matrix."""
    rows, columns = x.shape[1:]
    spare = rows * columns * 2.0**-1000  # flushed products, and squares that were
    real = x.swapaxes(1, 2) @ x
    if y is None:
        return 0.5 * (real + real.swapaxes(1, 2)), gamma(rows + 8) * _squares(x) * _SPARE + spare
    real += y.swapaxes(1, 2) @ y
    cross = x.swapaxes(1, 2) @ y
    gram = np.empty(real.shape, np.complex128)
    gram.real = 0.5 * (real + real.swapaxes(1, 2))
    gram.imag = cross - cross.swapaxes(1, 2)
    return gram, 2 * gamma(2 * rows + 8) * (_squares(x) + _squares(y)) * _SPARE + spare


def _squares(x: np.ndarray) -> np.ndarray:
    """The sum of the squared magnitudes of each matrix, rounded."""
    parts = [np.real(x), np.imag(x)] if np.iscomplexobj(x) else [x]
    return sum((np.square(part).reshape(len(x), -1).sum(1) for part in parts), np.zeros(len(x)))


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """About the largest eigenvalue of all; nothing rests on how good it is."""
    try:
        if gram.shape[-1] <= DENSE_SOLVER:
            return float(np.linalg.eigvalsh(gram)[:, -1].max())
        return max(_lanczos(matrix) for matrix in gram)
    except np.linalg.LinAlgError:
        return float(np.einsum("kii->k", gram).real.max())


def _lanczos(matrix: np.ndarray) -> float:
    """The largest Ritz value after a fixed number of steps from a fixed start, fully reorthogonalised.

    Of a complex matrix X + i Y it is that of `[[X, -Y], [Y, X]]` from the corresponding start, step by step.
    """
    size = len(matrix)
    basis = np.zeros((LANCZOS_STEPS + 1, size), matrix.dtype)
    basis[0] = np.cos(np.arange(size, dtype=np.float64))
    if np.iscomplexobj(matrix):
        basis[0] += 1j * np.cos(np.arange(size, 2 * size, dtype=np.float64))
    basis[0] /= np.linalg.norm(basis[0])
    tridiagonal = np.zeros((LANCZOS_STEPS, LANCZOS_STEPS))
    for k in range(LANCZOS_STEPS):
        image = matrix @ basis[k]
        tridiagonal[k, k] = np.vdot(basis[k], image).real
        for _ in range(2):
            image = image - (basis[: k + 1].conj() @ image) @ basis[: k + 1]
        length = float(np.linalg.norm(image))
        if k + 1 == LANCZOS_STEPS or length <= 2.0**-40 * abs(tridiagonal[0, 0]):
            return float(np.linalg.eigvalsh(tridiagonal[: k + 1, : k + 1])[-1])
        tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = length
        basis[k + 1] = image / length
    raise AssertionError
