"""How many bits masks code in, as integers that the solver adds up.

A mask is coded as sequences of bits with one probability each (`ticket.coding`): is a weight's subset empty, does its
window lie beyond level j, is a candidate kept that has context c. With `P` the probability of what is coded, a weight
costs

    -log2 P(empty),   or   -log2 P(not empty) - log2 P(window) - sum_i log2 P(bit i | context of candidate i)

and the solver takes, among the subsets within the tolerance, one that costs least. Which probabilities a family will
have depends on what is taken, so they are fitted by alternation: solve for some of the weights, count, solve again.
The fit draws candidates of its own, of the source's law: it is a function of the weights and the plan, not of the seed.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.source.dyadic import ENTRY_BITS, PRODUCT_BITS
from slth_compile.subset_sum.cheapest import cheapest_subset
from slth_compile.ticket.coding import CONTEXTS, context

UNIT = 64
"""Costs are in 1/64 bit."""

SLACK = 2.0**-6
"""Of the tolerance: what the rounding of a problem to 32 bits may take. Where it would take more, 64 bits are used."""

SAMPLE = 8192
"""Weights the probabilities are fitted on."""

_LEVELS = 8
_WINDOWS = 48
_STEPS = (16, 16, 16, 8, 4, 1, 1)
_SHIFT = PRODUCT_BITS - 26
_ALMOST = 2.0**-15


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """What a mask costs.

    Attributes:
        pruned: Of a candidate that is not kept, by context, int32 `(8,)`.
        kept: Of one that is kept, int32 `(8,)`.
        windows: Of a subset that is not empty in window 0, 1, ..., int64; each further one adds `further`.
        further: See `windows`.
        empty: Of an empty subset.
        tried: Windows among which the cheapest subset is taken, before the next as many are looked at.
    """

    pruned: np.ndarray
    kept: np.ndarray
    windows: np.ndarray
    further: int
    empty: int
    tried: int

    def window(self, numbers: np.ndarray) -> np.ndarray:
        """The cost of window numbers, int64."""
        last = len(self.windows) - 1
        return self.windows[np.minimum(numbers, last)] + self.further * np.maximum(numbers - last, 0)


def tried(window: int) -> int:
    """How many windows of this size are tried before one is taken: where a problem is cheap to solve, four."""
    return 4 if window <= 12 else 1


def kept_costs(window: int) -> Costs:
    """The costs for which the cheapest subset is the sparsest: one for every kept candidate."""
    none = np.zeros(CONTEXTS, np.int32)
    return Costs(none, none + 1, np.zeros(1, np.int64), 0, 0, tried(window))


def needs_64_bits(window: int, tolerance: int) -> bool:
    """Whether problems of this tolerance, in units of 2^-46, would lose more than `SLACK` of it to rounding."""
    return (window + 2) << _SHIFT > tolerance * SLACK


def cheapest_within(
    candidates: jax.Array, pruned: jax.Array, kept: jax.Array, targets: jax.Array, tolerance: jax.Array, exact: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The subset of every window that costs least within the tolerance.

    Args:
        candidates: int64 `(m, batch)`, units of 2^-46, magnitude at most 2^46.
        pruned: Costs of candidates by context, int32 `(8,)`.
        kept: The same for those kept.
        targets: int64 `(batch,)`, magnitude at most 2^48 for windows up to 16 and 2^46 above.
        tolerance: int64 `(batch,)`.
        exact: Whether 64 bits are used; 32 are four times faster, and enough where not `needs_64_bits`.

    Returns:
        `subsets` uint32, `costs` int32, `found` bool, each `(batch,)`. What is found is within the tolerance. In 32
        bits what is optimal, and found at all, is so for a tolerance smaller by at most `SLACK` of it.
    """
    contexts = context(candidates)
    left, more = jnp.int32(0), jnp.int32(0)
    for c in range(CONTEXTS):
        left = jnp.where(contexts == c, pruned[c], left)
        more = jnp.where(contexts == c, kept[c] - pruned[c], more)
    tolerance = jnp.minimum(tolerance, 1 << PRODUCT_BITS)
    if not exact:
        # Each rounding is off by half a unit at most: of every candidate, and of the target.
        tolerance = (tolerance - ((candidates.shape[0] + 1) << (_SHIFT - 1))) >> _SHIFT
        tolerance, candidates, targets = (
            x.astype(jnp.int32) for x in (tolerance, _rounded(candidates), _rounded(targets))
        )
    subsets, costs, found = cheapest_subset(candidates, more, targets, tolerance)
    return subsets, costs + left.sum(0, dtype=jnp.int32), found


def fit(weights: np.ndarray, tolerance: float, gain: int, window: int) -> tuple[Costs, float]:
    """The costs that suit a family of weights, and how many bits one of them takes at these costs.

    Args:
        weights: Targets, any shape; `SAMPLE` of them, evenly spaced, are looked at.
        tolerance: Largest allowed |effective weight - weight|.
        gain: Exponent of the entries of `V`.
        window: Candidates m of a window.

    Returns:
        Costs, and bits per weight: what an ideal code with the final probabilities takes on simulated candidates;
        infinite where more than 1 % of the weights are not met in the first 48 windows.
    """
    flat = weights.reshape(-1)
    sample = flat[np.linspace(0, flat.size - 1, min(SAMPLE, flat.size)).astype(np.int64)]
    targets = np.rint(np.ldexp(sample, PRODUCT_BITS - gain)).astype(np.int64)
    allowed = int(np.ldexp(tolerance, PRODUCT_BITS - gain))
    zero = np.abs(targets) <= allowed
    costs = _costs(counts := _Counts.guess(), tried(window))
    # Most rounds settle the costs and need few weights; the last ones decide, and count.
    for step in _STEPS:
        counts = _solve_sample(sample[::step], targets[::step], allowed, zero[::step], costs, window)
        costs = _costs(counts, costs.tried)
    return costs, counts.bits / max(1, sample.size) if counts.unmet <= 0.01 * sample.size else np.inf


@dataclasses.dataclass(frozen=True, eq=False)
class _Counts:
    """Of every sequence: ones and length."""

    kept: np.ndarray
    candidates: np.ndarray
    beyond: np.ndarray
    reached: np.ndarray
    empty: int
    weights: int
    unmet: int

    @staticmethod
    def guess() -> _Counts:
        levels, contexts = np.ones(_LEVELS), np.ones(CONTEXTS)
        return _Counts(contexts, 4 * contexts, levels, 4 * levels, 1, 16, 0)

    @property
    def bits(self) -> float:
        """Length of an ideal code."""
        ones = np.concatenate([self.kept, self.beyond, [self.empty]])
        length = np.concatenate([self.candidates, self.reached, [self.weights]])
        p = np.clip(ones / np.maximum(length, 1), 1e-12, 1 - 1e-12)
        return float(-(ones * np.log2(p) + (length - ones) * np.log2(1 - p)).sum())


def _costs(counts: _Counts, together: int) -> Costs:
    """Costs from counts; half a one and half a zero more of each, so that nothing is impossible."""

    def price(ones: np.ndarray | int, length: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        p = np.clip((np.asarray(ones) + 0.5) / (np.asarray(length) + 1.0), _ALMOST, 1 - _ALMOST)
        one, zero = (np.rint(-UNIT * np.log2(q)).astype(np.int64) for q in (p, 1 - p))
        return one, zero

    kept, pruned = price(counts.kept, counts.candidates)
    more, last = price(counts.beyond, counts.reached)
    empty, full = price(counts.empty, counts.weights)
    windows = np.concatenate([[0], np.cumsum(more[:-1])]) + last + full
    return Costs(pruned.astype(np.int32), kept.astype(np.int32), windows, int(more[-1]), int(empty), together)


def _solve_sample(
    sample: np.ndarray, targets: np.ndarray, allowed: int, zero: np.ndarray, costs: Costs, window: int
) -> _Counts:
    best = np.where(zero, costs.empty, np.iinfo(np.int64).max)
    number = np.full(sample.size, -1)
    subsets = np.zeros(sample.size, np.uint32)
    pending = sample != 0
    exact = needs_64_bits(window, allowed)
    for k in range(_WINDOWS):
        if k % costs.tried == 0:
            pending &= best == np.iinfo(np.int64).max if k else True
        if not pending.any():
            break
        rows = np.flatnonzero(pending)
        found, cost, met = _simulated(window, k, exact, costs, targets[rows], rows, allowed)
        cost = cost + costs.window(np.array(k))
        better = met & (found != 0) & (cost < best[rows])
        taken = rows[better]
        best[taken], number[taken], subsets[taken] = cost[better], k, found[better]
    kept, candidates = np.zeros(CONTEXTS), np.zeros(CONTEXTS)
    for k in np.unique(number[number >= 0]):
        rows = np.flatnonzero(number == k)
        contexts = np.asarray(_simulated_contexts(window, int(k)))[:, rows]
        bits = subsets[rows] >> np.arange(window, dtype=np.uint32)[:, None] & 1
        candidates += np.bincount(contexts.reshape(-1), minlength=CONTEXTS)
        kept += np.bincount(contexts.reshape(-1), bits.reshape(-1), minlength=CONTEXTS)
    # What no simulated window met waits for a later one.
    unmet = best == np.iinfo(np.int64).max
    number[unmet] = _WINDOWS
    above = np.array([np.count_nonzero(number >= j) for j in range(_WINDOWS + 2)])
    reached = np.append(above[: _LEVELS - 1], above[_LEVELS - 1 : -1].sum())
    beyond = np.append(above[1:_LEVELS], above[_LEVELS:].sum())
    return _Counts(kept, candidates, beyond, reached, int(np.count_nonzero(number < 0)), sample.size, int(unmet.sum()))


def _simulated(
    window: int, k: int, exact: bool, costs: Costs, targets: np.ndarray, rows: np.ndarray, allowed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subsets, their costs and whether there is one, for the weights `rows` of the sample in window `k`."""
    pad = SAMPLE - rows.size
    with jax.enable_x64(True):
        candidates = np.pad(_drawn(window, k)[:, rows], ((0, 0), (0, pad)))
        prices = np.asarray(costs.pruned), np.asarray(costs.kept)
        padded = np.pad(targets, (0, pad))
        results = _solve_simulated(candidates, *prices, padded, np.int64(allowed), np.int64(rows.size), exact)
        found, cost, met = (np.asarray(x)[: rows.size] for x in results)
    return found, cost.astype(np.int64), met


@functools.lru_cache(maxsize=64)
def _drawn(window: int, k: int) -> np.ndarray:
    """Candidates of window `k` for a sample, of the source's law: `a b`, `a ~ U(0, 1)`, `b ~ U[-1, 1)`, int64."""
    generator = np.random.default_rng((window, k))
    shape, one = (window, SAMPLE), 1 << ENTRY_BITS
    return generator.integers(1, one, shape) * generator.integers(-one, one, shape)


@functools.lru_cache(maxsize=64)
def _simulated_contexts(window: int, k: int) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(context(jax.device_put(_drawn(window, k))))


@functools.partial(jax.jit, static_argnums=(6,))
def _solve_simulated(
    candidates: jax.Array,
    pruned: jax.Array,
    kept: jax.Array,
    targets: jax.Array,
    tolerance: jax.Array,
    count: jax.Array,
    exact: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`cheapest_within` for the first `count` of a sample, chunk by chunk."""
    chunk = chunk_size(candidates.shape[0])

    def solve(step: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        offered, goals = (lax.dynamic_slice_in_dim(x, step * chunk, chunk, -1) for x in (candidates, targets))
        results = cheapest_within(offered, pruned, kept, goals, jnp.full(chunk, tolerance), exact)
        return tuple(
            lax.dynamic_update_slice_in_dim(x, y, step * chunk, 0) for x, y in zip(found, results, strict=True)
        )

    none = (jnp.zeros(SAMPLE, jnp.uint32), jnp.zeros(SAMPLE, jnp.int32), jnp.zeros(SAMPLE, bool))
    subsets, costs, met = lax.fori_loop(0, (count + chunk - 1) // chunk, solve, none)
    return subsets, costs, met


def chunk_size(window: int) -> int:
    """Problems solved side by side, so that what is compared stays in the cache: a power of two."""
    return max(16, min(1024, 1 << (14 - window // 2)))


def _rounded(x: jax.Array) -> jax.Array:
    """Units of 2^-46 in units of 2^-26, to nearest."""
    return (x + (1 << (_SHIFT - 1))) >> _SHIFT
