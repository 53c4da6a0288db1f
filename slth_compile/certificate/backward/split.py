"""Activations at which rows of a pass know the sign of some elements: lines of the interval cut at zero in their place.

With `y >= 0` known, an element's lines and planes are those of `y in [0, yu]`; with `y <= 0`, of `[yl, 0]`. What a row
finds is then true where the signs are as it takes them, and the largest of all patterns is true everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward import noise as noises
from slth_compile.certificate.backward.lines import Lines, Planes, activation_lines, difference_planes
from slth_compile.certificate.backward.noise import Noise, magnitudes
from slth_compile.certificate.backward.places import At, places_of, spread
from slth_compile.certificate.backward.rewrite import Larger, maximum_before
from slth_compile.certificate.backward.steps import lines_on_device, noise_on_device, on_device, summed
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.propagate import Pair
from slth_compile.certificate.rounding import up
from slth_compile.graph import nodes as n

# Of the width: so far from either end zero is, for every way to round.
_CLEAR = 2.0**-30


class Cut(NamedTuple):
    """Lines, planes and noise of every element by its sign, each field stacked: `(fields, 2, elements, samples)`.

    The first side is `y >= 0`. Elements whose sign is known, or open, are alike; the former are of no use. Planes are
    None where the networks agree.
    """

    lines: Any
    planes: Any
    noise: Any


class Gaps(NamedTuple):
    """What a split may gain at an element for one unit of coefficient, zero where its sign is known."""

    d: Any
    x: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Bend:
    """An activation that rows may be split at.

    Attributes:
        node: Its position.
        pair: The pre-activation, as the lines around the activation were made from it.
        lines: These lines, on the device.
        noise: What rounding may add, on the device.
        places: Where each element is once the channels come first.
        units: The numbers of the elements, channels first, on the device.
        gaps: What splits may gain, on the device.
    """

    walk: Walk
    node: int
    pair: Pair
    lines: f.Pairs
    noise: f.Pairs
    places: np.ndarray
    units: Any
    gaps: Gaps

    @functools.cached_property
    def cut(self) -> Cut:
        """What takes the place of the lines where a row knows the sign."""
        (low, high), d = self.pair.x, self.pair.d
        is_open = (low < 0) & (high > 0)
        zero = np.zeros_like(low)
        sides = [e.Interval(np.where(is_open, zero, low), high), e.Interval(low, np.where(is_open, zero, high))]
        # Threads have NumPy's own settings.
        with np.errstate(all="ignore"):
            found = [_around(self.walk, self.node, Pair(y, d), self.pair) for y in sides]
        planes, lines, noise = zip(*found, strict=True)
        return Cut(_stacked(lines), None if d is None else _stacked(planes), _stacked(noise))

    def back(self, form: f.Form, place: Any, side: Any, at: At) -> Any:
        """A form's way to the operands, as `walk.Back`.

        Args:
            form: Of the activation.
            place: The elements that each row knows the sign of, channels first, `(K, rows)`; none where it is the
                number of all elements.
            side: 0 where `y >= 0`, 1 where `y <= 0`, likewise.
            at: Where the rows are, whole nodes in sight.
        """
        nodes = self.walk.both.net.nodes
        inputs = nodes[self.node].inputs
        if maximum_before(nodes, self.node) is not None:
            rest, first, value = parted(form, self.cut, (place, side), at)
            others, more = self.walk.back[self.node](rest, at)
            return [*others, (inputs[0], first)], value + more
        first, value = through_split(form, self.lines, self.noise, self.cut, (place, side), at)
        if len(inputs) == 1:
            return [(inputs[0], first)], value
        second = f.apart(form, first)
        return [(i, self.walk.kept(part, i)) for i, part in zip(inputs, (first, second), strict=True)], value


def _stacked(sides: Sequence[Any]) -> Any:
    """The fields of both sides in one array, as `Cut` has them."""
    flat = [[on_device(a).reshape(-1, a.shape[-1]) for a in side] for side in sides]
    return jnp.stack([jnp.stack(both) for both in zip(*flat, strict=True)])


def bend_of(walk: Walk, k: int, first: int) -> Bend:
    """The activation at node `k`, just passed by the walk, whose first element has the unit `first`."""
    node, shape = walk.both.net.nodes[k], walk.both.net.shapes[k]
    pair = walk.between[k] if isinstance(node, Larger) else walk.pairs[node.inputs[0]]
    moved, value, noise = _around(walk, k, pair, pair)
    places = places_of(shape)
    units = np.empty(places.size, np.int32)
    units[places] = first + np.arange(places.size)
    return Bend(
        walk,
        k,
        pair,
        lines_on_device(moved, value),
        noise_on_device(noise),
        places,
        jax.device_put(units),
        Gaps(*map(on_device, _gaps(pair))),
    )


def _around(walk: Walk, k: int, pair: Pair, whole: Pair) -> tuple[Planes | None, Lines, Noise]:
    """Planes, lines and noise at node `k` for a part of its pre-activation."""
    node = walk.both.net.nodes[k]
    slope = node.slope if isinstance(node, n.LeakyRelu) else 0.0
    (x, d), exact = pair, not isinstance(node, n.LeakyRelu)
    value, moved = activation_lines(x, slope), None if d is None else difference_planes(x, d, slope)
    noise = noises.activation_noise(moved, value, magnitudes(*whole), exact=exact)
    if isinstance(node, Larger):
        # The form of the second operand is a difference of two coefficients.
        more = noises.sum_noise(summed(walk, k), 2)
        noise = Noise(*(up(a + b) for a, b in zip(noise, more, strict=True)))
    return moved, value, noise


def _gaps(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """For `d` and `x`: half of the largest difference, and the height of the triangle around a relu."""
    (low, high), d = pair.x, pair.d
    with np.errstate(all="ignore"):
        is_open = np.minimum(-low, high) > _CLEAR * (high - low)
        height = np.where(is_open, -low * high / (high - low), 0.0)
    size = np.zeros_like(low) if d is None else np.maximum(abs(d.lower), abs(d.upper)) / 2
    return np.where(is_open, size, 0.0), np.nan_to_num(height, nan=0.0, posinf=0.0)


@functools.partial(jax.jit, static_argnums=0)
def leading(count: int, form: f.Form, gaps: Gaps, units: Any, before: tuple[Any, Any], at: At) -> tuple[Any, Any]:
    """The `count` largest scores of every row, and their units, `(rows, count)`; `before` has those found earlier.

    score = |A_x| height + |A_d| max(|dl|, |du|) / 2
    """
    parts = [abs(a) * spread(gap, at) for a, gap in zip(form, gaps, strict=True) if a is not None]
    score: Any = sum(parts[1:], parts[0])
    score = jnp.nan_to_num(score, nan=0.0, posinf=0.0).reshape(-1, score.shape[-1]).T
    values, places = lax.top_k(score, min(count, score.shape[1]))
    values, units = (jnp.concatenate(both, axis=1) for both in zip(before, (values, units[places]), strict=True))
    values, places = lax.top_k(values, count)
    return values, jnp.take_along_axis(units, places, axis=1)


@jax.jit
def through_split(
    form: f.Form, lines: f.Pairs, noise: f.Pairs, cut: Cut, known: tuple[Any, Any], at: At
) -> tuple[f.Form, Any]:
    """`forms.through_activation` with other lines for the elements whose signs a row knows.

    Args:
        form: Of the activation.
        lines: Of all elements.
        noise: Of all elements.
        cut: Of elements by their sign.
        known: Places and sides, as `Bend.back` takes them.
        at: Where the rows are, whole nodes in sight.
    """
    rest, own, more = parted(form, cut, known, at)
    plain, value = f.through_activation(rest, lines, noise, at)
    return f.Form(*(None if a is None else a + b for a, b in zip(plain, own, strict=True))), value + more


@jax.jit
def parted(form: f.Form, cut: Cut, known: tuple[Any, Any], at: At) -> tuple[f.Form, f.Form, Any]:
    """A form without the elements whose signs a row knows, and these through their lines; arguments as above.

    Returns:
        The rest, still of the activation; a form of its operand; and what that adds to the value.
    """
    place, side = known
    column = jnp.broadcast_to(jnp.arange(place.shape[1]), place.shape)
    owner = jnp.broadcast_to(at.sample if cut.lines.shape[-1] > 1 else jnp.zeros_like(at.sample), place.shape)
    shape = next(a.shape for a in form if a is not None)

    def of(fields: Any) -> Any:
        return fields.at[:, side, place, owner].get(mode="fill", fill_value=0.0)

    def flat(a: Any) -> Any:
        return a.reshape(-1, a.shape[-1])

    picked = f.Form(*(None if a is None else flat(a).at[place, column].get(mode="fill", fill_value=0.0) for a in form))
    rest = f.Form(
        *(None if a is None else flat(a).at[place, column].set(0.0, mode="drop").reshape(shape) for a in form)
    )
    size = f.Pairs(*of(cut.noise))
    around = f.Pairs(None if cut.planes is None else Planes(*of(cut.planes)), Lines(*of(cut.lines)))
    own, more = f.bent(picked, around, size)

    def put(a: Any) -> Any:
        zero = jnp.zeros((math.prod(shape[:-1]), shape[-1]))
        return None if a is None else zero.at[place, column].set(a, mode="drop").reshape(shape)

    return rest, f.Form(*map(put, own)), more
