"""The scripts of `examples/experiments`: what they compute, on problems small enough to try every subset."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slth_compile.constructions.da_cunha import families
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Dense, Input, Relu
from slth_compile.lab.laws import draw_candidates
from slth_compile.progress import silent
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.source.threefry import tensor_key
from slth_compile.ticket.apply import effective_layers

pytestmark = pytest.mark.slow
UNIT = 2.0**-46


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "examples/experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def best(candidates: np.ndarray, target: float) -> int:
    """The subset sum of integers, units of 2^-46, that is closest to a target."""
    sums = [sum(c for c, kept in zip(candidates.tolist(), bits, strict=True) if kept)
            for bits in itertools.product((0, 1), repeat=len(candidates))]  # fmt: skip
    return min(sums, key=lambda s: abs(s - target / UNIT))


def test_fresh_subset_sums_are_the_best_of_fresh_numbers():
    targets = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 8)).astype(np.float32)
    found = script("dacunha2022").fresh_subset_sums(targets, 7, seed=3, tensor=2)
    with jax.enable_x64(True):
        problems = jnp.arange(targets.size, dtype=jnp.uint64)
        drawn = np.asarray(draw_candidates("uniform", tensor_key(3, 7, 2), problems, 7, jnp.int64(7)))
    assert -1 <= drawn.min() * UNIT < -0.9 < 0.9 < drawn.max() * UNIT <= 1
    expected = [best(drawn[:, i], float(w)) for i, w in enumerate(targets.reshape(-1))]
    assert np.array_equal(found.reshape(-1), np.array(expected) * UNIT)


def test_every_weight_is_the_best_of_its_first_products():
    module, generator = script("dacunha2022"), np.random.default_rng(1)
    kernels = [generator.normal(0, 0.3, shape).astype(np.float32) for shape in ((3, 4), (4, 2))]
    biases = [generator.normal(0, 0.1, size).astype(np.float32) for size in (4, 2)]
    first = Dense(inputs=(0,), kernel=kernels[0], bias=biases[0])
    graph = Graph(
        (Input(shape=(3,)), first, Relu(inputs=(1,)), Dense(inputs=(2,), kernel=kernels[1], bias=biases[1])), (3,)
    )
    ticket, size, kept = module.prune_source(graph, 6, 5, silent)
    assert ticket.source == Generated(5) and size > 0
    total = 0
    for layer, effective in enumerate(effective_layers(graph, ticket)):
        node = graph.nodes[graph.layers[layer]]
        assert isinstance(node, Dense)
        sums = {"positive": effective.positive, "bias": effective.bias}
        for family in families(ticket.source, layer, node, ticket.layout.layers[layer]):
            mask, weights = ticket.masks[layer][family.part], family.weights.reshape(-1)
            assert not mask.windows.any() and mask.subsets.max() < 1 << 6
            total += mask.kept
            # The candidates are of a range that is 2 to 4 times the largest weight.
            assert 2 <= 2.0**family.gadget.gain / np.abs(weights).max() < 4
            for flat, weight in enumerate(weights):
                places, own = family.candidates(np.array([flat]), np.array([0]))
                candidates = (read_entries(family.v, places) * own)[:, 0]
                expected = best(candidates, float(weight) * 2.0**-family.gadget.gain)
                found = sums[family.part]
                assert found is not None and found.reshape(-1)[flat] == expected
    assert total == kept


def test_widths_are_the_least():
    """With 1,000 channels and n = 5: below the width more than one in a thousand sources lacks a copy somewhere."""
    least_width = script("dacunha2022").least_width
    assert least_width(1, 1, 2.0**-10) == 10  # all ten copies negative
    width = least_width(5, 1000, 1e-3)
    counts = np.random.default_rng(2).binomial(width // 2, 0.5, (200, 1000))
    assert (counts.min(1) < 5).mean() > 0.5
    assert (np.random.default_rng(3).binomial(width, 0.5, (200, 1000)).min(1) < 5).mean() < 0.05


def test_pensias_plan_promises_for_all_errors() -> None:
    rng = np.random.default_rng(0)
    dense = [Dense(inputs=(at,), kernel=rng.uniform(-1, 1, shape)) for at, shape in ((0, (6, 5)), (2, (5, 3)))]
    nodes = (Input(shape=(6,)), dense[0], Relu(inputs=(1,)), dense[1])
    planned = script("pensia2020").plan_network(Graph(nodes, (3,)), rng.uniform(0, 1, (4, 6)), "closest")
    assert (planned.promise, planned.layout.construction) == ("all", "pensia")
    assert [layer.kernel.window for layer in planned.layout.layers] == [21, 21]
    assert planned.layout.failure is not None and planned.layout.failure <= 1e-3
