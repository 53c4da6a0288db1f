"""Tolerances: how far each gadget's weights may be off so that the certified bound stays within eps.

The bound is nearly additive, `B(eta) ~ sum_l s_l eta_l`, and a weight met to eta costs log2(1/eta) candidates, so the
cheapest tolerances with `sum_l s_l eta_l = eps` are (Lagrange) `eta_l = eps * k_l / (s_l * k)`. Windows are finite, so
below their precision the cost grows as 1/eta and no longer as its logarithm; a quarter of eps is therefore shared
equally among the L gadgets:

    eta_l = eps / s_l * (3/4 * k_l / k + 1/4 / L)

Sensitivities s_l only shape the allocation. What is promised is checked: one common factor scales all tolerances until
`B(eta) <= eps` for all errors within them, over every region of every domain. At points of networks where no tolerances
are that small, `plan.typical` plans for errors as they usually are, and promises nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.certificate.difference import bound_tolerances
from slth_compile.certificate.growth import growth
from slth_compile.certificate.norms import PointNorms, point_norms
from slth_compile.certificate.promise import is_affordable, promise_at_points
from slth_compile.certificate.sensitivity import sensitivities
from slth_compile.domain import Domain, Points
from slth_compile.errors import UnreachableError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.plan.typical import typical_tolerances

SENSED_REGIONS = 8
SEARCHED_REGIONS = 64
ROUNDS, CHEAP_ROUNDS = 12, 64
EQUAL_SHARE = 0.25
ZERO_SHARE = 2.0**-20
"""Of a part whose weights are all zero: they are met exactly."""

MARGIN = 1 - 1e-3
_PROBE = 1e-7

ALL, TYPICAL, AUTO = PROMISES = ("all", "typical", "auto")
"""For all errors within the tolerances; for typical ones, at points; the first where it can be kept."""

FINEST = 2.0**-40
"""No weights are met more closely, of a layer's largest."""

# Backward passes make up for this many bits of what intervals lose, at most.
_HOPELESS = 20

Tolerances = dict[int, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Budget:
    """The tolerances of every layer, and the bound they promise.

    Attributes:
        tolerances: By node position, `(kernel, bias)`; the bias entry is 0.0 where the layer has none.
        bound: `B(eta)`: no errors within the tolerances lead further apart, on any domain. Where `promise` is `TYPICAL`
            what such errors are expected to keep within.
        promise: `ALL` or `TYPICAL`.
    """

    tolerances: Tolerances
    bound: float
    promise: str = ALL


@dataclasses.dataclass(frozen=True, eq=False)
class _Regions:
    """Some regions of one domain; norms where they are points and the network is too large for backward passes."""

    points: bool
    lower: np.ndarray
    upper: np.ndarray
    norms: PointNorms | None = None

    @classmethod
    def of(cls, graph: Graph, domain: Domain) -> _Regions:
        lower, upper = domain.regions()
        points = isinstance(domain, Points)
        large = points and not is_affordable(graph, min(len(lower), SEARCHED_REGIONS))
        return cls(points, lower, upper, point_norms(graph, lower) if large else None)

    def picked(self, rows: np.ndarray) -> _Regions:
        norms = None if self.norms is None else self.norms.picked(rows)
        return dataclasses.replace(self, lower=self.lower[rows], upper=self.upper[rows], norms=norms)

    def spread(self, wanted: int) -> _Regions:
        count = len(self.lower)
        return self.picked(np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)))


def allocate(
    graph: Graph,
    eps: float,
    domains: Sequence[Domain],
    signed: dict[int, bool],
    promise: str = ALL,
    wider: float = 1.0,
) -> Budget:
    """Tolerances with `B(eta) <= eps` on all domains, or for typical errors at points.

    Args:
        graph: The folded target.
        eps: Allowed difference, output units.
        domains: Where the bound must hold.
        signed: Which layers are signed, by node position.
        promise: One of `PROMISES`.
        wider: As for `typical.typical_tolerances`.

    Raises:
        UnreachableError: No positive tolerances keep the bound within eps.
    """
    points = [domain for domain in domains if isinstance(domain, Points) and promise != ALL]
    typical = [domain for domain in points if promise == TYPICAL or not _is_promisable(graph, eps, domain, signed)]
    others = [domain for domain in domains if domain not in typical]
    try:
        promised = _promised(graph, eps, others, signed) if others else None
    except UnreachableError:
        if promise != AUTO or not points:
            raise
        typical, others = points, [domain for domain in domains if domain not in points]
        promised = _promised(graph, eps, others, signed) if others else None
    if not typical:
        assert promised is not None
        return promised
    found = [typical_tolerances(graph, eps, domain.regions()[0], wider) for domain in typical]
    found += [] if promised is None else [promised.tolerances]
    least = {i: (min(t[i][0] for t in found), min(t[i][1] for t in found)) for i in graph.layers}
    return Budget(least, eps * MARGIN, TYPICAL)


def _is_promisable(graph: Graph, eps: float, domain: Domain, signed: dict[int, bool]) -> bool:
    """Whether the smallest tolerances there are keep one of the points within eps, all errors considered."""
    kernels = {i: _kernel(graph, i) for i in graph.layers}
    if growth(graph, kernels) + math.log2(FINEST) > _HOPELESS + math.log2(eps):
        return False
    finest = {i: (FINEST * _largest(kernels[i]), FINEST * _largest(_bias(graph, i))) for i in graph.layers}
    return _bound(graph, finest, signed, _Regions.of(graph, domain).spread(1)) <= eps


def _promised(graph: Graph, eps: float, domains: Sequence[Domain], signed: dict[int, bool]) -> Budget:
    """Tolerances with `B(eta) <= eps` on all domains, for all errors.

    At points `B` is `certificate.promise`, in networks too large for its backward passes `certificate.norms`; elsewhere
    it is the interval engine; backward passes come closer, and certify the ticket where they do.
    """
    everywhere = [_Regions.of(graph, domain) for domain in domains]
    shaped = _shaped(graph, eps, [regions.spread(SENSED_REGIONS) for regions in everywhere], signed)
    goal = eps * MARGIN
    factor = np.inf
    for regions in everywhere:
        factor = _reduced(graph, shaped, factor, goal, signed, regions.spread(SEARCHED_REGIONS))
    bound = 0.0
    for regions in everywhere:
        worst = _bound(graph, _scaled(shaped, factor), signed, regions)
        if worst > goal and regions.points:
            # B(s eta) <= s B(eta) at points, and everywhere else B grows with the tolerances: nothing is redone.
            factor, worst = factor * goal / worst, goal
        elif worst > goal:
            factor = _reduced(graph, shaped, factor, goal, signed, regions)
            worst = _bound(graph, _scaled(shaped, factor), signed, regions)
        bound = max(bound, worst)
    if not 0 <= bound <= eps:
        raise UnreachableError(f"plan: the promised bound is {bound:.3e} with eps={eps:g}; ask for a larger eps")
    return Budget(_scaled(shaped, factor), bound)


def _reduced(
    graph: Graph, shaped: Tolerances, ceiling: float, goal: float, signed: dict[int, bool], regions: _Regions
) -> float:
    """About the largest factor, not above the ceiling, that keeps the regions within the goal."""
    factor, within, beyond = min(1.0, ceiling), None, np.inf
    for _ in range(ROUNDS if regions.norms is None else CHEAP_ROUNDS):
        bound = _bound(graph, _scaled(shaped, factor), signed, regions)
        if not np.isfinite(bound):
            raise UnreachableError("plan: the bound is not finite for any tolerance tried; use a smaller domain")
        if bound <= goal and (bound >= 0.97 * goal or factor == ceiling):
            return factor
        within = factor if bound <= goal else within
        beyond = factor if bound > goal else beyond
        # A bound that no tolerance moves, as a softmax's 1, must not send the factor to infinity.
        step = factor * min(goal / max(bound, 1e-300), 16) * (1 if bound <= goal else 1 - 1e-3)
        if within is not None and beyond < np.inf and not (within < step < beyond and bound >= goal / 16):
            # Far from proportional, as in deep networks: halve what is left of the exponents.
            step = float(np.sqrt(within) * np.sqrt(beyond))
        factor = min(step, ceiling)
    if within is not None:
        return within
    raise UnreachableError(f"plan: no tolerances found with a bound within {goal:g}; ask for a larger eps")


def _shaped(graph: Graph, eps: float, sampled: Sequence[_Regions], signed: dict[int, bool]) -> Tolerances:
    """The allocation above, from one-at-a-time sensitivities: to first order at points, by a probe elsewhere."""
    zero = dict.fromkeys(graph.layers, (0.0, 0.0))
    at_points = [sensitivities(graph, regions.lower) for regions in sampled if regions.points]
    elsewhere = [regions for regions in sampled if not regions.points]
    total = sum(_kernel(graph, i).size + _bias(graph, i).size for i in graph.layers)
    shaped = {}
    for i in graph.layers:
        pair = []
        for which, weights in enumerate((_kernel(graph, i), _bias(graph, i))):
            if weights.size == 0:
                pair.append(0.0)
                continue
            nonzero = _largest(weights)
            largest = nonzero or eps
            probe = _PROBE * largest
            one = zero | {i: (probe, 0.0) if which == 0 else (0.0, probe)}
            found = [_bound(graph, one, signed, regions) / probe for regions in elsewhere]
            sensitivity = max([*found, *(s[i][which] for s in at_points)])
            part = (1 - EQUAL_SHARE) * weights.size / total + EQUAL_SHARE / (2 * len(graph.layers))
            part = part if nonzero else ZERO_SHARE
            share = eps * part / sensitivity if sensitivity > 0 else largest
            pair.append(min(share, largest))
        shaped[i] = (pair[0], pair[1])
    return shaped


def _bound(graph: Graph, tolerances: Tolerances, signed: dict[int, bool], regions: _Regions) -> float:
    """`B(eta)` over the regions."""
    if regions.norms is not None:
        return float(regions.norms.bound(tolerances).max())
    if regions.points:
        return promise_at_points(graph, tolerances, regions.lower)
    leaves = bound_tolerances(graph, tolerances, signed, regions.lower, regions.upper)
    return max(float(np.max(np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)))) for leaf in leaves)


def _largest(weights: np.ndarray) -> float:
    return float(np.abs(weights).max(initial=0.0))


def _scaled(tolerances: dict[int, tuple[float, float]], factor: float) -> dict[int, tuple[float, float]]:
    return {i: (kernel * factor, bias * factor) for i, (kernel, bias) in tolerances.items()}


def _kernel(graph: Graph, position: int) -> np.ndarray:
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    return node.kernel


def _bias(graph: Graph, position: int) -> np.ndarray:
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    return np.zeros(0) if node.bias is None else node.bias
