"""Widths from probabilities: how many copies a gadget needs so that every weight is met with probability 1 - delta.

A weight w fails when all its disjoint windows of m usable candidates fail. With q the probability for one window and
K ~ Binomial(N, 1/2) usable copies of its channel,

    P(fail) <= E[q^floor(K/m)],    P(some weight fails) <= sum over weights (and input signs) of it.             (1)

The table holds upper limits of q(m, w) for targets on a grid only. Between grid points, let v be the grid target above
w and 1 - h = w/v. A factor `a ~ Uniform(0, 1)` is below 1 - h with probability 1 - h, and is then a Uniform(0, 1 - h):
the candidates for which this happens are a scaled window for the target v, and the others can be left out. So

    q(m, w, tol) <= sum_k Binomial(m, 1 - h)(k) q(k, v, tol).                                                      (2)

Below the smallest grid target, force one candidate x0 into the subset. The rest must then hit w - x0; moving the law of
x0 (density ln(1/|x|)/2) by w changes any probability by at most its mass on |x| < w/2, hence

    q(m, w, tol) <= q_forced(m, 0, tol) + (w/2) (1 + ln(2/w)).                                                     (3)

Laws are taken as continuous; the source's grid is 2^-23 fine. The table is of exact optima; where the solver rounds to
32 bits, what that may cost (`subset_sum.problem.rounding`) is taken off the tolerance.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import stats

from slth_compile.errors import UnreachableError
from slth_compile.plan.calibration import COLUMNS, HALF_OCTAVES, STEPS_PER_OCTAVE, TARGETS, miss_probabilities
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import MAXIMUM_WIDTH, Gadget
from slth_compile.subset_sum.problem import rounding

SMALLEST_WINDOW, LARGEST_WINDOW = 8, 24
WINDOW_STEP = 4
"""Windows of the plan are its multiples: every size in use is a program to compile."""

GAINS = 4
_GRID_STEPS = 4
# The solver stays 2^-30 inside the tolerance, for checkers that round otherwise.
_INSIDE = 1 - 2.0**-29
_ROUNDING = 1 + 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Problems:
    """What a gadget must meet.

    Attributes:
        name: For messages.
        magnitudes: |weights| of the family, nonzero ones, `(count,)`.
        error: Largest absolute folding error among them.
        signs: Input signs to serve: 2 for a signed kernel, else 1.
        tolerance: Largest allowed |effective weight - weight|.
        failure: Largest allowed P(some weight fails).
    """

    name: str
    magnitudes: np.ndarray
    error: float
    signs: int
    tolerance: float
    failure: float

    @property
    def spendable(self) -> float:
        """What a subset may be off by: the tolerance without what folding took of it."""
        return self.tolerance * _INSIDE - self.error

    def counts(self, gain: int) -> np.ndarray:
        """How many weights, in units of the gain, fall to each column; those within the tolerance need nothing."""
        return _counts(np.ldexp(self.magnitudes[self.magnitudes > self.spendable], -gain))


def plan_gadget(problems: Problems) -> Gadget:
    """The gain, window and least width that meet the problems with the allowed probability.

    Args:
        problems: Weights, tolerance, probability.

    Returns:
        The gadget; `failure` is the bound (1) at its width.

    Raises:
        UnreachableError: The tolerance is below the grid, or no width up to `MAXIMUM_WIDTH` suffices.
    """
    largest = float(problems.magnitudes.max(initial=0.0))
    if largest == 0:
        return Gadget(width=1, gain=0, window=SMALLEST_WINDOW, tolerance=problems.tolerance, failure=0.0)
    mantissa, exponent = np.frexp(largest)
    lowest = int(exponent) - int(mantissa == 0.5)
    best: Gadget | None = None
    for window, limits in _grid_limits().items():
        # Two candidates more cost twice the time and two mask bits: past the usual windows they must halve the width.
        cap = MAXIMUM_WIDTH if best is None else best.width // 2 if window > LARGEST_WINDOW else best.width - 1
        for gain in range(lowest, lowest + GAINS):
            if problems.spendable < np.ldexp(_GRID_STEPS, gain - PRODUCT_BITS):
                continue
            gadget = _least_width(problems, gain, window, limits, cap)
            if gadget is not None:
                best, cap = gadget, gadget.width - 1
    if best is not None:
        return best
    if problems.spendable < np.ldexp(_GRID_STEPS, lowest - PRODUCT_BITS):
        raise UnreachableError(
            f"{problems.name}: needs a tolerance of {problems.tolerance:.2e}, below the grid of the source "
            f"({np.ldexp(_GRID_STEPS, lowest - PRODUCT_BITS):.2e}); ask for a larger eps or a smaller domain"
        )
    raise UnreachableError(
        f"{problems.name}: tolerance {problems.tolerance:.2e} with failure probability {problems.failure:.2e} needs "
        f"more than the {MAXIMUM_WIDTH} copies the format allows; ask for a larger eps or delta, or a smaller domain"
    )


def _least_width(
    problems: Problems, gain: int, window: int, limits: np.ndarray, cap: int, counts: np.ndarray | None = None
) -> Gadget | None:
    if cap < 1:
        return None
    # Half a grid step goes to rounding the target, as much and more to rounding the error.
    lost = 2.0 ** -(PRODUCT_BITS - 1) + rounding(window, float(np.ldexp(problems.tolerance, -gain)))
    tolerance = np.ldexp(problems.spendable, -gain) - lost
    if tolerance <= 0:
        return None
    column = min(HALF_OCTAVES, int(np.ceil(-2 * np.log2(tolerance))))
    if column < 0:
        column = 0
    counts = problems.counts(gain) if counts is None else counts
    needed = counts > 0
    counts, q = counts[needed] * problems.signs, limits[needed, column]
    if cap < 1 or 2.0 ** (-column / 2) > tolerance or np.any(q >= 1):
        return None

    def failure(width: int) -> float:
        windows = np.arange(width + 1) // window
        usable = np.bincount(windows, stats.binom.pmf(np.arange(width + 1), width, 0.5 - 2.0**-24))
        return float(counts @ (q[:, None] ** np.arange(usable.size) @ usable)) * _ROUNDING

    low, high = 0, cap
    if failure(high) > problems.failure:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if failure(middle) <= problems.failure else (middle, high)
    return Gadget(width=high, gain=gain, window=window, tolerance=problems.tolerance, failure=failure(high))


def _counts(targets: np.ndarray) -> np.ndarray:
    """How many targets (in units of the gain) fall to each column, `(COLUMNS,)`; the column's target is not below."""
    column = np.floor(-STEPS_PER_OCTAVE * np.log2(np.maximum(targets, 1e-300))).astype(np.int64)
    column = np.clip(column, 0, COLUMNS - 1)
    # The logarithm is rounded: step back where the grid target came out below the weight.
    grid = np.append(TARGETS, TARGETS[-1])
    column = np.where((column < COLUMNS - 1) & (grid[column] < targets), np.maximum(column - 1, 0), column)
    return np.bincount(column, minlength=COLUMNS)


@functools.lru_cache(maxsize=1)
def _grid_limits() -> dict[int, np.ndarray]:
    """Limits of q for every target of a column, equations (2) and (3), by window: `(COLUMNS, HALF_OCTAVES + 1)`."""
    table = miss_probabilities()
    sizes = sorted(table)
    shrink = 1 - 2.0 ** (-1 / STEPS_PER_OCTAVE)
    shift = TARGETS[-1] / 2 * (1 + np.log(2 / TARGETS[-1]))
    found = {}
    for window in (m for m in sizes if m >= SMALLEST_WINDOW and m % WINDOW_STEP == 0):
        limits = np.zeros_like(table[window])
        for k, probability in enumerate(stats.binom.pmf(np.arange(window + 1), window, 1 - shrink)):
            # A window of k candidates fails no more often than one of the next measured size below.
            below = [m for m in sizes if m <= k]
            limits += probability * (table[below[-1]] if below else 1.0)
        limits[-1] = table[window][-1] + shift
        found[window] = np.minimum(limits * _ROUNDING, 1.0)
    return found
