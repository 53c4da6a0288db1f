"""How forms get from a node to its operands, given the enclosures around it."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate import lines as smooth
from slth_compile.certificate import propagate
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward import maxima
from slth_compile.certificate.backward import noise as noises
from slth_compile.certificate.backward.layers import fan_out, geometry_of
from slth_compile.certificate.backward.lines import (
    Lines,
    Planes,
    activation_lines,
    difference_planes,
    magnitude_lines,
)
from slth_compile.certificate.backward.noise import Magnitudes, Noise, magnitudes
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.backward.rewrite import Larger, Largest, Take, maximum_before
from slth_compile.certificate.backward.walk import ACTIVATIONS, STOPS, Back, Walk
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounded import Rounded, absolute_column, moved_by
from slth_compile.certificate.rounding import gamma, up
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts


def step_back(walk: Walk, k: int) -> Back:
    """How forms get from node `k`, whose own enclosure is known, to its operands."""
    node = walk.both.net.nodes[k]
    operands = [walk.pairs[i] for i in node.inputs]
    match node:
        case n.Convolution() | n.Dense():
            return _layer(walk, k, node)
        case Larger():
            return _larger(walk, k, node)
        case Largest():
            return _largest(walk, k, k)
        case Rounded():
            return _rounded(walk, node, operands[0])
        case n.Affine():
            return _affine(node, operands[0])
        case n.Add():
            return _add(walk, k, node)
        case n.Concatenate():
            return _concatenate(walk, k, node)
        case Take():
            return _take(walk, k, node)
        case n.Resample():
            return _resample(walk, k, node)
        case n.Relu() if (maximum := maximum_before(walk.both.net.nodes, k)) is not None:
            return _largest(walk, k, maximum)
        case _ if isinstance(node, ACTIVATIONS):
            return _activation(node, operands[0])
        case _ if isinstance(node, STOPS):
            return _stop(walk.pairs[k])
        case _:
            return _linear(walk, k, node)


def flushed_at(walk: Walk, k: int) -> Any:
    """What a row may lose between node `k` and its operands to results flushed to zero, `(samples,)`."""
    node = walk.both.net.nodes[k]
    inputs = node.inputs
    if (maximum := maximum_before(walk.both.net.nodes, k)) is not None:
        inputs = *inputs, *walk.both.net.nodes[maximum].inputs
    products = fan_out(node) if isinstance(node, n.Convolution | n.Dense) else math.prod(walk.both.net.shapes[k])
    return jax.device_put(noises.flushed([magnitudes(*walk.pairs[i]) for i in inputs], products))


def reach_of(pair: Pair) -> f.Reach:
    """The boxes of a node's pair, for `forms.reached`; radii cover the rounding of the sums that are taken there."""

    def box(v: e.Interval | None) -> Any:
        if v is None:
            return None
        error = gamma(2 * math.prod(v.lower.shape[:-1]) + 32)
        centre, radius = e.centred(v)
        return on_device(centre), on_device(up(up(radius + error * (abs(centre) + radius)) * noises.SPARE))

    return f.Reach(box(pair.d), box(pair.x))


def on_device(array: np.ndarray) -> Any:
    """The array with the channels in front, as forms have them."""
    return jax.device_put(f.front(np.ascontiguousarray(array)))


def noise_on_device(noise: Noise) -> f.Pairs:
    """The noise as `forms.charged` takes it."""
    return f.Pairs(*map(on_device, noise))


def _layer(walk: Walk, k: int, node: n.Weighted) -> Back:
    (operand,) = node.inputs
    layer, (x, d) = walk.both.pairs[k], walk.pairs[operand]
    kernels, moves, shapes = walk.both.kernels[k], d is not None, walk.both.net.shapes
    geometry, size = geometry_of(node, shapes[operand]), magnitudes(x, d)
    noise = noise_on_device(noises.layer_noise(layer, size, moves, math.prod(shapes[k])))
    magnitude = None
    if layer.half is not None:
        lines = magnitude_lines(x if d is None else e.added(x, d))
        magnitude = Lines(*map(on_device, lines)), on_device(noises.line_noise(lines, size.z))

    def back(form: f.Form, at: At) -> Any:
        return _one(operand, f.through_layer(geometry, form, kernels, noise, magnitude, moves, at))

    return back


def _activation(node: n.Node, operand: Pair) -> Back:
    (i,), (x, d) = node.inputs, operand
    if isinstance(node, n.Relu | n.LeakyRelu):
        slope = node.slope if isinstance(node, n.LeakyRelu) else 0.0
        value, moved = activation_lines(x, slope), None if d is None else difference_planes(x, d, slope)
    else:
        value, moved = _smooth(node, x, d)
    size = magnitudes(x, d)
    noise = noise_on_device(noises.activation_noise(moved, value, size, exact=isinstance(node, n.Relu)))
    lines = lines_on_device(moved, value)
    return lambda form, at: _one(i, f.through_activation(form, lines, noise, at))


def _smooth(node: Any, x: e.Interval, d: e.Interval | None) -> tuple[Lines, Planes | None]:
    value = Lines(*smooth.value_lines(node, x))
    if d is None:
        return value, None
    upper_slope, upper, lower_slope, lower = smooth.difference_lines(node, x, d)
    level = np.zeros_like(upper)
    return value, Planes(level, upper_slope, upper, level, lower_slope, lower)


def _larger(walk: Walk, k: int, node: Larger) -> Back:
    (first, second), (x, d) = node.inputs, walk.between[k]
    value, moved = activation_lines(x), None if d is None else difference_planes(x, d)
    bent = noises.activation_noise(moved, value, magnitudes(x, d), exact=True)
    # The second form is a difference of two coefficients.
    apart = noises.sum_noise(summed(walk, k), 2)
    noise = noise_on_device(Noise(*(up(a + b) for a, b in zip(bent, apart, strict=True))))
    lines = lines_on_device(moved, value)

    def back(form: f.Form, at: At) -> Any:
        a, b, value = f.through_larger(form, lines, noise, at)
        return [(first, walk.kept(a, first)), (second, walk.kept(b, second))], value

    return back


def _largest(walk: Walk, k: int, maximum: int) -> Back:
    """From the maximum, or from a relu at `k` behind it, to what it is taken of."""
    inputs = walk.both.net.nodes[maximum].inputs
    operands, top = [walk.pairs[i] for i in inputs], None
    if k != maximum:
        operands, top = maxima.with_zero(operands), walk.pairs[maximum]
    value, moved = maxima.planes_of(operands, walk.among[k], top)
    bent = noises.maximum_noise(moved, value, [magnitudes(*pair) for pair in operands])
    weighed = noises.sum_noise(summed(walk, maximum), 2)
    noise = noise_on_device(Noise(*(up(a + b) for a, b in zip(bent, weighed, strict=True))))
    planes = f.Pairs(*(None if v is None else _placed(v) for v in (moved, value)))

    def back(form: f.Form, at: At) -> Any:
        parts, constant = f.through_maximum(form, planes, noise, at)
        return [(i, walk.kept(part, i)) for i, part in zip(inputs, parts, strict=False)], constant

    return back


def _placed(planes: maxima.Planes) -> maxima.Planes:
    """The planes on the device, weights as one array an operand."""
    upper, lower = (tuple(map(on_device, weights)) for weights in (planes.upper, planes.lower))
    return maxima.Planes(upper, on_device(planes.upper_intercept), lower, on_device(planes.lower_intercept))


def _affine(node: n.Affine, operand: Pair) -> Back:
    (i,) = node.inputs
    scale = np.asarray(1.0 if node.scale is None else node.scale, np.float64)
    shift = np.asarray(0.0 if node.shift is None else node.shift, np.float64)
    columns = [v if v.ndim == 0 else v[:, None] for v in (scale, shift)]
    noise = noise_on_device(noises.scale_noise(columns[0], columns[1], magnitudes(*operand)))
    scale, shift = jax.device_put((scale, shift))
    return lambda form, at: _one(i, f.through_scale(form, scale, shift, noise, at))


def _rounded(walk: Walk, node: Rounded, operand: Pair) -> Back:
    """The form stays; what the rounding may add is charged."""
    (i,) = node.inputs
    x, d = moved_by(*operand, node.relative, absolute_column(node))
    noise = noise_on_device(Noise(d * noises.SPARE, x * noises.SPARE))
    return lambda form, at: ([(i, walk.kept(form, i))], f.cost(form, noise, at))


def _add(walk: Walk, k: int, node: n.Add) -> Back:
    noise = noise_on_device(noises.sum_noise(summed(walk, k), 2))
    return lambda form, at: ([(i, walk.kept(form, i)) for i in node.inputs], f.cost(form, noise, at))


def _concatenate(walk: Walk, k: int, node: n.Concatenate) -> Back:
    shapes = walk.both.net.shapes
    ends = np.cumsum([0, *(shapes[i][node.axis] for i in node.inputs)])
    axis = 0 if node.axis == len(shapes[k]) - 1 else node.axis + 1

    def back(form: f.Form, at: At) -> Any:
        parts = []
        for i, low, high in zip(node.inputs, ends[:-1], ends[1:], strict=True):
            cut = [None if a is None else jax.lax.slice_in_dim(a, low, high, axis=axis) for a in form]
            parts.append((i, walk.kept(f.Form(*cut), i)))
        return parts, 0.0

    return back


def _stop(pair: Pair) -> Back:
    """A node that no form passes: its enclosure takes its place."""
    reach = reach_of(pair)
    return lambda form, at: ([], f.reached(form, reach, at))


def _take(walk: Walk, k: int, node: Take) -> Back:
    """Elements go back to where they were taken from; matrices, so that all taps of a pool share a program."""
    (i,) = node.inputs
    matrices: list[Any] = []
    for axis, indices in enumerate(node.indices):
        chosen = None
        if indices is not None:
            chosen = np.zeros((walk.both.net.shapes[i][axis], len(indices)))
            chosen[np.asarray(indices), np.arange(len(indices))] = 1
        matrices.append(None if chosen is None else jax.device_put(chosen))
    # In the order of forms.
    placed = (*matrices[-1:], *matrices[:-1])
    repeats = math.prod(int(np.bincount(indices).max()) for indices in node.indices if indices is not None)
    noise = noise_on_device(noises.sum_noise(magnitudes(*walk.pairs[k]), repeats))
    return lambda form, at: _one(i, f.through_take(form, placed, noise, at))


def _resample(walk: Walk, k: int, node: n.Resample) -> Back:
    """The transposed matrix along the axis."""
    (i,) = node.inputs
    matrix = propagate.matrix_of(node)
    rank = len(walk.both.net.shapes[k])
    matrices = [jax.device_put(matrix.T) if axis == node.axis else None for axis in range(rank)]
    size = magnitudes(*walk.pairs[i])
    parts = Pair(*(e.Interval(m, m) for m in (size.x, size.d)))
    apart = propagate.resampled(node.axis, parts, abs(matrix))
    assert apart.d is not None
    sums = Magnitudes(apart.d.upper, apart.x.upper, up(apart.d.upper + apart.x.upper))
    noise = noise_on_device(noises.sum_noise(sums, max(matrix.shape)))
    placed = (*matrices[-1:], *matrices[:-1])  # in the order of forms
    return lambda form, at: _one(i, f.through_take(form, placed, noise, at))


def _linear(walk: Walk, k: int, node: n.Node) -> Back:
    (i,) = node.inputs
    linear, terms = _linear_map(node, walk.both.net.shapes[i])
    if isinstance(node, n.Slice):
        steps = node.stride[:-1]

        def back(form: f.Form, at: At) -> Any:
            found = f.through_linear(linear, form, None, at) if at.into is None else f.through_slice(steps, form, at)
            return _one(i, found)

        return back
    noise = None
    if terms > 1:
        size = magnitudes(*walk.pairs[i])
        parts = Pair(*(e.Interval(m, m) for m in (size.x, size.d)))
        apart = propagate.unweighted(propagate.Operation(node), [parts])
        assert apart.d is not None
        noise = noise_on_device(
            noises.sum_noise(Magnitudes(apart.d.upper, apart.x.upper, up(apart.d.upper + apart.x.upper)), terms)
        )
    return lambda form, at: _one(i, f.through_linear(linear, form, noise, at))


def _linear_map(node: n.Node, shape: tuple[int, ...]) -> tuple[f.Linear, int]:
    """The node as a map of arrays with one trailing axis, channels last, and how many terms its transpose adds up."""
    operation = propagate.Operation(node)
    match node:
        case n.AveragePool():
            window, counts = propagate.window_of(node), pool_counts(node, shape)[..., None]

            def pool(v: Any) -> Any:
                parts = e.slices(v, window)
                return sum(parts[1:], parts[0]) * jnp.asarray(1.0 / counts)

            return f.Linear(operation, pool, shape), 2 * math.prod(node.window)
        case n.Mean():
            axes, terms = node.axes, math.prod(shape[a] for a in node.axes)
            return f.Linear(operation, lambda v: v.sum(axes) * (1.0 / terms), shape), 2 * terms
        case _:
            return f.Linear(operation, lambda v: propagate.rearranged(node, v), shape), 1


def summed(walk: Walk, k: int) -> Magnitudes:
    """Magnitudes of all operands and of the result of node `k`, added up."""
    parts = [magnitudes(*walk.pairs[i]) for i in (*walk.both.net.nodes[k].inputs, k)]
    return Magnitudes(*(functools.reduce(lambda a, b: up(a + b), sizes) for sizes in zip(*parts, strict=True)))


def lines_on_device(d: Planes | None, x: Lines) -> f.Pairs:
    """The lines as `forms.through_activation` takes them."""
    return f.Pairs(None if d is None else Planes(*map(on_device, d)), Lines(*map(on_device, x)))


def _one(operand: int, found: tuple[f.Form, Any]) -> Any:
    form, value = found
    return [(operand, form)], value
