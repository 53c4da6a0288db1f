"""Tolerances that no exact window reaches: planned with the four-list solver, compiled, certified and verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import slth_compile as slth
from slth_compile.constructions.da_cunha import families
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.plan import width
from slth_compile.plan.typical import typical_tolerances
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW
from slth_compile.subset_sum.windows import meets, solve_family
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.masks import SubsetMask


def network() -> Graph:
    """3 -> 4 -> 2 with 24 parameters."""
    rng = np.random.default_rng(2)

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / 2).astype(np.float32)

    nodes = (
        n.Input(shape=(3,)),
        n.Dense(inputs=(0,), kernel=draw(3, 4), bias=draw(4), name="first"),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=draw(4, 2), name="second"),
    )
    return Graph(nodes, (3,), ("",))


BOX = slth.Box(0.0, 1.0, (3,))
POINTS = slth.Points(np.random.default_rng(0).uniform(0, 1, (4, 3)).astype(np.float32))


@pytest.mark.parametrize(
    ("eps", "domain", "window"),
    [
        (1e-8, POINTS, 42),
        pytest.param(1e-10, BOX, 50, marks=pytest.mark.slow),
        pytest.param(5e-12, BOX, 58, marks=pytest.mark.slow),
        pytest.param(1e-12, POINTS, 58, marks=pytest.mark.slow),
    ],
)
def test_a_ticket_of_high_precision_is_certified_and_verified(
    tmp_path: Path, eps: float, domain: slth.Box | slth.Points, window: int
) -> None:
    out = slth.compile(network(), eps, 0.05, domain=domain, seed=0, attack=False)
    layers = [layer.kernel for layer in out.layout.layers]
    assert {gadget.window for gadget in layers} == {window}
    # Errors that cancel may each be larger.
    assert max(gadget.tolerance for gadget in layers) < eps or out.plan.promise == "typical"
    assert 0 < out.certificate.bound <= eps
    for masks in out.ticket.masks:
        assert all(mask.subsets.dtype == np.uint64 for mask in masks.values())
    out.save(tmp_path / "out")
    verdict = slth.verify(tmp_path / "out")
    assert any(name == "bound" or "bound" in detail for name, detail in verdict.checks)
    again = slth.load(tmp_path / "out")
    for masks, loaded in zip(out.ticket.masks, again.ticket.masks, strict=True):
        for part, mask in masks.items():
            assert np.array_equal(mask.subsets, loaded[part].subsets)
            assert np.array_equal(mask.windows, loaded[part].windows)


def test_near_subsets_are_not_planned_as_closest_ones() -> None:
    """Typical errors of the four-list solver fill their tolerances; those of exact windows are far smaller."""
    graph, points = network(), POINTS.regions()[0]
    for eps, is_near in ((1e-3, False), (4e-12, True)):
        plan = slth.dry_run(graph, eps, 0.05, domain=POINTS, promise="typical")
        filled = typical_tolerances(graph, eps, points)
        for i, layer in zip(graph.layers, plan.layout.layers, strict=True):
            assert (layer.kernel.window > MAXIMUM_WINDOW) == is_near
            assert (layer.kernel.tolerance > 1.5 * filled[i][0]) != is_near


def test_the_plan_takes_large_windows_only_where_they_are_needed() -> None:
    weights = np.random.default_rng(0).uniform(0.1, 0.9, 50)

    def window(tolerance: float) -> int:
        return width.plan_gadget(width.Problems("layer", weights, 0.0, 1, tolerance, 1e-3)).window

    assert all(window(tolerance) <= 24 for tolerance in (0.1, 1e-2, 1e-3, 1e-4))
    windows = [window(tolerance) for tolerance in (1e-5, 1e-7, 1e-9, 1e-11, 1e-12, 3e-13)]
    assert windows == sorted(windows) and windows[2] > MAXIMUM_WINDOW and windows[4] >= 50
    # 1e-12 takes few windows: most weights are met by their first.
    gadget = width.plan_gadget(width.Problems("layer", weights, 0.0, 1, 1e-12, 1e-3))
    assert gadget.width < 25 * gadget.window


def test_what_ends_a_search_is_accepted() -> None:
    """Every weight met, by a subset that keeps both forced candidates, and the mask is one of the family."""
    graph, gadget = network(), Gadget(width=420, gain=1, window=42, tolerance=1e-7, failure=0.1)
    node = graph.nodes[1]
    assert isinstance(node, n.Dense)
    family = families(Generated(0), 0, node, LayerLayout(signed=False, kernel=gadget, bias=None))[0]
    settled: list[int] = []
    solution = solve_family(family, settled.append)
    assert solution.misses == () and sum(settled) == 12
    assert solution.mask.subsets.dtype == np.uint64 and np.all(solution.mask.subsets & np.uint64(3) == 3)
    errors = np.abs(masked_sums(family, solution.mask) * 2.0 ** (1 - PRODUCT_BITS) - family.weights)
    assert 1e-9 < errors.max() <= gadget.tolerance
    assert meets(family, solution.mask)
    subsets = solution.mask.subsets.copy()
    subsets[0, 0, 0] |= np.uint64(1 << 42)
    assert not meets(family, SubsetMask(solution.mask.windows, subsets))
    assert not meets(family, SubsetMask(solution.mask.windows, solution.mask.subsets.astype(np.uint32)))
    assert not meets(family, SubsetMask(solution.mask.windows, solution.mask.subsets ^ np.uint64(4)))
