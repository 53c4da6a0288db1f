"""Two networks set side by side, as plain records: what is proved about their difference and what is seen of it."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from slth_compile.certificate.attack import Attack
    from slth_compile.certificate.top1 import Top1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rung:
    """One certified statement: `|f(x)_i - g(x)_i| <= per_output_i <= bound` for every input of a domain.

    Attributes:
        domain: In words, such as `"box [0, 1]"`.
        kind: `"points"`, `"balls"` or `"box"`.
        method: How the bound was computed.
        splits: Of branched bounds, the most units that one is split at; None for other methods.
        arithmetic: What it is true for, such as `"real, float64"`.
        bound: No output differs by more.
        float32: The same where both networks are evaluated in float32; None where it is not stated.
        lower: The largest difference over points is at least this; 0.0 for other kinds.
        per_output: Bounds of every output element, one float64 array a leaf.
        seconds: Wall time of the bound.
        attack: The largest difference that was found, None where none was searched for.
        output_range: Least and largest output of the first network that was seen on the domain.
        top1: What is proved about predictions, for points and balls of a network whose first output is a list.
    """

    domain: str
    kind: str
    method: str
    arithmetic: str
    bound: float
    float32: float | None
    lower: float
    per_output: tuple[np.ndarray, ...]
    seconds: float
    attack: Attack | None
    output_range: tuple[float, float]
    top1: Top1 | None
    splits: int | None = None

    @property
    def ratio(self) -> float | None:
        """`bound / attack`, at least the factor that the bound can still be improved by; None without a figure."""
        if self.attack is None or self.attack.value == 0 or not math.isfinite(self.bound):
            return None
        return self.bound / self.attack.value

    @property
    def is_vacuous(self) -> bool:
        """Whether the bound of a box or of balls says nothing: it is larger than any |output| seen there."""
        low, high = self.output_range
        return not math.isfinite(self.bound) or (self.kind != "points" and self.bound > max(-low, high))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistical:
    """What held-out samples say: with the confidence, `P(|f - g| > largest) <= exceedance`.

    Attributes:
        samples: How many, n.
        largest: The largest difference seen, of any output, in float64.
        confidence: Probability over the draw of the samples.
        exceedance: `1 - (1 - confidence)^(1/n)`, rounded up.
        agreeing: Samples on which both networks predict the same class; None where the first output is no list.
        accuracies: Top-1 of both networks, where the samples have labels.
    """

    samples: int
    largest: float
    confidence: float
    exceedance: float
    agreeing: int | None = None
    accuracies: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerChange:
    """How far one layer's weights lie apart.

    Attributes:
        name: The layer's name in the first network.
        weights: Kernel and bias entries.
        changed: How many of them are not the same.
        largest_change: Largest difference of a weight or bias, rounded up.
        largest_weight: Largest |weight| of the first network's kernel and bias.
    """

    name: str
    weights: int
    changed: int
    largest_change: float
    largest_weight: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """How far two networks are apart, from the strongest kind of statement to what samples say.

    Attributes:
        first: Name of the first network.
        second: Name of the second one.
        layers: One entry a weighted layer.
        rungs: One certified statement a domain.
        statistical: What held-out samples say, None where there are none.
        platform: Versions and device, in words.
    """

    first: str
    second: str
    layers: tuple[LayerChange, ...]
    rungs: tuple[Rung, ...]
    statistical: Statistical | None
    platform: str

    @property
    def bound(self) -> float:
        """The first domain's bound."""
        return self.rungs[0].bound

    def __str__(self) -> str:
        """The statements, a line each."""
        from slth_compile.report.ladder import statements

        return "\n".join(statements(self))

    def to_json(self) -> dict[str, Any]:
        """Everything as objects, lists, strings and numbers; numbers that are not finite become None."""
        from slth_compile.report.comparison_files import comparison_json

        return comparison_json(self)

    def report(self, path: str | os.PathLike[str]) -> None:
        """The comparison as a file: `.md` in markdown, `.json` as data, anything else in HTML.

        Raises:
            InputError: The file cannot be written.
        """
        from slth_compile.report.comparison_files import write

        write(self, path)
