"""Passes whose rows see windows of nodes, against the same passes over whole nodes."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from counts import examples
from hypothesis import given, settings
from random_networks import Draw, drawer, grouped, random_case, strided, volume

from slth_compile.certificate.backward import engine, passes, tour, windows
from slth_compile.certificate.backward.places import Into, placed
from slth_compile.certificate.backward.rewrite import Take, rewritten
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

ENDS = "lower", "upper", "output_lower", "output_upper"


def _convolution(draw: Draw, i: int, kernel: tuple[int, ...], **rest) -> n.Convolution:
    rank = len(kernel) - 2
    found = {"stride": (1,) * rank, "padding": ((1, 1),) * rank, "dilation": (1,) * rank, "groups": 1} | rest
    return n.Convolution(inputs=(i,), kernel=draw(*kernel), bias=draw(kernel[-1]), **found)


def small(draw: Draw) -> Graph:
    """A convolution of stride two beside a sliced and padded shortcut."""
    nodes = (
        n.Input(shape=(10, 11, 1)),
        _convolution(draw, 0, (3, 3, 1, 2)),
        n.Relu(inputs=(1,)),
        _convolution(draw, 2, (3, 3, 2, 3), stride=(2, 2)),
        n.Slice(inputs=(2,), start=(0, 0, 0), limit=(10, 11, 2), stride=(2, 2, 1)),
        n.Pad(inputs=(4,), padding=((0, 0), (0, 0), (1, 0))),
        n.Add(inputs=(3, 5)),
    )
    return Graph(nodes, (6,))


def stacked(draw: Draw) -> Graph:
    """Two maps on top of each other, through which no window gets, behind a convolution."""
    nodes = (
        n.Input(shape=(5, 11, 1)),
        _convolution(draw, 0, (3, 3, 1, 1)),
        n.Relu(inputs=(1,)),
        _convolution(draw, 0, (3, 3, 1, 1)),
        n.Concatenate(inputs=(2, 3), axis=0),
        _convolution(draw, 4, (3, 3, 1, 1)),
    )
    return Graph(nodes, (5,))


def shortcuts(draw: Draw) -> Graph:
    """Two residual blocks, the second one half as large with a sliced and padded shortcut, and a mean."""
    nodes = (
        n.Input(shape=(8, 9, 2)),
        _convolution(draw, 0, (3, 3, 2, 3)),
        n.Relu(inputs=(1,)),
        _convolution(draw, 2, (3, 3, 3, 3)),
        n.Add(inputs=(3, 2)),
        n.LeakyRelu(inputs=(4,), slope=0.1),
        _convolution(draw, 5, (3, 3, 3, 4), stride=(2, 2)),
        n.Relu(inputs=(6,)),
        _convolution(draw, 7, (3, 3, 4, 4)),
        n.Slice(inputs=(5,), start=(0, 0, 0), limit=(8, 9, 3), stride=(2, 2, 1)),
        n.Pad(inputs=(9,), padding=((0, 0), (0, 0), (0, 1))),
        n.Add(inputs=(8, 10)),
        n.Relu(inputs=(11,)),
        n.Mean(inputs=(12,), axes=(0, 1)),
    )
    return Graph(nodes, (13,))


def pooled(draw: Draw) -> Graph:
    """Max pools before relus, overlapping ones too, an uneven padding, a dilation, branches of unlike reach."""
    nodes = (
        n.Input(shape=(9, 8, 1)),
        _convolution(draw, 0, (2, 3, 1, 3), padding=((0, 1), (2, 0))),
        n.Relu(inputs=(1,)),
        n.MaxPool(inputs=(2,), window=(2, 2), stride=(1, 1), padding=((0, 0), (0, 0))),
        _convolution(draw, 3, (3, 3, 3, 2), padding=((2, 2), (2, 2)), dilation=(2, 2)),
        _convolution(draw, 3, (1, 1, 3, 2), padding=((0, 0), (0, 0))),
        n.Concatenate(inputs=(4, 5), axis=2),
        n.Relu(inputs=(6,)),
        n.MaxPool(inputs=(7,), window=(2, 3), stride=(2, 2), padding=((0, 0), (1, 0))),
        _convolution(draw, 8, (3, 3, 4, 2)),
        n.Sigmoid(inputs=(9,)),
        n.Dense(inputs=(10,), kernel=draw(2, 3), bias=draw(3)),
    )
    return Graph(nodes, (11,))


def squares(draw: Draw) -> Graph:
    """A transposed convolution and an affine map behind an average: windows end there, and begin before it."""
    nodes = (
        n.Input(shape=(8, 8, 1)),
        _convolution(draw, 0, (3, 3, 1, 2)),
        n.Relu(inputs=(1,)),
        n.AveragePool(inputs=(2,), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), count_padding=True),
        n.Dilate(inputs=(3,), factors=(2, 2, 1)),
        _convolution(draw, 4, (3, 3, 2, 2)),
        n.Affine(inputs=(5,), scale=draw(2), shift=draw(2)),
        n.Relu(inputs=(6,)),
        _convolution(draw, 7, (3, 3, 2, 2)),
        n.Relu(inputs=(8,)),
    )
    return Graph(nodes, (9,))


def bounds(monkeypatch, case, lower, upper, *, worth: int, quantum: int):
    """Bounds of one region, and how many rows saw windows."""
    used = []
    plain = tour.tour_of

    def counted(both, starts, elements):
        found = plain(both, starts, elements)
        used.append(0 if found is None else len(elements))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tour, "WORTH", worth)
        patch.setattr(windows, "QUANTUM", quantum)
        patch.setattr(tour, "MOST_ROWS", 6)
        patch.setattr(passes, "tour_of", counted)
        patch.setattr(engine, "SMALL", 0)
        seen = []

        def show(stage: str, done: int, total: int) -> None:
            seen.extend([(done, total)] * (stage == "nodes"))

        found = engine.bound_difference_backward(case.graph, case.errors, lower, upper, progress=show)
        # Regions walked one by one say how far they are.
        assert seen == sorted(seen)
        assert sum(used) < 100 or 0 < seen[0][0] <= seen[-1][0] <= seen[-1][1]
        return found, sum(used)


def same(monkeypatch, network, nonnegative: bool, quantum: int) -> int:
    """How many rows saw windows; bounds are the same as without."""
    rng = np.random.default_rng(5)
    draw = drawer(rng, False)
    case = random_case(network(draw), rng, 1e-2, draw, nonnegative)
    shape = 1, *case.graph.input_shape
    x = rng.uniform(0.3, 1, shape) if nonnegative else rng.normal(size=shape)
    whole, none = bounds(monkeypatch, case, x - 0.2, x + 0.2, worth=2**60, quantum=quantum)
    assert none == 0
    seen, rows = bounds(monkeypatch, case, x - 0.2, x + 0.2, worth=1, quantum=quantum)
    for a, b in zip(whole, seen, strict=True):
        for end, other in ((getattr(leaf, name) for leaf in (a, b)) for name in ENDS):
            np.testing.assert_allclose(end, other, rtol=1e-11, atol=1e-13 * abs(end).max())
    return rows


@pytest.mark.parametrize("network", [small, stacked])
def test_windows_change_nothing(monkeypatch, network) -> None:
    assert same(monkeypatch, network, False, 1) > 100


@pytest.mark.slow
@pytest.mark.parametrize("quantum", [1, 2, 3])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("network", [small, shortcuts, pooled, squares, strided, grouped, volume])
def test_windows_change_nothing_at_length(monkeypatch, network, nonnegative: bool, quantum: int) -> None:
    assert same(monkeypatch, network, nonnegative, quantum) or network in (strided, grouped, volume)


@given(st.data())
@settings(max_examples=examples(60, 15), deadline=None)
def test_coefficients_lie_where_they_are_placed(data: st.DataObject) -> None:
    """What sticks out on either side is zero, and lost; of all else nothing is."""
    sizes, count = (3, 4), (2, 3)
    margins = data.draw(st.sampled_from([((0, 0), (0, 0)), ((1, 2), (2, 1))]))
    ends = [size + high - c for size, (_, high), c in zip(sizes, margins, count, strict=True)]
    offset = [data.draw(st.integers(-low, end)) for (low, _), end in zip(margins, ends, strict=True)]
    a, whole = np.random.default_rng(0).normal(size=(2, *count, 3)), np.zeros((2, *sizes, 3))
    for i, j in itertools.product(*map(range, count)):
        at = offset[0] + i, offset[1] + j
        if all(0 <= p < size for p, size in zip(at, sizes, strict=True)):
            whole[:, at[0], at[1]] = a[:, i, j]
        else:
            a[:, i, j] = 0
    with jax.enable_x64(True):
        np.testing.assert_array_equal(placed(a, tuple(map(np.int32, offset)), sizes, margins), whole)


def taps(node: n.Node, position: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Positions of the operand that a position of a node is made from, those in the padding too."""
    if isinstance(node, n.Convolution):
        axes = zip(position, node.stride, node.padding, node.dilation, node.kernel.shape, strict=False)
        ranges = [[p * s - low + t * d for t in range(count)] for p, s, (low, _), d, count in axes]
    elif isinstance(node, Take):
        ranges = [[indices[p]] for p, indices in zip(position, node.indices, strict=False)]
    elif isinstance(node, n.Slice):
        ranges = [[p * s + a] for p, s, a in zip(position, node.stride, node.start, strict=False)]
    else:
        ranges = [[p] for p in position]
    return list(itertools.product(*ranges))


@pytest.mark.parametrize("network", [small, shortcuts, pooled, squares])
@given(st.data())
@settings(max_examples=examples(60, 15), deadline=None)
def test_windows_hold_all_that_is_seen(network, data: st.DataObject) -> None:
    net = rewritten(network(drawer(np.random.default_rng(0), False)))
    start = data.draw(st.sampled_from([k for k, shape in enumerate(net.shapes) if len(shape) == 3]))
    shape = net.shapes[start][:-1]
    extents = tuple(data.draw(st.integers(1, size)) for size in shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "QUANTUM", data.draw(st.integers(1, 4)))
        found = windows.windows_of(net, [start], extents)
    origin = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    ends = [min(size, o + extent) for size, o, extent in zip(shape, origin, extents, strict=True)]
    seen = {start: set(itertools.product(*map(range, origin, ends)))}
    for k in range(start, -1, -1):
        if k not in found.sizes or k not in seen:
            continue
        corner, node = found.corner(k, origin), net.nodes[k]
        for position in seen[k]:
            assert all(0 <= p - c < size for p, c, size in zip(position, corner, found.sizes[k], strict=True))
        for i in node.inputs:
            inside = {
                read
                for position in seen[k]
                for read in taps(node, position)
                if all(0 <= p < size for p, size in zip(read, net.shapes[i][:-1], strict=True))
            }
            seen.setdefault(i, set()).update(inside)
            if (into := found.into(k, i, origin)) is not None and not isinstance(node, Take):
                assert_placed(found, k, i, into, origin)


def assert_placed(found: windows.Windows, k: int, i: int, into: Into, origin: tuple[int, ...]) -> None:
    """The window of node `k` fits, and its first coefficient lands where the transposed map looks for it."""
    node = found.net.nodes[k]
    for axis, (size, (low, high)) in enumerate(zip(into.sizes, into.margins, strict=True)):
        step, shift, reach = 1, 0, 0
        if isinstance(node, n.Convolution):
            step, shift = node.stride[axis], -node.padding[axis][0]
            reach = (node.kernel.shape[axis] - 1) * node.dilation[axis]
        elif isinstance(node, n.Slice):
            step, shift = node.stride[axis], node.start[axis]
        offset, first = int(into.offset[axis]), int(found.corner(k, origin)[axis])
        assert -low <= offset
        assert offset + (found.sizes[k][axis] - 1) * step < size + reach + high
        # The last tap of the first position reads `first * step + shift + reach`, which is `reach` on in the buffer.
        assert int(into.corner[axis]) + offset == first * step + shift + reach
