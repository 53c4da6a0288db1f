"""Any JAX function of parameters and an input, as a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.errors import InputError, SlthError, UnsupportedModelError
from slth_compile.frontends.constants import Constant, from_array
from slth_compile.frontends.draft import BATCH, Activation, Draft, Entry
from slth_compile.frontends.interpret import interpret
from slth_compile.frontends.reductions import TRAIN_MODE
from slth_compile.frontends.refusals import problems, unsupported
from slth_compile.frontends.rewrite import rewrite
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

_TRAIN_MODE_ERRORS = (
    flax.errors.TraceContextError,
    flax.errors.ModifyScopeVariableError,
    flax.errors.InvalidRngError,
)
_DATA_DEPENDENT_ERRORS = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """What a model is made of, whether or not it can be compiled.

    Attributes:
        entries: Target nodes and `Unknown` ones, in topological order, with the parameters that went into each.
        outputs: Positions of the output leaves.
        output_names: One name an output leaf.
        problems: What stands in the way of a graph, a line each.
    """

    entries: tuple[Entry, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...]
    problems: tuple[str, ...] = ()

    def graph(self) -> Graph:
        """The graph.

        Raises:
            UnsupportedModelError: There are problems; all of them in one message.
        """
        if self.problems:
            raise unsupported(self.problems)
        nodes = tuple(_named(entry.node, entry.site.scope, i) for i, entry in enumerate(self.entries))
        return Graph(nodes, self.outputs, self.output_names)


def trace(
    function: Callable[[Any, Any], Any],
    parameters: Any,
    input_shape: Sequence[int],
    *,
    batch_axis: int | None = 0,
    names: Sequence[str] | None = None,
) -> Graph:
    """The graph of `x -> function(parameters, x)`, traced in 32 bit with a float32 input.

    Args:
        function: The model; its output is an array or a pytree of arrays.
        parameters: A pytree of arrays, the model's weights and statistics. Where it has no leaves, the arrays that
            `function` closes over are the parameters.
        input_shape: Shape of one sample.
        batch_axis: 0 where `x` and all outputs have a leading batch axis, None where they have none.
        names: One name for each leaf of `parameters`; None takes the paths in the pytree.

    Returns:
        The graph, with one output for each leaf of the function's output.

    Raises:
        InputError: The function cannot be called on such an input.
        UnsupportedModelError: The model has no graph here; the message lists everything that stands in the way.
    """
    return survey(function, parameters, input_shape, batch_axis=batch_axis, names=names).graph()


def survey(
    function: Callable[[Any, Any], Any],
    parameters: Any,
    input_shape: Sequence[int],
    *,
    batch_axis: int | None = 0,
    names: Sequence[str] | None = None,
) -> Survey:
    """What `trace` makes a graph of, with everything that stands in the way; arguments as there.

    Raises:
        InputError: The function cannot be called on such an input.
        UnsupportedModelError: It cannot be traced, or an output does not depend on the input.
    """
    shape = checked_shape(input_shape)
    if batch_axis not in (0, None):
        raise InputError(f"batch_axis={batch_axis!r}: expected 0 (a leading batch axis) or None (no batch axis)")
    batch = next(p for p in _PRIMES if p not in shape) if batch_axis == 0 else None
    parameters = jax.tree.map(_in_32_bit, parameters)
    flat, _ = jax.tree_util.tree_flatten_with_path(parameters)
    # a variable of nnx is a node with one leaf, called value
    names = [_path(path).removesuffix("/value") for path, _ in flat] if names is None else list(names)
    closed, outputs = _traced(function, parameters, shape if batch is None else (batch, *shape))
    draft = Draft(batch)
    layout = tuple(range(len(shape))) if batch is None else (BATCH, *range(len(shape)))
    x = Activation(draft.add(n.Input(shape=shape)), layout)
    leaves = [
        from_array(leaf, var.aval.dtype, frozenset([name]))
        for (_, leaf), var, name in zip(flat, closed.jaxpr.invars, names, strict=False)
    ]
    values = interpret(draft, closed, [*leaves, x], closed_over_parameters=not flat)
    found, output_names = jax.tree_util.tree_flatten_with_path(outputs)[0], []
    positions, misplaced = [], []
    for (path, _), value in zip(found, values, strict=True):
        output_names.append(_path(path))
        label = f"output '{output_names[-1]}'" if output_names[-1] else "the output"
        if isinstance(value, Constant):
            raise UnsupportedModelError(f"unsupported model:\n  {label} does not depend on the input")
        if batch is not None and value.layout[:1] != (BATCH,):
            misplaced.append(f"{label} has shape {draft.shape(value)} at batch {batch}; expected the batch axis first")
        positions.append(draft.canonical(value).entry)
    entries, positions = rewrite(draft, positions)
    floating = [name for leaf, name in zip(leaves, names, strict=True) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    found_problems = problems(entries, floating, misplaced)
    return Survey(tuple(entries), tuple(positions), tuple(output_names), tuple(found_problems))


def checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one sample as a tuple of positive integers."""
    try:
        shape = tuple(int(size) for size in input_shape)
    except (TypeError, ValueError):
        raise InputError(f"input_shape={input_shape!r}: expected a tuple of positive integers") from None
    if any(size < 1 for size in shape):
        raise InputError(f"input_shape={shape}: expected positive sizes, without the batch axis")
    return shape


def _traced(function: Callable[[Any, Any], Any], parameters: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    try:
        with jax.enable_x64(False):
            x = jax.ShapeDtypeStruct(shape, np.float32)
            return jax.make_jaxpr(function, return_shape=True)(parameters, x)
    except SlthError:
        raise
    except _TRAIN_MODE_ERRORS as error:
        message = f"the model is in train mode ({type(error).__name__}): {TRAIN_MODE}"
        raise UnsupportedModelError(f"unsupported model:\n  {message}") from error
    except _DATA_DEPENDENT_ERRORS as error:
        message = f"the model's Python code depends on the values of its input: {_first_line(error)}"
        raise UnsupportedModelError(f"unsupported model:\n  {message}") from error
    except Exception as error:
        raise InputError(
            f"the model cannot be called on a float32 array of shape {shape} "
            f"({type(error).__name__}: {_first_line(error)}); check input_shape and batch_axis"
        ) from error


def _in_32_bit(leaf: Any) -> Any:
    return np.asarray(leaf, np.float32) if getattr(leaf, "dtype", None) == np.float64 else leaf


def _named(node: n.Node, scope: str, position: int) -> n.Node:
    if node.name or isinstance(node, n.Input):
        return node
    own = f"{type(node).__name__.lower()}{position}"
    return dataclasses.replace(node, name=f"{scope}/{own}" if scope else own)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")
