"""Several devices and several processes find the same ticket, to the byte; the first process writes it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from slth_compile.subset_sum import search
from slth_compile.subset_sum.dispatch import solve_everywhere
from slth_compile.ticket.format import MANIFEST, STATED

START = """
    import sys, jax
    devices, processes, process, address, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]
    jax.config.update("jax_num_cpu_devices", devices)
    jax.distributed.initialize(address, processes, process)
    assert jax.local_device_count() == devices and jax.process_count() == processes
"""

AGREE = """
    import numpy as np
    from slth_compile.processes import from_first

    masks = (np.arange(6, dtype=np.uint16).reshape(2, 3), np.full((2, 3), 2**63 + 5, np.uint64))
    like = tuple(np.zeros_like(x) for x in masks)
    found = from_first(masks if jax.process_index() == 0 else None, like)
    assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(found, masks, strict=True))
    assert from_first(None, like) is None
"""

COMPILE = """
    import numpy as np
    import slth_compile as slth
    from slth_compile.errors import SlthError
    from slth_compile.graph import nodes as n
    from slth_compile.graph.graph import Graph
    from slth_compile.subset_sum import problem, search

    # Small batches, so that every device of every process has some.
    search.batch_size = lambda window: 2 * problem.chunk_size(window)
    rng = np.random.default_rng(0)
    nodes = (
        n.Input(shape=(20,)),
        n.Dense(inputs=(0,), kernel=rng.normal(size=(20, 60)).astype(np.float32) / 8, bias=np.ones(60, np.float32)),
    )
    options = dict(domain=slth.Box(-1.0, 1.0), window=8, attack=False, effort="quick")
    found = slth.compile(Graph(nodes, (1,)), 0.5, out=out, **options)
    try:
        slth.compile(Graph(nodes, (1,)), 0.5, out=out, **options)
    except SlthError as error:
        print(found.ticket_id, "then", error)
"""


FED_BACK = COMPILE.replace("out=out", "out=out, feedback=rng.uniform(-1, 1, (50, 20))").replace(
    "slth.Box(-1.0, 1.0)", "slth.Points(np.ones((1, 20), np.float32))"
)

CACHE = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")


def run(devices: int, processes: int, out: Path, script: str) -> list[str]:
    """The last line that every process printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") or k.startswith(CACHE)}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(START + AGREE + script), str(devices), str(processes)]
    started = [
        subprocess.Popen([*command, str(i), address, str(out)], env=environment, stdout=-1, stderr=-1, text=True)
        for i in range(processes)
    ]
    printed = []
    for process in started:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        printed.append(output.strip().splitlines()[-1])  # before it, gloo greets
    return printed


@pytest.mark.parametrize("script", [COMPILE, pytest.param(FED_BACK, marks=pytest.mark.slow)], ids=["plain", "fed back"])
def test_two_processes_with_two_devices_each_find_the_same_ticket(script, tmp_path, monkeypatch, capsys):
    """And what the first process has, every process gets (`AGREE`)."""
    monkeypatch.setattr(search, "batch_size", search.batch_size)  # the script sets another one
    exec(textwrap.dedent(script), {"out": tmp_path / "alone"})
    (alone,) = capsys.readouterr().out.splitlines()
    ticket_id, again = alone.split(" then ")
    assert len(ticket_id) == 64 and "exists already" in again
    first, second = run(2, 2, tmp_path / "together", script)
    assert first == alone.replace("alone", "together") and second.startswith(f"{ticket_id} then ")
    assert "first of the processes" in second
    for name in (MANIFEST, *STATED):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_batches_come_back_in_order(count):
    x = np.arange(count)
    squares, halves = solve_everywhere(lambda _, part: (x[part] ** 2, x[part] / 2), count, 4, lambda: None)
    assert np.array_equal(squares, x**2) and np.array_equal(halves, x / 2)


def test_an_exception_of_a_step_ends_the_work():
    solved = []

    def run(_: object, part: slice) -> tuple[np.ndarray]:
        solved.append(part)
        # All batches together outlast by far the moment between the first result and the end.
        time.sleep(0.02)
        return (np.zeros(part.stop - part.start),)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_everywhere(run, 1_000, 1, stop)
    assert len(solved) < 1_000
