"""Where the random numbers of a ticket come from: words of a seed, or numbers that were supplied with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from slth_compile.checker.files import SOURCE as FILE
from slth_compile.checker.safetensors import Tensor
from slth_compile.checker.threefry import BIAS_U, BIAS_V, KERNEL_U, KERNEL_V, entries, tensor_key
from slth_compile.errors import VerificationError

NAMES = {KERNEL_U: "U", KERNEL_V: "V", BIAS_U: "bias_u", BIAS_V: "bias_v"}

Entries = Callable[[np.ndarray], np.ndarray]
"""From flat positions in a tensor, int64 `(n,)`, to its entries, int64 in [-2^23, 2^23], units of 2^-23."""


@dataclasses.dataclass(frozen=True)
class Generated:
    """The words of a seed.

    Attributes:
        seed: Unsigned 64 bit.
        bits: Binary digits of an entry, 4 to 24.
        signs: Whether the entries of both U are signed constants.
    """

    seed: int
    bits: int = 24
    signs: bool = False

    def tensor(self, layer: int, number: int, shape: tuple[int, ...]) -> Entries:
        """The entries of one tensor of one layer, whatever its shape."""
        key, signs = tensor_key(self.seed, layer, number), self.signs and number in (KERNEL_U, BIAS_U)
        return functools.partial(entries, key, bits=self.bits, signs=signs)

    def finish(self) -> str:
        """What was found, in words."""
        law = f" ({self.bits} bits{', U a signed constant' * self.signs})" if self != Generated(self.seed) else ""
        return f"words regenerated from seed {self.seed}{law}"


@dataclasses.dataclass(frozen=True)
class Supplied:
    """The numbers in `source.safetensors`; of U, the entries that hidden channels may keep.

    Attributes:
        stored: Its tensors.
        used: Names of those that were asked for.
    """

    stored: Mapping[str, Tensor]
    used: set[str] = dataclasses.field(default_factory=set)

    def tensor(self, layer: int, number: int, shape: tuple[int, ...]) -> Entries:
        """The entries of one tensor of one layer.

        Args:
            layer: The layer's number.
            number: Of the tensor.
            shape: `U (N, C, C/groups)`, `V (N, P, C, S/groups)`, `bias_u (N, 1, 1)` or `bias_v (N, 1, 1, S)`.

        Raises:
            VerificationError: It is missing, has another shape, or holds what is no multiple of 2^-23 of its scale.
        """
        name = f"{layer}.{NAMES[number]}"
        flat = {KERNEL_U: shape[:2], KERNEL_V: shape, BIAS_U: shape[:1], BIAS_V: (shape[0], shape[-1])}[number]
        stored = self.stored.get(name)
        if stored is None or stored.dtype != "F32" or stored.shape != flat:
            found = "is missing" if stored is None else f"is {stored.dtype} {list(stored.shape)}"
            raise VerificationError("source", f"'{name}' of {FILE} {found}, expected F32 {list(flat)}")
        self.used.add(name)
        values = integers(name, stored.float64().reshape(-1))
        # Of U, each row of C/groups entries has one that is used.
        row = shape[2] if number in (KERNEL_U, BIAS_U) else 1
        return lambda addresses: values[addresses // row].astype(np.int64)

    def finish(self) -> str:
        """What was found, in words.

        Raises:
            VerificationError: Tensors that belong to no layer.
        """
        if unknown := sorted(set(self.stored) - self.used):
            raise VerificationError("source", f"{FILE} should not have {ascii(unknown)[:200]}")
        return f"supplied, read from {FILE}"


Source = Generated | Supplied


def integers(name: str, values: np.ndarray) -> np.ndarray:
    """Numbers in units of `2^(e-23)`, int32, with `2^e` the least power of two that no |number| exceeds.

    Args:
        name: For messages.
        values: float64, shape `(n,)`.

    Raises:
        VerificationError: One is not finite, or no multiple of the unit.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(values).all():
        raise VerificationError("source", f"'{name}' of {FILE} holds NaN or infinity")
    mantissa, exponent = np.frexp(largest)
    scaled = np.ldexp(values, 23 - int(exponent) + int(mantissa == 0.5))
    if np.any(scaled != np.rint(scaled)):
        raise VerificationError("source", f"'{name}' of {FILE} holds numbers of more than 24 bits")
    return scaled.astype(np.int32)
