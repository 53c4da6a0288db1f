"""Networks of random weights, whose kernels are functions of a seed alone: what scores choose from.

The laws are those of `source.initialisation`; layers count from 0 in the order in which they are applied. Biases there
are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slth_compile.baselines.networks import Layer
from slth_compile.errors import InputError
from slth_compile.source.initialisation import KAIMING_NORMAL, LAWS, SIGNED_CONSTANT, random_kernel

__all__ = ["KAIMING_NORMAL", "LAWS", "SIGNED_CONSTANT", "parse_law", "random_kernels"]


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
    return {layer.name: random_kernel(seed, number, layer.kernel, law) for number, layer in enumerate(layers)}
