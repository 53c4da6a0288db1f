"""Elementwise arithmetic, with constants and between activations, broadcast as NumPy does."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends import elementwise
from slth_compile.frontends.constants import Constant, from_array, scalar
from slth_compile.frontends.draft import Activation, Value
from slth_compile.frontends.onnx.layout import with_rank
from slth_compile.frontends.onnx.operation import Operation, Refused, constant

_NAMES = {"Add": "add", "Div": "div", "Max": "max", "Min": "min", "Mul": "mul", "Sub": "sub", "Sum": "add"}


def binary(op: Operation) -> Value:
    """`Add`, `Sub`, `Mul`, `Div`, and `Max`, `Min`, `Sum` of any number of operands."""
    operands = [x for x in op.operands if x is not None]
    if len(operands) < (1 if op.kind in ("Max", "Min", "Sum") else 2):
        raise InputError(f"{op}: {len(operands)} operands")
    return functools.reduce(lambda x, y: combined(op, _NAMES[op.kind], (x, y)), operands)


def combined(op: Operation, name: str, operands: Sequence[Value]) -> Value:
    """An operation on two values, broadcast to each other's rank and shape."""
    shapes = [op.draft.shape(x) if isinstance(x, Activation) else x.shape for x in operands]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"{op}: operands of shapes {shapes[0]} and {shapes[1]}") from None
    found = [_of_rank(x, len(shape)) for x in operands]
    if all(isinstance(x, Constant) for x in found):
        raise Refused("a part of it is an operation on constants; fold them with a simplifier")
    return elementwise.arithmetic(op.draft, name, found, shape)


def negative(op: Operation) -> Value:
    """`-x`, as a product with -1."""
    return combined(op, "mul", (op.activation, from_array(np.float32(-1))))


def power(op: Operation) -> Value:
    """The square or the cube, as products."""
    exponent = scalar(op.constant_at(1, "the exponent"))
    if exponent not in (1, 2, 3):
        raise Refused(f"a power of {'several numbers' if exponent is None else f'{exponent:g}'}; expected 1, 2 or 3")
    x: Value = op.activation
    for _ in range(int(exponent) - 1):
        x = combined(op, "mul", (x, op.activation))
    return x


def choice(op: Operation) -> Value:
    """`Where` with a condition that does not depend on the input: what is not chosen is multiplied by zero."""
    chosen = op.constant_at(0, "the condition").value.astype(bool)
    terms: list[Value] = []
    for position, mask in ((1, chosen), (2, ~chosen)):
        x = op.operand(position)
        if isinstance(x, Activation):
            terms.append(combined(op, "mul", (x, from_array(mask.astype(np.float32)))))
            continue
        given = op.constant_at(position, "a case")
        value = np.where(mask, given.value, given.value.dtype.type(0))
        if not np.all(np.isfinite(value)):
            raise Refused("a case with infinite numbers; expected finite ones")
        terms.append(constant(value, given.leaves))
    return combined(op, "add", terms)


def _of_rank(x: Value, rank: int) -> Value:
    if isinstance(x, Activation):
        return with_rank(x, rank)
    if not x.shape:
        return x
    return constant(x.value.reshape((1,) * (rank - len(x.shape)) + x.shape), x.leaves)
