"""Several processes as one (`jax.distributed`): all compute, the first one writes, all agree."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from slth_compile.errors import InputError


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def by_first(action: Callable[[], None]) -> None:
    """What the first process does alone; where it fails there, every process fails.

    Args:
        action: Called in the first process only.

    Raises:
        InputError: As `action` does, in the first process; in the others it says where to look.
    """
    failure: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            failure = error
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failure is not None)))
        if failed and not is_first():
            raise InputError("the first of the processes cannot go on; it says why")
    if failure is not None:
        raise failure


def from_first(arrays: tuple[np.ndarray, ...] | None, like: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
    """The arrays of the first process, in every process; None where it has none.

    Args:
        arrays: What this process has.
        like: Arrays of the same shapes and types.
    """
    if jax.process_count() == 1:
        return arrays
    if not bool(multihost_utils.broadcast_one_to_all(np.int32(arrays is not None))):
        return None
    sent = arrays if arrays is not None and is_first() else like
    # Bytes: the types of JAX depend on its configuration.
    raw = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in sent)
    received = (np.asarray(multihost_utils.broadcast_one_to_all(x)) for x in raw)
    return tuple(x.view(y.dtype).reshape(y.shape) for x, y in zip(received, like, strict=True))
