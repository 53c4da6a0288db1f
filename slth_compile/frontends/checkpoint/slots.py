"""The arrays a model has room for, by name, and the model with arrays in them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from slth_compile.errors import InputError
from slth_compile.frontends.checkpoint.read import Arrays, named_leaves


@dataclasses.dataclass(frozen=True, eq=False)
class Slots:
    """What a model expects of a checkpoint.

    Attributes:
        expected: Arrays, or their shapes and dtypes, by name: `"params/conv/kernel"` of linen, `"conv/kernel"` of nnx.
        in_collections: Whether names begin with a collection, as linen's do.
        transposed: The transposed convolutions by path, with the `transpose_kernel` of each.
        fill: The model with arrays in its slots, in inference mode; slots that are not named keep what they hold.
    """

    expected: Arrays
    in_collections: bool
    transposed: Mapping[str, bool]
    fill: Callable[[Arrays], Any]


def linen_slots(model: linen.Module, shape: Sequence[int]) -> Slots:
    """The slots of an unbound linen module on inputs of a per-sample shape.

    Raises:
        InputError: It cannot be initialised on them.
    """
    transposed: dict[str, bool] = {}

    def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if isinstance(context.module, linen.ConvTranspose):
            transposed["/".join(context.module.path)] = context.module.transpose_kernel
        return call(*arguments, **keywords)

    try:
        with linen.intercept_methods(note):
            x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            expected = jax.eval_shape(model.init, jax.random.key(0), x)
    except Exception as error:
        text = str(error).strip().splitlines()
        raise InputError(
            f"the model cannot be initialised on inputs of shape {tuple(shape)} ({type(error).__name__}: "
            f"{text[0] if text else 'no message'}); check input_shape and the factory"
        ) from error

    def fill(arrays: Arrays) -> Any:
        return model.bind(_filled(expected, arrays, np.asarray))

    return Slots(dict(named_leaves(expected)), True, transposed, fill)


def nnx_slots(model: nnx.Module) -> Slots:
    """The slots of an nnx module: all its floating point variables."""
    state = nnx.state(model)
    expected = {name: leaf for name, leaf in named_leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    transposed = {
        "/".join(map(str, path)): bool(module.transpose_kernel)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.ConvTranspose)
    }

    def fill(arrays: Arrays) -> nnx.Module:
        # the factory's own object stays as it was
        found = copy.deepcopy(model)
        nnx.update(found, _filled(nnx.state(found), arrays, jnp.asarray))
        found.eval()
        return found

    return Slots(expected, False, transposed, fill)


def _filled(tree: Any, arrays: Arrays, convert: Callable[[np.ndarray], Any]) -> Any:
    """The tree with its leaves replaced by arrays of the same path, where there is one."""

    def fill(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        if name not in arrays:
            return leaf
        array = np.asarray(arrays[name])
        return convert(array.astype(np.float32) if array.dtype == np.float64 else array)

    return jax.tree_util.tree_map_with_path(fill, tree)
