"""Measures how often a window of m candidates misses a target: the commands that made `calibration.json`.

    python -m slth_compile.plan.calibrate --windows 6-20 --samples 131072 --output calibration.json
    python -m slth_compile.plan.calibrate --windows 22-24 --samples 16384 --output calibration.json
    python -m slth_compile.plan.calibrate --windows 26-28 --samples 4096 --output calibration.json

and `calibration_signs.json`, the same for sources whose `U` is a signed constant:

    python -m slth_compile.plan.calibrate --signs --windows 6-16 --samples 131072 --output calibration_signs.json
    python -m slth_compile.plan.calibrate --signs --windows 18-20 --samples 65536 --output calibration_signs.json
    python -m slth_compile.plan.calibrate --signs --windows 22-24 --samples 16384 --output calibration_signs.json

One problem: m candidates `a * b`, `a ~ Uniform(0, 1)` (the constant 1 with `--signs`), `b ~ Uniform[-1, 1)`, on the
source's own grid, and a target `w`; the error is that of the best of all 2^m subsets. Targets are `2^(-c/16)`,
c = 0..160. The last column, for targets near zero, forces the first candidate into the subset and asks for a sum of 0
(see `plan.width`, equation 3). Products of windows up to 16 have the targets `2^(c/16)`, c = 1..32, as well. Every
column of every window has its own stream of words, so a run with more samples extends a shorter one.
"""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import typer

from slth_compile.plan.calibration import BEYOND, COLUMNS, HALF_OCTAVES, LARGEST_BEYOND, TARGETS
from slth_compile.source.dyadic import ENTRY_BITS, PRODUCT_BITS, entries
from slth_compile.source.threefry import GENERATOR, tensor_key, words
from slth_compile.subset_sum.statistics import optimum_errors, products

SEED = 20220501
BLOCK = 1 << 12


def binned(errors: np.ndarray) -> np.ndarray:
    """How many errors, units of 2^-46, fall into each half octave, int64 `(HALF_OCTAVES + 1,)`."""
    edges = np.floor(2.0 ** (PRODUCT_BITS - np.arange(HALF_OCTAVES, 0, -1) / 2)).astype(np.int64)
    return np.bincount(HALF_OCTAVES - np.searchsorted(edges, errors, "left"), minlength=HALF_OCTAVES + 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _errors(
    window: int, signs: bool, key: tuple[jax.Array, jax.Array], start: jax.Array, target: jax.Array, forced: jax.Array
):
    """Exact errors of BLOCK problems, units of 2^-46."""

    def draw(problems: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.arange(window, dtype=jnp.uint64)[:, None]
        elements = (problems * jnp.uint64(window) + rows) * jnp.uint64(2)
        x = entries(words(key, elements)) << ENTRY_BITS if signs else products(key, elements)
        # Forcing candidate 0: it moves from the candidates into the target.
        goal = jnp.where(forced, -x[0], target)
        return x.at[0].set(jnp.where(forced, 0, x[0])), goal

    return optimum_errors(draw, window, start, BLOCK)


def histogram(window: int, column: int, samples: int, signs: bool = False) -> np.ndarray:
    """How many errors of one column fall into each half octave.

    Args:
        window: Candidates m.
        column: Index into `TARGETS`; `COLUMNS - 1` is the forced column, from `COLUMNS` on follow the targets `BEYOND`.
        samples: A multiple of 4096.
        signs: Whether candidates are `b` alone.

    Returns:
        int64 `(HALF_OCTAVES + 1,)`: entry b counts errors e with `2^(-(b+1)/2) < e <= 2^(-b/2)`; the last, all smaller.
    """
    counts = np.zeros(HALF_OCTAVES + 1, np.int64)
    forced = column == COLUMNS - 1
    target = 0 if forced else round([*TARGETS, 0.0, *BEYOND][column] * 2.0**PRODUCT_BITS)
    with jax.enable_x64(True):
        key = tensor_key(SEED, window, column)
        for start in range(0, samples, BLOCK):
            errors = _errors(window, signs, key, jnp.uint64(start), jnp.int64(target), jnp.bool_(forced))
            counts += binned(np.asarray(errors))
    return counts


def _cells(window: int, columns: range, samples: int, signs: bool) -> list[list[int]]:
    """The counts of some columns, each as its first bin in use and the counts from there on."""
    cells = []
    for column in columns:
        counts = histogram(window, column, samples, signs)
        used = np.flatnonzero(counts)
        cells.append([int(used[0]), *(int(c) for c in counts[used[0] : used[-1] + 1])])
    return cells


def main(
    windows: str = "6-24",
    samples: int = 131072,
    output: pathlib.Path = pathlib.Path("calibration.json"),
    signs: bool = False,
) -> None:
    """Measures the table for the even windows FIRST-LAST; those already in OUTPUT with as many samples are kept."""
    first, last = (int(part) for part in windows.split("-"))
    table = json.loads(output.read_text()) if output.exists() else {}
    table |= {"generator": GENERATOR, "seed": SEED, "entry_bits": ENTRY_BITS, "half_octaves": HALF_OCTAVES}
    measured = table.setdefault("windows", {})
    for window in range(first, last + 1, 2):
        entry = measured.get(str(window), {})
        if entry.get("samples", 0) < samples:
            entry = {"samples": samples, "cells": _cells(window, range(COLUMNS), samples, signs)}
        if window <= LARGEST_BEYOND and not signs and "beyond" not in entry:
            entry["beyond"] = _cells(window, range(COLUMNS, COLUMNS + len(BEYOND)), entry["samples"], signs)
        measured[str(window)] = entry
        table["windows"] = dict(sorted(measured.items(), key=lambda item: int(item[0])))
        output.write_text(json.dumps(table, separators=(",", ":")))
        print(f"window {window}: {entry['samples']} samples a column", flush=True)


if __name__ == "__main__":
    typer.run(main)
