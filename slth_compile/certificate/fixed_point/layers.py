"""Weighted layers of both networks in fixed point, from weights that are exact."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.fixed_point.constants import Reals, chain
from slth_compile.certificate.fixed_point.limbs import (
    ABOVE,
    BITS,
    LARGEST_LIMB,
    MOST_PRODUCTS,
    Fixed,
    Places,
    carried,
    collected,
    convolved,
    digits,
    dropped,
    normal,
    program,
    signs,
    tops,
)
from slth_compile.certificate.propagate import window_of
from slth_compile.graph import nodes as n
from slth_compile.graph.fold import before_folding
from slth_compile.graph.graph import Graph
from slth_compile.source.dyadic import PRODUCT_BITS, split
from slth_compile.source.network import from_canonical
from slth_compile.ticket.ticket import EffectiveLayer, Ticket


class OutOfPlacesError(Exception):
    """A number that limbs of this kind cannot hold; intervals serve."""


@dataclasses.dataclass(frozen=True, eq=False)
class ExactLayer:
    """`scale (K+ max(z, 0) + K- min(z, 0)) + shift`, every number known exactly or to hundreds of bits.

    Attributes:
        positive: Float64 arrays in the node's kernel layout whose sum is K+.
        negative: The same of K-; None where it is K+, or the input is nonnegative.
        scale: One an output channel; None for one.
        shift: Likewise; None for zero.
    """

    positive: tuple[np.ndarray, ...]
    negative: tuple[np.ndarray, ...] | None = None
    scale: Reals | None = None
    shift: Reals | None = None


def exact_layers(graph: Graph) -> dict[int, ExactLayer]:
    """A network's layers as they are before folding, by position in the folded graph.

    Args:
        graph: The network, checked, not folded.
    """
    unfolded, taken = before_folding(graph)
    found = {}
    for i in unfolded.layers:
        node = unfolded.nodes[i]
        assert isinstance(node, n.Weighted)
        scale, shift = chain(taken.get(i, ()), node.bias, node.kernel.shape[-1])
        found[i] = ExactLayer((node.kernel,), None, scale, shift)
    return found


def exact_ticket(graph: Graph, ticket: Ticket, layers: Sequence[EffectiveLayer]) -> dict[int, ExactLayer]:
    """A ticket's layers, by node position: its sums as they are.

    Args:
        graph: The folded target, for shapes.
        ticket: For the gains.
        layers: The ticket's exact sums.
    """
    found = {}
    for position, layer, layout in zip(graph.layers, layers, ticket.layout.layers, strict=True):
        node = graph.nodes[position]
        assert isinstance(node, n.Weighted)

        def kernel(sums: np.ndarray, node: n.Weighted = node, gain: int = layout.kernel.gain) -> tuple[np.ndarray, ...]:
            return tuple(part for part in split(from_canonical(node, sums), gain) if part.shape == node.kernel.shape)

        shift = None
        if layer.bias is not None:
            assert layout.bias is not None
            shift = Reals.dyadic(layer.bias, layout.bias.gain - PRODUCT_BITS)
        negative = None if layer.negative is None else kernel(layer.negative)
        found[position] = ExactLayer(kernel(layer.positive), negative, None, shift)
    return found


class Form(NamedTuple):
    """What decides whether a compiled program serves another layer.

    Attributes:
        window: Geometry of the layer.
        positive: Which limbs of K+ there are.
        negative: Which of K-; None where there is one kernel.
        blocks: How many parts the input channels are taken in.
    """

    window: e.Window
    positive: tuple[int, ...]
    negative: tuple[int, ...] | None
    blocks: int


class Numbers(NamedTuple):
    """Constants in limbs, `(places, ...)`, and how far off they may be."""

    limbs: Any
    off: Any


class Arrays(NamedTuple):
    """A layer as its program takes it.

    Attributes:
        positive: Limbs of K+ side by side as output features, arranged, one array a block of channels.
        negative: Of K-, likewise.
        magnitude: The larger of |K+| and |K-|, arranged, likewise.
        rest: No entry is further off than this.
        scale: As in `ExactLayer`.
        shift: Likewise.
    """

    positive: list[Any]
    negative: list[Any] | None
    magnitude: list[Any]
    rest: Any
    scale: Numbers | None
    shift: Numbers | None


def prepared(node: n.Weighted, layer: ExactLayer, places: Places, rank: int) -> tuple[Form, Arrays]:
    """The layer's limbs.

    Args:
        node: Its geometry.
        layer: Its weights.
        places: Of its results.
        rank: Axes of its input.

    Raises:
        OutOfPlacesError: A weight of 2^19 or more, or more products in a sum than float64 adds up exactly.
    """
    window, channels = window_of(node), node.kernel.shape[-2]
    kernels = [layer.positive] if layer.negative is None else [layer.positive, layer.negative]
    found = [_kernel_digits(parts, places.limbs + 1) for parts in kernels]
    terms = math.prod(window.taps) * max(1, *(len(limbs) for limbs, _ in found)) * len(found)
    most = MOST_PRODUCTS // terms
    blocks = -(-channels // most) if most else channels + 1
    if most == 0 or (blocks > 1 and window.groups > 1):
        raise OutOfPlacesError(f"'{node.name}': {terms * channels} products in a sum")
    step = -(-channels // blocks)

    def arranged(kernel: np.ndarray, window: e.Window) -> list[np.ndarray]:
        return [e.arranged(kernel[..., at : at + step, :], window) for at in range(0, channels, step)]

    def side_by_side(limbs: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        grouped = [k.reshape(*k.shape[:-1], window.groups, -1) for k in limbs.values()]
        return arranged(np.stack(grouped, -2).reshape(*node.kernel.shape[:-1], -1), _wide(window, len(limbs)))

    magnitude = functools.reduce(
        np.maximum, [functools.reduce(np.add, map(np.abs, parts)) * ABOVE for parts in kernels]
    )
    ends = (-1, *(1,) * rank)
    arrays = Arrays(
        positive=side_by_side(found[0][0]),
        negative=side_by_side(found[1][0]) if len(found) > 1 else None,
        magnitude=arranged(magnitude, window),
        rest=max(rest for _, rest in found),
        scale=None if layer.scale is None else numbers(layer.scale, Places(0, places.limbs + 1), ends),
        shift=None if layer.shift is None else numbers(layer.shift, places, ends),
    )
    keys = [tuple(limbs) for limbs, _ in found]
    return Form(window, keys[0], keys[1] if len(keys) > 1 else None, -(-channels // step)), arrays


def numbers(values: Reals, places: Places, shape: tuple[int, ...]) -> Numbers:
    """Constants of a shape that broadcasts against `(*shape, batch)`.

    Raises:
        OutOfPlacesError: One of 2^19 or more units of the first limb.
    """
    limbs, off = values.digits(places)
    if np.abs(limbs[0]).max(initial=0.0) > LARGEST_LIMB:
        raise OutOfPlacesError("a constant of 2^19 or more")
    return Numbers(limbs.reshape(places.limbs, *shape), off)


def _kernel_digits(parts: Sequence[np.ndarray], count: int) -> tuple[dict[int, np.ndarray], float]:
    """A kernel's limbs that are not zero everywhere, by place, and how far off the worst entry is."""
    places = Places(0, count)
    found, rest = zip(*(digits(part, places) for part in parts), strict=True)
    total = found[0] if len(found) == 1 else np.asarray(normal(jnp.asarray(sum(found))))
    if np.abs(total[0]).max() > LARGEST_LIMB:
        raise OutOfPlacesError("a weight of 2^19 or more")
    limbs = {k: limb for k, limb in enumerate(total) if np.any(limb)}
    return limbs or {count - 1: total[-1]}, sum(rest)


def _apply(form: Form, places: Places, operand: Fixed, arrays: Arrays) -> Fixed:
    window, count = form.window, places.limbs
    x, radius = (jnp.moveaxis(v, -2, 0) for v in (operand.limbs, operand.radius))
    fan_in = math.prod(window.taps) * (len(x) // window.groups)
    pairs = min(count, max(len(form.positive), len(form.negative or ())))
    sides = [(x, form.positive, arrays.positive)]
    if form.negative is not None and arrays.negative is not None:
        up = jnp.moveaxis(signs(operand.limbs) > 0, -2, 0)[:, None]
        sides = [
            (jnp.where(up, x, 0.0), form.positive, arrays.positive),
            (jnp.where(up, 0.0, x), form.negative, arrays.negative),
        ]
    sums, block_tops = zip(*(_sums(window, *side, count) for side in sides), strict=True)
    limbs = carried(functools.reduce(jnp.add, sums), count)
    largest = jnp.max(jnp.abs(signs(operand.limbs))) * (2.0 ** (BITS * places.head) * ABOVE) + jnp.max(operand.radius)
    lost = dropped(fan_in * len(sides), pairs) * places.unit + fan_in * largest * arrays.rest
    radius = _contracted(radius, arrays.magnitude, window) * ABOVE + lost * ABOVE
    found = Fixed(limbs, radius, tops(limbs, operand.top, *block_tops))
    if arrays.scale is not None:
        found = times(found, arrays.scale, places)
    if arrays.shift is not None:
        found = plus(found, arrays.shift)
    return Fixed(jnp.moveaxis(found.limbs, 1, -2), jnp.moveaxis(found.radius, 0, -2), found.top)


apply_layer = program(_apply, 0, 1)
"""A layer's results: its form, the places, its input, its arrays."""


def times(value: Fixed, constants: Numbers, places: Places) -> Fixed:
    """Products with constants, whose limbs start at 2^0 and are one more than the value's."""
    count = places.limbs
    constant = jnp.asarray(constants.limbs)
    limbs = carried(convolved(value.limbs, lambda k: constant[k], 0, count), count)
    size = size_of(constants)
    largest = jnp.max(jnp.abs(signs(value.limbs)), -1, keepdims=True) * (2.0 ** (BITS * places.head) * ABOVE)
    lost = dropped(1, count) * places.unit
    radius = (size * value.radius + largest * constants.off + lost) * ABOVE
    return Fixed(limbs, radius, tops(limbs, value.top))


def beside(constants: Numbers, limbs: Any) -> Any:
    """The constants' limbs, of as many axes as a number's."""
    own = jnp.asarray(constants.limbs)
    return own.reshape(len(own), *(1,) * (limbs.ndim - own.ndim), *own.shape[1:])


def size_of(constants: Numbers) -> Any:
    """No constant is larger, of magnitudes; its limbs start at 2^0."""
    return jnp.abs(signs(jnp.asarray(constants.limbs))) * ABOVE + constants.off


def plus(value: Fixed, constants: Numbers) -> Fixed:
    """Sums with constants of the value's own places."""
    limbs = normal(value.limbs + beside(constants, value.limbs))
    return Fixed(limbs, (value.radius + constants.off) * ABOVE, tops(limbs, value.top))


def _sums(window: e.Window, x: Any, keys: Sequence[int], kernels: Sequence[Any], count: int) -> tuple[Any, Any]:
    """Sums by significance of what one kernel makes of limbs `(C, places, spatial..., batch)`, and a top to heed."""
    wide = _wide(window, len(keys))
    step = -(-len(x) // len(kernels))
    blocks = []
    for block, kernel in enumerate(kernels):
        out = e.contract([(x[block * step : (block + 1) * step], kernel)], wide)
        out = out.reshape(window.groups, len(keys), -1, *out.shape[1:])
        out = jnp.moveaxis(out, 1, 0).reshape(len(keys), window.features, *out.shape[3:])
        found = collected(zip(keys, jnp.moveaxis(out, 2, 1), strict=True), count)
        blocks.append(carried(found, count + 1) if len(kernels) > 1 else found)
    # Only blocks whose first limbs are small add up without rounding.
    top = jnp.max(jnp.stack([tops(block) for block in blocks])) if len(blocks) > 1 else jnp.zeros(())
    return functools.reduce(jnp.add, blocks), top


def _wide(window: e.Window, limbs: int) -> e.Window:
    """The window with a kernel's limbs side by side, and the places as one more spatial axis, with a single tap."""
    geometry = (1, *window.taps), (1, *window.stride), ((0, 0), *window.padding), (1, *window.dilation)
    return e.Window(window.features * limbs, *geometry, window.groups)


def _contracted(radius: Any, kernels: Sequence[Any], window: e.Window) -> Any:
    step = -(-len(radius) // len(kernels))
    parts = [
        e.contract([(radius[block * step : (block + 1) * step], kernel)], window)
        for block, kernel in enumerate(kernels)
    ]
    return sum(parts[1:], parts[0])
