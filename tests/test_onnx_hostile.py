"""ONNX files that lie: one line of error each, no more memory than the file deserves, nothing outside its folder."""

import os
import sys
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import Case, draw, node, save

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.onnx import import_onnx, reader
from slth_compile.graph.check import check

MEBIBYTE = 2**20


def model(*nodes, **fields):
    nodes = nodes or (node("Conv", "a w"),)
    fields.setdefault("tensors", {"w": draw(4, 3, 2, 2)})
    return Case("hostile", nodes, **fields).proto()


def tensor(proto, name="w"):
    return next(found for found in proto.graph.initializer if found.name == name)


def refused(source, match=None, error=InputError, at_most=64 * MEBIBYTE):
    """The one line an import ends with, in bounded memory."""
    tracemalloc.start()
    try:
        with pytest.raises((InputError, UnsupportedModelError), match=match) as found:
            check(import_onnx(source))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found.value, error)
    assert peak < at_most
    assert len(str(found.value)) < 2000
    if error is InputError:
        assert "\n" not in str(found.value)
    return found.value


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "missing.onnx", "no such file")
    refused(tmp_path, "no regular file")
    for name, data in {"empty": b"", "text": b"weights: 3\n", "zip": b"PK\3\4" + bytes(40), "ff": b"\xff" * 99}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "no ONNX file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "no regular file")


def test_every_truncation(tmp_path):
    data = model(shape=(1, 2, 2), tensors={"w": draw(1, 1, 1, 1)}).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises((InputError, UnsupportedModelError)):
            check(import_onnx(path))


def test_flipped_bytes(tmp_path):
    data = np.frombuffer(model(shape=(1, 2, 2), tensors={"w": draw(1, 1, 1, 1)}).SerializeToString(), np.uint8)
    rng, path = np.random.default_rng(0), tmp_path / "flipped.onnx"
    refusals = 0
    for _ in range(400):
        changed = data.copy()
        changed[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(changed.tobytes())
        try:
            check(import_onnx(path))
        except (InputError, UnsupportedModelError):
            refusals += 1
    assert refusals > 100


def test_messages_that_unfold(tmp_path, monkeypatch):
    """Two bytes on the wire, a hundred in memory: a node without content, many times."""
    monkeypatch.setattr(reader, "MAX_FIELDS", 10_000)
    graph = b"\x0a\x00" * 10_000_000
    length, size = len(graph), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    path = tmp_path / "nodes.onnx"
    path.write_bytes(b"\x3a" + size + bytes([length]) + graph)
    refused(path, "more than 10000 nodes")


def test_nesting(tmp_path):
    inner = helper.make_graph([], "g", [], [])
    for _ in range(30):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "g", [], [])
    path = tmp_path / "deep.onnx"
    path.write_bytes(onnx.ModelProto(graph=inner, opset_import=[helper.make_opsetid("", 17)]).SerializeToString())
    refused(path, "nested more than 50 deep")


@pytest.mark.parametrize("dims", [[4, 3, 2, 3], [2**40, 2**40], [-1, 3, 2, 2], [2**62] * 8, [1] * 40, [0]])
def test_dimensions_that_the_data_does_not_have(dims):
    proto = model()
    del tensor(proto).dims[:]
    tensor(proto).dims.extend(dims)
    refused(proto, "the_y|tensor 'w'")


def test_types_that_are_no_weights():
    for kind, match in ((TensorProto.INT32, "int32"), (TensorProto.STRING, "STRING"), (99, "type 99")):
        proto = model()
        tensor(proto).data_type = kind
        refused(proto, match)
    proto = model()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    refused(proto, "no tensor of floats", UnsupportedModelError)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(value):
    weights = draw(4, 3, 2, 2)
    weights[1, 1, 0, 0] = value
    refused(model(tensors={"w": weights}), "NaN or infinity in the model's weights")
    refused(model(node("Add", "w w", "v"), node("Conv", "a v"), tensors={"w": weights}), "NaN or infinity")


def test_wiring():
    loop = (node("Relu", "b", "c"), node("Relu", "c", "b"), node("Conv", "a w", "z"), node("Add", "z b"))
    refused(model(*loop), "cyclic")
    refused(model(node("Relu", "y")), "cyclic")
    refused(model(node("Conv", "a w", "y"), node("Relu", "a", "y")), "'y' is defined twice")
    refused(model(node("Conv", "a w", "w")), "'w' is defined twice")
    refused(model(node("Conv", "a nowhere")), "'nowhere' is read")
    twice = model()
    twice.graph.initializer.append(tensor(twice))
    refused(twice, "two tensors are named 'w'")
    none = model()
    del none.graph.output[:]
    refused(none, "outputs are named nothing")
    refused(model(node("Conv", "a w x x x")), "the bias", UnsupportedModelError)


BOMBS = {
    "ConstantOfShape": (node("ConstantOfShape", "big", "c"), node("Add", "a c")),
    "Expand": (node("Expand", "w big", "c"), node("Add", "a c")),
    "Range": (node("Range", "zero end one", "c"), node("Add", "a c")),
    "Tile": (node("Tile", "w big", "c"), node("Add", "a c")),
    "Pad": (node("Pad", "w pads", "c"), node("Add", "a c")),
    "Add": (node("Add", "row column", "c"), node("Add", "a c")),
    "Gather": (node("Gather", "row many", "c", axis=1), node("Add", "a c")),
    "padded input": (node("Pad", "a pads", "c"), node("Relu", "c")),
    "padded convolution": (node("Conv", "a w", pads=[2**40] * 4),),
    "unsqueezed": (node("Unsqueeze", "a axes"),),
    "doubled": (*(node("Concat", f"v{i} v{i}", f"v{i + 1}", axis=0) for i in range(40)), node("Add", "a v40")),
    "split": (node("Slice", "a huge huger", "s"), node("Relu", "s")),
    "stride": (node("Conv", "a w", strides=[0, 1]),),
    "dilation": (node("Conv", "a w", dilations=[2**50, 1]),),
    "window": (node("MaxPool", "a", kernel_shape=[2**50, 1]),),
    "groups": (node("Conv", "a w", group=2**50),),
    "no groups": (node("Conv", "a w", group=0),),
    "axis": (node("Concat", "a a", axis=2**50),),
    "float for integer": (node("Conv", "a w", strides=[1.5, 1.5]),),
    "text for integer": (node("Flatten", "a", axis="one"),),
    "whole division": (node("Div", "zero_int zero_int", "s"), node("Reshape", "a s")),
    "strange shape": (node("Reshape", "a w"),),
    "nothing read": (node("Conv", "- -"),),
    "subnormal": (node("Clip", "a - tiny"),),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_ask_for_much(name):
    tensors = {
        "w": draw(4, 3, 2, 2), "big": np.array([2**20] * 4), "zero": np.float32(0), "one": np.float32(1),
        "end": np.float32(1e30), "pads": np.array([0, 0, 2**40, 0] * 2), "row": draw(1, 60000),
        "column": draw(60000, 1), "many": np.zeros(10**6, np.int64),
        "axes": np.arange(40), "v0": draw(3, 6, 7), "huge": np.array([2**62]),
        "huger": np.array([2**63 - 1]), "zero_int": np.array([0]), "tiny": np.float64(1e-320),
    }  # fmt: skip
    refused(model(*BOMBS[name], tensors=tensors), error=(InputError, UnsupportedModelError), at_most=700 * MEBIBYTE)


def external(folder, location, **fields):
    """A model whose weights are said to lie at `location`."""
    proto = model()
    found = tensor(proto)
    found.ClearField("raw_data")
    found.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        found.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    return save(proto, folder)


def test_external_data_stays_in_the_folder(tmp_path):
    weights = draw(4, 3, 2, 2)
    (tmp_path / "secret.bin").write_bytes(weights.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(8) + weights.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "out").symlink_to(tmp_path)
    graph = import_onnx(external(folder, "weights.bin", offset=8, length=weights.nbytes))
    assert np.array_equal(graph.nodes[2].kernel, weights.transpose(2, 3, 1, 0))
    outside = [str(tmp_path / "secret.bin"), "link.bin", "out/secret.bin", "a/../../secret.bin", "../secret.bin"]
    outside += ["", ".", "..\\secret.bin", "C:\\secret.bin", "a\0b"]
    for location in outside:
        refused(external(folder, location), "expected a file in the model's own folder")
    refused(external(folder, "weights.bin", offset=16), "which has 200")
    refused(external(folder, "weights.bin", offset=-8), "which has 200")
    refused(external(folder, "weights.bin", offset="x"), "no number")
    refused(external(folder, "weights.bin", length=2**50), "expected 192")
    refused(external(folder, "missing.bin"), "cannot be read")
    refused(onnx.load(external(folder, "weights.bin"), load_external_data=False), "give the path of the model")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'slth-compile\[onnx\]'"):
        import_onnx("model.onnx")
