"""Every ONNX operator and attribute, against onnxruntime."""

import math

import numpy as np
import pytest
from onnx_models import Case, assert_same, draw, imported, node

from slth_compile.graph import nodes as n

I64 = np.int64


def ints(*values):
    return np.array(values, I64)


def one(kind, *reads, **attributes):
    return (node(kind, " ".join(reads) or "a", **attributes),)


def after(kind, tensors=None, opset=17, shape=(3, 6, 7), name="", batch="N", reads=None, **attributes):
    """A case of one node that reads the layer and the tensors."""
    tensors = tensors or {}
    reads = reads or ["a", *tensors]
    label = "-".join([kind, name, str(opset)] if name else [kind, str(opset)])
    return Case(label, one(kind, *reads, **attributes), shape, tensors, opset, batch=batch)


LAYERS = [
    after("Conv", {"w": draw(4, 3, 3, 3), "b": draw(4)}),
    after("Conv", {"w": draw(4, 3, 3, 2)}, name="pads", pads=[1, 0, 2, 1], strides=[2, 1], opset=8),
    after("Conv", {"w": draw(4, 3, 2, 2)}, name="dilated", dilations=[2, 3], kernel_shape=[2, 2], opset=22),
    after("Conv", {"w": draw(6, 1, 3, 3)}, name="depthwise", group=3, auto_pad="SAME_UPPER", strides=[2, 2]),
    after("Conv", {"w": draw(4, 3, 2, 3)}, name="lower", auto_pad="SAME_LOWER", strides=[1, 2]),
    after("Conv", {"w": draw(4, 3, 2, 3)}, name="valid", auto_pad="VALID"),
    after("Conv", {"w": draw(2, 3, 3)}, name="1d", shape=(3, 8), pads=[1, 1]),
    after("Conv", {"w": draw(2, 3, 2, 2, 2)}, name="3d", shape=(3, 3, 4, 3)),
    after("Gemm", {"w": draw(5, 4), "c": draw(4)}, shape=(5,)),
    after(
        "Gemm", {"w": draw(4, 5), "c": draw(1, 4)}, shape=(5,), name="scaled", transB=1, alpha=0.7, beta=1.3, opset=8
    ),
    after("Gemm", {"w": draw(5, 4), "c": draw(1)}, shape=(5,), name="one", beta=0.5),
    after("Gemm", {"w": draw(5, 5)}, shape=(5,), name="sum", reads=["a", "w", "x"], alpha=2.0),
    after("MatMul", {"w": draw(5, 4)}, shape=(5,)),
    after("MatMul", {"w": draw(7, 4)}, name="image"),
    after("MatMul", {"w": draw(1, 1, 7, 4)}, name="ranked"),
    after("MatMul", {"w": draw(4, 6)}, name="left", reads=["w", "a"]),
    after("MatMul", {"w": draw(5)}, shape=(5,), name="vector"),
    after("MatMul", {"w": draw(6)}, name="left-vector", reads=["w", "a"]),
    *(
        after("BatchNormalization", {"s": draw(3), "b": draw(3), "m": draw(3), "v": draw(3, low=0.5)}, opset, **more)
        for opset, more in ((8, {"epsilon": 1e-3}), (9, {}), (14, {}), (15, {"shape": (3,), "name": "flat"}))
    ),
]

NORMS = [
    after("LayerNormalization", {"s": draw(7), "b": draw(7)}),
    after("LayerNormalization", {"s": draw(6, 7)}, name="two axes", axis=2, epsilon=0.1),
    after("LayerNormalization", {"s": draw(3, 6, 7), "b": draw(7)}, 22, name="three axes", axis=-3),
    after("LayerNormalization", {"s": np.ones(7, np.float32), "b": np.zeros(7, np.float32)}, name="plain"),
    after("LayerNormalization", {"s": draw(5), "b": draw(5)}, shape=(5,), name="features", axis=1),
    after("LayerNormalization", {"s": draw(1)}, shape=(3, 4, 1), name="of one"),
    after("InstanceNormalization", {"s": draw(3), "b": draw(3)}, 8, epsilon=1e-3),
    after("GroupNormalization", {"s": draw(4), "b": draw(4)}, 21, shape=(4, 3, 5), num_groups=2),
    after("GroupNormalization", {"s": draw(2), "b": draw(2)}, 18, shape=(4, 3, 5), num_groups=2),
]
PRODUCTS = [
    after("MatMul", name="of two", reads=["a", "x"], shape=(3, 6, 6)),
    Case("MatMul transposed", (node("Transpose", "a", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t"))),
    Case("MatMul broadcast", (node("ReduceMean", "a", "m", axes=[1]), node("MatMul", "m x")), (3, 6, 6)),
    Case("MatMul of columns", (node("ReduceMean", "a", "m", axes=[3]), node("MatMul", "x m")), (3, 6, 6)),
]  # fmt: skip

ACTIVATIONS = [
    after("Relu"), after("Sigmoid", opset=8), after("Tanh"), after("HardSwish"), after("LeakyRelu", opset=8),
    after("LeakyRelu", alpha=0.3, name="alpha"), after("LeakyRelu", alpha=1.7, name="steep"),
    after("LeakyRelu", alpha=0.0, name="zero"),
    after("PRelu", {"s": draw(3, 1, 1)}), after("PRelu", {"s": draw(1)}, name="one", opset=8),
    after("PRelu", {"s": draw(7)}, name="last"), after("PRelu", {"s": draw(3)}, name="flat", shape=(3,)),
    after("Clip", opset=8, min=-0.3, max=0.5), after("Clip", opset=8, name="low", min=0.0), after("Clip", name="none"),
    after("Clip", {"lo": np.float32(-0.2), "hi": np.float32(0.6)}),
    after("Clip", {"hi": np.float32(0.6)}, name="high", reads=["a", "-", "hi"]),
    after("Clip", {"lo": np.float32(0), "hi": np.float32(6)}, name="relu6"),
    after("HardSigmoid"), after("HardSigmoid", name="set", alpha=0.3, beta=0.4),
    after("Gelu", opset=20), after("Gelu", opset=20, name="tanh", approximate="tanh"),
    after("Softmax", shape=(5,)), after("Softmax", shape=(5,), opset=8), after("Softmax", name="channels", axis=1),
    after("Softmax", name="flattened", opset=11, axis=1, shape=(5, 1, 1)),
    after("Softmax", name="last", opset=12, axis=3),
    after("LogSoftmax", shape=(5,)), after("LogSoftmax", shape=(5,), opset=11, axis=-1, name="negative"),
]  # fmt: skip

WINDOWS = [
    after("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    after("MaxPool", name="pads", kernel_shape=[3, 2], pads=[1, 0, 2, 1], strides=[2, 1], opset=8),
    after("MaxPool", name="ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, opset=10),
    after("MaxPool", name="ceil-pads", kernel_shape=[2, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1, opset=22),
    after("MaxPool", name="same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    after("MaxPool", name="1d", kernel_shape=[3], shape=(3, 8)),
    after("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    after("AveragePool", name="pads", kernel_shape=[3, 3], pads=[1, 1, 1, 1], opset=8),
    after("AveragePool", name="counted", kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1, opset=19),
    after("AveragePool", name="ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, opset=19),
    after("AveragePool", name="same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    after("AveragePool", name="ceil-counted", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1,
          count_include_pad=1, opset=22),
    after("GlobalAveragePool"), after("GlobalMaxPool"), after("GlobalAveragePool", name="1d", shape=(3, 8)),
    after("ReduceMean", axes=[2, 3], keepdims=0), after("ReduceMean", name="kept", axes=[-1], opset=8),
    after("ReduceMean", {"axes": ints(1, 3)}, 18, name="operand", keepdims=0),
    after("ReduceMean", name="noop", opset=18, noop_with_empty_axes=1),
    after("ReduceMax", {"axes": ints(2, 3)}, 20), after("ReduceSum", {"axes": ints(-1)}, 13, keepdims=0),
    after("ReduceSum", axes=[1], opset=11),
]  # fmt: skip

ARITHMETIC = [
    *(after(kind, {"c": draw(3, 1, 1, low=0.5)}, name="channels") for kind in ("Add", "Sub", "Mul", "Div")),
    *(after(kind, {"c": np.float32(1.5)}, name="one") for kind in ("Add", "Sub", "Mul", "Div")),
    after("Sub", {"c": draw(1, 3, 1, 1)}, name="left", reads=["c", "a"]),
    after("Mul", {"c": draw(3, 6, 7)}, name="all"),
    after("Add", {"c": draw(7)}, name="last"), after("Add", reads=["a", "x"]), after("Sub", reads=["x", "a"]),
    after("Mul", reads=["x", "a"]), after("Sum", reads=["x", "a", "x"]), after("Neg"),
    after("Max", {"c": np.float32(0.2)}, 8), after("Min", {"c": np.float32(0.2)}), after("Pow", {"c": np.float32(2)}),
    Case("gate", (node("GlobalAveragePool", "a", "m"), node("Conv", "m w", "e"), node("Sigmoid", "e", "s"),
                  node("Mul", "s a")), tensors={"w": draw(3, 3, 1, 1)}),
    Case("rank", (node("GlobalAveragePool", "a", "m"), node("Squeeze", "m ax", "q"), node("Unsqueeze", "q ax", "u"),
                  node("Mul", "a u")), tensors={"ax": ints(2, 3)}),
    Case("relaid", (node("Transpose", "a", "t", perm=[0, 2, 3, 1]), node("MatMul", "t w", "d"),
                    node("Transpose", "d", "u", perm=[0, 3, 1, 2]), node("Add", "u a")), tensors={"w": draw(3, 3)}),
]  # fmt: skip

SHAPING = [
    after("Flatten"), after("Flatten", name="axis", axis=2, batch=1),
    after("Flatten", name="negative", axis=-3, opset=13),
    after("Reshape", {"s": ints(0, -1)}), after("Reshape", {"s": ints(-1, 3, 42)}, name="split"),
    after("Reshape", {"s": ints(1, -1)}, name="static", batch=1),
    after("Reshape", {"s": ints(-1)}, name="flat", batch=1),
    after("Reshape", {"s": ints(0, 0, 2, 3, 7)}, name="deep", opset=14, allowzero=0),
    Case("Dense after Reshape", (node("Reshape", "a s", "r"), node("Gemm", "r w c")),
         tensors={"s": ints(0, 126), "w": draw(126, 4), "c": draw(4)}),
    after("Transpose", perm=[0, 2, 3, 1]), after("Transpose", name="swap", perm=[0, 1, 3, 2]),
    after("Squeeze", shape=(3, 1, 7), axes=[2], opset=8), after("Squeeze", {"ax": ints(-2)}, shape=(3, 1, 7)),
    after("Squeeze", shape=(3, 1, 1), name="all"), after("Unsqueeze", axes=[1, -1], opset=11),
    after("Unsqueeze", {"ax": ints(2)}),
    after("Slice", opset=8, starts=[1, 0], ends=[9999, -2], axes=[2, 3]),
    after("Slice", opset=9, starts=[0, 1], ends=[2**40, 3]),
    after("Slice", {"s": ints(-4, 0), "e": ints(-1, 7), "x2": ints(-1, 2), "t": ints(1, 2)}),
    after("Slice", {"s": ints(0, 1), "e": ints(2**63 - 1, 2)}, name="channels"),
    after("Pad", opset=8, pads=[0, 1, 0, 2, 0, 0, 3, 0]), after("Pad", {"p": ints(0, 0, 1, 1, 0, 0, 2, 0)}, 13),
    after("Pad", {"p": ints(1, -1), "v": np.float32(0), "ax": ints(2)}, 18, name="axes"),
    after("Concat", axis=1, reads=["a", "x"]), after("Concat", axis=-1, reads=["x", "a", "x"], name="three"),
    after("Concat", {"z": np.zeros((2, 2, 6, 7), np.float32)}, axis=1, name="zeros", batch=2),
    Case("Split", (node("Split", "a p", "b c", axis=1), node("Concat", "c b", axis=1)), tensors={"p": ints(1, 2)}),
    Case("Split-8", (node("Split", "a", "b c d", axis=1), node("Concat", "c b d", axis=1)), opset=8),
    after("Identity"), after("Dropout", opset=8), after("Dropout", opset=13), after("Cast", to=1),
    after("Gather", {"i": np.array(1, I64)}, axis=2), after("Gather", {"i": ints(0, 2, 4)}, axis=3, name="list"),
    after("Expand", {"s": ints(1, 3, 6, 7)}),
]  # fmt: skip


def resized(name, scales=None, sizes=None, opset=13, shape=(3, 4, 5), **attributes):
    tensors = {"s": np.float32((1, 1, *scales))} if scales else {"t": ints(2, shape[0], *sizes)}
    reads = ["a", "-", "s"] if scales else ["a", "-", "-", "t"]
    return after("Resize", tensors, opset, shape, name, batch="N" if scales else 2, reads=reads, **attributes)


LINEAR_MAPS = [
    after("ConvTranspose", {"w": draw(3, 2, 3, 2), "b": draw(2)}, shape=(3, 4, 3)),
    after("ConvTranspose", {"w": draw(3, 2, 3, 2)}, opset=8, name="strides", strides=[2, 3], pads=[1, 0, 1, 1]),
    after("ConvTranspose", {"w": draw(4, 3, 3, 2)}, shape=(4, 4, 3), name="groups", group=2, strides=[2, 2], opset=22,
          output_padding=[1, 0], dilations=[1, 2], pads=[0, 1, 1, 0]),
    after("ConvTranspose", {"w": draw(4, 1, 2, 2)}, shape=(4, 3, 3), name="depthwise", group=4, strides=[2, 2]),
    after("ConvTranspose", {"w": draw(3, 2, 3, 3)}, name="same", auto_pad="SAME_UPPER", strides=[2, 2]),
    after("ConvTranspose", {"w": draw(3, 2, 3, 3)}, name="lower", auto_pad="SAME_LOWER", strides=[2, 2]),
    after("ConvTranspose", {"w": draw(3, 2, 4, 3)}, name="shape", output_shape=[12, 14], strides=[2, 2]),
    after("ConvTranspose", {"w": draw(3, 2, 2, 2)}, name="cut", pads=[2, 1, 1, 2], kernel_shape=[2, 2]),
    after("ConvTranspose", {"w": draw(3, 2, 3)}, shape=(3, 5), name="1d", strides=[2]),
    resized("twice", (2, 2)), resized("shrunk", (0.6, 0.7)), resized("sizes", sizes=(7, 3)), resized("noop", (1, 1)),
    *(resized(mode, (1.7, 2.5), nearest_mode=mode, coordinate_transformation_mode="asymmetric")
      for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    *(resized(f"linear {kind}", (2.3, 0.6), opset=19, mode="linear", coordinate_transformation_mode=kind)
      for kind in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")),
    after("Resize", {"r": np.zeros(0, np.float32), "s": np.float32((1, 1, 2, 3))}, 11, name="tf",
          coordinate_transformation_mode="tf_half_pixel_for_nn"),
    resized("linear sizes", sizes=(8, 9), mode="linear"),
    after("Resize", {"s": np.float32((1, 1, 2, 3))}, 10), after("Upsample", {"s": np.float32((1, 1, 2, 3))}, 9),
    after("Upsample", opset=8, scales=[1.0, 1.0, 2.0, 2.0]),
    after("Upsample", {"s": np.float32((1, 1, 2, 2))}, 9, mode="linear", name="linear"),
    after("Resize", {"s": np.float32((2, 1.5))}, 18, name="axes", reads=["a", "-", "s"], axes=[3, 2]),
    after("Slice", {"s": ints(-1, 5), "e": ints(-99, 1), "x2": ints(3, 2), "t": ints(-1, -2)}, name="backwards"),
    after("Gather", {"i": ints(2, 0, 0, 1)}, axis=1, name="any"), after("Tile", {"n": ints(1, 2, 1, 3)}),
    after("Expand", {"s": ints(3, 5, 7)}, shape=(3, 1, 7), name="grown"),
    after("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, name="reflected", mode="reflect"),
    after("Pad", {"p": ints(0, 1, 0, 2, 0, 0, 0, 1)}, name="edge", mode="edge"),
    after("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}, 19, name="wrapped", mode="wrap"),
    after("DepthToSpace", shape=(8, 2, 3), blocksize=2), after("DepthToSpace", shape=(8, 2, 3), blocksize=2, mode="CRD",
          name="CRD"),
    after("SpaceToDepth", shape=(3, 4, 6), blocksize=2),
    Case("sum of broadcasts", (node("GlobalAveragePool", "a", "m"), node("Add", "a m"))),
    Case("difference of broadcasts", (node("GlobalAveragePool", "a", "m"), node("Sub", "a m"))),
    Case("resized features", (node("GlobalAveragePool", "a", "m"), node("Conv", "m w", "c"),
                              node("Resize", "c - s", "r"), node("Concat", "r a", axis=1)),
         tensors={"w": draw(2, 3, 1, 1), "s": np.float32((1, 1, 6, 7))}),
]  # fmt: skip

MASK = np.tril(np.ones((6, 7), bool))
CHOSEN = [
    after("Where", {"c": MASK, "v": np.float32(-1e4)}, reads=["c", "a", "v"]),
    after("Where", {"c": MASK}, reads=["c", "a", "x"], name="of two"),
    after("Where", {"c": MASK, "v": draw(3, 1, 1)}, reads=["c", "v", "a"], name="trained"),
]

RESHAPED = (
    node("Shape", "a", "s"), node("Gather", "s zero", "batch"), node("Unsqueeze", "batch zeros", "b"),
    node("Concat", "b rest", "t", axis=0), node("Reshape", "a t"),
)  # fmt: skip
SCALE, ZERO = draw(4, low=0.01, scale=0.02), np.array([3, -2, 0, 1], np.int8)
QUANTISED = np.random.default_rng(3).integers(-127, 127, (4, 3, 2, 2), np.int8)
FOLDED = [
    Case("shape", RESHAPED, tensors={"zero": np.array(0, I64), "zeros": ints(0), "rest": ints(-1)}),
    Case("shape of the channels",
         (node("Shape", "a", "s", start=1, end=2), node("Cast", "s", "f", to=1), node("Div", "a f")), opset=15),
    Case("filled", (node("ConstantOfShape", "s", "o"), node("Range", "lo hi st", "r"), node("Add", "o r", "c"),
                    node("Add", "a c")), tensors={"s": ints(1, 3, 6, 7), "lo": np.float32(0), "hi": np.float32(7),
                                                  "st": np.float32(1)}),
    Case("expanded", (node("Expand", "c s", "e"), node("Mul", "a e")),
         tensors={"c": draw(3, 1, 1), "s": ints(1, 6, 1)}),
    Case("transposed", (node("Transpose", "w", "t", perm=[1, 0]), node("Slice", "t lo hi", "k"), node("MatMul", "a k")),
         (5,), {"w": draw(4, 7), "lo": ints(1), "hi": ints(6)}),
    Case("dequantised", (node("DequantizeLinear", "q s z", "w", axis=0), node("Conv", "a w")),
         tensors={"q": QUANTISED, "s": SCALE, "z": ZERO}),
    Case("dequantised whole", (node("DequantizeLinear", "q s", "w"), node("Conv", "a w")), opset=10,
         tensors={"q": QUANTISED, "s": np.float32(0.02)}),
    Case("quantised", (node("QuantizeLinear", "f s z", "q", axis=0), node("DequantizeLinear", "q s z", "w", axis=0),
                       node("Conv", "a w")), tensors={"f": draw(4, 3, 2, 2), "s": SCALE, "z": ZERO}),
    Case("blocks", (node("DequantizeLinear", "q s", "w", axis=0, block_size=2), node("MatMul", "a w")), (4,), opset=21,
         tensors={"q": QUANTISED.reshape(4, 12), "s": draw(2, 12, low=0.01)}),
    Case("as nodes", (node("Conv", "a w b"),), tensors={"w": draw(2, 3, 2, 2), "b": draw(2)}, initialisers=False),
]  # fmt: skip

HALF, ROOT = np.float32(0.5), np.float32(math.sqrt(2))
PATTERNS = {
    n.Silu: Case("silu", (node("Sigmoid", "a", "s"), node("Mul", "a s"))),
    n.HardSwish: Case("hard swish", (node("HardSigmoid", "a", "s", alpha=1 / 6), node("Mul", "s a"))),
    n.Gelu: Case(
        "gelu",
        (node("Div", "a root", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"), node("Mul", "a p", "m"),
         node("Mul", "m half")),
        tensors={"root": ROOT, "one": np.float32(1), "half": HALF},
    ),
}  # fmt: skip
EPSILON = {"two": np.float32(2), "eps": np.float32(1e-3)}


def normed(square):
    """A layer norm from its parts."""
    return (
        node("ReduceMean", "a", "m", axes=[-1]), node("Sub", "a m", "c"), square,
        node("ReduceMean", "q", "v", axes=[-1]), node("Add", "v eps", "w"), node("Sqrt", "w", "r"), node("Div", "c r"),
    )  # fmt: skip


LAYER_NORMS = [
    Case("layer norm", normed(node("Pow", "c two", "q")), tensors=EPSILON),
    Case("layer norm by a product", normed(node("Mul", "c c", "q")), tensors=EPSILON, opset=13),
]
CLIPPED_SWISH = Case(
    "hard swish by clip",
    (node("Add", "a three", "t"), node("Clip", "t zero six", "c"), node("Mul", "a c", "m"), node("Div", "m six")),
    tensors={"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
)

WHOLE = [
    Case("two outputs", (node("Relu", "a", "y"), node("GlobalAveragePool", "a", "z")), outputs=("y", "z")),
    Case("static batch", (node("Flatten", "a", "f"), node("MatMul", "f w")), tensors={"w": draw(126, 3)}, batch=1),
    Case("batch of two", (node("Reshape", "a s", "f"), node("MatMul", "f w")), batch=2,
         tensors={"w": draw(126, 3), "s": ints(2, 126)}),
    Case("one channel", (node("Flatten", "a", "f"), node("MatMul", "f w")), (1, 5, 4), {"w": draw(20, 3)}),
    Case("no image", (node("Gemm", "x w", "h"), node("Relu", "h")), (6,), {"w": draw(6, 3)}, stem=False),
    Case("flattened first", (node("Flatten", "x", "f"), node("MatMul", "f w")), (2, 5, 4), {"w": draw(40, 3)},
         stem=False),
    Case("sequence", (node("MatMul", "x w"),), (5, 4), {"w": draw(4, 3)}, stem=False, order="file"),
    Case("channels last", (node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "c"),
                           node("Transpose", "c", perm=[0, 2, 3, 1])), (6, 7,
    3), {"w": draw(2, 3, 3, 3)}, stem=False, order="file"),
    Case("double", (node("MatMul", "a w"),), (3,), {"w": draw(3, 2)}, dtype=np.float64),
    Case("bias later", (node("MatMul", "a w", "m"), node("Add", "m b")), (5,), {"w": draw(5, 4), "b": draw(4)}),
]  # fmt: skip

OPERATORS = [*LAYERS, *NORMS, *PRODUCTS, *ACTIVATIONS, *WINDOWS, *ARITHMETIC, *SHAPING, *LINEAR_MAPS, *CHOSEN]
TABLE = [*OPERATORS, *FOLDED, *PATTERNS.values(), CLIPPED_SWISH, *LAYER_NORMS, *WHOLE]


@pytest.fixture(scope="module")
def found():
    assert len({case.name for case in TABLE}) == len(TABLE)
    return imported(TABLE)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_operator(case, found):
    assert_same(case, found[case.name])


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
def test_pattern_is_one_node(kind, found):
    graph, _ = found[PATTERNS[kind].name]
    assert [type(node) for node in graph.nodes[2:]] == [kind]


@pytest.mark.parametrize("case", [*LAYER_NORMS, NORMS[3]], ids=lambda case: case.name)
def test_layer_norm_is_one_node(case, found):
    graph, _ = found[case.name]
    kinds = [type(node) for node in graph.nodes[2:]]
    assert kinds.count(n.LayerNorm) == 1 and set(kinds) <= {n.LayerNorm, n.Transpose}


def test_products_of_activations_are_one_node_each(found):
    for case in PRODUCTS:
        graph, _ = found[case.name]
        assert [type(node) for node in graph.nodes].count(n.MatrixProduct) == 1
