"""Solves every layer of a network: finished parts are kept as they are done, misses are named together."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slth_compile.constructions.burkholz import families
from slth_compile.constructions.da_cunha import Family
from slth_compile.errors import UnreachableError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.processes import by_first, from_first
from slth_compile.progress import Progress
from slth_compile.source.layout import CLOSEST, MALACH, Layout
from slth_compile.source.network import kernel_shape
from slth_compile.source.source import Generated, Source
from slth_compile.subset_sum.closest_product import solve_closest_product
from slth_compile.subset_sum.compensation import LARGEST, compensation
from slth_compile.subset_sum.dispatch import cores
from slth_compile.subset_sum.feedback import solve_layer
from slth_compile.subset_sum.layer_inputs import LayerInputs, moments
from slth_compile.subset_sum.problem import compile_program, gadget_rounding
from slth_compile.subset_sum.windows import Miss, Solution, meets, solve_family
from slth_compile.ticket.apply import effective_layer, layer_weights
from slth_compile.ticket.masks import SubsetMask, subset_dtype
from slth_compile.ticket.ticket import Ticket
from slth_compile.ticket.workspace import Workspace

Advance = Callable[[int], None]


def solve_network(
    graph: Graph,
    layout: Layout,
    source: Source,
    workspace: Workspace | None,
    total: int,
    progress: Progress,
    calibration: np.ndarray | None = None,
) -> Ticket:
    """The ticket of a source: the masks of every layer.

    Args:
        graph: The folded target.
        layout: What is drawn.
        source: What candidates are drawn from.
        workspace: Where finished parts are taken from and kept, None to keep nothing, and in all but the first of
            several processes.
        total: Number of problems, for the progress.
        progress: Called as problems are settled.
        calibration: Inputs `(samples, *input_shape)` on which the errors of each layer are to cancel; None takes the
            closest subsets, or those that cost least. Layers beyond `compensation.LARGEST` features take the closest.

    Raises:
        UnreachableError: Weights that no window met; says how many and names the worst.
    """
    done, masks = 0, []
    misses: list[Miss] = []

    def advance(solved: int) -> None:
        nonlocal done
        done += solved
        progress("solve", done, total)

    sums = layout.construction != MALACH
    exact = _compiled(layout, source) if sums and layout.objective == CLOSEST else frozenset()

    def solve(family: Family) -> Solution:
        if not sums:
            return solve_closest_product(family, advance)
        return solve_family(family, advance, layout.objective, exact)

    inputs = None if calibration is None else LayerInputs(graph, calibration)
    for index, position in enumerate(graph.layers):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        problems = families(source, index, node, layout.layers[index])
        if inputs is None:
            parts: dict[str, SubsetMask] = {}
            for family in problems:
                kept = _kept((family,), workspace, advance)
                parts |= kept or _solved((family,), (solve(family),), workspace, misses)
        else:
            signed = layout.layers[index].signed
            parts = _kept(problems, workspace, advance) or _solved(
                problems, _fed_back(node, problems, inputs.of(position), signed, advance, exact), workspace, misses
            )
            inputs.set_weights(position, layer_weights(node, effective_layer(problems, parts), layout.layers[index]))
        masks.append(parts)
    _refuse_misses(graph, layout, misses)
    return Ticket(layout, source, tuple(masks))


def without_feedback(graph: Graph, layout: Layout) -> tuple[str, ...]:
    """The layers, in words, that have too many features for their errors to be made up for."""
    found = []
    for index, (position, layer) in enumerate(zip(graph.layers, layout.layers, strict=True)):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        if (features := _features(node, layer.signed)) > LARGEST:
            found.append(f"layer '{node.name or index}' ({features} features)")
    return tuple(found)


def _compiled(layout: Layout, source: Source) -> frozenset[int]:
    """The windows that are solved in 64 bits; their programs, and the others of the layout, compiled side by side."""
    gadgets = [g for layer in layout.layers for g in (layer.kernel, layer.bias) if g is not None]
    exact = frozenset(g.window for g in gadgets if not gadget_rounding(g))
    if not isinstance(source, Generated):
        # Of a supplied source the programs depend on the size of its tensors.
        return exact
    programs = {(g.window, bool(gadget_rounding(g)) and g.window not in exact) for g in gadgets}
    programs |= {(layer.kernel.window, bool(gadget_rounding(layer.kernel))) for layer in layout.layers}
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda program: compile_program(program[0], program[1], source.law.bits), sorted(programs)))
    return exact


def _fed_back(
    node: Weighted, problems: Sequence[Family], x: np.ndarray, signed: bool, progress: Advance, exact: Set[int]
) -> Sequence[Solution]:
    """The layer's masks, its errors cancelling on what it reads, `x`; the closest ones where it is too large."""
    if _features(node, signed) > LARGEST:
        return [solve_family(family, progress, CLOSEST, exact) for family in problems]
    found = compensation(moments(node, x, signed=signed))
    return solve_layer(problems, kernel_shape(node).groups, found, progress, exact)


def _features(node: Weighted, signed: bool) -> int:
    """What the weights of one output channel multiply, each sign of an input counted."""
    shape = kernel_shape(node)
    return shape.taps * (shape.inputs // shape.groups) * (1 + signed)


def _kept(problems: Sequence[Family], workspace: Workspace | None, progress: Advance) -> dict[str, SubsetMask] | None:
    """The masks that an interrupted run kept of all the families, None where one is missing."""
    masks = [_finished(family, workspace) for family in problems]
    found = {family.part: mask for family, mask in zip(problems, masks, strict=True) if mask is not None}
    if len(found) < len(problems):
        return None
    progress(sum(family.weights.size for family in problems))
    return found


def _solved(
    problems: Sequence[Family], solutions: Sequence[Solution], workspace: Workspace | None, misses: list[Miss]
) -> dict[str, SubsetMask]:
    """The masks found, kept where nothing was missed; what was is added to `misses`."""
    for family, solution in zip(problems, solutions, strict=True):
        misses.extend(solution.misses)
        if not solution.misses:
            _keep(family, solution.mask, workspace)
    return {family.part: solution.mask for family, solution in zip(problems, solutions, strict=True)}


def _finished(family: Family, workspace: Workspace | None) -> SubsetMask | None:
    """The mask that an interrupted run kept, in every process; None where there is none, or not one of the family."""
    mask = None if workspace is None else workspace.layer(family.layer, family.part)
    found = None if mask is None or not meets(family, mask) else (mask.windows, mask.subsets)
    shape = family.weights.shape
    like = (np.zeros(shape, np.uint16), np.zeros(shape, subset_dtype(family.gadget.window)))
    found = from_first(found, like)
    return None if found is None else SubsetMask(*found)


def _keep(family: Family, mask: SubsetMask, workspace: Workspace | None) -> None:
    by_first(lambda: None if workspace is None else workspace.keep(family.layer, family.part, mask))


def _refuse_misses(graph: Graph, layout: Layout, misses: Sequence[Miss]) -> None:
    if not misses:
        return
    worst = max(misses, key=lambda miss: miss.error / miss.tolerance)
    name = graph.nodes[graph.layers[worst.layer]].name or f"layer {worst.layer}"
    if layout.law is None:
        who, advice = "the supplied source missed {} weight(s)", "Give more copies, or ask for a larger eps"
    elif layout.failure is None:
        who = "this seed missed {} weight(s); widths were estimated, no probability was stated"
        advice = "Try another seed, a smaller delta (a wider source), or a source of more bits"
    else:
        who = f"this seed missed {{}} weight(s), an event of planned probability {layout.failure:.1e}"
        advice = "Try another seed, or a smaller delta"
    raise UnreachableError(
        f"{who.format(len(misses))}; worst: layer '{name}' ({worst.part}), tap {worst.position[0]}, input channel "
        f"{worst.position[1]}, output channel {worst.position[2]}: weight {worst.weight:.6g}, error {worst.error:.2e}, "
        f"tolerance {worst.tolerance:.2e}. {advice}"
    )
