"""Which bounds of a walk are found by cases, and by those of which units: `witness.safetensors`.

Any witness gives true bounds; what is refused here are names of rows and units that there are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slth_compile.checker.safetensors import Tensor, read_safetensors
from slth_compile.checker.targets import Targets
from slth_compile.errors import VerificationError

MOST_SPLITS = 12
"""Units of one row at most: a bound takes two to the power of them passes."""

_FIELDS = {"regions": "I64", "rows": "I64", "splits": "I32"}


class Listed(NamedTuple):
    """The rows listed for one region, increasing, int64 `(n,)`, and their units, -1 for none, int32 `(n, K)`."""

    rows: np.ndarray
    splits: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """What is listed for one domain.

    Attributes:
        domain: Its place.
        starts: The first row of every region, and the number of rows.
        listed: Rows and units, all regions one after the other.
    """

    domain: int
    starts: np.ndarray
    listed: Listed

    def region(self, position: int) -> Listed:
        """What is listed for one region."""
        own = slice(int(self.starts[position]), int(self.starts[position + 1]))
        return Listed(*(array[own] for array in self.listed))

    def check(self, targets: Targets) -> None:
        """Nothing, where every row and unit that is listed exists, and rows name units known before them.

        Raises:
            VerificationError: They do not, a unit cannot be split or stands twice in a row, or rows are not sorted.
        """
        before = targets.before()
        for position in range(len(self.starts) - 1):
            found = _wrong(self.region(position), targets, before)
            if found is not None:
                raise VerificationError("witness", f"domain {self.domain}, region {position}: {found}")


def read_witness(path: Path, samples: Mapping[int, int]) -> dict[int, Witness]:
    """What is listed for every domain with a branched bound.

    Args:
        path: The file.
        samples: How many regions each of these domains has.

    Raises:
        VerificationError: A tensor is missing, unknown, or of another type or shape than expected.
    """
    tensors = read_safetensors(path, {"I32": 4, "I64": 8})
    expected = {f"{i}/{field}" for i in samples for field in _FIELDS}
    if set(tensors) != expected:
        wrong = ascii(sorted(set(tensors) ^ expected))[:200]
        raise VerificationError("witness", f"witness.safetensors lacks or should not have {wrong}")
    return {i: _witness(tensors, i, count) for i, count in samples.items()}


def _witness(tensors: Mapping[str, Tensor], domain: int, regions: int) -> Witness:
    own = {field: tensors[f"{domain}/{field}"] for field in _FIELDS}
    for field, tensor in own.items():
        rank = 2 if field == "splits" else 1
        if tensor.dtype != _FIELDS[field] or len(tensor.shape) != rank:
            found = f"{tensor.dtype} {tensor.shape}"
            raise VerificationError(
                "witness", f"'{domain}/{field}' is {found}, expected {_FIELDS[field]} and {rank} axes"
            )
    starts, rows, splits = (own[field].stored() for field in _FIELDS)
    if len(splits) != len(rows) or not 1 <= splits.shape[1] <= MOST_SPLITS:
        found = f"'{domain}/splits' has the shape {splits.shape} for {len(rows)} rows"
        raise VerificationError("witness", f"{found}, expected as many and 1 to {MOST_SPLITS} units")
    if len(starts) != regions + 1:
        raise VerificationError("witness", f"'{domain}/regions' has {len(starts)} entries for {regions} regions")
    if starts[0] != 0 or starts[-1] != len(rows) or (starts[1:] < starts[:-1]).any():
        raise VerificationError("witness", f"'{domain}/regions' does not part {len(rows)} rows in order")
    return Witness(domain, starts, Listed(rows, splits))


def _wrong(listed: Listed, targets: Targets, before: np.ndarray) -> str | None:
    """What is wrong with the rows of a region; None for nothing."""
    rows, units = listed
    total = int(targets.base[-1])
    if len(rows) > 4 * total:
        return f"{len(rows)} rows are listed, there are {4 * total}"
    if len(rows) == 0:
        return None
    if (rows[1:] <= rows[:-1]).any():
        return "its rows do not increase"
    if rows[0] < 0 or rows[-1] >= 4 * total:
        return f"a row is numbered {rows[0] if rows[0] < 0 else rows[-1]}, there are {4 * total}"
    there = units >= 0
    if (units < -1).any() or not there[:, 0].all() or (there[:, 1:] > there[:, :-1]).any():
        return "a row has no units, or others after its last"
    own = np.searchsorted(targets.base, rows >> 2, "right") - 1
    late = units >= before[own][:, None]
    if late.any():
        row, unit = rows[late.any(axis=1)][0], units[late][0]
        return f"row {row} is split at unit {unit}, which is of no activation before it"
    bends = np.searchsorted(targets.base, units[there], "right") - 1
    if not targets.can_split[bends].all():
        return f"unit {units[there][~targets.can_split[bends]][0]} is of an activation that cannot be split"
    in_order = np.sort(units, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any():
        return "a row is split twice at one unit"
    return None
