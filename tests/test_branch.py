"""Branched bounds against exact rationals, beside plain ones, and with a fault in them."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from counts import examples
from exact import difference_at, exact_evaluate, is_inside
from hypothesis import given, settings
from random_networks import NETWORKS, drawer, random_case
from test_backward import dense, width
from test_difference import REGIONS, inputs_of, random_regions

from slth_compile.certificate import engine as engines
from slth_compile.certificate.backward import branch, cuts, engine, networks, split
from slth_compile.certificate.backward.engine import bound_difference_backward, bound_difference_branched
from slth_compile.certificate.backward.rewrite import Larger
from slth_compile.certificate.backward.targets import targets_of
from slth_compile.certificate.backward.walk import Walk
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.witness import Witness, joined, read_witness
from slth_compile.errors import InputError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.slow
@given(cases=st.data())
@settings(max_examples=400, deadline=None)
def test_never_below_the_exact_difference_at_length(cases: st.DataObject) -> None:
    sizes = st.sampled_from([1e-1, 1e-4, 1e-12])
    arguments = st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), sizes, st.integers(1, 4)
    test_never_below_the_exact_difference.hypothesis.inner_test(*(cases.draw(part) for part in arguments))


@given(
    st.sampled_from(NETWORKS), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-1, 1e-4]), st.sampled_from([3])
)
@settings(max_examples=examples(20, 1), deadline=None)
def test_never_below_the_exact_difference(network, seed, nonnegative, coarse, size, splits) -> None:
    rng = np.random.default_rng(seed)
    draw = drawer(rng, coarse)
    case = random_case(network(draw), rng, size, draw, nonnegative)
    lower, upper = random_regions(rng, case.graph.input_shape, nonnegative, coarse)
    found, _ = bound_difference_branched(case.graph, case.errors, lower, upper, splits)
    for region in range(REGIONS):
        for x in inputs_of(rng, lower[region], upper[region])[: 3 if region < 2 else 1]:
            values = difference_at(case, x)
            for leaf, exact in zip(found, values, strict=True):
                assert is_inside(leaf, region, exact)
            for leaf, values in zip(found, exact_evaluate(case.graph, x, case.target), strict=True):
                output = dataclasses.replace(leaf, lower=leaf.output_lower, upper=leaf.output_upper)
                assert is_inside(output, region, values)


def two_units() -> tuple[Graph, dict[int, LayerErrors]]:
    """`g - f = 3 relu(x + y) + relu(x - y + 1/2)`: 6.5 at (1, 1), no more than 4.5 where one is off."""
    nodes = (
        n.Input(shape=(2,)),
        n.Dense(inputs=(0,), kernel=np.array([[1.0, 1.0], [1.0, -1.0]]), bias=np.array([0.0, 0.5])),
        n.Relu(inputs=(1,)),
        n.Dense(inputs=(2,), kernel=np.zeros((2, 1))),
    )
    none, last = np.zeros((2, 2)), np.array([[3.0], [1.0]])
    first = LayerErrors(positive_center=none, positive_radius=0.0, negative_center=none, negative_radius=0.0)
    return Graph(nodes, (3,)), {1: first, 3: LayerErrors(positive_center=last, positive_radius=0.0)}


@pytest.mark.parametrize("fault", ["none", "one side", "a leaf", "cuts", "lines"])
def test_a_missing_leaf_and_a_wrong_sign_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors = two_units()
    own, of, back = branch.leaves_of, cuts.Store.of, split.Bend.back

    def leaves(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        owner, pattern = own(counts)
        return owner, pattern | 1 if fault == "one side" else np.maximum(pattern, 1)

    if fault in ("one side", "a leaf"):
        monkeypatch.setattr(branch, "leaves_of", leaves)
    if fault == "cuts":
        monkeypatch.setattr(cuts.Store, "of", lambda self, keys, side: of(self, keys, 1 - side))
    if fault == "lines":
        monkeypatch.setattr(split.Bend, "back", lambda self, f, place, side, s: back(self, f, place, 1 - side, s))
    (leaf,), _ = bound_difference_branched(graph, errors, -np.ones((1, 2)), np.ones((1, 2)), 2)
    (plain,) = bound_difference_backward(graph, errors, -np.ones((1, 2)), np.ones((1, 2)))
    assert plain.upper[0, 0] > 6.8
    assert leaf.upper[0, 0] < 6.4 if fault != "none" else 6.5 <= leaf.upper[0, 0] < 6.5 + 1e-6


def walked(graph: Graph, errors: dict[int, LayerErrors], lower: np.ndarray, upper: np.ndarray, splits: int) -> Walk:
    """The walk that branched bounds are of."""
    with jax.enable_x64(True), np.errstate(all="ignore"):
        walk = engine.walk_from(networks.networks_of(graph, errors), lower, upper)
        walk.branches = branch.branches_of(walk, splits)
        engine._walked(walk)
    return walk


def test_no_bound_is_above_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors, x = dense(0)
    seen, own = [], branch.Branches.bounds

    def beside(self, walk, start, elements, samples, signs):
        found = own(self, walk, start, elements, samples, signs)
        plain = branch.upper_bounds(walk, start, elements, samples, signs)
        seen.append((found, plain))
        assert np.all(found <= plain)
        return found

    monkeypatch.setattr(branch.Branches, "bounds", beside)
    (near,), _ = bound_difference_branched(graph, errors, x - 0.1, x + 0.1, 3)
    (far,) = bound_difference_backward(graph, errors, x - 0.1, x + 0.1)
    assert width(near).mean() <= 0.97 * width(far).mean()
    assert any(np.any(found < plain) for found, plain in seen)


def test_more_splits_are_closer_and_the_engine_keeps_the_smallest() -> None:
    graph, errors, x = dense(5)
    regions = x - 0.1, x + 0.1
    plain, some, many = (
        engines.enclose(graph, errors, regions, "balls", branching=engines.Branching(splits)) for splits in (0, 1, 3)
    )
    largest = [engines._largest(found.leaves) for found in (plain, some, many)]
    assert largest == sorted(largest, reverse=True) and largest[2] < largest[0]
    assert [found.method for found in (plain, some, many)] == ["backward", "branched", "branched"]
    assert plain.witness is None and many.witness is not None and many.witness.depth == 3


def test_what_is_listed_exists_is_open_and_comes_before() -> None:
    graph, errors, x = dense(2)
    walk = walked(graph, errors, x - 0.1, x + 0.1, 3)
    witness, targets = walk.branches.witness(len(x)), walk.branches.targets
    assert witness.regions.shape == (7,) and witness.rows.dtype == np.int64 and witness.splits.dtype == np.int32
    assert len(witness.rows) > 0
    for region in range(len(x)):
        rows = slice(*witness.regions[region : region + 2])
        assert np.all(np.diff(witness.rows[rows]) > 0)
        for row, units in zip(witness.rows[rows], witness.splits[rows], strict=True):
            target = np.searchsorted(targets.base, row // 4, "right") - 1
            used = units[units >= 0]
            assert len(used) and len(set(used)) == len(used) and np.all(units[len(used) :] == -1)
            for unit in used:
                bend = int(np.searchsorted(targets.base, unit, "right")) - 1
                assert bend < min(target, len(targets.bends))
                y = walk.branches.bends[targets.bends[bend]].pair.x
                element = unit - targets.base[bend]
                assert y.lower[element, region] < 0 < y.upper[element, region]


def test_units_that_never_open_and_dead_ones_leave_plain_bounds() -> None:
    graph, errors, x = dense(4)
    nodes = [
        node if not isinstance(node, n.Dense) else dataclasses.replace(node, bias=np.full(len(node.bias), 100.0 * sign))
        for node, sign in zip(graph.nodes, (0, 1, 0, -1, 0, 1), strict=True)
    ]
    graph = dataclasses.replace(graph, nodes=tuple(nodes))
    (near,), witness = bound_difference_branched(graph, errors, x - 0.1, x + 0.1, 3)
    (far,) = bound_difference_backward(graph, errors, x - 0.1, x + 0.1)
    np.testing.assert_array_equal(near.upper, far.upper)
    assert witness.rows.shape == (0,) and witness.splits.shape == (0, 1) and not witness.regions.any()


def test_neither_batches_nor_rows_nor_the_store_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, errors, x = dense(1)
    (whole,), witness = bound_difference_branched(graph, errors, x - 0.1, x + 0.1, 3)
    monkeypatch.setattr(engine, "TOGETHER", 3)
    monkeypatch.setattr(networks, "MOST_ROWS", 16)
    monkeypatch.setattr(cuts, "LARGEST_STORE", 16 * 8 * 20)
    monkeypatch.setattr(branch, "MOST_LEAVES", 20)
    (parts,), same = bound_difference_branched(graph, errors, x - 0.1, x + 0.1, 3)
    for a, b in ((whole.lower, parts.lower), (whole.upper, parts.upper)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-15)
    for one, two in zip(witness.tensors(0).values(), same.tensors(0).values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_numbers_follow_the_rewritten_graph() -> None:
    nodes = (
        n.Input(shape=(4, 2)),
        n.Dense(inputs=(0,), kernel=np.ones((2, 3))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2,), stride=(2,), padding=((0, 0),)),
        n.Prelu(inputs=(3,), slopes=np.array(0.5)),
    )
    targets = targets_of(networks.rewritten(Graph(nodes, (4, 3))))
    net = networks.rewritten(Graph(nodes, (4, 3)))
    assert [type(net.nodes[i]) for i in targets.bends] == [Larger, n.Relu, n.Prelu]
    assert targets.base.tolist() == [0, 6, 12, 18, 24, 30]


def test_witnesses_are_joined_and_read_back() -> None:
    one = Witness(np.array([0, 2, 3]), np.array([4, 8, 1]), np.array([[1], [2], [3]], np.int32))
    two = Witness(np.array([0, 1]), np.array([9]), np.array([[5, 6]], np.int32))
    both = joined([one, two])
    assert both.regions.tolist() == [0, 2, 3, 4] and both.rows.tolist() == [4, 8, 1, 9]
    assert both.splits.tolist() == [[1, -1], [2, -1], [3, -1], [5, 6]]
    arrays = both.tensors(7)
    assert sorted(arrays) == ["7/regions", "7/rows", "7/splits"]
    assert read_witness(arrays, 7).splits.tolist() == both.splits.tolist()
    wrong = {
        "7/rows": both.rows.astype(np.int32),
        "7/regions": both.regions[:-1],
        "7/splits": both.splits[:, :0],
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError):
            read_witness(arrays | {name: array}, 7)
    with pytest.raises(KeyError):
        read_witness(arrays, 6)


@pytest.mark.parametrize("asked", [(-1, None), (13, None), (1.5, None), (True, None), (0, 0.0), (0, np.nan), (0, "1")])
def test_what_cannot_be_asked_is_refused(asked) -> None:
    with pytest.raises(InputError, match="expected"):
        engines.refuse_branching(*asked)
    with pytest.raises(InputError, match="quick"):
        engines.refuse_branching(2, None, engines.QUICK)
    engines.refuse_branching(0, None, engines.QUICK)


def test_progress_of_splits_is_a_stage_of_its_own() -> None:
    graph, errors, x = dense(1)
    seen: list[tuple[str, int, int]] = []
    engines.enclose(
        graph, errors, (x - 0.1, x + 0.1), "box",
        branching=engines.Branching(1), progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen == [("bound", 0, 6), ("bound", 6, 6), ("split", 0, 6), ("split", 6, 6)]
