"""What is no target node: listed all at once; inputs and shapes that do not fit; ONNX files on the command line."""

import json
import pathlib

import numpy as np
import onnxruntime
import pytest
from onnx_models import Case, draw, node, save

import slth_compile as slth
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.model import import_model
from slth_compile.frontends.onnx import import_onnx
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.graph import target_digest

MODELS = pathlib.Path("/work/shared/models")


def case(*nodes, **fields):
    return Case("case", nodes, **fields)


def test_everything_unsupported_is_listed_at_once():
    nodes = (
        node("LRN", "a", "l", size=3),
        node("Relu", "a", "r"),
        node("MaxPool", "r", "m", kernel_shape=[2, 2], dilations=[2, 2]),
        node("Resize", "a - p", "q", mode="cubic"),
        node("Einsum", "l", "e", equation="ijkl->ijkl"),
        node("Flatten", "e", "f"),
        node("Fancy", "q", "z", domain="com.example"),
        node("Div", "one a", "d"),
        node("TopK", "a", "unused"),
    )
    outputs = ("f", "m", "z", "d")
    tensors = {"p": np.float32([1, 1, 2, 2]), "one": np.float32(1)}
    with pytest.raises(UnsupportedModelError) as found:
        import_onnx(case(*nodes, outputs=outputs, tensors=tensors).proto())
    assert str(found.value).splitlines() == [
        "unsupported model:",
        "  LRN at 'the_l'",
        "  MaxPool at 'the_m': dilations=(2, 2); expected 1 everywhere",
        "  Resize at 'the_q': mode=cubic; expected nearest or linear",
        "  Einsum at 'the_e'",
        "  com.example.Fancy at 'the_z'",
        "  Div at 'the_d': a constant divided by an activation",
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            (node("Flatten", "a", "f"), node("Transpose", "f", "g", perm=[1, 0]), node("MatMul", "f g")),
            "different samples",
        ),
        ((node("LayerNormalization", "a v", "b z", axis=1), node("Relu", "z")), "its mean or deviation is read"),
        ((node("LayerNormalization", "a v", axis=0),), "over the batch axis"),
        ((node("Greater", "a s", "b"), node("Where", "b a x")), "Greater at 'the_b'"),
        ((node("Where", "t3 a inf"),), "a case with infinite numbers"),
        ((node("Conv", "a a"),), "the kernel depends on the input"),
        ((node("QuantizeLinear", "a s", "q"), node("DequantizeLinear", "q s")), "QuantizeLinear at 'the_q'"),
        ((node("BatchNormalization", "a v v v v", training_mode=1),), "training_mode=1"),
        ((node("Cast", "a", to=7),), "to=7; expected a float type"),
        ((node("ReduceMean", "a", axes=[0]),), "batch axis"),
        ((node("Transpose", "a", "b", perm=[1, 0, 2, 3]), node("Conv", "b k")), "along the batch axis"),
        ((node("Transpose", "a", "b", perm=[2, 0, 1, 3]), node("MaxPool", "b", kernel_shape=[2, 2])), "the batch axis"),
        ((node("Flatten", "a", "f"), node("MatMul", "k f")), "along the batch axis"),
        ((node("Erf", "a"),), "Erf .erf. at 'the_y'"),
        ((node("LogSoftmax", "a", "p", axis=1), node("Relu", "p")), "at an output only"),
        ((node("Transpose", "a", perm=[1, 0, 2, 3]),), "expected the batch axis first"),
        ((node("Reshape", "a t"),), "it mixes samples"),
        ((node("Slice", "a lo hi"),), "some samples of the batch"),
        ((node("Identity", "v"),), "its outputs depend on 0 inputs"),
    ],
)
def test_refusals(nodes, message):
    places = {"t": np.array([-1, 9]), "lo": np.array([1]), "hi": np.array([2])}
    places["k"] = draw(2, 3, 2, 2) if nodes[-1].op_type == "Conv" else draw(2, 7)
    tensors = {"s": np.float32(0.1), "inf": np.float32(-np.inf), "t3": draw(7) > 0, "v": draw(3, low=0.5), **places}
    proto = case(*nodes, tensors=tensors, opset=15).proto()
    with pytest.raises(UnsupportedModelError, match=message):
        check(import_onnx(proto))


@pytest.mark.parametrize("opset", [7, 23])
def test_opsets_outside_the_range(opset):
    with pytest.raises(InputError, match=f"opset {opset}; expected 8 to 22"):
        import_onnx(case(node("Relu"), opset=opset).proto())


def open_model():
    proto = case(node("GlobalAveragePool")).proto()
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "height", "width"
    return proto


def test_open_sizes_need_an_input_shape():
    with pytest.raises(InputError, match=r"one sample is \(\?, \?, 3\); pass .*--input-shape H,W,3"):
        import_onnx(open_model())
    assert import_onnx(open_model(), (9, 8, 3)).input_shape == (9, 8, 3)


@pytest.mark.parametrize("shape", [(3, 9, 8), (9, 8, 4), (9, 8)])
def test_input_shapes_that_do_not_fit(shape):
    order = r"channels first.*x\.transpose\(0, 2, 3, 1\)" if shape == (3, 9, 8) else r"expected \(\?, \?, 3\)$"
    with pytest.raises(InputError, match=order):
        import_onnx(open_model(), shape)


def test_data_with_channels_first():
    proto = case(node("Flatten", "a", "f"), node("MatMul", "f w"), tensors={"w": draw(126, 2)}).proto()
    for domain in (slth.Points(draw(4, 3, 6, 7)), [slth.Box(0, 1), slth.Points(draw(4, 3, 6, 7))]):
        with pytest.raises(InputError, match=r"channels first.*x\.transpose\(0, 2, 3, 1\)"):
            slth.dry_run(proto, 0.1, domain=domain)


def test_parameters_keep_their_bits():
    weights, bias = draw(4, 3, 2, 2).astype(np.float16), draw(4).astype(np.float16)
    proto = case(node("Conv", "a w b"), tensors={"w": weights, "b": bias}).proto()
    layer = import_onnx(proto).nodes[2]
    assert layer.kernel.dtype == layer.bias.dtype == np.float16
    assert np.array_equal(layer.kernel, weights.transpose(2, 3, 1, 0))


def test_scaled_products_are_exact():
    weights = draw(3, 4)
    tensors = {"w": weights}
    graph = import_onnx(case(node("Gemm", "a w", alpha=0.1), shape=(3,), tensors=tensors).proto())
    assert np.array_equal(graph.nodes[2].kernel, weights.astype(np.float64) * float(np.float32(0.1)))


def test_layers_are_named_after_their_kernels():
    proto = case(node("Conv", "a body.0.weight"), tensors={"body.0.weight": draw(4, 3, 2, 2)}).proto()
    assert [layer.name for layer in import_onnx(proto).nodes[1:]] == ["the_a", "body.0"]


def test_import_model_takes_paths_and_protos(tmp_path):
    proto = case(node("GlobalAveragePool")).proto()
    path = save(proto, tmp_path)
    digests = {target_digest(import_model(model)) for model in (proto, path, str(path))}
    assert len(digests) == 1
    with pytest.raises(InputError, match="batch_axis=None"):
        import_model(path, batch_axis=None)
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        import_model(tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two files of one network, the second one rounded."""
    folder = tmp_path_factory.mktemp("pair")
    weights = draw(18, 2, scale=0.3)
    nodes = (node("Relu", "a", "r"), node("Flatten", "r", "f"), node("MatMul", "f w"))
    for name, w in (("a", weights), ("b", weights.astype(np.float16).astype(np.float32))):
        save(case(*nodes, shape=(2, 3, 3), tensors={"w": w}).proto(), folder, f"{name}.onnx")
    return folder


def test_inspect_takes_onnx_files(pair, cli):
    assert json.loads(cli("inspect", pair / "a.onnx", "--json").out)["nodes"][0]["shape"] == [3, 3, 2]
    missing = cli("inspect", pair / "c.onnx")
    assert missing.code == 2 and "no such file" in missing.message


@pytest.mark.slow
def test_commands_take_onnx_files(pair, cli):
    first, second, out = pair / "a.onnx", pair / "b.onnx", pair / "out"
    compared = cli("certify", first, second, "--json", "--effort", "quick")
    assert compared.code == 0 and json.loads(compared.out)
    assert cli("compile", first, out, "--eps", "0.3", "-q").code == 0
    assert cli("verify", out, "--against", first).code == 0
    other = cli("verify", out, "--against", second)
    assert other.code == 3 and "the given model is" in other.err


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason="needs models trained by others")
@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_trained_models(path):
    shape = {"mtcnn_pnet": (12, 12, 3), "ppocr_cls": (48, 192, 3)}.get(path.stem)
    graph = check(import_onnx(path, shape))
    session = onnxruntime.InferenceSession(str(path))
    given = session.get_inputs()[0]
    x = np.random.default_rng(0).random((1, *graph.input_shape), np.float32)
    moved = x if path.stem == "mtcnn_pnet" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    for want, have in zip(session.run(None, {given.name: moved}), evaluate(graph, x), strict=True):
        assert np.abs(want - np.asarray(have)).max() <= 1e-5 * np.abs(want).max()
