"""The parameters of a model by name, and the same model with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from slth_compile.errors import InputError
from slth_compile.frontends.flax import import_model
from slth_compile.graph.graph import Graph


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """The floating point leaves of a model's variables, and the model with others in their place.

    Attributes:
        names: Their paths, `"params/Conv_0/kernel"`.
        arrays: Their values.
        variables: The pytree of the model's variables, with given leaves.
        model: The model, with such variables.
        input_shape: Per-sample shape of its input.
        batch_axis: Axis of the batch in its input; None for a model of single samples.
    """

    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    variables: Callable[[Sequence[Any]], Any]
    model: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    batch_axis: int | None

    def graph(self, arrays: Sequence[Any]) -> Graph:
        """The graph of the model with these leaves."""
        return import_model(self.model(self.variables(arrays)), self.input_shape, batch_axis=self.batch_axis)

    def outputs(self, arrays: Sequence[Any], x: np.ndarray) -> list[Any]:
        """What the model itself puts out for a batch, with these leaves."""
        model = self.model(self.variables(arrays))
        return jax.tree.leaves((jax.vmap(model) if self.batch_axis is None else model)(jnp.asarray(x)))


def parameters_of(model: Any, input_shape: tuple[int, ...], batch_axis: int | None = 0) -> Parameters:
    """The parameters of a bound linen module, an `nnx.Module`, or a callable that is a pytree of arrays.

    Raises:
        InputError: A model whose parameters have no place: a plain function, a `Graph`.
    """
    if isinstance(model, linen.Module) and model.scope is not None:
        module, variables = model.unbind()
        return _parameters(variables, module.bind, input_shape, batch_axis)
    if isinstance(model, nnx.Module):
        definition, state = nnx.split(model)
        return _parameters(state, lambda state: nnx.merge(definition, state), input_shape, batch_axis)
    if callable(model) and any(leaf is not model for leaf in jax.tree.leaves(model)):
        return _parameters(model, lambda tree: tree, input_shape, batch_axis)
    raise InputError(
        f"the model is a {type(model).__name__}, which has no variables by name; expected a bound linen module, an "
        "nnx.Module, or a callable pytree such as jax.tree_util.Partial(function, parameters)"
    )


def _parameters(variables: Any, model: Callable[[Any], Any], shape: tuple[int, ...], axis: int | None) -> Parameters:
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    leaves = [leaf for _, leaf in flat]
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and _is_floating(leaf)]

    def replaced(arrays: Sequence[Any]) -> Any:
        new = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(structure, [_as(new[i], leaf) if i in new else leaf for i, leaf in enumerate(leaves)])

    names = (jax.tree_util.keystr(flat[i][0], simple=True, separator="/").removesuffix("/value") for i in places)
    return Parameters(tuple(names), tuple(np.asarray(leaves[i]) for i in places), replaced, model, shape, axis)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _as(array: Any, leaf: Any) -> Any:
    """A JAX array where the leaf was one, so that the variables stay of one kind."""
    return jnp.asarray(array) if isinstance(leaf, jax.Array) else np.asarray(array)
