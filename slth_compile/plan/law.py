"""What the law of a source changes in the plan: how many copies are usable, and how near the table's figures hold.

The tables are of continuous laws: `a b` with `a ~ Uniform(0, 1)`, `b ~ Uniform(-1, 1)`, or `b` alone where `U` is a
signed constant. Entries of B bits are multiples of `h = 2^(1-B)`: `V` uniform on `-1, ..., 1 - h`, and a usable `|U|`
uniform on `h, 2 h, ..., 1 - h` (up to 1 where it is negative). Both can be drawn together with the continuous ones so
that `0 <= b - V < h` and `||U| - a| <= h` (quantile by quantile), hence

    |a b - |U| V| <= |a - |U|| |b| + |U| |b - V| < 2 h,   |b - V| < h with signed constants,

and the sum of any subset of m candidates moves by less than `2 m h` (`m h`). A solver that finds the closest subset
therefore misses no more often than

    q_B(m, w, tol) <= q(m, w, tol - 2 m h).                                                                        (5)

Where that takes more than half of a tolerance it says too little: a layer would be planned far wider than it must be.
There, and for windows of the four-list solver, which finds no optimum, the plan only ESTIMATES. All sums are multiples
of `s = h^2` (of `h`), and at least `floor(2 tol / s)` multiples are within the tolerance of any weight: misses are
taken to be those of the continuous law at the tolerance `floor(2 tol / s) s / 2`. An estimate is no bound, so no
probability is stated then; what is certified does not depend on it.
"""

from __future__ import annotations

import math

from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.law import MOST_BITS, SourceLaw
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW

LARGEST_LOSS = 0.5
"""Share of a tolerance that equation (5) may take."""


def usable_share(law: SourceLaw) -> float:
    """P(U > 0), and a lower bound on P(U < 0): the share of copies that one sign can use."""
    return 0.5 if law.signs else 0.5 - 2.0**-law.bits


def proven_tolerance(law: SourceLaw, window: int, tolerance: float) -> float:
    """The tolerance at which the tables hold for this law by equation (5); 0 where that is of no use.

    Args:
        law: Of the source.
        window: Candidates m.
        tolerance: In units of the gain.
    """
    if law.bits == MOST_BITS and not law.signs:
        return tolerance
    # The table for signed constants was measured on the grid of 24 bits itself.
    step = 0.0 if law.bits == MOST_BITS else 2.0 ** (1 - law.bits)
    loss = window * step * (1 if law.signs else 2)
    return tolerance - loss if loss <= LARGEST_LOSS * tolerance and window <= MAXIMUM_WINDOW else 0.0


def estimated_tolerance(law: SourceLaw, tolerance: float) -> float:
    """The tolerance of a continuous law that keeps about as many sums; 0 where it may hold no sum at all.

    Args:
        law: Of the source.
        tolerance: In units of the gain.
    """
    return math.floor(math.ldexp(tolerance, law.grid_bits + 1)) * math.ldexp(0.5, -law.grid_bits)


def enough_bits(law: SourceLaw, tolerance: float) -> int | None:
    """The fewest bits whose grid comes within a tolerance of every weight; None where 24 do not either.

    Args:
        law: For `signs`.
        tolerance: In units of the gain.
    """
    found = (SourceLaw(bits, law.signs) for bits in range(law.bits, ENTRY_BITS + 2))
    return next((other.bits for other in found if estimated_tolerance(other, tolerance) > 0), None)
