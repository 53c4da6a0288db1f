"""Values of a traced model that do not depend on its input, with the parameters they were made from.

Kept as expressions and evaluated only where a number is needed: a batch norm is recognised by how its factor was
computed, not by the factor's value.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_SHAPE_ONLY = {"broadcast_in_dim", "copy", "copy_p", "expand_dims", "reshape", "squeeze", "stop_gradient"}
_RANDOM = ("random_", "rng_", "threefry")


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """An array, or an operation on constants.

    Attributes:
        shape: Shape as traced.
        dtype: Dtype as traced.
        leaves: Names of the model parameters that went into it.
        random: Whether random bits went into it.
        array: The array itself; None where `equation` computes it.
        equation: The jaxpr equation that computes it from `operands`.
        operands: What the equation reads.
        result: Which of the equation's results this is.
    """

    shape: tuple[int, ...]
    dtype: Any
    leaves: frozenset[str] = frozenset()
    random: bool = False
    array: Any = None
    equation: Any = None
    operands: tuple[Constant, ...] = ()
    result: int = 0

    @property
    def operation(self) -> str:
        """Name of the primitive that computes it, or the empty string."""
        return "" if self.equation is None else self.equation.primitive.name

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @functools.cached_property
    def traced_value(self) -> Any:
        """The value, computed by JAX in the dtypes of the trace."""
        if self.equation is None:
            return self.array
        with jax.enable_x64(False):
            # calls are inlined, so no equation here has a function among its parameters that bind would want apart
            operands = [operand.traced_value for operand in self.operands]
            found = self.equation.primitive.bind(*operands, **self.equation.params)
        return found[self.result] if self.equation.primitive.multiple_results else found

    @property
    def value(self) -> np.ndarray:
        """The value as a NumPy array."""
        return np.asarray(self.traced_value)


def from_array(array: Any, dtype: Any = None, leaves: frozenset[str] = frozenset()) -> Constant:
    """A constant that is given: a parameter, a closed-over array, a literal."""
    kind = array.dtype if hasattr(array, "dtype") else np.asarray(array, dtype).dtype
    if dtype is not None and kind != dtype:
        array, kind = np.asarray(array).astype(dtype), dtype
    return Constant(tuple(np.shape(array)), kind, leaves, array=array)


def from_equation(equation: Any, operands: Sequence[Constant]) -> list[Constant]:
    """The results of an equation on constants, not yet computed."""
    leaves = frozenset().union(*(operand.leaves for operand in operands))
    random = equation.primitive.name.startswith(_RANDOM) or any(operand.random for operand in operands)
    return [
        Constant(tuple(out.aval.shape), out.aval.dtype, leaves, random, None, equation, tuple(operands), position)
        for position, out in enumerate(equation.outvars)
    ]


def core(constant: Constant) -> Constant:
    """The constant with reshapes, broadcasts and exact (widening) casts taken off."""
    while constant.operation in _SHAPE_ONLY or _is_widening(constant):
        constant = constant.operands[0]
    return constant


def is_zero(constant: Constant) -> bool:
    """Whether it is an untrained constant whose entries are all zero."""
    return not constant.leaves and not constant.random and not np.any(constant.value)


def scalar(constant: Constant) -> float | None:
    """Its one value, where it is numeric and all its entries agree, else None."""
    if constant.random or constant.size == 0:
        return None
    inner = core(constant)
    value = (inner if inner.size == 1 else constant).value.astype(np.float64).ravel()
    return float(value[0]) if np.all(value == value[0]) else None


def _is_widening(constant: Constant) -> bool:
    if constant.operation != "convert_element_type":
        return False
    before, after = np.dtype(constant.operands[0].dtype), np.dtype(constant.dtype)
    return all(jax.numpy.issubdtype(d, np.floating) for d in (before, after)) and before.itemsize < after.itemsize
