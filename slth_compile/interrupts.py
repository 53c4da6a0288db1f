"""An interrupt that is felt wherever it strikes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from slth_compile.progress import Progress, silent


@contextmanager
def interrupts() -> Iterator[Progress]:
    """A progress callback that raises KeyboardInterrupt where SIGINT came before.

    Python raises it in whatever runs in the main thread; in a callback of the garbage collector it is printed and
    forgotten. Where SIGINT is ignored, or this is not the main thread, nothing changes.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield silent
        return
    seen, print_unraisable = False, sys.unraisablehook

    def handle(*_: object) -> None:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    def feel(stage: str, done: int, total: int) -> None:
        if seen:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = lambda found: None if found.exc_type is KeyboardInterrupt else print_unraisable(found)
    try:
        yield feel
    finally:
        signal.signal(signal.SIGINT, previous)
        sys.unraisablehook = print_unraisable
