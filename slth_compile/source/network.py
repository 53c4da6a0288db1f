"""Shapes and addresses of the random tensors of one layer, and the copies a sign can use."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from slth_compile.graph.nodes import Dense, Weighted
from slth_compile.source.source import Source
from slth_compile.source.tensor import Drawn, read_entries
from slth_compile.source.threefry import TENSOR_BIAS_U, TENSOR_U


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


def hidden_kernel(node: Weighted, v: np.ndarray) -> np.ndarray:
    """`V (N, taps, C, S/groups)` as the kernel of a layer that reads hidden channels in the order (channel, copy).

    Args:
        node: The layer in place of which it stands.
        v: Its tensor.

    Returns:
        `(taps..., N*C/groups, S)`.
    """
    shape, width = kernel_shape(node), v.shape[0]
    fan_in = shape.inputs // shape.groups
    split = v.reshape(width, shape.taps, shape.groups, fan_in, shape.outputs // shape.groups)
    kernel = np.transpose(split, (1, 3, 0, 2, 4)).reshape(shape.taps, fan_in * width, shape.outputs)
    return kernel.reshape(*node.kernel.shape[:-2], fan_in * width, shape.outputs)


def own_entries(source: Source, layer: int, shape: KernelShape, width: int) -> np.ndarray:
    """The entry of `U` that hidden channel (j, t) may keep, int64 `(width, C)`, in units of 2^-23."""
    tensor = source.tensor(layer, TENSOR_U)
    # Of a supplied U there is nothing but these entries.
    generated = isinstance(tensor, Drawn)
    return read_entries(tensor, own_elements(shape, width) if generated else _in_order(width, shape.inputs))


def own_elements(shape: KernelShape, width: int) -> np.ndarray:
    """Flat positions of the entries that hidden channels may keep in `U (N, C, C/groups)`, uint64 `(width, C)`."""
    fan_in, channel = np.uint64(shape.inputs // shape.groups), np.arange(shape.inputs, dtype=np.uint64)
    return _in_order(width, shape.inputs) * fan_in + channel % fan_in


def _in_order(width: int, channels: int) -> np.ndarray:
    return np.arange(width * channels, dtype=np.uint64).reshape(width, channels)


def bias_entries(source: Source, layer: int, width: int) -> np.ndarray:
    """The entries of the bias gadget's `u`, int64 `(width, 1)`, in units of 2^-23."""
    return read_entries(source.tensor(layer, TENSOR_BIAS_U), np.arange(width)[:, None])


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
