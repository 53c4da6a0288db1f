"""What every graph must satisfy before anything is done with it."""

from __future__ import annotations

import math

import numpy as np

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

SMALLEST_CONSTANT = 2.0**-1022
"""Least magnitude of a static number that is not zero."""

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check(graph: Graph) -> Graph:
    """The same graph, found valid.

    Raises:
        UnsupportedModelError: Shapes that do not fit, outputs without names, no weighted layer, a log-softmax that is
            not an output, a leaky relu outside [0, 1], a clip from a larger to a smaller number, nodes nothing reads:
            all in one message.
        InputError: A parameter that holds NaN or infinity, or a batch norm whose variance + epsilon is not positive.
    """
    problems = _structure(graph)
    if problems:
        raise UnsupportedModelError("unsupported model:\n  " + "\n  ".join(problems))
    _values(graph)
    return graph


def nonnegative_nodes(graph: Graph, input_nonnegative: bool) -> tuple[bool, ...]:
    """Which nodes are structurally >= 0, for every real input of the declared sign, for target and ticket alike.

    Args:
        graph: A folded graph.
        input_nonnegative: Whether every declared domain lies in x >= 0.

    Returns:
        One flag a node. A layer is one-signed where the flag of its input is set.
    """
    flags: list[bool] = []
    for node in graph.nodes:
        inputs = all(flags[i] for i in node.inputs)
        match node:
            case n.Input():
                flags.append(input_nonnegative)
            case n.Relu() | n.Softmax() | n.Sigmoid() | n.HardSigmoid():
                flags.append(True)
            case n.Clip():
                keeps = inputs and (node.high is None or node.high >= 0)
                flags.append(keeps or (node.low is not None and node.low >= 0))
            case n.Prelu():
                flags.append(inputs or bool(np.all(node.slopes <= 0)))
            case n.LayerNorm():
                flags.append(inputs and not node.centred)
            case n.Convolution() | n.Dense() | n.BatchNorm() | n.LogSoftmax():
                flags.append(False)
            case n.Affine():
                arrays = [a for a in (node.scale, node.shift) if a is not None]
                flags.append(inputs and all(bool(np.all(a >= 0)) for a in arrays))
            case n.Resample():
                flags.append(inputs and bool(np.all(node.matrix >= 0)))
            case _:
                flags.append(inputs)
    return tuple(flags)


def _structure(graph: Graph) -> list[str]:
    problems: list[str] = []
    if not graph.nodes or not isinstance(graph.nodes[0], n.Input):
        return ["the first node is not the input"]
    for i, node in enumerate(graph.nodes):
        if any(not 0 <= j < i for j in node.inputs) or (i > 0 and (not node.inputs or isinstance(node, n.Input))):
            return [f"node {i} '{node.name}' does not read earlier nodes only"]
    if len(graph.output_names) != len(graph.outputs):
        return [f"{len(graph.outputs)} outputs and {len(graph.output_names)} names of outputs; each needs one"]
    try:
        shapes = graph.shapes
    except ValueError as error:
        return [str(error)]
    if not graph.layers:
        problems.append("no weighted layer: nothing to compile")
    for i, node in enumerate(graph.nodes):
        if isinstance(node, n.Softmax | n.LogSoftmax):
            if isinstance(node, n.LogSoftmax) and graph.consumers[i] != graph.outputs.count(i):
                problems.append(f"'{node.name}' ({type(node).__name__}): supported at an output only")
            if not 0 <= node.axis < len(shapes[i]):
                problems.append(f"'{node.name}' ({type(node).__name__}): axis {node.axis} of shape {shapes[i]}")
        if isinstance(node, n.LeakyRelu) and not 0 <= node.slope <= 1:
            problems.append(f"'{node.name}' (leaky relu): slope {node.slope}; expected 0 <= slope <= 1")
        problems += _constants(node)
        if isinstance(node, n.BatchNorm | n.Affine) and not shapes[i]:
            problems.append(f"'{node.name}' ({type(node).__name__}): reads single numbers; expected a channel axis")
        if graph.consumers[i] == 0:
            problems.append(f"'{node.name}' ({type(node).__name__}): nothing reads it and it is no output")
        if any(size == 0 for size in shapes[i]):
            problems.append(f"'{node.name}' ({type(node).__name__}): empty shape {shapes[i]}")
    return problems


def _constants(node: n.Node) -> list[str]:
    """What is wrong with the numbers of a node without weights; subnormal ones would be read as zero by devices."""

    def plain(*numbers: float) -> bool:
        return all(math.isfinite(v) and (v == 0 or abs(v) >= SMALLEST_CONSTANT) for v in numbers)

    if isinstance(node, n.Clip):
        ends = [v for v in (node.low, node.high) if v is not None]
        if not ends or not plain(*ends) or ends[0] > ends[-1]:
            return [f"'{node.name}' (clip): {node.low} to {node.high}; expected finite numbers low <= high, or one"]
    if isinstance(node, n.HardSigmoid) and not plain(node.slope, node.offset):
        return [f"'{node.name}' (hard sigmoid): slope {node.slope}, offset {node.offset}; expected finite numbers"]
    if isinstance(node, n.Resample):
        size = np.abs(np.asarray(node.matrix, np.float64))
        if np.any((size > 0) & (size < SMALLEST_CONSTANT)):
            return [f"'{node.name}' (resample): a matrix with entries below 2^-1022; expected zeros in their place"]
    if isinstance(node, n.LayerNorm) and not (node.epsilon > 0 and plain(node.epsilon)):
        return [f"'{node.name}' (layer norm): epsilon {node.epsilon}; expected a positive finite number"]
    return []


def _values(graph: Graph) -> None:
    for node in graph.nodes:
        for field, array in n.parameters(node).items():
            if array.dtype.name not in _DTYPES:
                raise InputError(f"'{node.name}' {field}: found {array.dtype}, expected one of {', '.join(_DTYPES)}")
    bad = [
        f"'{node.name}' {field} ({np.count_nonzero(~np.isfinite(array.astype(np.float64)))} of {array.size})"
        for node in graph.nodes
        for field, array in n.parameters(node).items()
        if not np.all(np.isfinite(array))
    ]
    if bad:
        raise InputError(f"NaN or infinity in the model's weights: {', '.join(bad)}; retrain or repair the checkpoint")
    for node in graph.nodes:
        if isinstance(node, n.BatchNorm) and np.any(np.asarray(node.variance, np.float64) + node.epsilon <= 0):
            raise InputError(f"'{node.name}' (batch norm): variance + epsilon is not positive")
