"""Every operation of a target network, imported and compared with the function it came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from frontend_helpers import RNG, bound, imported, kinds, random
from jax import lax

from slth_compile.graph import nodes as n
from slth_compile.graph.fold import fold


@pytest.mark.parametrize(
    ("strides", "padding", "kernel_dilation", "groups"),
    [(1, "SAME", 1, 1), (2, "SAME", 1, 1), (2, ((0, 1), (2, 0)), 1, 3), (1, "VALID", 2, 1), ((2, 1), "SAME", 1, 6)],
)
def test_convolutions(strides, padding, kernel_dilation, groups):
    module = nn.Conv(6, (3, 2), strides, padding, kernel_dilation=kernel_dilation, feature_group_count=groups)
    graph = imported(bound(module, (7, 9, 6)), (7, 9, 6))
    assert kinds(graph) == ["Convolution"] and graph.nodes[1].groups == groups


@pytest.mark.parametrize(
    "options",
    [
        {"strides": (2, 3)},
        {"strides": (2, 2), "padding": "VALID", "transpose_kernel": True},
        {"strides": (3, 1), "padding": ((0, 1), (2, 0)), "kernel_dilation": (1, 2)},
    ],
)
def test_transposed_convolutions(options):
    graph = imported(bound(nn.ConvTranspose(3, (3, 2), **options), (4, 5, 2)), (4, 5, 2))
    assert kinds(graph) == ["Dilate", "Convolution"]
    module = nnx.ConvTranspose(2, 3, (3, 2), rngs=nnx.Rngs(0), **options)
    assert kinds(imported(module, (4, 5, 2))) == ["Dilate", "Convolution"]


def test_negative_padding_cuts_off():
    kernel = random(3, 2, 2, 2)
    graph = imported(lambda x: lax.conv_general_dilated(x, kernel, (1, 2), ((-1, 2), (0, -2))), (2, 6, 7))
    assert kinds(graph) == ["Transpose", "Slice", "Convolution", "Transpose"]


class Enlarged(nn.Module):
    """Interpolated by the constants of the library, which are no parameters."""

    @nn.compact
    def __call__(self, x):
        x = jax.image.resize(nn.Conv(2, (2, 2))(x), (x.shape[0], 8, 9, 2), "linear")
        return x @ jnp.linspace(0, 1, 6).reshape(2, 3)


def test_products_with_constants_are_not_layers():
    graph = imported(bound(Enlarged(), (4, 6, 2)), (4, 6, 2))
    assert kinds(graph) == ["Convolution", "Resample", "Resample", "Resample"] and len(graph.layers) == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_convolution_ranks(rank):
    shape = (6, 5, 4)[:rank]
    imported(bound(nn.Conv(3, (2,) * rank), (*shape, 2)), (*shape, 2))


KERNEL = random(4, 4)
AFFINE = {
    "bias": (lambda x: x @ KERNEL + KERNEL[0], ["Dense"]),
    "negative bias": (lambda x: x @ KERNEL - KERNEL[0], ["Dense"]),
    "scalar bias": (lambda x: x @ KERNEL + 1.5, ["Dense"]),
    "bias of shared layer": (
        lambda x: (y := x @ KERNEL) + KERNEL[0] + jax.nn.relu(y),
        ["Dense", "Affine", "Relu", "Add"],
    ),
    "scale and shift": (lambda x: (x @ KERNEL) * KERNEL[0] + KERNEL[1], ["Dense", "Affine"]),
    "second bias": (lambda x: x @ KERNEL + KERNEL[0] + KERNEL[1], ["Dense", "Affine"]),
    "division": (lambda x: (x / 3.0) @ KERNEL / KERNEL[0], ["Affine", "Dense", "Affine"]),
    "constant minus": (lambda x: (1.0 - x) @ KERNEL, ["Affine", "Dense"]),
    "negative": (lambda x: -(x @ KERNEL), ["Dense", "Affine"]),
    "difference": (lambda x: x @ KERNEL - x, ["Dense", "Affine", "Add"]),
    "residual": (lambda x: jax.nn.relu(x @ KERNEL) + x, ["Dense", "Relu", "Add"]),
    "neutral": (lambda x: (x * 1.0 + 0.0) @ KERNEL, ["Dense"]),
}


@pytest.mark.parametrize("case", AFFINE)
def test_affine_maps(case):
    model, expected = AFFINE[case]
    assert kinds(imported(model, (4,))) == expected


def test_trained_says_whether_a_parameter_went_into_an_affine_map():
    graph = imported(lambda x: ((x * 2.0) @ KERNEL) * KERNEL[0], (4,))
    assert [node.trained for node in graph.nodes if isinstance(node, n.Affine)] == [False, True]


def test_affine_maps_of_other_axes_and_of_every_element():
    mean, image = random(3, 1, 1), random(3, 4, 4)
    imported(lambda x: ((x - mean) / (image + 9.0)).reshape(x.shape[0], -1) @ KERNEL.repeat(12, 0), (3, 4, 4))


IMAGE_KERNEL = random(3, 2)
IMAGES = {
    "max pool": (lambda x: nn.max_pool(x, (2, 3), (2, 1), "SAME"), ["MaxPool"]),
    "average pool": (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), ["AveragePool"]),
    "average pool, padding counted": (lambda x: nn.avg_pool(x, (3, 3), (1, 1), "SAME"), ["AveragePool"]),
    "average pool, padding not counted": (
        lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        ["AveragePool"],
    ),
    "average pool by product": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") * 0.25,
        ["AveragePool"],
    ),
    "sum pool": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        ["AveragePool", "Affine"],
    ),
    "reduce_window max from zero": (
        lambda x: lax.reduce_window(x, 0.0, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"),
        ["MaxPool", "Relu"],
    ),
    "reduce_window function": (
        lambda x: lax.reduce_window(x, 0.0, lambda a, b: a + b, (1, 2, 2, 1), (1, 2, 2, 1), "SAME") / 4,
        ["AveragePool"],
    ),
    "pool of another axis": (
        lambda x: nn.max_pool(x.transpose(0, 1, 3, 2), (2, 2), (2, 1)).transpose(0, 1, 3, 2),
        None,
    ),
    "global average": (lambda x: x.mean((1, 2)), ["Mean"]),
    "global average kept": (lambda x: x.mean((1, 2), keepdims=True), None),
    "global sum": (lambda x: x.sum(1), ["Mean", "Affine"]),
    "global max": (lambda x: x.max((1, 2)), ["Maximum"]),
    "relu": (lambda x: jnp.maximum(0.0, x), ["Relu"]),
    "relu by clip": (lambda x: jnp.clip(x, 0), ["Relu"]),
    "relu by where": (lambda x: jnp.where(x > 0, x, 0), ["Relu"]),
    "leaky relu": (lambda x: jax.nn.leaky_relu(x, 0.2), ["LeakyRelu"]),
    "leaky relu by max": (lambda x: jnp.maximum(0.3 * x, x), ["LeakyRelu"]),
    "leaky relu reversed": (lambda x: jnp.where(x < 0, x * 0.1, x), ["LeakyRelu"]),
    "concatenate": (lambda x: jnp.concatenate([x[:, 1:], x[:, :2]], 1), ["Slice", "Slice", "Concatenate"]),
    "stack": (lambda x: jnp.stack([x, x], 2), None),
    "split": (lambda x: jnp.split(x, 2, axis=2)[1], ["Slice"]),
    "strided slice": (lambda x: x[:, ::2, 1:5:2], ["Slice"]),
    "index": (lambda x: x[:, -1], None),
    "dynamic slice": (lambda x: lax.dynamic_slice_in_dim(x, 1, 2, axis=1), ["Slice"]),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0))), ["Pad"]),
    "pad of a new axis": (lambda x: jnp.pad(x[:, None], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))), None),
    "option A shortcut": (lambda x: jnp.concatenate([x[:, ::2], jnp.zeros_like(x[:, ::2])], 1), ["Slice", "Pad"]),
    "interior and negative padding": (
        lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, -1, 2), (0, 2, 1), (0, 0, 0))),
        ["Dilate", "Slice", "Pad"],
    ),
    "reflected padding": (lambda x: jnp.pad(x, ((0, 0), (1, 1), (2, 0), (0, 0)), mode="reflect"), None),
    "repeated border": (lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 0), (0, 0)), mode="edge"), None),
    "reversed": (lambda x: x[:, ::-1], ["Resample"]),
    "rolled": (lambda x: jnp.roll(x, 1, 2), ["Slice", "Slice", "Concatenate"]),
    "picked": (lambda x: x[:, np.array([0, 2, 2])], ["Resample"]),
    "one picked": (lambda x: jnp.take(x, 1, axis=1), ["Resample", "Reshape"]),
    "picked, clipped": (lambda x: jnp.take(x, np.array([-9, 1, 9]), axis=2, mode="clip"), ["Resample"]),
    "repeated": (lambda x: jnp.repeat(x, 2, axis=1), ["Reshape", "Resample", "Reshape"]),
    "tiled": (lambda x: jnp.tile(x, (1, 2, 1, 1)), ["Resample"]),
    "upsampled by a Kronecker product": (lambda x: jnp.kron(x, jnp.ones((1, 2, 2, 1))), None),
    "upsampled, nearest": (lambda x: jax.image.resize(x, (x.shape[0], 8, 9, x.shape[3]), "nearest"), ["Resample"] * 2),
    "upsampled, linear": (lambda x: jax.image.resize(x, (x.shape[0], 8, 6, x.shape[3]), "linear"), ["Resample"]),
    "upsampled, cubic": (lambda x: jax.image.resize(x, (x.shape[0], 8, 9, x.shape[3]), "cubic"), ["Resample"] * 2),
    "downsampled, linear": (lambda x: jax.image.resize(x, (x.shape[0], 2, 3, x.shape[3]), "linear"), ["Resample"] * 2),
    "sum with a broadcast one": (lambda x: x + x.mean((1, 2), keepdims=True), None),
    "difference from the mean": (lambda x: x - x.mean(3)[..., None], None),
    "joined with a broadcast one": (
        lambda x: jnp.concatenate([x, jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)], 1),
        None,
    ),
    "transpose": (lambda x: x.transpose(0, 2, 1, 3), ["Transpose"]),
    "expand and squeeze": (lambda x: x[:, None].squeeze(1), []),
    "higher rank": (lambda x: x.reshape(x.shape[0], 2, 2, 6, x.shape[-1]), ["Reshape"]),
    "remat, jit and stop_gradient": (lambda x: lax.stop_gradient(jax.checkpoint(jax.jit(jax.nn.relu))(x)), ["Relu"]),
    "cond of a constant": (lambda x: lax.cond(jnp.sum(jnp.ones(3)) > 2, jax.nn.relu, jnp.sin, x), ["Relu"]),
}


@pytest.mark.parametrize("case", IMAGES)
def test_operations_before_and_after_a_layer(case):
    operation, expected = IMAGES[case]
    after = imported(lambda x: operation(x @ IMAGE_KERNEL), (4, 6, 3))
    assert expected is None or kinds(after) == ["Dense", *expected]
    if case not in ("transpose", "pool of another axis"):
        before = imported(lambda x: operation(x) @ IMAGE_KERNEL, (4, 6, 3))
        assert expected is None or sorted(kinds(before)) == sorted(["Dense", *expected])


CURVES = {
    "relu6": (jax.nn.relu6, ["Clip"]),
    "clip": (lambda x: jnp.clip(x, -1, 2), ["Clip"]),
    "clip the other way": (lambda x: jnp.maximum(jnp.minimum(x, 0.5), -0.5), ["Clip"]),
    "clip past itself": (lambda x: jnp.minimum(jnp.maximum(x, 0.5), -0.5), ["Clip", "Clip"]),
    "clamp": (lambda x: lax.clamp(0.0, x, 3.0), ["Clip"]),
    "minimum": (lambda x: jnp.minimum(x, 0.5), ["Clip"]),
    "maximum": (lambda x: jnp.maximum(x, -0.25), ["Clip"]),
    "minimum of infinity": (lambda x: jnp.minimum(x, jnp.inf), []),
    "sigmoid": (jax.nn.sigmoid, ["Sigmoid"]),
    "tanh": (nn.tanh, ["Tanh"]),
    "hard sigmoid": (nn.hard_sigmoid, ["HardSigmoid"]),
    "hard sigmoid by hand": (lambda x: jnp.clip(x - 0.5, 0, 2) * 0.5, ["HardSigmoid"]),
    "hard swish": (nn.hard_swish, ["HardSwish"]),
    "hard swish by hand": (lambda x: x * jax.nn.relu6(x + 3) / 6, ["HardSwish"]),
    "another hard swish": (lambda x: x * jax.nn.relu6(x + 2) / 6, ["Affine", "Clip", "Multiply", "Affine"]),
    "silu": (nn.silu, ["Silu"]),
    "silu by hand": (lambda x: jax.nn.sigmoid(x) * x, ["Silu"]),
    "steeper swish": (lambda x: x * jax.nn.sigmoid(2 * x), ["Affine", "Sigmoid", "Multiply"]),
    "gelu": (nn.gelu, ["Gelu"]),
    "gelu by erfc": (lambda x: jax.nn.gelu(x, approximate=False), ["Gelu"]),
    "gelu by erf": (lambda x: 0.5 * x * (1 + jax.scipy.special.erf(x / 1.4142135)), ["Gelu"]),
    "gelu by tanh": (lambda x: x / 2 * (1 + jnp.tanh(0.79788456 * (x + 0.044715 * x * x * x))), ["Gelu"]),
    "prelu": (lambda x: jnp.where(x >= 0, x, x * np.array([-0.5, 2.0], np.float32)), ["Prelu"]),
    "prelu of one slope": (lambda x: jnp.where(x < 0, x * -0.5, x), ["Prelu"]),
    "prelu by max": (lambda x: jnp.maximum(x, x * np.array([-0.5, 1.0], np.float32)), ["Prelu"]),
    "prelu by division": (lambda x: jnp.where(x < 0, x / 0.25, x), ["Prelu"]),
    "square": (jnp.square, ["Multiply"]),
    "cube": (lambda x: x**3, ["Multiply", "Multiply"]),
    "gate of channels": (lambda x: x * jax.nn.sigmoid(x.mean((1, 2)))[:, None, None, :], None),
    "gate first": (lambda x: jax.nn.sigmoid(x.mean((1, 2), keepdims=True)) * x, None),
    "gate of positions": (lambda x: x * jax.nn.sigmoid(x.mean(3, keepdims=True)), None),
    "gate of transposed positions": (lambda x: x * x.mean(3)[:, :4, :4].transpose(0, 2, 1)[..., None], None),
}


@pytest.mark.parametrize("case", CURVES)
def test_activations_and_products(case):
    operation, expected = CURVES[case]
    found = kinds(imported(lambda x: operation(x @ IMAGE_KERNEL), (4, 4, 3)))
    assert found[0] == "Dense" and (found[-1] == "Multiply" if expected is None else found[1:] == expected)


def test_flax_prelu_keeps_its_trained_slope():
    graph = imported(nn.Sequential([nn.Dense(3), nn.PReLU(), nn.Dense(2)]).bind(PRELU_VARIABLES), (4,))
    assert kinds(graph) == ["Dense", "Prelu", "Dense"] and float(graph.nodes[2].slopes) == -1.5


PRELU_VARIABLES = {
    "params": {
        "layers_0": {"kernel": random(4, 3), "bias": random(3)},
        "layers_1": {"negative_slope": np.float32(-1.5)},
        "layers_2": {"kernel": random(3, 2), "bias": random(2)},
    }
}


SOFTMAXES = {
    "softmax": (jax.nn.softmax, "Softmax"),
    "log_softmax": (jax.nn.log_softmax, "LogSoftmax"),
    "softmax by hand": (lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), "Softmax"),
    "log_softmax by hand": (lambda x: x - jnp.log(jnp.exp(x).sum(-1, keepdims=True)), "LogSoftmax"),
    "logsumexp": (lambda x: x - jax.scipy.special.logsumexp(x, -1, keepdims=True), "LogSoftmax"),
    "softmax of another axis": (lambda x: jax.nn.softmax(x, 1), "Softmax"),
    "softmax, then transposed": (lambda x: jax.nn.softmax(x).transpose(0, 2, 1), "Softmax"),
    "softmax of one axis of three": (lambda x: jax.nn.softmax(x)[:, None], "Softmax"),
}


@pytest.mark.parametrize("case", SOFTMAXES)
def test_softmax_at_an_output(case):
    function, expected = SOFTMAXES[case]
    graph = imported(lambda x: (function(x @ IMAGE_KERNEL), x @ IMAGE_KERNEL), (5, 3))
    assert type(graph.nodes[graph.outputs[0]]).__name__ == expected
    assert graph.output_names == ("0", "1")


DENSE = {
    "contracted in the middle": lambda x: jnp.einsum("bijk,jl->bikl", x, random(5, 2)),
    "kernel first": lambda x: jnp.matmul(random(2, 5), x),
    "two axes": lambda x: jnp.einsum("bijk,jkl->bil", x, random(5, 3, 2)),
    "two axes, two features": lambda x: jnp.einsum("bijk,ikmn->bnjm", x, random(4, 3, 2, 6)),
    "to a number": lambda x: x @ random(3),
    "under vmap": lambda x: jax.vmap(lambda y: random(2, 4) @ y[..., 0])(x),
    "of a new axis": lambda x: x[..., None] @ random(1, 2),
}


@pytest.mark.parametrize("case", DENSE)
def test_products_on_any_axis(case):
    state = RNG.bit_generator.state

    def model(x):
        RNG.bit_generator.state = state
        return DENSE[case](x)

    assert kinds(imported(model, (4, 5, 3))).count("Dense") == 1


def test_dense_general_with_bias_over_two_axes():
    module = nn.DenseGeneral((2, 3), axis=(1, 2))
    graph = imported(bound(module, (4, 5)), (4, 5))
    assert fold(graph).layers and len(fold(graph).layers) == 1
