"""Weights as networks are initialised, each a function of a seed and of its place: what masks are found for.

Entry `i` of the kernel of layer `l`, in C order of its shape `(taps..., inputs/groups, outputs)`, comes from word `i`
of the tensor `(l, 1)` of the source, the words that `V` has in a layout of width one (see `source.threefry`). With
`e` the exact entry of that word, an integer in [-2^23, 2^23), and fan_in the product of all sizes of the kernel but
the last:

    signed-constant   +sqrt(2 / fan_in) where e >= 0 (the top bit of the word is set), -sqrt(2 / fan_in) elsewhere
    kaiming-normal    sqrt(2 / fan_in) * Phi^-1((e + 2^23 + 1/2) / 2^24)

Signed constants are the same everywhere. The inverse of the normal distribution function is computed in float64 and
rounded to float32: with another library it may round to a neighbour.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.source.threefry import TENSOR_V

SIGNED_CONSTANT, KAIMING_NORMAL = "signed-constant", "kaiming-normal"
LAWS = (SIGNED_CONSTANT, KAIMING_NORMAL)
"""The laws of weights, after Ramanujan et al. (2020), section 4."""


def kernel_entries(seed: int, layer: int, places: np.ndarray) -> np.ndarray:
    """The entries `e` of a kernel at flat positions, int64 of their shape, in [-2^23, 2^23).

    Args:
        seed: Unsigned 64 bit.
        layer: Number of the layer, the first is 0.
        places: Flat positions in the kernel.
    """
    return read_entries(Generated(seed).tensor(layer, TENSOR_V), places.astype(np.uint64))


def random_kernel(seed: int, layer: int, shape: tuple[int, ...], law: str) -> np.ndarray:
    """A whole kernel, float32.

    Args:
        seed: Unsigned 64 bit.
        layer: Number of the layer, the first is 0.
        shape: `(taps..., inputs/groups, outputs)`.
        law: One of `LAWS`.
    """
    entries = kernel_entries(seed, layer, np.arange(math.prod(shape)))
    if law == SIGNED_CONSTANT:
        unit = np.where(entries >= 0, 1.0, -1.0)
    else:
        unit = ndtri((entries + (1 << ENTRY_BITS) + 0.5) * 2.0 ** -(ENTRY_BITS + 1))
    return (math.sqrt(2 / math.prod(shape[:-1])) * unit).astype(np.float32).reshape(shape)
