"""Elementwise operations: with constants, between two activations, and the ones that leave values alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from slth_compile.frontends.constants import Constant, from_array, is_zero, scalar
from slth_compile.frontends.draft import BATCH, Activation, Draft, Elementwise, Pairwise, Select, Value
from slth_compile.frontends.resampling import repeated
from slth_compile.graph import nodes as n

_FLIPPED = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt", "sub": "rsub"}
_PLAIN = {
    "add": "a sum",
    "sub": "a difference",
    "mul": "a product",
    "div": "a quotient",
    "max": "a maximum",
    "min": "a minimum",
}
RANDOM = "random bits reach the activations: dropout in train mode? Call the model in inference mode"


def binary(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """add, sub, mul, div, max, min and comparisons."""
    primitive: str = equation.primitive.name
    name = "add" if primitive == "add_any" else primitive
    shape = tuple(equation.outvars[0].aval.shape)
    first, second = operands
    if isinstance(first, Activation) and isinstance(second, Activation):
        return _two_activations(draft, name, (first, second), shape)
    if isinstance(second, Constant):
        assert isinstance(first, Activation)
        return _with_constant(draft, name, first, second, shape)
    assert isinstance(first, Constant) and isinstance(second, Activation)
    if name == "div":
        return draft.unknown("div", operands, shape, "a constant divided by an activation")
    return _with_constant(draft, _FLIPPED.get(name, name), second, first, shape)


def negative(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """`-x`, as a product with -1."""
    (x,) = operands
    assert isinstance(x, Activation)
    return _with_constant(draft, "mul", x, from_array(np.float32(-1)), draft.shape(x))


def sigmoid(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """`1 / (1 + exp(-x))`."""
    (x,) = operands
    assert isinstance(x, Activation)
    return Activation(draft.add(n.Sigmoid(inputs=(x.entry,))), x.layout)


def hyperbolic_tangent(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """`tanh(x)`."""
    (x,) = operands
    assert isinstance(x, Activation)
    return Activation(draft.add(n.Tanh(inputs=(x.entry,))), x.layout)


def power(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """The square or the cube, as products."""
    (x,) = operands
    assert isinstance(x, Activation)
    shape, exponent = draft.shape(x), equation.params.get("y", 2)
    if exponent not in (2, 3):
        return draft.unknown("integer_pow", operands, shape, f"a power of {exponent}; expected 2 or 3")
    square = _two_activations(draft, "mul", (x, x), shape)
    return square if exponent == 2 else _two_activations(draft, "mul", (square, x), shape)


def clamp(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """`min(max(x, low), high)` with constant bounds."""
    low, x, high = operands
    shape = tuple(equation.outvars[0].aval.shape)
    if not (isinstance(x, Activation) and isinstance(low, Constant) and isinstance(high, Constant)):
        return draft.unknown("clamp", operands, shape, "a clip between activations")
    return _with_constant(draft, "min", _with_constant(draft, "max", x, low, shape), high, shape)


def identity(draft: Draft, equation: Any, operands: Sequence[Value]) -> list[Value]:
    """The operands as they are."""
    return list(operands)


def cast(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """A change of float type: nothing, in the real arithmetic of the certificate."""
    (x,) = operands
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    if jnp.issubdtype(before, jnp.floating) and jnp.issubdtype(after, jnp.floating):
        return x
    shape = tuple(equation.outvars[0].aval.shape)
    return draft.unknown("convert_element_type", operands, shape, f"a cast from {before} to {after}")


def select(draft: Draft, equation: Any, operands: Sequence[Value]) -> Value:
    """`where(predicate, a, b)` with a predicate that depends on the input; a pattern decides what it is."""
    shape = tuple(equation.outvars[0].aval.shape)
    predicate, *cases = operands
    if any(isinstance(x, Constant) and x.random for x in operands):
        return draft.unknown("select_n", operands, shape, RANDOM)
    if not isinstance(predicate, Activation) or len(cases) != 2:
        return draft.unknown("select_n", operands, shape, "a choice between activations by a constant mask")
    anchor = next((case for case in cases if isinstance(case, Activation)), predicate)
    found = []
    for case in cases:
        if isinstance(case, Constant):
            if not is_zero(case):
                return draft.unknown("select_n", operands, shape)
            case = _with_constant(draft, "mul", anchor, from_array(np.float32(0)), shape)
        found.append(case)
    if any(draft.shape(x) != shape or x.layout != found[0].layout for x in (predicate, *found)):
        return draft.unknown("select_n", operands, shape)
    node = Select(inputs=(predicate.entry, found[0].entry, found[1].entry))
    return Activation(draft.add(node), found[0].layout)


def _with_constant(draft: Draft, name: str, x: Activation, constant: Constant, shape: tuple[int, ...]) -> Activation:
    if constant.random:
        return draft.unknown(name, (x, constant), shape, RANDOM)
    if draft.shape(x) != shape and _grows(draft, x, shape):
        x = repeated(draft, x, shape)
    if draft.shape(x) != shape:
        return draft.unknown(
            name, (x, constant), shape, f"an activation of shape {draft.shape(x)} broadcast to {shape}"
        )
    if constant.shape and BATCH in x.layout and not _same_for_all_samples(constant, x.layout.index(BATCH)):
        return draft.unknown(name, (x, constant), shape, "a constant that differs from sample to sample")
    if name in ("max", "min"):
        return _clipped(draft, name, x, constant, shape)
    if name in ("ge", "gt", "le", "lt") and not is_zero(constant):
        return draft.unknown(name, (x, constant), shape, "a comparison with a constant other than 0")
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}
    if name in neutral and not constant.leaves and constant.size == 1 and scalar(constant) == neutral[name]:
        return x
    node = Elementwise(inputs=(x.entry,), operation=name, constant=constant, layout=x.layout)
    return Activation(draft.add(node, draft.entries[x.entry].shape, constant.leaves), x.layout)


def _grows(draft: Draft, x: Activation, shape: tuple[int, ...]) -> bool:
    """Whether only axes of the sample are to be repeated."""
    sizes = draft.shape(x)
    grown = [axis for axis, size in enumerate(shape) if len(sizes) == len(shape) and sizes[axis] != size]
    return bool(grown) and BATCH in x.layout and all(x.layout[axis] != BATCH for axis in grown)


def _clipped(draft: Draft, name: str, x: Activation, constant: Constant, shape: tuple[int, ...]) -> Activation:
    """`max(x, constant)` and `min(x, constant)`, one inside the other as one clip."""
    end = None if constant.leaves else scalar(constant)
    if end is None:
        reason = f"{_PLAIN[name]} with a constant that is trained or not one number; expected an untrained number"
        return draft.unknown(name, (x, constant), shape, reason)
    if end == (-math.inf if name == "max" else math.inf):
        return x
    if name == "max" and end == 0:
        return Activation(draft.add(n.Relu(inputs=(x.entry,))), x.layout)
    before, source = draft.entries[x.entry].node, x.entry
    low, high = (end, None) if name == "max" else (None, end)
    if isinstance(before, n.Relu):
        before = n.Clip(inputs=before.inputs, low=0.0)
    if isinstance(before, n.Clip):
        # max(min(x, h), l) is min(max(x, l), h) where l <= h
        ends = (before.low if low is None else low), (before.high if high is None else high)
        apart = (before.low is None or low is None) and (before.high is None or high is None)
        if apart and ends[0] is not None and ends[1] is not None and ends[0] <= ends[1]:
            (low, high), source = ends, before.inputs[0]
    return Activation(draft.add(n.Clip(inputs=(source,), low=low, high=high)), x.layout)


def _two_activations(
    draft: Draft, name: str, pair: tuple[Activation, Activation], shape: tuple[int, ...]
) -> Activation:
    x, y = pair
    if draft.shape(x) == draft.shape(y) == shape:
        if x.layout != y.layout:
            x, y = (x, _relaid(draft, y, x)) if _same_places(x, y) else (draft.canonical(x), draft.canonical(y))
        if x.layout != y.layout:
            return draft.unknown(name, pair, shape, "two activations of which one has lost its batch axis")
        if name == "sub":
            y, name = _with_constant(draft, "mul", y, from_array(np.float32(-1)), shape), "add"
        if name == "add":
            return Activation(draft.add(n.Add(inputs=(x.entry, y.entry))), x.layout)
        node = Pairwise(inputs=(x.entry, y.entry), operation=name, axes=tuple(range(len(draft.entries[x.entry].shape))))
        return Activation(draft.add(node, draft.entries[x.entry].shape), x.layout)
    if name in ("add", "mul") and draft.shape(x) != shape and draft.shape(y) == shape:
        x, y = y, x
    if draft.shape(x) != shape or len(draft.shape(y)) != len(shape):
        return draft.unknown(name, pair, shape, f"{_PLAIN.get(name, 'an operation')} of two activations, one broadcast")
    y = draft.squeezed(y)
    axes: dict[int, int] = {}
    for place, own in zip(x.layout, y.layout, strict=True):
        if own >= 0:
            axes[own] = place
    if any(place < 0 for place in axes.values()):
        return draft.unknown(name, pair, shape, "two activations of which one has lost its batch axis")
    node = Pairwise(inputs=(x.entry, y.entry), operation=name, axes=tuple(axes[i] for i in range(len(axes))))
    return Activation(draft.add(node, draft.entries[x.entry].shape), x.layout)


def _same_places(x: Activation, y: Activation) -> bool:
    return all(a == b or min(a, b) >= 0 for a, b in zip(x.layout, y.layout, strict=True))


def _relaid(draft: Draft, y: Activation, like: Activation) -> Activation:
    """`y` from an entry whose axes are in the order of the entry of `like`."""
    order = sorted((axis for axis, place in enumerate(like.layout) if place >= 0), key=lambda axis: like.layout[axis])
    return Activation(draft.arrange(y, order), like.layout)


def _same_for_all_samples(constant: Constant, axis: int) -> bool:
    if constant.shape[axis] == 1:
        return True
    value = np.moveaxis(constant.value, axis, 0)
    return bool(np.all(value == value[:1]))
