"""The plan of an objective that takes one of many subsets within the tolerance: `sparsest`, `fewest-bits`.

Some subset is within the tolerance exactly where the closest one is, so the probabilities are those of `width`. A
subset is chosen by looking at all pairs of the halves' subsets, so windows of up to 16 candidates are preferred.

Masks code shortest in small windows and with gains below the largest weight: the few large weights then look through
many windows, the many others find candidates of their own size. Both cost width, so

    fewest-bits = the window and gain with the shortest code among those whose width is at most 4 times the least.   (4)

A code's length is that of the masks of a sample of the layer's own weights (`subset_sum.code_length`). Gains down to a
quarter of the largest weight need limits on q for targets above the gain; the table has them, and equation (2) holds
there as it stands.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from slth_compile.plan.binomial import binomial
from slth_compile.plan.calibration import BEYOND, LARGEST_BEYOND, STEPS_PER_OCTAVE, miss_probabilities_beyond
from slth_compile.plan.width import (
    SMALLEST_WINDOW,
    WINDOW_STEP,
    Problems,
    least_width,
    limits_of,
    plan_gadget,
)
from slth_compile.source.layout import MAXIMUM_WIDTH, Gadget
from slth_compile.subset_sum.code_length import SLACK, fit

LARGEST_WINDOW = LARGEST_BEYOND
WIDENING = 4
"""How many times the least width `fewest-bits` may take."""

_GAINS = (2, 1, 0, -1, -2)


def plan_sparsest(problems: Problems) -> Gadget:
    """The gadget of least width whose window is at most 16, or any where none of these will do.

    Raises:
        UnreachableError: As `plan_gadget`.
    """
    found = _narrow_windows(problems)
    return min(found, key=lambda gadget: gadget.width) if found else plan_gadget(_with_slack(problems))


def plan_fewest_bits(problems: Problems) -> Gadget:
    """The gadget (4); as `plan_sparsest` where no window up to 16 will do.

    Raises:
        UnreachableError: As `plan_gadget`.
    """
    found = _narrow_windows(problems)
    if not found:
        return plan_sparsest(problems)

    def bits(gadget: Gadget) -> float:
        return fit(problems.magnitudes, problems.spendable, gadget.gain, gadget.window)[1]

    return found[0] if len(found) == 1 else min(found, key=bits)


def plan_pinned(problems: Problems, window: int) -> Gadget:
    """The gadget of least width in windows of a given size.

    Raises:
        InputError, UnreachableError: As `plan_gadget`.
    """
    return plan_gadget(_with_slack(problems), window)


def _narrow_windows(problems: Problems) -> list[Gadget]:
    """The gadgets of least width by window up to 16 and gain; without those wider than `WIDENING` times the least."""
    largest = float(problems.magnitudes.max(initial=0.0))
    if largest == 0:
        return [plan_gadget(problems)]
    inside = _with_slack(problems)
    found, cap = [], MAXIMUM_WIDTH
    # The narrow ones first: wider ones are not worked out then.
    for window in range(LARGEST_WINDOW, SMALLEST_WINDOW - 1, -WINDOW_STEP):
        beyond = _limits_beyond()[window]
        if problems.law.signs:
            # Not measured: the smaller gains are left out.
            beyond = np.ones_like(beyond)
        limits = np.concatenate([limits_of(problems)[window], beyond])
        for octave in _GAINS:
            gain = octave + int(np.frexp(largest)[1])
            if inside.is_below_grid(gain):
                continue
            counts = np.concatenate([inside.counts(gain), _counts_beyond(inside, gain)])
            if counts.sum() == 0 or np.ldexp(largest, -gain) > BEYOND[-1]:
                continue
            counts[0] -= counts[len(counts) - len(BEYOND) :].sum()
            gadget = least_width(inside, gain, window, limits, cap, counts)
            if gadget is not None:
                found.append(gadget)
                cap = min(cap, WIDENING * gadget.width)
    return [gadget for gadget in found if gadget.width <= cap]


def _with_slack(problems: Problems) -> Problems:
    """The problems with what rounding to 32 bits may take of the tolerance."""
    return dataclasses.replace(problems, error=problems.error + problems.tolerance * SLACK)


def _counts_beyond(problems: Problems, gain: int) -> np.ndarray:
    """How many weights, in units of the gain, lie above 1 and fall to each target of `BEYOND`."""
    targets = np.ldexp(problems.magnitudes, -gain)
    above = targets[(targets > 1) & (problems.magnitudes > problems.spendable)]
    return np.bincount(np.searchsorted(BEYOND, above), minlength=len(BEYOND) + 1)[: len(BEYOND)]


@functools.lru_cache(maxsize=1)
def _limits_beyond() -> dict[int, np.ndarray]:
    """Limits of q for every target up to one of `BEYOND`, equation (2), by window."""
    table = miss_probabilities_beyond()
    shrink = 1 - 2.0 ** (-1 / STEPS_PER_OCTAVE)
    found = {}
    for window in range(SMALLEST_WINDOW, LARGEST_WINDOW + 1, WINDOW_STEP):
        limits = np.zeros_like(table[window])
        for k, probability in enumerate(binomial(window, 1 - shrink)):
            below = [m for m in table if m <= k]
            limits += probability * (table[max(below)] if below else 1.0)
        found[window] = np.minimum(limits * (1 + 1e-9), 1.0)
    return found
