"""The summary as plain JSON values, for `--json` and for programs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from slth_compile.report import statements
from slth_compile.report.summary import Summary


def summary_json(summary: Summary) -> dict[str, Any]:
    """A summary as objects, lists, strings and numbers; planned and certified are apart.

    Non-finite numbers become None, so that every JSON reader accepts the result.

    Returns:
        The keys `ticket_id`, `target_digest`, `seed`, `source`, `headline`, `asked`, `planned`, `certified` (a list),
        `size`, `layers` (a list), `measured`.
    """
    certified = [
        dataclasses.asdict(row)
        | {
            "ratio": row.ratio,
            "vacuous": statements.is_vacuous(row),
            "statement": statements.statement(row, summary.eps),
        }
        for row in summary.certificates
    ]
    for row in certified:
        # What an attack or a sample finds is measured, and says so.
        row["measured"] = {name: row.pop(name) for name in ("attack", "ratio", "largest_output", "seconds")}
    measured = summary.measured
    record = {
        "ticket_id": summary.ticket_id,
        "target_digest": summary.target_digest,
        "seed": summary.seed,
        "source": summary.source,
        "headline": statements.headline(summary),
        # delta and the failures are None where no probability is stated.
        "asked": {
            "eps": summary.eps,
            "delta": summary.delta,
            "objective": summary.objective,
            "construction": summary.construction,
        },
        "planned": {
            "failure": summary.planned_failure,
            "bound": summary.planned_bound,
            "promise": summary.promise,
            "constant_v": summary.constant_v,
            "constant_u": summary.constant_u,
            "layers": [{"name": layer.name, "failure": layer.failure} for layer in summary.layers],
        },
        "certified": certified,
        "size": {
            "weights": summary.weights,
            "depth": summary.depth,
            "copies": list(summary.copies),
            "parameters_v": summary.parameters_v,
            "parameters_u": summary.parameters_u,
            "kept": summary.kept,
            "mask_bytes": summary.mask_bytes,
            "mask_bits_per_weight": summary.mask_bits_per_weight if summary.weights else 0.0,
            "raw_bits_per_weight": summary.raw_bits_per_weight if summary.weights else 0.0,
            "quantiser_bits_per_weight": summary.quantiser_bits_per_weight if summary.weights else 0.0,
            "bytes_float32": 4 * summary.weights,
            "bytes_float16": 2 * summary.weights,
            "bytes_int8": summary.weights,
        },
        "layers": [
            {key: value for key, value in dataclasses.asdict(layer).items() if key != "failure"}
            for layer in summary.layers
        ],
        "measured": {
            "seconds": measured.seconds,
            "evaluation": measured.evaluation and dataclasses.asdict(measured.evaluation),
            "platform": measured.platform,
        },
    }
    return _finite(record)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
