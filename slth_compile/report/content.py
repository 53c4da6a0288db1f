"""What a report says, section by section, before it is HTML or Markdown."""

from __future__ import annotations

import dataclasses

from slth_compile.report import construction, measurements, numbers, promises, statements
from slth_compile.report.summary import Summary
from slth_compile.report.table import Table

_QUANTISER = (
    "Raw bits are window numbers in unary and one bit for each candidate of the window; coded bits are those in "
    "masks.safetensors. A quantiser rounds the layer's weights to multiples of twice their largest error; its entropy "
    "is that of the rounded weights as they are distributed, so at most log2 of their number."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One section.

    Attributes:
        key: Identifier, unique within the report.
        title: Heading.
        badge: What kind of knowledge it holds, such as `"deterministic"`; may be empty.
        lead: Opening paragraph; may be empty.
        tables: Its tables.
        notes: Closing paragraphs.
        plots: Names of the plots of `plots.py` it shows, with a caption each.
        lists: Titled lists of sentences.
    """

    key: str
    title: str
    badge: str = ""
    lead: str = ""
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    plots: tuple[tuple[str, str], ...] = ()
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()


def sections(summary: Summary) -> tuple[Section, ...]:
    """All sections of a report, in reading order; those without content are left out."""
    found = (
        _certified(summary),
        _compiled(summary),
        _planned(summary),
        _layers(summary),
        _quality(summary),
        _sizes(summary),
        _seconds(summary),
        _limits(summary),
    )
    return tuple(section for section in found if section is not None)


def _certified(summary: Summary) -> Section:
    notes = [note for row in summary.certificates if (note := statements.attack_warning(row)) is not None]
    if any(row.kind == "points" for row in summary.certificates):
        notes.append(
            "On points the largest difference itself is enclosed: it lies between the column At least and the bound."
        )
    if any(statements.is_vacuous(row) for row in summary.certificates):
        notes.append(
            "Vacuous: the bound is larger than any output of the target that was seen on the domain; it is true and "
            "says nothing."
        )
    plots = (("bounds", "Certified bound and attack for each domain. The truth lies between the two marks."),)
    return Section(
        key="certified",
        title="Certified",
        badge="deterministic, for this ticket",
        lead="For every input of the domain, no output of the ticket differs from the target's by more than the bound: "
        "for the exact weights, in the arithmetic that it is true for. The attack searches for the largest difference "
        "it can find: a lower bound, to show how much of the certified bound is slack.",
        tables=(promises.certified(summary),) if summary.certificates else (),
        notes=tuple(notes) if summary.certificates else ("No domain was certified.",),
        plots=plots if summary.certificates else (),
    )


def _compiled(summary: Summary) -> Section:
    drawn, source = ("drawn from one seed", "seed") if summary.seed is not None else ("that were supplied", "source")
    return Section(
        key="compiled",
        title="What was compiled",
        lead=f"The target's layers became pairs of random layers {drawn}; a mask keeps some of their weights and "
        f"removes the rest. The {source} and the mask are the ticket.",
        tables=(construction.compiled(summary),),
    )


def _planned(summary: Summary) -> Section:
    stated = summary.planned_failure is not None
    smaller = "min(eps, delta)" if stated else "eps"
    return Section(
        key="planned",
        title="Planned",
        badge="a probability over seeds" if stated else "an estimate",
        lead="Stated before anything was drawn: how wide the random network must be so that, for all but a share delta "
        "of the seeds, pruning meets every weight within its tolerance."
        if stated
        else f"How likely the source is to do is {statements.not_stated(summary)}. Gains and windows, and widths where "
        "they were free, are estimated from those of the standard source.",
        tables=(promises.planned(summary), promises.planned_layers(summary)),
        notes=(
            f"The constants are realised ones: parameters = C k log2(k l / {smaller}), with k = "
            f"{numbers.count(summary.weights)} weights and l = {numbers.count(len(summary.layers))} layers, once with "
            "the parameters of V (and the bias gadgets) and once with those of U.",
        ),
    )


def _layers(summary: Summary) -> Section:
    wide = statements.wide_inputs(summary)
    notes = ["A layer of both signs keeps one set of copies for positive inputs and one for negative inputs."]
    if wide:
        names = ", ".join(layer.name for layer in wide[:8]) + (f" and {len(wide) - 8} more" if len(wide) > 8 else "")
        notes.append(
            f"U has more random parameters than V in: {names}. U is counted as the full matrix of its 1x1 layer; all "
            "but one entry a hidden channel are pruned and nothing of it is stored."
        )
    return Section(
        key="layers",
        title="Layers",
        tables=(construction.layers(summary), construction.costs(summary)),
        notes=(*notes, _QUANTISER),
        plots=(
            ("weight_errors", "Largest weight error of each layer and its tolerance."),
            ("random_parameters", "Random parameters of each layer, V and U apart, and what the mask keeps of V."),
        ),
    )


def _quality(summary: Summary) -> Section | None:
    table = measurements.quality(summary)
    if table is None:
        return None
    return Section(
        key="quality",
        title="Quality on data",
        badge="measured",
        lead="The target, the ticket folded to the target's cost, and the pruned random network run as it is.",
        tables=(table,),
    )


def _sizes(summary: Summary) -> Section:
    return Section(
        key="size",
        title="Size",
        badge="measured",
        lead=statements.size_verdict(summary),
        tables=(measurements.sizes(summary),),
        plots=(("checkpoint_bytes", "Bytes of the mask next to usual checkpoints of the target."),),
    )


def _seconds(summary: Summary) -> Section | None:
    table = measurements.seconds(summary)
    return table and Section(key="time", title="Time", badge="measured", tables=(table,))


def _limits(summary: Summary) -> Section:
    return Section(
        key="limits",
        title="What this does and does not say",
        lists=(
            ("It says", tuple(statements.says(summary))),
            ("It does not say", tuple(statements.does_not_say(summary))),
        ),
    )
