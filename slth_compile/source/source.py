"""Where the random numbers come from: a generator with a seed, or a file that somebody supplied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from slth_compile.source.law import STANDARD, SourceLaw
from slth_compile.source.tensor import Drawn, Given, Tensor
from slth_compile.source.threefry import TENSOR_BIAS_U, TENSOR_BIAS_V, TENSOR_U, TENSOR_V, tensor_key

TENSOR_NAMES = {TENSOR_U: "U", TENSOR_V: "V", TENSOR_BIAS_U: "bias_u", TENSOR_BIAS_V: "bias_v"}

_SIZES = [1 << b for b in range(20, 40, 2)]


@dataclasses.dataclass(frozen=True)
class Generated:
    """The source of a seed.

    Attributes:
        seed: Unsigned 64 bit.
        law: Of its entries.
    """

    seed: int
    law: SourceLaw = STANDARD

    def tensor(self, layer: int, number: int) -> Drawn:
        """Tensor `number` (one of the `TENSOR_*` constants) of a layer."""
        with jax.enable_x64(True):
            key = tensor_key(self.seed, layer, number)
        return Drawn(key, self.law.bits, self.law.signs and number in (TENSOR_U, TENSOR_BIAS_U))

    def __str__(self) -> str:
        return f"seed {self.seed}" + ("" if self.law == STANDARD else f", {self.law}")


@dataclasses.dataclass(frozen=True, eq=False)
class Supplied:
    """Random numbers given from outside; of `U` only the entry that each hidden channel keeps.

    Attributes:
        tensors: int32 arrays by name, `"{layer}.{U | V | bias_u | bias_v}"`, in units of 2^-23 of the tensor's scale:
            `U (N, C)`, `V (N, taps, C, S/groups)`, `bias_u (N)`, `bias_v (N, S)`.
        scales: Exponents e by name: the numbers that were given are `entry * 2^(e-23)`.
    """

    tensors: Mapping[str, np.ndarray]
    scales: Mapping[str, int]

    @property
    def seed(self) -> None:
        """It has none."""
        return None

    def tensor(self, layer: int, number: int) -> Given:
        """Tensor `number` (one of the `TENSOR_*` constants) of a layer; `U` has one entry for each hidden channel."""
        flat = self.tensors[f"{layer}.{TENSOR_NAMES[number]}"].reshape(-1)
        # Few sizes: every one is a program to compile.
        size = next(size for size in _SIZES if size >= flat.size)
        return Given(np.pad(flat, (0, size - flat.size)))

    def __str__(self) -> str:
        return "supplied"


Source = Generated | Supplied
"""What tickets are cut from: `tensor(layer, number)` gives the entries of any of its tensors."""

__all__ = ["Generated", "Source", "Supplied", "Tensor"]
