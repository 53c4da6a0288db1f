"""One weight by mixed-integer programming: the formulation of the published experiments, solved by HiGHS.

    minimise e   subject to   -e <= w - sum_i b_i x_i <= e,   b binary, e >= 0

(da Cunha, Natale & Viennot, ICLR 2022; Pensia et al., NeurIPS 2020, both with Gurobi). It is a cross-check of the
meet-in-the-middle solver and a baseline; nothing is compiled with it.

What HiGHS returns is only a proposal. It accepts `b_i` within 1e-6 of an integer and rows violated by 1e-6, and stops
once its bounds are 1e-6 apart, so its own objective can be below every error that a real subset has. The proposal is
therefore rounded to booleans and the error recomputed in exact integers.

Scale: candidates are divided by the largest magnitude among them and the target, and multiplied by 2^10. The two
tolerances on rows and bounds then stand for 1e-9 of the largest number. The one on `b_i` does not scale: n fractions of
1e-6 shift a sum by up to n * 1e-6 of the largest candidate, which is what remains, `RESOLUTION`. Optima closer together
than that may be confused. Larger scales only bring "solve errors" (about 1 % at 2^12); one such is tried again at 1.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence

import numpy as np
from scipy import optimize

from slth_compile.errors import InputError

RESOLUTION = 2e-6
"""Excess over the optimum that HiGHS' tolerances leave possible, for each candidate, relative to the largest number."""

_SCALE = 2.0**10
_FINISHED, _SOLVE_ERROR = 0, 4


@dataclasses.dataclass(frozen=True)
class MilpSolution:
    """A subset from HiGHS, and what it is worth.

    Attributes:
        mask: Whether each candidate is kept.
        error: `|target - sum of the kept candidates|`, exact, in the units of the problem.
        is_finished: Whether HiGHS said it was done; it says so of fractional optima too, hence nothing rests on it.
    """

    mask: tuple[bool, ...]
    error: int
    is_finished: bool

    @property
    def subset(self) -> int:
        """The mask as bits: bit `i` is set where candidate `i` is kept."""
        return sum(1 << i for i, kept in enumerate(self.mask) if kept)


def closest_subset_milp(candidates: Sequence[int], target: int, *, time_limit: float | None = None) -> MilpSolution:
    """The subset that HiGHS finds closest to the target, with its exact error.

    Args:
        candidates: Integers of any size, at least one.
        target: Integer, in the same units.
        time_limit: Seconds, None for no limit. Where HiGHS has no subset by then, the empty one is returned.

    Returns:
        Rounded mask and recomputed error. The error is never below the optimum, and above it by no more than
        `RESOLUTION * n * max(|candidates|, |target|)` where HiGHS finished and kept to its own tolerances.

    Raises:
        InputError: No candidate, or numbers that are no integers.
    """
    x, w = _integers(candidates), _integers([target])[0]
    if not x:
        raise InputError("candidates: found none, expected at least one integer")
    largest = max(abs(value) for value in (*x, w))
    if largest == 0:
        return MilpSolution((False,) * len(x), 0, True)
    # Ratios of Python integers are correctly rounded whatever their size.
    shares, goal = np.array([value / largest for value in x]), w / largest
    found, status = _propose(_SCALE * shares, _SCALE * goal, time_limit)
    if status == _SOLVE_ERROR:
        found, status = _propose(shares, goal, time_limit)
    mask = (False,) * len(x) if found is None else tuple(bool(value >= 0.5) for value in found)
    return MilpSolution(
        mask, abs(w - sum(value for value, kept in zip(x, mask, strict=True) if kept)), status == _FINISHED
    )


def _propose(candidates: np.ndarray, target: float, time_limit: float | None) -> tuple[np.ndarray | None, int]:
    """What HiGHS has for `b`, possibly fractional or nothing, and its status."""
    n = len(candidates)
    rows = np.stack([np.append(candidates, 1.0), np.append(candidates, -1.0)])
    options = {"mip_rel_gap": 0.0} | ({} if time_limit is None else {"time_limit": time_limit})
    result = optimize.milp(
        np.append(np.zeros(n), 1.0),
        integrality=np.append(np.ones(n), 0.0),
        # SciPy's stubs know bounds that are numbers only.
        bounds=optimize.Bounds(0.0, np.append(np.ones(n), np.inf)),  # pyright: ignore[reportArgumentType]
        constraints=(rows, np.array([target, -np.inf]), np.array([np.inf, target])),
        options=options,
    )
    return (None if result.x is None else np.asarray(result.x)[:n]), result.status


def _integers(values: Sequence[int]) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise InputError("candidates and target: found a number that is no integer; scale them to a grid") from None
