"""What was written, loaded back and compared with the ticket.

Two float32 evaluations of one network differ by rounding alone. How much rounding a network amplifies shows in its own
evaluation, which is set against float64; another order of sums makes errors of the same size, and a wrong weight,
layout or attribute makes errors of the size of the outputs:

    |exported - ticket| <= 32 max(|ticket in float32 - ticket in float64|, 2^-24 |output|)

where each term is the largest over the inputs and entries of an output leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from slth_compile.domain import Domain
from slth_compile.errors import ExportError
from slth_compile.export.network import Function

ROOM = 32
SAMPLES = 16
_BATCH = 4
_ROUNDING = 2.0**-24
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an exported network was from the ticket.

    Attributes:
        runtime: What loaded and ran it, with its version.
        inputs: How many inputs were compared.
        difference: Largest difference of any output.
        allowed: What rounding explains, for that output leaf.
        largest: Largest |output| seen.
    """

    runtime: str
    inputs: int
    difference: float
    allowed: float
    largest: float


def inputs_of(domains: Sequence[Domain | None], shape: tuple[int, ...], count: int = SAMPLES) -> np.ndarray:
    """Inputs to compare on: of every domain points, or random inputs of its regions; and some outside all of them.

    Args:
        domains: The ticket's domains; None for one that was not stored.
        shape: Per-sample input shape.
        count: How many of each.

    Returns:
        float32 `(inputs, *shape)`.
    """
    generator = np.random.default_rng(0)
    # The ticket and its export are one function of every input, not only of those its certificate speaks about.
    found = [generator.normal(0.0, 1.0, (4, *shape))]
    for domain in domains:
        if domain is not None:
            lower, upper = domain.regions()
            rows = np.unique(np.linspace(0, len(lower) - 1, count).astype(np.int64))
            rows = np.resize(rows, count if np.any(lower < upper) else len(rows))
            found.append(lower[rows] + generator.random((len(rows), *shape)) * (upper[rows] - lower[rows]))
    return np.concatenate(found).astype(np.float32)


def compare(exported: Function, ticket: Function, exact: Function, x: np.ndarray, runtime: str) -> Agreement:
    """How far what was loaded back is from the ticket, found to be rounding.

    Args:
        exported: What was loaded back; it is called on several inputs together, and on the first one alone.
        ticket: The ticket in float32.
        exact: The ticket in float64.
        x: Inputs, float32 `(inputs, *input_shape)`.
        runtime: What runs `exported`.

    Raises:
        ExportError: Outputs of other shapes, or further apart than rounding explains.
    """
    expected, truth = (_in_batches(function, x, pad=True) for function in (ticket, exact))
    worst: Agreement | None = None
    for rows in (slice(None), slice(1)):
        found = _in_batches(exported, x[rows], pad=False)
        shapes = [leaf.shape for leaf in found], [leaf[rows].shape for leaf in expected]
        if shapes[0] != shapes[1]:
            raise ExportError(f"loaded back with {runtime}, outputs have shapes {shapes[0]}, expected {shapes[1]}")
        for leaf, own, real in zip(found, expected, truth, strict=True):
            largest = float(np.abs(own).max(initial=0.0))
            rounding = float(np.abs(own - real).max(initial=0.0))
            allowed = ROOM * max(rounding, _ROUNDING * largest, _TINY)
            difference = float(np.abs(leaf - own[rows]).max(initial=0.0))
            if not difference <= allowed:
                raise ExportError(
                    f"loaded back with {runtime}, an output is {difference:.3g} away from the ticket's, rounding "
                    f"explains {allowed:.3g}; nothing was kept, please report it"
                )
            seen = Agreement(runtime=runtime, inputs=len(x), difference=difference, allowed=allowed, largest=largest)
            if worst is None or difference / allowed > worst.difference / worst.allowed:
                worst = seen
    assert worst is not None
    return worst


def _in_batches(function: Function, x: np.ndarray, pad: bool) -> list[np.ndarray]:
    """Outputs in float64, a few inputs at a time: hidden layers of the literal network are large.

    Args:
        function: What is called.
        x: Inputs.
        pad: Whether every batch is of one size, so that one program is compiled.
    """
    parts = []
    for start in range(0, len(x), _BATCH):
        rows = x[start : start + _BATCH]
        padded = np.resize(rows, (_BATCH, *x.shape[1:])) if pad else rows
        parts.append([np.asarray(leaf, np.float64)[: len(rows)] for leaf in function(padded)])
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]
