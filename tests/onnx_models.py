"""Small ONNX models, built and run: a layer first, then whatever is to be tested."""

import dataclasses

import jax
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from slth_compile.frontends.onnx import import_onnx
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

onnxruntime.set_default_logger_severity(3)


def draw(*shape, scale=1.0, seed=0, low=None):
    rng = np.random.default_rng([seed, *shape])
    values = rng.normal(size=shape) * scale if low is None else rng.uniform(low, low + scale, shape)
    return np.asarray(values, np.float32)


def node(kind, reads="a", writes="y", **attributes):
    """A node; operands by name, `-` for one that is left out."""
    inputs = ["" if name == "-" else name for name in reads.split()]
    domain = attributes.pop("domain", "")
    return helper.make_node(kind, inputs, writes.split(), f"the_{writes.split()[0]}", domain=domain, **attributes)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer `x -> a`, then `nodes`, which read `x`, `a` and the `tensors` and write `outputs`.

    Attributes:
        shape: Shape of `x` without the batch.
        batch: Its batch size in the file, a number or a name.
        stem: Whether there is that layer; otherwise `nodes` read `x` alone.
        order: "file" where the graph keeps the order of axes; otherwise images are moved to channels last.
        initialisers: Whether the tensors are stored as initialisers or in Constant nodes.
    """

    name: str
    nodes: tuple
    shape: tuple = (3, 6, 7)
    tensors: dict = dataclasses.field(default_factory=dict)
    opset: int = 17
    outputs: tuple = ("y",)
    batch: object = "N"
    dtype: type = np.float32
    stem: bool = True
    order: str = ""
    initialisers: bool = True

    @property
    def channels_first(self):
        return len(self.shape) > 1 and self.order != "file"

    def proto(self):
        tensors = dict(self.tensors)
        nodes = list(self.nodes)
        if self.stem:
            channels = self.shape[0]
            if len(self.shape) == 1:
                tensors["stem"] = draw(channels, channels)
                nodes.insert(0, node("MatMul", "x stem", "a"))
            else:
                tensors["stem"] = draw(channels, channels, *(1,) * (len(self.shape) - 1))
                nodes.insert(0, node("Conv", "x stem", "a"))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        arrays = {
            name: value.astype(self.dtype) if value.dtype == np.float32 else value
            for name, value in ((name, np.asarray(value)) for name, value in tensors.items())
        }
        if not self.initialisers:
            made = {name: numpy_helper.from_array(value) for name, value in arrays.items()}
            nodes = [helper.make_node("Constant", [], [name], value=value) for name, value in made.items()] + nodes
            arrays = {}
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, [self.batch, *self.shape])],
            [helper.make_tensor_value_info(name, kind, None) for name in self.outputs],
            [numpy_helper.from_array(value, name) for name, value in arrays.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def inputs(self, count=2):
        return draw(count if self.batch == "N" else self.batch, *self.shape, seed=7).astype(self.dtype)


def run(proto, x):
    """What onnxruntime computes, one array an output."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def to_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def imported(cases) -> dict[str, tuple[Graph, list[list[np.ndarray]]] | Exception]:
    """Each case's graph and what it computes, folded or not; or what the importer raised.

    One program for all of them, barely optimised: compiling is what takes the time.
    """
    found, given = {}, {}
    for case in cases:
        try:
            found[case.name] = graph = check(import_onnx(case.proto()))
        except Exception as error:
            found[case.name] = error
            continue
        x = case.inputs().astype(np.float32)
        given[case.name] = to_last(x) if case.channels_first else x
        assert given[case.name].shape[1:] == graph.input_shape
    forms = {name: (graph, fold(graph)) for name, graph in found.items() if isinstance(graph, Graph)}

    def compute(inputs):
        return {name: [evaluate(form, x) for form in forms[name]] for name, x in inputs.items()}

    program = jax.jit(compute).lower(given).compile({"xla_backend_optimization_level": 0})
    for name, outputs in program(given).items():
        found[name] = (found[name], [[np.asarray(y) for y in form] for form in outputs])
    return found


def assert_same(case: Case, found) -> Graph:
    """The graph of a case, which computes what onnxruntime does."""
    if isinstance(found, Exception):
        raise found
    graph, forms = found
    x = case.inputs()
    expected = run(case.proto(), x)
    for outputs in forms:
        for want, have in zip(expected, outputs, strict=True):
            want = to_last(want) if case.channels_first and want.ndim == x.ndim else want
            # a model of a batch of one may have given its batch axis up
            want = want.reshape(have.shape) if case.batch == 1 and want.size == have.size else want
            assert have.shape == want.shape
            assert np.abs(have - want).max() <= 1e-5 * np.abs(want).max()
    return graph


def save(proto, folder, name="model.onnx"):
    path = folder / name
    onnx.save(proto, path)
    return path


__all__ = ["Case", "TensorProto", "assert_same", "draw", "helper", "imported", "node", "numpy_helper", "run", "save"]
