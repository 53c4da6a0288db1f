"""What one run of the laboratory asks."""

from __future__ import annotations

import dataclasses
import re

from slth_compile.errors import InputError
from slth_compile.lab.laws import TargetLaw
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW

CONFIDENCE = 0.95
DEFAULT_EPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
MOST_SAMPLES = 1 << 22
SMALLEST_EPS = 2.0**-40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """How often do n random candidates have no subset within eps of a random target?

    Attributes:
        law: Law of the candidates, a key of `laws.CANDIDATE_LAWS`.
        target: Law of the target.
        candidates: Numbers of candidates n, ascending.
        eps: Allowed errors, descending, in units of the candidates' range.
        samples: Random problems for every n.
        seed: Of all words; every n has its own stream, a run with more samples extends a shorter one.
    """

    law: str
    target: TargetLaw
    candidates: tuple[int, ...]
    eps: tuple[float, ...]
    samples: int
    seed: int

    def __post_init__(self) -> None:
        if not 16 <= self.samples <= MOST_SAMPLES:
            raise InputError(f"--samples {self.samples}: expected 16 to {MOST_SAMPLES}")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"--seed {self.seed}: expected 0 to 2^64 - 1")
        for eps in self.eps:
            if not SMALLEST_EPS <= eps < 1:
                raise InputError(f"--eps {eps:g}: expected a number from 2^-40 up to, not including, 1")
        if not self.eps or tuple(sorted(set(self.eps), reverse=True)) != self.eps:
            raise InputError(f"--eps: found {', '.join(f'{e:g}' for e in self.eps) or 'none'}; expected distinct ones")


def parse_candidates(text: str) -> tuple[int, ...]:
    """The numbers that `4-24` (in steps of 2), `4-24:1` (in steps of 1) or `16` name.

    Raises:
        InputError: Another form, or outside 2..30.
    """
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3})(?::(\d{1,3}))?)?", text, re.ASCII)
    first, last, step = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    last, step = last or first, step or 2
    if not 2 <= first <= last <= MAXIMUM_WINDOW:
        raise InputError(
            f"--candidates {text}: expected FIRST-LAST[:STEP] between 2 and {MAXIMUM_WINDOW}, such as 4-24"
        )
    return tuple(range(first, last + 1, step))
