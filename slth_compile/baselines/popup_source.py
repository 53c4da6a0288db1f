"""Networks of random weights, whose kernels are functions of a seed alone: what scores choose from.

Entry `i` of the kernel of layer `l`, in C order of its flax shape `(taps..., inputs, outputs)`, comes from word `i` of
the tensor `(l, 1)` of the source, the words that `V` has in a layout of width one (see `source.threefry`). With `e`
the exact entry of that word, an integer in [-2^23, 2^23):

    signed-constant   +sqrt(2 / fan_in) where e >= 0 (the top bit of the word is set), -sqrt(2 / fan_in) elsewhere
    kaiming-normal    sqrt(2 / fan_in) * Phi^-1((e + 2^23 + 1/2) / 2^24)

Signed constants are the same everywhere. The inverse of the normal distribution function is computed in float64 and
rounded to float32: with another library it may round to a neighbour. Biases there are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from slth_compile.baselines.networks import Layer
from slth_compile.errors import InputError
from slth_compile.source.dyadic import ENTRY_BITS
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.source.threefry import TENSOR_V

SIGNED_CONSTANT, KAIMING_NORMAL = "signed-constant", "kaiming-normal"
LAWS = (SIGNED_CONSTANT, KAIMING_NORMAL)
"""The laws of `--law`, after Ramanujan et al. (2020), section 4."""


def parse_law(text: str) -> str:
    """The law of that name.

    Raises:
        InputError: There is none.
    """
    if text not in LAWS:
        raise InputError(f"--law {text}: unknown; expected one of {', '.join(LAWS)}")
    return text


def random_kernels(layers: Sequence[Layer], seed: int, law: str) -> dict[str, np.ndarray]:
    """The kernel of every layer, float32.

    Args:
        layers: The weighted layers in the order in which they are applied; the first is layer 0.
        seed: Unsigned 64 bit.
        law: One of `LAWS`.
    """
    found = {}
    for number, layer in enumerate(layers):
        entries = read_entries(Generated(seed).tensor(number, TENSOR_V), np.arange(layer.size, dtype=np.uint64))
        if law == SIGNED_CONSTANT:
            unit = np.where(entries >= 0, 1.0, -1.0)
        else:
            unit = ndtri((entries + (1 << ENTRY_BITS) + 0.5) * 2.0 ** -(ENTRY_BITS + 1))
        found[layer.name] = (math.sqrt(2 / layer.fan_in) * unit).astype(np.float32).reshape(layer.kernel)
    return found
