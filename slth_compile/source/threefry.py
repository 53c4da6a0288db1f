"""The words of the source: Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), addressed by element.

    tensor key = threefry(seed key, (layer, tensor)),   word i = threefry(tensor key, (b >> 32, b))[i % 2],   b = i // 2

Any word can be computed alone, and the copy index is the slowest in every tensor, so a wider source extends a narrower.
`jax.random` is not used: its draws have changed between releases, and the seed is part of the file format.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

GENERATOR = "threefry2x32-20-v1"
TENSOR_U, TENSOR_V, TENSOR_BIAS_U, TENSOR_BIAS_V = range(4)

Key = tuple[jax.Array, jax.Array]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def block(key: Key, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two words of the blocks with counters `(high, low)`, uint32, elementwise.

    Written out: the primitive behind `jax.random` is a loop over memory on CPU, five times slower than this expression,
    which XLA fuses with what reads it.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + schedule[0], low + schedule[1]
    for turn in range(5):
        for rotation in _ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation)))
        x = x + schedule[(turn + 1) % 3]
        y = y + (schedule[(turn + 2) % 3] + jnp.uint32(turn + 1))
    return x, y


# Outside other programs the rounds, one operation after the other, would take milliseconds.
_BLOCK = jax.jit(block)


def tensor_key(seed: int, layer: int, tensor: int) -> Key:
    """The key of one tensor of one layer.

    Args:
        seed: Unsigned 64 bit.
        layer: Index of the weighted layer in topological order.
        tensor: One of the `TENSOR_*` constants.
    """
    # NumPy's numbers: to make one of JAX's takes longer than the rounds.
    seed_key = (np.uint32(seed >> 32), np.uint32(seed & 0xFFFFFFFF))
    return _BLOCK(seed_key, np.uint32(layer), np.uint32(tensor))


def words(key: Key, elements: jax.Array) -> jax.Array:
    """The 32-bit words at flat positions `elements` (uint64; call inside `jax.enable_x64(True)`)."""
    half = elements >> jnp.uint64(1)
    high = (half >> jnp.uint64(32)).astype(jnp.uint32)
    low = (half & jnp.uint64(0xFFFFFFFF)).astype(jnp.uint32)
    first, second = block(key, high, low)
    return jnp.where(elements & jnp.uint64(1) == 0, first, second)
