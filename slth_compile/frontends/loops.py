"""`scan` (lax.scan, lax.fori_loop of a known count, nn.scan, nnx.scan) unrolled: a copy of its body for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from slth_compile.frontends.constants import Constant, from_array
from slth_compile.frontends.draft import BATCH, Activation, Draft, Value
from slth_compile.frontends.shaping import row, stacked

LONGEST = 2**13
"""Most operations of all steps together."""


def scan(draft: Draft, equation: Any, operands: Sequence[Value], step: Callable[[list[Value]], list[Value]]) -> list:
    """What a loop over rows returns: its last state and, stacked, what every step put out.

    Args:
        draft: Where entries go.
        equation: The `scan`.
        operands: Constants of the loop, the first state, and arrays of which each step reads a row.
        step: From those constants, the state and the rows: the next state and what the step puts out.
    """
    params = equation.params
    length, fixed, state = int(params["length"]), int(params["num_consts"]), int(params["num_carry"])
    reason = _reason(draft, equation, operands[fixed + state :])
    if reason:
        shapes = [tuple(out.aval.shape) for out in equation.outvars]
        first = draft.unknown("scan", operands, shapes[0], reason)
        # the others read the first, so that all of them are one problem
        return [first, *(draft.unknown("scan", [*operands, first], shape, reason) for shape in shapes[1:])]
    values = list(operands[fixed : fixed + state])
    found: list[list[Value]] = [[] for _ in equation.outvars[state:]]
    for i in reversed(range(length)) if params["reverse"] else range(length):
        rows = [_row(draft, x, i) for x in operands[fixed + state :]]
        results = step([*operands[:fixed], *values, *rows])
        values = results[:state]
        for kept, value in zip(found, results[state:], strict=True):
            kept.append(value)
    outputs = zip(equation.outvars[state:], found, strict=True)
    return [*values, *(_together(draft, out, kept[::-1] if params["reverse"] else kept) for out, kept in outputs)]


def _reason(draft: Draft, equation: Any, rows: Sequence[Value]) -> str:
    """Why a loop is not unrolled."""
    length, count = int(equation.params["length"]), _operations(equation.params["jaxpr"].jaxpr)
    if length * count > LONGEST:
        return f"a loop of {length} steps of {count} operations; expected at most {LONGEST} together"
    if length == 0:
        return "a loop of no steps"
    if any(isinstance(x, Activation) and x.layout[0] == BATCH for x in rows):
        return "a loop over the samples of a batch; use jax.vmap"
    return ""


def _operations(jaxpr: Any) -> int:
    """How many equations a jaxpr has, those of the functions it calls and loops through included."""
    total = 0
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        own = 1 if inner is None else _operations(getattr(inner, "jaxpr", inner))
        total += own * (int(equation.params["length"]) if equation.primitive.name == "scan" else 1)
    return total


def _row(draft: Draft, x: Value, i: int) -> Value:
    if isinstance(x, Activation):
        return row(draft, x, i)
    return dataclasses.replace(from_array(x.traced_value[i], leaves=x.leaves), random=x.random)


def _together(draft: Draft, out: Any, parts: Sequence[Value]) -> Value:
    """What the steps put out, along a new first axis; nothing worth of it where nothing reads it."""
    constants = [part for part in parts if isinstance(part, Constant)]
    if type(out).__name__ == "DropVar":
        return parts[0]
    if len(constants) == len(parts):
        leaves = frozenset().union(*(part.leaves for part in constants))
        whole = from_array(jnp.stack([part.traced_value for part in constants]), leaves=leaves)
        return dataclasses.replace(whole, random=any(part.random for part in constants))
    if constants:
        return draft.unknown("scan", parts, tuple(out.aval.shape), "some steps of a loop put out a constant")
    return stacked(draft, parts, tuple(out.aval.shape), 0)
