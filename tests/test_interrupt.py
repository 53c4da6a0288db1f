"""An interrupted compile leaves no OUT/, and continuing it ends where an uninterrupted one does."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys

import factories
import numpy as np
import pytest
from helpers import start, stop_after

import slth_compile as slth
from slth_compile.checker import verify
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.interrupts import feel, interrupts, wait_for_steps
from slth_compile.subset_sum import network
from slth_compile.ticket.format import MANIFEST, STATED
from slth_compile.ticket.workspace import Workspace

SIGNALS = [(number, i) for number in (signal.SIGINT, signal.SIGKILL) for i in range(20)]
MOMENTS = np.random.default_rng(0).random(20)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "i"),
    [
        pytest.param(number, i, marks=[] if i < 1 else pytest.mark.slow, id=f"{number.name}-{i}")
        for number, i in SIGNALS
    ],
)
def test_a_signal_at_a_random_moment(number, i, shared, again, cli, tmp_path):
    """No OUT/ unless it was done; `--resume` ends with the same ticket."""
    out = tmp_path / "out"
    moment = 0.8 * MOMENTS[i] * again.seconds
    code, errors = stop_after(start("compile", *shared.arguments, str(out), cache=shared.cache), moment, number)
    assert "Traceback" not in errors
    if out.exists():  # it was done before: then it is whole
        assert verify(out).ticket_id == verify(shared.ticket).ticket_id
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        return
    if number == signal.SIGINT:
        assert code == 130
        assert errors == "slth-compile: interrupted; what is finished is kept, continue with --resume\n"
    else:
        assert code == -signal.SIGKILL
    if (tmp_path / "out.partial").exists():
        assert cli("compile", *shared.arguments, out).message.endswith("discard it with --force")
    assert cli("compile", *shared.arguments, out, "--resume").code == 0
    assert verify(out).ticket_id == verify(shared.ticket).ticket_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_interrupt_that_was_swallowed_is_felt():
    """Python prints and forgets a KeyboardInterrupt in a destructor; the next step of the compile raises it."""

    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interrupts():
        feel("solve", 0, 1)
        Swallows()
        with pytest.raises(KeyboardInterrupt):
            feel("solve", 1, 1)
    feel("solve", 0, 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_interrupt_waits_for_a_step_and_the_second_does_not():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interrupts():
        wait_for_steps()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            feel("solve", 0, 1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------- at every stage, in this process


def compile_tiny(shared, out, progress=lambda *_: None, **options):
    model = factories.tiny().bind(factories.variables())
    points = slth.Points(np.load(shared.points)["x"])
    domain = (slth.Box(-0.5, 1.0), points)
    shape = {"input_shape": factories.SHAPE, "domain": domain, "window": 8, "attack": False}
    shape |= {"out": out, "progress": progress}
    return slth.compile(model, 30.0, 0.01, **(shape | options))


@pytest.fixture(scope="module")
def stages(shared, tmp_path_factory):
    """Every call of the progress callback in an uninterrupted run."""
    seen = []
    compile_tiny(shared, tmp_path_factory.mktemp("stages") / "out", lambda *call: seen.append(call))
    return seen


class Stopper:
    """Interrupts a compile at the n-th call."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt


def test_an_interrupt_at_every_stage(shared, stages, tmp_path):
    """Whatever the stage, what is left is continued to the same ticket, bit for bit."""
    expected = (shared.ticket / "manifest.json").read_bytes()
    assert {stage for stage, *_ in stages} >= {"plan", "solve", "certify"}
    first = [i for i, call in enumerate(stages) if i == 0 or call[0] != stages[i - 1][0] or call[1] % 8 == 0]
    for i in sorted({*first, len(stages) - 1}):
        out = tmp_path / str(i)
        with pytest.raises(KeyboardInterrupt):
            compile_tiny(shared, out, Stopper(i))
        assert not out.exists()
    for out in sorted(path.with_suffix("") for path in tmp_path.iterdir())[::3]:
        compile_tiny(shared, out, resume=True)
        assert (out / "manifest.json").read_bytes() == expected
        assert not out.with_name(out.name + ".partial").exists()


def test_finished_layers_are_not_solved_again(shared, stages, tmp_path, monkeypatch):
    """Of five parts, those on disk are taken from there."""
    solved = []

    def count(family, *rest):
        solved.append((family.layer, family.part))
        return solve(family, *rest)

    solve = network.solve_family
    monkeypatch.setattr(network, "solve_family", count)
    out = tmp_path / "out"
    last = max(i for i, call in enumerate(stages) if call[0] == "solve")
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(shared, out, Stopper(last))
    parts = [(0, "positive"), (0, "negative"), (0, "bias"), (1, "positive"), (1, "bias")]
    assert solved == parts
    kept = sorted(path.name for path in (tmp_path / "out.partial").iterdir() if path.name.startswith("layer"))
    assert kept == ["layer0.bias", "layer0.negative", "layer0.positive", "layer1.positive"]
    solved.clear()
    compile_tiny(shared, out, resume=True)
    assert solved == [(1, "bias")]
    solved.clear()
    assert not (tmp_path / "out.partial").exists()


def test_a_damaged_layer_is_solved_again(shared, stages, tmp_path, monkeypatch):
    """A half-written layer of an interrupted run is no obstacle."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(shared, out, Stopper(len(stages) - 1))
    path = tmp_path / "out.partial" / "layer0.positive"
    path.write_bytes(path.read_bytes()[:40])
    (tmp_path / "out.partial" / "layer0.negative.tmp").write_bytes(b"half")
    compile_tiny(shared, out, resume=True)
    assert verify(out).ticket_id == verify(shared.ticket).ticket_id


@pytest.mark.parametrize("layer", ["another window", "another shape"])
def test_a_foreign_layer_is_no_ticket(layer, shared, stages, tmp_path):
    """A layer that fits neither key nor plan is found out before anything is called certified."""
    from slth_compile.ticket.masks import SubsetMask
    from slth_compile.ticket.workspace import Workspace

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(shared, out, Stopper(len(stages) - 1))
    shape = (4, 1, 2) if layer == "another window" else (1, 1, 3)
    mask = SubsetMask(np.full(shape, 60, np.uint16), np.full(shape, 1, np.uint32))
    Workspace(out).keep(0, "positive", mask)
    compile_tiny(shared, out, resume=True)
    assert verify(out).ticket_id == verify(shared.ticket).ticket_id


def test_other_arguments_do_not_continue(shared, tmp_path):
    """A run with another seed, eps, delta or domain is refused, and the interrupted one stays."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(shared, out, Stopper(5))
    box = slth.Box(-0.5, 0.5)
    for options in ({"seed": 1}, {"domain": box}):
        with pytest.raises(slth.InputError, match="belongs to another"):
            compile_tiny(shared, out, resume=True, **options)
    assert (tmp_path / "out.partial").exists()
    compile_tiny(shared, out, resume=True)
    assert verify(out).ticket_id == verify(shared.ticket).ticket_id


def test_force_replaces_at_the_end(shared, tmp_path):
    """The old ticket stays until the new one is there; an interrupted `force` leaves it whole."""
    out = tmp_path / "out"
    compile_tiny(shared, out)
    with pytest.raises(slth.InputError, match="exists already"):
        compile_tiny(shared, out)
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(shared, out, Stopper(6), seed=1, force=True)
    assert verify(out).seed == 0
    compile_tiny(shared, out, seed=1, force=True)
    assert verify(out).seed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_run_stopped_after_every_part_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """Five layers, interrupted each time a part of one is on disk: in the end every stated file is what it would be."""
    draw = np.random.default_rng(3)
    sizes = (4,) * 6
    nodes = [n.Input(shape=(4,))]
    for fan_in, outputs in itertools.pairwise(sizes):
        arrays = {"kernel": draw.normal(size=(fan_in, outputs)) / 2, "bias": draw.normal(size=outputs)}
        nodes.append(n.Dense(inputs=(len(nodes) - 1,), **arrays))
        nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
    target = Graph(tuple(nodes[:-1]), (len(nodes) - 2,))
    options = {"domain": slth.Points(draw.uniform(size=(3, 4))), "attack": False, "window": 8}

    def stated(out):
        return {name: (out / name).read_bytes() for name in (MANIFEST, *STATED)}

    slth.compile(target, 4.0, 0.05, out=tmp_path / "whole", **options)
    keep, kept = Workspace.keep, []

    def keep_and_stop(workspace, index, part, mask):
        keep(workspace, index, part, mask)
        kept.append((index, part))
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "keep", keep_and_stop)
    out = tmp_path / "parts"
    while not out.exists():
        with contextlib.suppress(KeyboardInterrupt):
            slth.compile(target, 4.0, 0.05, out=out, resume=True, **options)
        assert len(kept) < 20
    assert kept == [(layer, part) for layer in range(5) for part in ("positive", "bias")]
    assert stated(out) == stated(tmp_path / "whole")
