"""A ticket as an ONNX model: float32, a symbolic batch, channels first inside."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.errors import ExportError, InputError
from slth_compile.export import onnx_layers
from slth_compile.export.network import Function, Network
from slth_compile.export.onnx_builder import IR_VERSION, OPSET, Builder, Value, channels_first, channels_last
from slth_compile.export.onnx_nodes import unweighted
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.nodes import Weighted

BATCH, INPUT = "batch", "x"
_MISSING = "{}: the package 'onnx' is missing; install slth-compile[onnx]"


def require_onnx(path: pathlib.Path) -> None:
    """Returns where the package `onnx` can be imported.

    Raises:
        InputError: It cannot.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise InputError(_MISSING.format(path)) from None


def onnx_model(network: Network, nchw: bool = False) -> bytes:
    """The network as a serialised ONNX model of opset 17.

    A layer of two signs is two convolutions, on max(x, 0) and min(x, 0), and their sum; in the literal network every
    layer is two convolutions with a relu between them, and the bias is computed from the constants `u` and `v`.

    Args:
        network: What is exported.
        nchw: Whether input and outputs have channels first; the target's order, channels last, otherwise.

    Raises:
        InputError: More weights than an ONNX file can hold.
        UnsupportedModelError: A node that has no operators here.
    """
    from onnx import TensorProto, checker, helper

    graph, build = network.graph, Builder()
    order_of = channels_first if nchw else channels_last
    values = [Value(build.name(INPUT), order_of(len(graph.input_shape)))]
    nonnegative = nonnegative_nodes(graph, False)
    arrays = None if network.literal is None else network.literal.variables["params"]
    for position, node in enumerate(graph.nodes[1:], start=1):
        build.enter(node.name or f"node{position}")
        operands = [values[i] for i in node.inputs]
        shape = graph.shapes[node.inputs[0]]
        if not isinstance(node, Weighted):
            values.append(unweighted(build, graph, position, operands))
        elif arrays is not None:
            layer = arrays[f"layer{graph.layers.index(position)}"]
            values.append(onnx_layers.literal(build, node, operands[0], shape, layer))
        else:
            weights = network.weights[position]
            clip = weights.clip and not nonnegative[node.inputs[0]]
            values.append(onnx_layers.effective(build, node, operands[0], shape, weights, clip))
    build.enter("")
    outputs = []
    for name, position in zip(_output_names(network), graph.outputs, strict=True):
        shape, order = graph.shapes[position], order_of(len(graph.shapes[position]))
        name = build.name(name)
        build.nodes.append(helper.make_node("Identity", [build.ordered(values[position], order)], [name], name=name))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, _sizes(shape, order)))
    x = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, _sizes(graph.input_shape, values[0].order))
    model = helper.make_model(
        helper.make_graph(build.nodes, network.kind, [x], outputs, build.initialisers),
        producer_name="slth_compile",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, dict(network.properties))
    try:
        content = model.SerializeToString()
    except Exception as error:  # the upb and C++ runtimes of protobuf have a class of their own for this
        raise InputError(f"the model is larger than an ONNX file can be, 2 GiB ({error})") from error
    checker.check_model(content, full_check=True)
    return content


def load_onnx(path: pathlib.Path, nchw: bool = False) -> tuple[Function, str]:
    """The function in an ONNX file, of inputs and outputs with channels last, and what runs it.

    onnxruntime runs it where it is installed, the reference implementation of the package `onnx` otherwise.
    """
    run, runtime = _session(path)

    def function(x: np.ndarray) -> list[np.ndarray]:
        if not nchw:
            return run(x)
        outputs = run(np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x)
        return [np.moveaxis(leaf, 1, -1) if leaf.ndim > 2 else leaf for leaf in outputs]

    return function, runtime


def _session(path: pathlib.Path) -> tuple[Any, str]:
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(os.fspath(path))
        return lambda x: evaluator.run(None, {INPUT: x}), f"onnx.reference {onnx.__version__}"
    runtime, options = f"onnxruntime {onnxruntime.__version__}", onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no base of their own
        reason = next(iter(str(error).splitlines()), "no message")
        raise ExportError(f"{runtime} cannot load what was written ({reason}); nothing was kept") from error
    return lambda x: session.run(None, {INPUT: x}), runtime


def _sizes(shape: tuple[int, ...], order: tuple[int, ...]) -> list[str | int]:
    return [BATCH, *(shape[axis] for axis in order)]


def _output_names(network: Network) -> Sequence[str]:
    """The names of the model's output leaves; one alone is `y`."""
    names = network.graph.output_names
    if len(names) == 1:
        return (names[0] or "y",)
    return tuple(name or f"y{i}" for i, name in enumerate(names))
