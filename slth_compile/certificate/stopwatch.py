"""How long work takes, XLA's compiling apart: that takes as long whatever there is to do, and is done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jax import monitoring

_COMPILING = "/jax/core/compile/"


class Taken(NamedTuple):
    """Wall seconds.

    Attributes:
        running: All but compiling.
        compiling: What JAX says that tracing, lowering and XLA took.
    """

    running: float
    compiling: float


class OutOfTimeError(Exception):
    """The time for something that may be left out is over; no user sees it."""


@contextmanager
def stopwatch() -> Iterator[Callable[[], Taken]]:
    """A function that says what was taken since the beginning, while this lasts."""
    start, compiling = time.perf_counter(), 0.0

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        nonlocal compiling
        if event.startswith(_COMPILING):
            compiling += duration_secs

    def taken() -> Taken:
        whole = time.perf_counter() - start
        # Threads may compile at the same time.
        return Taken(max(0.0, whole - compiling), min(whole, compiling))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield taken
    finally:
        monitoring.unregister_event_duration_listener(listen)


def no_deadline() -> None:
    """Nothing: there is time."""


def deadline(until: float) -> Callable[[], None]:
    """A function that raises `OutOfTimeError` once `time.perf_counter()` is above `until`."""

    def look() -> None:
        if time.perf_counter() > until:
            raise OutOfTimeError

    return look
