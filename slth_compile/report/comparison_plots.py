"""The pictures of a comparison: bounds beside what was found, domain by domain and output by output."""

from __future__ import annotations

import numpy as np

from slth_compile.report import numbers
from slth_compile.report.comparison import Comparison, Rung
from slth_compile.report.dumbbells import Series, dumbbells
from slth_compile.report.svg import BLUE, MUTED, ORANGE

MOST_OUTPUTS = 16
"""Outputs in a picture; of more, those with the largest bounds."""


def bounds(comparison: Comparison) -> str:
    """Each domain's certified bound next to the attack's value, on a logarithmic axis."""
    rungs = comparison.rungs
    series = _pair(
        [rung.bound for rung in rungs], [None if rung.attack is None else rung.attack.value for rung in rungs]
    )
    if any(rung.is_vacuous for rung in rungs):
        seen = tuple(max(-rung.output_range[0], rung.output_range[1]) if rung.is_vacuous else None for rung in rungs)
        series.append(Series(label="largest output", values=seen, marker="|", colour=MUTED))
    names = [rung.domain + (" (vacuous)" if rung.is_vacuous else "") for rung in rungs]
    description = "; ".join(f"{rung.domain}: {_in_words(rung)}" for rung in rungs)
    return dumbbells("bounds", f"{description}.", names, series, above=True)


def outputs(rung: Rung, name: str) -> str:
    """The bound and the attack's value of single outputs, those with the largest bounds, in their own order.

    Args:
        rung: One domain.
        name: Prefix of identifiers, unique within the page.
    """
    labels = _labels(rung.per_output)
    bound = np.concatenate([leaf.reshape(-1) for leaf in rung.per_output])
    shown = np.sort(np.argsort(-bound, kind="stable")[:MOST_OUTPUTS])
    attack: list[float | None] = [None] * len(shown)
    if rung.attack is not None:
        seen = np.concatenate([leaf.reshape(-1) for leaf in rung.attack.per_output])
        attack = [float(value) for value in seen[shown]]
    which = "every output" if len(shown) == len(bound) else f"the {len(shown)} outputs with the largest bounds"
    description = f"{rung.domain}: certified bound and attack of {which} of {len(bound)}; {_in_words(rung)}."
    return dumbbells(name, description, [labels[i] for i in shown], _pair([float(v) for v in bound[shown]], attack))


def changes(comparison: Comparison) -> str:
    """Each layer's largest change of a weight next to its largest weight, on a logarithmic axis."""
    series = [
        Series(
            label="largest change",
            values=tuple(layer.largest_change for layer in comparison.layers),
            marker="o",
            colour=BLUE,
        ),
        Series(
            label="largest weight",
            values=tuple(layer.largest_weight for layer in comparison.layers),
            marker="|",
            colour=MUTED,
        ),
    ]
    description = "Largest change of a weight and largest weight of each layer."
    return dumbbells("changes", description, [layer.name for layer in comparison.layers], series)


def _pair(bound: list[float], attack: list[float | None]) -> list[Series]:
    return [
        Series(label="certified bound", values=tuple(bound), marker="o", colour=BLUE),
        Series(label="attack found", values=tuple(attack), marker="D", colour=ORANGE, is_open=True),
    ]


def _in_words(rung: Rung) -> str:
    bound = f"certified bound {numbers.significant(rung.bound, 3, 'up')}"
    return bound + ("" if rung.attack is None else f", attack {numbers.significant(rung.attack.value, 3, 'down')}")


def _labels(leaves: tuple[np.ndarray, ...]) -> list[str]:
    """`3`, `1,2` within one leaf; with the leaf's number before it where there are several."""
    found = []
    for number, leaf in enumerate(leaves):
        prefix = f"{number}: " if len(leaves) > 1 else ""
        found += [prefix + (",".join(map(str, index)) or "output") for index in np.ndindex(leaf.shape)]
    return found
