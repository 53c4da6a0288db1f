"""Interrupts that end a compile between two steps, not inside compiled code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_seen, _patient = threading.Event(), threading.Event()


@contextmanager
def interrupts() -> Iterator[None]:
    """Remembers SIGINT for `feel`; raises KeyboardInterrupt at once unless `wait_for_steps` was called.

    Python raises KeyboardInterrupt in whatever runs in the main thread; in a callback of the garbage collector it is
    printed and forgotten. Where SIGINT is ignored, or this is not the main thread, nothing changes.
    """
    previous, print_unraisable = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if previous is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: object) -> None:
        again = _seen.is_set()
        _seen.set()
        if again or not _patient.is_set():
            raise KeyboardInterrupt

    _seen.clear()
    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = lambda found: None if found.exc_type is KeyboardInterrupt else print_unraisable(found)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        sys.unraisablehook = print_unraisable
        _seen.clear()
        _patient.clear()


def wait_for_steps() -> None:
    """Lets the first SIGINT wait for the next step, until `interrupts` ends; the second one still raises at once.

    Raised in a callback that compiled code makes into Python, KeyboardInterrupt can end the process with a fault.
    """
    _patient.set()


def feel(stage: str, done: int, total: int) -> None:
    """A progress callback that raises KeyboardInterrupt where SIGINT came before."""
    if _seen.is_set():
        raise KeyboardInterrupt
