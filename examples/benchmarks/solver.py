"""Problems a second of the solver, beside NumPy and HiGHS on the same core, and on all cores.

    python examples/benchmarks/solver.py [--only kernel,cores,numpy,highs,gpu]

`kernel`: random products and targets, optimal subset and mask. `prepared` is the solver alone on candidates in memory,
in 32 bits (units of 2^-24) and in 64 (2^-46); `solve_batch` also draws the candidates from the seed and recomputes the
sums in exact integers, as a compile does; `narrow` solves in 32 bits where the tolerance allows it.
`cores`: weights of one family through `solve_everywhere` and `solve_family`, from one device with a thread a core, and
from as many CPU devices as cores; against the same process confined to one core.
`numpy`, `highs`: the same problems in windows of 16 on the same core; ratios are to the solver in the same process.

Every part is a process of its own, confined to its cores before JAX starts; parts that are compared take turns. Rates
are those of the median repetition, the best one in parentheses.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import lax

from slth_compile.constructions.da_cunha import Family, families
from slth_compile.graph.nodes import Dense
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.subset_sum import problem
from slth_compile.subset_sum.dispatch import cores, solve_everywhere
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.milp import closest_subset_milp
from slth_compile.subset_sum.windows import solve_family

SIZES = (8, 12, 16, 20, 24)
GPU_SIZES = (12, 16, 20)
WINDOW = 16
ROWS = 256
"""Problems that NumPy sorts at once: their lists stay in the cache."""

SHORTEST = 0.05
"""Seconds of a repetition."""

Seconds = list[float]


def timed(function: Callable[[], Any], calls: int = 1) -> float:
    """Seconds of a call, the mean of a few."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def repeated(function: Callable[[], Any], repetitions: int) -> Seconds:
    """Seconds of a call, once for every repetition; a repetition of a short one is several calls."""
    function()  # compiles
    calls = math.ceil(SHORTEST / timed(function))
    return [timed(function, calls) for _ in range(repetitions)]


def random_problems(n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Products `(n, count)` and uniform targets `(count,)`, int64 in units of 2^-46."""
    rng = np.random.default_rng(n)
    products = rng.integers(1, 1 << 23, (n, count)) * rng.integers(-(1 << 23), 1 << 23, (n, count))
    return products, rng.integers(-(1 << PRODUCT_BITS), 1 << PRODUCT_BITS, count)


def narrow(x: np.ndarray) -> np.ndarray:
    """The same in 32 bits, as `solve_batch` rounds."""
    with jax.enable_x64(True):
        return np.asarray(problem.narrowed(jnp.asarray(x)))


@functools.partial(jax.jit, compiler_options=problem.WIDE)
def solve_chunks(candidates: jax.Array, targets: jax.Array) -> jax.Array:
    """The subsets of chunks `(chunks, n, size)`, `(chunks, size)`, one after the other."""
    return lax.map(lambda chunk: closest_subset(*chunk), (candidates, targets))


def prepared(candidates: np.ndarray, targets: np.ndarray, size: int) -> Callable[[], np.ndarray]:
    """The solver on candidates in memory, in chunks."""
    n = len(candidates)
    with jax.enable_x64(True):
        chunks = np.ascontiguousarray(candidates.reshape(n, -1, size).swapaxes(0, 1)), targets.reshape(-1, size)
        arrays = jax.device_put(chunks)

    def run() -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(solve_chunks(*arrays)).reshape(-1)

    return run


def random_family(window: int, count: int, tolerance: float) -> Family:
    """`count` uniform weights, a dense layer of 256 inputs, copies for three windows and more."""
    weights = np.random.default_rng(window).uniform(-1, 1, (256, count // 256))
    gadget = Gadget(width=10 * window, gain=0, window=window, tolerance=tolerance, failure=1.0)
    node = Dense(inputs=(0,), kernel=weights, bias=None)
    return families(Generated(0), 0, node, LayerLayout(signed=False, kernel=gadget, bias=None))[0]


def first_windows(family: Family, narrow: bool) -> tuple[Callable[[Any, slice], Any], int]:
    """How `solve_family` solves a slice of all weights in their first windows, and how many it takes at once."""
    window, count = family.gadget.window, family.weights.size
    targets = problem.integer_targets(family.weights.reshape(-1), family.gadget.gain, PRODUCT_BITS)
    size = problem.batch_size(window)
    arrays = (np.arange(count, dtype=np.uint32), np.zeros(count, np.uint32), targets)
    solve = functools.partial(problem.solve_batch, window=window, narrow=narrow)
    return problem.on_devices(family, solve, arrays), size


def measure_kernel(repetitions: int) -> list[dict[str, Any]]:
    """Rates of one core."""
    rows = []
    for n in SIZES:
        count = problem.batch_size(n)
        exact = random_problems(n, count)
        for bits in (32, 64):
            candidates, targets = map(narrow, exact) if bits == 32 else exact
            seconds = repeated(prepared(candidates, targets, problem.chunk_size(n)), repetitions)
            rows.append({"what": f"prepared, {bits} bits", "n": n, "problems": count, "seconds": seconds})
        for bits in (32, 64):
            run, size = first_windows(random_family(n, count, 0.1), bits == 32)
            seconds = repeated(functools.partial(run, jax.local_devices()[0], slice(0, size)), repetitions)
            rows.append({"what": f"solve_batch, {bits} bits", "n": n, "problems": size, "seconds": seconds})
    return rows


def measure_gpu(repetitions: int) -> list[dict[str, Any]]:
    """Rates of one accelerator, in chunks of some 2^26 sums; nothing where there is none."""
    if jax.devices()[0].platform == "cpu":
        return []
    rows = []
    for n in GPU_SIZES:
        size = 1 << (25 - n // 2)
        exact = random_problems(n, 4 * size)
        for bits in (32, 64):
            candidates, targets = map(narrow, exact) if bits == 32 else exact
            seconds = repeated(prepared(candidates, targets, size), repetitions)
            rows.append({"what": f"prepared, {bits} bits", "n": n, "problems": 4 * size, "seconds": seconds})
    return rows


def measure_cores(repetitions: int) -> list[dict[str, Any]]:
    """Rates of a family on whatever cores and devices this process has."""
    rows = []
    batches = 16 * problem.batch_size(WINDOW)
    family = random_family(WINDOW, batches, 0.01)
    run, size = first_windows(family, narrow=True)
    seconds = repeated(lambda: solve_everywhere(run, batches, size, lambda: None), repetitions)
    rows.append({"what": "solve_everywhere", "n": WINDOW, "problems": batches, "seconds": seconds})
    seconds = repeated(lambda: solve_family(family), repetitions)
    rows.append({"what": "solve_family", "n": WINDOW, "problems": batches, "seconds": seconds})
    return rows


def measure_numpy(repetitions: int) -> list[dict[str, Any]]:
    """The solver and NumPy in turn, on the same problems; all are optimal."""
    rows = []
    for bits in (32, 64):
        exact = random_problems(WINDOW, problem.batch_size(WINDOW))
        candidates, targets = map(narrow, exact) if bits == 32 else exact
        by_problem = np.ascontiguousarray(candidates.T)
        ours = prepared(candidates, targets, problem.chunk_size(WINDOW))
        rivals = {
            "prepared": ours,
            "NumPy, selected gaps": functools.partial(sorted_subsets, by_problem, targets, selected),
            "NumPy, rotated gaps": functools.partial(sorted_subsets, by_problem, targets, rotated),
        }
        optimum = np.abs(kept(candidates, ours()) - targets)
        for solve in rivals.values():
            assert np.array_equal(np.abs(kept(candidates, solve()) - targets), optimum)
        turns = [[repeated(solve, 1)[0] for solve in rivals.values()] for _ in range(repetitions)]
        for name, seconds in zip(rivals, zip(*turns, strict=True), strict=True):
            what = f"{name}, {bits} bits"
            rows.append({"what": what, "n": WINDOW, "problems": targets.size, "seconds": list(seconds)})
    return rows


def sorted_subsets(
    candidates: np.ndarray, targets: np.ndarray, order: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Meet in the middle by NumPy's sort: the optimal subsets of `candidates (count, n)`, `targets (count,)`.

    Sums of one half and targets less the sums of the other, four times, the others plus one, sorted together: the best
    pair is adjacent, and its gap is the smallest odd one.

    Args:
        candidates: Integers.
        targets: Integers of the same type.
        order: From gaps to numbers that are smallest where the smallest odd gap is.
    """
    half = candidates.shape[1] // 2
    found = np.empty(len(targets), np.int64)
    room = np.empty((ROWS, 2 << half), candidates.dtype)
    for start in range(0, len(targets), ROWS):
        x, w = candidates[start : start + ROWS], targets[start : start + ROWS]
        keys = room[: len(w)]
        first, second = (all_sums(part) for part in (x[:, :half], x[:, half:]))
        np.left_shift(first, 2, out=keys[:, : 1 << half])
        np.subtract((4 * w + 1)[:, None], second << 2, out=keys[:, 1 << half :])
        keys.sort(axis=1)
        best, rows = order(np.diff(keys, axis=1)).argmin(1), np.arange(len(w))
        low, high = keys[rows, best], keys[rows, best + 1]
        other = low & 1 == 1
        a, b = np.where(other, high, low) >> 2, w - (np.where(other, low, high) >> 2)
        places = (first == a[:, None]).argmax(1), (second == b[:, None]).argmax(1)
        found[start : start + ROWS] = places[0] | places[1] << half
    return found


def selected(gaps: np.ndarray) -> np.ndarray:
    """Even gaps replaced by the largest number."""
    return np.where(gaps & 1, gaps, np.iinfo(gaps.dtype).max)


def rotated(gaps: np.ndarray) -> np.ndarray:
    """Gaps rotated right: odd ones become negative and keep their order. The solver does the same."""
    unsigned = gaps.view(f"u{gaps.itemsize}")
    return ((unsigned >> 1) | (unsigned << (8 * gaps.itemsize - 1))).view(gaps.dtype)


def all_sums(x: np.ndarray) -> np.ndarray:
    """All subset sums of `x (count, k)`, `(count, 2^k)`: column `i` is the subset whose bits are `i`."""
    sums = np.zeros((len(x), 1 << x.shape[1]), x.dtype)
    for i in range(x.shape[1]):
        np.add(sums[:, : 1 << i], x[:, i : i + 1], out=sums[:, 1 << i : 2 << i])
    return sums


def kept(candidates: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """What subsets add up to."""
    bits = subsets >> np.arange(len(candidates), dtype=subsets.dtype)[:, None] & 1
    return (bits * candidates.astype(np.int64)).sum(0)


def measure_highs(repetitions: int, problems: int = 24) -> list[dict[str, Any]]:
    """The solver, and HiGHS to optimality on a few of the same problems."""
    exact = random_problems(WINDOW, problem.batch_size(WINDOW))
    rows = []
    for bits in (32, 64):
        candidates, targets = map(narrow, exact) if bits == 32 else exact
        seconds = repeated(prepared(candidates, targets, problem.chunk_size(WINDOW)), repetitions)
        rows.append({"what": f"prepared, {bits} bits", "n": WINDOW, "problems": exact[1].size, "seconds": seconds})
    subsets = prepared(*exact, problem.chunk_size(WINDOW))()
    optima = np.abs(kept(exact[0], subsets) - exact[1])
    few = [(exact[0][:, i].tolist(), int(exact[1][i])) for i in range(problems)]
    solutions = [closest_subset_milp(*one) for one in few]
    seconds = [timed(lambda: [closest_subset_milp(*one) for one in few]) for _ in range(repetitions)]
    suboptimal = sum(solution.error > optimum for solution, optimum in zip(solutions, optima, strict=False))
    note = f"{suboptimal} of {problems} subsets not optimal"
    rows.append({"what": "HiGHS", "n": WINDOW, "problems": problems, "seconds": seconds, "note": note})
    return rows


@contextlib.contextmanager
def confined(count: int) -> Iterator[None]:
    """Processes started inside run on the first `count` of the cores of this one, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_process(part: str, *, cores: int, devices: int, repetitions: int) -> list[Any]:
    """What a part measures in a process on so many cores with so many CPU devices."""
    command = [sys.executable, __file__, "--measure", part, "--devices", str(devices)]
    command += ["--repetitions", str(repetitions)]
    with confined(cores), tempfile.TemporaryDirectory() as folder:
        # Not by its output, where HiGHS has its say as well.
        output = pathlib.Path(folder) / "rows.json"
        subprocess.run([*command, "--json", str(output)], stdout=subprocess.DEVNULL, check=True)
        return json.loads(output.read_text())


def compared_cores(repetitions: int, rounds: int = 3) -> list[dict[str, Any]]:
    """One core and all of them in turn, each in fresh processes."""
    everything = cores()
    settings = {"1 core": (1, 1)}
    if everything > 1:
        settings |= {f"{everything} cores, threads": (everything, 1)}
        settings |= {f"{everything} cores, devices": (everything, everything)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(rounds):
        for name, (count, devices) in settings.items():
            for row in in_process("cores", cores=count, devices=devices, repetitions=repetitions):
                key = (row["what"], name)
                earlier = found.get(key, {"seconds": []})["seconds"]
                found[key] = row | {"what": f"{row['what']}, {name}", "seconds": earlier + row["seconds"]}
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def rate(row: dict[str, Any]) -> float:
    """Problems a second of the median repetition."""
    return row["problems"] / statistics.median(row["seconds"])


def ratios(part: str, rows: list[dict[str, Any]]) -> list[str]:
    """What each row is compared with: the solver against the others, many cores against one."""
    if part == "cores":
        return [f"{rate(row) / rate(rows[i - i % (len(rows) // 2)]):.2f} x one core" for i, row in enumerate(rows)]
    if part == "numpy":
        return [f"solver {rate(rows[i - i % 3]) / rate(row):.2f} x" for i, row in enumerate(rows)]
    if part == "highs":
        return [f"{rate(row) / rate(rows[-1]):.3g} x HiGHS" for row in rows]
    return [""] * len(rows)


def show(part: str, rows: list[dict[str, Any]]) -> None:
    """One table, in Markdown."""
    print(f"\n| {part} | window | million problems/s | milliseconds | ratio |\n|---|---|---|---|---|")
    for row, ratio in zip(rows, ratios(part, rows), strict=True):
        median, best = statistics.median(row["seconds"]), min(row["seconds"])
        millions = row["problems"] / 1e6
        rates = f"{millions / median:.3g} ({millions / best:.3g})"
        print(f"| {row['what']} | {row['n']} | {rates} | {1e3 * median:.4g} ({1e3 * best:.4g}) | {ratio} |")
    for row in rows:
        if "note" in row:
            print(f"\n{row['what']}: {row['note']}", flush=True)


def machine() -> dict[str, Any]:
    """Where this is measured, and what else runs there."""
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = {"jax": jax.__version__, "numpy": np.__version__}
    return {"platform": platform.platform(), "cpu": cpu, "cores": cores(), "load": load} | versions


def main(
    only: Annotated[str, typer.Option(help="Parts, separated by commas.")] = "kernel,cores,numpy,highs",
    repetitions: Annotated[int, typer.Option(help="Of every measurement.")] = 5,
    output: Annotated[pathlib.Path | None, typer.Option("--json", help="Also write everything here.")] = None,
    measure: Annotated[str | None, typer.Option(hidden=True)] = None,
    devices: Annotated[int, typer.Option(hidden=True)] = 1,
) -> None:
    """Prints the tables."""
    if measure is not None:
        if measure != "gpu":
            jax.config.update("jax_num_cpu_devices", devices)
        rows = MEASURES[measure](repetitions)
        assert output is not None
        output.write_text(json.dumps(rows))
        return
    found = machine()
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    for part in only.split(","):
        if part == "cores":
            rows = compared_cores(repetitions)
        else:
            count = cores() if part == "gpu" else 1
            rows = in_process(part, cores=count, devices=1, repetitions=repetitions)
        found[part] = rows
        show(part, rows)
    print(f"\nload at the end {machine()['load']}")
    if output is not None:
        output.write_text(json.dumps(found, indent=1))


MEASURES = {
    "kernel": measure_kernel,
    "cores": measure_cores,
    "numpy": measure_numpy,
    "highs": measure_highs,
    "gpu": measure_gpu,
}

if __name__ == "__main__":
    typer.run(main)
