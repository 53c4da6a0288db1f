"""Flax modules and plain callables as graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from slth_compile.errors import InputError
from slth_compile.frontends.jaxpr import trace
from slth_compile.graph.graph import Graph


def import_model(model: Any, input_shape: Sequence[int] | None = None, *, batch_axis: int | None = 0) -> Graph:
    """The graph of a model, in inference.

    Args:
        model: An `nnx.Module`, a bound linen module (`module.bind(variables)`), any JAX callable of one array, or a
            `Graph`, which is returned as it is. The parameters of a callable are its leaves where it is a pytree, as
            equinox modules are, else the arrays it closes over.
        input_shape: Shape of one sample; needed for everything but a `Graph`.
        batch_axis: 0 where the model takes a leading batch axis, None where it takes none.

    Raises:
        InputError: No input shape, an unbound linen module, something that is no model.
        UnsupportedModelError: The model has no graph here; the message lists why.
    """
    if isinstance(model, Graph):
        if input_shape is not None and tuple(input_shape) != model.input_shape:
            raise InputError(f"input_shape={tuple(input_shape)}: the graph's input has shape {model.input_shape}")
        return model
    if not callable(model):
        raise InputError(
            f"the model is a {type(model).__name__}; "
            "expected an nnx.Module, a bound linen module, a JAX callable or a Graph"
        )
    if isinstance(model, linen.Module) and model.scope is None:
        raise InputError("the linen module has no variables: pass module.bind(variables)")
    if input_shape is None:
        raise InputError(
            "the model's input shape is unknown: pass input_shape=(height, width, channels) (--input-shape H,W,C), "
            "or a domain with a shape such as Box(0.0, 1.0, shape=(height, width, channels))"
        )
    if isinstance(model, linen.Module):
        return _trace_linen(model, input_shape, batch_axis)
    if isinstance(model, nnx.Module):
        return _trace_nnx(model, input_shape, batch_axis)
    return _trace_callable(model, input_shape, batch_axis)


def _trace_linen(model: linen.Module, input_shape: Sequence[int], batch_axis: int | None) -> Graph:
    scope = model.scope
    assert scope is not None
    module, variables = model.unbind()
    # the modes it was bound with are kept: train mode must be seen, not undone
    mutable = scope.root.mutable
    rngs: Any = {name: getattr(rng, "as_jax_rng", lambda rng=rng: rng)() for name, rng in scope.rngs.items()}

    def apply(variables: Any, x: Any) -> Any:
        found = module.apply(variables, x, mutable=mutable, rngs=rngs or None)
        return found[0] if mutable is not False else found

    return trace(apply, variables, input_shape, batch_axis=batch_axis)


def _trace_nnx(model: nnx.Module, input_shape: Sequence[int], batch_axis: int | None) -> Graph:
    definition, state = nnx.split(model)

    def apply(state: Any, x: Any) -> Any:
        return nnx.merge(definition, state)(x)

    return trace(apply, state, input_shape, batch_axis=batch_axis)


def _trace_callable(model: Any, input_shape: Sequence[int], batch_axis: int | None) -> Graph:
    """A function; arrays of one that is a pytree, as equinox modules and `jax.tree_util.Partial` are, have names."""
    leaves, structure = jax.tree.flatten(model)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
    paths = jax.tree_util.tree_flatten_with_path(model)[0]
    names = [jax.tree_util.keystr(paths[i][0], simple=True, separator="/") for i in places]
    if not names or len(set(names)) < len(names):
        return trace(lambda _, x: model(x), (), input_shape, batch_axis=batch_axis)

    def apply(arrays: Any, x: Any) -> Any:
        whole = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            whole[i] = array
        return jax.tree.unflatten(structure, whole)(x)

    return trace(apply, [leaves[i] for i in places], input_shape, batch_axis=batch_axis, names=names)
