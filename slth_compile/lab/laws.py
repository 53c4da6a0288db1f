"""What candidates and targets are drawn from, on the grid of multiples of 2^-46.

Products, uniform candidates and constants are integer arithmetic, the same everywhere. Normal draws, and targets from
an interval whose length is no power of two, pass through float64: elsewhere they may round to a neighbouring multiple.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy import special

from slth_compile.errors import InputError
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.threefry import Key, words
from slth_compile.subset_sum.statistics import products

CANDIDATE_LAWS = {
    "product": "U[0,1] * U[-1,1]: a kept weight behind one of its own sign, the two-layer gadget",
    "uniform": "U[-1,1]: fresh weights, the setting of Lueker's theorem",
    "normal": "N(0,1): fresh weights of a normal initialisation",
    "constant": "+-sqrt(2/n) with a fair sign: signed constants at the scale of Kaiming's initialisation; all subset "
    "sums are multiples of one number, which falls as 1/sqrt(n) only, so there is no logarithm",
}
"""The laws of `--law` and what each one means for the problem."""

TARGET_FORMS = "uniform[:LO,HI] | normal:SIGMA | a number"
LARGEST_TARGET = 16.0
"""Targets and sigmas beyond this are refused: sums must stay inside 64-bit integers."""

_ROWS = 32
"""Addresses set aside for one problem: more than any window."""


@dataclasses.dataclass(frozen=True)
class TargetLaw:
    """The law of a target weight.

    Attributes:
        kind: `"uniform"` on [first, second); `"normal"` with mean 0 and sigma `first`; `"fixed"` at `first`.
        first: See `kind`.
        second: See `kind`; 0 where it has no meaning.
    """

    kind: Literal["uniform", "normal", "fixed"]
    first: float
    second: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "uniform":
                return f"U[{self.first:g}, {self.second:g}]"
            case "normal":
                return f"N(0, {self.first:g}²)"
            case _:
                return f"{self.first:g}"


def parse_target(text: str) -> TargetLaw:
    """The law that `uniform:-0.5,0.5`, `normal:0.2` or `0.25` names; `uniform` alone is on [-1, 1].

    Raises:
        InputError: Another form, an empty interval, or numbers beyond 16.
    """
    kind, colon, rest = text.partition(":")
    if kind == "uniform" and not colon:
        return TargetLaw("uniform", -1.0, 1.0)
    parts = (rest if colon else text).split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    match kind, numbers:
        case "uniform", [low, high] if -LARGEST_TARGET <= low < high <= LARGEST_TARGET:
            return TargetLaw("uniform", low, high)
        case "normal", [sigma] if 0 < sigma <= LARGEST_TARGET:
            return TargetLaw("normal", sigma)
        case _, [value] if not colon and abs(value) <= LARGEST_TARGET:
            return TargetLaw("fixed", value)
        case _:
            raise InputError(
                f"--target {text}: expected {TARGET_FORMS}, with LO < HI, SIGMA > 0 and nothing beyond "
                f"{LARGEST_TARGET:g} in magnitude"
            )


def parse_law(text: str) -> str:
    """The candidate law of that name.

    Raises:
        InputError: There is none.
    """
    if text not in CANDIDATE_LAWS:
        raise InputError(f"--law {text}: unknown; expected one of {', '.join(CANDIDATE_LAWS)}")
    return text


def draw_candidates(law: str, key: Key, problems: jax.Array, rows: int, n: jax.Array) -> jax.Array:
    """The candidates of numbered problems, in units of 2^-46; rows from `n` on are zero, which changes no subset sum.

    Args:
        law: A key of `CANDIDATE_LAWS`.
        key: Key of the words.
        problems: Numbers of the problems, uint64 `(k,)`.
        rows: Rows of the result, at most 32.
        n: Candidates of a problem, at most `rows`.

    Returns:
        int64 `(rows, k)`.
    """
    index = jnp.arange(rows, dtype=jnp.uint64)[:, None]
    address = (problems * jnp.uint64(_ROWS) + index) * jnp.uint64(2)
    match law:
        case "product":
            x = products(key, address)
        case "uniform":
            x = _to_grid(2 * _unit(key, address) - 1)
        case "normal":
            x = _to_grid(special.ndtri(_unit(key, address)))
        case _:
            size = _to_grid(jnp.sqrt(2.0 / n.astype(jnp.float64)))
            x = jnp.where(words(key, address) & jnp.uint32(1) == 1, size, -size)
    return jnp.where(index < n.astype(jnp.uint64), x, 0)


def draw_targets(law: TargetLaw, key: Key, problems: jax.Array) -> jax.Array:
    """The targets of numbered problems, int64 `(k,)`, in units of 2^-46."""
    unit = _unit(key, problems * jnp.uint64(2))
    match law.kind:
        case "uniform":
            return _to_grid(law.first + (law.second - law.first) * unit)
        case "normal":
            return _to_grid(law.first * special.ndtri(unit))
        case _:
            return jnp.full(problems.shape, round(math.ldexp(law.first, PRODUCT_BITS)), jnp.int64)


def _unit(key: Key, address: jax.Array) -> jax.Array:
    """Uniform on (0, 1): odd multiples of 2^-53, float64, from the two words at even addresses."""
    high, low = words(key, address).astype(jnp.uint64), words(key, address + jnp.uint64(1)).astype(jnp.uint64)
    bits = (high << jnp.uint64(20)) | (low >> jnp.uint64(12))
    return (bits.astype(jnp.float64) + 0.5) * 2.0**-52


def _to_grid(value: jax.Array) -> jax.Array:
    return jnp.rint(value * 2.0**PRODUCT_BITS).astype(jnp.int64)
