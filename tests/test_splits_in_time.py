"""Splits within a time: what is counted, when it ends, and that the closest of what was tried is what is published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from test_both_branched import of_region
from test_branch import two_units
from test_engines import checker_layers, random_errors

from slth_compile.certificate import engine, stopwatch
from slth_compile.certificate.backward.engine import Branched, bound_difference_backward, bound_difference_branched
from slth_compile.certificate.certificate import certificate_of
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.certificate.engine import Branching
from slth_compile.certificate.stopwatch import OutOfTimeError, Taken
from slth_compile.certificate.witness import witness_of
from slth_compile.checker import tighten
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

NO_ROWS = np.empty(0, np.int64), np.empty(0, np.int64)

BOX = -np.ones((1, 2)), np.ones((1, 2))


class Clock:
    """Time that passes as it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.compiled = 1000.0, 0.0
        patch.setattr(stopwatch.time, "perf_counter", lambda: self.now)
        patch.setattr(engine, "stopwatch", self.stopwatch)

    def passes(self, running: float, compiling: float = 0.0) -> None:
        self.now, self.compiled = self.now + running + compiling, self.compiled + compiling

    @contextmanager
    def stopwatch(self) -> Iterator[Callable[[], Taken]]:
        now, compiled = self.now, self.compiled
        yield lambda: Taken(self.now - now - (self.compiled - compiled), self.compiled - compiled)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def tried(clock: Clock, branching: Branching, plain: Taken, running: float, compiling: float) -> list[int]:
    """The numbers of splits where one runs so long, every other twice as long, and all compile as long."""
    begun, found = clock.now, []
    clock.passes(*plain)
    for splits, _ in engine.depths(branching, begun, plain):
        found.append(splits)
        clock.passes(running * 2 ** (splits - 1), compiling)
    return found


def test_splits_are_added_while_there_is_time(clock: Clock) -> None:
    assert tried(clock, engine.PLAIN, Taken(1, 0), 1, 0) == []
    assert tried(clock, Branching(4), Taken(1, 0), 1e9, 0) == [4]
    assert tried(clock, Branching(3, 100.0), Taken(1, 0), 3, 0) == [1, 2, 3]
    assert tried(clock, Branching(0, 1e9), Taken(1, 0), 3, 0) == list(range(1, 13))
    # 1 + 3 + 6 + 12 = 22
    assert tried(clock, Branching(0, 3.9), Taken(1, 0), 3, 0) == []
    assert tried(clock, Branching(0, 4.1), Taken(1, 0), 3, 0) == [1]
    assert tried(clock, Branching(0, 21.9), Taken(1, 0), 3, 0) == [1, 2]
    assert tried(clock, Branching(0, 22.1), Taken(1, 0), 3, 0) == [1, 2, 3]


def test_compiling_counts_and_is_not_expected_to_double(clock: Clock) -> None:
    # 1 + 10, then 3 + 10, 6 + 10, 12 + 10
    assert tried(clock, Branching(0, 23.9), Taken(1, 10), 3, 10) == []
    assert tried(clock, Branching(0, 39.9), Taken(1, 10), 3, 10) == [1]
    assert tried(clock, Branching(0, 40.1), Taken(1, 10), 3, 10) == [1, 2]
    assert tried(clock, Branching(0, 62.1), Taken(1, 10), 3, 10) == [1, 2, 3]


def scripted(graph: Graph, errors: dict[int, LayerErrors], step: Callable[[int], float]):
    """Branched bounds that are so much of plain ones, their witness of as many splits as were asked for."""

    def bounds(
        _: Graph, __: object, lower: np.ndarray, upper: np.ndarray, splits: int, *, progress, between
    ) -> Branched:
        progress("bound", 0, len(lower))
        part = step(splits)
        between()
        (leaf,) = bound_difference_backward(graph, errors, lower, upper)
        leaves = (Difference(leaf.lower * part, leaf.upper * part, leaf.output_lower, leaf.output_upper),)
        units = np.zeros((0, splits), np.int32)
        progress("bound", len(lower), len(lower))
        return Branched(leaves, witness_of(len(lower), *NO_ROWS, units))

    return bounds


@pytest.mark.parametrize(("parts", "best"), [((0.9, 0.5, 0.6), 0.5), ((0.4, 0.5, 0.6), 0.4), ((1.1, 1.0, 1.2), 1.0)])
def test_the_closest_of_several_is_kept_with_its_witness(parts, best, clock: Clock, monkeypatch) -> None:
    graph, errors = two_units()
    given, own = [], scripted(graph, errors, lambda splits: parts[splits - 1])

    def bounds(*args, **kwargs) -> Branched:
        given.append(own(*args, **kwargs))
        return given[-1]

    monkeypatch.setattr(engine, "bound_difference_branched", bounds)
    found = engine.enclose(graph, errors, BOX, "box", branching=Branching(3, 10.0))
    (plain,) = bound_difference_backward(graph, errors, *BOX)
    assert len(given) == 3
    np.testing.assert_array_equal(found.leaves[0].upper, plain.upper * best)
    if best < 1:
        assert found.method == engine.BRANCHED and found.witness is given[parts.index(best)].witness
    else:
        assert found.method == engine.BACKWARD and found.witness is None


def test_what_takes_too_long_is_given_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was found before stays; the stage is shown to its end."""
    graph, errors = two_units()

    def step(splits: int) -> float:
        clock.passes(0.0 if splits == 1 else 11.0)
        return 0.9**splits

    monkeypatch.setattr(engine, "bound_difference_branched", scripted(graph, errors, step))
    seen: list[tuple[str, int, int]] = []
    found = engine.enclose(
        graph, errors, BOX, "box",
        branching=Branching(0, 10.0), progress=lambda *step: seen.append(step),
    )  # fmt: skip
    (plain,) = bound_difference_backward(graph, errors, *BOX)
    np.testing.assert_array_equal(found.leaves[0].upper, plain.upper * 0.9)
    assert seen[-2:] == [("split", 0, 1), ("split", 1, 1)]


def test_passes_look_at_the_time_before_they_begin() -> None:
    graph, errors = two_units()
    left = 1

    def between() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        bound_difference_branched(graph, errors, *BOX, 1, between=between)
    assert left < 0
    with pytest.raises(OutOfTimeError):
        bound_difference_branched(graph, errors, *BOX, 1, between=stopwatch.deadline(time.perf_counter() - 1.0))
    stopwatch.deadline(time.perf_counter() + 1e6)()


def test_compiling_is_told_apart() -> None:
    begun = time.perf_counter()
    with stopwatch.stopwatch() as taken:
        jax.jit(lambda v: v * 3 + 0.123)(1.5)
        time.sleep(0.05)
        running, compiling = taken()
    assert running >= 0.05 and compiling > 0 and running + compiling <= time.perf_counter() - begun
    jax.jit(lambda v: v * 3 + 0.124)(1.5)
    assert taken().compiling == compiling


def not_monotone() -> tuple[Graph, dict[int, LayerErrors], np.ndarray]:
    """Three layers of six whose bound with three splits is above the one with one, the one with two below."""
    rng = np.random.default_rng(75)
    nodes: list[n.Node] = [n.Input(shape=(6,))]
    for _ in range(3):
        kernel, bias = rng.normal(size=(6, 6)) / np.sqrt(6), rng.normal(size=6)
        nodes += [n.Dense(inputs=(len(nodes) - 1,), kernel=kernel, bias=bias), n.Relu(inputs=(len(nodes),))]
    graph = Graph(tuple(nodes[:-1]), (len(nodes) - 2,))
    return graph, random_errors(graph, dict.fromkeys(graph.layers, True), rng, 1e-2), rng.uniform(0.3, 0.7, (1, 6))


@pytest.mark.slow
def test_one_more_split_may_be_worse_and_is_not_published() -> None:
    graph, errors, x = not_monotone()
    regions = x - 0.5, x + 0.5
    each = [bound_difference_branched(graph, errors, *regions, splits) for splits in (1, 2, 3)]
    sizes = [float(max(np.abs(leaf.lower).max(), np.abs(leaf.upper).max())) for (leaf,), _ in each]
    assert sizes[1] < sizes[0] < sizes[2]
    found = engine.enclose(graph, errors, regions, "box", branching=Branching(3, 1e6))
    assert found.witness is not None and found.witness.depth == 2
    for name in ("regions", "rows", "splits"):
        np.testing.assert_array_equal(getattr(found.witness, name), getattr(each[1].witness, name))
    published = certificate_of(found, "box", 0)
    assert sizes[1] < published.bound < sizes[1] * (1 + 1e-8) and published.splits == 2
    net = tighten.net_of(*checker_layers(graph, graph, errors))
    (own,) = tighten.output_differences(net, *regions, listed=of_region(found.witness, 0))
    assert own is not None and sizes[1] * (1 - 1e-8) < max(np.abs(own.lower).max(), own.upper.max()) <= published.bound
