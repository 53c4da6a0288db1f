"""How far apart two networks are at points, from evaluations of both of them that are as exact as it takes.

At a point a network is a number to compute. Intervals in float64 lose what the network's depth amplifies: their width
grows with the product of the layers' absolute row sums, 2^68 in a ResNet of 20 layers. Fixed point with a radius
grows alike, and starts as low as it must.

    |g(x) - f(x)| = |mid_g - mid_f| +- (radius_f + radius_g)

Nodes that have no exact result (exponentials, roots) are left to the interval engine, which takes over from the
numbers that they read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.activations import activations
from slth_compile.certificate.difference import Difference, LayerErrors, layer_arrays
from slth_compile.certificate.fixed_point.layers import (
    Arrays,
    ExactLayer,
    Form,
    OutOfPlacesError,
    apply_layer,
    prepared,
)
from slth_compile.certificate.fixed_point.limbs import (
    ABOVE,
    BITS,
    LARGEST_LIMB,
    Fixed,
    Places,
    entered,
    normal,
    program,
    whole,
)
from slth_compile.certificate.fixed_point.operations import SUPPORTED, apply_operation, constants_of
from slth_compile.certificate.growth import growth
from slth_compile.certificate.propagate import Operation, Pair, propagate_from
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

CLOSENESS = 2.0**-24
"""How small the radius is to be, of the largest difference."""

_EQUAL = 2.0**-60
# Of the outputs: what stands for a difference of zero.

MOST_PLACES, MOST_HEADS = 32, 4
CHUNK_BYTES = 2**23
THREADS = 2


class Exact(NamedTuple):
    """Both networks' layers, by node position in the folded graph."""

    f: Mapping[int, ExactLayer]
    g: Mapping[int, ExactLayer]


def is_exact_at(graph: Graph) -> tuple[bool, ...]:
    """Which nodes are evaluated in fixed point."""
    found = [True]
    for node in graph.nodes[1:]:
        fits = isinstance(node, (n.Convolution, n.Dense, *SUPPORTED))
        # Scalars have no axis for constants.
        found.append(bool(fits and graph.shapes[len(found)] and all(found[i] for i in node.inputs)))
    return tuple(found)


def enclose_points(
    graph: Graph, exact: Exact, errors: Mapping[int, LayerErrors], x: np.ndarray, progress: Progress = silent
) -> tuple[Difference, ...]:
    """Enclosures of `g - f` at every point.

    Args:
        graph: The folded `f`, for its structure.
        exact: The layers of both.
        errors: For layers past the last exact one, by node position.
        x: The points, float64, `(points, *input_shape)`.
        progress: Called as points are done.

    Returns:
        One `Difference` an output leaf, its fields of shape `(points, *output_shape)`.

    Raises:
        OutOfPlacesError: Weights or activations that limbs cannot hold.
    """
    used = _used(graph)
    with jax.enable_x64(True):
        places = _first_guess(graph, exact, x[:1])
        while places.head <= MOST_HEADS and places.limbs <= MOST_PLACES:
            networks = _Networks.of(graph, exact, errors, places)
            # As many points as will be taken at a time: programs are compiled once.
            some = np.linspace(0, len(x) - 1, _points_at_once(networks, len(x))).astype(np.int64)
            found, top = _chunk(networks, used, x[some])
            if not top <= LARGEST_LIMB:
                places = Places(places.head + 1, places.limbs + 1)
            elif more := _missing(found):
                places = places._replace(limbs=places.limbs + more)
            elif len(some) == len(x):
                progress("certify", len(x), len(x))
                return _joined([found], len(x))
            else:
                return _everywhere(networks, used, x, progress)
    raise OutOfPlacesError("more places than are worth it")


class _Networks(NamedTuple):
    """Both networks as their programs take them."""

    graph: Graph
    places: Places
    layers: tuple[dict[int, tuple[Form, Arrays]], dict[int, tuple[Form, Arrays]]]
    constants: dict[int, Any]
    errors: Mapping[int, LayerErrors]

    @classmethod
    def of(cls, graph: Graph, exact: Exact, errors: Mapping[int, LayerErrors], places: Places) -> _Networks:
        at = is_exact_at(graph)
        inside = [(i, node, graph.shapes[node.inputs[0]]) for i, node in enumerate(graph.nodes) if i and at[i]]
        constants = {
            i: jax.device_put(constants_of(node, shape, places))
            for i, node, shape in inside
            if not isinstance(node, n.Convolution | n.Dense)
        }

        weighted = [(i, node, len(shape)) for i, node, shape in inside if isinstance(node, n.Convolution | n.Dense)]

        def layer(node: n.Weighted, own: ExactLayer, rank: int) -> tuple[Form, Arrays]:
            form, arrays = prepared(node, own, places, rank)
            with jax.enable_x64(True):
                return form, jax.device_put(arrays)

        with ThreadPoolExecutor(THREADS) as pool:
            tasks = [{i: pool.submit(layer, node, side[i], rank) for i, node, rank in weighted} for side in exact]
        f, g = ({i: task.result() for i, task in side.items()} for side in tasks)
        return cls(graph, places, (f, g), constants, errors)


def _used(graph: Graph) -> dict[int, int]:
    """The last node that reads each node; outputs and what intervals take over are kept to the end."""
    at = is_exact_at(graph)
    last = {i: position for position, node in enumerate(graph.nodes) for i in node.inputs}
    return last | dict.fromkeys(_handed_over(graph, at), len(graph.nodes))


def _handed_over(graph: Graph, at: tuple[bool, ...]) -> set[int]:
    """Exact nodes that are outputs, or that a node without an exact result reads."""
    read = {j for i, node in enumerate(graph.nodes) if not at[i] for j in node.inputs if at[j]}
    return read | {i for i in graph.outputs if at[i]}


def _chunk(networks: _Networks, used: Mapping[int, int], x: np.ndarray) -> tuple[list[list[np.ndarray]], float]:
    """`(d lower, d upper, f lower, f upper)` of every output leaf, and the largest first limb met on the way."""
    graph, places, at = networks.graph, networks.places, is_exact_at(networks.graph)
    entry = entered(x, places)
    values: dict[int, tuple[Fixed, Fixed]] = {0: (entry, entry)}
    for position, node in enumerate(graph.nodes[1:], 1):
        if not at[position]:
            continue
        operands = [values[i] for i in node.inputs]
        if isinstance(node, n.Convolution | n.Dense):
            forms = [side[position] for side in networks.layers]
            found = _side_by_side(forms, operands[0], places)
        else:
            operation, constants = Operation(node), networks.constants[position]
            found = [apply_operation(operation, places, side, constants) for side in zip(*operands, strict=True)]
        values[position] = found[0], found[1]
        for i in {*node.inputs}:
            if used[i] == position:
                del values[i]
    top = float(np.max([float(v.top) for i in _handed_over(graph, at) for v in values[i]]))
    known = {i: _pair(*values[i], places) for i in _handed_over(graph, at)}
    layers = {i: jax.device_put(layer_arrays(graph.nodes[i], networks.errors[i])) for i in graph.layers if not at[i]}
    leaves = propagate_from(graph, layers.__getitem__, known, {i for i, exact in enumerate(at) if exact})
    return [[np.asarray(end) for end in leaf] for leaf in leaves], top


def _side_by_side(forms: Sequence[tuple[Form, Arrays]], operands: tuple[Fixed, Fixed], places: Places) -> list[Fixed]:
    """A layer of both networks at once: their programs differ, and each takes about a second to compile."""

    def side(own: tuple[Form, Arrays], operand: Fixed) -> Fixed:
        form, arrays = own
        with jax.enable_x64(True):
            return apply_layer(form, places, operand, arrays)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(side, forms, operands))


def _enclosed(f: Fixed, g: Fixed, places: Places) -> Pair:
    def ends(middle: Any, radius: Any) -> e.Interval:
        reach = (jnp.abs(middle) * 2.0**-48 + radius) * ABOVE
        return e.Interval(middle - reach, middle + reach)

    d = whole(normal(g.limbs - f.limbs), places)
    return Pair(ends(whole(f.limbs, places), f.radius), ends(d, f.radius + g.radius))


_pair = program(_enclosed, 2)


def _everywhere(
    networks: _Networks, used: Mapping[int, int], x: np.ndarray, progress: Progress
) -> tuple[Difference, ...]:
    size = _points_at_once(networks, len(x))
    done = 0

    def chunk(start: int) -> list[list[np.ndarray]]:
        nonlocal done
        rows = np.minimum(np.arange(start, start + size), len(x) - 1)
        with jax.enable_x64(True):
            found, top = _chunk(networks, used, x[rows])
        if not top <= LARGEST_LIMB:
            raise OutOfPlacesError("activations that differ too much between points")
        done += size
        progress("certify", min(done, len(x)), len(x))
        return found

    # The first chunk alone, so that nothing is compiled twice.
    chunks = [chunk(0)]
    with ThreadPoolExecutor(THREADS) as pool:
        chunks += pool.map(chunk, range(size, len(x), size))
    return _joined(chunks, len(x))


def _joined(chunks: list[list[list[np.ndarray]]], points: int) -> tuple[Difference, ...]:
    """One `Difference` an output leaf, of what was found chunk by chunk."""
    leaves = zip(*chunks, strict=True)
    return tuple(Difference(*(np.concatenate(ends)[:points] for ends in zip(*leaf, strict=True))) for leaf in leaves)


def _points_at_once(networks: _Networks, points: int) -> int:
    """How many points keep the largest layer's patches within `CHUNK_BYTES`."""
    graph = networks.graph
    sizes = [math.prod(shape) for shape in graph.shapes]
    for i in graph.layers:
        node = graph.nodes[i]
        assert isinstance(node, n.Weighted)
        groups = node.groups if isinstance(node, n.Convolution) else 1
        sizes.append(math.prod(graph.shapes[i][:-1]) * math.prod(node.kernel.shape[:-1]) * groups)
    return min(points, max(1, CHUNK_BYTES // (8 * networks.places.limbs * max(sizes))))


def _first_guess(graph: Graph, exact: Exact, x: np.ndarray) -> Places:
    """Places that bring the radius about where it should be; the numbers themselves decide."""

    def outputs_of(side: Mapping[int, ExactLayer]) -> list[np.ndarray]:
        values = activations(graph, x, {i: _nearest(layer) for i, layer in side.items()})
        return [values[i] for i in graph.outputs]

    with ThreadPoolExecutor(THREADS) as pool:
        outputs = list(pool.map(outputs_of, exact))
    largest = max(float(np.abs(leaf).max()) for leaf in outputs[0])
    with np.errstate(invalid="ignore"):  # what is not finite is refused below
        apart = max(float(np.abs(a - b).max()) for a, b in zip(*outputs, strict=True))
    goal = CLOSENESS * max(apart, _EQUAL * largest, 2.0**-500)
    kernels = {i: np.asarray(_nearest(layer).positive) for i, layer in exact.f.items()}
    bits = growth(graph, kernels) - math.log2(goal)
    if not math.isfinite(bits):
        raise OutOfPlacesError("outputs that are not finite")
    return Places(0, max(3, 1 + math.ceil(bits / BITS)))


def _nearest(layer: ExactLayer) -> LayerWeights:
    scale, shift = (None if v is None else v.nearest() for v in (layer.scale, layer.shift))

    def kernel(parts: tuple[np.ndarray, ...]) -> np.ndarray:
        return functools.reduce(np.add, parts) * (1.0 if scale is None else scale)

    return LayerWeights(kernel(layer.positive), None if layer.negative is None else kernel(layer.negative), shift)


def _missing(found: list[list[np.ndarray]]) -> int:
    """How many more limbs bring the radius where it should be."""
    widths = max(float((upper - lower).max()) / 2 for lower, upper, _, _ in found)
    middles = max(float(np.abs(lower / 2 + upper / 2).max()) for lower, upper, _, _ in found)
    outputs = max(float(np.abs(leaf).max()) for *_, low, high in found for leaf in (low, high))
    goal = CLOSENESS * max(middles, _EQUAL * outputs, 2.0**-500)
    if not math.isfinite(widths / goal):
        raise OutOfPlacesError("outputs that are not finite")
    return 0 if widths <= goal else max(1, math.ceil(math.log2(widths / goal) / BITS))
