"""Shapes and addresses of the random tensors of one layer, and the copies a sign can use."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.graph.nodes import Dense, Weighted
from slth_compile.source.dyadic import entries
from slth_compile.source.threefry import TENSOR_BIAS_U, TENSOR_U, Key, tensor_key, words

_DRAWS = (1 << 10, 1 << 15, 1 << 20)


@dataclasses.dataclass(frozen=True)
class KernelShape:
    """A kernel's canonical shape `(taps, C, S/groups)`: `canonical[p, t, s]` connects input channel `t` of its group.

    Attributes:
        taps: Product of the kernel's spatial sizes, 1 for a dense layer.
        inputs: Input channels C.
        outputs: Output channels S.
        groups: Groups of channels.
    """

    taps: int
    inputs: int
    outputs: int
    groups: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(taps, C, S/groups)`."""
        return self.taps, self.inputs, self.outputs // self.groups

    @property
    def size(self) -> int:
        """Number of weights, k of the layer."""
        return math.prod(self.shape)

    def parameters_v(self, width: int) -> int:
        """Random parameters of `V (N, taps, C, S/groups)`."""
        return width * self.size

    def parameters_u(self, width: int) -> int:
        """Random parameters of `U (N, C, C/groups)`."""
        return width * self.inputs * (self.inputs // self.groups)


def kernel_shape(node: Weighted) -> KernelShape:
    """The canonical shape of a weighted node's kernel."""
    *taps, fan_in, outputs = node.kernel.shape
    groups = 1 if isinstance(node, Dense) else node.groups
    return KernelShape(math.prod(taps), fan_in * groups, outputs, groups)


def to_canonical(node: Weighted, kernel: np.ndarray) -> np.ndarray:
    """A kernel `(taps..., C/groups, S)` in canonical order `(P, C, S/groups)`."""
    k = kernel_shape(node)
    split = kernel.reshape(k.taps, k.inputs // k.groups, k.groups, k.outputs // k.groups)
    return np.ascontiguousarray(np.moveaxis(split, 2, 1)).reshape(k.shape)


def from_canonical(node: Weighted, canonical: np.ndarray) -> np.ndarray:
    """The inverse of `to_canonical`."""
    k = kernel_shape(node)
    split = canonical.reshape(k.taps, k.groups, k.inputs // k.groups, k.outputs // k.groups)
    return np.ascontiguousarray(np.moveaxis(split, 1, 2)).reshape(node.kernel.shape)


def drawn_entries(key: Key, elements: np.ndarray) -> np.ndarray:
    """The entries at flat positions `elements` of a tensor, int64 of their shape, in units of 2^-23."""
    flat = elements.reshape(-1).astype(np.uint64)
    found = np.zeros(flat.size, np.int64)
    # Padded to the next of a few sizes, so that few shapes are ever compiled.
    size = next((size for size in _DRAWS if size >= flat.size), _DRAWS[-1])
    with jax.enable_x64(True):
        for start in range(0, flat.size, size):
            part = flat[start : start + size]
            padded = jnp.asarray(np.pad(part, (0, size - part.size)))
            found[start : start + size] = np.asarray(_entries_at(key, padded))[: part.size]
    return found.reshape(elements.shape)


@jax.jit
def _entries_at(key: Key, elements: jax.Array) -> jax.Array:
    return entries(words(key, elements))


def own_entries(seed: int, layer: int, shape: KernelShape, width: int) -> np.ndarray:
    """The entry of `U` that hidden channel (j, t) may keep, int64 `(width, C)`, in units of 2^-23."""
    fan_in = shape.inputs // shape.groups
    copy, channel = np.arange(width, dtype=np.uint64)[:, None], np.arange(shape.inputs, dtype=np.uint64)
    elements = (copy * np.uint64(shape.inputs) + channel) * np.uint64(fan_in) + channel % np.uint64(fan_in)
    return drawn_entries(tensor_key(seed, layer, TENSOR_U), elements)


def bias_entries(seed: int, layer: int, width: int) -> np.ndarray:
    """The entries of the bias gadget's `u`, int64 `(width, 1)`, in units of 2^-23."""
    return drawn_entries(tensor_key(seed, layer, TENSOR_BIAS_U), np.arange(width)[:, None])


def usable_copies(own: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Which copies of every channel a sign can use, in ascending order.

    Args:
        own: Entries of `U`, shape `(width, C)`.
        sign: +1 for the copies with U > 0, -1 for those with U < 0.

    Returns:
        `copies` int64 `(width, C)`, its first `counts[t]` rows valid in column t, and `counts` int64 `(C,)`.
    """
    usable = own * sign > 0
    order = np.argsort(~usable, axis=0, kind="stable")
    return order, usable.sum(0)
