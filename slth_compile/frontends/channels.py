"""Elementwise operations with constants as nodes: batch norms, biases, affine maps of channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from slth_compile.frontends.constants import Constant, core, scalar
from slth_compile.frontends.draft import BATCH, UNIT, Draft, Elementwise
from slth_compile.graph import nodes as n


def per_sample(node: Elementwise) -> np.ndarray:
    """The constant without batch axis, in the order of the entry's axes, of the entry's rank."""
    value = node.constant.value
    rank = sum(place >= 0 for place in node.layout)
    if value.ndim == 0:
        return value.reshape((1,) * rank)
    for axis in reversed(range(value.ndim)):
        # along the batch all entries agree, see elementwise.py; a unit axis has one
        if node.layout[axis] in (BATCH, UNIT):
            value = np.take(value, 0, axis)
    places = [place for place in node.layout if place >= 0]
    return np.transpose(value, np.argsort(places))


def by_channel(node: Elementwise) -> np.ndarray | None:
    """The constant as an array of shape `(C,)` for the entry's last axis, or `()`; None where it has another shape."""
    value = _collapsed(per_sample(node))
    if value.size == 1:
        return value.reshape(())
    return value.reshape(-1) if value.shape[-1] == value.size else None


def factors(constant: Constant, inverted: bool = False) -> list[tuple[Constant, bool]]:
    """The terms of a product of constants, each with whether it divides."""
    inner = core(constant)
    if inner.operation == "mul":
        return [term for operand in inner.operands for term in factors(operand, inverted)]
    if inner.operation == "div":
        return [*factors(inner.operands[0], inverted), *factors(inner.operands[1], not inverted)]
    if inner.operation == "integer_pow" and inner.equation.params["y"] == -1:
        return factors(inner.operands[0], not inverted)
    return [(inner, inverted)]


def variance_and_epsilon(term: Constant, inverted: bool) -> tuple[Constant, float] | None:
    """The operands of `1 / sqrt(variance + epsilon)`, where the term is one."""
    inner = core(term)
    if not ((inner.operation == "rsqrt" and not inverted) or (inner.operation == "sqrt" and inverted)):
        return None
    inner = core(inner.operands[0])
    if inner.operation == "add":
        for variance, epsilon in (inner.operands, inner.operands[::-1]):
            number = None if epsilon.leaves else scalar(epsilon)
            if number is not None and variance.leaves:
                return core(variance), number
    return (inner, 0.0) if inner.leaves else None


def spread(constant: Constant, channels: int) -> np.ndarray | None:
    """The constant's own array as shape `(C,)`; None where it has neither one nor C entries."""
    inner = core(constant)
    if inner.size not in (1, channels):
        return None
    return np.broadcast_to(inner.value.reshape(-1), (channels,))


@np.errstate(all="ignore")  # what is not finite is refused with the weights
def inverse(value: np.ndarray) -> np.ndarray:
    """`1 / value`: in its own dtype where exact (powers of two), else in float64."""
    wide = 1 / value.astype(np.float64)
    same = wide.astype(value.dtype)
    return same if np.array_equal(same.astype(np.float64) * value.astype(np.float64), np.ones_like(wide)) else wide


def affine_fields(operation: str, value: np.ndarray) -> dict[str, Any]:
    """Scale and shift of `x operation value`."""
    match operation:
        case "add":
            return {"shift": value}
        case "sub":
            return {"shift": -value}
        case "rsub":
            return {"scale": np.asarray(-1, np.float32), "shift": value}
        case "mul":
            return {"scale": value}
        case "div":
            return {"scale": inverse(value)}
    raise ValueError(f"no affine map for {operation}")


def add_affine(draft: Draft, node: Elementwise, entry: int) -> int:
    """Adds `x operation constant` to a draft, moving the axes the constant varies along to the end and back.

    Args:
        draft: Where it goes.
        node: The operation.
        entry: Its operand there.

    Returns:
        The position of the result, of the operand's shape.
    """
    shape = draft.entries[entry].shape
    value = _collapsed(per_sample(node))
    leaves, trained = node.constant.leaves, bool(node.constant.leaves)
    if not shape:
        # a number a sample: give it the channel a layer needs
        one = draft.add(n.Reshape(inputs=(entry,), shape=(1,)))
        fields = affine_fields(node.operation, value.reshape(()))
        one = draft.add(n.Affine(inputs=(one,), name=node.name, trained=trained, **fields), leaves=leaves)
        return draft.add(n.Reshape(inputs=(one,), shape=()))
    before = draft.entries[entry].node
    if value.size == 1 and isinstance(before, n.Reshape) and _reads_layer(draft, before):
        # one number for all: beside the layer, which takes it in
        fields = affine_fields(node.operation, value.reshape(()))
        one = draft.add(n.Affine(inputs=before.inputs, name=node.name, trained=trained, **fields), leaves=leaves)
        return draft.add(n.Reshape(inputs=(one,), shape=shape))
    varying = [axis for axis, size in enumerate(value.shape) if size > 1]
    permutation = (*(axis for axis in range(len(shape)) if axis not in varying), *varying)
    if not varying:
        flat, permutation = value.reshape(()), tuple(range(len(shape)))
    else:
        flat = np.transpose(value, permutation).reshape(-1)
    moved = draft.add(n.Transpose(inputs=(entry,), permutation=permutation))
    moved_shape = draft.entries[moved].shape
    merged = moved
    if len(varying) > 1:
        outer = moved_shape[: len(shape) - len(varying)]
        merged = draft.add(n.Reshape(inputs=(moved,), shape=(*outer, flat.size)))
    fields = affine_fields(node.operation, flat)
    merged = draft.add(n.Affine(inputs=(merged,), name=node.name, trained=trained, **fields), leaves=leaves)
    back = draft.add(n.Reshape(inputs=(merged,), shape=moved_shape))
    return draft.add(n.Transpose(inputs=(back,), permutation=tuple(int(i) for i in np.argsort(permutation))))


def _reads_layer(draft: Draft, node: n.Node) -> bool:
    """Whether a node reads a layer, or an affine map of one."""
    source = draft.entries[node.inputs[0]].node
    while isinstance(source, n.Affine):
        source = draft.entries[source.inputs[0]].node
    return isinstance(source, n.Convolution | n.Dense)


def _collapsed(value: np.ndarray) -> np.ndarray:
    """The array with axes along which nothing changes cut to size one, where it has several larger ones."""
    if sum(size > 1 for size in value.shape) < 2:
        return value
    for axis, size in enumerate(value.shape):
        first = np.take(value, [0], axis)
        if size > 1 and np.array_equal(np.broadcast_to(first, value.shape), value):
            value = first
    return value
