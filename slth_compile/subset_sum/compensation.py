"""How the errors of some weights are made up for by those that are solved after them.

The error of an output channel is `x . e`, `e` the errors of its weights (kernel, then bias) and `x` what they multiply;
its mean square is `e^T H e` with `H = E[x x^T]`. With `H = U D U^T`, U unit upper triangular,

    e^T H e = sum_i D_i (e_i + sum_{p < i} U_pi e_p)^2,

so the weight that is solved i-th, after all `p < i`, does best to miss by `c_i = -sum_{p < i} U_pi e_p`: the greedy
step of GPTQ (Frantar et al., ICLR 2023) and of Babai's nearest plane. Weights of one block are solved at once; with U
in blocks, those of block b do best to miss by `c_b = -(U_Pb U_bb^-1)^T e_P`, P all earlier ones.

Features come in order of descending `H_ii` (the last ones are never made up for), dealt to the blocks in turn, so that
neighbours, which are alike, are in different ones; the bias, which makes up for the mean, comes last, alone.

Everything is computed in one order of elementary operations or is exact: NumPy's products and differences of arrays
are rounded entry by entry, and matrix products are of short fixed-point numbers whose sums have no rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

BLOCKS = 32
LARGEST = 4608
"""Features of a group, those of both signs together, that are compensated; the work grows with their third power."""

DAMPING = 0.01
"""Share of the mean of `H_ii` that is added to every feature: errors count where calibration saw no input, too."""

_PANEL = 32
_PANEL_BITS = 22
_COEFFICIENT_STEP, _LARGEST_COEFFICIENT = 2.0**-12, 2.0**7
_ERROR_BITS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Compensation:
    """In which order a layer's weights are solved, and what they aim beside.

    Attributes:
        order: Features of every group in the order they are solved, `(groups, features)`; without the bias.
        edges: Block b is the places `edges[b]` to `edges[b + 1]` of the order.
        coefficients: `U_Pb U_bb^-1` of block b in columns `edges[b]` to `edges[b + 1]`, and the bias's in the last one;
            `(groups, features, features + 1)`.
    """

    order: np.ndarray
    edges: tuple[int, ...]
    coefficients: np.ndarray

    def shift(self, block: int, errors: np.ndarray, unit: float) -> np.ndarray:
        """What the weights of a block do best to miss by.

        Args:
            block: Its number; the number of blocks for the bias.
            errors: Errors of the weights solved before, in the order, `(groups, places, outputs)`.
            unit: A bound on their magnitudes.

        Returns:
            float64 `(groups, places of the block, outputs)`.
        """
        last = block == len(self.edges) - 1
        begin, end = self.edges[block], self.edges[block] + 1 if last else self.edges[block + 1]
        scale = 2.0**_ERROR_BITS / unit
        steps = np.rint(errors[:, :begin] * scale)
        return -np.matmul(self.coefficients[:, :begin, begin:end].transpose(0, 2, 1), steps) / scale


def compensation(moments: np.ndarray, blocks: int = BLOCKS, damping: float = DAMPING) -> Compensation:
    """The order and the coefficients for a layer.

    Args:
        moments: `H` with the constant 1 as its last feature, `(groups, features + 1, features + 1)`.
        blocks: Blocks of features, at most.
        damping: See `DAMPING`.
    """
    groups, size = moments.shape[0], moments.shape[1] - 1
    diagonal = np.diagonal(moments, axis1=1, axis2=2)[:, :size]
    order = np.argsort(-diagonal, axis=1, kind="stable")
    blocks = min(blocks, size)
    dealt = np.concatenate([np.arange(b, size, blocks) for b in range(blocks)])
    order = order[:, dealt]
    edges = np.cumsum([0, *(len(range(b, size, blocks)) for b in range(blocks))])
    rows = np.concatenate([order, np.full((groups, 1), size)], 1)
    h = np.stack([m[np.ix_(r, r)] for m, r in zip(moments, rows, strict=True)])
    extra = np.empty((groups, size + 1))
    # A power of two near it: sums are rounded in one order only if they are not rounded at all.
    mean = np.array([_sum(d) for d in diagonal]) / size
    extra[:] = np.where(mean > 0, damping * mean, 1.0)[:, None]
    extra[:, -1] = 0.0
    index = np.arange(size + 1)
    h[:, index, index] += extra
    # Powers of two: diagonals between 1/2 and 2, nothing rounded.
    scale = np.ldexp(1.0, np.frexp(np.sqrt(h[:, index, index]))[1])
    h = h / scale[:, :, None] / scale[:, None, :]
    upper = _upper_factor(h)
    coefficients = np.zeros((groups, size, size + 1))
    for begin, end in [*itertools.pairwise(edges), (size, size + 1)]:
        block = upper[:, :begin, begin:end].copy()
        for j in range(1, end - begin):
            for i in range(j):
                block[:, :, j] -= block[:, :, i] * upper[:, begin + i, begin + j, None]
        coefficients[:, :begin, begin:end] = block * (scale[:, :begin, None] / scale[:, None, begin:end])
    found = np.rint(np.clip(coefficients, -_LARGEST_COEFFICIENT, _LARGEST_COEFFICIENT) / _COEFFICIENT_STEP)
    return Compensation(order, tuple(int(e) for e in edges), found * _COEFFICIENT_STEP)


def _sum(x: np.ndarray) -> float:
    """The sum of an array, one entry after the other."""
    return float(functools.reduce(lambda total, entry: total + entry, x, np.float64(0)))


def _upper_factor(h: np.ndarray) -> np.ndarray:
    """U, unit upper triangular, of `h = U D U^T`; batched, `(groups, size, size)`, diagonals near 1."""
    lower = h[:, ::-1, ::-1].copy()
    size = lower.shape[1]
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        for j in range(start, stop):
            lower[:, j:, j] /= np.sqrt(lower[:, j, j])[:, None]
            lower[:, j + 1 :, j + 1 : stop] -= lower[:, j + 1 :, j, None] * lower[:, None, j + 1 : stop, j]
        # So short that their products are summed without rounding.
        panel = np.ldexp(np.rint(np.ldexp(lower[:, stop:, start:stop], _PANEL_BITS)), -_PANEL_BITS)
        lower[:, stop:, stop:] -= np.matmul(panel, panel.transpose(0, 2, 1))
    upper = np.tril(lower)[:, ::-1, ::-1]
    return upper / np.diagonal(upper, axis1=1, axis2=2)[:, None, :]
