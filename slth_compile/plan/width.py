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

Where U is a signed constant, candidates are Uniform(-1, 1) and have a table of their own: (2) holds as it stands, with
|x| in place of a, and the density 1/2 of x0 leaves w/2 in (3).

Windows of the four-list solver have no such monotony: it finds no optimum, and with more candidates it may do worse.
Equation (4) asks nothing of a solver but that it keeps two candidates, x0 and x1, in every subset and that its choice
among the rest depends on them through t = w - x0 - x1 alone. With M(t) in [0, 1] the probability that the rest misses
t, and f the density of x0 + x1,

    q(w) = integral f(w - t) M(t) dt.

For w = (1 - s) v + s u between two targets v < u, h = u - v, the kernel f(w - t) differs from the interpolated one,
(1 - s) f(v - t) + s f(u - t), by at most s (1 - s) h^2 / 2 times the total variation of f' in L1 (Peano). Here

    f''(x) = -ln|1 - |x|| / (2 |x|) > 0   for 0 < |x| < 2,     and f' falls by pi^2/4 at 0,

so f' has total variation pi^2/2. Both kernels have mass 1, hence their positive difference is half of that, and

    q(w) <= (1 - s) q(v) + s q(u) + pi^2 h^2 / 32 <= max(q(v), q(u)) + pi^2 h^2 / 32.                              (4)

Laws are taken as continuous; the source's grid is 2^-23 fine, that of its products 2^-46 (fewer bits: `plan.law`). Up
to windows of 28 the table is of exact optima; where the solver rounds to 32 bits, what that may cost
(`subset_sum.problem.rounding`) is taken off the tolerance.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from slth_compile.errors import InputError, UnreachableError
from slth_compile.plan.binomial import binomial
from slth_compile.plan.calibration import (
    COLUMNS,
    HALF_OCTAVES,
    NEAR_TARGETS,
    STEPS_PER_OCTAVE,
    TARGETS,
    miss_probabilities,
    near_miss_probabilities,
)
from slth_compile.plan.law import enough_bits, estimated_tolerance, proven_tolerance, usable_share
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.law import STANDARD, SourceLaw
from slth_compile.source.layout import MAXIMUM_WIDTH, Gadget
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW
from slth_compile.subset_sum.problem import rounding

SMALLEST_WINDOW, LARGEST_WINDOW = 8, 24
WINDOW_STEP = 4
"""Windows the plan chooses are its multiples: every size in use is a program to compile."""

_LARGE_WINDOW_GAIN, _FOUR_LIST_GAIN = 2, 3

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
        signs: How often each weight is to be met: for every input sign, and every copy of its output channel.
        tolerance: Largest allowed |effective weight - weight|.
        failure: Largest allowed P(some weight fails).
        law: Of the source.
        stated: Whether the plan's probability is to be a bound; else it is an estimate, and is not stated.
        usable: Share of the copies that are candidates; None for those that a sign can use by the law.
    """

    name: str
    magnitudes: np.ndarray
    error: float
    signs: int
    tolerance: float
    failure: float
    law: SourceLaw = STANDARD
    stated: bool = True
    usable: float | None = None

    def is_below_grid(self, gain: int) -> bool:
        """Whether the tolerance is finer than what 24 bits are used for."""
        return bool(self.spendable < np.ldexp(_GRID_STEPS, gain - PRODUCT_BITS))

    @property
    def spendable(self) -> float:
        """What a subset may be off by: the tolerance without what folding took of it."""
        return self.tolerance * _INSIDE - self.error

    def counts(self, gain: int) -> np.ndarray:
        """How many weights, in units of the gain, fall to each column; those within the tolerance need nothing."""
        return _counts(np.ldexp(self.magnitudes[self.magnitudes > self.spendable], -gain))


def plan_gadget(problems: Problems, window: int | None = None) -> Gadget:
    """The gain, window and least width that meet the problems with the allowed probability.

    Args:
        problems: Weights, tolerance, probability.
        window: The window to use; None chooses among the multiples of `WINDOW_STEP`.

    Returns:
        The gadget; `failure` is the bound (1) at its width, None where it would be an estimate only.

    Raises:
        InputError: No window of that size was measured.
        UnreachableError: The tolerance is below the grid, or no width up to `MAXIMUM_WIDTH` suffices.
    """
    limits_by_window = limits_of(problems)
    # Some windows are measured well enough for an estimate only.
    known = limits_of(dataclasses.replace(problems, stated=False))
    if window is not None and window not in known:
        sizes = ", ".join(map(str, known))
        raise InputError(f"window is {window}; expected one of the measured sizes {sizes}")
    chosen = [m for m in limits_by_window if m % WINDOW_STEP == 0 or m > MAXIMUM_WINDOW]
    windows = chosen if window is None else [m for m in limits_by_window if m == window]
    largest = float(problems.magnitudes.max(initial=0.0))
    if largest == 0:
        nothing = 0.0 if problems.stated else None
        return Gadget(width=1, gain=0, window=window or windows[0], tolerance=problems.tolerance, failure=nothing)
    mantissa, exponent = np.frexp(largest)
    lowest = int(exponent) - int(mantissa == 0.5)
    counts = problems.counts(lowest)
    best: Gadget | None = None
    for size in windows:
        cap = MAXIMUM_WIDTH if best is None else _worthwhile(size, best.width)
        for gain in range(lowest, lowest + GAINS):
            if problems.is_below_grid(gain):
                continue
            gadget = least_width(problems, gain, size, limits_by_window[size], cap, _shifted(counts, gain - lowest))
            if gadget is not None:
                best, cap = gadget, gadget.width - 1
    if best is not None:
        return best
    refuse_few_bits(problems, lowest)
    if problems.is_below_grid(lowest):
        raise UnreachableError(
            f"{problems.name}: needs a tolerance of {problems.tolerance:.2e}, below the grid of the source "
            f"({np.ldexp(_GRID_STEPS, lowest - PRODUCT_BITS):.2e}); ask for a larger eps or a smaller domain"
        )
    pinned = "" if window is None else f" in windows of {window}"
    raise UnreachableError(
        f"{problems.name}: tolerance {problems.tolerance:.2e} with failure probability {problems.failure:.2e} needs "
        f"more than the {MAXIMUM_WIDTH} copies the format allows{pinned}; ask for a larger eps or delta, or a smaller "
        "domain"
    )


def _worthwhile(window: int, width: int) -> int:
    """The width at which a larger window is worth its time and its mask bits, given what a smaller one needs."""
    if window <= LARGEST_WINDOW:
        return width - 1
    return width // (_LARGE_WINDOW_GAIN if window <= MAXIMUM_WINDOW else _FOUR_LIST_GAIN)


def least_width(
    problems: Problems, gain: int, window: int, limits: np.ndarray, cap: int, counts: np.ndarray | None = None
) -> Gadget | None:
    """The gadget of least width with a given gain and window, equation (1); None where none up to `cap` will do.

    Args:
        problems: What it must meet.
        gain: Exponent g.
        window: Candidates m.
        limits: Limits of q for every target and tolerance, of this window or a smaller one of the exact solver.
        cap: Largest width allowed.
        counts: Weights by target, where they are known already.
    """
    if cap < 1:
        return None
    # Half a grid step goes to rounding the target, as much and more to rounding the error.
    lost = 2.0 ** -(PRODUCT_BITS - 1) + rounding(window, float(np.ldexp(problems.tolerance, -gain)))
    tolerance = np.ldexp(problems.spendable, -gain) - lost
    if problems.law != STANDARD and tolerance > 0:
        proven = proven_tolerance(problems.law, window, tolerance)
        tolerance = proven if problems.stated else estimated_tolerance(problems.law, tolerance)
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

    share = usable_share(problems.law) if problems.usable is None else problems.usable

    def failure(width: int) -> float:
        usable = _usable(width, window, share)
        return float(counts @ (q[:, None] ** np.arange(usable.size) @ usable)) * _ROUNDING

    # From below: the powers of a narrow width are few.
    low, high = 0, min(cap, window)
    while failure(high) > problems.failure:
        if high == cap:
            return None
        low, high = high, min(cap, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if failure(middle) <= problems.failure else (middle, high)
    stated = failure(high) if problems.stated else None
    return Gadget(width=high, gain=gain, window=window, tolerance=problems.tolerance, failure=stated)


def refuse_few_bits(problems: Problems, gain: int) -> None:
    """Nothing, where the source's grid comes within the tolerance of every weight."""
    tolerance = float(np.ldexp(problems.spendable, -gain))
    if problems.stated or problems.law == STANDARD or estimated_tolerance(problems.law, tolerance) > 0:
        return
    enough = enough_bits(problems.law, tolerance)
    advice = "ask for a larger eps" if enough is None else f"ask for a larger eps, or a source of {enough} bits or more"
    reached = np.ldexp(0.5, gain - problems.law.grid_bits)
    raise UnreachableError(
        f"{problems.name}: needs a tolerance of {problems.tolerance:.2e}, and all sums of a source of "
        f"{problems.law} are multiples of {2 * reached:.2e}; {advice}"
    )


@functools.lru_cache(maxsize=4096)
def _usable(width: int, window: int, share: float) -> np.ndarray:
    """The law of the number of whole windows among the usable of `width` copies."""
    windows = np.arange(width + 1) // window
    return np.bincount(windows, binomial(width, share))


def _shifted(counts: np.ndarray, octaves: int) -> np.ndarray:
    """The counts at a gain so many octaves up: a target of the grid halved is one of the grid, or near zero."""
    moved = np.concatenate([np.zeros(STEPS_PER_OCTAVE * octaves, counts.dtype), counts])
    return np.append(moved[: COLUMNS - 1], moved[COLUMNS - 1 :].sum())


def _counts(targets: np.ndarray) -> np.ndarray:
    """How many targets (in units of the gain) fall to each column, `(COLUMNS,)`; the column's target is not below."""
    column = np.floor(-STEPS_PER_OCTAVE * np.log2(np.maximum(targets, 1e-300))).astype(np.int64)
    column = np.clip(column, 0, COLUMNS - 1)
    # The logarithm is rounded: step back where the grid target came out below the weight.
    grid = np.append(TARGETS, TARGETS[-1])
    column = np.where((column < COLUMNS - 1) & (grid[column] < targets), np.maximum(column - 1, 0), column)
    return np.bincount(column, minlength=COLUMNS)


def limits_of(problems: Problems) -> dict[int, np.ndarray]:
    """Limits of q for every target of a column, equations (2) to (4), by window: `(COLUMNS, HALF_OCTAVES + 1)`."""
    return _signs_limits(problems.stated) if problems.law.signs else _grid_limits()


@functools.lru_cache(maxsize=1)
def _grid_limits() -> dict[int, np.ndarray]:
    return _exact_limits() | _four_list_limits()


@functools.lru_cache(maxsize=2)
def _signs_limits(stated: bool) -> dict[int, np.ndarray]:
    # The four-list solver was measured on products; for other candidates its figures are estimates.
    return _exact_limits(signs=True) | ({} if stated else _four_list_limits())


def _four_list_limits() -> dict[int, np.ndarray]:
    step = NEAR_TARGETS[1]
    # A column's targets lie between these; the last two share what is below the smallest grid target.
    above, below = np.append(TARGETS, TARGETS[-1]), np.append(TARGETS[1:], [0.0, 0.0])
    first, last = np.floor(below * (1 - 1e-9) / step).astype(int), np.ceil(above / step).astype(int)
    distance = np.pi**2 * step**2 / 32
    return {
        window: np.minimum(
            (np.stack([near[i : j + 1].max(0) for i, j in zip(first, last, strict=True)]) + distance) * _ROUNDING, 1.0
        )
        for window, near in near_miss_probabilities().items()
    }


def _exact_limits(signs: bool = False) -> dict[int, np.ndarray]:
    table = miss_probabilities(signs)
    sizes = sorted(table)
    shrink = 1 - 2.0 ** (-1 / STEPS_PER_OCTAVE)
    shift = TARGETS[-1] / 2 * (1.0 if signs else 1 + np.log(2 / TARGETS[-1]))
    found = {}
    for window in (m for m in sizes if m >= SMALLEST_WINDOW):
        limits = np.zeros_like(table[window])
        for k, probability in enumerate(binomial(window, 1 - shrink)):
            # A window of k candidates fails no more often than one of the next measured size below.
            below = [m for m in sizes if m <= k]
            limits += probability * (table[below[-1]] if below else 1.0)
        limits[-1] = table[window][-1] + shift
        found[window] = np.minimum(limits * _ROUNDING, 1.0)
    return found
