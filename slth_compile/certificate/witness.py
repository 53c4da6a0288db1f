"""Which sums of cases a branched bound rests on: what a checker needs to find it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

MOST_SPLITS = 12
"""Most units that a bound is split at: 2^12 leaves."""

NONE = -1
"""Pads the units of a row."""


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """The units that bounds are split at; numbers as `backward.targets` gives them.

    Any witness is sound, it decides how tight a bound is: a row's bound is the largest one over all sign patterns of
    its units. A row that is not listed has its plain bound.

    Attributes:
        regions: Rows of region `r` are `[regions[r], regions[r + 1])`, int64, shape `(regions + 1,)`.
        rows: What is bounded, int64, shape `(rows,)`, increasing within a region.
        splits: Units, then `NONE`, int32, shape `(rows, K)`.
    """

    regions: np.ndarray
    rows: np.ndarray
    splits: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).setflags(write=False)

    @property
    def depth(self) -> int:
        """The most units of a row."""
        return self.splits.shape[1]

    def tensors(self, domain: int) -> dict[str, np.ndarray]:
        """The arrays by name, as `witness.safetensors` holds them for the domain of that place."""
        return {f"{domain}/{field.name}": getattr(self, field.name) for field in dataclasses.fields(self)}


def witness_of(regions: int, region: np.ndarray, rows: np.ndarray, splits: np.ndarray) -> Witness:
    """The witness of rows in any order.

    Args:
        regions: How many regions there are.
        region: The region of every row, shape `(rows,)`.
        rows: What is bounded, shape `(rows,)`.
        splits: Units, then `NONE`, shape `(rows, K)`.
    """
    order = np.lexsort((rows, region))
    ends = np.searchsorted(region[order], np.arange(regions + 1))
    used = max(1, int((splits >= 0).sum(axis=1).max(initial=0)))
    return Witness(
        ends.astype(np.int64), rows[order].astype(np.int64), np.ascontiguousarray(splits[order, :used], np.int32)
    )


def joined(parts: Sequence[Witness]) -> Witness:
    """The witness of the regions of all parts, one after the other."""
    depth = max(part.depth for part in parts)
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    regions = [part.regions[:-1] + start for part, start in zip(parts, starts, strict=False)]
    splits = [np.pad(p.splits, ((0, 0), (0, depth - p.depth)), constant_values=NONE) for p in parts]
    return Witness(
        np.concatenate([*regions, starts[-1:]]).astype(np.int64),
        np.concatenate([part.rows for part in parts]),
        np.concatenate(splits),
    )


def read_witness(arrays: Mapping[str, np.ndarray], domain: int) -> Witness:
    """The witness that `Witness.tensors` named for a domain.

    Args:
        arrays: All arrays of `witness.safetensors`.
        domain: The domain's place.

    Raises:
        KeyError: An array is missing.
        ValueError: Shapes or types are not those of a witness; what the numbers mean is the checker's business.
    """
    found = Witness(*(arrays[f"{domain}/{field.name}"].copy() for field in dataclasses.fields(Witness)))
    rows, splits = found.rows, found.splits
    if [a.dtype for a in (found.regions, rows, splits)] != [np.int64, np.int64, np.int32]:
        raise ValueError(f"the witness of domain {domain} is not int64, int64 and int32")
    if found.regions.ndim != 1 or rows.ndim != 1 or splits.ndim != 2 or len(splits) != len(rows):
        raise ValueError(f"the witness of domain {domain} has the wrong shapes")
    if not 1 <= found.depth <= MOST_SPLITS:
        raise ValueError(f"the witness of domain {domain} has {found.depth} splits a row")
    ends = found.regions
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(rows) or (np.diff(ends) < 0).any():
        raise ValueError(f"the regions of the witness of domain {domain} are not in order")
    return found
