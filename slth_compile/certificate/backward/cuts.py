"""Cuts at the input: what it means there that a row knows signs, and how much of it a bound takes.

A plain pass that bounds `s y` from above arrives at the input with `s y <= C . x + v`. Where `s y >= 0`, so is the
right side, and `beta` times it, `beta >= 0`, may be added to what bounds a row from above:

    A . x + a  <=  (A + sum_k beta_k C_k) . x + a + sum_k beta_k v_k.

Any `beta >= 0` is right; the search decides how close the maximum over the box comes. This is the Lagrangian of
beta-CROWN (Wang et al., Beta-CROWN, NeurIPS 2021) with all multipliers moved to the input.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.backward import forms as f
from slth_compile.certificate.backward import noise as noises
from slth_compile.certificate.backward import places
from slth_compile.certificate.backward.noise import magnitudes
from slth_compile.certificate.backward.passes import Passed, Rows, Start, carried, in_chunks, rounded_up
from slth_compile.certificate.backward.places import At
from slth_compile.certificate.backward.split import Bend
from slth_compile.certificate.backward.steps import on_device, reach_of
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.rounding import UNIT_ROUNDOFF, up

BISECTIONS = 8
"""Of every beta."""

LARGEST_STORE = 2**29
"""Bytes of cuts that are kept at a time."""

_SLACK = 2.0**-30
# Where a and c are multiples of each other all signs change at one beta: none of those that are tried.
_OFF = 1.0123456789
# Products of one coefficient at the input, two a split and more than anybody splits.
_PRODUCTS = 64


class Around(NamedTuple):
    """The box at the input: centre, radius and magnitudes `(C, spatial..., samples)`, and what flushing may cost."""

    centre: Any
    radius: Any
    magnitude: Any
    flushed: Any
    reach: f.Reach


class Cuts(NamedTuple):
    """`C` and `v` of rows' splits, `(K, rows, C, spatial...)` and `(K, rows)`; both zero where there is none."""

    forms: Any
    values: Any


def box_of(walk: Walk) -> Around:
    """The box of the walk's regions."""
    x = walk.pairs[0].x
    sizes = magnitudes(x, None)
    centre, radius = e.centred(x)
    return Around(
        on_device(centre),
        on_device(radius),
        on_device(sizes.x * (4 * UNIT_ROUNDOFF * noises.SPARE)),
        jax.device_put(noises.flushed([sizes], _PRODUCTS)),
        reach_of(walk.pairs[0]),
    )


@jax.jit
def least(passed: Passed, cuts: Cuts, box: Around, at: At) -> Any:
    """What bounds every row at the input once cuts are added, `(rows,)`; not less than the rows' real maxima.

    Args:
        passed: The rows; a form at the input is needed.
        cuts: Their cuts, in the order they are taken.
        box: The box.
        at: Where the rows are, the whole input in sight.
    """
    assert passed.form is not None
    a, value, spread = passed.form.x, passed.value, passed.spread
    box = box._replace(**{name: places.spread(getattr(box, name), at) for name in ("centre", "radius", "magnitude")})
    for c, v in zip(cuts.forms, cuts.values, strict=True):
        c = jnp.moveaxis(c, 0, -1)
        beta = multiplier(a, c, v, box.centre, box.radius)
        product = beta * c
        a = jnp.where(beta > 0, a + product, a)
        more = up(jnp.where(beta > 0, beta * v, 0.0))
        # What the product and the sum round, where x is as large as it can be.
        charge = f.total(box.magnitude * (abs(a) + jnp.where(beta > 0, abs(product), 0.0)))
        value, spread = value + more + charge, spread + abs(more) + charge
    charge = places.spread(box.flushed, at)
    more = f.reached(f.Form(None, a), box.reach, at)
    return rounded_up(value + charge + more, spread + charge + abs(more))


def multiplier(a: Any, c: Any, v: Any, centre: Any, radius: Any) -> Any:
    """A `beta >= 0` for which the maximum of `(a + beta c) . x + beta v` over the box is near its least, `(rows,)`.

    The maximum is convex in beta, with the slope

        c . centre + v + sum_j r_j c_j sign(a_j + beta c_j);

    its sign is found in the middle of what is left of `beta = beta0 t / (1 - t)`, `t` in [0, 1], eight times, with
    `beta0 = 1.0123456789 sum r |a| / sum r |c|`. Ties count as rising.

    Args:
        a: Coefficients, `(C, spatial..., rows)`.
        c: Coefficients of the cut, likewise.
        v: Its constant, `(rows,)`.
        centre: Of the box, like `a`, or with one column.
        radius: Likewise.
    """
    weights = radius * c
    level = f.total(centre * c) + v
    width = f.total(abs(weights))
    ties = _SLACK * (f.total(abs(centre * c)) + width + abs(v))
    unit = _OFF * f.total(radius * abs(a)) / jnp.maximum(width, 1e-300)

    def falls(beta: Any) -> Any:
        return level + f.total(weights * jnp.sign(a + beta * c)) < -ties

    def halved(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = 0.5 * (low + high)
        low_side = falls(unit * (middle / (1.0 - middle)))
        return jnp.where(low_side, middle, low), jnp.where(low_side, high, middle)

    low, _ = jax.lax.fori_loop(0, BISECTIONS, halved, (jnp.zeros_like(v), jnp.ones_like(v)))
    beta = unit * (low / (1.0 - low))
    return jnp.where(falls(jnp.zeros_like(v)) & jnp.isfinite(beta), beta, 0.0)


@dataclasses.dataclass(eq=False)
class Store:
    """The cuts of units of some regions, found when they are first asked for.

    Attributes:
        keys: `unit * samples + sample`, sorted.
        at: Where each key's cuts are.
        forms: `C` of `y >= 0` and of `y <= 0`, `(keys, 2, C, spatial...)`.
        values: `v`, `(keys, 2)`.
    """

    keys: np.ndarray
    at: np.ndarray
    forms: np.ndarray
    values: np.ndarray

    def of(self, keys: np.ndarray, side: np.ndarray) -> Cuts:
        """Cuts by key and side; zeros where the key is negative.

        Args:
            keys: Shape `(K, rows)`.
            side: 0 where `y >= 0`, 1 where `y <= 0`, likewise.
        """
        place = self.at[np.searchsorted(self.keys, np.maximum(keys, self.keys[0]))]
        none = keys < 0
        forms, values = self.forms[place, side], self.values[place, side]
        if none.any():
            forms[none], values[none] = 0.0, 0.0
        return Cuts(jax.device_put(forms), jax.device_put(values))


def empty_store(walk: Walk) -> Store:
    """A store without cuts."""
    shape = walk.both.net.shapes[0]
    none = np.empty(0, np.int64)
    return Store(none, none, np.empty((0, 2, *shape[-1:], *shape[:-1])), np.empty((0, 2)))


def store_with(store: Store, walk: Walk, bends: dict[int, Bend], base: dict[int, int], keys: np.ndarray) -> Store:
    """The store with cuts for more keys; without those it had where they would be too many.

    Args:
        store: What is known.
        walk: The walk.
        bends: Activations that were passed, by position.
        base: Their first units.
        keys: Sorted, each once.
    """
    if len(store.keys) + len(keys) > most_keys(walk):
        store = empty_store(walk)
    new = np.setdiff1d(keys, store.keys, assume_unique=True)
    if not len(new):
        return store
    units, samples = np.divmod(new, walk.samples)
    forms = np.empty((len(new), *store.forms.shape[1:]))
    values = np.empty((len(new), 2))
    for k, bend in bends.items():
        chosen = np.flatnonzero((units >= base[k]) & (units < base[k] + len(bend.places)))
        if len(chosen):
            forms[chosen], values[chosen] = _found(walk, k, units[chosen] - base[k], samples[chosen])
    at = np.concatenate([store.at, len(store.keys) + np.arange(len(new))])
    keys = np.concatenate([store.keys, new])
    order = np.argsort(keys)
    parts = (store.forms, forms), (store.values, values)
    return Store(keys[order], at[order], *map(np.concatenate, parts))


def most_keys(walk: Walk) -> int:
    """How many keys a store holds."""
    return max(1, LARGEST_STORE // _bytes(walk))


def _bytes(walk: Walk) -> int:
    return 16 * int(np.prod(walk.both.net.shapes[0]))


def _found(walk: Walk, k: int, elements: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`C` and `v` of both sides of some elements of an activation, rows first."""
    node = walk.both.net.nodes[k]
    first, *less = node.inputs
    start = Start(first, less[0] if less else None, False, k)
    reaches: list[Any] = [None] * len(walk.pairs)

    def run(rows: Rows, index: np.ndarray) -> tuple[Any, Any]:
        passed = carried(walk, start, rows, reaches)
        shape = walk.both.net.shapes[0]
        form = jnp.zeros((*shape[-1:], *shape[:-1], len(index))) if passed.form is None else passed.form.x
        return jnp.moveaxis(form, -1, 0), rounded_up(passed.value, passed.spread)

    both = np.tile([1.0, -1.0], len(elements))
    forms, values = in_chunks(walk, start, np.repeat(elements, 2), np.repeat(samples, 2), both, run)
    return forms.reshape(-1, 2, *forms.shape[1:]), values.reshape(-1, 2)
