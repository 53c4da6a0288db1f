"""A model from a checkpoint and the factory that builds it. Nothing is ever unpickled."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import linen, nnx, serialization

from slth_compile.errors import InputError
from slth_compile.frontends.factory import call_factory, suggestion
from slth_compile.frontends.jaxpr import checked_shape

_ORBAX_FILES = ("_METADATA", "manifest.ocdbt")
# where training loops keep the variables inside what they save
_INSIDE = ("params", "variables", "model", "state", "model_state", "ema_params")
_AT_MOST = 8

_STORED = {
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)},
    **{"BF16": jnp.bfloat16, "BOOL": np.bool_},
}

Arrays = dict[str, Any]


def load_model(
    path: str | pathlib.Path,
    factory: str,
    model_kwargs: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
) -> Any:
    """A model with restored weights, ready for `import_model`.

    Args:
        path: An orbax directory (root, step or item), a `.safetensors` or a `.msgpack` file.
        factory: `"package.module:function"`; the function returns a linen module or an `nnx.Module`.
        model_kwargs: Its keyword arguments.
        input_shape: Shape of one sample; needed for linen modules.

    Returns:
        A bound linen module, or an nnx module in inference mode.

    Raises:
        InputError: A checkpoint that is missing, unreadable or does not fit the model; a bad factory.
    """
    arrays = read_checkpoint(path)
    model = call_factory(factory, model_kwargs)
    if isinstance(model, nnx.Module):
        return _restored_nnx(model, arrays, path)
    if not isinstance(model, linen.Module):
        raise InputError(
            f"factory '{factory}' returned a {type(model).__name__}, expected a linen module or nnx.Module"
        )
    if model.scope is not None:
        model = model.unbind()[0]
    if input_shape is None:
        raise InputError(
            "a linen model from a checkpoint needs its input shape: pass --input-shape H,W,C (input_shape=(...))"
        )
    return _restored_linen(model, arrays, path, checked_shape(input_shape))


def read_checkpoint(path: str | pathlib.Path) -> Arrays:
    """Every array of a checkpoint by its path, `"params/Conv_0/kernel"`."""
    path = pathlib.Path(path)
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"checkpoint '{path}' does not exist{suggestion(path.name, beside)}")
    reader = (
        _read_orbax
        if path.is_dir()
        else {".safetensors": _read_safetensors, ".msgpack": _read_msgpack}.get(path.suffix)
    )
    if reader is None:
        raise InputError(
            f"checkpoint '{path}': unknown kind '{path.suffix}'; expected an orbax directory, .safetensors or .msgpack"
        )
    try:
        tree = reader(path)
    except InputError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}); it is damaged or of another kind") from error
    arrays = _flat(tree)
    if not arrays:
        raise InputError(f"checkpoint '{path}' holds no arrays")
    return arrays


def _read_orbax(path: pathlib.Path) -> Any:
    import orbax.checkpoint as ocp

    item = _orbax_item(path.resolve())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree: Any = checkpointer.metadata(item).item_metadata.tree
        # into NumPy: the devices it was saved from need not exist here
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _orbax_item(path: pathlib.Path) -> pathlib.Path:
    """The directory that holds the arrays: this one, or its only item's, or its latest step's."""
    if any((path / name).exists() for name in _ORBAX_FILES):
        return path
    children = [child for child in path.iterdir() if child.is_dir()]
    steps = [child for child in children if _step(child.name) is not None]
    if steps:
        return _orbax_item(max(steps, key=lambda child: _step(child.name) or 0))
    items = [child for child in children if any((child / name).exists() for name in _ORBAX_FILES)]
    if len(items) > 1:
        items = [child for child in items if child.name in ("default", "state", "params", "model")][:1] or items
    if len(items) == 1:
        return items[0]
    found = ", ".join(sorted(child.name for child in path.iterdir())[:_AT_MOST]) or "nothing"
    raise InputError(f"checkpoint '{path}' is no orbax directory: found {found}; expected a step or one item")


def _step(name: str) -> int | None:
    """The number of a step directory: `"12"`, `"step_12"`, `"checkpoint_12"`."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else None


def _read_safetensors(path: pathlib.Path) -> Any:
    found = dict(safetensors.deserialize(path.read_bytes()))
    unknown = sorted({entry["dtype"] for entry in found.values()} - _STORED.keys())
    if unknown:
        raise InputError(f"checkpoint '{path}': holds {', '.join(unknown)}; expected {', '.join(_STORED)}")
    tree = {
        name.replace(".", "/"): np.frombuffer(entry["data"], _STORED[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in found.items()
    }
    if len(tree) != len(found):
        raise InputError(f"checkpoint '{path}': two tensors have one name once '.' and '/' are the same")
    return tree


def _read_msgpack(path: pathlib.Path) -> Any:
    return serialization.msgpack_restore(path.read_bytes())


def _flat(tree: Any) -> Arrays:
    """Arrays by path; the `value` level that nnx states have is taken out."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            continue
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        arrays[name.removesuffix("/value").removesuffix("/raw_value")] = leaf
    return arrays


def _restored_linen(model: linen.Module, arrays: Arrays, path: Any, shape: tuple[int, ...]) -> Any:
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        expected = jax.eval_shape(model.init, jax.random.key(0), x)
    except Exception as error:
        text = str(error).strip().splitlines()
        raise InputError(
            f"the model cannot be initialised on inputs of shape {shape} ({type(error).__name__}: "
            f"{text[0] if text else 'no message'}); check input_shape and the factory"
        ) from error
    found = _matched(_flat(expected), arrays, path)
    return model.bind(_filled(expected, found, np.asarray))


def _restored_nnx(model: nnx.Module, arrays: Arrays, path: Any) -> nnx.Module:
    # the factory's own object stays as it was
    model = copy.deepcopy(model)
    state = nnx.state(model)
    expected = {name: leaf for name, leaf in _flat(state).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    nnx.update(model, _filled(state, _matched(expected, arrays, path), jnp.asarray))
    model.eval()
    return model


def _filled(tree: Any, arrays: Arrays, convert: Callable[[np.ndarray], Any]) -> Any:
    """The tree with its leaves replaced by arrays of the same path, where there is one."""

    def fill(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        if name not in arrays:
            return leaf
        array = np.asarray(arrays[name])
        return convert(array.astype(np.float32) if array.dtype == np.float64 else array)

    return jax.tree_util.tree_map_with_path(fill, tree)


def _matched(expected: Arrays, arrays: Arrays, path: Any) -> Arrays:
    """The checkpoint's arrays under the model's names; every misfit in one error."""
    found = max(_readings(arrays), key=lambda reading: len(expected.keys() & reading.keys()))
    collections = {name.partition("/")[0] for name in expected}
    missing = sorted(expected.keys() - found.keys())
    # optimizer states and step counters beside the variables are no concern of the model
    unexpected = sorted(
        name
        for name in found.keys() - expected.keys()
        if name.partition("/")[0] in collections and jnp.issubdtype(found[name].dtype, jnp.floating)
    )
    others = sorted(found.keys() - expected.keys())
    lines = [f"missing '{name}'{suggestion(name, others)}" for name in missing]
    lines += [f"unexpected '{name}'" for name in unexpected]
    lines += [
        f"'{name}' has shape {tuple(found[name].shape)}, the model expects {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    if lines:
        more = [f"and {len(lines) - _AT_MOST} more"] if len(lines) > _AT_MOST else []
        listed = "\n  ".join([*lines[:_AT_MOST], *more])
        raise InputError(f"checkpoint '{path}' does not fit the model:\n  {listed}")
    return {name: found[name] for name in expected}


def _readings(arrays: Arrays) -> list[Arrays]:
    """The checkpoint as it is, as bare parameters, and as what lies inside a training state."""
    readings = [arrays, {f"params/{name}": array for name, array in arrays.items()}]
    for outer in _INSIDE:
        inner = {name.removeprefix(f"{outer}/"): a for name, a in arrays.items() if name.startswith(f"{outer}/")}
        if inner:
            beside = {name: a for name, a in arrays.items() if not name.startswith(f"{outer}/")}
            readings += [inner, {**beside, **{f"params/{name}": array for name, array in inner.items()}}]
    return readings
