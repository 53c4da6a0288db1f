"""What held-out samples say about inputs never seen: a bound on how often the largest difference seen is exceeded.

Let `x_1, ..., x_n` and `x` be drawn independently from one distribution, `D = |f(x) - g(x)|` (the largest over all
outputs) and `m = max_i D_i`. Write `S(t) = P(D > t)`, which falls and is continuous from the right, and
`p = 1 - a^(1/n)`. Then

    P(S(m) > p) <= a

over the draw of the samples, for every distribution, with atoms or without. Proof: let `t* = inf {t : S(t) <= p}`. By
continuity from the right `S(t*) <= p`, so `S(m) > p` happens only where `m < t*`, that is where all `D_i < t*`. For
every `s < t*`, `S(s) > p`; so `P(D >= t*) = lim S(s) >= p`, and `P(all D_i < t*) <= (1 - p)^n = a`. It is the one-sided
tolerance limit of Wilks (1941) of order n, and cannot be improved: where `D` is continuous, equality holds.

So with confidence 1 - a, `P(|f - g| > m) <= 1 - a^(1/n)`. It needs samples that had no part in making or choosing
either network, and it speaks about the distribution that they are drawn from, nothing else.
"""

from __future__ import annotations

import math

from slth_compile.errors import InputError

CONFIDENCE = 0.95


def exceedance(samples: int, confidence: float = CONFIDENCE) -> float:
    """An upper limit for `P(D > max of n samples)`: `1 - (1 - confidence)^(1/n)`, rounded up.

    Args:
        samples: Number n of independent samples, at least 1.
        confidence: Probability, over the draw of the samples, with which the limit is to hold; in (0, 1).

    Raises:
        InputError: No sample, or no such probability.
    """
    if samples < 1:
        raise InputError("the statistical statement needs at least one held-out sample")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a probability between 0 and 1")
    # Four operations of at most an ulp or two each: far less than 2^-40 of the result.
    return min(1.0, -math.expm1(math.log1p(-confidence) / samples) * (1 + 2.0**-40))
