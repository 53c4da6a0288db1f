"""Several devices and several processes find the same ticket, to the byte; the first process writes it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


TAKEN = "Failed to add port to server"


@contextmanager
def held_port() -> Iterator[int]:
    """A port that nothing else is given while this lasts; the coordinator, who shares ports, may bind it."""
    with socket.socket() as held:
        if hasattr(socket, "SO_REUSEPORT"):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


def run(devices: int, processes: int, out: Path, script: str, ports: Callable = held_port) -> list[str]:
    """The last line that every process printed."""
    for _ in range(3):
        with ports() as port:
            printed = attempt(devices, processes, f"localhost:{port}", out, script)
        if printed is not None:
            return printed
    raise AssertionError("three ports were taken")


def attempt(devices: int, processes: int, address: str, out: Path, script: str) -> list[str] | None:
    """The same, None where the first process finds its port taken: the others would wait for it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") or k.startswith(CACHE)}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(START + AGREE + script), str(devices), str(processes)]
    started = [
        subprocess.Popen([*command, str(i), address, str(out)], env=environment, stdout=-1, stderr=-1, text=True)
        for i in range(processes)
    ]
    printed = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=600)
            if process is started[0] and process.returncode and TAKEN in errors:
                return None
            assert process.returncode == 0, errors
            printed.append(output.strip().splitlines()[-1])  # before it, gloo greets
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return printed


def test_a_held_port_is_given_to_nobody_else() -> None:
    with held_port() as port, held_port() as other:
        assert port != other
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("", port))
        with socket.socket() as coordinator:
            coordinator.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            coordinator.bind(("", port))
            coordinator.listen()


@pytest.mark.slow
def test_a_taken_port_is_left_for_another(tmp_path: Path) -> None:
    tried = []

    @contextmanager
    def ports() -> Iterator[int]:
        with held_port() as free, socket.socket() as taken:
            taken.bind(("", 0))
            taken.listen()
            tried.append(taken.getsockname()[1] if not tried else free)
            yield tried[-1]

    assert run(1, 2, tmp_path, "\n    print(process)\n", ports) == ["0", "1"] and len(tried) == 2


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
