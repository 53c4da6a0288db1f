"""One product for every weight (Malach, Yehudai, Shalev-Shwartz & Shamir, ICML 2020).

The gadget is that of `da_cunha`, and so are the ticket, its files and what is checked; a weight keeps at most one copy:

    K[p, t, s] = 2^g V[j, p, t, s] U[j, t]   for the copy j whose product is closest, or nothing where zero is closer.

The candidates do not add up, so their number must grow as one over the tolerance and not as its logarithm. Theirs are
`U V` as well, but both factors are asked to be near a wanted one; taking the product as a whole needs fewer copies.

With x a product of the standard source, `a b` with `a ~ Uniform(0, 1)` and `b ~ Uniform(-1, 1)`,

    P(x <= z) = 1/2 + z (1 - ln z) / 2 for z in [0, 1],     P(x <= -z) = 1 - P(x <= z),                            (1)
    p(w, tol) = P(|x - w| <= tol) = P(x <= w + tol) - P(x <= w - tol).

Where U is a signed constant, x is uniform. Entries of B bits are multiples of `h = 2^(1-B)`. Of the 2/h values of V at
least `L/h - 2` lie in an interval of length L inside [-1, 1]; and the share of [-1, 1] that V may take to meet the
weight, as a function of |U| in [0, 1], is at most 1 and rises and falls once: its mean over the grid of |U| is within
3 h of its integral. Hence, for what is drawn,

    p_B(w, tol) >= p(w, tol) - 4 h.                                                                                (2)
"""

from __future__ import annotations

import numpy as np

from slth_compile.source.law import SourceLaw

WINDOW = 16
"""Copies that are looked at together: a mask is a window and one of its copies."""

_ROUNDING = 2.0**-50


def hit_probability(weights: np.ndarray, tolerance: float, law: SourceLaw) -> np.ndarray:
    """Lower bounds on P(a usable product is within the tolerance of a weight), equation (2); at least 0.

    Args:
        weights: Sizes of weights, float64, in units of the gain.
        tolerance: In the same units, > 0.
        law: Of the source.
    """
    grid = 4 * 2.0 ** (1 - law.bits)
    return np.maximum(continuous_hit_probability(weights, tolerance, law) - grid, 0.0)


def continuous_hit_probability(weights: np.ndarray, tolerance: float, law: SourceLaw) -> np.ndarray:
    """The same for entries that are real numbers, equation (1)."""
    below = _uniform if law.signs else _product
    found = below(weights + tolerance) - below(weights - tolerance)
    return np.clip(found - _ROUNDING, 0.0, 1.0)


def _product(z: np.ndarray) -> np.ndarray:
    size = np.clip(np.abs(z), np.finfo(np.float64).tiny, 1.0)
    return 0.5 + np.sign(z) * size * (1 - np.log(size)) / 2


def _uniform(z: np.ndarray) -> np.ndarray:
    return (1 + np.clip(z, -1.0, 1.0)) / 2
