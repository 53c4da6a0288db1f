"""The sentences of a report: what is certified, what was planned, and what neither of them says."""

from __future__ import annotations

import math

from slth_compile.plan.budget import ALL
from slth_compile.report import numbers
from slth_compile.report.summary import CertificateRow, LayerRow, Summary

_BREADTH = {"box": 0, "balls": 1, "points": 2}
_SUBJECTS = {"box": "For every input of {}", "balls": "For every input in the {}", "points": "On each of the {}"}
_BYTES_PER_WEIGHT = (("float32", 4), ("float16", 2), ("int8", 1))


def is_vacuous(row: CertificateRow) -> bool:
    """Whether a bound says nothing: it is infinite, or larger than any output of the target that was seen."""
    return not math.isfinite(row.bound) or row.bound > row.largest_output


def strongest(summary: Summary) -> CertificateRow | None:
    """The certificate for the headline: the widest kind of domain, then the smallest bound; None if all are vacuous."""
    informative = [row for row in summary.certificates if not is_vacuous(row)]
    return min(informative, key=lambda row: (row.bound > summary.eps, _BREADTH[row.kind], row.bound), default=None)


def headline(summary: Summary) -> str:
    """One sentence with the strongest statement that is certified, or that there is none."""
    row = strongest(summary)
    if row is not None:
        return statement(row, summary.eps)
    if not summary.certificates:
        return "Nothing is certified about this ticket."
    row = min(summary.certificates, key=lambda row: row.bound)
    return (
        f"No bound certified here is informative: the smallest, {numbers.upper_bound(row.bound, summary.eps, 2)}, "
        f"is larger than any target output seen ({numbers.significant(row.largest_output, 2)})."
    )


def statement(row: CertificateRow, eps: float) -> str:
    """What one certificate says, in a sentence; the bound is rounded up."""
    subject = _SUBJECTS[row.kind].format(row.domain)
    bound = numbers.upper_bound(row.bound, eps, 2)
    asked = f"asked: {numbers.given(eps)}" + ("" if row.bound <= eps else ", not reached")
    return f"{subject}, every output of the pruned random network is within {bound} of the target ({asked})."


def construction(summary: Summary) -> str:
    """Whose proof the network is built by, and how often its channels are there."""
    if not summary.copies:
        return summary.construction
    built = ", ".join(numbers.count(copies) for copies in summary.copies)
    return f"{summary.construction}; channels of the layers built {built} times"


def attack_evidence(row: CertificateRow) -> str:
    """How hard the attack tried, in words."""
    if row.attack is None:
        return "no attack was run"
    inputs = f"{_plural(row.attack.inputs, 'input')} evaluated"
    if not row.attack.steps:
        return f"{inputs}, no gradient steps"
    return f"{_plural(row.attack.steps, 'step')}, {_plural(row.attack.restarts, 'restart')}, {inputs}"


def attack_warning(row: CertificateRow) -> str | None:
    """A sentence where an attack found more than the bound allows, None otherwise."""
    if row.attack is None or not row.attack.value > row.bound:
        return None
    excess = numbers.significant(row.attack.value - row.bound, 2, "up")
    return (
        f"{row.domain}: the attack's value is above the certified bound by {excess}. The attack is evaluated in "
        "float64: an excess of the order of 1e-15 of the outputs is its rounding, more would refute the certificate."
    )


def checkpoint_sizes(summary: Summary) -> list[tuple[str, int]]:
    """Names and bytes: the mask first, then the target's weights in three usual formats."""
    checkpoints = [(name, width * summary.weights) for name, width in _BYTES_PER_WEIGHT]
    return [("mask (this ticket)", summary.mask_bytes), *checkpoints]


def size_verdict(summary: Summary) -> str:
    """Whether the ticket is smaller than an int8 checkpoint, said openly."""
    bits = numbers.per(sum(layer.mask_bits for layer in summary.layers), summary.weights)
    weights = summary.weights
    if summary.mask_bytes >= weights:
        compared = [
            f"{numbers.per(summary.mask_bytes, weights * width)} times the bytes of {name}"
            for name, width in (("int8", 1), ("float16", 2), ("float32", 4))
        ]
        return (
            f"This ticket is not smaller than an int8 checkpoint: its mask takes {compared[0]}, {compared[1]} and "
            f"{compared[2]}. Precision costs about one mask bit per bit of a weight, here {bits} bits a weight. A "
            "ticket pays where random weights are free or fixed, as a proof object, and as a laboratory for the theory."
        )
    return (
        f"The mask takes {numbers.per(summary.mask_bytes, weights)} times the bytes of an int8 checkpoint, {bits} bits "
        "a weight: it is smaller because little precision was asked, not because pruning compresses. Precision costs "
        "about one mask bit per bit of a weight."
    )


def wide_inputs(summary: Summary) -> list[LayerRow]:
    """Layers whose `U` has more random parameters than their `V`."""
    return [layer for layer in summary.layers if layer.parameters_u > layer.parameters_v]


def planned_difference(summary: Summary) -> str:
    """What the planned bound is a bound of."""
    if summary.promise == ALL:
        return "Planned: difference if every weight meets its tolerance"
    return "Expected: difference of typical errors within the tolerances; no promise"


def not_stated(summary: Summary) -> str:
    """Why no probability is stated, in a few words."""
    return not_stated_because(supplied=summary.seed is None)


def not_stated_because(*, supplied: bool) -> str:
    """The same, from whether the source was supplied."""
    why = "the source was supplied" if supplied else "at these tolerances a source of so few bits is not bounded"
    return f"not stated: {why}"


def says(summary: Summary) -> list[str]:
    """What the report does establish."""
    entries = [
        f"Nothing but pruning: every weight of the network {_origin(summary)}, the mask only removes some, and the "
        "effective form computes exactly what the literal pruned network of twice the depth computes, for every real "
        "input.",
    ]
    if summary.certificates:
        entries.append(
            "Each certified bound holds for every input of its domain and every output, for the exact weights of this "
            "ticket, in the arithmetic it names: float64 stands for any order of summation, fused or not, and so does "
            "the float32 figure beside it, with all weights rounded to float32. The checker, written independently of "
            "the compiler, recomputes both from the files with NumPy alone."
        )
    if summary.planned_failure is None:
        return entries
    entries.append(
        "The planned failure bounds the share of seeds for which some weight misses its tolerance; it was stated "
        "before the seed was drawn. It rests on upper confidence limits of measured miss rates, summed over all "
        "weights."
    )
    return entries


def does_not_say(summary: Summary) -> list[str]:
    """What a reader might take from the report and should not."""
    entries = [
        "Anything about inputs outside the listed domains.",
        "What other arithmetic does: products by transforms (FFT, Winograd), TF32 or bfloat16 add rounding that no "
        "bound here covers.",
        "Which class wins: the bound is on output values. The top class is sure to agree only where the target's "
        "first output leads the second by more than twice the bound; certify proves it sample by sample.",
        "That the attack found the worst input: it gives a lower bound only, and finding little proves nothing.",
        "How likely this ticket is to be good: delta is a probability over seeds, stated before drawing."
        if summary.delta is not None
        else f"How likely the source was to do: the probability is {not_stated(summary)}.",
        "That anything became smaller or faster: the random network is far larger than the target and its sparsity is "
        "unstructured.",
    ]
    if summary.measured.evaluation is not None:
        samples = _plural(summary.measured.evaluation.samples, "labelled sample")
        entries.append(f"How it does on other data: the quality was measured on {samples}.")
    vacuous = [row.domain for row in summary.certificates if is_vacuous(row)]
    if vacuous:
        entries.append(
            f"Anything useful for {', '.join(vacuous)}: the bound is true, but larger than any target output seen "
            "there, and marked vacuous."
        )
    return entries


def _origin(summary: Summary) -> str:
    return "follows from the seed" if summary.seed is not None else "is one of the supplied source"


def _plural(number: int, noun: str) -> str:
    return f"{numbers.count(number)} {noun}" + ("" if number == 1 else "s")
