"""Two networks of one graph, ready for the differential engine: the first one's graph, the errors of the second.

`E = W_g - W_f` of every layer, each `W` known up to what folding its batch norms rounded:

    |E - center| <= radius,   center = fl(W_g - W_f),   radius >= 2^-53 |center| + error_f + error_g

The error of a plain network holds for positive and for negative inputs alike; a ticket's layers have one of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from slth_compile.certificate.copies import exact_pair, ticket_pair
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.fixed_point.layers import exact_layers
from slth_compile.certificate.fixed_point.points import Exact
from slth_compile.domain import Domain
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.ticket.apply import effective_weights
from slth_compile.ticket.ticket import EffectiveLayer, Ticket

_TINY = 2.0**-1000
_FREE = {*n.PARAMETER_FIELDS, "inputs", "name", "kernel_error", "bias_error", "trained"}
_FIXED = ("slopes", "matrix")
"""Arrays of nodes without weights: nothing carries a difference between them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two networks of one graph.

    Attributes:
        graph: The first one, `f`, folded; a layer has a bias where either network's has.
        errors: `W_g - W_f` by node position, for inputs of both signs; a one-signed layer of a ticket only for inputs
            >= 0.
        other: Weights of the second one, `g`, as `graph.evaluate.evaluate` takes them, each the nearest float64.
        is_ticket: Whether `g` is a ticket, whose errors are taken as they are.
        exact: Both networks' layers with nothing rounded; None where a constant had to become a layer.
    """

    graph: Graph
    errors: Mapping[int, LayerErrors]
    other: Mapping[int, LayerWeights]
    is_ticket: bool
    exact: Exact | None

    @property
    def weights(self) -> dict[int, LayerWeights]:
        """Weights of the first network."""
        return target_weights(self.graph)

    def errors_on(self, domain: Domain) -> dict[int, LayerErrors]:
        """The errors as the engine takes them for a domain: of one sign where the layer's input is >= 0 by structure.

        Raises:
            InputError: A ticket that was compiled for inputs >= 0, and a domain that goes below zero.
        """
        signs = nonnegative_nodes(self.graph, domain.is_nonnegative())
        found = {}
        for i, errors in self.errors.items():
            nonnegative = signs[self.graph.nodes[i].inputs[0]]
            if not nonnegative and errors.negative_radius is None:
                raise InputError(
                    "the ticket was compiled for inputs >= 0 and this domain goes below zero; compile again with a "
                    "domain that does"
                )
            if nonnegative and not self.is_ticket:
                errors = dataclasses.replace(errors, negative_center=None, negative_radius=None)
            found[i] = errors
        return found


def pair_of(f: Graph, g: Graph) -> Pair:
    """The pair of two networks of one graph that differ in the values of their parameters.

    Batch norms are folded first, so a network and its folded form are of one graph. An affine map of constants that is
    not the same in both becomes a layer.

    Args:
        f: The first network, checked.
        g: The second one, checked.

    Raises:
        UnsupportedModelError: They are not of one graph; names the first node that differs.
    """
    unfolded = f, g
    f, g = fold(f), fold(g)
    moved = _require_one_structure(f, g)
    if moved:
        f, g = (fold(_as_layers(graph, moved)) for graph in (f, g))
    f, g = _with_biases(f, g), _with_biases(g, f)
    errors = {i: _layer_errors(f.nodes[i], g.nodes[i]) for i in f.layers}
    exact = None if moved else Exact(*map(exact_layers, unfolded))
    return Pair(f, errors, target_weights(g), is_ticket=False, exact=exact)


def pair_with_ticket(f: Graph, folded: Graph, ticket: Ticket, layers: tuple[EffectiveLayer, ...]) -> Pair:
    """The pair of a network and a ticket, whether or not it is the ticket of that network.

    Args:
        f: The network, checked.
        folded: The folded target that the ticket was compiled from.
        ticket: The ticket.
        layers: Its exact sums.

    Raises:
        UnsupportedModelError: They are not of one graph; names the first node that differs.
    """
    exact = exact_pair(f, folded, ticket, layers)
    f = fold(f)
    moved = _require_one_structure(f, folded)
    if moved:
        raise UnsupportedModelError(
            f"the networks differ at {_place(f, moved[0])}: an affine map with other constants in the first than in "
            "the ticket's target; expected the same"
        )
    f, errors = ticket_pair(_with_biases(f, folded), ticket, layers)
    for i, layer in zip(f.layers, layers, strict=True):
        node = f.nodes[i]
        assert isinstance(node, n.Weighted)
        if layer.bias is None and node.bias is not None:
            errors[i] = dataclasses.replace(errors[i], bias_center=-node.bias, bias_radius=node.bias_error)
    return Pair(f, errors, effective_weights(folded, ticket, layers), is_ticket=True, exact=exact)


def enclosed_difference(
    minuend: np.ndarray, minuend_error: np.ndarray | float, subtrahend: np.ndarray, subtrahend_error: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radius of the difference of two arrays, each known within an absolute error; rounded outward.

    Equal numbers without errors have radius zero.

    Returns:
        float64 `center, radius` with `|difference - center| <= radius`.
    """
    center = minuend - subtrahend
    error = np.broadcast_to(np.asarray(minuend_error) + subtrahend_error, center.shape)
    # The difference is rounded to nearest, within 2^-53 of the result; twice that also covers the sums below, and a
    # result of zero is exact. Errors were rounded up to three times on the way, which 2^-50 of them covers.
    radius = 2.0**-52 * np.abs(center) + error * (1 + 2.0**-50)
    return center, np.where((center == 0) & (error == 0), 0.0, radius + _TINY)


def _layer_errors(f: n.Node, g: n.Node) -> LayerErrors:
    assert isinstance(f, n.Weighted) and isinstance(g, n.Weighted)
    center, radius = enclosed_difference(
        g.kernel, g.kernel_error * np.abs(g.kernel), f.kernel, f.kernel_error * np.abs(f.kernel)
    )
    bias_center, bias_radius = None, None
    if f.bias is not None and g.bias is not None:
        absolute = [0.0 if node.bias_error is None else node.bias_error for node in (g, f)]
        bias_center, bias_radius = enclosed_difference(g.bias, absolute[0], f.bias, absolute[1])
    return LayerErrors(
        positive_center=center,
        positive_radius=radius,
        negative_center=center,
        negative_radius=radius,
        bias_center=bias_center,
        bias_radius=bias_radius,
    )


def _with_biases(graph: Graph, other: Graph) -> Graph:
    """The graph with a bias of zeros where only the other one's layer has a bias."""
    nodes = list(graph.nodes)
    for i in graph.layers:
        node, beside = nodes[i], other.nodes[i]
        assert isinstance(node, n.Weighted) and isinstance(beside, n.Weighted)
        if node.bias is None and beside.bias is not None:
            nodes[i] = dataclasses.replace(node, bias=np.zeros(node.kernel.shape[-1:]))
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _as_layers(graph: Graph, moved: tuple[int, ...]) -> Graph:
    """The graph with some affine maps marked as trained, which `fold` makes layers of."""
    nodes = [dataclasses.replace(node, trained=True) if i in moved else node for i, node in enumerate(graph.nodes)]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _require_one_structure(f: Graph, g: Graph) -> tuple[int, ...]:
    """Positions of affine maps that are not the same in both graphs, which are of one structure otherwise.

    Raises:
        UnsupportedModelError: They are not; names the first node that differs.
    """
    moved = []
    for i, (a, b) in enumerate(zip(f.nodes, g.nodes, strict=False)):
        found = _unlike(a, b)
        if found is not None:
            first, second = found
            raise UnsupportedModelError(
                f"the networks differ at {_place(f, i)}: {first} in the first, {second} in the second; expected two "
                "networks of one graph that differ in the values of their weights only"
            )
        if isinstance(a, n.Affine) and isinstance(b, n.Affine) and not _same_constants(a, b):
            moved.append(i)
    if len(f.nodes) != len(g.nodes):
        longer, which = (f, "first") if len(f.nodes) > len(g.nodes) else (g, "second")
        i = min(len(f.nodes), len(g.nodes))
        raise UnsupportedModelError(
            f"the networks differ at {_place(longer, i)}: {_operation(longer.nodes[i])} in the {which}, nothing in the "
            "other; expected two networks of one graph that differ in the values of their weights only"
        )
    names = [graph.output_names if len(graph.outputs) > 1 else () for graph in (f, g)]
    if f.outputs != g.outputs or names[0] != names[1]:
        raise UnsupportedModelError(
            f"the networks differ in their outputs: {_outputs(f)} in the first, {_outputs(g)} in the second"
        )
    return tuple(moved)


def _unlike(a: n.Node, b: n.Node) -> tuple[str, str] | None:
    """What is not the same about two nodes, in words; None where only values of parameters may differ."""
    if type(a) is not type(b):
        return _operation(a), _operation(b)
    if a.inputs != b.inputs:
        return f"{_operation(a)} of {_reads(a)}", f"{_operation(b)} of {_reads(b)}"
    for field in dataclasses.fields(a):
        values = getattr(a, field.name), getattr(b, field.name)
        if field.name == "kernel":
            values = values[0].shape, values[1].shape
        elif field.name in _FIXED:
            if not np.array_equal(*values):
                return f"{_operation(a)} with its {field.name}", f"{_operation(b)} with another {field.name}"
            continue
        elif field.name in _FREE:
            continue
        if values[0] != values[1]:
            word = "kernel of shape" if field.name == "kernel" else field.name
            first, second = (f"{_operation(a)} with {word} {value}" for value in values)
            return first, second
    return None


def _same_constants(a: n.Affine, b: n.Affine) -> bool:
    def same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
        return (one is None) == (two is None) and (one is None or two is None or np.array_equal(one, two))

    return same(a.scale, b.scale) and same(a.shift, b.shift)


def _operation(node: n.Node) -> str:
    return n.OPERATION_NAMES[type(node)].replace("_", " ")


def _reads(node: n.Node) -> str:
    return "node " + " and ".join(map(str, node.inputs))


def _place(graph: Graph, i: int) -> str:
    name = graph.nodes[i].name
    return f"node {i}" + (f" '{name}'" if name else "")


def _outputs(graph: Graph) -> str:
    return ", ".join(
        (f"'{name}' = " if name else "") + f"node {i}"
        for name, i in zip(graph.output_names, graph.outputs, strict=True)
    )
