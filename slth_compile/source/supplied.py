"""Random numbers that somebody supplies: measured conductances, another generator, any numbers that stand already.

What a layer needs, N copies of an input channel, N_b of the bias gadget's constant:

    {layer}.U        (N, C): the entry of its own channel that hidden channel (j, t) keeps; or all, (N, C, C/groups)
    {layer}.V        (N, taps..., C, S/groups)
    {layer}.bias_u   (N_b,)         where the folded layer has a bias
    {layer}.bias_v   (N_b, S)

A tensor's scale is the least `2^e` that no |entry| exceeds, and its entries must be multiples of `2^(e-23)`: 24 bits,
so that all sums stay exact. The scales of `U` and `V` join the gain of the layer, a power of two that is read out.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from slth_compile.archive import open_regular
from slth_compile.arguments import load_arrays
from slth_compile.errors import InputError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.law import FEWEST_BITS, MOST_BITS
from slth_compile.source.layout import MAXIMUM_WIDTH, Gadget, Layout
from slth_compile.source.network import kernel_shape, own_elements
from slth_compile.source.source import TENSOR_NAMES, Supplied

LARGEST_SOURCE = 1 << 27
"""Entries of a supplied source; they are stored in the ticket, four bytes each."""

EntriesOf = Callable[[int, str, np.ndarray], Any]
"""From layer, tensor ("U", "V", "bias_u", "bias_v") and int64 flat positions in `U (N, C, C/groups)`, `V`, ... to
entries."""

_SCALES = range(-100, 101)
_CHUNK = 1 << 22
_EXACT = 2.0**53
_SHOWN = 3
U, V, BIAS_U, BIAS_V = TENSOR_NAMES.values()


def supplied(arrays: Mapping[str, Any]) -> Supplied:
    """The source of some arrays, exact.

    Args:
        arrays: Finite numbers by name, in the shapes of `source.source.Supplied`.

    Raises:
        InputError: Something that is no finite number, or has more than 24 bits.
    """
    tensors, scales = {}, {}
    for name, array in arrays.items():
        tensors[name], scales[name] = dyadic(name, array)
    return Supplied(tensors, scales)


def dyadic(name: str, array: Any) -> tuple[np.ndarray, int]:
    """A tensor as integers, int32 in [-2^23, 2^23], and the exponent e of its scale: `array = integers 2^(e-23)`.

    Args:
        name: For messages.
        array: Finite numbers.

    Raises:
        InputError: Something that is no finite number, or has more than 24 bits.
    """
    values = _numbers(name, array)
    scale = _scale(values)
    if scale not in _SCALES:
        raise InputError(
            f"source: the largest entry of '{name}' is about 2^{scale}, expected 2^-100 to 2^100; scale the tensor by "
            "a power of two"
        )
    scaled = np.ldexp(values, ENTRY_BITS - scale)
    wrong = scaled != np.rint(scaled)
    if np.any(wrong):
        value = float(values[wrong].reshape(-1)[0])
        raise InputError(
            f"source: '{name}' holds {value!r}, which has more than the 24 bits below 2^{scale} that its largest entry "
            f"allows; round the arrays first: slth.round_source(arrays, bits={MOST_BITS})"
        )
    return np.ascontiguousarray(scaled, np.int32), scale


def round_source(arrays: Mapping[str, Any], bits: int = MOST_BITS) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Measured numbers as a source can use them: each tensor rounded to multiples of `2^(e-bits+1)`.

    Args:
        arrays: Finite numbers by name; `2^e` is the least power of two that no entry of a tensor exceeds.
        bits: Binary digits of an entry, its sign among them, 4 to 24.

    Returns:
        The rounded arrays, float64, and by how much an entry of each was changed at most.

    Raises:
        InputError: Something that is no finite number, or another number of bits.
    """
    if not isinstance(bits, int) or not FEWEST_BITS <= bits <= MOST_BITS:
        raise InputError(f"round_source: bits is {bits!r}; expected an integer from {FEWEST_BITS} to {MOST_BITS}")
    rounded, changes = {}, {}
    for name, array in arrays.items():
        values = _numbers(name, array)
        steps = bits - 1 - _scale(values)
        rounded[name] = np.ldexp(np.rint(np.ldexp(values, steps)), -steps)
        changes[name] = float(np.abs(rounded[name] - values).max(initial=0.0))
    return rounded, changes


def numbers(source: Supplied) -> dict[str, np.ndarray]:
    """The numbers that were supplied, float32 by name, exact."""
    return {
        name: np.ldexp(tensor.astype(np.float32), source.scales[name] - ENTRY_BITS)
        for name, tensor in source.tensors.items()
    }


def read_source(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` or `.npz` file, by name.

    Raises:
        InputError: No such file, or not readable as one.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        return load_arrays(str(path), ())
    try:
        with open_regular(path) as file:
            return safetensors.numpy.load(file.read())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable .safetensors file ({error})") from None


def fitted(graph: Graph, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Supplied arrays in the shapes of `source.source.Supplied`: own entries of `U`, taps of `V` on one axis.

    Args:
        graph: The folded target.
        arrays: By name, as above.

    Raises:
        InputError: Arrays that are missing, unknown, too large or of another shape; names a few.
    """
    found, problems = {}, []
    for index, node in _layers(graph):
        shape = kernel_shape(node)
        channels, fan_in = shape.inputs, shape.inputs // shape.groups
        taps = node.kernel.shape[:-2]
        expected = {U: [(channels,), (channels, fan_in)], V: [(*taps, *shape.shape[1:]), shape.shape]}
        if node.bias is not None:
            expected |= {BIAS_U: [()], BIAS_V: [node.bias.shape]}
        for tensor, shapes in expected.items():
            name = f"{index}.{tensor}"
            own = found[name] = np.asarray(arrays[name]) if name in arrays else np.zeros(0)
            if own.shape[1:] not in shapes or not 1 <= len(own) <= MAXIMUM_WIDTH:
                given = f"has shape {own.shape}" if name in arrays else "is missing"
                sizes = "".join(f", {n}" for n in shapes[0])
                problems.append(f"'{name}' {given}, expected (copies{sizes}) with 1 to {MAXIMUM_WIDTH} copies")
            elif tensor == U and own.ndim == 3:
                found[name] = own[:, np.arange(channels), np.arange(channels) % fan_in]
            elif tensor == V:
                found[name] = own.reshape(len(own), *shape.shape)
        for first, second in ((U, V), (BIAS_U, BIAS_V))[: len(expected) // 2]:
            one, other = (len(found[f"{index}.{tensor}"]) for tensor in (first, second))
            if one != other:
                problems.append(f"'{index}.{first}' has {one} copies, '{index}.{second}' {other}")
    problems += [f"'{name}' is unknown" for name in arrays if name not in found]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"source: {'; '.join(problems[:_SHOWN])}{more}")
    _refuse_large(sum(array.size for array in found.values()))
    return found


def with_copies(graph: Graph, layout: Layout, source: Supplied) -> Layout:
    """A layout planned for the standard source, for the copies that there are and the size they have.

    Gains rise by the octaves by which the root mean square of `U V` is below that of the standard law, 1/3 of the full
    scale: where a few large entries set the scale, the others are small.
    """

    def fitting(gadget: Gadget, u: np.ndarray, v: np.ndarray) -> Gadget:
        octaves = max(0, round(float(np.log2((1 / 3) / max(_size(u) * _size(v), 2.0**-40)))))
        return dataclasses.replace(gadget, width=len(u), gain=gadget.gain + octaves)

    layers = []
    for index, _ in _layers(graph):
        layer, own = layout.layers[index], functools.partial(_tensor, source, index)
        bias = None if layer.bias is None else fitting(layer.bias, own(BIAS_U), own(BIAS_V))
        layers.append(dataclasses.replace(layer, kernel=fitting(layer.kernel, own(U), own(V)), bias=bias))
    return dataclasses.replace(layout, layers=tuple(layers))


def _tensor(source: Supplied, index: int, tensor: str) -> np.ndarray:
    return source.tensors[f"{index}.{tensor}"]


def _size(entries: np.ndarray) -> float:
    """The root mean square of integer entries, in units of the full scale."""
    return float(np.sqrt(np.mean(np.square(entries, dtype=np.float64)))) * 2.0**-ENTRY_BITS


def called(graph: Graph, layout: Layout, entries_of: EntriesOf) -> dict[str, np.ndarray]:
    """What a function gives for a layout, as fitted arrays.

    Args:
        graph: The folded target.
        layout: Widths.
        entries_of: From layer, tensor and flat positions to entries.

    Raises:
        InputError: Too many entries, or not as many as were asked for.
    """
    found = {}
    asked = [
        (f"{index}.{tensor}", index, tensor, elements)
        for index, node in _layers(graph)
        for tensor, elements in _asked(node, layout, index)
    ]
    _refuse_large(sum(elements.size for *_, elements in asked))
    for name, index, tensor, elements in asked:
        flat = elements.reshape(-1)
        parts = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
        given = [_numbers(name, entries_of(index, tensor, part)) for part in parts]
        for part, own in zip(parts, given, strict=True):
            if own.shape != part.shape:
                raise InputError(
                    f"source: for {part.size} positions of '{name}' it returned shape {own.shape}; expected one number "
                    "a position"
                )
        found[name] = np.concatenate(given).reshape(elements.shape)
    return found


def refuse_unfitting(graph: Graph, layout: Layout, source: Supplied) -> None:
    """Nothing, where a source has exactly the tensors of a layout.

    Raises:
        InputError: It has others.
    """
    shapes = {
        f"{index}.{tensor}": shape
        for index, node in _layers(graph)
        for tensor, shape in _shapes(node, layout, index).items()
    }
    if {name: tensor.shape for name, tensor in source.tensors.items()} != shapes:
        raise InputError("source: its tensors are not those of the layout")


def _asked(node: Weighted, layout: Layout, index: int) -> Iterator[tuple[str, np.ndarray]]:
    """Flat positions of every tensor of a layer, in its shape."""
    for tensor, shape in _shapes(node, layout, index).items():
        own = own_elements(kernel_shape(node), shape[0]) if tensor == U else np.arange(int(np.prod(shape)))
        yield tensor, own.astype(np.int64).reshape(shape)


def _shapes(node: Weighted, layout: Layout, index: int) -> dict[str, tuple[int, ...]]:
    layer, shape = layout.layers[index], kernel_shape(node)
    found = {U: (layer.kernel.width, shape.inputs), V: (layer.kernel.width, *shape.shape)}
    if layer.bias is None:
        return found
    return found | {BIAS_U: (layer.bias.width,), BIAS_V: (layer.bias.width, shape.outputs)}


def _layers(graph: Graph) -> Iterator[tuple[int, Weighted]]:
    for index, position in enumerate(graph.layers):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        yield index, node


def _refuse_large(entries: int) -> None:
    if entries > LARGEST_SOURCE:
        raise InputError(
            f"source: {entries:,} entries, and at most {LARGEST_SOURCE:,} are stored in a ticket; give fewer copies, "
            "or use a generated source"
        )


def _numbers(name: str, array: Any) -> np.ndarray:
    """An array in float64, every entry finite and unchanged."""
    try:
        values = np.asarray(array)
        # a complex number would lose its imaginary part; its type is refused below
        plain = np.real(values).astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"source: '{name}' holds something that is no number") from None
    if values.dtype.kind not in "fiuV" or values.dtype.itemsize > 8:
        raise InputError(f"source: '{name}' is {values.dtype}; expected floating-point numbers or integers")
    if values.dtype.kind in "iu" and np.any(np.abs(plain) > _EXACT):
        raise InputError(f"source: '{name}' holds integers beyond 2^53; give floating-point numbers")
    if not np.isfinite(plain).all():
        raise InputError(f"source: '{name}' holds NaN or infinity; leave those copies out")
    return plain


def _scale(values: np.ndarray) -> int:
    """The least exponent e with `|values| <= 2^e`; 0 where all are zero."""
    largest = float(np.abs(values).max(initial=0.0))
    mantissa, exponent = np.frexp(largest)
    return int(exponent) - int(mantissa == 0.5)
