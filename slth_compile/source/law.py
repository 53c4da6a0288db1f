"""The law of a generated source: how many bits its entries have, and whether `U` is a signed constant."""

from __future__ import annotations

import dataclasses

from slth_compile.source.dyadic import ENTRY_BITS

FEWEST_BITS, MOST_BITS = 4, ENTRY_BITS + 1


@dataclasses.dataclass(frozen=True)
class SourceLaw:
    """The law of the entries of `U` and `V`, both made of the same 32-bit words `w` whatever the law.

        V, U = ((w >> (32 - bits)) - 2^(bits-1)) 2^-(bits-1),   uniform on the multiples of 2^-(bits-1) in [-1, 1)
        U = +1 where the top bit of w is set, else -1           with `signs`

    So a source of fewer bits is the one of more bits, rounded down, and signed constants have the signs of uniform
    entries. With signed constants the candidates of a weight are `+-V`: uniform, not products of two uniforms.

    Attributes:
        bits: Binary digits of an entry, its sign among them, 4 to 24.
        signs: Whether the entries of `U` are signed constants.
    """

    bits: int = MOST_BITS
    signs: bool = False

    @property
    def grid_bits(self) -> int:
        """Candidates `U V` are multiples of `2^-grid_bits`."""
        return (self.bits - 1) * (1 if self.signs else 2)

    def __str__(self) -> str:
        return f"{self.bits} bits an entry" + (", U a signed constant" if self.signs else "")


STANDARD = SourceLaw()
"""24 bits, both tensors uniform: the law the calibration tables were measured for."""
