"""A study as text: JSON, CSV and markdown, the same bytes for the same study."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from slth_compile.baselines.study import Study, Summary, Trial

HEADING = ("method", "kept", "sparsity", "compression", "speed-up", "accuracy", "seeds")


def study_json(study: Study) -> dict[str, Any]:
    """Everything about a study; accuracies are shares, sparsity is the pruned fraction, null is what has no value."""
    return {
        "study": study.name,
        "settings": dict(study.settings),
        "summary": [_summary_json(summary) for summary in study.summaries()],
        "trials": [trial_json(trial) for trial in study.trials],
    }


def trial_json(trial: Trial) -> dict[str, Any]:
    """One trial, flat."""
    cost = trial.cost
    return {
        "method": trial.method,
        "density_asked": trial.density,
        "seed": trial.seed,
        "accuracy": trial.accuracy,
        "correct": trial.correct,
        "tested": trial.tested,
        "correct_before_tuning": trial.correct_before,
        "density": cost.density,
        "sparsity": cost.sparsity,
        "parameters": cost.entries + cost.biases,
        "kept_parameters": cost.kept_entries + cost.biases,
        "compression": _finite(cost.compression),
        "multiplications": cost.macs,
        "kept_multiplications": cost.kept_macs,
        "speedup": _finite(cost.speedup),
    }


def study_csv(study: Study) -> str:
    """One line a trial."""
    lines = [trial_json(trial) for trial in study.trials]
    found = io.StringIO()
    writer = csv.DictWriter(found, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return found.getvalue()


def rows(study: Study) -> list[list[str]]:
    """The summaries under `HEADING`; accuracies in per cent, mean and standard deviation over seeds."""
    return [
        [
            found.method,
            percent(found.kept),
            percent(1 - found.kept),
            f"{found.compression:.3g}x",
            f"{found.speedup:.3g}x",
            accuracy(found),
            str(found.seeds),
        ]
        for found in study.summaries()
    ]


def accuracy(found: Summary) -> str:
    """Mean and standard deviation, in per cent."""
    spread = "" if found.deviation is None else f" ± {100 * found.deviation:.2f}"
    return f"{100 * found.mean:.2f}{spread}"


def percent(share: float) -> str:
    """A share in per cent, three digits."""
    return f"{100 * share:.3g} %"


def markdown(study: Study) -> str:
    """The summaries as a table."""
    lines = (HEADING, ("---",) * len(HEADING), *rows(study))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def json_text(study: Study) -> str:
    """`study_json` as the text of a file."""
    return json.dumps(study_json(study), indent=1) + "\n"


def _summary_json(found: Summary) -> dict[str, Any]:
    return {
        "method": found.method,
        "density_asked": found.density,
        "seeds": found.seeds,
        "accuracy_mean": found.mean,
        "accuracy_deviation": found.deviation,
        "density": found.kept,
        "sparsity": 1 - found.kept,
        "compression": _finite(found.compression),
        "speedup": _finite(found.speedup),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
