"""Batches of problems over all cores, devices and processes: who solves what never changes what is found.

Batch `b` of a family is solved by process `b % processes`, on one of its devices; afterwards every process knows every
result. A CPU that is one device runs one program a core at a time, dispatched from as many threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Device = Any
"""One of `jax.devices()`."""

Run = Callable[[Device, slice], tuple[np.ndarray, ...]]


def solve_everywhere(run: Run, count: int, size: int, step: Callable[[], None]) -> tuple[np.ndarray, ...]:
    """The results of all batches, in order.

    Args:
        run: Solves the problems of a slice on a device: arrays with one entry a problem, their types always the same.
        count: Problems, at least one.
        size: Problems of a batch.
        step: Called after each batch of this process; what it raises ends the work between two batches.

    Returns:
        Arrays `(count, ...)`, the same in every process.
    """
    batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    processes, own = jax.process_count(), jax.process_index()
    mine = batches[own::processes]
    solved = list(_solve(run, mine, step)) or [run(jax.local_devices()[0], slice(0, 0))]
    parts = [np.concatenate(arrays) for arrays in zip(*solved, strict=True)]
    if processes == 1:
        return tuple(parts)
    rows = [
        np.concatenate([np.arange(b.start, b.stop) for b in batches[p::processes]] or [[]]) for p in range(processes)
    ]
    return tuple(_gathered(part, [r.astype(np.int64) for r in rows], count) for part in parts)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _solve(run: Run, batches: Sequence[slice], step: Callable[[], None]) -> Iterator[tuple[np.ndarray, ...]]:
    devices = jax.local_devices()
    # One more than there are cores: while a thread hands over what it found, its core has the next batch.
    workers = max(len(devices), cores()) + 1 if devices[0].platform == "cpu" else len(devices)
    pool = ThreadPoolExecutor(workers)
    try:
        for result in pool.map(lambda i: run(devices[i % len(devices)], batches[i]), range(len(batches))):
            yield result
            step()
    finally:
        pool.shutdown(cancel_futures=True)


def _gathered(part: np.ndarray, rows: Sequence[np.ndarray], count: int) -> np.ndarray:
    """What all processes found, `(count, ...)`: process `p` holds the rows `rows[p]`."""
    width = part.dtype.itemsize * math.prod(part.shape[1:])
    raw = np.ascontiguousarray(part).reshape(-1).view(np.uint8).reshape(len(part), width)
    room = max(map(len, rows))
    everything = np.asarray(multihost_utils.process_allgather(np.pad(raw, ((0, room - len(raw)), (0, 0)))))
    whole = np.zeros((count, width), np.uint8)
    for place, found in zip(rows, everything, strict=True):
        whole[place] = found[: len(place)]
    return whole.reshape(-1).view(part.dtype).reshape(count, *part.shape[1:])
