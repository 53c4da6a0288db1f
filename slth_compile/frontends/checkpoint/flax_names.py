"""A checkpoint whose arrays have the model's own names and layouts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from slth_compile.errors import InputError, suggestion
from slth_compile.frontends.checkpoint.read import Arrays

# where training loops keep the variables inside what they save
_INSIDE = ("params", "variables", "model", "state", "model_state", "ema_params")
AT_MOST = 8


def matched(expected: Arrays, arrays: Arrays, path: Any) -> Arrays:
    """The checkpoint's arrays under the model's names.

    Raises:
        InputError: Some are missing, unexpected or of another shape; every misfit in one message.
    """
    found = _closest(expected, arrays)
    collections = {name.partition("/")[0] for name in expected}
    missing = sorted(expected.keys() - found.keys())
    # optimizer states and step counters beside the variables are no concern of the model
    unexpected = sorted(
        name
        for name in found.keys() - expected.keys()
        if name.partition("/")[0] in collections and jnp.issubdtype(found[name].dtype, jnp.floating)
    )
    others = sorted(found.keys() - expected.keys())
    lines = [f"missing '{name}'{suggestion(name, others)}" for name in missing]
    lines += [f"unexpected '{name}'" for name in unexpected]
    lines += [
        f"'{name}' has shape {tuple(found[name].shape)}, the model expects {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    if lines:
        raise misfit(path, lines)
    return {name: found[name] for name in expected}


def has_all_names(expected: Arrays, arrays: Arrays) -> bool:
    """Whether every array of the model is there under its own name."""
    return expected.keys() <= _closest(expected, arrays).keys()


def misfit(path: Any, lines: list[str]) -> InputError:
    """The error that lists the first of them."""
    more = [f"and {len(lines) - AT_MOST} more"] if len(lines) > AT_MOST else []
    listed = "\n  ".join([*lines[:AT_MOST], *more])
    return InputError(f"checkpoint '{path}' does not fit the model:\n  {listed}")


def _closest(expected: Arrays, arrays: Arrays) -> Arrays:
    return max(_readings(arrays), key=lambda reading: len(expected.keys() & reading.keys()))


def _readings(arrays: Arrays) -> list[Arrays]:
    """The checkpoint as it is, as bare parameters, and as what lies inside a training state."""
    readings = [arrays, {f"params/{name}": array for name, array in arrays.items()}]
    for outer in _INSIDE:
        inner = {name.removeprefix(f"{outer}/"): a for name, a in arrays.items() if name.startswith(f"{outer}/")}
        if inner:
            beside = {name: a for name, a in arrays.items() if not name.startswith(f"{outer}/")}
            readings += [inner, {**beside, **{f"params/{name}": array for name, array in inner.items()}}]
    return readings
