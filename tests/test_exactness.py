"""The literal network is the effective one, in exact arithmetic, for every input; its weights are the seed's entries.

Masks are drawn at random: exactness holds for every mask, solved for or not.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import pytest
from exact import Exact, exact, exact_evaluate, fractions_of

from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph
from slth_compile.source.layout import Gadget, LayerLayout, Layout
from slth_compile.source.network import from_canonical, kernel_shape
from slth_compile.source.source import Generated
from slth_compile.ticket.apply import effective_layers, masked_sums
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.materialise import network
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

WINDOW, WIDTH, BIAS_WIDTH, GAIN, BIAS_GAIN, SEED = 5, 40, 37, -1, 2, 2**40 + 11


def _convolution(place: int, shape: tuple[int, ...], *, bias: bool = True, **geometry) -> n.Convolution:
    rank = len(shape) - 2
    plain = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank} | geometry
    return n.Convolution(inputs=(place,), kernel=np.ones(shape), bias=np.ones(shape[-1]) if bias else None, **plain)


def _one_layer(layer: n.Weighted, shape: tuple[int, ...]) -> Graph:
    return Graph((n.Input(shape=shape), layer), (1,))


LAYERS = {
    "dense": _one_layer(n.Dense(inputs=(0,), kernel=np.ones((4, 3)), bias=np.ones(3)), (4,)),
    "dense on positions, no bias": _one_layer(n.Dense(inputs=(0,), kernel=np.ones((3, 2))), (2, 3)),
    "strided": _one_layer(_convolution(0, (3, 2, 2, 3), stride=(2, 1)), (5, 3, 2)),
    "asymmetric padding": _one_layer(_convolution(0, (2, 3, 1, 2), padding=((1, 0), (0, 2)), bias=False), (3, 3, 1)),
    "dilated": _one_layer(_convolution(0, (2, 2, 2, 2), dilation=(2, 1), padding=((0, 1), (1, 0))), (4, 3, 2)),
    "groups": _one_layer(_convolution(0, (2, 2, 6), groups=2), (4, 4)),
    "depthwise": _one_layer(
        _convolution(0, (3, 1, 1, 6), groups=3, stride=(2, 2), padding=((1, 1), (0, 0))), (4, 3, 3)
    ),
}
NETWORK = Graph(
    (
        n.Input(shape=(5, 4, 2)),
        _convolution(0, (2, 3, 1, 4), groups=2, stride=(2, 1), padding=((0, 1), (1, 1))),
        n.LeakyRelu(inputs=(1,), slope=0.25),
        n.AveragePool(inputs=(2,), window=(2, 2), stride=(1, 2), padding=((1, 0), (0, 0)), count_padding=False),
        _convolution(3, (1, 1, 4, 3), bias=False),
        n.Relu(inputs=(4,)),
        n.MaxPool(inputs=(5,), window=(2, 2), stride=(1, 1), padding=((0, 0), (1, 0))),
        n.Reshape(inputs=(6,), shape=(12,)),
        n.Dense(inputs=(7,), kernel=np.ones((12, 2)), bias=np.ones(2)),
    ),
    (8,),
)
SIGNS = [(True,), (False,)]
CASES = [(name, graph, signs) for name, graph in LAYERS.items() for signs in SIGNS]
CASES += [("network", NETWORK, (True, True, False)), ("network", NETWORK, (False, True, False))]
ids = [f"{name}-{'signed' if signs[0] else 'one-signed'}" for name, _, signs in CASES]


@pytest.mark.parametrize(("name", "graph", "signs"), CASES, ids=ids)
@pytest.mark.parametrize("dense", [False, True], ids=["grouped", "dense"])
def test_literal_and_effective_agree_exactly(name: str, graph: Graph, signs: tuple[bool, ...], dense: bool) -> None:
    ticket = random_ticket(graph, signs, np.random.default_rng(len(name)))
    layers = effective_layers(graph, ticket)
    weights = exact_weights(graph, ticket, layers)
    literal = network(graph, ticket, dense=dense).variables["params"]
    for x in rational_inputs(graph.input_shape):
        (effective,) = exact_evaluate(graph, x, weights)
        assert np.array_equal(literal_evaluate(graph, literal, x, dense), effective)
    assert len(set(effective.flat)) > 1


@pytest.mark.parametrize(("name", "graph", "signs"), CASES[:-2], ids=ids[:-2])
@pytest.mark.parametrize("dense", [False, True], ids=["grouped", "dense"])
def test_the_flax_module_computes_that_exactly(name: str, graph: Graph, signs: tuple[bool, ...], dense: bool) -> None:
    """With inputs -1, 0, 1 and few kept entries no float64 operation rounds: every sum is below 2^7, in units 2^-48."""
    ticket = random_ticket(graph, signs, np.random.default_rng(len(name)))
    weights = exact_weights(graph, ticket, effective_layers(graph, ticket))
    x = np.random.default_rng(0).integers(-1, 2, (3, *graph.input_shape)).astype(np.float64)
    with jax.enable_x64(True):
        y = np.asarray(network(graph, ticket, dense=dense)(x))
    assert y.dtype == np.float64
    for row, found in zip(x, y, strict=True):
        (effective,) = exact_evaluate(graph, row, weights)
        assert np.array_equal(np.vectorize(Fraction, otypes=[object])(found), effective)


@pytest.mark.parametrize(("name", "graph", "signs"), CASES, ids=ids)
def test_every_nonzero_weight_is_the_entry_of_the_seed(name: str, graph: Graph, signs: tuple[bool, ...]) -> None:
    ticket = random_ticket(graph, signs, np.random.default_rng(1))
    params = network(graph, ticket).variables["params"]
    for index, position in enumerate(graph.layers):
        k = kernel_shape(graph.nodes[position])
        fan_in, fan_out = k.inputs // k.groups, k.outputs // k.groups
        layer = {key: np.asarray(value) for key, value in params[f"layer{index}"].items()}
        assert {value.dtype for value in layer.values()} == {np.dtype(np.float32)}
        assert layer["U"].shape == (k.inputs, WIDTH)
        kept_u = np.argwhere(layer["U"])
        for t, j in kept_u.tolist():
            entry = _entry(index, 0, (j * k.inputs + t) * fan_in + t % fan_in)
            assert float(layer["U"][t, j]) == entry * 2.0**-23 and (entry > 0 or signs[index])
        v = layer["V"].reshape(k.taps, fan_in, WIDTH, k.groups, fan_out)
        for p, i, j, g, s in np.argwhere(v).tolist():
            t = g * fan_in + i
            entry = _entry(index, 1, ((j * k.taps + p) * k.inputs + t) * fan_out + s)
            assert float(v[p, i, j, g, s]) == entry * 2.0 ** (GAIN - 23)
        assert len(kept_u) > WIDTH // 4 and np.count_nonzero(v) > k.size
        if graph.nodes[position].bias is None:
            assert set(layer) == {"U", "V"}
            continue
        assert set(layer) == {"U", "V", "u", "v"}
        for (j,) in np.argwhere(layer["u"]).tolist():
            entry = _entry(index, 2, j)
            assert float(layer["u"][j]) == entry * 2.0**-23 > 0
        for j, s in np.argwhere(layer["v"]).tolist():
            assert float(layer["v"][j, s]) == _entry(index, 3, j * k.outputs + s) * 2.0 ** (BIAS_GAIN - 23)
        assert np.count_nonzero(layer["v"]) == ticket.masks[index]["bias"].kept


def test_there_are_two_weighted_layers_for_each_and_the_bias_gadgets() -> None:
    ticket = random_ticket(NETWORK, (True, True, False), np.random.default_rng(0))
    x = np.zeros((1, *NETWORK.input_shape), np.float32)
    for dense in (False, True):
        pruned = network(NETWORK, ticket, dense=dense)
        params = pruned.variables["params"]
        assert [set(params[f"layer{i}"]) for i in range(3)] == [{"U", "V", "u", "v"}, {"U", "V"}, {"U", "V", "u", "v"}]
    # In the dense form every product is a contraction with a matrix: two a layer, one a bias gadget.
    primitives = [equation.primitive.name for equation in _equations(jax.make_jaxpr(lambda x: pruned(x))(x).jaxpr)]
    assert primitives.count("dot_general") + primitives.count("conv_general_dilated") == 2 * 3 + 2


@pytest.mark.parametrize(("name", "graph", "signs"), CASES[:2], ids=ids[:2])
def test_another_polarity_of_the_mask_is_another_network(name: str, graph: Graph, signs: tuple[bool, ...]) -> None:
    ticket = random_ticket(graph, signs, np.random.default_rng(3))
    inverted = dataclasses.replace(
        ticket, masks=tuple({part: _inverted(mask) for part, mask in layer.items()} for layer in ticket.masks)
    )
    weights = exact_weights(graph, ticket, effective_layers(graph, ticket))
    params = network(graph, inverted).variables["params"]
    for x in rational_inputs(graph.input_shape):
        (effective,) = exact_evaluate(graph, x, weights)
        assert not np.any(literal_evaluate(graph, params, x, dense=False) == effective)


def test_a_polarity_inverted_in_one_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are read twice, for sums and for entries: were one of them to read zeros as kept, the two would part."""
    graph = LAYERS["dense"]
    ticket = random_ticket(graph, (True,), np.random.default_rng(4))
    monkeypatch.setattr(
        "slth_compile.ticket.apply.masked_sums", lambda family, mask: masked_sums(family, _inverted(mask))
    )
    weights = exact_weights(graph, ticket, effective_layers(graph, ticket))
    x = rational_inputs(graph.input_shape)[0]
    (effective,) = exact_evaluate(graph, x, weights)
    params = network(graph, ticket).variables["params"]
    assert not np.any(literal_evaluate(graph, params, x, dense=False) == effective)


def random_ticket(graph: Graph, signs: tuple[bool, ...], rng: np.random.Generator) -> Ticket:
    """A layout as a plan might make it, and random masks of it."""
    layers, masks = [], []
    for index, position in enumerate(graph.layers):
        node, signed = graph.nodes[position], signs[index]
        kernel = Gadget(width=WIDTH, gain=GAIN, window=WINDOW, tolerance=1.0, failure=0.0)
        bias = None if node.bias is None else dataclasses.replace(kernel, width=BIAS_WIDTH, gain=BIAS_GAIN)
        layers.append(LayerLayout(signed=signed, kernel=kernel, bias=bias))
        shape = kernel_shape(node)
        parts = {"positive": _random_mask(rng, shape.shape)}
        if signed:
            parts["negative"] = _random_mask(rng, shape.shape)
        if bias is not None:
            parts["bias"] = _random_mask(rng, (1, 1, shape.outputs))
        masks.append(parts)
    return Ticket(Layout(eps=1.0, delta=0.5, layers=tuple(layers)), Generated(SEED), tuple(masks))


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> SubsetMask:
    """One of the first two windows, which every channel of this seed has: about half of 40 copies are usable."""
    subsets = rng.integers(1, 2**WINDOW - 1, shape).astype(np.uint32)
    return SubsetMask(rng.integers(0, 2, shape).astype(np.uint16), subsets)


def _inverted(mask: SubsetMask) -> SubsetMask:
    return SubsetMask(mask.windows.copy(), mask.subsets ^ np.uint32(2**WINDOW - 1))


def exact_weights(graph: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> dict[int, LayerWeights]:
    """The integers of the effective layers, as fractions."""

    def scaled(sums: np.ndarray, gain: int) -> np.ndarray:
        return np.vectorize(lambda v: int(v) * Fraction(2) ** (gain - 46), otypes=[object])(sums)

    found = {}
    for position, layer, layout in zip(graph.layers, layers, ticket.layout.layers, strict=True):
        node = graph.nodes[position]
        negative = layer.negative
        found[position] = LayerWeights(
            positive=from_canonical(node, scaled(layer.positive, GAIN)),
            negative=None if negative is None else from_canonical(node, scaled(negative, GAIN)),
            bias=None if layer.bias is None else scaled(layer.bias, BIAS_GAIN).reshape(-1),
            clip=not layout.signed,
        )
    return found


def literal_evaluate(graph: Graph, params, x: np.ndarray, dense: bool) -> np.ndarray:
    """The literal network's output from its variables alone, in fractions: `V relu(U x) + v . relu(u)` for a layer."""
    nodes: list[n.Node] = []
    weights: dict[int, LayerWeights] = {}
    place: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        inputs = tuple(place[j] for j in node.inputs)
        if isinstance(node, n.Convolution | n.Dense):
            layer = {k: np.asarray(v) for k, v in params[f"layer{graph.layers.index(i)}"].items()}
            first, second, bias = _two_layers(node, layer, len(graph.shapes[node.inputs[0]]) - 1, dense)
            start = len(nodes)
            nodes.append(dataclasses.replace(first, inputs=inputs))
            nodes.append(n.Relu(inputs=(start,)))
            nodes.append(dataclasses.replace(second, inputs=(start + 1,)))
            weights[start] = LayerWeights(first.kernel, None, None)
            weights[start + 2] = LayerWeights(second.kernel, None, bias)
        else:
            nodes.append(dataclasses.replace(node, inputs=inputs))
        place[i] = len(nodes) - 1
    (found,) = exact_evaluate(Graph(tuple(nodes), (place[graph.outputs[0]],)), x, weights)
    return found


def _two_layers(node: n.Weighted, layer: dict[str, np.ndarray], rank: int, dense: bool):
    """`U` as a 1x1 convolution, `V` as the node itself on more channels, and the bias as fractions."""
    groups = 1 if isinstance(node, n.Dense) else node.groups
    inputs = node.kernel.shape[-2] * groups
    ones = (1,) * rank
    if dense:
        kernel, u_groups = np.concatenate(list(layer["U"]), -1), groups
    else:
        kernel, u_groups = layer["U"].reshape(1, -1), inputs
    first = n.Convolution(
        inputs=(0,),
        kernel=kernel.reshape(*ones, *kernel.shape),
        stride=ones,
        padding=((0, 0),) * rank,
        dilation=ones,
        groups=u_groups,
    )
    second = dataclasses.replace(node, kernel=layer["V"], bias=None)
    if node.bias is None:
        return first, second, None
    u, v = exact(np.maximum(layer["u"], 0)), exact(layer["v"])
    product = Exact(np.dot(u.numerators, v.numerators), u.denominator * v.denominator)
    return first, second, fractions_of(product)


def rational_inputs(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Inputs of both signs, all positive, all negative, with zeros; denominators that no float has."""
    rng = np.random.default_rng(9)
    kinds = [rng.integers(1, 10, shape), rng.integers(-9, 0, shape), rng.integers(-9, 10, shape)]
    return [np.vectorize(lambda v: Fraction(int(v), 7), otypes=[object])(values) for values in kinds]


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        yield from (e for sub in inner for e in _equations(sub)) if inner else (equation,)


def _entry(layer: int, tensor: int, element: int) -> int:
    """Entry of a random tensor in units of 2^-23, from the published algorithm alone."""
    key = _threefry((SEED >> 32, SEED & 0xFFFFFFFF), (layer, tensor))
    block = element // 2
    return (_threefry(key, (block >> 32, block & 0xFFFFFFFF))[element % 2] >> 8) - 2**23


def _threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 with 20 rounds on Python integers."""
    keys = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    low, mask = list(counter), 0xFFFFFFFF
    a, b = (low[0] + keys[0]) & mask, (low[1] + keys[1]) & mask
    for step in range(20):
        turn = ((13, 15, 26, 6), (17, 29, 16, 24))[step // 4 % 2][step % 4]
        a = (a + b) & mask
        b = ((b << turn | b >> (32 - turn)) & mask) ^ a
        if step % 4 == 3:
            group = step // 4 + 1
            a, b = (a + keys[group % 3]) & mask, (b + keys[(group + 1) % 3] + group) & mask
    return a, b
