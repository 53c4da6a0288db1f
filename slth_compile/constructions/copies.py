"""Channels that a ticket has several times: which they are, and the target with as many of them.

Behind a layer that is built `r` times, every channel is there `r` times, side by side: channel `c` of the target is
the channels `r c ... r c + r - 1`. What acts on channels one by one acts on each copy. A node that mixes channels
(softmax, layer norm, a transposed channel axis, an output of the network) takes single ones, and so does everything
that is added to it, multiplied with it or concatenated to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph
from slth_compile.source.layout import Layout

SINGLE = 0
"""The group of channels that are there once."""

_POINTWISE = (n.Relu, n.LeakyRelu, n.Prelu, n.Clip, n.Sigmoid, n.Tanh, n.HardSigmoid, n.HardSwish, n.Silu, n.Gelu)


def channel_groups(graph: Graph) -> tuple[int, ...]:
    """The group of channels that every node puts out; all nodes of a group have as many copies of each channel.

    Args:
        graph: The folded target.

    Returns:
        Group numbers by node position: `SINGLE` where channels are there once, else the position of the group's first
        node.
    """
    parent = list(range(len(graph.nodes)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)))
        parent[high] = low

    for i, node in enumerate(graph.nodes):
        if isinstance(node, n.Convolution | n.Dense):
            continue
        for j in node.inputs:
            join(i, j)
        if not _keeps_channels_apart(node, [graph.shapes[j] for j in node.inputs]):
            join(i, SINGLE)
    for i in graph.outputs:
        join(i, SINGLE)
    return tuple(root(i) for i in range(len(graph.nodes)))


def node_copies(graph: Graph, layout: Layout) -> tuple[int, ...]:
    """How many copies every node has of each of its channels, by node position."""
    built = {i: layer.copies for i, layer in zip(graph.layers, layout.layers, strict=True)}
    found: list[int] = []
    for i, node in enumerate(graph.nodes):
        found.append(built[i] if i in built else found[node.inputs[0]] if node.inputs else 1)
    return tuple(found)


def repeated(node: n.Weighted, copies: int) -> n.Weighted:
    """A weighted node with every output channel `copies` times."""
    if copies == 1:
        return node
    return dataclasses.replace(
        node,
        kernel=np.repeat(node.kernel, copies, -1),
        bias=None if node.bias is None else np.repeat(node.bias, copies),
        bias_error=None if node.bias_error is None else np.repeat(node.bias_error, copies),
    )


def widened(graph: Graph, layout: Layout, layers: Mapping[int, n.Weighted]) -> Graph:
    """The graph with every channel as often as the ticket has it.

    Args:
        graph: The folded target.
        layout: Of the ticket; says how often layers are built.
        layers: The weighted nodes in place of the target's, by position.
    """
    copies = node_copies(graph, layout)
    nodes = [layers[i] if i in layers else _widened(node, copies[i]) for i, node in enumerate(graph.nodes)]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _widened(node: n.Node, copies: int) -> n.Node:
    """The node on channels that are there `copies` times."""
    if copies == 1:
        return node
    match node:
        case n.Prelu():
            return dataclasses.replace(node, slopes=_each(node.slopes, copies))
        case n.Affine():
            return dataclasses.replace(node, scale=_each(node.scale, copies), shift=_each(node.shift, copies))
        case n.Slice():
            start, limit = (*node.start[:-1], node.start[-1] * copies), (*node.limit[:-1], node.limit[-1] * copies)
            return dataclasses.replace(node, start=start, limit=limit)
        case n.Pad():
            low, high = node.padding[-1]
            return dataclasses.replace(node, padding=(*node.padding[:-1], (low * copies, high * copies)))
        case n.Reshape():
            return dataclasses.replace(node, shape=(*node.shape[:-1], node.shape[-1] * copies))
        case _:
            return node


def _each(array: np.ndarray | None, copies: int) -> np.ndarray | None:
    return array if array is None or array.ndim == 0 else np.repeat(array, copies)


def _keeps_channels_apart(node: n.Node, inputs: Sequence[tuple[int, ...]]) -> bool:
    """Whether a node without weights may read and put out copies of channels: the last axis, copies innermost."""
    last = len(inputs[0]) - 1 if inputs else -1
    match node:
        case n.MaxPool() | n.AveragePool() | n.Add() | n.Concatenate():
            return True
        case n.Mean() | n.Maximum():
            return last not in node.axes
        case n.Multiply():
            return inputs[0][-1:] == inputs[1][-1:]
        case n.Slice():
            return last >= 0 and node.stride[-1] == 1
        case n.Pad():
            return last >= 0
        case n.Dilate():
            return last >= 0 and node.factors[-1] == 1
        case n.Resample():
            return node.axis != last
        case n.Reshape():
            return last >= 0 and len(node.shape) > 0
        case n.Transpose():
            return last >= 0 and node.permutation[-1] == last
        case n.Affine():
            return last >= 0
        case _:
            return isinstance(node, _POINTWISE)
