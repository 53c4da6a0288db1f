"""Certified bounds on the difference of two networks beside the best attack: this project's engines and the prototype.

    python -m examples.benchmarks.certificates --data DIR --models DIR \
        [--engine interval|euclidean|backward] [--splits K] [--effort SECONDS] \
        [--prototype DIR --prototype-python PYTHON] \
        [--only reludiff,digits,lenet,resnet_2b,resnet20] [--samples N] [--markdown] [--json FILE]

from the repository's root; the folders are those of the published networks and data (`reludiff_mnist_3_100.npz`,
`mnist.npz`, `dacunha_lenet5_mnist.npz`, `cifar10_200.npz`; `resnet_2b.onnx`, `resnet20_cifar10.safetensors`).

`bound` is the mean over the regions of the certified `max |g - f|` (of the label's output where the domain says so),
`attack` the mean of the largest difference that either attack saw in float64: projected sign gradients on every counted
output, both signs. Ours: 100 steps from 4 starts a ball, 32 in a box. The prototype's: 200 steps,
.05 of the width, from 4 starts a ball and 32 in a box (30 steps, .2, one start in the ReluDiff case, as published). A
ratio is bound by attack, the same attack for all engines. Seconds are a sample's: ours of a second call on all
regions, the first one, which compiles, in parentheses; `branched` are the bounds of `--splits` K units each (in
parentheses), or of as many as `--effort` leaves time for, a sample; the prototype's one region after the other on one
core, which its process keeps to. CPU seconds, all threads together, are the ones to compare on a machine with other
work. On boxes the prototype's bound is the smaller one of its backward and its l2 engine. A bound below an attack is a
violation: it is printed and fails the run.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.benchmarks.certificate_cases import CASES, Case
from examples.benchmarks.certificate_prototype import run_prototype
from slth_compile.certificate.attack import attack
from slth_compile.certificate.backward.engine import bound_difference_branched
from slth_compile.certificate.difference import Difference
from slth_compile.certificate.engine import refuse_branching
from slth_compile.certificate.witness import MOST_SPLITS
from slth_compile.graph.evaluate import target_weights

ENGINES = {
    "interval": ("slth_compile.certificate.difference", "bound_difference"),
    "euclidean": ("slth_compile.certificate.hybrid_bounds", "bound_difference_euclidean"),
    "backward": ("slth_compile.certificate.backward.engine", "bound_difference_backward"),
}
STEPS = 100

ROUNDING = 1e-12
"""How far an evaluation in float64 may be off, of the largest output."""

HEADER = ("pair", "domain", "n", "bound", "branched (K)", "prototype", "attack", "ratio", "ratio branched")
HEADER += ("ratio prototype", "seconds (first call)", "s branched", "s prototype", "CPU s", "CPU s branched")
HEADER += ("CPU s prototype",)

Engine = Callable[..., tuple[Difference, ...]]


def engine_named(name: str) -> Engine | None:
    """The engine; None where this version has none of that name."""
    module, function = ENGINES[name]
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        return None


def measure_engine(case: Case, engine: Engine) -> dict[str, Any]:
    """Bounds `(regions, outputs)` of all outputs and seconds a sample, of the first call and of a second one."""
    seconds, cpu_seconds, found = [], [], ()
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        found = engine(case.pair.graph, case.pair.errors, case.lower, case.upper)
        seconds.append((time.perf_counter() - start) / len(case.lower))
        cpu_seconds.append((time.process_time() - cpu) / len(case.lower))
    leaves = [np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)).reshape(len(case.lower), -1) for leaf in found]
    bounds = np.concatenate(leaves, axis=1).tolist()
    return {"bounds": bounds, "seconds": seconds, "cpu_seconds": cpu_seconds}


def measure_branched(case: Case, splits: int, effort: float | None) -> dict[str, Any]:
    """The same for branched bounds: of `splits` units, or of as many as a second call has time for, a sample."""
    found: dict[str, Any] = {}
    for depth in range(1, MOST_SPLITS + 1) if effort is not None else [splits] * (splits > 0):

        def engine(*given: Any, depth: int = depth) -> tuple[Difference, ...]:
            graph, errors, lower, upper = given
            return bound_difference_branched(graph, errors, lower, upper, depth).leaves

        measured: dict[str, Any] = measure_engine(case, engine) | {"splits": depth}
        if effort is not None and measured["seconds"][-1] > effort:
            break
        found = measured
        if effort is not None and 2 * measured["seconds"][-1] > effort:
            break
    return found


def measure_attack(case: Case, steps: int) -> dict[str, Any]:
    """The largest difference this project's attack sees in every region."""
    values, start = [], time.perf_counter()
    for k in range(len(case.lower)):
        pair, box = case.region(k)
        weights = target_weights(pair.graph), pair.weights
        values.append(attack(pair.graph, *weights, box, steps=steps, restarts=case.restarts, seed=k).value)
    seconds = (time.perf_counter() - start) / len(values)
    return {"attack": values, "steps": steps, "restarts": case.restarts, "attack_seconds": seconds}


def counted(case: Case, bounds: list[list[float]]) -> np.ndarray:
    """The bound of every region, of the outputs that count."""
    array = np.asarray(bounds)
    return array.max(axis=1) if case.labels is None else array[np.arange(len(array)), case.labels]


def measure(
    case: Case,
    engine: Engine | None,
    splits: int,
    effort: float | None,
    prototype: Callable[[Case], dict[str, Any]] | None,
    steps: int,
) -> dict[str, Any]:
    """Everything about one case; bounds and attacks a region."""
    found: dict[str, Any] = {"pair": case.pair.name, "domain": case.domain, "samples": len(case.lower)}
    sides = {}
    if engine is not None:
        sides["ours"] = measure_engine(case, engine)
        if tighter := measure_branched(case, splits, effort):
            sides["branched"] = tighter
    attacks = [found.setdefault("our_attack", measure_attack(case, steps))["attack"]]
    if prototype is not None:
        sides["prototype"] = prototype(case)
        attacks.append(sides["prototype"]["attack"])
    best = np.max(attacks, axis=0)
    slack = ROUNDING * np.abs(case.outputs(case.upper)).max()
    for side in sides.values():
        side["counted"] = counted(case, side["bounds"])
        if side.get("l2"):
            side["counted"] = np.minimum(side["counted"], side["l2"])
        side["ratio"] = side["counted"].mean() / best.mean()
        side["ratios"] = (side["counted"] / best).tolist()
        side["violations"] = int(np.sum(side["counted"] + slack < best))
        side["counted"] = side["counted"].tolist()
    return found | {"best_attack": best.tolist()} | sides


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""

    def cell(side: str, value: Callable[[dict[str, Any]], str]) -> str:
        return value(found[side]) if side in found else "-"

    def bound(side: dict[str, Any]) -> str:
        splits = f" ({side['splits']})" if "splits" in side else ""
        return f"{np.mean(side['counted']):.4g}{splits}" + (" VIOLATED" if side["violations"] else "")

    def ratio(side: dict[str, Any]) -> str:
        return f"{side['ratio']:.3g}"

    sides = ("ours", "branched", "prototype")
    return [
        found["pair"],
        found["domain"],
        str(found["samples"]),
        *(cell(side, bound) for side in sides),
        f"{np.mean(found['best_attack']):.4g}",
        *(cell(side, ratio) for side in sides),
        cell("ours", lambda side: f"{side['seconds'][-1]:.3g} ({side['seconds'][0]:.3g})"),
        cell("branched", lambda side: f"{side['seconds'][-1]:.3g}"),
        cell("prototype", lambda side: f"{np.mean(side['seconds']):.3g}"),
        *(cell(name, lambda side: f"{side['cpu_seconds'][-1]:.3g}") for name in ("ours", "branched")),
        cell("prototype", lambda side: f"{np.mean(side['cpu_seconds']):.3g}"),
    ]


def show(rows: list[list[str]], markdown: bool) -> None:
    """Prints the table."""
    if markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *rows)))
        return
    table = Table(*HEADER)
    for line in rows:
        table.add_row(*line)
    Console(width=None if os.isatty(1) else 200).print(table)


def machine(cores: int | None) -> dict[str, Any]:
    """What the figures depend on; confines this process to its first cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, allowed)
    versions = {"jax": jax.__version__, "numpy": np.__version__}
    return {"platform": platform.platform(), "cores": len(allowed), "load": os.getloadavg()[0]} | versions


def main(
    data: Annotated[pathlib.Path, typer.Option(help="Folder of the data sets and weights in .npz.")],
    models: Annotated[pathlib.Path, typer.Option(help="Folder of the other networks.")],
    engine: Annotated[str, typer.Option(help=" or ".join(ENGINES))] = "backward",
    splits: Annotated[int, typer.Option(help="Units that branched bounds are split at.")] = 0,
    effort: Annotated[float | None, typer.Option(help="Seconds a sample for branched bounds.")] = None,
    prototype: Annotated[pathlib.Path | None, typer.Option(help="Folder of differential_torch.py.")] = None,
    prototype_python: Annotated[pathlib.Path, typer.Option(help="An interpreter with torch.")] = pathlib.Path("python"),
    only: Annotated[str, typer.Option(help="Cases, separated by commas.")] = ",".join(CASES),
    samples: Annotated[int | None, typer.Option(help="Balls of a case, in place of its own number.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of both attacks, in place of their own numbers.")] = None,
    starts: Annotated[int | None, typer.Option(help="Of both attacks in a region, likewise at most.")] = None,
    cores: Annotated[int | None, typer.Option(help="Cores of this process; default all it has.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table in markdown.")] = False,
    output: Annotated[pathlib.Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Prints the table."""
    report = machine(cores) | {"engine": engine, "splits": splits, "effort": effort, "cases": []}
    print(", ".join(f"{key} {value}" for key, value in report.items() if key != "cases"), flush=True)
    refuse_branching(splits, effort)
    ours = engine_named(engine)
    if ours is None:
        print(f"there is no engine '{engine}' here; its columns stay empty")
    theirs = None if prototype is None else lambda case: run_prototype(case, prototype.resolve(), prototype_python)
    with tempfile.TemporaryDirectory() as cache:
        # The attack compiles one program for every region; they are the same.
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name in only.split(","):
            for case in CASES[name](data, models, samples):
                case = case.attacked(steps, starts)
                report["cases"].append({"case": name} | measure(case, ours, splits, effort, theirs, steps or STEPS))
                print(" | ".join(row(report["cases"][-1])), flush=True)
                if output is not None:
                    output.write_text(json.dumps(report, indent=1))
    show([row(found) for found in report["cases"]], markdown)
    sides = [found[side] for found in report["cases"] for side in ("ours", "branched", "prototype") if side in found]
    if any(side["violations"] for side in sides):
        print("a bound lies below an attack")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
