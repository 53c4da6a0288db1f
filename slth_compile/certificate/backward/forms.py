"""Linear forms `A_d d + A_x x` of one node, and what becomes of them at the node before.

Coefficients have the node's axes with the channels in front and the rows of the pass at the end:
`(C, spatial..., rows)`. Every function returns a form of the operand and one number a row, which bounds from above
what the step adds to the value: constants, and everything that rounding may add.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.certificate.backward.layers import Geometry, Kernels, transposed
from slth_compile.certificate.backward.lines import Lines, Planes
from slth_compile.certificate.backward.places import At, Into, placed, spread


class Form(NamedTuple):
    """Coefficients of the difference and of the target's activation; None stands for zero."""

    d: Any
    x: Any


class Pairs(NamedTuple):
    """One array for the difference and one for the activation."""

    d: Any
    x: Any


class Reach(NamedTuple):
    """Boxes that `d` and `x` of a node lie in, as centres and radii; `d` may be None."""

    d: Any
    x: Any


def front(array: Any) -> Any:
    """`(spatial..., C, last)` as `(C, spatial..., last)`."""
    return array if array.ndim < 3 else np.moveaxis(array, -2, 0) if isinstance(array, np.ndarray) else _front(array)


def _front(array: Any) -> Any:
    return jnp.moveaxis(array, -2, 0)


def back(array: Any) -> Any:
    """The inverse of `front`."""
    return array if array.ndim < 3 else jnp.moveaxis(array, 0, -2)


def total(products: Any) -> Any:
    """Sums over all axes but the rows'."""
    return jnp.sum(products, tuple(range(products.ndim - 1)))


def _parts(a: Any) -> tuple[Any, Any]:
    return jnp.maximum(a, 0.0), jnp.minimum(a, 0.0)


@jax.jit
def merged(a: Form, b: Form, magnitudes: Pairs, at: At) -> tuple[Form, Any]:
    """The sum of two forms of one node."""
    both = Form(_plus(a.d, b.d), _plus(a.x, b.x))
    return both, charged(both, magnitudes, at)


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def charged(form: Form, noise: Pairs, at: At) -> Any:
    """`|A_d| noise_d + |A_x| noise_x`."""
    shares = [
        total(abs(a) * spread(size, at, a))
        for a, size in zip(form, noise, strict=True)
        if a is not None and size is not None
    ]
    return sum(shares[1:], shares[0])


@jax.jit
def cost(form: Form, noise: Pairs, at: At) -> Any:
    """`charged` as a program of its own."""
    return charged(form, noise, at)


@jax.jit
def reached(form: Form, reach: Reach, at: At) -> Any:
    """The largest value of the form where `d` and `x` lie in their boxes."""
    value: Any = 0.0
    for a, box in zip(form, reach, strict=True):
        if a is not None and box is not None:
            centre, radius = box
            value = value + total(a * spread(centre, at, a) + abs(a) * spread(radius, at, a))
    return value


@functools.partial(jax.jit, static_argnums=(0, 5))
def through_layer(
    geometry: Geometry,
    form: Form,
    kernels: Kernels,
    noise: Pairs,
    magnitude: tuple[Lines, Any] | None,
    moves: bool,
    at: At,
) -> tuple[Form, Any]:
    """A weighted layer.

    Args:
        geometry: Of the transposed map.
        form: Of the layer's output.
        kernels: Its arrays.
        noise: What rounding and weight radii may add, for coefficients of the output.
        magnitude: Lines around `|z|` and what rounding adds there, for coefficients of the input; None without `Eh`.
        moves: Whether the two networks differ in the layer's input.
        at: Where the rows are.
    """
    value = charged(form, noise, at)
    xs, ds = [], []
    if form.d is not None:
        ds.append((form.d, kernels.ticket))
        xs.append((form.d, kernels.error))
        value = value + total(form.d * _column(kernels.bias_error, form.d.ndim))
    if form.x is not None:
        xs.append((form.x, kernels.target))
        value = value + total(form.x * _column(kernels.bias, form.x.ndim))
    d = transposed(geometry, ds, at.into) if ds and moves else None
    x = transposed(geometry, xs, at.into)
    if magnitude is not None and form.d is not None:
        lines, slack = magnitude
        p, q = _parts(transposed(geometry, [(form.d, kernels.half)], at.into))
        lines = Lines(*(spread(line, at.there, p) for line in lines))
        slope = p * lines.upper_slope + q * lines.lower_slope
        value = value + total(p * lines.upper_intercept + q * lines.lower_intercept)
        value = value + total((p - q) * spread(slack, at.there, p))
        x, d = x + slope, None if d is None else d + slope
    return Form(d, x), value


def _column(channels: Any, rank: int) -> Any:
    return channels.reshape(-1, *(1,) * (rank - 1))


@jax.jit
def through_activation(form: Form, lines: Pairs, noise: Pairs, at: At) -> tuple[Form, Any]:
    """An activation between its lines: each coefficient takes the line of its sign."""
    like = form.x if form.d is None else form.d
    planes = None if lines.d is None else Planes(*(spread(line, at, like) for line in lines.d))
    around = Pairs(planes, Lines(*(spread(line, at, like) for line in lines.x)))
    return bent(form, around, Pairs(*(spread(size, at, like) for size in noise)))


def bent(form: Form, lines: Pairs, noise: Pairs) -> tuple[Form, Any]:
    """`through_activation` with a line, and noise, for every coefficient."""
    value = sum(total(abs(a) * size) for a, size in zip(form, noise, strict=True) if a is not None)
    d = x = None
    if form.x is not None:
        p, q = _parts(form.x)
        around = lines.x
        value = value + total(p * around.upper_intercept + q * around.lower_intercept)
        x = p * around.upper_slope + q * around.lower_slope
    if form.d is not None and lines.d is not None:
        p, q = _parts(form.d)
        planes = lines.d
        value = value + total(p * planes.upper_intercept + q * planes.lower_intercept)
        d = p * planes.upper_slope + q * planes.lower_slope
        tilted = p * planes.upper_tilt + q * planes.lower_tilt
        x = tilted if x is None else x + tilted
    return Form(d, x), value


@jax.jit
def through_larger(form: Form, lines: Pairs, noise: Pairs, at: At) -> tuple[Form, Form, Any]:
    """`max(a, b) = relu(a - b) + b`: forms of `a` and of `b`."""
    first, value = through_activation(form, lines, noise, at)
    return first, apart(form, first), value


@jax.jit
def through_maximum(form: Form, planes: Pairs, noise: Pairs, at: At) -> tuple[list[Form], Any]:
    """The maximum of a few nodes between its planes: a form of each of them."""
    value: Any = charged(form, noise, at)
    parts = []
    for a, around in zip(form, planes, strict=True):
        if a is None or around is None:
            parts.append(None)
            continue
        p, q = _parts(a)
        upper, above, lower, below = around
        value = value + total(p * spread(above, at, a) + q * spread(below, at, a))
        weights = zip(upper, lower, strict=True)
        parts.append([p * spread(high, at, a) + q * spread(low, at, a) for high, low in weights])
    count = next(len(part) for part in parts if part is not None)
    return [Form(*(None if part is None else part[i] for part in parts)) for i in range(count)], value


@jax.jit
def apart(form: Form, first: Form) -> Form:
    """The form of `b` in `relu(a - b) + b`, from the forms of the sum and of `a`."""
    return Form(
        *(
            a if f is None else None if a is None and f is None else -f if a is None else a - f
            for a, f in zip(form, first, strict=True)
        )
    )


@jax.jit
def through_scale(form: Form, scale: Any, shift: Any, noise: Pairs, at: At) -> tuple[Form, Any]:
    """`v * scale + shift`, each one entry a channel, or one for all."""
    value = charged(form, noise, at)
    if form.x is not None:
        value = value + total(form.x * _column(shift, form.x.ndim))
    return Form(*(None if a is None else a * _column(scale, a.ndim) for a in form)), value


@jax.jit
def through_take(form: Form, matrices: tuple[Any, ...], noise: Pairs, at: At) -> tuple[Form, Any]:
    """Maps along axes, elements taken among them: one matrix for each, `(size before, size after)`, or None.

    Where rows see a window, every spatial axis has one, and the channels none.
    """

    def put(a: Any) -> Any:
        for axis, matrix in enumerate(matrices):
            if matrix is not None:
                if at.into is not None:
                    corner = at.into.corner[axis - 1], at.corner[axis - 1]
                    matrix = lax.dynamic_slice(matrix, corner, (at.into.sizes[axis - 1], a.shape[axis]))
                product = jnp.tensordot(matrix, a, (1, axis), precision=lax.Precision.HIGHEST)
                a = jnp.moveaxis(product, 0, axis)
        return a

    return Form(*(None if a is None else put(a) for a in form)), charged(form, noise, at)


class Linear:
    """A linear map of arrays with one trailing axis, to be transposed; programs are shared by equal keys."""

    def __init__(self, key: Any, function: Any, shape: tuple[int, ...]) -> None:
        self.function, self.shape, self._key = function, shape, (key, shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Linear) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.partial(jax.jit, static_argnums=0)
def through_linear(linear: Linear, form: Form, noise: Pairs | None, at: At) -> tuple[Form, Any]:
    """A map without weights, the same in both networks."""
    found = []
    for a in form:
        if a is None:
            found.append(None)
            continue
        # A map that rows see windows of leaves positions as they are.
        shape = linear.shape if at.corner is None else (*a.shape[1:-1], linear.shape[-1])
        operand = jax.ShapeDtypeStruct((*shape, a.shape[-1]), a.dtype)
        (moved,) = jax.linear_transpose(linear.function, operand)(back(a))
        found.append(_front(moved) if moved.ndim > 2 else moved)
    return Form(*found), jnp.zeros(form_rows(form)) if noise is None else charged(form, noise, at)


@functools.partial(jax.jit, static_argnums=0)
def through_slice(steps: tuple[int, ...], form: Form, at: At) -> tuple[Form, Any]:
    """Every so manieth position of an operand of which rows see a window."""
    into = at.into
    assert into is not None
    config = [(0, 0, 0), *((0, 0, step - 1) for step in steps), (0, 0, 0)]
    apart = [None if a is None else lax.pad(a, jnp.zeros((), a.dtype), config) for a in form]
    found = Form(*(None if a is None else placed(a, into.offset, into.sizes, into.margins) for a in apart))
    return found, jnp.zeros(form_rows(form))


@jax.jit
def moved(form: Form, into: Into) -> Form:
    """The form in another window of its node."""
    return Form(*(None if a is None else placed(a, into.offset, into.sizes, into.margins) for a in form))


def form_rows(form: Form) -> int:
    """How many rows a form has."""
    return next(a.shape[-1] for a in form if a is not None)


@functools.partial(jax.jit, static_argnums=0)
def one_hot(size: int, element: Any, sign: Any) -> Any:
    """Coefficients `(size, rows)`: each row's sign at its own element."""
    index = lax.broadcasted_iota(element.dtype, (size, len(element)), 0)
    return jnp.where(index == element[None], sign[None], 0.0)
