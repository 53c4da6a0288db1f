"""What is published of an enclosure: directed, short, and back from JSON unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from slth_compile.certificate import certificate, engine
from slth_compile.certificate.difference import Difference, LayerErrors
from slth_compile.certificate.engine import Enclosed
from slth_compile.certificate.execution import FLOAT64, evaluated
from slth_compile.certificate.pair import pair_of
from slth_compile.domain import Box, Points
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def test_a_certificate_rounded_to_nearest_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 0.12345678901234
    leaf = Difference(*(np.full((1, 1), v) for v in (value, value, 0.0, 0.0)))
    assert certificate.certificate_of(Enclosed((leaf,), "points"), "points", 0).bound >= value
    monkeypatch.setattr(certificate, "published_up", lambda v: float(f"{v:.9e}"))
    assert certificate.certificate_of(Enclosed((leaf,), "points"), "points", 0).bound < value


@pytest.mark.parametrize("method", ["interval", "euclidean", "backward", "branched"])
def test_an_output_of_rounding_alone_has_room_beside_the_largest(method: str) -> None:
    """Two engines need not round alike what is 2^-53 of other numbers."""
    leaf = Difference(*(np.array([[v, v * 1e-16]]) for v in (-1.0, 1.0, -1.0, 1.0)))
    large, small = certificate.certificate_of(Enclosed((leaf,), method), "box", 0).per_output[0]
    assert 1 < large < 1 + 1e-8 and 2.0**-41 < small < 2.0**-39


def _line() -> tuple[Graph, dict[int, LayerErrors]]:
    graph = Graph((n.Input(shape=(1,)), n.Dense(inputs=(0,), kernel=np.ones((1, 2)))), (1,))
    error = np.array([[0.25, -0.5]])
    return graph, {1: LayerErrors(positive_center=error, positive_radius=0.0)}


def test_certificate_of_points_and_box() -> None:
    graph, errors = _line()
    points = certificate.certify_domain(graph, errors, Points(np.array([[0.5], [2.0]])), 3)
    assert (points.domain, points.kind, points.method, points.bound) == (3, "points", "points", 1.0 + 1e-9)
    assert 1 - 1e-9 <= points.lower <= 1
    assert points.per_output[0].tolist() == [0.5000000001, 1.000000001]
    box = certificate.certify_domain(graph, errors, Box(0.0, 3.0, (1,)), 0)
    assert box.method == "interval" and box.lower == 0.0 and 1.5 <= box.bound <= 1.5 * (1 + 1e-8)
    again = certificate.Certificate.from_json(box.to_json(), graph)
    assert again.to_json() == box.to_json()


def test_overflow_gives_an_infinite_bound_and_no_nan() -> None:
    graph = Graph((n.Input(shape=(2,)), n.Dense(inputs=(0,), kernel=np.full((2, 1), 1e308))), (1,))
    errors = {1: LayerErrors(positive_center=np.full((2, 1), 1e308), positive_radius=0.0)}
    assert certificate.certify_domain(graph, errors, Box(0.0, 1e10, (2,)), 0).bound == np.inf


def test_points_are_left_to_intervals_that_are_narrow_in_real_arithmetic_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen layers, errors of 3e-11: what float64 may round on the way is wide beside them, and intervals are not."""

    def network(size: float) -> Graph:
        rng, errors = np.random.default_rng(0), np.random.default_rng(1)
        nodes: list[n.Node] = [n.Input(shape=(6,))]
        for _ in range(16):
            kernel = 0.6 * rng.normal(size=(6, 6)) + size * errors.normal(size=(6, 6))
            nodes += [n.Dense(inputs=(len(nodes) - 1,), kernel=kernel), n.Relu(inputs=(len(nodes),))]
        return Graph(tuple(nodes[:-1]), (len(nodes) - 2,))

    points = Points(np.random.default_rng(1).normal(size=(3, 6)))
    pair = pair_of(network(0.0), network(3e-11))
    errors = pair.errors_on(points)
    in_float64 = evaluated(pair.graph, errors, FLOAT64)
    assert in_float64 is not None
    assert engine.is_telling(pair.graph, errors, points.x) and not engine.is_telling(*in_float64, points.x)

    def exactly(*_: object) -> None:
        raise AssertionError("fixed point is for intervals that say little")

    monkeypatch.setattr(engine, "enclose_points", exactly)
    found, _ = certificate.certify_enclosed(pair.graph, errors, points, 0, exact=pair.exact)
    assert (found.method, found.arithmetic, found.float32) == ("points", "real", None)
