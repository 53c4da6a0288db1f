"""Tickets that have every channel several times (construction `burkholz`), each time with random weights of its own.

A layer that is built r times puts out channel c as the channels r c ... r c + r - 1. A direct layer is one random layer
on copies: a weight w keeps entries s_k of W, one for each kept copy k. Written `w = sum_k w_k` with

    w_k = s_k for all k but k*, the first copy with the largest |s_k|;    w_k* = w - sum of the others' s_k

the target is a network of the ticket's shape itself, exactly the same function, its copies equal. The ticket then has
the error `sum_k s_k - w` at k* and none elsewhere, and the pair is bounded as any other pair of networks.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.fold import Folded, Layer
from slth_compile.checker.graph import Graph, Node
from slth_compile.checker.manifest import LayerPlan
from slth_compile.checker.rational import Triple
from slth_compile.checker.shapes import MAX_ELEMENTS
from slth_compile.errors import VerificationError

MAX_KERNEL = 1 << 26
"""Most random weights of a direct layer."""

_POINTWISE = set("relu leaky_relu prelu clip sigmoid tanh hard_sigmoid hard_swish silu gelu".split())  # noqa: SIM905
_ANY_AXIS = {"max_pool", "average_pool", "add", "concatenate"}


def repeated(layer: Layer, plan: LayerPlan) -> Layer:
    """The layer with every output channel as often as it is built."""
    times = plan.copies
    if times == 1:
        return layer
    if times * layer.kernel.size * (plan.kernel.width if plan.direct else 1) > MAX_KERNEL:
        raise VerificationError("construction", f"a layer has more than the {MAX_KERNEL} random weights allowed")
    kernel = np.repeat(layer.kernel, times, -1)
    return dataclasses.replace(layer, kernel=kernel, scale=_each(layer.scale, times), bias=_each(layer.bias, times))


def widen(folded: Folded, plans: tuple[LayerPlan, ...]) -> Folded:
    """The folded target with every channel as often as the ticket has it; kernels are left as they are.

    Raises:
        VerificationError: A layer reads another number of copies than it is planned for, operands have different ones,
            an operation mixes channels that are there several times, or an output is.
    """
    planned = {layer.node: (i, plan) for i, (layer, plan) in enumerate(zip(folded.layers, plans, strict=True))}
    copies: list[int] = []
    nodes: list[Node] = []
    for position, node in enumerate(folded.graph.nodes):
        read = {copies[i] for i in node.inputs} or {1}
        if position in planned:
            index, plan = planned[position]
            wanted = plan.kernel.width if plan.direct else 1
            if read != {wanted}:
                found = f"layer {index} reads {sorted(read)[0]} copies of its channels, it is planned for {wanted}"
                raise VerificationError("construction", found)
            copies.append(plan.copies)
        elif len(read) > 1:
            raise VerificationError(
                "construction", f"node {position} reads channels that are there {sorted(read)} times"
            )
        else:
            copies.append(read.pop())
        nodes.append(node if copies[-1] == 1 else _widened(node, position, copies[-1], folded.graph))
    if several := [i for i in folded.graph.outputs if copies[i] != 1]:
        raise VerificationError(
            "construction", f"output node {several[0]} has {copies[several[0]]} copies, expected one"
        )
    return dataclasses.replace(folded, graph=Graph(tuple(nodes), folded.graph.outputs))


def split(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(k*, sum of the others)` for every weight.

    Args:
        entries: Kept entries, zero elsewhere, int64, shape `(N, P, C, S/groups)`.

    Returns:
        Both int64, shape `(P, C, S/groups)`.
    """
    chosen = np.argmax(np.abs(entries), axis=0)
    return chosen, entries.sum(0) - np.take_along_axis(entries, chosen[None], 0)[0]


def spread(entries: np.ndarray, exponent: int, chosen: np.ndarray, last: Interval, others_too: bool) -> Interval:
    """The weights of all copies, canonical shape `(P, C N, S/groups)`, copies of a channel side by side.

    Args:
        entries: As in `split`; `entries * 2^exponent` are exact.
        exponent: Of the layer, `gain - 23`.
        chosen: k* of every weight.
        last: What stands at k*.
        others_too: Whether the other copies have their entries; zeros otherwise.
    """
    ends = []
    for end in last:
        found = np.ldexp(entries.astype(np.float64), exponent) if others_too else np.zeros(entries.shape)
        np.put_along_axis(found, chosen[None], end[None], 0)
        taps, channels, outputs = chosen.shape
        ends.append(found.transpose(1, 2, 0, 3).reshape(taps, channels * len(entries), outputs))
    return Interval(*ends)


def _each(triple: Triple | None, times: int) -> Triple | None:
    return triple and Triple(*(np.repeat(part, times) for part in triple))


def _widened(node: Node, position: int, copies: int, graph: Graph) -> Node:
    """The node on channels that are there several times."""
    if not node.shape or math.prod(node.shape) * copies > MAX_ELEMENTS:
        raise VerificationError(
            "construction", f"node {position} has {copies} copies of {node.shape}, which are too many"
        )
    fields = dict(node.fields)
    if not _keeps_apart(node, [graph.nodes[i].shape for i in node.inputs]):
        raise VerificationError(
            "construction", f"node {position} ('{node.op}') mixes channels that are there {copies} times"
        )
    if node.op == "slice":
        fields["start"] = (*fields["start"][:-1], fields["start"][-1] * copies)
        fields["limit"] = (*fields["limit"][:-1], fields["limit"][-1] * copies)
    elif node.op == "pad":
        fields["padding"] = (*fields["padding"][:-1], tuple(n * copies for n in fields["padding"][-1]))
    elif node.op == "reshape":
        fields["shape"] = (*fields["shape"][:-1], fields["shape"][-1] * copies)
    arrays = node.arrays
    if node.op in ("prelu", "affine"):
        arrays = {key: np.repeat(array, copies) if array.ndim else array for key, array in arrays.items()}
    return dataclasses.replace(node, fields=fields, arrays=arrays, shape=(*node.shape[:-1], node.shape[-1] * copies))


def _keeps_apart(node: Node, shapes: list[tuple[int, ...]]) -> bool:
    """Whether the operation acts on the last axis entry by entry, or is a layer."""
    last, fields = len(shapes[0]) - 1 if shapes else -1, node.fields
    match node.op:
        case "convolution" | "dense":
            return True
        case "mean" | "maximum":
            return last not in fields["axes"]
        case "multiply":
            return shapes[0][-1] == shapes[1][-1]
        case "slice":
            return fields["stride"][-1] == 1
        case "dilate":
            return fields["factors"][-1] == 1
        case "resample":
            return fields["axis"] != last
        case "transpose":
            return fields["permutation"][-1] == last
        case "reshape" | "pad" | "affine":
            return True
        case _:
            return node.op in _ANY_AXIS or node.op in _POINTWISE
