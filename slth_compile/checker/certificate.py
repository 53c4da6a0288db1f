"""Claimed bounds beside the checker's own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from slth_compile.checker.bounds import backward_bounds, euclidean_bounds, output_bounds
from slth_compile.checker.domain import Domain
from slth_compile.checker.exact import exact_bounds
from slth_compile.checker.execution import FORMATS, Evaluated, evaluated
from slth_compile.checker.fold import Folded
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.schema import integer, real, record, sequence, strict_json
from slth_compile.checker.verdict import CheckedCertificate
from slth_compile.checker.witness import Witness
from slth_compile.errors import VerificationError

_FIELDS = ("domain", "kind", "method", "bound", "lower", "per_output", "arithmetic", "float32")
_ARITHMETICS = {"real": False, "real, float64": True}
"""Whether evaluation in float64 is claimed too."""

BRANCHED = "branched"
"""Backward passes, and by cases where a witness says so."""

_REGIONS = ("interval", "euclidean", "backward", BRANCHED)
_METHODS = {"box": _REGIONS, "balls": _REGIONS, "points": ("points", "exact")}


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
    """One entry of `certificate.json`: `|f(x) - g(x)|` is nowhere above `per_output`, and reaches `lower`.

    `arithmetic` says whether that is claimed of evaluations in float64 too; `float32` is for float32, or None.
    """

    kind: str
    method: str
    bound: float
    lower: float
    per_output: tuple[np.ndarray, ...]
    arithmetic: str
    float32: float | None


def parse_claims(raw: bytes, domains: tuple[Domain, ...], sizes: list[int], eps: float) -> tuple[Claim, ...]:
    """The claims, one a domain.

    Args:
        raw: Contents of `certificate.json`.
        domains: The declared domains.
        sizes: Elements of each output leaf.
        eps: What every bound must not exceed.

    Raises:
        VerificationError: A value is missing, unknown or of the wrong type, the figures contradict each other, or a
            bound exceeds eps.
    """
    entries = sequence(strict_json(raw, "certificate.json"), "certificate.json", len(domains))
    return tuple(_claim(entry, i, domains[i], sizes, eps) for i, entry in enumerate(entries))


def check_claim(
    claim: Claim,
    position: int,
    folded: Folded,
    layers: Mapping[int, PairLayer],
    domain: Domain,
    witness: Witness | None = None,
    *,
    quick: bool,
) -> CheckedCertificate:
    """The claim, found true by a bound of the checker's own, of the same method.

    `quick` leaves out all bounds of regions but intervals: such a claim is not recomputed, and the interval bound is
    stated beside it. The witness is that of a branched claim, for all it states but float32.

    Raises:
        VerificationError: The checker's bound of some output exceeds the claimed one, or (points) the claimed lower end
            of the maximum exceeds what the checker finds surely reached.
    """
    slower = {"euclidean": euclidean_bounds, "backward": backward_bounds, BRANCHED: backward_bounds}
    left_out = quick and claim.method in slower
    bounds_of = output_bounds if quick else slower.get(claim.method, output_bounds)
    if claim.method == "exact":
        own = exact_bounds(folded, layers, domain, claim.per_output)
    else:
        in_float64 = _ARITHMETICS[claim.arithmetic]
        networks = _evaluated(folded, layers, "float64", position) if in_float64 else (folded, layers)
        by_cases = claim.method == BRANCHED and not quick
        own = backward_bounds(*networks, domain, witness=witness) if by_cases else bounds_of(*networks, domain)
    found = max(float(leaf.upper.max()) for leaf in own)
    checked = functools.partial(
        CheckedCertificate,
        kind=claim.kind,
        method=claim.method,
        claimed=claim.bound,
        arithmetic=claim.arithmetic,
        float32=claim.float32,
    )
    if left_out:
        return checked(recomputed=None, interval=found)
    for leaf, (ends, claimed) in enumerate(zip(own, claim.per_output, strict=True)):
        bounds = ends.upper.reshape(-1)
        if not (bounds <= claimed).all():
            worst = int(np.argmax(bounds - claimed))
            raise VerificationError(
                "bound",
                f"domain {position}, output {leaf}, element {worst}: the difference is bounded by {bounds[worst]!r}, "
                f"the certificate claims {claimed[worst]!r}",
            )
    reached = max(float(leaf.lower.max()) for leaf in own)
    if not claim.lower <= reached:
        raise VerificationError(
            "bound",
            f"domain {position}: the claimed lower end {claim.lower} exceeds {reached}, which is surely reached",
        )
    if claim.float32 is not None:
        networks = _evaluated(folded, layers, "float32", position)
        largest = max(float(leaf.upper.max()) for leaf in bounds_of(*networks, domain, FORMATS["float32"]))
        if not largest <= claim.float32:
            found = f"the difference in float32 is bounded by {largest!r}, the certificate claims {claim.float32!r}"
            raise VerificationError("bound", f"domain {position}: {found}")
    return checked(recomputed=found, interval=None)


def _evaluated(folded: Folded, layers: Mapping[int, PairLayer], name: str, position: int) -> Evaluated:
    found = evaluated(folded, layers, FORMATS[name])
    if found is None:
        raise VerificationError("bound", f"domain {position}: what evaluating this network in {name} does is not known")
    return found


def _claim(entry: Any, position: int, domain: Domain, sizes: list[int], eps: float) -> Claim:
    what = f"certificate {position}"
    entry = record(entry, _FIELDS, what)
    integer(entry["domain"], f"the domain of {what}", position, position)
    methods = _METHODS[domain.kind]
    if entry["kind"] != domain.kind or entry["method"] not in methods:
        allowed = " or ".join(f"'{method}'" for method in methods)
        raise VerificationError("bound", f"{what} is of another kind or method than '{domain.kind}' by {allowed}")
    bound, lower = (real(entry[key], f"'{key}' of {what}", "bound") for key in ("bound", "lower"))
    leaves = sequence(entry["per_output"], f"'per_output' of {what}", len(sizes))
    figures = tuple(_figures(leaf, size, what) for leaf, size in zip(leaves, sizes, strict=True))
    largest = max(float(leaf.max()) for leaf in figures)
    if bound != largest or min(float(leaf.min()) for leaf in figures) < 0:
        raise VerificationError("bound", f"{what} claims {bound}, the largest of its outputs' bounds is {largest}")
    if not 0 <= lower <= bound or (domain.kind != "points" and lower != 0):
        raise VerificationError("bound", f"{what} has the lower end {lower}, which does not fit its bound {bound}")
    if bound > eps:
        raise VerificationError("eps", f"{what} claims {bound}, more than eps {eps}")
    arithmetic = entry["arithmetic"]
    if not isinstance(arithmetic, str) or arithmetic not in _ARITHMETICS:
        raise VerificationError("bound", f"{what} is for an arithmetic other than {' or '.join(_ARITHMETICS)}")
    float32 = entry["float32"]
    if float32 is not None:
        float32 = real(float32, f"'float32' of {what}", "bound")
    if entry["method"] == "exact" and (arithmetic != "real" or float32 is not None):
        raise VerificationError("bound", f"{what} has the method 'exact', which is for real numbers alone")
    return Claim(domain.kind, entry["method"], bound, lower, figures, arithmetic, float32)


def _figures(leaf: Any, size: int, what: str) -> np.ndarray:
    return np.array([real(v, f"a figure of {what}", "bound") for v in sequence(leaf, f"an output of {what}", size)])
