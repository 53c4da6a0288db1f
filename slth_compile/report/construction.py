"""What was built: the ticket as a whole, then layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from slth_compile.report import numbers, statements
from slth_compile.report.summary import LayerRow, Summary
from slth_compile.report.table import Cell, Table, facts, rounded_up


def compiled(summary: Summary) -> Table:
    """What was compiled: the target, the random network and the ticket."""
    depth = summary.depth
    random_weights = summary.parameters_v + summary.parameters_u
    raw, coded, quantiser = (numbers.per(bits, summary.weights) for bits in _bits(summary.layers))
    rows = (
        ("Target", f"{numbers.count(summary.weights)} weights in {numbers.count(len(summary.layers))} layers"),
        ("Random network", f"{numbers.count(random_weights)} random weights in {numbers.count(depth)} layers"),
        ("Construction", statements.construction(summary)),
        ("Subset of a weight within its tolerance", summary.objective),
        ("Kept in V", f"{numbers.count(summary.kept)} of {numbers.count(summary.parameters_v)}"),
        ("Kept for each target weight", numbers.per(summary.kept, summary.weights)),
        ("Mask", f"{coded} bits a target weight; {raw} without a code"),
        ("Uniform quantiser of the same largest errors", f"{quantiser} bits a target weight, as an entropy"),
        ("Source", summary.source or f"seed {summary.seed}"),
        ("Ticket id", summary.ticket_id),
        ("Target digest", summary.target_digest),
        ("Compiled with", summary.measured.platform),
    )
    return facts("What went in and what came out", rows)


def layers(summary: Summary) -> Table:
    """How each layer is built and how well its weights are met."""
    rows = tuple(
        (
            Cell(text=layer.name),
            Cell(text=layer.kind.replace("->", "→")),
            Cell(text="both" if layer.signed else "one"),
            Cell(text=numbers.count(layer.weights)),
            Cell(text=numbers.count(layer.width)),
            Cell(text=numbers.power_of_two(layer.gain)),
            Cell(text=numbers.count(layer.window)),
            rounded_up(layer.tolerance),
            Cell(
                text=numbers.significant(layer.largest_error, 3, "up"),
                exact=repr(layer.largest_error),
                mark="missed" if layer.largest_error > layer.tolerance else "",
            ),
        )
        for layer in summary.layers
    )
    head = ("Layer", "Kind", "Signs", "Weights", "Width N", "Gain", "Window", "Tolerance", "Largest error")
    return Table(caption="Construction and weight errors of the ticket", head=head, rows=rows, words=(0, 1, 2))


def costs(summary: Summary) -> Table:
    """What each layer costs in random parameters, `V` and `U` apart, and in mask bits, raw and coded."""
    entries = [
        (layer.name, layer.weights, layer.parameters_v, layer.parameters_u, layer.kept, _bits((layer,)))
        for layer in summary.layers
    ]
    is_summed = len(entries) > 1
    if is_summed:
        total = (summary.parameters_v, summary.parameters_u, summary.kept, _bits(summary.layers))
        entries.append(("All layers", summary.weights, *total))
    rows = tuple(
        (
            Cell(text=name),
            Cell(text=numbers.count(in_v)),
            Cell(text=numbers.count(in_u), mark="U > V" if in_u > in_v else ""),
            Cell(text=numbers.count(kept)),
            Cell(text=numbers.per(kept, weights)),
            Cell(text=f"{numbers.per(100 * kept, in_v)} %" if in_v else "–"),
            *(Cell(text=numbers.per(figure, weights)) for figure in bits),
        )
        for name, weights, in_v, in_u, kept, bits in entries
    )
    head = ("Layer", "Random in V", "Random in U", "Kept", "Kept a weight", "Density of V")
    head += ("Raw bits a weight", "Coded bits a weight", "Quantiser's entropy")
    return Table(caption="Random parameters and masks", head=head, rows=rows, total=is_summed)


def _bits(layers: Sequence[LayerRow]) -> tuple[float, float, float]:
    """Bits of the masks raw and coded, and of a uniform quantiser of the same largest error under an ideal code."""
    return (
        sum(layer.raw_bits for layer in layers),
        sum(layer.mask_bits for layer in layers),
        sum(layer.quantiser_bits for layer in layers),
    )
