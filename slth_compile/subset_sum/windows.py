"""Solves a family of weights: window after window, the misses only, until every tolerance is met or none is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import PRODUCT_BITS, enclose_difference
from slth_compile.subset_sum.problem import batch_size, integer_targets, solve_batch
from slth_compile.ticket.masks import SubsetMask

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Miss:
    """A weight that no window met.

    Attributes:
        layer: Index of the layer.
        part: `"positive"`, `"negative"` or `"bias"`.
        position: Canonical position (tap, input channel, output channel of the group).
        weight: The target.
        error: Smallest |error| reached, rounded up.
        tolerance: What was planned.
    """

    layer: int
    part: str
    position: tuple[int, ...]
    weight: float
    error: float
    tolerance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """What solving a family left: its mask, and the weights that were missed."""

    mask: SubsetMask
    misses: tuple[Miss, ...]


def solve_family(family: Family, progress: Progress = lambda solved: None) -> Solution:
    """The mask of a family: every weight takes the first window whose closest subset meets its tolerance.

    Weights within the tolerance of zero keep nothing. A weight that no window meets keeps the best subset seen and is
    reported; nothing is hidden in the mask.

    Args:
        family: The problems.
        progress: Called with the number of weights settled, as they are.

    Returns:
        Mask and misses.
    """
    weights = family.weights.reshape(-1)
    tolerance = family.gadget.tolerance
    windows = np.zeros(weights.size, np.uint16)
    subsets = np.zeros(weights.size, np.uint32)
    best = _outer_error(family, np.arange(weights.size), np.zeros(weights.size, np.int64))
    available = family.windows
    pending = np.flatnonzero(weights != 0)
    progress(weights.size - pending.size)
    number = 0
    while True:
        pending = pending[available[family.channel(pending)] > number]
        if pending.size == 0:
            break
        found, sums = _solve_window(family, pending, number)
        errors = _outer_error(family, pending, sums)
        better = errors < best[pending]
        chosen = pending[better]
        windows[chosen] = np.where(found[better] == 0, 0, number)
        subsets[chosen] = found[better]
        best[chosen] = errors[better]
        left = pending[best[pending] > tolerance]
        progress(pending.size - left.size)
        pending = left
        number += 1
    missed = np.flatnonzero(best > tolerance)
    misses = tuple(_miss(family, int(flat), float(best[flat])) for flat in missed)
    shape = family.weights.shape
    return Solution(SubsetMask(windows.reshape(shape), subsets.reshape(shape)), misses)


def _solve_window(family: Family, flat: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Closest subsets of one window and their sums, for the weights at `flat`, in padded batches of one size."""
    gadget = family.gadget
    size = batch_size(gadget.window)
    targets = integer_targets(family.weights.reshape(-1)[flat], gadget.gain, PRODUCT_BITS)
    found, sums = [], []
    with jax.enable_x64(True):
        for start in range(0, flat.size, size):
            part = flat[start : start + size]
            addresses, own = family.candidates(part, np.full(part.size, number))
            pad = ((0, 0), (0, size - part.size))
            goal = np.pad(targets[start : start + size], pad[1])
            result = solve_batch(
                family.key, jnp.asarray(np.pad(addresses, pad)), jnp.asarray(np.pad(own, pad)), jnp.asarray(goal)
            )
            found.append(np.asarray(result[0])[: part.size])
            sums.append(np.asarray(result[1])[: part.size])
    return np.concatenate(found), np.concatenate(sums)


def _outer_error(family: Family, flat: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Upper bounds on |effective weight - weight| at `flat`."""
    weights = family.weights.reshape(-1)[flat]
    error = np.broadcast_to(family.error, family.weights.shape).reshape(-1)[flat]
    center, radius = enclose_difference(sums, family.gadget.gain, weights, error)
    return (np.abs(center) + radius) * (1 + 2.0**-52)


def _miss(family: Family, flat: int, error: float) -> Miss:
    position = tuple(int(i) for i in np.unravel_index(flat, family.weights.shape))
    weight = float(family.weights.reshape(-1)[flat])
    return Miss(family.layer, family.part, position, weight, error, family.gadget.tolerance)
