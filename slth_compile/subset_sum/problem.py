"""The subset-sum problems of one batch: candidates from source words, generated where they are solved."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from slth_compile.constructions.da_cunha import Family
from slth_compile.source.dyadic import ENTRY_BITS, PRODUCT_BITS, masked_sum
from slth_compile.source.layout import Gadget
from slth_compile.source.tensor import Drawn, Tensor, entries_at
from slth_compile.subset_sum import code_length
from slth_compile.subset_sum.dispatch import Device
from slth_compile.subset_sum.four_list import near_subset
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW, closest_subset
from slth_compile.subset_sum.one_pass import materialise

WIDE: Any = {"xla_cpu_prefer_vector_width": 512, "xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
"""Compiler options of the solvers, measured on CPUs with wide vectors; no other device has seen them yet.

Cores share batches, not operations: split in two, each pass over a chunk would fetch half of it from the other's cache.
"""

NARROW_BITS = 24
"""Binary digits of a problem that is solved in 32 bits, in units of the gain."""

NARROW_WINDOW = 24
"""Largest window that 32 bits have room for."""

_SLACK = 1 / 8
_SMALLEST_TABLE = 1 << 20
_SHIFT = PRODUCT_BITS - NARROW_BITS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """The usable copies of every channel of a family on a device, one channel after the other.

    Attributes:
        copies: Their numbers, int32 `(size,)`.
        own: Their entries of `U`, int32 `(size,)`, units of 2^-23.
        width: Copies of a channel in the table, uint32.
        channels: C, uint32.
        outputs: S/groups, uint32.
        weights: Weights of the family, uint64: consecutive copies of a weight are so far apart in `V`.
    """

    copies: jax.Array
    own: jax.Array
    width: jax.Array
    channels: jax.Array
    outputs: jax.Array
    weights: jax.Array


def chunk_size(window: int) -> int:
    """Problems solved side by side, so that the sorted lists of a chunk stay in the cache: an odd multiple of 16.

    Sixteen numbers of 32 bits are a cache line and a vector. The rows that a pass reads and writes together are powers
    of two of rows apart: were a row a power of two of bytes, all of them would fall into one set of the cache.
    """
    if window > MAXIMUM_WINDOW:
        return 8
    return 16 * (min(32, (1 << 11) >> (window + 1) // 2) | 1)


def batch_size(window: int) -> int:
    """Problems of one dispatch, some fifty milliseconds of work; fewer cost less, and are the same program."""
    chunk = chunk_size(window)
    if window > MAXIMUM_WINDOW:
        return 4 * chunk
    return chunk * max(1, (1 << min(16, 24 - (window + 1) // 2)) // chunk)


def rounding(window: int, tolerance: float) -> float:
    """How far the error of the subset taken may exceed the smallest one, both in units of the gain.

    Solved in 32 bits, every candidate and the target is rounded by up to 2^-25: the errors of all subsets move by up to
    `(m + 1) 2^-25`, and the best rounded one is within twice that of the best. Where that is more than an eighth of the
    tolerance, or the window too large, 64 bits are used and nothing is lost.

    Args:
        window: Candidates m.
        tolerance: In units of the gain.
    """
    slack = (window + 1) * 2.0**-NARROW_BITS
    return slack if window <= NARROW_WINDOW and slack <= _SLACK * tolerance else 0.0


def narrowed(x: jax.Array) -> jax.Array:
    """Integers in units of 2^-46 as int32 in units of 2^-24, rounded to nearest, halves up."""
    return ((x + (1 << (_SHIFT - 1))) >> _SHIFT).astype(jnp.int32)


def gadget_rounding(gadget: Gadget) -> float:
    """`rounding` of a gadget's problems."""
    return rounding(gadget.window, float(np.ldexp(gadget.tolerance, -gadget.gain)))


def compile_program(window: int, narrow: bool, bits: int = ENTRY_BITS + 1) -> None:
    """Compiles `solve_batch` for a window on the first local device; what is compiled is kept by JAX.

    Args:
        window: Candidates m; above 30, where another solver is used, nothing is done.
        narrow: Whether in 32 bits.
        bits: Binary digits of the entries of `V`.
    """
    if window > MAXIMUM_WINDOW:
        return
    device, size = jax.local_devices()[0], batch_size(window)
    with jax.enable_x64(True), jax.default_device(device):
        one = np.ones(1, np.uint32)
        nothing = Table(*(np.zeros(_SMALLEST_TABLE, np.int32),) * 2, *(np.uint32(1),) * 3, np.uint64(1))  # type: ignore[arg-type]
        v = jax.device_put(Drawn((jnp.uint32(one[0]), jnp.uint32(one[0])), bits), device)
        arrays = (np.zeros(size, np.uint32), np.zeros(size, np.uint32), np.zeros(size, np.int64))
        solve_batch(v, jax.device_put(nothing, device), *arrays, np.int32(0), window=window, narrow=narrow)


def table(family: Family, device: Device) -> Table:
    """The table of a family on a device; call it inside `jax.enable_x64(True)`.

    Padded so that few sizes, and programs, are in use.
    """
    size = max(_SMALLEST_TABLE, 1 << (family.copies.size - 1).bit_length())

    def padded(x: np.ndarray) -> np.ndarray:
        return np.pad(np.ascontiguousarray(x.T, np.int32).reshape(-1), (0, size - x.size))

    _, channels, outputs = family.weights.shape
    return jax.device_put(
        Table(
            copies=padded(family.copies),  # type: ignore[arg-type]
            own=padded(family.own),  # type: ignore[arg-type]
            width=np.uint32(len(family.copies)),  # type: ignore[arg-type]
            channels=np.uint32(channels),  # type: ignore[arg-type]
            outputs=np.uint32(outputs),  # type: ignore[arg-type]
            weights=np.uint64(family.weights.size),  # type: ignore[arg-type]
        ),
        device,
    )


def candidates_of(v: Tensor, table: Table, flat: jax.Array, numbers: jax.Array, window: int) -> jax.Array:
    """The candidates of some weights, int64 `(window, batch)`, units of 2^-46 of the gain.

    Args:
        v: The tensor `V`.
        table: The family's copies.
        flat: Canonical flat positions of the weights, uint32 `(batch,)`.
        numbers: Their windows, uint32 `(batch,)`; they must exist.
        window: Candidates m.
    """
    channel = flat // table.outputs % table.channels
    place = channel * table.width + numbers * jnp.uint32(window) + jnp.arange(window, dtype=jnp.uint32)[:, None]
    copies, own = (x.at[place].get(mode="promise_in_bounds") for x in (table.copies, table.own))
    address = copies.astype(jnp.uint64) * table.weights + flat.astype(jnp.uint64)
    return materialise(entries_at(v, address) * own.astype(jnp.int64))


@functools.partial(jax.jit, static_argnames=("window", "narrow"), compiler_options=WIDE)
def solve_batch(
    v: Tensor,
    table: Table,
    flat: jax.Array,
    numbers: jax.Array,
    targets: jax.Array,
    count: jax.Array,
    *,
    window: int,
    narrow: bool,
) -> tuple[jax.Array, jax.Array]:
    """The closest subset of every window, and the sum its booleans keep.

    Args:
        v: The tensor `V`.
        table: The family's copies.
        flat: Canonical flat positions of the weights, uint32 `(batch,)`.
        numbers: Their windows, uint32 `(batch,)`.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain, magnitude at most 2^46 if `narrow`.
        count: Problems that are wanted, int32: the first of the batch.
        window: Candidates m.
        narrow: Whether the problems are solved in 32 bits; see `rounding`.

    Returns:
        `subsets` uint32 `(batch,)` and `sums` int64 `(batch,)`, recomputed from the subsets in exact integers.
    """

    def solve(flat: jax.Array, numbers: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        exact = candidates_of(v, table, flat, numbers, window)
        problem = (exact, targets)
        if narrow:
            problem = tuple(narrowed(x) for x in problem)
        subsets = closest_subset(*problem)
        return subsets, masked_sum(exact, subsets)

    subsets, sums = in_chunks(solve, (flat, numbers, targets), count, chunk_size(window))
    return subsets, sums


@functools.partial(jax.jit, static_argnames=("window",))
def solve_near_batch(
    v: Tensor,
    table: Table,
    flat: jax.Array,
    numbers: jax.Array,
    targets: jax.Array,
    enough: jax.Array,
    count: jax.Array,
    *,
    window: int,
) -> tuple[jax.Array, jax.Array]:
    """A near subset of every window above 30, and the sum its booleans keep.

    Args:
        v: The tensor `V`.
        table: The family's copies.
        flat: Canonical flat positions of the weights, uint32 `(batch,)`.
        numbers: Their windows, uint32 `(batch,)`.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain.
        enough: Errors at which a search ends, int64 `(batch,)`, the same units.
        count: Problems that are wanted, int32: the first of the batch.
        window: Candidates m.

    Returns:
        `subsets` uint64 `(batch,)` and `sums` int64 `(batch,)`, recomputed from the subsets in exact integers.
    """
    # Padding ends at once.
    enough = jnp.where(jnp.arange(enough.shape[0]) < count, enough, 1 << 60)

    def solve(
        flat: jax.Array, numbers: jax.Array, targets: jax.Array, enough: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        exact = candidates_of(v, table, flat, numbers, window)
        subsets = near_subset(exact, targets, enough)
        return subsets, masked_sum(exact, subsets)

    subsets, sums = in_chunks(solve, (flat, numbers, targets, enough), count, chunk_size(window))
    return subsets, sums


@functools.partial(jax.jit, static_argnames=("window", "exact"), compiler_options=WIDE)
def solve_cheapest_batch(
    v: Tensor,
    table: Table,
    flat: jax.Array,
    numbers: jax.Array,
    targets: jax.Array,
    tolerance: jax.Array,
    pruned: jax.Array,
    kept: jax.Array,
    count: jax.Array,
    *,
    window: int,
    exact: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The subset of every window that costs least within its tolerance, and the sum its booleans keep.

    Args:
        v: The tensor `V`.
        table: The family's copies.
        flat: Canonical flat positions of the weights, uint32 `(batch,)`.
        numbers: Their windows, uint32 `(batch,)`.
        targets: Integer targets, int64 `(batch,)`, units of 2^-46 of the gain.
        tolerance: int64 `(batch,)`, the same units.
        pruned: Costs of candidates by context, int32 `(8,)`; see `code_length.Costs`.
        kept: The same for those kept.
        count: Problems that are wanted, int32: the first of the batch.
        window: Candidates m.
        exact: Whether the problems are solved in 64 bits.

    Returns:
        `subsets` uint32, `sums` int64 recomputed from them in exact integers, `costs` int32, `found` bool; `(batch,)`.
    """

    def solve(flat: jax.Array, numbers: jax.Array, targets: jax.Array, allowed: jax.Array) -> tuple[jax.Array, ...]:
        candidates = candidates_of(v, table, flat, numbers, window)
        subsets, costs, found = code_length.cheapest_within(candidates, pruned, kept, targets, allowed, exact)
        return subsets, masked_sum(candidates, subsets), costs, found

    found = in_chunks(solve, (flat, numbers, targets, tolerance), count, code_length.chunk_size(window))
    return found  # type: ignore[return-value]


Tables = dict[Device, tuple[Any, Table]]
"""The tensor `V` and the table of a family on every local device."""


def placed(family: Family) -> Tables:
    """The tensor `V` and the table of a family, on every local device."""
    with jax.enable_x64(True):
        return {device: (jax.device_put(family.v, device), table(family, device)) for device in jax.local_devices()}


def on_devices(
    family: Family,
    solve: Callable[..., tuple[jax.Array, ...]],
    arrays: tuple[np.ndarray, ...],
    further: tuple[np.ndarray, ...] = (),
    tables: Tables | None = None,
) -> Callable[[Device, slice], tuple[np.ndarray, ...]]:
    """How to solve any slice of some problems of a family on any device, as `dispatch.solve_everywhere` wants it.

    Args:
        family: The problems; its table is put on every device once.
        solve: `solve_batch` or another of its kind, with `V` and table first and the wanted count last.
        arrays: One entry a problem.
        further: What follows them in the arguments of `solve`.
        tables: What `placed` made of the family, None to make it for these problems alone.
    """
    size, own = batch_size(family.gadget.window), placed(family) if tables is None else tables

    def run(device: Device, part: slice) -> tuple[np.ndarray, ...]:
        count = part.stop - part.start
        with jax.enable_x64(True), jax.default_device(device):
            padded = [np.pad(x[part], (0, size - count)) for x in arrays]
            results = solve(*own[device], *padded, *further, np.int32(count))
            return tuple(np.asarray(x)[:count] for x in results)

    return run


def in_chunks(
    solve: Callable[..., tuple[jax.Array, ...]], arrays: tuple[jax.Array, ...], count: jax.Array, size: int
) -> tuple[jax.Array, ...]:
    """The results of a function of `size` problems for the first `count` of a batch; those behind are not computed.

    Args:
        solve: From arrays `(size,)` to arrays `(size,)`.
        arrays: `(batch,)`.
        count: int32.
        size: Problems a chunk.
    """
    shapes = jax.eval_shape(solve, *(jax.ShapeDtypeStruct((size,), x.dtype) for x in arrays))
    batch = arrays[0].size
    arrays = tuple(jnp.pad(x, (0, -batch % size)) for x in arrays)
    found = tuple(jnp.zeros(arrays[0].shape, shape.dtype) for shape in shapes)

    def step(chunk: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        start = chunk * size
        part = solve(*(lax.dynamic_slice(x, (start,), (size,)) for x in arrays))
        return tuple(lax.dynamic_update_slice(x, y, (start,)) for x, y in zip(found, part, strict=True))

    found = lax.fori_loop(jnp.int32(0), (count + (size - 1)) // size, step, found)
    return tuple(x[:batch] for x in found)


def integer_targets(weights: np.ndarray, gain: int, product_bits: int) -> np.ndarray:
    """Weights rounded to the grid of the products, int64, units of `2^(gain - product_bits)`."""
    return np.rint(np.ldexp(weights, product_bits - gain)).astype(np.int64)
