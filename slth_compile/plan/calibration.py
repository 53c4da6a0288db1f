"""The calibration table: upper confidence limits on the probability that one window misses a target."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import numpy as np

from slth_compile.plan.binomial import upper_limit
from slth_compile.subset_sum.four_list import CENTRES, FORCED

STEPS_PER_OCTAVE = 16
OCTAVES = 10
TARGETS = 2.0 ** (-np.arange(STEPS_PER_OCTAVE * OCTAVES + 1) / STEPS_PER_OCTAVE)
"""Targets of the table's columns, in units of the gain, descending from 1."""

COLUMNS = len(TARGETS) + 1
"""The targets, and one column for targets near zero."""

NEAR_TARGETS = np.arange(9) / 8
"""Targets of the four-list solver's columns, in units of the gain."""

BEYOND = 2.0 ** (np.arange(1, 2 * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE)
"""Targets above the gain, ascending to 4: for windows up to `LARGEST_BEYOND`, which may take smaller gains."""

LARGEST_BEYOND = 16

HALF_OCTAVES = 92
"""Tolerances of the table: `2^(-b/2)`, b = 0..92, in units of the gain."""

CONFIDENCE = 1 - 1e-8
"""Of every single limit; all of the 1.9e5 limits of the table hold together with probability > 0.998."""


@functools.lru_cache(maxsize=2)
def miss_probabilities(signs: bool = False) -> dict[int, np.ndarray]:
    """Upper limits `q(m, w, tolerance)` for every window m, columns by tolerances.

    Of products of two uniform entries; with `signs`, where `U` is a signed constant, of uniform ones.

    From the counts of the table by Clopper & Pearson (1934): with k misses among n samples,
    `q = Beta^-1(CONFIDENCE; k + 1, n - k)`.

    Returns:
        float64 arrays `(COLUMNS, HALF_OCTAVES + 1)` by window; entry `[c, b]` bounds P(error > 2^(-b/2)) for column c.
    """
    return {m: _limits(entry["samples"], entry["cells"]) for m, entry in _windows(signs)}


@functools.lru_cache(maxsize=1)
def near_miss_probabilities() -> dict[int, np.ndarray]:
    """The same limits for windows of the four-list solver, the first candidates kept in every subset.

    Returns:
        float64 arrays `(len(NEAR_TARGETS), HALF_OCTAVES + 1)` by window.

    Raises:
        ValueError: The table was measured with another solver than the one in use.
    """
    near = _table()["four_list"]
    if (near["forced"], near["centres"]) != (FORCED, CENTRES):
        raise ValueError("calibration.json measured another four-list solver; run plan.calibrate_four_list")
    return {int(m): _limits(entry["samples"], entry["cells"]) for m, entry in near["windows"].items()}


@functools.lru_cache(maxsize=1)
def miss_probabilities_beyond() -> dict[int, np.ndarray]:
    """The same for the targets `BEYOND`, float64 `(32, HALF_OCTAVES + 1)` by window, for windows up to 16."""
    found = {m: _limits(entry["samples"], entry["beyond"]) for m, entry in _windows() if "beyond" in entry}
    for limits in found.values():
        # Bin 0 holds errors above 1 too, which no target up to 1 ever has: the empty subset.
        limits[:, 0] = limits[:, 1]
    return found


def _windows(signs: bool = False) -> list[tuple[int, dict[str, Any]]]:
    return [(int(m), entry) for m, entry in _table(signs)["windows"].items()]


def _table(signs: bool = False) -> dict[str, Any]:
    name = "calibration_signs.json" if signs else "calibration.json"
    text = importlib.resources.files("slth_compile.plan").joinpath(name).read_text()
    return json.loads(text)


def _limits(samples: int, cells: list[list[int]]) -> np.ndarray:
    counts = np.zeros((len(cells), HALF_OCTAVES + 1))
    for row, (start, *values) in zip(counts, cells, strict=True):
        row[start : start + len(values)] = values
    # Errors in bins 0..b-1 exceed 2^(-b/2).
    misses = np.concatenate([np.zeros((len(cells), 1)), counts.cumsum(1)[:, :-1]], 1)
    misses[:, 0] = 0
    # Many cells count the same: each number of misses is looked at once.
    numbers, place = np.unique(misses, return_inverse=True)
    limits = upper_limit(CONFIDENCE, numbers, samples)
    return np.where(numbers >= samples, 1.0, limits)[place.reshape(misses.shape)]
