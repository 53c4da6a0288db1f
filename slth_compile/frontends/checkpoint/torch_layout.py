"""Arrays of PyTorch's layers in flax's names and layouts.

    Conv          weight (out, in/groups, taps...)   -> kernel (taps..., in/groups, out)
    ConvTranspose weight (in, out, taps...)          -> kernel (taps..., in, out), taps reversed
    Linear        weight (out, in)                   -> kernel (in, out)
    norms         weight, bias                       -> scale, bias
    BatchNorm     running_mean, running_var          -> mean, var; num_batches_tracked is dropped
    Embedding     weight                             -> embedding
    PReLU         weight (1,)                        -> negative_slope ()

The first layer behind a flattening also has its inputs reordered, see `flatten`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from slth_compile.frontends.checkpoint.flatten import Orders
from slth_compile.frontends.checkpoint.slots import Slots
from slth_compile.frontends.checkpoint.torch_names import Form, Pairing, form

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "negative_slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_forms(slots: Slots, first_use: Sequence[str]) -> dict[str, Form]:
    """The form that each module of the model has in PyTorch, in the order of application.

    Args:
        slots: What the model expects.
        first_use: Names of its arrays in the order in which the model uses them; those not in it come last.
    """
    place = {name: i for i, name in enumerate(first_use)}
    shapes: dict[str, dict[str, Sequence[int]]] = {}
    for name in sorted(slots.expected, key=lambda name: place.get(name, len(place))):
        module, leaf = split(slots, name)
        shape = tuple(slots.expected[name].shape)
        if leaf == "kernel":
            shape = _as_torch(shape, module in slots.transposed, slots.transposed.get(module, False))
        shapes.setdefault(module, {})[leaf] = shape
    return {
        module: form({theirs: leaves[leaf] for leaf, theirs in _renamed(leaves).items()})
        for module, leaves in shapes.items()
    }


def split(slots: Slots, name: str) -> tuple[str, str]:
    """Module and leaf of one of the model's names, without linen's collection."""
    module, _, leaf = name.rpartition("/")
    return module.partition("/")[2] if slots.in_collections else module, leaf


def converted(slots: Slots, pairing: Pairing, orders: Orders) -> dict[str, np.ndarray]:
    """Every array of the model, from the paired modules, transposed and reordered."""
    leaves: dict[str, list[str]] = {}
    for name in slots.expected:
        module, leaf = split(slots, name)
        leaves.setdefault(module, []).append(leaf)
    found = {}
    for name, slot in slots.expected.items():
        module, leaf = split(slots, name)
        array = np.asarray(pairing.modules[pairing.sources[module]][_renamed(leaves[module])[leaf]])
        if leaf == "kernel":
            array = _as_flax(array, module, slots.transposed)
        array = array.reshape(slot.shape)
        if name in orders.inputs:
            array = np.take(array, orders.inputs[name], axis=-2)
        if name in orders.outputs:
            array = np.take(array, orders.outputs[name], axis=-1)
        found[name] = np.ascontiguousarray(array).reshape(slot.shape)
    return found


def _renamed(leaves: Iterable[str]) -> dict[str, str]:
    """PyTorch's names of a module's arrays; a module that would have two of one name keeps its own."""
    found = {leaf: _LEAVES.get(leaf, leaf) for leaf in leaves}
    return found if len(set(found.values())) == len(found) else {leaf: leaf for leaf in found}


def _as_torch(shape: tuple[int, ...], transposed: bool, swapped: bool) -> tuple[int, ...]:
    *taps, first, second = shape
    # a transposed convolution's weight is (in, out); with transpose_kernel its kernel is (out, in)
    return (first, second, *taps) if transposed and not swapped else (second, first, *taps)


def _as_flax(array: np.ndarray, module: str, transposed: Mapping[str, bool]) -> np.ndarray:
    taps = tuple(range(2, array.ndim))
    if module not in transposed:
        return np.transpose(array, (*taps, 1, 0))
    if transposed[module]:
        return np.transpose(array, (*taps, 1, 0))
    return np.flip(np.transpose(array, (*taps, 0, 1)), tuple(range(len(taps))))
