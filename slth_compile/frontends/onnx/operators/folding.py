"""Operators on constants alone, computed once by NumPy in the dtypes of the file, as a runtime would.

These compute shapes (`Shape`, `Gather`, `Concat`, ...) and rearrange or dequantise weights. What they put out is
counted before it is made: a file of a hundred bytes must not ask for a terabyte.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.constants import Constant
from slth_compile.frontends.onnx.operation import Operation, Refused, constant
from slth_compile.frontends.onnx.operators import picking, quantisation, shaping
from slth_compile.frontends.onnx.operators.quantisation import array_at
from slth_compile.frontends.onnx.reader import onnx_package

Arrays = Sequence[np.ndarray]
Rule = Callable[[Operation, "Budget"], np.ndarray | list[np.ndarray]]


@dataclasses.dataclass(eq=False)
class Budget:
    """How many elements folding may still make: some for shapes, and some for each that the file really holds."""

    left: int = 2**26

    def add(self, stored: int) -> None:
        """Adds what a tensor of the file is good for."""
        self.left += 4 * stored

    def take(self, op: Operation, count: int) -> None:
        """Takes the elements of a result that is about to be made."""
        self.left -= count
        if self.left < 0:
            raise InputError(f"{op}: makes a constant of {count} elements; fold the model with a simplifier first")


def fold(op: Operation, budget: Budget) -> list[Constant]:
    """The results of an operation on constants.

    Raises:
        Refused: An operator that is not computed here.
    """
    leaves = frozenset().union(*(x.leaves for x in op.operands if isinstance(x, Constant)))
    arrays = [x.value for x in op.operands if isinstance(x, Constant)]
    with np.errstate(all="ignore"):  # NaN and infinity are refused with the weights they reach
        if op.kind in _ELEMENTWISE:
            budget.take(op, math.prod(np.broadcast_shapes(*(a.shape for a in arrays))))
            function = _ELEMENTWISE[op.kind]
            if isinstance(function, np.ufunc) and function.nin != len(arrays):
                # one more would be where NumPy writes its result
                raise InputError(f"{op}: {len(arrays)} operands; expected {function.nin}")
            found = function(*arrays)
            if arrays[0].dtype.kind not in "b" and found.dtype.kind in "fiu" and op.kind != "Where":
                found = found.astype(arrays[0].dtype, copy=False)
        elif op.kind in _VIEWS:
            found = _VIEWS[op.kind](op, budget)
        elif op.kind in _RULES:
            # each of them makes at most as much as it reads, or takes the rest from the budget itself
            budget.take(op, sum(a.size for a in arrays))
            found = _RULES[op.kind](op, budget)
        else:
            raise Refused("an operation on constants that is not computed here; fold it with a simplifier")
    results = found if isinstance(found, list) else [found]
    return [constant(array, leaves) for array in results]


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu":
        return a / b
    if np.any(b == 0):
        raise ValueError("a division of integers by zero")
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _cast(op: Operation, budget: Budget) -> np.ndarray:
    onnx = onnx_package()
    if op.integer("to", 1) not in onnx.TensorProto.DataType.values():
        raise InputError(f"{op}: to={op.integer('to', 1)} is no type")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(op.integer("to", 1)))
    if dtype.kind not in "biuf" and dtype.name != "bfloat16":
        op.refuse_attribute("to", op.integer("to", 1), "a type of numbers")
    return array_at(op, 0).astype(dtype)


def _filled(op: Operation, budget: Budget) -> np.ndarray:
    shape = _shape(op, array_at(op, 0))
    value = op.attributes.get("value", np.zeros(1, np.float32))
    budget.take(op, math.prod(shape))
    return np.full(shape, np.reshape(value, ()))


def _expanded(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    shape = np.broadcast_shapes(x.shape, _shape(op, array_at(op, 1)))
    budget.take(op, math.prod(shape))
    return np.array(np.broadcast_to(x, shape))


def _tiled(op: Operation, budget: Budget) -> np.ndarray:
    x, repeats = array_at(op, 0), _shape(op, array_at(op, 1))
    budget.take(op, x.size * math.prod(repeats))
    return np.tile(x, repeats)


def _range(op: Operation, budget: Budget) -> np.ndarray:
    start, limit, step = (array_at(op, i).reshape(()) for i in range(3))
    count = max(math.ceil((float(limit) - float(start)) / float(step)), 0)
    budget.take(op, count)
    return (start + np.arange(count) * step).astype(start.dtype)


def _gathered(op: Operation, budget: Budget) -> np.ndarray:
    x, indices = array_at(op, 0), array_at(op, 1)
    axis = op.axis(op.integer("axis", 0), x.ndim)
    budget.take(op, indices.size * (x.size // max(x.shape[axis], 1)))
    return np.take(x, indices, axis)


def _padded(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    flat = op.integers("pads") if op.opset < 11 else tuple(array_at(op, 1).tolist())
    plain = op.text("mode", "constant") == "constant" and op.operand(3) is None
    if not plain or flat is None or min(flat, default=0) < 0:
        raise Refused("padding of a constant in an unusual way; fold it with a simplifier")
    value = op.number("value", 0.0) if op.opset < 11 or op.operand(2) is None else array_at(op, 2).reshape(())
    pairs = list(zip(flat[: x.ndim], flat[x.ndim :], strict=True))
    budget.take(op, math.prod(size + low + high for size, (low, high) in zip(x.shape, pairs, strict=True)))
    return np.pad(x, pairs, constant_values=value)


def _matrix_product(op: Operation, budget: Budget) -> np.ndarray:
    a, b = array_at(op, 0), array_at(op, 1)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise Refused(f"a product of constants of shapes {a.shape} and {b.shape}; fold it with a simplifier")
    # the time it takes counts, not the room
    budget.take(op, a.shape[0] * b.shape[1] * max(a.shape[1] // 1024, 1))
    return a @ b


def _shape_of(op: Operation, budget: Budget) -> np.ndarray:
    return np.array(array_at(op, 0).shape[op.integer("start", 0) : op.attributes.get("end")], np.int64)


def _reshaped(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    return x.reshape(shaping.target_shape(op, x.shape, tuple(int(v) for v in array_at(op, 1).reshape(-1))))


def _flattened(op: Operation, budget: Budget) -> np.ndarray:
    x, axis = array_at(op, 0), op.integer("axis", 1)
    axis = axis if axis == x.ndim else op.axis(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeezed(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    return np.squeeze(x, op.axes(x.ndim, 1))


def _unsqueezed(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    axes = op.integers("axes") or _shape_like(array_at(op, 1))
    return np.expand_dims(x, axes)


def _transposed(op: Operation, budget: Budget) -> np.ndarray:
    return np.transpose(array_at(op, 0), op.integers("perm"))


def _joined(op: Operation, budget: Budget) -> np.ndarray:
    arrays = [array_at(op, i) for i in range(len(op.operands))]
    return np.concatenate(arrays, op.axis(op.integer("axis", 1), arrays[0].ndim))


def _sliced(op: Operation, budget: Budget) -> np.ndarray:
    x = array_at(op, 0)
    starts, limits, strides = picking.bounds(op, x.shape)
    return x[tuple(slice(*triple) for triple in zip(starts, limits, strides, strict=True))]


def _split(op: Operation, budget: Budget) -> list[np.ndarray]:
    x = array_at(op, 0)
    axis = op.axis(op.integer("axis", 0), x.ndim)
    places = picking.split_places(op, x.shape[axis], len(op.used))
    return [np.take(x, range(start, end), axis) for start, end in places]


def _reduced(function: Callable[..., Any]) -> Callable[[Operation, Budget], np.ndarray]:
    def rule(op: Operation, budget: Budget) -> np.ndarray:
        x = array_at(op, 0)
        axes = op.axes(x.ndim, 1)
        if not axes and op.flag("noop_with_empty_axes"):
            return x
        found = function(x, axis=axes or None, keepdims=op.flag("keepdims", True))
        return np.asarray(found).astype(x.dtype)

    return rule


def _shape(op: Operation, value: np.ndarray) -> tuple[int, ...]:
    sizes = _shape_like(value)
    if value.dtype.kind not in "iu" or value.ndim != 1 or len(sizes) > 32 or min(sizes, default=0) < 0:
        raise InputError(f"{op}: shape {sizes[:32]}; expected a list of sizes")
    return sizes


def _shape_like(value: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in value.reshape(-1))


_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Ceil": np.ceil,
    "Div": _divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": lambda *a: functools.reduce(np.maximum, a),
    "Min": lambda *a: functools.reduce(np.minimum, a),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Where": np.where,
}

_VIEWS: dict[str, Rule] = {
    "Dropout": lambda op, budget: array_at(op, 0),
    "Flatten": _flattened,
    "Identity": lambda op, budget: array_at(op, 0),
    "Reshape": _reshaped,
    "Shape": _shape_of,
    "Size": lambda op, budget: np.array(array_at(op, 0).size, np.int64),
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
"""What needs no memory of its own."""

_RULES: dict[str, Rule] = {
    "Cast": _cast,
    "Concat": _joined,
    "ConstantOfShape": _filled,
    "DequantizeLinear": lambda op, budget: quantisation.dequantised(op),
    "Expand": _expanded,
    "Gather": _gathered,
    "MatMul": _matrix_product,
    "Pad": _padded,
    "QuantizeLinear": lambda op, budget: quantisation.quantised(op),
    "Range": _range,
    "ReduceL2": _reduced(lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))),
    "ReduceMax": _reduced(np.max),
    "ReduceMean": _reduced(np.mean),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Split": _split,
    "Tile": _tiled,
}
