"""Pensia et al. (2020): their 784-500-10 in windows of 21 candidates, every weight within .01, on real sources.

    python examples/experiments/pensia2020.py OUT/ --data DIR

`DIR/pensia_fc2.npz` holds the network they published, `fc1.weight (500, 784)` and `fc2.weight (10, 500)`, no biases;
`DIR/mnist.npz` holds `test_images` and `test_labels`, uint8. They solved one problem of n = 21 fresh candidates for
every weight with Gurobi, the candidates shared by a row and fitted to the target's range: 77,266 s on 36 cores, 8.337
million random parameters, 9.39 kept a weight; and evaluated the target. Here candidates are products of a random
network that a seed fixes, windows hold 21 of them, and what is evaluated is the pruned random network itself. It is
planned wide enough for every weight with probability 1 - delta, and both layers of every gadget count, V and U.

Writes `results.json`, `results.csv`, `results.md`, and the first ticket with its certificate over the test images,
verified. Images are in [0, 1], as in the accuracy they printed.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import statistics
import time
from typing import Annotated, Any

import jax
import numpy as np
import typer

import slth_compile as slth
from slth_compile.certificate.certificate import certify_domain
from slth_compile.certificate.promise import promise_at_points
from slth_compile.certificate.weight_errors import weight_errors
from slth_compile.compiled import Compiled
from slth_compile.constructions.assumptions import violated
from slth_compile.errors import UnreachableError
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Dense, Input, Relu
from slth_compile.measure import largest_output, quality
from slth_compile.plan.budget import ALL
from slth_compile.plan.plan import Plan, predict
from slth_compile.plan.width import GAINS, Problems, least_width, limits_of
from slth_compile.progress import silent
from slth_compile.report.files import write_whole
from slth_compile.report.summary import Evaluation, Measured
from slth_compile.source.layout import CLOSEST, MAXIMUM_WIDTH, PENSIA, Gadget, LayerLayout, Layout
from slth_compile.source.source import Generated
from slth_compile.subset_sum.network import solve_network
from slth_compile.summarise import platform_text
from slth_compile.ticket.apply import effective_layers
from slth_compile.ticket.ticket import Ticket

WINDOW, TOLERANCE, DELTA = 21, 0.01, 1e-3
MEASURED_WINDOW = 20
"""The largest window below 21 whose failures were measured: a window of 21 fails no more often."""

PUBLISHED = {
    "seconds": 77_266,
    "cores": 36,
    "random parameters": 8_337_000,
    "kept a weight": 9.39,
    "accuracy of the target": 0.9719,
}


def load_target(path: pathlib.Path) -> Graph:
    """The published network."""
    arrays = np.load(path)
    first, second = (np.ascontiguousarray(arrays[f"{name}.weight"].T) for name in ("fc1", "fc2"))
    nodes = (
        Input(shape=first.shape[:1]),
        Dense(inputs=(0,), kernel=first, name="fc1"),
        Relu(inputs=(1,)),
        Dense(inputs=(2,), kernel=second, name="fc2"),
    )
    return Graph(nodes, (3,))


def plan_kernel(kernel: np.ndarray, failure: float) -> Gadget:
    """The least width in windows of 21 whose failures, bounded by those of windows of 20, are rare enough."""
    problems = Problems("kernel", np.abs(kernel[kernel != 0]), 0.0, 1, TOLERANCE, failure)
    lowest, limits = int(np.frexp(problems.magnitudes.max())[1]), limits_of(problems)[MEASURED_WINDOW]
    found = [least_width(problems, gain, WINDOW, limits, MAXIMUM_WIDTH) for gain in range(lowest, lowest + GAINS)]
    return min((gadget for gadget in found if gadget is not None), key=lambda gadget: gadget.width)


def plan_network(graph: Graph, images: np.ndarray, objective: str) -> Plan:
    """The plan of tolerances .01; its eps is what these promise over the images."""
    layers = [graph.nodes[i] for i in graph.layers]
    gadgets = [plan_kernel(np.asarray(node.kernel, np.float64), DELTA / len(layers)) for node in layers]  # type: ignore[attr-defined]
    promised = promise_at_points(graph, dict.fromkeys(graph.layers, (TOLERANCE, 0.0)), images)
    layout = Layout(
        eps=promised,
        delta=DELTA,
        layers=tuple(LayerLayout(signed=False, kernel=gadget, bias=None) for gadget in gadgets),
        objective=objective,
        construction=PENSIA,
    )
    return predict(graph, layout, promised, ALL)


def solve(graph: Graph, planned: Plan, seed: int) -> tuple[Ticket | None, float, float]:
    """The ticket of a seed, None where a weight was missed; wall and core seconds from the seed to all masks."""
    start, core = time.perf_counter(), time.process_time()
    try:
        ticket = solve_network(graph, planned.layout, Generated(seed), None, 0, silent)
    except UnreachableError as error:
        print(f"seed {seed}: {error}")
        ticket = None
    return ticket, time.perf_counter() - start, time.process_time() - core


def certified(graph: Graph, planned: Plan, ticket: Ticket, images: np.ndarray, labels: np.ndarray) -> Compiled:
    """The ticket with its certificate over the images, and the accuracy of the literal pruned network on them."""
    layers, domain = effective_layers(graph, ticket), slth.Points(images)
    errors = weight_errors(graph, ticket, layers)
    certificate = certify_domain(graph, errors, domain, 0)
    seconds, largest = {}, (largest_output(graph, domain),)
    measured = Measured(seconds=seconds, attacks=(None,), largest_outputs=largest, evaluation=None, platform="")
    found = Compiled(graph, graph, planned, ticket, layers, graph, errors, (domain,), (certificate,), measured)
    pruned = found.compact_network()
    evaluation = quality(graph, (images, labels), found, jax.jit(lambda x: pruned(x)), batch=100)
    measured = dataclasses.replace(measured, evaluation=evaluation, platform=platform_text())
    return dataclasses.replace(found, measured=measured)


def results(planned: Plan, solved: list[tuple[Ticket | None, float, float]], found: Compiled) -> dict[str, Any]:
    """Everything measured, flat."""
    weights, evaluation = sum(size.weights for size in planned.layers), found.measured.evaluation
    tickets = [ticket for ticket, _, _ in solved if ticket is not None]
    kept = [sum(mask.kept for masks in ticket.masks for mask in masks.values()) for ticket in tickets]
    later = solved[1:] or solved
    assert isinstance(evaluation, Evaluation)
    return {
        "weights": weights,
        "window": WINDOW,
        "tolerance": TOLERANCE,
        "objective": planned.layout.objective,
        "seeds": len(solved),
        "seeds with a miss": len(solved) - len(tickets),
        "planned probability of a miss": planned.layout.failure,
        "seconds of the first seed, with compilation": solved[0][1],
        "seconds, median of the others": statistics.median(seconds for _, seconds, _ in later),
        "core seconds, median of the others": statistics.median(seconds for _, _, seconds in later),
        "widths": [layer.kernel.width for layer in planned.layout.layers],
        "random parameters of V": sum(size.parameters_v for size in planned.layers),
        "random parameters of U": sum(size.parameters_u for size in planned.layers),
        "kept a weight": statistics.fmean(kept) / weights,
        "largest weight error": max(row.largest_error for row in found.summary.layers),
        "certified over the test images": found.certificate.bound,
        "largest output": found.measured.largest_outputs[0],
        "accuracy of the target": evaluation.target,
        "accuracy of the ticket": evaluation.ticket,
        "accuracy of the literal pruned network": evaluation.literal,
        "platform": found.measured.platform,
    }


def markdown(rows: dict[str, Any]) -> str:
    """The table, with what was published beside it."""
    beside = {
        "seconds, median of the others": f"{PUBLISHED['seconds']:,} on {PUBLISHED['cores']} cores",
        "random parameters of V": f"{PUBLISHED['random parameters']:,}",
        "kept a weight": PUBLISHED["kept a weight"],
        "accuracy of the target": PUBLISHED["accuracy of the target"],
    }
    lines = ["| what | measured | Pensia et al. |", "|---|---|---|"]
    for name, value in rows.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"| {name} | {shown} | {beside.get(name, '')} |")
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    data: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="Folder of pensia_fc2.npz and mnist.npz.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 6,
    objective: Annotated[str, typer.Option(help="Subset a weight takes: closest|sparsest|fewest-bits.")] = CLOSEST,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT/.")] = False,
) -> None:
    """Prints the table and verifies the ticket."""
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists already; choose another one, or replace it with --force")
    out.mkdir(parents=True, exist_ok=True)
    graph, arrays = load_target(data / "pensia_fc2.npz"), np.load(data / "mnist.npz")
    images = (arrays["test_images"].reshape(-1, 784) / 255).astype(np.float32)
    labels = arrays["test_labels"].astype(np.int32)
    planned = plan_network(graph, images, objective)
    for sentence in violated(graph, [slth.Points(images)], PENSIA):
        print(f"outside the theorem: {sentence}")
    solved = [solve(graph, planned, seed) for seed in range(seeds)]
    first = next((ticket for ticket, _, _ in solved if ticket is not None), None)
    if first is None:
        raise typer.Exit(1)
    found = certified(graph, planned, first, images, labels)
    rows = results(planned, solved, found)
    found.save(out / "ticket", force=force)
    slth.verify(out / "ticket", expected_id=found.ticket_id)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("what", "measured"), *rows.items()])
    write_whole(
        out / "results.json", (json.dumps({"measured": rows, "published": PUBLISHED}, indent=1) + "\n").encode()
    )
    write_whole(out / "results.csv", table.getvalue().encode())
    write_whole(out / "results.md", markdown(rows).encode())
    print(markdown(rows) + f"verified: ticket {found.ticket_id} in {out / 'ticket'}")


if __name__ == "__main__":
    typer.run(main)
