"""Burkholz (2022) against da Cunha et al. (2022): depth l + 1 on copies of channels, or depth 2 l.

    python examples/experiments/burkholz2022.py OUT/

The demo's CNN on scikit-learn's digits (two convolutions, a dense layer, biases, max-pools) is compiled by both
constructions to one eps, over some of its held-out images, with the same delta and seed; both tickets are verified by
the checker, and the literal pruned networks are evaluated. Random parameters are all that are drawn, kept or not:
layers on copies have `r_in r_out` for every weight of the target, two random layers have `N` in V and, for every pair
of input channels, `N` in U.

Writes `results.json`, `results.md` and the tickets.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import typer

import slth_compile as slth
from slth_compile.cli.frame import progress_bars
from slth_compile.demo import digits, train
from slth_compile.report.files import write_whole
from slth_compile.report.summary import Evaluation
from slth_compile.source.layout import BURKHOLZ, CLOSEST, DA_CUNHA


def row(found: slth.Compiled, seconds: float, verify_seconds: float) -> dict[str, Any]:
    """What one construction takes and gives."""
    summary, layout, evaluation = found.summary, found.layout, found.measured.evaluation
    attack = found.measured.attacks[0]
    assert isinstance(evaluation, Evaluation) and attack is not None
    return {
        "depth": layout.depth,
        "widths N": [layer.kernel.width for layer in layout.layers],
        "copies of output channels": [layer.copies for layer in layout.layers],
        "windows": [layer.kernel.window for layer in layout.layers],
        "random parameters": summary.parameters_v + summary.parameters_u,
        "random parameters for each weight": round((summary.parameters_v + summary.parameters_u) / summary.weights, 1),
        "kept for each weight": round(summary.kept / summary.weights, 2),
        "mask bits for each weight": round(summary.mask_bits_per_weight, 1),
        "planned probability of a miss": layout.failure,
        "largest weight error": max(layer.largest_error for layer in summary.layers),
        "planned bound": f"{summary.planned_bound:.3g} ({summary.promise})",
        "certified": found.certificate.bound,
        "attack": attack.value,
        "accuracy of the target": evaluation.target,
        "accuracy of the literal pruned network": evaluation.literal,
        "seconds": round(seconds, 1),
        "seconds of the checker": round(verify_seconds, 1),
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """A column a construction."""
    lines = [f"| | {' | '.join(rows)} |", f"|{'---|' * (1 + len(rows))}"]
    for name in next(iter(rows.values())):
        lines.append(f"| {name} | {' | '.join(_shown(found[name]) for found in rows.values())} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    eps: Annotated[float, typer.Option(help="Allowed difference of any output.")] = 1e-1,
    delta: Annotated[float, typer.Option(help="Allowed failure probability.")] = 1e-3,
    points: Annotated[int, typer.Option(min=1, help="Held-out images that are certified.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the source.")] = 0,
    objective: Annotated[str, typer.Option(help="Subset a weight takes: closest|sparsest|fewest-bits.")] = CLOSEST,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT/.")] = False,
) -> None:
    """Prints the table."""
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists already; choose another one, or replace it with --force")
    out.mkdir(parents=True, exist_ok=True)
    images, labels, held_out, held_out_labels = digits()
    with progress_bars(quiet=False) as progress:
        model = train(images, labels, progress)
        rows = {}
        for construction in (DA_CUNHA, BURKHOLZ):
            start = time.perf_counter()
            found = slth.compile(
                model,
                eps,
                delta,
                domain=slth.Points(held_out[:points]),
                construction=construction,
                objective=objective,
                seed=seed,
                evaluate=(held_out, np.asarray(held_out_labels)),
                literal=True,
                progress=progress,
            )
            seconds = time.perf_counter() - start
            found.save(out / construction, force=force)
            start = time.perf_counter()
            slth.verify(out / construction, expected_id=found.ticket_id)
            rows[construction] = row(found, seconds, time.perf_counter() - start)
    asked = {
        "eps": eps,
        "points": points,
        "delta": delta,
        "seed": seed,
        "objective": objective,
        "platform": found.measured.platform,
    }
    write_whole(out / "results.json", json.dumps({"asked": asked, "constructions": rows}, indent=1).encode() + b"\n")
    write_whole(out / "results.md", markdown(rows).encode())
    print(markdown(rows), end="")


if __name__ == "__main__":
    typer.run(main)
