"""The rule for every operator that may read an activation."""

from __future__ import annotations

from collections.abc import Callable

from slth_compile.frontends.draft import Value
from slth_compile.frontends.onnx.operation import Operation
from slth_compile.frontends.onnx.operators import activations, arithmetic, picking, pooling, resizing, shaping, weighted
from slth_compile.graph import nodes as n

Rule = Callable[[Operation], Value | list[Value]]

RULES: dict[str, Rule] = {
    "Abs": activations.piece("abs"),
    "Add": arithmetic.binary,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": weighted.batch_norm,
    "Cast": shaping.cast,
    "Clip": activations.clip,
    "Concat": shaping.concatenate,
    "Conv": weighted.convolution,
    "ConvTranspose": weighted.transposed_convolution,
    "DepthToSpace": shaping.depth_to_space,
    "Div": arithmetic.binary,
    "Dropout": shaping.identity,
    "Erf": activations.piece("erf"),
    "Exp": activations.piece("exp"),
    "Expand": picking.expand,
    "Flatten": shaping.flatten,
    "Gather": picking.gather,
    "Gelu": activations.gelu,
    "Gemm": weighted.general_product,
    "GlobalAveragePool": pooling.global_pool,
    "GlobalMaxPool": pooling.global_pool,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.plain(n.HardSwish),
    "Identity": shaping.identity,
    "LeakyRelu": activations.leaky_relu,
    "Log": activations.piece("log"),
    "LogSoftmax": activations.softmax,
    "MatMul": weighted.product,
    "Max": arithmetic.binary,
    "MaxPool": pooling.max_pool,
    "Min": arithmetic.binary,
    "Mul": arithmetic.binary,
    "Neg": arithmetic.negative,
    "PRelu": activations.prelu,
    "Pad": shaping.pad,
    "Pow": arithmetic.power,
    "ReduceMax": pooling.reduction,
    "ReduceMean": pooling.reduction,
    "ReduceSum": pooling.reduction,
    "Relu": activations.plain(n.Relu),
    "Reshape": shaping.reshape,
    "Resize": resizing.resize,
    "Shape": shaping.shape_of,
    "Sigmoid": activations.plain(n.Sigmoid),
    "Size": shaping.size_of,
    "Slice": picking.slices,
    "Softmax": activations.softmax,
    "SpaceToDepth": shaping.space_to_depth,
    "Split": picking.split,
    "Squeeze": shaping.squeeze,
    "Sub": arithmetic.binary,
    "Sum": arithmetic.binary,
    "Tanh": activations.plain(n.Tanh),
    "Tile": picking.tile,
    "Transpose": shaping.transpose,
    "Unsqueeze": shaping.unsqueeze,
    "Upsample": resizing.resize,
}
