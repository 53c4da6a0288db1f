"""Backward passes: linear forms of a node's pair (x, d) carried to the input, and bounded at every stop on the way.

A form `A_d d + A_x x` of a node becomes forms of its operands plus a number: exactly through linear operations, through
lines at activations. Before each activation, and at the input, what the forms amount to over the enclosures of the
nodes they have reached is a bound; the least of them all is returned. At operations that no form passes, such as
products, the enclosure of the output takes the form's place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slth_compile.checker.arithmetic import Interval, gamma, up
from slth_compile.checker.balls import balls_of
from slth_compile.checker.bends import BENDS, ENDS, STOPS, activation_lines
from slth_compile.checker.combined import Around, Read
from slth_compile.checker.forms import (
    Form,
    Reach,
    add,
    crop,
    flat,
    full,
    highest,
    reach_of,
    relaxed,
    room,
    tilted,
    weighed,
    widened,
)
from slth_compile.checker.graph import Node
from slth_compile.checker.halves import Halves
from slth_compile.checker.lines import Lines, Planes, magnitude_lines
from slth_compile.checker.maxima import Pairs, Weighted, planes_of_maximum
from slth_compile.checker.noise import Noise
from slth_compile.checker.operations import State, shifted
from slth_compile.checker.transposed import transposed, transposed_layer

Past = Callable[[int, Form, dict[int, Form]], np.ndarray]
"""From a position and its form: adds forms of its operands, and returns what is left behind."""


Charge = tuple[np.ndarray, np.ndarray]


class Bent(NamedTuple):
    """Lines of an activation in y, planes over y and d, and what coefficients of its output cost; None for nothing."""

    lines: Lines
    planes: Planes | None
    charge: Charge | None


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A node of both networks over one region; its arrays have the node's shape.

    Attributes:
        node: The operation.
        halves: The layer's maps, where it is weighted.
        reach: Centre and radius of its output.
        charge: What coefficients of x and of d cost; None for nothing.
        flushed: What a row costs, whatever its coefficients.
        offset: What a coefficient of x and one of d add, biases and their like; None for nothing.
        lines: Of an activation in y, of a signed layer in z; None for nothing.
        planes: Of an activation over y and d; None where d is.
        weighted: Of a maximum of several nodes over their x and over their d; None for nothing.
        around: Of a relu behind such a maximum, the place from which forms go straight to what it is taken of.
        shapes: Of its operands.
        has_d: Whether the operands differ between both networks.
    """

    node: Node
    halves: Halves | None
    reach: Reach
    charge: Charge | None
    flushed: float
    offset: tuple[np.ndarray | None, np.ndarray | None]
    lines: Lines | None
    planes: Planes | None
    weighted: tuple[Weighted | None, Weighted | None]
    around: Place | None
    shapes: tuple[tuple[int, ...], ...]
    has_d: tuple[bool, ...]

    def reaching(self, state: State, around: Around) -> Place:
        """The same place with other enclosures of its output."""
        return dataclasses.replace(self, reach=_reach(state, around))


def place(
    node: Node,
    halves: Halves | None,
    operands: list[State],
    found: Read,
    noise: Noise,
    between: State | None = None,
    among: Pairs | None = None,
    around: Place | None = None,
) -> Place:
    """A node, ready for passes.

    Args:
        node: The operation.
        halves: The layer's maps, where it is weighted.
        operands: Enclosures of its operands, shape `(1, *shape)`.
        found: What is known of its output.
        noise: Its rounding.
        between: Enclosures of what an activation is applied to: its operand, or the difference of two.
        among: Of a maximum of several nodes, enclosures of the differences of every two.
        around: See `Place`.
    """
    charge = None
    if noise.charge is not None:
        charge_x, charge_d = (np.broadcast_to(part[0], node.shape) for part in noise.charge)
        charge = charge_x, charge_d
    lines = planes = x_offset = d_offset = None
    if between is not None:
        lines, planes, charge = bent(node, between, charge)
    elif halves is not None:
        x, d = operands[0]
        if halves.half is not None:
            lines = magnitude_lines(_only(x if d is None else shifted(x, d)))
        biases = (halves.pair.bias, halves.pair.bias_error)
        x_offset, d_offset = (None if b is None else np.broadcast_to(b[0], node.shape) for b in biases)
    elif node.op == "affine" and "shift" in node.arrays:
        x_offset = np.broadcast_to(node.arrays["shift"], node.shape)
    return Place(
        node=node,
        halves=halves,
        reach=_reach(*found),
        charge=None if charge is None else (room(charge[0]), room(charge[1])),
        flushed=noise.flushed,
        offset=(x_offset, d_offset),
        lines=lines,
        planes=planes,
        weighted=(None, None) if among is None else planes_of_maximum(operands, among),
        around=around,
        shapes=tuple(operand.x.lower.shape[1:] for operand in operands),
        has_d=tuple(operand.d is not None for operand in operands),
    )


def behind_maximum(maximum: Place, operands: list[State], top: State, noise: Noise, among: Pairs) -> Place:
    """A relu together with the maximum before it.

    Args:
        maximum: The maximum's place.
        operands: Enclosures of what it is taken of.
        top: Enclosures of the maximum.
        noise: Its rounding.
        among: Enclosures of the differences of every two operands, and of every one and zero.
    """
    assert noise.charge is not None
    charge_x, charge_d = (room(np.broadcast_to(part[0], maximum.node.shape)) for part in noise.charge)
    weighted = planes_of_maximum(operands, among, top)
    return dataclasses.replace(
        maximum, charge=(charge_x, charge_d), flushed=noise.flushed, weighted=weighted, around=None
    )


def bent(node: Node, between: State, charge: Charge | None) -> Bent:
    """What takes the place of an activation in passes.

    Args:
        node: The operation.
        between: Enclosures of what it is applied to, first axis one region.
        charge: What coefficients of what it is applied to cost, of x and of d.
    """
    lines, planes = activation_lines(node, _only(between.x), None if between.d is None else _only(between.d))
    if charge is not None:
        own_x, own_d = charge
        charge_x, charge_d = up(own_x * _steepest(lines)), own_d
        if planes is not None:
            # A tilt turns coefficients of d into coefficients of y, which are charged as those of x are.
            tilt = np.maximum(*map(np.abs, planes[1:]))
            charge_d = up(up(own_d * _steepest(planes.lines)) + up(own_x * tilt))
        charge = charge_x, charge_d
    return Bent(lines, planes, charge)


def largest(places: list[Place], forms: dict[int, Form], rows: int) -> np.ndarray:
    """For each row, a number that its forms together exceed nowhere on the region.

    Args:
        places: All nodes up to the last that carries a form.
        forms: What is to be bounded, by node.
        rows: How many forms there are.
    """
    value, best = carried(places, forms, rows)
    return np.minimum(best, amount(places, forms, value))


def carried(
    places: list[Place], forms: dict[int, Form], rows: int, past: Past | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Carries forms to the input; returns what they leave behind, and the least bound at a stop on the way.

    Args:
        places: All nodes up to the last that carries a form.
        forms: Forms by node; that of the input alone afterwards, if any.
        rows: How many forms there are.
        past: Moves a form to the operands of a node, as `step` does, which None stands for.
    """
    value, best = np.zeros(rows), np.full(rows, np.inf)
    for k in range(max(forms), 0, -1):
        if k not in forms:
            continue
        if places[k].node.op in STOPS:
            best = np.minimum(best, amount(places, forms, value))
        form = forms.pop(k)
        value = up(value + (step(places[k], form, forms) if past is None else past(k, form, forms)))
    return value, best


def amount(places: list[Place], forms: dict[int, Form], value: np.ndarray) -> np.ndarray:
    """What the forms amount to at most; infinite where a number on the way was not finite."""
    for k, form in forms.items():
        value = up(value + highest(form, places[k].reach))
    return np.where(np.isfinite(value), value, np.inf)


def step(here: Place, form: Form, forms: dict[int, Form]) -> np.ndarray:
    """Moves a form to the node's operands; returns what it leaves behind, rounded up."""
    if here.around is not None:
        return step(here.around, form, forms)
    if here.node.op in ENDS:
        return highest(form, here.reach)
    some = form.x if form.x is not None else form.d
    assert some is not None  # a form has coefficients of x, of d or of both
    constant = np.full(some.shape[-1], here.flushed)
    for coefficients, offset, charge in zip(form[1:], here.offset, here.charge or (None, None), strict=True):
        constant = up(constant + weighed(coefficients, charge, form.box))
        if coefficients is not None and offset is not None:
            constant = up(constant + _product(offset, coefficients, form))
    if here.node.op in BENDS:
        return _through_lines(here, form, forms, constant)
    if here.node.op == "largest":
        return _through_maximum(here, form, forms, constant)
    if here.halves is not None:
        return _through_layer(here, here.halves, form, forms, constant)
    parts = [
        [None] * len(here.shapes) if a is None else transposed(here.node, here.shapes, form.box, a) for a in form[1:]
    ]
    for i, has_d, x, d in zip(here.node.inputs, here.has_d, *parts, strict=True):
        moved = x or d
        assert moved is not None
        add(forms, i, Form(moved[0], None if x is None else x[1], None if d is None or not has_d else d[1]))
    return constant


def _product(offset: np.ndarray, coefficients: np.ndarray, form: Form) -> np.ndarray:
    """`sum_i A_i offset_i`; the charge has its rounding."""
    own = offset[tuple(slice(*ends) for ends in form.box)].reshape(-1)
    return own @ coefficients.reshape(-1, coefficients.shape[-1])


def _through_lines(here: Place, form: Form, forms: dict[int, Form], constant: np.ndarray) -> np.ndarray:
    """Lines of x in y, planes of d over y and d; `max(a, b) = relu(a - b) + b` leaves the rest with b."""
    own_x = own_d = None
    if form.x is not None and here.lines is not None:
        own_x, more = relaxed(form.x, here.lines, form.box)
        constant = up(constant + more)
    if form.d is not None and here.planes is not None:
        own_d, more = relaxed(form.d, here.planes.lines, form.box)
        constant = up(constant + more)
        tilt = tilted(form.d, here.planes, form.box)
        own_x = tilt if own_x is None else own_x if tilt is None else own_x + tilt
    first, *rest = here.node.inputs
    add(forms, first, Form(form.box, own_x, own_d))
    for i in rest:
        add(forms, i, Form(form.box, _minus(form.x, own_x), _minus(form.d, own_d)))
    return constant


def _through_maximum(here: Place, form: Form, forms: dict[int, Form], constant: np.ndarray) -> np.ndarray:
    """Planes over the operands; a coefficient takes the plane of its sign, and meets one rounding at each of them."""
    parts: list[list[np.ndarray | None]] = []
    for own, planes in zip(form[1:], here.weighted, strict=True):
        if own is None or planes is None:
            parts.append([None] * len(here.node.inputs))
            continue
        positive, negative = np.maximum(own, 0), np.minimum(own, 0)
        sides = list(zip(planes.above, planes.below, strict=True))[: len(here.node.inputs)]  # without a relu's zero
        parts.append(
            [positive * crop(a, form.box)[..., None] + negative * crop(b, form.box)[..., None] for a, b in sides]
        )
        rows = flat(own).shape[0]
        over, under = (crop(v, form.box).reshape(-1) for v in (planes.over, planes.under))
        more = over @ flat(positive) + under @ flat(negative)
        size = np.abs(over) @ flat(positive) - np.abs(under) @ flat(negative)
        constant = up(constant + up(more + size * gamma(rows + 8)))
    for i, x, d in zip(here.node.inputs, *parts, strict=True):
        add(forms, i, Form(form.box, x, d))
    return constant


def _steepest(lines: Lines) -> np.ndarray:
    """What coefficients grow by at most, and no less than one."""
    return np.maximum(1.0, np.maximum(np.abs(lines.above_slope), np.abs(lines.below_slope)))


def _minus(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if b is None:
        return a
    return -b if a is None else a - b


def _through_layer(here: Place, halves: Halves, form: Form, forms: dict[int, Form], constant: np.ndarray) -> np.ndarray:
    """`A_d ((W + E_m) d + E_m x + E_h |z|) + A_x W x`, with lines of |z|."""
    layer, shape = halves.pair.layer, here.shapes[0]
    box, x, d = widened(form, (*form.box[:-1], full(here.node.shape)[-1]))
    terms = [] if x is None else [(halves.target, x)]
    if d is not None:
        terms.append((halves.mean, d))
    into, own_x = transposed_layer(layer, shape, box, terms)
    own_d = None
    if d is not None and here.has_d[0]:
        own_d = transposed_layer(layer, shape, box, [(halves.ticket, d)])[1]
    if d is not None and halves.half is not None:
        assert here.lines is not None
        slopes, more = relaxed(transposed_layer(layer, shape, box, [(halves.half, d)])[1], here.lines, into)
        constant = up(constant + more)
        own_x = own_x + slopes
        own_d = None if own_d is None else own_d + slopes
    add(forms, here.node.inputs[0], Form(into, own_x, own_d))
    return constant


def _reach(state: State, around: Around) -> Reach:
    return reach_of(_only(state.x), None if state.d is None else _only(state.d), balls_of(state, around))


def _only(interval: Interval) -> Interval:
    """The enclosure of the one region there is."""
    return Interval(interval.lower[0], interval.upper[0])
