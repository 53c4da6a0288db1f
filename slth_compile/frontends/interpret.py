"""Walks a jaxpr: constants stay expressions, everything that depends on the input becomes an entry of the draft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slth_compile.frontends import elementwise, loops, reductions, resampling, shaping, weighted
from slth_compile.frontends.constants import Constant, from_array, from_equation
from slth_compile.frontends.draft import Activation, Draft, Value
from slth_compile.frontends.sites import Site, called_function, site_of

_CALLS = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
_RULES = {
    "add": elementwise.binary,
    "add_any": elementwise.binary,
    "broadcast_in_dim": shaping.broadcast,
    "clamp": elementwise.clamp,
    "concatenate": shaping.concatenate,
    "conv_general_dilated": weighted.convolution,
    "convert_element_type": elementwise.cast,
    "copy": elementwise.identity,
    "copy_p": elementwise.identity,
    "div": elementwise.binary,
    "dot_general": weighted.product,
    "dynamic_slice": shaping.dynamic_slice,
    "expand_dims": shaping.broadcast,
    "gather": resampling.gather,
    "ge": elementwise.binary,
    "gt": elementwise.binary,
    "integer_pow": elementwise.power,
    "le": elementwise.binary,
    "logistic": elementwise.sigmoid,
    "lt": elementwise.binary,
    "max": elementwise.binary,
    "min": elementwise.binary,
    "mul": elementwise.binary,
    "name": elementwise.identity,
    "neg": elementwise.negative,
    "optimization_barrier": elementwise.identity,
    "pad": shaping.pad,
    "reduce_max": reductions.reduction,
    "reduce_precision": elementwise.identity,
    "reduce_sum": reductions.reduction,
    "reduce_window": reductions.window,
    "reduce_window_max": reductions.window,
    "reduce_window_sum": reductions.window,
    "reshape": shaping.reshape,
    "rev": resampling.reverse,
    "select_n": elementwise.select,
    "sharding_constraint": elementwise.identity,
    "slice": shaping.slices,
    "split": shaping.split,
    "square": elementwise.power,
    "squeeze": shaping.squeeze,
    "stack": shaping.stack,
    "stop_gradient": elementwise.identity,
    "sub": elementwise.binary,
    "tanh": elementwise.hyperbolic_tangent,
    "tile": resampling.tile,
    "transpose": shaping.transpose,
}


def interpret(draft: Draft, closed: Any, arguments: Sequence[Value], closed_over_parameters: bool) -> list[Value]:
    """The values a closed jaxpr returns.

    Args:
        draft: Where entries go.
        closed: The closed jaxpr.
        arguments: One value for each of its inputs.
        closed_over_parameters: Whether arrays it closes over count as parameters of the model.
    """
    return _Walk(draft, closed_over_parameters).run(closed.jaxpr, closed.consts, arguments, None, ())


class _Walk:
    def __init__(self, draft: Draft, closed_over_parameters: bool) -> None:
        self.draft = draft
        self.closed_over_parameters = closed_over_parameters
        self.named: dict[int, tuple[str, Any]] = {}

    def run(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], outer: Site | None, scopes: tuple[str, ...]
    ) -> list[Value]:
        values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        values.update({var: self._closed_over(c) for var, c in zip(jaxpr.constvars, consts, strict=True)})

        def read(atom: Any) -> Value:
            return from_array(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]

        for equation in _live_equations(jaxpr):
            operands = [read(atom) for atom in equation.invars]
            found = self._apply(equation, operands, outer, scopes)
            for var, value in zip(equation.outvars, found, strict=True):
                values[var] = value
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[Value], outer: Site | None, scopes: tuple[str, ...]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if name == "cond" and isinstance(operands[0], Constant) and not operands[0].random:
            choice = min(max(int(operands[0].value), 0), len(params["branches"]) - 1)
            name, inner, operands = "jit", params["branches"][choice], operands[1:]
        if name in _CALLS and inner is not None:
            jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            called, library = called_function(jaxpr.debug_info)
            site = site_of(equation, outer, scopes, called)
            stack = str(equation.source_info.name_stack)
            hidden = site if outer is not None or library else None
            return self.run(jaxpr, consts, operands, hidden, (*scopes, stack) if stack else scopes)
        if name == "scan" and any(isinstance(operand, Activation) for operand in operands):
            self.draft.site = site_of(equation, outer, scopes)
            stack = str(equation.source_info.name_stack)
            inside = (*scopes, stack) if stack else scopes
            body = params["jaxpr"]
            return loops.scan(
                self.draft,
                equation,
                operands,
                lambda values: self.run(body.jaxpr, body.consts, values, outer, inside),
            )
        constants = [operand for operand in operands if isinstance(operand, Constant)]
        if len(constants) == len(operands):
            return list(from_equation(equation, constants))
        self.draft.site = site_of(equation, outer, scopes)
        if any(0 in out.aval.shape for out in equation.outvars):
            shapes = ", ".join(str(out.aval.shape) for out in equation.outvars)
            return self._refused(equation, operands, f"its result is empty, shape {shapes}; expected a larger input")
        if name not in _RULES:
            return self._refused(equation, operands)
        found = _RULES[name](self.draft, equation, operands)
        return list(found) if isinstance(found, list) else [found]

    def _refused(self, equation: Any, operands: list[Value], reason: str = "") -> list[Value]:
        name = equation.primitive.name
        reason = elementwise.RANDOM if any(isinstance(x, Constant) and x.random for x in operands) else reason
        results: list[Value] = []
        for out in equation.outvars:
            # the later results read the first, so that all of them are one problem
            reads = operands if not results else [*operands, results[0]]
            results.append(self.draft.unknown(name, reads, tuple(out.aval.shape), reason))
        return results

    def _closed_over(self, array: Any) -> Constant:
        if not self.closed_over_parameters:
            return from_array(array)
        if id(array) not in self.named:
            # the array is kept with its name: an id is only unique while its object lives
            self.named[id(array)] = (f"<array {len(self.named)}>", array)
        return from_array(array, leaves=frozenset([self.named[id(array)][0]]))


def _live_equations(jaxpr: Any) -> list[Any]:
    """The equations that the jaxpr's outputs depend on, in order."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    live = []
    for equation in reversed(jaxpr.eqns):
        if any(var in needed for var in equation.outvars):
            live.append(equation)
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return live[::-1]
