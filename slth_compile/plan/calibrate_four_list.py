"""Measures how often the four-list solver misses a target: the commands that made `calibration.json`'s last windows.

    python -m slth_compile.plan.calibrate_four_list --window 34 --samples 8192 --output calibration.json
    python -m slth_compile.plan.calibrate_four_list --window 42 --samples 8192 --output calibration.json
    python -m slth_compile.plan.calibrate_four_list --window 50 --samples 4096 --output calibration.json
    python -m slth_compile.plan.calibrate_four_list --window 58 --samples 1024 --output calibration.json

Candidates as in `plan.calibrate`; targets are `c/8`, c = 0..8; the error is the one that `near_subset` leaves after all
its centres. Ten minutes on one core.
"""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import lax

from slth_compile.plan.calibrate import SEED, binned
from slth_compile.plan.calibration import HALF_OCTAVES, NEAR_TARGETS
from slth_compile.source.dyadic import PRODUCT_BITS, masked_sum
from slth_compile.source.threefry import Key, tensor_key
from slth_compile.subset_sum.four_list import CENTRES, FORCED, near_subset
from slth_compile.subset_sum.statistics import products

BLOCK = 1 << 9
_CHUNK = 8


@functools.partial(jax.jit, static_argnums=(0,))
def _errors(window: int, key: Key, start: jax.Array, target: jax.Array) -> jax.Array:
    """Exact errors of BLOCK problems, units of 2^-46."""

    def solve(chunk: jax.Array) -> jax.Array:
        problem = start + chunk * jnp.uint64(_CHUNK) + jnp.arange(_CHUNK, dtype=jnp.uint64)
        rows = jnp.arange(window, dtype=jnp.uint64)[:, None]
        x = products(key, (problem * jnp.uint64(window) + rows) * jnp.uint64(2))
        targets = jnp.full(_CHUNK, target)
        return jnp.abs(masked_sum(x, near_subset(x, targets, jnp.full(_CHUNK, -1, jnp.int64))) - target)

    return lax.map(solve, jnp.arange(BLOCK // _CHUNK, dtype=jnp.uint64)).reshape(-1)


def histogram(window: int, column: int, samples: int) -> np.ndarray:
    """How many errors of one column fall into each half octave.

    Args:
        window: Candidates m, 4 q + 2.
        column: Index into `NEAR_TARGETS`.
        samples: A multiple of 512.

    Returns:
        int64 `(HALF_OCTAVES + 1,)`, as `plan.calibrate.histogram`.
    """
    counts = np.zeros(HALF_OCTAVES + 1, np.int64)
    target = round(NEAR_TARGETS[column] * 2.0**PRODUCT_BITS)
    with jax.enable_x64(True):
        key = tensor_key(SEED, window, column)
        for start in range(0, samples, BLOCK):
            counts += binned(np.asarray(_errors(window, key, jnp.uint64(start), jnp.int64(target))))
    return counts


def main(window: int = 58, samples: int = 1024, output: pathlib.Path = pathlib.Path("calibration.json")) -> None:
    """Measures one window and writes it into OUTPUT, beside the exact windows, which are left as they are."""
    table = json.loads(output.read_text())
    near = table.setdefault("four_list", {"forced": FORCED, "centres": CENTRES, "windows": {}})
    if (near["forced"], near["centres"]) != (FORCED, CENTRES):
        raise SystemExit(f"{output}: measured with {near['forced']} forced candidates and {near['centres']} centres")
    cells = []
    for column in range(len(NEAR_TARGETS)):
        counts = histogram(window, column, samples)
        used = np.flatnonzero(counts)
        cells.append([int(used[0]), *(int(c) for c in counts[used[0] : used[-1] + 1])])
        print(f"window {window}: target {NEAR_TARGETS[column]}", flush=True)
    measured = near["windows"] | {str(window): {"samples": samples, "cells": cells}}
    near["windows"] = dict(sorted(measured.items(), key=lambda item: int(item[0])))
    output.write_text(json.dumps(table, separators=(",", ":")))


if __name__ == "__main__":
    typer.run(main)
