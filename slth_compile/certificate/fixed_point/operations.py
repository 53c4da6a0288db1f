"""Nodes without weights in fixed point: all of them have exact results, or products with constants."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.fixed_point.constants import Reals
from slth_compile.certificate.fixed_point.layers import Numbers, OutOfPlacesError, beside, numbers, plus, size_of, times
from slth_compile.certificate.fixed_point.limbs import (
    ABOVE,
    LARGEST_LIMB,
    MOST_PRODUCTS,
    Fixed,
    Places,
    carried,
    chosen,
    collected,
    convolved,
    dropped,
    larger,
    magnitude,
    normal,
    program,
    signs,
    tops,
)
from slth_compile.certificate.propagate import Operation, rearranged, window_of
from slth_compile.certificate.resampling import along
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts

SUPPORTED = (
    *(n.Affine, n.Relu, n.LeakyRelu, n.Prelu, n.Clip, n.HardSigmoid, n.HardSwish, n.MaxPool, n.Maximum, n.AveragePool),
    *(n.Mean, n.Add, n.Multiply, n.Concatenate, n.Slice, n.Pad, n.Dilate, n.Resample, n.Reshape, n.Transpose),
)
"""Nodes that `apply_operation` takes."""


def constants_of(node: n.Node, shape: tuple[int, ...], places: Places) -> tuple[Numbers, ...]:
    """The constants that a node multiplies by or adds, in the order in which `apply_operation` takes them.

    Args:
        node: One of `SUPPORTED`.
        shape: Of its first operand.
        places: Of its result.

    Raises:
        OutOfPlacesError: A constant of 2^19 or more.
    """
    factors = Places(0, places.limbs + 1)

    def factor(values: Any) -> Numbers:
        return numbers(Reals.of(values), factors, (-1, 1))

    def term(values: Any) -> Numbers:
        return numbers(Reals.of(values), places, (-1, 1))

    def share(counts: np.ndarray) -> Numbers:
        return numbers(Reals.shares(counts), factors, (*counts.shape, 1))

    match node:
        case n.Affine():
            scale, shift = (np.zeros(0) if v is None else np.asarray(v) for v in (node.scale, node.shift))
            return *([factor(scale)] * bool(scale.size)), *([term(shift)] * bool(shift.size))
        case n.LeakyRelu():
            return (factor(node.slope),)
        case n.Prelu():
            return (factor(node.slopes),)
        case n.Clip():
            return tuple(term(end) for end in (node.low, node.high) if end is not None)
        case n.HardSigmoid():
            return factor(node.slope), *map(term, (node.offset, 0.0, 1.0))
        case n.HardSwish():
            return *map(term, (3.0, 0.0, 6.0)), share(np.asarray([6]))
        case n.Resample():
            if node.matrix.shape[1] * factors.limbs > MOST_PRODUCTS:
                raise OutOfPlacesError(f"'{node.name}': {node.matrix.shape[1]} products in a sum, many times")
            return (numbers(Reals.of(node.matrix), factors, node.matrix.shape),)
        case n.AveragePool():
            return (share(pool_counts(node, shape)),)
        case n.Mean():
            return (share(np.asarray([math.prod(shape[axis] for axis in node.axes)])),)
        case _:
            return ()


def _apply(operation: Operation, places: Places, operands: Sequence[Fixed], constants: Sequence[Numbers]) -> Fixed:
    value, node = operands[0], operation.node
    match node:
        case n.Affine():
            # Which of the two there is shows in how many limbs it has.
            for own in constants:
                value = times(value, own, places) if len(own.limbs) > places.limbs else plus(value, own)
            return value
        case n.Relu():
            return value._replace(limbs=chosen(signs(value.limbs) > 0, value.limbs, 0.0))
        case n.LeakyRelu() | n.Prelu():
            bent = times(value._replace(radius=0.0 * value.radius), constants[0], places)
            limbs = chosen(signs(value.limbs) >= 0, value.limbs, bent.limbs)
            # A number and what stands for it may lie on either side of zero.
            steepest = jnp.maximum(1.0, size_of(constants[0]))
            return Fixed(limbs, (steepest * value.radius + bent.radius) * ABOVE, tops(limbs, bent.top))
        case n.Clip():
            low, high = (end is not None for end in (node.low, node.high))
            return _clipped(value, constants[0] if low else None, constants[-1] if high else None)
        case n.HardSigmoid():
            slope, offset, low, high = constants
            return _clipped(plus(times(value, slope, places), offset), low, high)
        case n.HardSwish():
            three, low, high, sixth = constants
            return times(_product(value, _clipped(plus(value, three), low, high), places), sixth, places)
        case n.MaxPool():
            window = window_of(node)
            limbs = jax.vmap(lambda v: e.slices(v, window, -2 * LARGEST_LIMB))(value.limbs)
            return _largest(value, limbs, e.slices(value.radius, window))
        case n.Resample():
            (matrix,) = constants
            return _resampled(node.axis, value, matrix, places)
        case n.Maximum():
            limbs = jax.vmap(lambda v: e.elements(v, node.axes))(value.limbs)
            return _largest(value, limbs, e.elements(value.radius, node.axes))
        case n.AveragePool():
            window = window_of(node)
            return _mean(value, lambda v: functools.reduce(operator.add, e.slices(v, window)), constants[0], places)
        case n.Mean():
            return _mean(value, lambda v: v.sum(node.axes), constants[0], places)
        case n.Add():
            limbs = normal(value.limbs + operands[1].limbs)
            radius = (value.radius + operands[1].radius) * ABOVE
            return Fixed(limbs, radius, tops(limbs, value.top, operands[1].top))
        case n.Multiply():
            return _product(value, operands[1], places)
        case n.Concatenate():
            limbs = jnp.concatenate([v.limbs for v in operands], node.axis + 1)
            radius = jnp.concatenate([v.radius for v in operands], node.axis)
            return Fixed(limbs, radius, functools.reduce(jnp.maximum, [v.top for v in operands]))
        case _:
            limbs = jax.vmap(lambda v: rearranged(node, v))(value.limbs)
            return value._replace(limbs=limbs, radius=rearranged(node, value.radius))


apply_operation = program(_apply, 0, 1)
"""A node's result: the node, the places, its operands, its constants."""


def _clipped(value: Fixed, low: Numbers | None, high: Numbers | None) -> Fixed:
    limbs, off = value.limbs, jnp.zeros(())
    if low is not None:
        limbs, off = larger(limbs, beside(low, limbs)), jnp.maximum(off, low.off)
    if high is not None:
        limbs, off = -larger(-limbs, -beside(high, limbs)), jnp.maximum(off, high.off)
    return Fixed(limbs, jnp.maximum(value.radius, off), tops(limbs, value.top))


def _product(a: Fixed, b: Fixed, places: Places) -> Fixed:
    """Products, elementwise, of operands that broadcast."""
    head, count = places

    # Limbs of b below its last one are zero.
    factors = jnp.concatenate([b.limbs, jnp.zeros_like(b.limbs[:1])])
    limbs = carried(convolved(a.limbs, lambda k: factors[k], head, count), count)
    # Products of more significance than the result has room for.
    beyond = [a.limbs[p] * b.limbs[q] for p in range(head) for q in range(head - p)]
    over = [jnp.where(jnp.any(found != 0), jnp.inf, 0.0) for found in beyond]
    left, right = magnitude(a, places), magnitude(b, places)
    radius = (left * b.radius + right * a.radius + dropped(1, count) * places.unit) * ABOVE
    return Fixed(limbs, radius, tops(limbs, a.top, b.top, *over))


def _mean(value: Fixed, total: Callable[[Any], Any], share: Numbers, places: Places) -> Fixed:
    limbs, radius = normal(jax.vmap(total)(value.limbs), passes=2), total(value.radius) * ABOVE
    return times(Fixed(limbs, radius, tops(limbs, value.top)), share, places)


def _resampled(axis: int, value: Fixed, matrix: Numbers, places: Places) -> Fixed:
    count, terms = places.limbs, matrix.limbs.shape[-1]

    products = ((k, along(m, value.limbs, axis + 1)) for k, m in enumerate(matrix.limbs))
    limbs = carried(collected(products, count), count)
    lost = dropped(terms, count) * places.unit + terms * jnp.max(magnitude(value, places)) * matrix.off
    radius = (along(size_of(matrix), value.radius, axis) + lost) * ABOVE
    return Fixed(limbs, radius, tops(limbs, value.top))


def _largest(value: Fixed, limbs: Sequence[Any], radii: Sequence[Any]) -> Fixed:
    found = functools.reduce(larger, limbs)
    return Fixed(found, functools.reduce(jnp.maximum, radii), tops(found, value.top))
