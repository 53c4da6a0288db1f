"""The ladder of statements about two networks: sentences, tables, and the sections of a report."""

from __future__ import annotations

from slth_compile.report import numbers
from slth_compile.report.comparison import Comparison, LayerChange, Rung, Statistical
from slth_compile.report.content import Section
from slth_compile.report.table import Cell, Table, facts, rounded_down, rounded_up

_SUBJECTS = {"box": "For every input of {}", "balls": "For every input in the {}", "points": "On each of the {}"}
_BREADTH = {"box": 0, "balls": 1, "points": 2}


def headline(comparison: Comparison) -> str:
    """One sentence with the widest informative statement, or that there is none."""
    informative = [rung for rung in comparison.rungs if not rung.is_vacuous]
    if informative:
        return certified(comparison, min(informative, key=lambda rung: (_BREADTH[rung.kind], rung.bound)))
    smallest = min(comparison.rungs, key=lambda rung: rung.bound)
    return (
        f"No bound certified here is informative: the smallest, {numbers.significant(smallest.bound, 2, 'up')}, is "
        "larger than any output seen."
    )


def statements(comparison: Comparison) -> list[str]:
    """What is proved domain by domain, then predictions, then what held-out samples say."""
    found = [certified(comparison, rung) for rung in comparison.rungs]
    found += predictions(comparison)
    return found if comparison.statistical is None else [*found, sampled(comparison, comparison.statistical)]


def certified(comparison: Comparison, rung: Rung) -> str:
    """What one bound says; the bound is rounded up."""
    subject = _SUBJECTS[rung.kind].format(rung.domain)
    bound = numbers.significant(rung.bound, 3, "up")
    vacuous = " The bound is vacuous: it is larger than any output seen there." if rung.is_vacuous else ""
    return (
        f"{subject}, no output of {comparison.second} differs from that of {comparison.first} by more than {bound}."
        f"{vacuous}"
    )


def predictions(comparison: Comparison) -> list[str]:
    """One sentence for each domain on which predictions were looked at."""
    found = []
    for rung in comparison.rungs:
        if rung.top1 is None:
            continue
        total, proved = len(rung.top1.proved), rung.top1.unchanged
        alone = int(rung.top1.without_difference.sum())
        largest = "the largest output" + (", in real arithmetic" if rung.arithmetic == "real" else "")
        if rung.kind == "points":
            found.append(
                f"Prediction provably unchanged on {numbers.count(proved)} of {rung.domain}: there both networks give "
                f"the same class {largest}."
            )
        else:
            found.append(
                f"Prediction provably unchanged on {numbers.count(proved)} of {rung.domain}: everywhere in the ball "
                f"both networks give one and the same class {largest} ({comparison.first} alone provably "
                f"does on {numbers.count(alone)} of {numbers.count(total)})."
            )
    return found


def sampled(comparison: Comparison, found: Statistical) -> str:
    """What held-out samples say: the largest difference seen, and how often it may be exceeded."""
    largest = numbers.significant(found.largest, 3, "up")
    sentence = (
        f"On {_samples(found.samples)} the largest difference seen in float64 is {largest}; with "
        f"{numbers.significant(100 * found.confidence, 2)} % confidence, P(|{comparison.first} - {comparison.second}| "
        f"> {largest}) <= {numbers.significant(100 * found.exceedance, 3, 'up')} % for inputs drawn as they were."
    )
    if found.agreeing is not None:
        sentence += f" Predictions agree on {numbers.count(found.agreeing)} of {numbers.count(found.samples)}."
    return sentence


def short_ladder(comparison: Comparison) -> Table:
    """The ladder as a terminal has room for it."""
    rows = tuple(
        (
            Cell(text=rung.domain),
            Cell(text=numbers.method(rung.method, rung.splits)),
            _bound(rung),
            _attack(rung),
            _ratio(rung),
            Cell(text=numbers.duration(rung.seconds)),
        )
        for rung in comparison.rungs
    )
    head = ("Domain", "Method", "Certified", "Attack", "Ratio", "Time")
    return Table(
        caption=f"|{comparison.first} - {comparison.second}|, in output units", head=head, rows=rows, words=(0, 1)
    )


def sections(comparison: Comparison) -> tuple[Section, ...]:
    """All sections of a report, in reading order."""
    found = (_ladder(comparison), _predictions(comparison), _samples_section(comparison), _weights(comparison))
    return (*(section for section in found if section is not None), _limits(comparison))


def _ladder(comparison: Comparison) -> Section:
    rows = tuple(
        (
            Cell(text=rung.domain),
            Cell(text=numbers.method(rung.method, rung.splits)),
            Cell(text=rung.arithmetic),
            _bound(rung),
            _float32(rung),
            rounded_down(rung.lower) if rung.kind == "points" else Cell(text="–"),
            _attack(rung),
            _ratio(rung),
            Cell(text=_effort(rung)),
            Cell(text=_range(rung)),
            Cell(text=numbers.duration(rung.seconds), exact=f"{rung.seconds!r} s"),
        )
        for rung in comparison.rungs
    )
    head = (
        "Domain",
        "Method",
        "True for",
        "Certified bound",
        "In float32",
        "At least",
        "Attack found",
        "Bound / attack",
    )
    head += ("Attack effort", "Outputs seen", "Time")
    caption = f"Certified bounds on |{comparison.first} − {comparison.second}|"
    notes = []
    if any(rung.kind == "points" for rung in comparison.rungs):
        notes.append("On points the largest difference itself is enclosed: it lies between At least and the bound.")
    if any(rung.is_vacuous for rung in comparison.rungs):
        notes.append("Vacuous: the bound is larger than any |output| seen on the domain; it is true and says nothing.")
    per_output = tuple((f"outputs-{i}", f"Output by output: {rung.domain}.") for i, rung in enumerate(comparison.rungs))
    return Section(
        key="certified",
        title="Certified",
        badge="deterministic, for these weights",
        lead="For every input of the domain, no output of one network differs from the other's by more than the bound. "
        "The attack searches for the largest difference it can find: the truth lies between the two marks.",
        tables=(Table(caption=caption, head=head, rows=rows, words=(0, 1, 2, 7, 8)),),
        notes=tuple(notes),
        plots=(("bounds", "Certified bound and attack for each domain."), *per_output),
    )


def _predictions(comparison: Comparison) -> Section | None:
    rungs = [rung for rung in comparison.rungs if rung.top1 is not None]
    if not rungs:
        return None
    rows = []
    for rung in rungs:
        assert rung.top1 is not None
        total = len(rung.top1.proved)
        proved, alone = rung.top1.unchanged, int(rung.top1.without_difference.sum())
        shares = [f"{numbers.count(count)} ({numbers.percent(count / total)})" for count in (proved, alone)]
        rows.append((Cell(text=rung.domain), *(Cell(text=text) for text in shares), Cell(text=numbers.count(total))))
    head = ("Domain", "Both networks", f"{comparison.first} alone", "Samples")
    return Section(
        key="predictions",
        title="Predictions",
        badge="deterministic, for these weights",
        lead="Samples on whose whole region one class provably has the largest output, in both networks: the margin of "
        "that class over every other one is larger than what the difference can take from it.",
        tables=(Table(caption="One and the same prediction, proved", head=head, rows=tuple(rows)),),
        notes=tuple(predictions(comparison)),
    )


def _samples_section(comparison: Comparison) -> Section | None:
    found = comparison.statistical
    if found is None:
        return None
    rows = [
        ("Held-out samples", numbers.count(found.samples)),
        ("Largest difference seen, in float64", numbers.significant(found.largest, 3, "up")),
        ("Share of inputs that may exceed it", f"at most {numbers.significant(100 * found.exceedance, 3, 'up')} %"),
        ("Confidence, over the draw of the samples", f"{numbers.significant(100 * found.confidence, 2)} %"),
    ]
    if found.agreeing is not None:
        rows.append(("Same prediction", f"{numbers.count(found.agreeing)} of {numbers.count(found.samples)}"))
    if found.accuracies is not None:
        names = (comparison.first, comparison.second)
        rows += [
            (f"Top-1 accuracy of {name}", numbers.percent(accuracy))
            for name, accuracy in zip(names, found.accuracies, strict=True)
        ]
    return Section(
        key="samples",
        title="Held-out samples",
        badge="statistical, 95 % confidence" if found.confidence == 0.95 else "statistical",
        lead=sampled(comparison, found),
        tables=(facts("What the samples say", tuple(rows)),),
        notes=(
            "With n samples drawn independently, P(difference > largest seen) <= 1 - (1 - confidence)^(1/n), whatever "
            "the distribution. It holds where the samples had no part in making or choosing either network, for "
            "inputs drawn as they were.",
        ),
    )


def _weights(comparison: Comparison) -> Section:
    rows = tuple(
        (
            Cell(text=layer.name),
            Cell(text=numbers.count(layer.weights)),
            Cell(text=numbers.count(layer.changed)),
            rounded_up(layer.largest_change),
            rounded_up(layer.largest_weight),
        )
        for layer in comparison.layers
    )
    head = ("Layer", "Weights", "Changed", "Largest change", "Largest |weight|")
    return Section(
        key="weights",
        title="Weights",
        badge="exact",
        lead=_changed(comparison.layers),
        tables=(Table(caption="Weights after folding batch norms", head=head, rows=rows),),
        plots=(("changes", "Largest change of a weight, and largest weight, of each layer."),),
    )


def _limits(comparison: Comparison) -> Section:
    arithmetic = sorted({rung.arithmetic for rung in comparison.rungs})
    says = [f"Each certified bound holds for every input of its domain and every output: {'; '.join(arithmetic)}."]
    if any(rung.top1 is not None for rung in comparison.rungs):
        says.append(
            "A proved prediction holds for every input of the sample's region, in both networks and the arithmetic of "
            "its bound."
        )
    says_not = [
        "Anything about inputs outside the listed domains.",
        "What other arithmetic does than the one a bound is true for: products by transforms (FFT, Winograd) and "
        "formats with fewer bits add rounding that no bound here covers.",
        "That the attack found the worst input: it gives a lower bound only, and finding little proves nothing.",
        "That a prediction without a proof changes.",
        "Which of the two networks is right.",
    ]
    lists = (("It says", tuple(says)), ("It does not say", tuple(says_not)))
    return Section(key="limits", title="What this does and does not say", lists=lists)


def _bound(rung: Rung) -> Cell:
    mark = "vacuous" if rung.is_vacuous else ""
    return Cell(text=numbers.significant(rung.bound, 3, "up"), exact=repr(rung.bound), mark=mark)


def _float32(rung: Rung) -> Cell:
    return Cell(text="not stated") if rung.float32 is None else rounded_up(rung.float32)


def _attack(rung: Rung) -> Cell:
    if rung.attack is None:
        return Cell(text="not run")
    value = rung.attack.value
    return Cell(text=numbers.significant(value, 3, "down"), exact=repr(value))


def _ratio(rung: Rung) -> Cell:
    return Cell(text="–" if rung.attack is None else numbers.ratio(rung.bound, rung.attack.value))


def _effort(rung: Rung) -> str:
    attack = rung.attack
    if attack is None:
        return "no attack was run"
    inputs = f"{numbers.count(attack.inputs)} inputs evaluated"
    return f"{attack.steps} steps, {attack.restarts} restarts, {inputs}" if attack.steps else inputs


def _range(rung: Rung) -> str:
    low, high = (numbers.significant(end) for end in rung.output_range)
    return f"{low} … {high}"


def _changed(layers: tuple[LayerChange, ...]) -> str:
    changed, weights = sum(layer.changed for layer in layers), sum(layer.weights for layer in layers)
    return f"{numbers.count(changed)} of {numbers.count(weights)} weights are not the same in both networks."


def _samples(number: int) -> str:
    return f"{numbers.count(number)} held-out sample" + ("" if number == 1 else "s")
