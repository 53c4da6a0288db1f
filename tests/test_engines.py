"""Two engines that share no code, the compiler's and the checker's, find the same bounds for the same errors."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from counts import few
from targets import TARGETS, Target

from slth_compile.certificate import difference
from slth_compile.certificate.certificate import certificate_of
from slth_compile.certificate.difference import Difference, LayerErrors, bound_difference
from slth_compile.certificate.engine import Enclosed
from slth_compile.checker import bounds as checker_bounds
from slth_compile.checker import fold as checker_fold
from slth_compile.checker import matrices as checker_matrices
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.domain import Domain as CheckerDomain
from slth_compile.checker.graph import DTYPES, parse_graph
from slth_compile.checker.safetensors import Tensor
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph, graph_json, target_arrays
from slth_compile.source.network import to_canonical

POINTS, BALLS = slice(0, 3), slice(3, 6)
BOXES = (slice(6, 7), slice(7, 8))
RADIUS = 0.01


@pytest.mark.parametrize("compiled", few([False, True], False), ids=["numpy", "compiled"])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_both_engines_find_the_same_bounds(target: Target, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "FEW_REGIONS", 0 if compiled else 8)
    rng = np.random.default_rng(len(target.name))
    graph = target.graph()
    folded = fold(graph)
    nonnegative = all(domain.is_nonnegative() for domain in target.domains)
    flags = nonnegative_nodes(folded, nonnegative)
    signed = {i: not flags[folded.nodes[i].inputs[0]] for i in folded.layers}
    lower, upper = regions(rng, target.shape, nonnegative)
    for size in (1e-1, 1e-5):
        errors = random_errors(folded, signed, rng, size)
        found = bound_difference(folded, errors, lower, upper)
        other = checker_layers(graph, folded, errors)
        for kind, rows in (("points", POINTS), ("balls", BALLS), ("box", BOXES[0]), ("box", BOXES[1])):
            checked = checker_bounds.output_bounds(*other, checker_domain(kind, lower[rows], upper[rows]))
            leaves = [Difference(*(getattr(leaf, f.name)[rows] for f in dataclasses.fields(leaf))) for leaf in found]
            method = "points" if kind == "points" else "interval"
            published = certificate_of(Enclosed(tuple(leaves), method), kind, 0)
            for leaf, own, claimed in zip(leaves, checked, published.per_output, strict=True):
                largest = np.maximum(np.abs(leaf.lower), np.abs(leaf.upper)).max(0)
                np.testing.assert_allclose(largest, own.upper, rtol=1e-9, atol=1e-9 * float(own.upper.max()))
                assert np.all(own.upper <= claimed) and own.upper.max() > 0
            assert published.lower <= max(float(own.lower.max()) for own in checked)


def regions(rng: np.random.Generator, shape: tuple[int, ...], nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Three points, three balls, a small and a large box, all in one array."""
    lower = rng.uniform(0 if nonnegative else -1, 1, (8, *shape))
    upper = lower.copy()
    # What the checker makes of a ball's centre and radius, clipped to what the network was declared for.
    centre = lower[BALLS]
    lower[BALLS] = np.maximum(np.nextafter(centre - RADIUS, -np.inf), 0 if nonnegative else -np.inf)
    upper[BALLS] = np.nextafter(centre + RADIUS, np.inf)
    upper[6] = lower[6] + 0.1
    lower[7], upper[7] = (0 if nonnegative else -1), 1
    return lower, upper


def checker_domain(kind: str, lower: np.ndarray, upper: np.ndarray) -> CheckerDomain:
    """The same regions as the checker names them; every ball is given by its bounds, around a centre it lies within."""
    if kind == "points":
        return CheckerDomain(kind, {"x": lower})
    if kind == "box":
        return CheckerDomain(kind, {"lower": lower[0], "upper": upper[0]})
    return _Regions(kind, {"x": lower}, lower, upper)


@dataclasses.dataclass(frozen=True, eq=False)
class _Regions(CheckerDomain):
    lower: np.ndarray
    upper: np.ndarray

    def regions(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.lower[start:stop], self.upper[start:stop]


def random_errors(
    graph: Graph, signed: dict[int, bool], rng: np.random.Generator, size: float
) -> dict[int, LayerErrors]:
    """Errors up to `size` times the weights' scale, some of them zero, without any radius."""
    found = {}
    for i in graph.layers:
        node = graph.nodes[i]

        def error(shape: tuple[int, ...], scale: float) -> np.ndarray:
            return size * scale * rng.uniform(-1, 1, shape) * (rng.random(shape) < 0.9)

        scale = max(float(np.abs(node.kernel).max()), 0.1)
        zero = np.zeros(node.kernel.shape[-1:])
        found[i] = LayerErrors(
            positive_center=error(node.kernel.shape, scale),
            positive_radius=zero,
            negative_center=error(node.kernel.shape, scale) if signed[i] else None,
            negative_radius=zero if signed[i] else None,
            bias_center=None if node.bias is None else error(zero.shape, scale),
            bias_radius=None if node.bias is None else zero,
        )
    return found


def checker_layers(graph: Graph, folded: Graph, errors: dict[int, LayerErrors]):
    """The target as the checker reads and folds it, and its layers with these errors."""
    tensors = {}
    for name, array in target_arrays(graph).items():
        raw = np.frombuffer(np.asarray(array, order="C").tobytes(), np.uint8)
        tensors[name] = Tensor(DTYPES[array.dtype.name], array.shape, raw)
    own = checker_fold.fold(parse_graph(graph_json(graph), tensors)[0])
    layers = {}
    for layer, position in zip(own.layers, folded.layers, strict=True):
        node, error = folded.nodes[position], errors[position]
        parts = [
            None if center is None else exactly(to_canonical(node, center))
            for center in (error.positive_center, error.negative_center)
        ]
        bias = None if error.bias_center is None else exactly(error.bias_center)
        layers[layer.node] = checker_matrices.enclose(layer, parts[0], parts[1], bias)
    return own, layers


def exactly(values: np.ndarray) -> Interval:
    return Interval(values, values)


def test_the_table_reaches_the_checker_in_every_dtype() -> None:
    dtypes = {array.dtype for target in TARGETS for array in target_arrays(target.graph()).values()}
    assert dtypes == {np.dtype(t) for t in (np.float16, jnp.bfloat16, np.float32, np.float64)}
