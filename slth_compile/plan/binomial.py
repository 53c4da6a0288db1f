"""The binomial law and limits from counts: `scipy.stats` has both, and takes half a second to import."""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def binomial(trials: int, share: float) -> np.ndarray:
    """The law of the number of successes: `P(k) = share^k (1 - share)^(n - k) / ((n + 1) B(k + 1, n - k + 1))`.

    Relative errors stay below 2e-10 for `n < 2^15`, which the plan's allowance for rounding (1e-9) covers.

    Args:
        trials: `n >= 0`.
        share: Probability of a success, in [0, 1].

    Returns:
        float64 `(trials + 1,)`.
    """
    k = np.arange(trials + 1)
    powers = special.xlogy(k, share) + special.xlog1py(trials - k, -share)
    return np.exp(powers - special.betaln(k + 1, trials - k + 1) - math.log(trials + 1))


def upper_limit(confidence: float, successes: np.ndarray, trials: int) -> np.ndarray:
    """Upper confidence limits on a probability by Clopper & Pearson (1934): `Beta^-1(confidence; k + 1, n - k)`.

    Args:
        confidence: Of every single limit.
        successes: `k`, float64; one where all succeed gets the limit of one less.
        trials: `n`.

    Returns:
        float64 of the shape of `successes`.
    """
    return special.betaincinv(successes + 1, np.maximum(trials - successes, 1), confidence)
