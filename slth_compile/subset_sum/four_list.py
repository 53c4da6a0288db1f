"""A subset sum close to a target for windows that are too large for an exact search: four lists, centre after centre.

The generalised birthday merge (Schroeppel & Shamir 1981, Wagner 2002) in the signed form of `meet_in_the_middle`:
find signs with `sum e_i x_i` close to `t := 2 w - sum x`. Each quarter of the candidates has 2^q sorted signed sums,
A, B, C and D. For a centre z,

    L12 = sums a + b close to z,   L34 = sums c + d close to t - z,   then the closest pair of L12 and L34.

Close sums cost one bitonic merge: in `A` merged with `z - B`, every element is paired with the next one of the other
list, so L12 is as long as both lists together, 2^(q+1), and no band has to be cut; its sort is the only one that starts
from no order. One centre reaches an error of about 2^-3q; another centre is worth as much as another window, and needs
no more candidates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from slth_compile.subset_sum.bitonic import cleaned
from slth_compile.subset_sum.half_sums import locate, negative_half

FORCED = 2
"""Candidates at the head of a window that are always kept: `plan.width`, equation (4), needs them."""

CENTRES = 8
"""Centres tried at most."""

_REACH = 3
# The next element of the other list is looked for this far: one in eight lies further away and is left out.
_STEP_BITS, _SHARE_BITS = 9, 10
_FAR = 1 << 58


def near_subset(candidates: jax.Array, targets: jax.Array, enough: jax.Array, centres: int = CENTRES) -> jax.Array:
    """A subset of each window whose sum is close to its target, as bits; nothing is claimed about how close.

    The first two candidates are kept, whatever they are. A problem's subset does not depend on the rest of its batch.
    `enough` ends a search early and changes nothing else: the same centres are taken in the same order, so whether an
    error within `enough` is found is a function of candidates and target.

    A problem and its negative, `-candidates` and `-targets`, get the same subset.

    Args:
        candidates: int64, shape `(4 q + 2, batch)`, 1 <= q <= 15, |candidate| <= 2^46.
        targets: int64, shape `(batch,)`, |target| <= 2^46.
        enough: int64, shape `(batch,)`: the search of a problem ends at an |error| within it; -1 tries every centre.
        centres: How many centres are tried.

    Returns:
        uint64, shape `(batch,)`: bit `i` is set where candidate `i` is kept.
    """
    sign = jnp.where(targets < 0, -1, 1)
    candidates, targets = sign * candidates, sign * targets
    forced, free = candidates[:FORCED], candidates[FORCED:]
    batch, q = targets.shape[0], free.shape[0] // 4
    # First and third quarter side by side on the batch axis, second and fourth too.
    quarters = [jnp.concatenate([free[i * q : (i + 1) * q], free[(i + 2) * q : (i + 3) * q]], 1) for i in (0, 1)]
    negative = negative_half(jnp.stack(quarters))
    lists = jnp.concatenate([negative, -negative[:, ::-1]], 1)
    goal = 2 * (targets - forced.sum(0)) - free.sum(0)
    # The target is shared as the two halves can reach, which keeps both within their lists.
    reach = jnp.abs(free).sum(0)
    share = (jnp.abs(free[: 2 * q]).sum(0) << _SHARE_BITS) // jnp.maximum(reach, 1)
    middle, step = (goal >> _SHARE_BITS) * share, reach >> _STEP_BITS

    def pending(state: tuple[jax.Array, ...]) -> jax.Array:
        number, error = state[:2]
        return (number < centres) & jnp.any(error > 2 * enough)

    def attempt(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        number, error, sums = state
        # Around the middle, where both lists are dense: 0, 1, -1, 2, -2, ... steps.
        turn = jnp.where(number & 1 == 1, (number + 1) >> 1, -(number >> 1))
        centre = middle + turn * step
        middles = jnp.concatenate([centre, goal - centre])
        near = _near_sums(lists[0], middles - lists[1])
        first, second = _closest(2 * near[:, :batch], 1 - 2 * near[:, batch:])
        found = middles + jnp.concatenate([first, -second])
        new_error = jnp.abs(first - second)
        better = (new_error < error) & (error > 2 * enough)
        return number + 1, jnp.where(better, new_error, error), jnp.where(jnp.tile(better, 2), found, sums)

    start = jnp.zeros((), jnp.int32), jnp.full_like(goal, _FAR), jnp.tile(goal, 2)
    sums = lax.while_loop(pending, attempt, start)[2]
    # The pair whose sum is the one found is the closest pair at that centre, its error 0.
    first, second = _closest(2 * lists[0], 2 * (sums - lists[1]) + 1)
    values = jnp.concatenate([first, sums - second])
    halves = jnp.concatenate(quarters, 1)
    bits = locate(halves, (values + halves.sum(0)) >> 1).astype(jnp.uint64).reshape(4, batch)
    # Batches of `bits`: quarters 1, 3, 2, 4.
    kept = bits[0] | bits[2] << jnp.uint64(q) | bits[1] << jnp.uint64(2 * q) | bits[3] << jnp.uint64(3 * q)
    return kept << jnp.uint64(FORCED) | jnp.uint64((1 << FORCED) - 1)


def _near_sums(a: jax.Array, b: jax.Array) -> jax.Array:
    """Differences `a - b` of neighbours, ascending, from `a` ascending and `b` descending; absent ones are `_FAR`."""
    merged = _sort_bitonic(jnp.concatenate([2 * a, 2 * b + 1]))
    ahead = jnp.concatenate([merged, *[merged[-1:]] * _REACH])
    near = jnp.full_like(merged, _FAR)
    for distance in range(_REACH, 0, -1):
        other = ahead[distance : distance + merged.shape[0]]
        gap = (other >> 1) - (merged >> 1)
        near = jnp.where((other ^ merged) & 1 == 1, jnp.where(merged & 1 == 1, gap, -gap), near)
    # Unlike the merges this sort starts from no order at all; rows are sorted along the minor axis.
    return lax.sort(near.T, dimension=1).T


def _closest(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The closest pair of keys `2 * value` ascending and `2 * value + 1` descending: the two values, `(batch,)`."""
    merged = _sort_bitonic(jnp.concatenate([a, b]))
    lower, gap = merged[:-1], merged[1:] - merged[:-1]
    gap = jnp.where(gap & 1 == 1, gap, jnp.iinfo(gap.dtype).max)
    best = gap.min(0)
    low = jnp.max(jnp.where(gap == best, lower, -jnp.iinfo(gap.dtype).max), 0)
    high = low + best
    odd = low & 1 == 1
    return jnp.where(odd, high, low) >> 1, jnp.where(odd, low, high) >> 1


def _sort_bitonic(x: jax.Array) -> jax.Array:
    """A bitonic sequence along axis 0, sorted ascending."""
    return cleaned(x[None], 1).reshape(x.shape)
