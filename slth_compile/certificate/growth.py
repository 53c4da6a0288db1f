"""How much a network's depth makes of rounding: what interval arithmetic ends with for one unit in every sum."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np

from slth_compile.certificate import enclosure as e
from slth_compile.certificate.propagate import rearranged, window_of
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph


def growth(graph: Graph, kernels: Mapping[int, np.ndarray]) -> float:
    """About `log2` of the largest output radius, were every term of every layer off by one unit; an estimate.

    Activations count as maps of slope one, gates as products with numbers of size two.

    Args:
        graph: The folded network.
        kernels: Of its weighted layers, by node position.
    """
    radii: list[np.ndarray] = [np.ones((*graph.input_shape, 1))]
    for i, node in enumerate(graph.nodes[1:], 1):
        operands = [radii[j] for j in node.inputs]
        match node:
            case n.Convolution() | n.Dense():
                window = window_of(node)
                kernel = e.arranged(np.abs(kernels[i]), window)
                moved = e.contract([(np.moveaxis(operands[0], -2, 0), kernel)], window)
                radii.append(np.moveaxis(moved, 0, -2) + 2 * math.prod(node.kernel.shape[:-1]))
            case n.Multiply():
                radii.append(2 * (operands[0] + operands[1]) + 1)
            case n.MaxPool() | n.AveragePool():
                radii.append(functools.reduce(np.maximum, e.slices(operands[0], window_of(node))) + 1)
            case n.Mean() | n.Maximum():
                radii.append(operands[0].max(node.axes) + 1)
            case n.Add():
                radii.append(operands[0] + operands[1])
            case n.Concatenate():
                radii.append(np.concatenate(operands, node.axis))
            case n.Slice() | n.Pad() | n.Dilate() | n.Reshape() | n.Transpose():
                radii.append(rearranged(node, operands[0]))
            case _:
                radii.append(np.full((*graph.shapes[i], 1), operands[0].max() + 1))
    return math.log2(max(float(radii[i].max()) for i in graph.outputs))
