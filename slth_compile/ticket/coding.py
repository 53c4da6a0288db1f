"""Masks as bytes: a flag a weight, window numbers in unary, subset bits in the context of |candidate|.

The bits of a mask form sequences, each in canonical weight order, each with one probability (`lanes`):

    empty     a bit a weight, 1 = it keeps nothing
    level j   j = 0 .. W-1, a bit for every other weight whose window number is j or more, 1 = it is more than j;
              W is the largest number there is
    context c c = 0 .. 7, the subset bits whose candidates have this context, of all weights that keep something, in
              their own window; within a weight in the order of the candidates

and are stored as: W, two bytes; q of every sequence, a byte each, in this order; the numbers of words of all lanes but
the last, four bytes each; the words of all lanes. All little-endian, `L = max(1, floor(weights * m / 2^16))` lanes.
There is exactly one such code for a mask.

A large candidate is kept less often than a small one, the more so the sparser the mask. Contexts that are equally wide
in the square root of |candidate| code 1 to 3 % shorter than eight equal ranges of |candidate|, and 1 % longer than 64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.constructions.da_cunha import Family
from slth_compile.errors import InputError
from slth_compile.source.tensor import Tensor, entries_at
from slth_compile.ticket.lanes import Reader, quantised, write
from slth_compile.ticket.masks import SubsetMask, subset_dtype

CONTEXTS = 8
_BATCH, _CHUNK = 1 << 16, 1 << 11
_SORTED = 1 << 16  # candidates sorted by context at a time: what stays in the second-level cache

Contexts = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From flat positions `(n,)` and window numbers `(n,)` of weights to their candidates' contexts, uint8 `(n, m)`."""


def context(candidates: jax.Array) -> jax.Array:
    """The context of candidates, 0 .. 7: the largest `c <= 7` with `c^2 2^40 <= |candidate|`, in units of 2^-46.

    Args:
        candidates: Integers `U * V`, magnitude at most 2^46.

    Returns:
        uint8 of the same shape.
    """
    size = jnp.abs(candidates)
    return sum((size >= (c * c) << 40).astype(jnp.uint8) for c in range(1, CONTEXTS))  # type: ignore[return-value]


def encode_family(family: Family, mask: SubsetMask) -> np.ndarray:
    """The code of a family's mask, read back and compared.

    Args:
        family: The weights, for the contexts of their candidates.
        mask: Their mask.

    Returns:
        uint8, shape `(bytes,)`.
    """
    window, kept = family.gadget.window, np.flatnonzero(mask.subsets)
    numbers = mask.windows.reshape(-1)[kept]
    found = candidate_contexts(family)(kept, numbers)
    coded = encode(mask, window, found)

    def same(flat: np.ndarray, windows: np.ndarray) -> np.ndarray:
        if not (np.array_equal(flat, kept) and np.array_equal(windows, numbers)):
            raise AssertionError("coded windows do not read back as they were written")
        return found

    again = decode(coded, mask.windows.shape, window, int(family.windows.max()), same)
    if not (np.array_equal(again.windows, mask.windows) and np.array_equal(again.subsets, mask.subsets)):
        raise AssertionError("a coded mask does not read back as it was written")
    return coded


def decode_family(family: Family, coded: np.ndarray) -> SubsetMask:
    """The mask of a family that `encode_family` wrote.

    Raises:
        InputError: It is not the code of a mask of this family.
    """
    offered = int(family.windows.max())
    return decode(coded, family.weights.shape, family.gadget.window, offered, candidate_contexts(family))


def candidate_contexts(family: Family) -> Contexts:
    """The contexts of a family's candidates, from the source; raises InputError for windows it does not have."""

    def found(flat: np.ndarray, windows: np.ndarray) -> np.ndarray:
        if np.any(windows >= family.windows[family.channel(flat)]):
            raise InputError("masks: a window lies beyond the usable copies of its channel")
        contexts = np.empty((flat.size, family.gadget.window), np.uint8)
        # Everything is padded to powers of two, so that few shapes are ever compiled.
        with jax.enable_x64(True):
            copies, own = (jax.device_put(_padded(a.astype(np.int32).reshape(-1))) for a in (family.copies, family.own))
            shape = np.array(family.weights.shape)
            for start in range(0, flat.size, _BATCH):
                part = slice(start, start + _BATCH)
                weights = _padded(flat[part]), _padded(windows[part].astype(np.int32))
                batch = _contexts(family.v, copies, own, shape, *weights, window=family.gadget.window)
                contexts[part] = np.asarray(batch)[: flat[part].size]
        return contexts

    return found


def encode(mask: SubsetMask, window: int, contexts: np.ndarray) -> np.ndarray:
    """The code of a mask.

    Args:
        mask: The mask.
        window: Candidates m of a window.
        contexts: Contexts of the candidates of every weight that keeps something, uint8 `(kept, m)`.

    Returns:
        uint8, shape `(bytes,)`.
    """
    windows, subsets = mask.windows.reshape(-1), mask.subsets.reshape(-1)
    kept = np.flatnonzero(subsets)
    numbers, levels = windows[kept], int(windows.max(initial=0))
    sequences = [subsets == 0]
    for level in range(levels):
        sequences.append(numbers > level)
        numbers = numbers[numbers > level]
    split: list[list[np.ndarray]] = [[] for _ in range(CONTEXTS)]
    for rows, order, edges in _by_context(contexts):
        bits = np.unpackbits(_bytes(subsets[kept[rows]]), axis=1, count=window, bitorder="little")
        bits = bits.reshape(-1)[order]
        for own, (begin, end) in zip(split, itertools.pairwise(edges), strict=True):
            own.append(bits[begin:end])
    sequences += [np.concatenate(own) if own else np.zeros(0, np.uint8) for own in split]
    q = [quantised(int(np.count_nonzero(bits)), bits.size) for bits in sequences]
    lanes = write([np.packbits(bits, bitorder="little") for bits in sequences], q, _lanes(windows.size, window))
    head = np.array([levels], "<u2").tobytes() + bytes(q)
    lengths = np.array([len(lane) for lane in lanes[:-1]], "<u4").tobytes()
    return np.frombuffer(head + lengths + np.concatenate(lanes).astype("<u4").tobytes(), np.uint8)


def decode(coded: np.ndarray, shape: tuple[int, ...], window: int, offered: int, contexts: Contexts) -> SubsetMask:
    """The mask that `encode` wrote.

    Args:
        coded: uint8 `(bytes,)`.
        shape: Canonical shape of the weights.
        window: Candidates m of a window.
        offered: Windows that a channel has at most.
        contexts: Gives the contexts of candidates, once the windows are known.

    Raises:
        InputError: It is not the code of a mask.
    """
    size = int(np.prod(shape))
    levels, q, lanes = _parse(coded, _lanes(size, window))
    if levels >= max(1, offered):
        raise InputError(f"masks: found window {levels} where a channel has at most {offered}")
    reader = Reader(lanes)
    kept = np.flatnonzero(reader.read(size, q[0]) == 0)
    windows = np.zeros(size, np.uint16)
    left = kept
    for level in range(levels):
        left = left[reader.read(left.size, q[1 + level]) != 0]
        windows[left] = level + 1
    if levels and not left.size:
        raise InputError(f"masks: no weight has the largest window number {levels}")
    found = contexts(kept, windows[kept])
    counts = [int(np.count_nonzero(found == c)) for c in range(CONTEXTS)]
    split = [reader.read(count, p) for count, p in zip(counts, q[1 + levels :], strict=True)]
    reader.finish()
    dtype = np.dtype(subset_dtype(window)).newbyteorder("<")
    subsets, at = np.zeros(size, dtype), [0] * CONTEXTS
    for rows, order, edges in _by_context(found):
        counts = np.diff(edges).tolist()
        sorted_bits = np.concatenate([bits[a : a + n] for bits, a, n in zip(split, at, counts, strict=True)])
        at = [a + n for a, n in zip(at, counts, strict=True)]
        bits = np.empty(order.size, np.uint8)
        bits[order] = sorted_bits
        padded = np.zeros((order.size // window, 8 * dtype.itemsize), np.uint8)
        padded[:, :window] = bits.reshape(-1, window)
        subsets[kept[rows]] = np.packbits(padded, axis=1, bitorder="little").view(dtype)[:, 0]
    if not subsets[kept].all():
        raise InputError("masks: an empty subset is coded as one that is not")
    return SubsetMask(windows.reshape(shape), subsets.astype(subset_dtype(window), copy=False).reshape(shape))


def _parse(coded: np.ndarray, lanes: int) -> tuple[int, list[int], list[np.ndarray]]:
    """The largest window number, `q` of every sequence, the words of every lane."""
    raw = coded.tobytes()
    levels = int.from_bytes(raw[:2], "little")
    begin = 2 + 1 + levels + CONTEXTS
    body = begin + 4 * (lanes - 1)
    if coded.dtype != np.uint8 or coded.ndim != 1 or len(raw) < body or (len(raw) - body) % 4:
        raise InputError(f"masks: {len(raw)} bytes do not hold the head and whole words of a code")
    lengths = np.frombuffer(raw[begin:body], "<u4").astype(np.int64)
    stream = np.frombuffer(raw[body:], "<u4").astype(np.uint32)
    ends = np.cumsum(lengths)
    if lanes > 1 and ends[-1] > len(stream):
        raise InputError(f"masks: {len(stream)} words do not hold lanes of {ends[-1]}")
    edges = [0, *ends.tolist(), len(stream)]
    return levels, list(raw[2:begin]), [stream[a:b] for a, b in itertools.pairwise(edges)]


def _by_context(contexts: np.ndarray) -> Iterator[tuple[slice, np.ndarray, list[int]]]:
    """Some rows of contexts at a time, the stable order that sorts their entries, and where each context begins."""
    step = max(1, _SORTED // contexts.shape[1])
    for start in range(0, len(contexts), step):
        flat = contexts[start : start + step].reshape(-1)
        counts = [int(np.count_nonzero(flat == c)) for c in range(CONTEXTS)]
        yield slice(start, start + step), np.argsort(flat, kind="stable"), np.cumsum([0, *counts]).tolist()


def _lanes(weights: int, window: int) -> int:
    return max(1, weights * window >> 16)


def _bytes(rows: np.ndarray) -> np.ndarray:
    """Subsets as little-endian bytes, `(n, 4)` or `(n, 8)`."""
    size = rows.dtype.itemsize
    return np.ascontiguousarray(rows).astype(f"<u{size}", copy=False).view(np.uint8).reshape(-1, size)


def _padded(array: np.ndarray) -> np.ndarray:
    """Zeros up to the next power of two, 1024 at least."""
    return np.pad(array, (0, (1 << max(10, (array.size - 1).bit_length())) - array.size))


@functools.partial(jax.jit, static_argnames="window")
def _contexts(
    v: Tensor, copies: jax.Array, own: jax.Array, shape: jax.Array, flat: jax.Array, windows: jax.Array, *, window: int
) -> jax.Array:
    """Contexts `(batch, m)`, `Family.candidates` included: a chunk stays in the first caches."""
    _, channels, outputs = shape

    def chunk(weights: tuple[jax.Array, jax.Array]) -> jax.Array:
        flat, windows = (part[:, None] for part in weights)
        rank = windows * window + jnp.arange(window, dtype=jnp.int32)
        place = rank * channels + flat // outputs % channels
        addresses = copies[place] * shape.prod() + flat
        return context(entries_at(v, addresses.astype(jnp.uint64)) * own[place])

    chunks = [part.reshape(-1, min(part.size, _CHUNK)) for part in (flat, windows)]
    return jax.lax.map(chunk, tuple(chunks)).reshape(-1, window)
