"""Widths of Malach's construction: so many copies that one product comes near enough, for every weight.

A weight w looks at the whole windows of its channel, `n >= K - (m - 1)` products with `K ~ Binomial(N, s)` usable ones,
and is missed by all with probability `(1 - p(w))^n`, p from `constructions.malach`. As `E z^K = (1 - s + s z)^N`,

    P(some weight is missed) <= sum over weights (and input signs) of (1 - p)^-(m-1) (1 - s p)^N.                  (1)

So N grows as 1/p, and p with the tolerance. Nothing is measured here, and nothing but the source's law is assumed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from slth_compile.constructions.malach import WINDOW, continuous_hit_probability, hit_probability
from slth_compile.errors import UnreachableError
from slth_compile.plan.law import LARGEST_LOSS, estimated_tolerance, usable_share
from slth_compile.plan.width import Problems, refuse_few_bits
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.law import STANDARD
from slth_compile.source.layout import MAXIMUM_WIDTH, Gadget

GAINS = 4
_WIDEST = 1 << 60
_ROUNDING = 1 + 1e-9


def plan_one_product(problems: Problems) -> Gadget:
    """The gadget of least width by equation (1), and the gain it has it at.

    Raises:
        UnreachableError: It would be wider than the format allows; says how wide.
    """
    magnitudes = problems.magnitudes[problems.magnitudes > problems.spendable]
    if magnitudes.size == 0:
        nothing = 0.0 if problems.stated else None
        return Gadget(width=1, gain=0, window=WINDOW, tolerance=problems.tolerance, failure=nothing)
    lowest = int(np.frexp(magnitudes.max())[1])
    found = [_least_width(problems, magnitudes, gain) for gain in range(lowest, lowest + GAINS)]
    gadget = min(found, key=lambda gadget: gadget.width)
    if gadget.width > MAXIMUM_WIDTH:
        refuse_few_bits(problems, lowest)
        # Where the grid of the source is too coarse for a bound, an estimate says how far out of reach it is.
        estimated = dataclasses.replace(problems, stated=False)
        widths = [_least_width(estimated, magnitudes, gain).width for gain in range(lowest, lowest + GAINS)]
        width = f"about {min(widths):,}" if min(widths) < _WIDEST else f"more than 2^{_WIDEST.bit_length() - 1}"
        raise UnreachableError(
            f"{problems.name}: one product within {problems.tolerance:.2e} of every weight, with failure probability "
            f"{problems.failure:.2e}, needs {width} copies of an input channel, more than the {MAXIMUM_WIDTH:,} the "
            "format allows; ask for a larger eps, or for sums of products (construction da-cunha)"
        )
    return gadget


def _least_width(problems: Problems, magnitudes: np.ndarray, gain: int) -> Gadget:
    """The gadget of a gain, of width 2^60 where none up to that will do."""
    hits, share = _hits(problems, np.ldexp(magnitudes, -gain), gain), usable_share(problems.law)
    # Of sizes of weights that all do equally well there are few.
    hits, counts = np.unique(hits, return_counts=True)
    certain, whole = np.log1p(-share * hits), -(WINDOW - 1) * np.log1p(-hits)

    def failure(width: int) -> float:
        missed = np.exp(np.minimum(width * certain + whole, 0.0))
        return float(problems.signs * (counts @ missed)) * _ROUNDING

    low, high = 0, 1
    while failure(high) > problems.failure and high < _WIDEST:
        low, high = high, 2 * high
    while high - low > 1 and high < _WIDEST:
        middle = (low + high) // 2
        low, high = (low, middle) if failure(middle) <= problems.failure else (middle, high)
    gadget = Gadget(width=high, gain=gain, window=WINDOW, tolerance=problems.tolerance, failure=None)
    return dataclasses.replace(gadget, failure=failure(high)) if problems.stated else gadget


def _hits(problems: Problems, targets: np.ndarray, gain: int) -> np.ndarray:
    """`p(w)` of every target, in units of the gain: bounds from below, or estimates where nothing is to be stated.

    A bound that loses more than half to the source's grid says too little, and is 0.
    """
    # Half a grid step goes to rounding the target, as much and more to rounding the error.
    tolerance = float(np.ldexp(problems.spendable, -gain)) - 2.0 ** -(PRODUCT_BITS - 1)
    if tolerance <= 0:
        return np.zeros_like(targets)
    if not problems.stated and problems.law != STANDARD:
        tolerance = estimated_tolerance(problems.law, tolerance)
    hits = continuous_hit_probability(targets, tolerance, problems.law)
    if problems.stated:
        bounds = hit_probability(targets, tolerance, problems.law)
        hits = np.where(bounds < (1 - LARGEST_LOSS) * hits, 0.0, bounds)
    return np.minimum(hits, 1 - 2.0**-20)


def predicted_bits(width: int) -> float:
    """Estimate of the bits of a mask for one weight: the number of its copy, and the code's overhead."""
    return math.log2(max(2, width / 2)) + 2
