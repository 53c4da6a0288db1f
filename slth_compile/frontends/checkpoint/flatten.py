"""How vectors of a channels-last model are ordered in PyTorch, where channels come first.

Flattening `(H, W, C)` gives another order than flattening `(C, H, W)`. The model's own graph tells where that happens:
a reshape of the input, or of what convolutions made, to a vector. From there the order is followed through everything
that works element by element, and every array that meets it is reordered:

    order[i] = position in PyTorch's vector of position i in the model's vector.

Where the model transposes to `(C, H, W)` itself before it flattens, the vectors agree. A vector that is reshaped to
`(H, W, C)` (a decoder) has its order from there; the layer that made it has its outputs reordered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.draft import Entry, Unknown
from slth_compile.graph import nodes as n


@dataclasses.dataclass(frozen=True)
class Orders:
    """What is reordered.

    Attributes:
        inputs: Order of the second-to-last axis, for kernels by name.
        outputs: Order of the last axis, by name.
        notes: One line each.
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    notes: tuple[str, ...]


_UNCLEAR = np.zeros(0, np.int64)
Order = np.ndarray | None


def orders(entries: Sequence[Entry], path: object) -> Orders:
    """Where a model flattens images, or makes them of vectors, and what that reorders.

    Raises:
        InputError: A layer reads a vector whose order in PyTorch cannot be told.
    """
    consumers = [0] * len(entries)
    for entry in entries:
        for i in entry.node.inputs:
            consumers[i] += 1
    images = _images(entries)
    carried: list[Order] = []
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for i, entry in enumerate(entries):
        node, read = entry.node, [carried[j] for j in entry.node.inputs]
        own = read[0] if read else None
        if isinstance(node, n.Dense):
            if own is not None:
                _refuse_unclear(own, node.name, path)
                _set(inputs, [name for name in entry.leaves if name.endswith("kernel")], own, path)
                notes.append(f"'{node.name}': inputs reordered, PyTorch flattens channels first")
            own = None
        elif isinstance(node, n.Reshape):
            before = entries[node.inputs[0]]
            if len(before.shape) > len(entry.shape) == 1:
                own = _flattened(images[node.inputs[0]], before.shape)
            elif len(before.shape) == 1 and images[i] is not None:
                order = _order(entry.shape)
                if own is None and order is not None:
                    names, layer = _makers(entries, node.inputs[0], consumers, path)
                    _set(outputs, names, order, path)
                    notes.append(f"'{layer}': outputs reordered, PyTorch reshapes to channels first")
                elif not _equal(own, order):
                    raise _unclear(node.name or f"node {i}", path)
                own = None
            elif own is not None and entry.shape != before.shape:
                own = _UNCLEAR
        elif isinstance(node, n.Concatenate) and any(order is not None for order in read):
            own = _joined(read, [entries[j].shape for j in node.inputs])
        elif any(order is not None for order in read):
            same = entry.shape == entries[node.inputs[0]].shape and all(_equal(own, order) for order in read)
            own = own if same else _UNCLEAR
            if own is not None and entry.leaves and _is_vector(node):
                _refuse_unclear(own, node.name or min(entry.leaves), path)
                _set(outputs, list(entry.leaves), own, path)
        carried.append(own)
    return Orders(inputs, outputs, tuple(notes))


def _images(entries: Sequence[Entry]) -> list[tuple[int, ...] | None]:
    """The order of the axes of every entry that is an image in PyTorch; the channels have the largest number.

    Images are inputs of three axes or more, what convolutions read and make, and everything between them.
    """
    read_as_image = [False] * len(entries)
    for i in reversed(range(len(entries))):
        node = entries[i].node
        if _convolves(node) or (read_as_image[i] and not isinstance(node, n.Dense | n.Reshape | n.Transpose)):
            for j in node.inputs:
                read_as_image[j] = True
    found: list[tuple[int, ...] | None] = []
    for i, entry in enumerate(entries):
        node, rank = entry.node, len(entry.shape)
        before = next((axes for j in node.inputs if (axes := found[j]) is not None), None)
        plain = tuple(range(rank))
        if isinstance(node, n.Input):
            found.append(plain if rank > 2 else None)
        elif _convolves(node):
            found.append(plain if rank > 1 else None)
        elif isinstance(node, n.Transpose):
            found.append(None if before is None else tuple(before[axis] for axis in node.permutation))
        elif isinstance(node, n.Reshape):
            kept = _without_ones(entry.shape) == _without_ones(entries[node.inputs[0]].shape)
            still = kept and before is not None and before == tuple(sorted(before))
            found.append(plain if rank > 1 and (read_as_image[i] or still) else None)
        else:
            same_rank = before is not None and len(before) == rank
            found.append(before if same_rank else plain if before is not None and rank > 1 else None)
    return found


def _convolves(node: n.Node) -> bool:
    """Whether it is a convolution, of a kind that has a node or not."""
    return isinstance(node, n.Convolution) or (isinstance(node, Unknown) and node.operation == "conv_general_dilated")


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _flattened(axes: tuple[int, ...] | None, shape: tuple[int, ...]) -> Order:
    """The order of a flattened entry; None where PyTorch has the same."""
    if axes is None:
        return None
    sizes = dict(zip(axes, shape, strict=True))
    moved = [axis for axis in axes if sizes[axis] > 1]
    channels = max(axes)
    if moved == sorted(moved):
        return _order(shape)
    return None if moved == sorted(moved, key=lambda axis: (axis != channels, axis)) else _UNCLEAR


def _order(shape: Sequence[int]) -> Order:
    size, channels = math.prod(shape), shape[-1]
    order = np.arange(size).reshape(channels, size // channels).T.ravel()
    return None if np.array_equal(order, np.arange(size)) else order


def _joined(read: Sequence[Order], shapes: Sequence[tuple[int, ...]]) -> Order:
    if any(len(shape) != 1 for shape in shapes) or any(order is not None and not order.size for order in read):
        return _UNCLEAR
    parts, start = [], 0
    for order, (size,) in zip(read, shapes, strict=True):
        parts.append(start + (np.arange(size) if order is None else order))
        start += size
    return np.concatenate(parts)


def _makers(entries: Sequence[Entry], i: int, consumers: Sequence[int], path: object) -> tuple[list[str], str]:
    """Names of the arrays that make a vector, from its layer on, and the layer's name."""
    names: list[str] = []
    while consumers[i] == 1:
        entry = entries[i]
        names += entry.leaves
        if isinstance(entry.node, n.Dense):
            return names, entry.node.name
        if len(entry.node.inputs) != 1 or entries[entry.node.inputs[0]].shape != entry.shape:
            break
        i = entry.node.inputs[0]
    raise _unclear(entries[i].node.name, path)


def _is_vector(node: n.Node) -> bool:
    return any(array.ndim == 1 for array in n.parameters(node).values())


def _equal(a: Order, b: Order) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _set(found: dict[str, np.ndarray], names: Sequence[str], order: np.ndarray, path: object) -> None:
    for name in names:
        if name in found and not np.array_equal(found[name], order):
            raise _unclear(name, path)
        found[name] = order


def _refuse_unclear(order: np.ndarray, name: str, path: object) -> None:
    if not order.size:
        raise _unclear(name, path)


def _unclear(name: str, path: object) -> InputError:
    return InputError(
        f"checkpoint '{path}': '{name}' uses a vector whose order in PyTorch (channels first) cannot be told; convert "
        "the checkpoint to the model's own names and layouts, and pass --layout flax"
    )
