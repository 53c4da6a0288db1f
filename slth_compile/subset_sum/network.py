"""Solves every layer of a network: finished parts are kept as they are done, misses are named together."""

from __future__ import annotations

from collections.abc import Sequence

from slth_compile.constructions.da_cunha import families
from slth_compile.errors import UnreachableError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.progress import Progress
from slth_compile.source.layout import Layout
from slth_compile.subset_sum.windows import Miss, meets, solve_family
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.ticket import Ticket
from slth_compile.ticket.workspace import Workspace


def solve_network(
    graph: Graph, layout: Layout, seed: int, workspace: Workspace | None, total: int, progress: Progress
) -> Ticket:
    """The ticket of a seed: the masks of every layer.

    Args:
        graph: The folded target.
        layout: What is drawn.
        seed: The source's seed.
        workspace: Where finished parts are taken from and kept, None to keep nothing.
        total: Number of problems, for the progress.
        progress: Called as problems are settled.

    Raises:
        UnreachableError: Weights that no window met; says how many and names the worst.
    """
    done, masks = 0, []
    misses: list[Miss] = []

    def advance(solved: int) -> None:
        nonlocal done
        done += solved
        progress("solve", done, total)

    for index, position in enumerate(graph.layers):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        parts: dict[str, SubsetMask] = {}
        for family in families(seed, index, node, layout.layers[index]):
            mask = None if workspace is None else workspace.layer(index, family.part)
            if mask is None or not meets(family, mask):
                solution = solve_family(family, advance, layout.objective)
                mask = solution.mask
                misses.extend(solution.misses)
                if workspace is not None and not solution.misses:
                    workspace.keep(index, family.part, mask)
            else:
                advance(family.weights.size)
            parts[family.part] = mask
        masks.append(parts)
    _refuse_misses(graph, layout, misses)
    return Ticket(layout, seed, tuple(masks))


def _refuse_misses(graph: Graph, layout: Layout, misses: Sequence[Miss]) -> None:
    if not misses:
        return
    worst = max(misses, key=lambda miss: miss.error / miss.tolerance)
    name = graph.nodes[graph.layers[worst.layer]].name or f"layer {worst.layer}"
    raise UnreachableError(
        f"this seed missed {len(misses)} weight(s), an event of planned probability {layout.failure:.1e}; "
        f"worst: layer '{name}' ({worst.part}), tap {worst.position[0]}, input channel {worst.position[1]}, "
        f"output channel {worst.position[2]}: weight {worst.weight:.6g}, error {worst.error:.2e}, "
        f"tolerance {worst.tolerance:.2e}. Try another seed, or a smaller delta"
    )
