"""Several elementwise results in one pass over memory.

Sorting networks are bound by loads and stores as soon as every compare-exchange is an operation of its own. XLA fuses
several outputs into one loop on GPU and TPU, but not on CPU: there each output reads every operand again. Its CPU
backend does emit one loop for a reduction of many arrays at once, so on CPU the operands get a leading axis of two
equal entries, and the reduction's computation forgets its accumulator:

    combine(accumulator, x) = function(x)

The CPU backend folds entry after entry with the accumulator on the left, so the result is `function(x)`; it keeps all
values in registers. Nothing rests on it: whatever a solver answers is recomputed from its booleans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def one_pass(
    function: Callable[..., Sequence[jax.Array]], operands: Sequence[jax.Array], outputs: int
) -> tuple[jax.Array, ...]:
    """The results of an elementwise function of several arrays, each element read and written once.

    Operands must not be computed from one another's slices just before: what XLA fuses into the loop keeps it from
    being vectorised. Slices of one array are fine.

    Args:
        function: Takes as many arrays as there are operands, elementwise operations of `jax.lax` only; returns
            `outputs` arrays of the same type and shape.
        operands: Arrays of one shape and type.
        outputs: How many arrays the function returns.
    """
    return lax.platform_dependent(
        *operands, cpu=lambda *x: _by_reduction(function, x, outputs), default=lambda *x: tuple(function(*x))
    )


def materialise(x: jax.Array) -> jax.Array:
    """The array, computed before anything that reads it: XLA does not fuse it into its readers on CPU."""
    return one_pass(lambda v: (v, v), [x], 2)[0]


def _by_reduction(
    function: Callable[..., Sequence[jax.Array]], operands: Sequence[jax.Array], outputs: int
) -> tuple[jax.Array, ...]:
    # A reduction returns as many arrays as it takes; XLA drops the ones that nobody reads.
    count = max(outputs, len(operands))
    twice = [jnp.broadcast_to(x, (2, *x.shape)) for x in operands]
    zero = jnp.zeros((), operands[0].dtype)

    def combine(_: Sequence[jax.Array], entry: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        found = tuple(function(*entry[: len(operands)]))
        return (*found, *(jnp.zeros_like(entry[0]) for _ in range(count - outputs)))

    reduced = lax.reduce((*twice, *twice[:1] * (count - len(operands))), (zero,) * count, combine, (0,))
    return tuple(reduced[:outputs])
