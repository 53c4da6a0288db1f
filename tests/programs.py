"""Programs that are barely optimised, of what tests compare with: compiling is what takes the time."""

from collections.abc import Callable
from typing import Any

import jax

UNOPTIMISED = {"xla_backend_optimization_level": 0}


def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, from one program: operations apart are a program each."""
    return jax.jit(function, compiler_options=UNOPTIMISED)(*arguments)
