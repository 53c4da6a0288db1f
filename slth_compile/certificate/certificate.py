"""The statement a ticket carries about one domain, and the numbers it publishes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from slth_compile.certificate import engine
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.execution import FLOAT32, FLOAT64, evaluated, widened
from slth_compile.certificate.fixed_point.points import Exact
from slth_compile.certificate.rounding import down, published_down, published_up, up
from slth_compile.certificate.witness import Witness
from slth_compile.domain import Domain, Points
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent

# The checker recomputes the bounds with its own order of summation: intervals 1e-12 apart or so, backward passes, whose
# lines depend on earlier passes, 1e-10. Norms of layers are two proofs of nearly one number, 1e-12 apart.
_MARGINS = {engine.INTERVAL: 2.0**-32} | dict.fromkeys((engine.EUCLIDEAN, engine.BACKWARD, engine.BRANCHED), 2.0**-30)

# Lines depend on how much is allowed for float32's roundings, which a checker need not do alike: seen up to 3e-4.
_FLOAT32_MARGIN = 2.0**-8

# Of the largest difference: beside it, the bound of another output may be rounding alone.
_ROUNDING_MARGIN = 2.0**-40

# Both radii of a checker are below 2^-23 of the bound.
_EXACT_MARGIN = 2.0**-20

REAL, REAL_AND_FLOAT64 = ARITHMETICS = ("real", "real, float64")
"""What a bound is true for: real arithmetic, and evaluation of both networks in float64."""

SMALLEST = 2.0**-800
"""Bounds below it are published as this: what a checker allows for flushed results must fit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """`sup over x in the domain of |f(x)_i - g(x)_i| <= per_output_i <= bound`, for exactly these weights.

    Attributes:
        domain: Place of the domain in the ticket's list.
        kind: `"box"`, `"points"` or `"balls"`.
        method: Over named points `"points"` for intervals and `"exact"` for both networks in fixed point; elsewhere
            `"interval"` for the interval engine, `"euclidean"` for one that cuts enclosures with Euclidean bounds at
            every node, `"backward"` for forms carried to the input as well, and `"branched"` for the largest of several
            of them, one for every pattern of signs of some units.
        bound: The largest entry of `per_output`.
        lower: The maximum over points is at least this; 0.0 for other kinds.
        per_output: Bounds of every output element, one float64 array a leaf.
        arithmetic: One of `ARITHMETICS`, what all of these are true for; see `execution` for what float64 stands for.
        float32: No output differs by more where both networks are evaluated in float32, weights rounded to it; None
            where that is not known. By the same method, without splits, with 2^-8 of it to spare but for intervals.
        witness: What branched bounds are split at, kept beside `certificate.json`; None for other methods.
    """

    domain: int
    kind: str
    method: str
    bound: float
    lower: float
    per_output: tuple[np.ndarray, ...]
    arithmetic: str
    float32: float | None
    witness: Witness | None = None

    @property
    def splits(self) -> int | None:
        """The most units that a bound is split at; None where none is."""
        return None if self.witness is None else self.witness.depth

    def to_json(self) -> dict[str, Any]:
        """The certificate's entry in `certificate.json`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["witness"]
        return fields | {"per_output": [leaf.reshape(-1).tolist() for leaf in self.per_output]}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], graph: Graph) -> Certificate:
        """The certificate that an entry of `certificate.json` describes.

        Args:
            entry: As `to_json` made it.
            graph: The target, for the shapes of its output leaves.

        Returns:
            The certificate without its witness.

        Raises:
            KeyError, TypeError, ValueError: The entry is not one of `to_json`.
        """
        leaves = zip(entry["per_output"], graph.outputs, strict=True)
        per_output = tuple(np.asarray(leaf, np.float64).reshape(graph.shapes[i]) for leaf, i in leaves)
        names = ("domain", "kind", "method", "bound", "lower", "arithmetic", "float32")
        fixed = {name: entry[name] for name in names}
        return cls(**fixed, per_output=per_output)


def certify_domain(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    domain: Domain,
    index: int,
    effort: str = engine.NORMAL,
    progress: Progress = silent,
    exact: Exact | None = None,
    branching: engine.Branching = engine.PLAIN,
) -> Certificate:
    """The certificate of a ticket for one domain.

    Args:
        graph: The folded target.
        errors: The ticket's errors of every weighted layer, by node position.
        domain: The inputs.
        index: The domain's place in the ticket's list.
        effort: One of `engine.EFFORTS`.
        progress: Called as regions are done.
        exact: Both networks' layers, for points where intervals say little; None does without.
        branching: What branched bounds may cost.
    """
    return certify_enclosed(graph, errors, domain, index, effort, progress, exact, branching)[0]


def certify_enclosed(
    graph: Graph,
    errors: Mapping[int, LayerErrors],
    domain: Domain,
    index: int,
    effort: str = engine.NORMAL,
    progress: Progress = silent,
    exact: Exact | None = None,
    branching: engine.Branching = engine.PLAIN,
) -> tuple[Certificate, engine.Enclosed]:
    """The certificate of two networks for one domain, and the enclosures that it publishes numbers of.

    Args:
        graph: The folded network `f`.
        errors: Of every weighted layer of `g`, by node position.
        domain: The inputs.
        index: The domain's place among several.
        effort: One of `engine.EFFORTS`.
        progress: Called as regions are done.
        exact: As for `certify_domain`.
        branching: Likewise; float32 goes without.
    """
    with np.errstate(all="ignore"):
        in_float64 = evaluated(graph, errors, FLOAT64)
    both = in_float64 or (graph, errors)
    if isinstance(domain, Points) and effort != engine.QUICK:
        x = domain.regions()[0]
        # Where intervals say little of numbers that are not rounded, they say less of those that are.
        telling = engine.is_telling(graph, errors, x)
        if not telling or not engine.is_telling(*both, x):
            # What float64 may round says more about float64 than about the networks.
            enclosed = engine.enclose_closest(graph, errors, None if telling else exact, x, progress)
            return certificate_of(enclosed, domain.kind, index), enclosed
    options: dict[str, Any] = {"effort": effort, "branching": branching}
    enclosed = engine.enclose(*both, domain.regions(), domain.kind, **options, progress=progress)
    float32 = None
    with np.errstate(all="ignore"):
        in_float32 = evaluated(graph, errors, FLOAT32)
    if in_float32 is not None:
        inputs = widened(domain.regions(), FLOAT32)
        # A checker bounds both by the one method that is stated.
        coarse = engine.enclose(*in_float32, inputs, domain.kind, effort=effort, method=enclosed.method)
        float32 = certificate_of(coarse, domain.kind, index).bound
        if coarse.method in (engine.EUCLIDEAN, engine.BACKWARD):
            float32 = published_up(float(up(float32 * (1 + _FLOAT32_MARGIN))))
    found = certificate_of(enclosed, domain.kind, index)
    arithmetic = REAL if in_float64 is None else REAL_AND_FLOAT64
    return dataclasses.replace(found, arithmetic=arithmetic, float32=float32), enclosed


def certificate_of(enclosed: engine.Enclosed, kind: str, index: int) -> Certificate:
    """What is published of enclosures over the regions of a domain.

    Points add the width of their enclosures, which is rounding only, to the bound and take it off the lower end; exact
    points 2^-20 of the largest difference more. Regions add a relative margin, 2^-32 for intervals and 2^-30 for all
    other methods, and 2^-40 of the largest difference. So a checker that rounds elsewhere confirms the numbers. All are
    rounded outward to ten significant digits.

    Args:
        enclosed: What the engine found.
        kind: The kind of domain.
        index: The domain's place in the ticket's list.
    """
    points = kind == "points"
    margin = _MARGINS.get(enclosed.method, 0.0)
    ends = [np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)) for leaf in enclosed.leaves]
    rest = 0.0 if enclosed.method == "points" else _EXACT_MARGIN if points else _ROUNDING_MARGIN
    allowed = rest * max(float(end.max()) for end in ends) if rest else 0.0
    per_output, lowest = [], 0.0
    for leaf, upper in zip(enclosed.leaves, ends, strict=True):
        width = up((up(leaf.upper - leaf.lower) if points else up(upper * margin)) + allowed)
        highest = np.maximum(up(upper + width).max(axis=0), SMALLEST)
        highest = np.where(np.isnan(highest), np.inf, highest)
        per_output.append(np.vectorize(published_up, otypes=[np.float64])(highest))
        if points:
            nearest = np.maximum(np.maximum(leaf.lower, -leaf.upper), 0.0)
            lowest = max(lowest, float(np.nan_to_num(down(nearest - width), nan=0.0).max()))
    bound = max(float(leaf.max()) for leaf in per_output)
    figures = bound, published_down(lowest), tuple(per_output)
    return Certificate(index, kind, enclosed.method, *figures, arithmetic=REAL, float32=None, witness=enclosed.witness)
