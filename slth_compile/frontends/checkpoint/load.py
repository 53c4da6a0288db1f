"""A model from a checkpoint and the factory that builds it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen, nnx

from slth_compile.errors import InputError, suggestion
from slth_compile.frontends.checkpoint import flax_names
from slth_compile.frontends.checkpoint.flatten import orders
from slth_compile.frontends.checkpoint.read import Arrays, read_checkpoint
from slth_compile.frontends.checkpoint.slots import Slots, linen_slots, nnx_slots
from slth_compile.frontends.checkpoint.torch_layout import converted, torch_forms
from slth_compile.frontends.checkpoint.torch_names import looks_like_torch, pair
from slth_compile.frontends.factory import call_factory
from slth_compile.frontends.flax import survey_model
from slth_compile.frontends.jaxpr import checked_shape

AUTO, FLAX, TORCH = LAYOUTS = ("auto", "flax", "torch")
"""Whose names and layouts a checkpoint has; `auto` looks at the names."""


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A model with a checkpoint's weights.

    Attributes:
        model: A bound linen module, or an nnx module in inference mode.
        layout: `"flax"` or `"torch"`: how the checkpoint was read.
        inferred: What the names alone do not say: layers found by their order, vectors reordered; a line each.
    """

    model: Any
    layout: str
    inferred: tuple[str, ...] = ()


def load_model(
    path: str | pathlib.Path,
    factory: str,
    model_kwargs: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    layout: str = AUTO,
) -> Any:
    """The model of `restore_model`, ready for `import_model`; arguments and errors as there."""
    return restore_model(path, factory, model_kwargs, input_shape, layout).model


def restore_model(
    path: str | pathlib.Path,
    factory: str,
    model_kwargs: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    layout: str = AUTO,
) -> Restored:
    """A model with restored weights.

    Args:
        path: What `read_checkpoint` reads.
        factory: `"package.module:function"`; the function returns a linen module or an `nnx.Module`.
        model_kwargs: Its keyword arguments.
        input_shape: Shape of one sample; needed for linen modules and for PyTorch's layouts.
        layout: One of `LAYOUTS`.

    Raises:
        InputError: A checkpoint that is missing, unreadable or does not fit the model; a bad factory.
        UnsupportedModelError: A PyTorch checkpoint for a model that cannot be traced.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; expected auto, flax or torch{suggestion(layout, LAYOUTS)}")
    arrays = read_checkpoint(path)
    model = call_factory(factory, model_kwargs)
    slots = _slots(model, factory, None if input_shape is None else checked_shape(input_shape))
    if layout == AUTO:
        foreign = looks_like_torch(arrays) and not flax_names.has_all_names(slots.expected, arrays)
        layout = TORCH if foreign else FLAX
    if layout == FLAX:
        return Restored(slots.fill(flax_names.matched(slots.expected, arrays, path)), FLAX)
    if input_shape is None:
        raise InputError(
            f"checkpoint '{path}' has PyTorch's names and layouts; to convert it, the input shape is needed: pass "
            "--input-shape H,W,C (input_shape=(...))"
        )
    return _from_torch(slots, arrays, path, checked_shape(input_shape))


def _slots(model: Any, factory: str, shape: tuple[int, ...] | None) -> Slots:
    if isinstance(model, nnx.Module):
        return nnx_slots(model)
    if not isinstance(model, linen.Module):
        raise InputError(
            f"factory '{factory}' returned a {type(model).__name__}, expected a linen module or nnx.Module"
        )
    if model.scope is not None:
        model = model.unbind()[0]
    if shape is None:
        raise InputError(
            "a linen model from a checkpoint needs its input shape: pass --input-shape H,W,C (input_shape=(...))"
        )
    return linen_slots(model, shape)


def _from_torch(slots: Slots, arrays: Arrays, path: Any, shape: tuple[int, ...]) -> Restored:
    blank = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in slots.expected.items()}
    entries = survey_model(slots.fill(blank), shape).entries
    first_use = list(dict.fromkeys(name for entry in entries for name in sorted(entry.leaves)))
    pairing = pair(torch_forms(slots, first_use), arrays, path)
    reordered = orders(entries, path)
    model = slots.fill(converted(slots, pairing, reordered))
    theirs = {mine: pairing.sources[mine].replace("/", ".") for mine in pairing.by_order}
    by_order = [f"'{mine}' takes '{name}', by shape and order" for mine, name in theirs.items()]
    return Restored(model, TORCH, (*by_order, *reordered.notes))
