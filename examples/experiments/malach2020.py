"""Malach et al. (2020) against Pensia et al. (2020) and da Cunha et al. (2022): one product a weight, or a sum of them.

    python examples/experiments/malach2020.py OUT/

The error of a random weight against the number n of products it is offered: of the closest product it falls as 1/n, of
the closest subset sum as sqrt(n) 2^-n. Products are those of the source, `U V` with `U > 0`, weights are
Uniform[-1/2, 1/2); the median over weights is fitted, for each of several seeds,

    log2 median = slope * log2 n + constant (one product),    log2 (median / sqrt(n)) = slope * n + constant (sums),

and a slope is given with its 95 % interval over seeds (Student). Beside it, what a plan makes of this: the width N that
has every one of some weights N(0, .2) within a tolerance with probability 1 - delta, against the tolerance.

Writes `results.json`, `errors.csv`, `widths.csv`, `results.md`, `plot.svg` and `plot.png`.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import typer
from jax import lax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from slth_compile.cli.frame import progress_bars
from slth_compile.errors import UnreachableError
from slth_compile.lab.laws import draw_targets, parse_target
from slth_compile.lab.question import DEFAULT_EPS, Question
from slth_compile.lab.sample import sample_errors
from slth_compile.plan.one_product import plan_one_product
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.progress import Progress
from slth_compile.report.files import write_whole
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import Gadget
from slth_compile.source.threefry import Key, tensor_key
from slth_compile.subset_sum.statistics import products

ONE, SUMS = "one product (Malach et al.)", "subset sums (Pensia et al., da Cunha et al.)"
OFFERED = {ONE: tuple(2**k for k in range(2, 15)), SUMS: (4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)}
"""Products on offer, n."""

FITTED_FROM = {ONE: 64, SUMS: 8}
"""Both laws hold for many products; a weight that has few is often met best by none."""

TARGET = parse_target("uniform:-0.5,0.5")
TOLERANCES = tuple(2.0**-k for k in range(4, 21))
SIGMA, DELTA = 0.2, 1e-3

Point = tuple[str, int, int, float]
"""What is offered, how many n, seed, median error."""


@functools.partial(jax.jit, static_argnames="count")
def closest_errors(key: Key, target_key: Key, n: jax.Array, count: int) -> jax.Array:
    """Distances of `count` random weights from the closest of n products, or from nothing, units of 2^-46."""
    problems = jnp.arange(count, dtype=jnp.uint64)
    targets = draw_targets(TARGET, target_key, problems)

    def look(i: jax.Array, best: jax.Array) -> jax.Array:
        drawn = products(key, 2 * (problems * n.astype(jnp.uint64) + i.astype(jnp.uint64)))
        return jnp.minimum(best, jnp.abs(drawn - targets))

    return lax.fori_loop(0, n, look, jnp.abs(targets))


def measure_one(n: int, seed: int, samples: int) -> float:
    """The median error of the closest of n products."""
    with jax.enable_x64(True):
        keys = tensor_key(seed, n, 0), tensor_key(seed, n, 1)
        return float(np.median(closest_errors(*keys, jnp.int64(n), samples))) * 2.0**-PRODUCT_BITS


def measure_sums(seed: int, samples: int) -> dict[int, float]:
    """The median error of the closest of all subset sums of n products, by n."""
    question = Question(
        law="product", target=TARGET, candidates=OFFERED[SUMS], eps=DEFAULT_EPS, samples=samples, seed=seed
    )
    return {n: float(np.median(errors)) * 2.0**-PRODUCT_BITS for n, errors in sample_errors(question).items()}


def measure(seeds: int, samples: int, progress: Progress) -> list[Point]:
    """The medians of all seeds."""
    found: list[Point] = []
    for seed in range(seeds):
        progress("measure", seed, seeds)
        found += [(ONE, n, seed, measure_one(n, seed, samples)) for n in OFFERED[ONE]]
        found += [(SUMS, n, seed, median) for n, median in measure_sums(seed, samples).items()]
    progress("measure", seeds, seeds)
    return found


def fitted(points: Sequence[Point], name: str) -> dict[str, float]:
    """The slope of a construction, a straight line for every seed; mean and half its 95 % interval."""
    slopes = []
    for seed in sorted({point[2] for point in points}):
        own = [(n, median) for what, n, s, median in points if (what, s) == (name, seed) and n >= FITTED_FROM[name]]
        n, median = np.array(own).T
        x, y = (np.log2(n), np.log2(median)) if name == ONE else (n, np.log2(median / np.sqrt(n)))
        slopes.append(float(np.polyfit(x, y, 1)[0]))
    half = 0.0
    if len(slopes) > 1:
        half = float(stats.t.ppf(0.975, len(slopes) - 1)) * statistics.stdev(slopes) / math.sqrt(len(slopes))
    return {"slope": statistics.fmean(slopes), "half interval": half, "seeds": len(slopes)}


def planned_widths(weights: int) -> list[tuple[str, float, int]]:
    """The width each construction needs for every tolerance that it reaches."""
    magnitudes = np.abs(np.random.default_rng(0).normal(0, SIGMA, weights))
    ways: dict[str, Callable[[Problems], Gadget]] = {ONE: plan_one_product, SUMS: plan_gadget}
    found = []
    for name, plan in ways.items():
        for tolerance in TOLERANCES:
            try:
                gadget = plan(Problems("weights", magnitudes, 0.0, 1, tolerance, DELTA))
            except UnreachableError:
                break
            found.append((name, tolerance, gadget.width))
    return found


def draw(points: Sequence[Point], widths: Sequence[tuple[str, float, int]], fits: dict[str, Any]) -> Figure:
    """Error against n, and width against tolerance."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, offered), colour, marker in zip(OFFERED.items(), ("#d55e00", "#0072b2"), "so", strict=True):
        fit = f"{fits[name]['slope']:.3f} ± {fits[name]['half interval']:.3f}"
        law = f"n^({fit})" if name == ONE else f"√n · 2^(({fit}) n)"
        medians = [statistics.fmean(p[3] for p in points if p[:2] == (name, n)) for n in offered]
        left.plot(offered, medians, marker=marker, color=colour, markersize=4.5, label=f"{name}\n{law}")
        own = [(tolerance, width) for what, tolerance, width in widths if what == name]
        right.plot(*zip(*own, strict=True), marker=marker, color=colour, markersize=4.5, label=name)
    _frame(left, "products on offer n", "median error of a weight", "What n products are good for")
    _frame(right, "tolerance of every weight", "planned width N", f"What a plan needs, delta = {DELTA:g}")
    right.invert_xaxis()
    return figure


def _frame(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", weight="bold")
    axes.grid(color="#d9dde3", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def pictures(figure: Figure) -> dict[str, bytes]:
    """The picture as files."""
    found = {}
    with matplotlib.rc_context({"svg.hashsalt": "malach2020"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            found[f"plot.{kind}"] = buffer.getvalue()
    return found


def markdown(points: Sequence[Point], widths: Sequence[tuple[str, float, int]], fits: dict[str, Any]) -> str:
    """Both tables and the slopes."""

    def median(name: str, n: int) -> str:
        return f"{statistics.fmean(p[3] for p in points if p[:2] == (name, n)):.2e}" if n in OFFERED[name] else ""

    def width(name: str, tolerance: float) -> str:
        return next((f"{w:,}" for what, t, w in widths if (what, t) == (name, tolerance)), "beyond the format")

    lines = [f"| products on offer | {ONE} | {SUMS} |", "|---|---|---|"]
    lines += [f"| {n} | {median(ONE, n)} | {median(SUMS, n)} |" for n in sorted({*OFFERED[ONE], *OFFERED[SUMS]})]
    lines += ["", f"| tolerance | width, {ONE} | width, {SUMS} |", "|---|---|---|"]
    lines += [f"| 2^{round(math.log2(t))} | {width(ONE, t)} | {width(SUMS, t)} |" for t in TOLERANCES]
    one, sums = (f"{fits[name]['slope']:.4f} ± {fits[name]['half interval']:.4f}" for name in (ONE, SUMS))
    lines += ["", f"one product: error ~ n^({one}), n >= {FITTED_FROM[ONE]}"]
    lines += [f"sums: error ~ sqrt(n) 2^(({sums}) n), n >= {FITTED_FROM[SUMS]}; 95 % intervals over seeds"]
    return "\n".join(lines) + "\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV."""
    found = io.StringIO()
    csv.writer(found, lineterminator="\n").writerows([heading, *rows])
    return found.getvalue().encode()


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    samples: Annotated[int, typer.Option(min=16, help="Random weights for every n and seed.")] = 8192,
    weights: Annotated[int, typer.Option(min=1, help="Weights that are planned for.")] = 100_000,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT/.")] = False,
) -> None:
    """Prints the tables and the slopes."""
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists already; choose another one, or replace it with --force")
    out.mkdir(parents=True, exist_ok=True)
    with progress_bars(quiet=False) as progress:
        points = measure(seeds, samples, progress)
    fits, widths = {name: fitted(points, name) for name in OFFERED}, planned_widths(weights)
    settings = {"seeds": seeds, "samples": samples, "target": str(TARGET), "weights": weights, "delta": DELTA}
    record = {"settings": settings, "fits": fits, "errors": points, "widths": widths}
    files = {
        "results.json": (json.dumps(record, indent=1) + "\n").encode(),
        "errors.csv": table(("construction", "n", "seed", "median error"), points),
        "widths.csv": table(("construction", "tolerance", "width"), widths),
        "results.md": markdown(points, widths, fits).encode(),
        **pictures(draw(points, widths, fits)),
    }
    for name, content in files.items():
        write_whole(out / name, content)
    print(files["results.md"].decode(), end="")


if __name__ == "__main__":
    typer.run(main)
