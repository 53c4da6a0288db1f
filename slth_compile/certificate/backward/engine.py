"""The differential engine: forward enclosures, tightened node by node with backward passes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate import propagate as forward
from slth_compile.certificate import relaxations
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward import noise as noises
from slth_compile.certificate.backward.layers import PairLayer, geometry_of, kernels_of, pair_layer
from slth_compile.certificate.backward.lines import Lines, Planes, activation_lines, difference_planes, magnitude_lines
from slth_compile.certificate.backward.noise import Magnitudes, magnitudes
from slth_compile.certificate.backward.rewrite import Larger, Rewritten, Take, rewritten
from slth_compile.certificate.difference import Difference, LayerErrors, layer_arrays
from slth_compile.certificate.rounding import TINY, UNIT_ROUNDOFF, down, gamma, up, without_subnormals
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts
from slth_compile.graph.graph import Graph

CHUNK_BYTES = 2**26
THREADS = 2
# Charges for flushed results: `count * TINY * magnitude` summed over a network is far below it.
_FLUSHED = 2.0**-900
# Relative error of a sum of one number a step: gamma of more steps than there are.
_STEPS = 2.0**-40
SMALL = 20_000
"""Networks of fewer activations take many samples at a time."""


@dataclasses.dataclass
class _Node:
    """What is known of a node over the samples at hand: enclosures of the pair, on the host."""

    x: e.Interval
    d: e.Interval | None


class Bounder:
    """Both networks, ready for regions.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
    """

    def __init__(self, graph: Graph, errors: Mapping[int, LayerErrors], chunk_bytes: int = CHUNK_BYTES) -> None:
        self.net: Rewritten = rewritten(graph)
        self.pairs: dict[int, PairLayer] = {}
        self.forward: dict[int, forward.Layer] = {}
        self.kernels: dict[int, Any] = {}
        for i, origin in self.net.origin.items():
            self.pairs[i] = pair_layer(self.net.nodes[i], errors[origin])
            self.forward[i] = layer_arrays(self.net.nodes[i], errors[origin])
            with jax.enable_x64(True):
                self.kernels[i] = kernels_of(self.pairs[i])
        self.consumers = [0] * len(self.net.nodes)
        for node in self.net.nodes:
            for i in node.inputs:
                self.consumers[i] += 1
        self.largest = max(math.prod(shape) for shape in self.net.shapes)
        self.chunk = max(16, min(4096, 1 << int(math.log2(max(1, chunk_bytes // (16 * self.largest))))))
        self.activations = sum(math.prod(shape) for shape in self.net.shapes)

    def bound(self, lower: np.ndarray, upper: np.ndarray) -> list[list[np.ndarray]]:
        """`(d lower, d upper, x lower, x upper)` of every output leaf, `(regions, *output_shape)`."""
        size = 64 if self.activations <= SMALL else 1
        parts = []
        for start in range(0, len(lower), size):
            with jax.enable_x64(True), np.errstate(all="ignore"):
                parts.append(_Run(self, lower[start : start + size], upper[start : start + size]).outputs())
        return [[np.concatenate([part[leaf][k] for part in parts]) for k in range(4)] for leaf in range(len(parts[0]))]


def bound_difference_backward(
    graph: Graph, errors: Mapping[int, LayerErrors], lower: np.ndarray, upper: np.ndarray
) -> tuple[Difference, ...]:
    """Outward bounds on ticket minus target over every region, for real arithmetic and for float64 evaluation.

    Args:
        graph: The folded target.
        errors: Errors of every weighted layer, by node position.
        lower: Lower ends of the regions, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
    """
    lower, upper = without_subnormals(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
    return tuple(Difference(*leaf) for leaf in Bounder(graph, errors).bound(lower, upper))


class _Run:
    """The engine at work on some samples."""

    def __init__(self, bounder: Bounder, lower: np.ndarray, upper: np.ndarray) -> None:
        self.b, self.net = bounder, bounder.net
        self.samples = len(lower)
        x = e.Interval(np.moveaxis(lower, 0, -1), np.moveaxis(upper, 0, -1))
        self.nodes: list[_Node] = [_Node(x, None)]
        self.steps: dict[int, Any] = {}
        self.reaches: dict[int, f.Reach] = {}
        self.first = {0}
        self.between: dict[int, _Node] = {}
        for k in range(1, len(self.net.nodes)):
            self._enter(k)

    def outputs(self) -> list[list[np.ndarray]]:
        found = []
        for i in self.net.outputs:
            node = self.nodes[i]
            d = node.x.each(np.zeros_like) if node.d is None else node.d
            found.append([np.moveaxis(end, -1, 0) for end in (*d, *node.x)])
        return found

    # Forward.

    def _enter(self, k: int) -> None:
        node = self.net.nodes[k]
        operands = [forward.Pair(self.nodes[i].x, self.nodes[i].d) for i in node.inputs]
        if isinstance(node, Larger):
            self.between[k] = self._between(operands)
            self._tighten(k, self.between[k], f"larger")
        reads = self.nodes[node.inputs[0]]
        if isinstance(node, n.Relu | n.LeakyRelu):
            self._tighten(node.inputs[0], reads, "input")
            operands = [forward.Pair(reads.x, reads.d)]
        elif isinstance(node, n.Softmax | n.LogSoftmax):
            self._tighten(node.inputs[0], reads, "all")
            operands = [forward.Pair(reads.x, reads.d)]
        pair = self._image(k, node, operands)
        self.nodes.append(_Node(*pair))
        if all(i in self.first for i in node.inputs) and not isinstance(
            node, n.Convolution | n.Dense | Larger | n.Relu
        ):
            self.first.add(k)
        self.steps[k] = self._step(k, node)
        if k in self.net.outputs and not isinstance(node, n.Softmax | n.LogSoftmax):
            self._tighten(k, self.nodes[k], "all")

    def _image(self, k: int, node: n.Node, operands: Sequence[forward.Pair]) -> forward.Pair:
        match node:
            case n.Convolution() | n.Dense():
                return forward.weighted(forward.window_of(node), operands[0], self.b.forward[k])
            case n.Affine():
                return forward.scaled(operands[0], *forward.affine_ends(node))
            case Take():
                return forward.Pair(*(None if v is None else v.each(lambda a: _taken(a, node)) for v in operands[0]))
            case Larger():
                return self._larger(k, operands)
            case _:
                return forward.unweighted(forward.Operation(node), operands)

    def _between(self, operands: Sequence[forward.Pair]) -> _Node:
        """`a - b` of the two operands of a maximum."""
        a, b = operands
        x = e.added(a.x, e.Interval(-b.x.upper, -b.x.lower))
        if a.d is None or b.d is None:
            return _Node(x, None)
        return _Node(x, e.added(a.d, e.Interval(-b.d.upper, -b.d.lower)))

    def _larger(self, k: int, operands: Sequence[forward.Pair]) -> forward.Pair:
        a, b = operands
        y = self.between[k]
        rest = e.added(e.nonnegative_part(y.x), b.x)
        if a.d is None or b.d is None or y.d is None:
            image, _ = relaxations.maximum_image([a.x, b.x], None, None)
            return forward.Pair(_met(image, rest), None)
        image, moved = relaxations.maximum_image([a.x, b.x], [a.d, b.d], [e.added(a.x, a.d), e.added(b.x, b.d)])
        assert moved is not None
        other = e.added(relaxations.activation_difference(y.x, y.d), b.d)
        return forward.Pair(_met(image, rest), _met(moved, other))

    # What a node does to forms.

    def _step(self, k: int, node: n.Node) -> Any:
        """A function `(form, sample) -> ([(operand, form)], value)`."""
        reads = self.nodes[node.inputs[0]]
        operand, size = node.inputs[0], magnitudes(reads.x, reads.d)
        moves = reads.d is not None
        match node:
            case n.Convolution() | n.Dense():
                return self._layer_step(k, node, reads, size)
            case n.Relu() | n.LeakyRelu():
                slope = node.slope if isinstance(node, n.LeakyRelu) else 0.0
                lines_x = activation_lines(reads.x, slope)
                lines_d = difference_planes(reads.x, reads.d, slope) if reads.d is not None else None
                noise = noises.activation_noise(lines_d, lines_x, size, exact=slope == 0.0)
                lines, noise = _lines_up(lines_d, lines_x), _up(noise)
                return lambda form, sample: _single(operand, f.through_activation(form, lines, noise, sample))
            case Larger():
                return self._larger_step(k, node)
            case n.Affine():
                scale = np.asarray(1.0 if node.scale is None else node.scale, np.float64)
                shift = np.asarray(0.0 if node.shift is None else node.shift, np.float64)
                columns = [v if v.ndim == 0 else v[:, None] for v in (scale, shift)]
                noise = _up(noises.scale_noise(*columns, size))
                scale, shift = jnp.asarray(scale), jnp.asarray(shift)
                return lambda form, sample: _single(operand, f.through_scale(form, scale, shift, noise, sample))
            case n.Add():
                noise = _up(noises.sum_noise(self._sizes(k), 2))
                first, second = node.inputs

                def add(form: f.Form, sample: Any) -> Any:
                    value = _charge(form, noise, sample)
                    return [(i, self._where(form, i)) for i in (first, second)], value

                return add
            case n.Concatenate():
                sizes = [self.net.shapes[i][node.axis] for i in node.inputs]
                axis = _front_axis(node.axis, len(self.net.shapes[k]))

                def split(form: f.Form, sample: Any) -> Any:
                    ends = np.cumsum([0, *sizes])
                    parts = []
                    for i, (low, high) in zip(node.inputs, zip(ends[:-1], ends[1:]), strict=True):
                        cut = f.Form(
                            *(None if a is None else jax.lax.slice_in_dim(a, low, high, axis=axis) for a in form)
                        )
                        parts.append((i, self._where(cut, i)))
                    return parts, 0.0

                return split
            case _:
                linear, terms = _linear(node, self.net.shapes[operand])
                noise = None
                if terms > 1:
                    pairs = (
                        forward.unweighted(forward.Operation(node), [_pair_of(size)])
                        if not isinstance(node, Take)
                        else None
                    )
                    own = (
                        self._sizes(k)
                        if pairs is None
                        else Magnitudes(pairs.d.upper, pairs.x.upper, up(pairs.d.upper + pairs.x.upper))
                    )
                    noise = _up(noises.sum_noise(own, terms))
                return lambda form, sample: _single(operand, f.through_linear(linear, form, noise, sample))

    def _sizes(self, k: int) -> Magnitudes:
        node = self.nodes[k]
        own = magnitudes(node.x, node.d)
        parts = [magnitudes(self.nodes[i].x, self.nodes[i].d) for i in self.net.nodes[k].inputs]
        if len(parts) == 2 and parts[0].x.shape == own.x.shape == parts[1].x.shape:
            return Magnitudes(*(up(up(a + b) + c) for a, b, c in zip(*parts, own, strict=True)))
        return own

    def _where(self, form: f.Form, i: int) -> f.Form:
        """The form without coefficients of a difference that is zero."""
        return f.Form(None, form.x) if self.nodes[i].d is None else form

    def _layer_step(self, k: int, node: n.Weighted, reads: _Node, size: Magnitudes) -> Any:
        layer, operand = self.b.pairs[k], node.inputs[0]
        geometry = geometry_of(node, self.net.shapes[operand])
        noise = _up(noises.layer_noise(layer, size, reads.d is not None, math.prod(self.net.shapes[k])))
        magnitude = None
        if layer.half is not None:
            z = reads.x if reads.d is None else e.added(reads.x, reads.d)
            lines = magnitude_lines(z)
            magnitude = Lines(*map(_device, lines)), _device(noises.line_noise(lines, size.z))
        kernels, moves = self.b.kernels[k], reads.d is not None

        def through(form: f.Form, sample: Any) -> Any:
            return _single(operand, f.through_layer(geometry, form, kernels, noise, magnitude, moves, sample))

        return through

    def _larger_step(self, k: int, node: Larger) -> Any:
        y = self.between[k]
        lines_x = activation_lines(y.x)
        lines_d = None if y.d is None else difference_planes(y.x, y.d)
        first, second = node.inputs
        noise = noises.activation_noise(lines_d, lines_x, magnitudes(y.x, y.d), exact=True)
        # The second form is a difference of two coefficients.
        extra = noises.sum_noise(self._sizes(k), 2)
        noise = _up(noises.Noise(*(up(a + b) for a, b in zip(noise, extra, strict=True))))
        lines = _lines_up(lines_d, lines_x)

        def through(form: f.Form, sample: Any) -> Any:
            a, b, value = f.through_larger(form, lines, noise, sample)
            return [(first, self._where(a, first)), (second, self._where(b, second))], value

        return through

    # Backward.

    def _tighten(self, k: int, node: _Node, what: str) -> None:
        """Improves the enclosures of a node, or of the difference of a maximum's operands."""
        if what == "input" and self._is_exact(k):
            return
        size = math.prod(self.net.shapes[k])
        x, d = node.x, node.d
        chosen = np.ones(x.lower.shape, bool) if what == "all" else (x.lower < 0) & (x.upper > 0)
        x = self._improved(k, what, x, chosen, difference=False)
        if d is not None:
            on = (x.lower >= 0) & (down(x.lower + d.lower) >= 0)
            off = (x.upper <= 0) & (up(x.upper + d.upper) <= 0)
            chosen = np.ones(x.lower.shape, bool) if what == "all" else ~on & ~off & (d.lower < d.upper)
            d = self._improved(k, what, d, chosen, difference=True)
        node.x, node.d = x, d
        del size
        if what != "larger":
            self.reaches.pop(k, None)

    def _is_exact(self, k: int) -> bool:
        node = self.net.nodes[k]
        return k in self.first or (isinstance(node, n.Convolution | n.Dense) and node.inputs[0] in self.first)

    def _improved(self, k: int, what: str, known: e.Interval, chosen: np.ndarray, *, difference: bool) -> e.Interval:
        found = np.nonzero(chosen.reshape(-1, self.samples))
        if not len(found[0]):
            return known
        elements, samples = found
        shape = self.net.shapes[k]
        # Rows: every element twice, above and below.
        rows = np.concatenate([elements, elements]), np.concatenate([samples, samples])
        signs = np.repeat([1.0, -1.0], len(elements))
        values = self._passes(k, what, rows[0], rows[1], signs, difference)
        lower, upper = (np.array(v).reshape(-1, self.samples) for v in known)
        high, low = values[: len(elements)], -values[len(elements) :]
        upper[found] = np.minimum(upper[found], high)
        lower[found] = np.maximum(lower[found], low)
        return e.Interval(lower.reshape(*shape, -1), upper.reshape(*shape, -1))

    def _passes(self, k, what, elements, samples, signs, difference) -> np.ndarray:
        shape = self.net.shapes[k]
        # In the order of `front`.
        order = np.arange(math.prod(shape)).reshape(shape)
        order = np.moveaxis(order, -1, 0) if len(shape) > 1 else order
        places = np.empty(math.prod(shape), np.int64)
        places[order.reshape(-1)] = np.arange(math.prod(shape))
        elements = places[elements].astype(np.int32)
        chunk = self.b.chunk
        small = max(16, chunk // 8)
        starts = []
        at = 0
        while at < len(elements):
            size = chunk if len(elements) - at > 2 * small else small
            starts.append((at, size))
            at += size

        def one(job: tuple[int, int]) -> np.ndarray:
            start, size = job
            rows = np.minimum(np.arange(start, start + size), len(elements) - 1)
            with jax.enable_x64(True):
                found = self._pass(k, what, elements[rows], samples[rows].astype(np.int32), signs[rows], difference)
                return np.asarray(found)[: min(size, len(elements) - start)]

        if len(starts) == 1:
            return one(starts[0])
        results = [one(starts[0])]
        with ThreadPoolExecutor(THREADS) as pool:
            results += pool.map(one, starts[1:])
        return np.concatenate(results)

    def _pass(self, k: int, what: str, elements, samples, signs, difference: bool) -> Any:
        """Upper bounds of `sign * (d or x of an element)`, one a row."""
        shape = self.net.shapes[k]
        sample = jnp.asarray(samples)
        flat = f.one_hot(math.prod(shape), jnp.asarray(elements), jnp.asarray(signs))
        a = flat.reshape(*shape[-1:], *shape[:-1], len(samples))
        forms: dict[int, f.Form] = {}
        form = f.Form(a, None) if difference else f.Form(None, a)
        if what == "larger":
            first, second = self.net.nodes[k].inputs
            minus = f.Form(*(None if v is None else -v for v in form))
            constant = spread = jnp.zeros(len(samples))
            forms[first] = form
            if second == first:
                forms[first] = f.merged(form, minus, self._merging(first), sample)[0]
            else:
                forms[second] = minus
        else:
            forms[k] = form
            constant = spread = jnp.zeros(len(samples))
        best = jnp.full(len(samples), jnp.inf)
        for m in range(max(forms), -1, -1):
            if m not in forms:
                continue
            node = self.net.nodes[m]
            if m == 0 or isinstance(node, n.Relu | n.LeakyRelu | Larger):
                best = jnp.minimum(best, self._concretised(forms, constant, spread, sample))
            if m == 0:
                break
            operands, value = self.steps[m](forms.pop(m), sample)
            constant, spread = constant + value, spread + abs(value)
            for i, form in operands:
                if form.d is None and form.x is None:
                    continue
                if i in forms:
                    forms[i], value = f.merged(forms[i], form, self._merging(i), sample)
                    constant, spread = constant + value, spread + abs(value)
                else:
                    forms[i] = form
        if not forms:
            best = jnp.minimum(best, self._concretised({}, constant, spread, sample))
        return best

    def _concretised(self, forms, constant, spread, sample) -> Any:
        for i, form in forms.items():
            value = f.reached(form, self._reach(i), sample)
            constant, spread = constant + value, spread + abs(value)
        return up(constant + spread * _STEPS) + _FLUSHED

    def _reach(self, i: int) -> f.Reach:
        if i not in self.reaches:
            node = self.nodes[i]
            count = gamma(2 * math.prod(self.net.shapes[i]) + 32)

            def box(v: e.Interval | None) -> Any:
                if v is None:
                    return None
                centre, radius = e.centred(v)
                return _device(centre), _device(up(up(radius + count * (abs(centre) + radius)) * noises.SPARE))

            self.reaches[i] = f.Reach(box(node.d), box(node.x))
        return self.reaches[i]

    def _merging(self, i: int) -> f.Pairs:
        node = self.nodes[i]
        size = magnitudes(node.x, node.d)
        return f.Pairs(_device(size.d * (4 * UNIT_ROUNDOFF)), _device(size.x * (4 * UNIT_ROUNDOFF)))


def _device(array: np.ndarray) -> Any:
    return jnp.asarray(f.front(np.ascontiguousarray(array)))


def _up(noise: noises.Noise) -> f.Pairs:
    return f.Pairs(*map(_device, noise))


def _lines_up(d: Lines | None, x: Lines) -> f.Pairs:
    return f.Pairs(None if d is None else Planes(*map(_device, d)), Lines(*map(_device, x)))


def _single(operand: int, found: tuple[f.Form, Any]) -> Any:
    form, value = found
    return [(operand, form)], value


@jax.jit
def _charge(form: f.Form, noise: f.Pairs, sample: Any) -> Any:
    return f.charged(form, noise, sample)


def _met(a: e.Interval, b: e.Interval) -> e.Interval:
    return e.Interval(np.maximum(a.lower, b.lower), np.minimum(a.upper, b.upper))


def _taken(values: Any, node: Take) -> Any:
    for axis, indices in enumerate(node.indices):
        if indices is not None:
            values = values[(slice(None),) * axis + (np.asarray(indices),)]
    return values


def _front_axis(axis: int, rank: int) -> int:
    return 0 if axis == rank - 1 else axis + 1


def _pair_of(m: Magnitudes) -> forward.Pair:
    return forward.Pair(e.Interval(m.x, m.x), e.Interval(m.d, m.d))


def _linear(node: n.Node, shape: tuple[int, ...]) -> tuple[f.Linear, int]:
    """The node as a linear map of channel-last arrays with one trailing axis, and how many terms it adds up."""
    operation = forward.Operation(node)
    match node:
        case Take():
            repeats = math.prod(max(np.bincount(i)) for i in node.indices if i is not None)
            return f.Linear(operation, functools.partial(_taken_by_steps, node=node), shape), int(repeats)
        case n.AveragePool():
            window, counts = forward.window_of(node), pool_counts(node, shape)[..., None]

            def pool(v: Any) -> Any:
                parts = e.slices(v, window)
                return sum(parts[1:], parts[0]) * jnp.asarray(1.0 / counts)

            return f.Linear(operation, pool, shape), 2 * math.prod(node.window)
        case n.Mean():
            axes, terms = node.axes, math.prod(shape[a] for a in node.axes)
            return f.Linear(operation, lambda v: v.sum(axes) * (1.0 / terms), shape), 2 * terms
        case _:
            return f.Linear(operation, lambda v: forward.rearranged(node, v), shape), 1


def _taken_by_steps(values: Any, node: Take) -> Any:
    """Slices where the indices advance evenly: their transposes are pads, a gather's is a scatter."""
    for axis, indices in enumerate(node.indices):
        if indices is None:
            continue
        steps = set(np.diff(indices))
        if len(steps) <= 1 and (not steps or min(steps) > 0):
            step = int(steps.pop()) if steps else 1
            values = jax.lax.slice_in_dim(values, indices[0], indices[-1] + 1, step, axis)
        else:
            chosen = np.zeros((len(indices), values.shape[axis]))
            chosen[np.arange(len(indices)), indices] = 1
            values = jnp.moveaxis(jnp.tensordot(jnp.asarray(chosen, values.dtype), values, (1, axis)), 0, axis)
    return values
