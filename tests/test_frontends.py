"""Imported graphs compute what the models compute, whichever way the models are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from frontend_helpers import assert_same, bound, imported, kinds, random, randomised
from jax import lax

from slth_compile.frontends.flax import import_model
from slth_compile.frontends.jaxpr import trace
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate

KERNEL = random(4, 4)


class ConvNet(nn.Module):
    dtype: object = None

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, name="first", dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.Dropout(0.5, deterministic=True)(x)
        x = nn.leaky_relu(nn.Conv(6, (2, 2), feature_group_count=2, padding="VALID", use_bias=False)(x))
        return nn.Dense(3, name="last")(x.mean((1, 2)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)])

    def __call__(self, x):
        x = self.drop(jnp.max(nnx.relu(self.norm(self.conv(x))), (1, 2)))
        x = self.blocks[0](x)
        return {"scores": self.blocks[1](x), "inner": [x]}


def test_linen_keeps_raw_statistics_and_takes_names_from_parameter_paths():
    model = bound(ConvNet(), (8, 8, 2))
    graph = imported(model, (8, 8, 2))
    assert kinds(graph) == ["Convolution", "BatchNorm", "Relu", "MaxPool", "Convolution", "LeakyRelu", "Mean", "Dense"]
    assert [graph.nodes[i].name for i in graph.layers] == ["first", "Conv_0", "last"]
    norm = graph.nodes[2]
    assert isinstance(norm, n.BatchNorm) and norm.name == "norm"
    stored = model.variables
    np.testing.assert_array_equal(norm.variance, stored["batch_stats"]["norm"]["var"])
    np.testing.assert_array_equal(norm.mean, stored["batch_stats"]["norm"]["mean"])
    np.testing.assert_array_equal(norm.scale, stored["params"]["norm"]["scale"])
    np.testing.assert_array_equal(norm.bias, stored["params"]["norm"]["bias"])
    assert norm.epsilon == float(np.float32(1e-5))
    assert graph.output_names == ("",)


def test_nnx_in_inference_with_named_outputs():
    model = NnxNet(nnx.Rngs(0))
    nnx.update(model, randomised(nnx.state(model, (nnx.Param, nnx.BatchStat))))
    model.eval()
    graph = imported(model, (8, 8, 2))
    assert kinds(graph) == ["Convolution", "BatchNorm", "Relu", "Maximum", "Dense", "Dense"]
    assert [graph.nodes[i].name for i in graph.layers] == ["conv", "blocks/0", "blocks/1"]
    assert graph.output_names == ("inner/0", "scores")


def test_bfloat16_activations_are_identities_and_kernels_keep_their_dtype():
    model = bound(ConvNet(dtype=jnp.bfloat16), (8, 8, 2))
    graph = check(import_model(model, (8, 8, 2)))
    first = graph.nodes[1]
    assert first.kernel.dtype == first.bias.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        model(jnp.ones((1, 8, 8, 2))), evaluate(graph, np.ones((1, 8, 8, 2), np.float32))[0], 0.1
    )


def test_float16_parameters_enter_the_node_in_their_own_dtype():
    p = {"k": random(4, 3).astype(np.float16), "m": random(3).astype(np.float16), "v": np.ones(3, np.float16)}
    graph = trace(lambda p, x: (x @ p["k"].astype(jnp.float32) - p["m"]) * lax.rsqrt(p["v"] + 1e-3), p, (4,))
    assert kinds(graph) == ["Dense", "BatchNorm"]
    assert graph.nodes[2].mean.dtype == np.float16 and graph.nodes[2].variance.dtype == np.float16


def test_graph_is_returned_as_it_is():
    graph = trace(lambda p, x: x @ p, random(4, 3), (4,))
    assert import_model(graph) is graph


def test_any_dimension_numbers_with_normalisation_in_between():
    p = [random(4, 3, 3, 3), random(4), np.abs(random(4)), random(5, 4, 1, 1), random(80, 2)]

    def model(x):
        x = lax.conv_general_dilated(x, p[0], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = (x - p[1][:, None, None]) / jnp.sqrt(p[2][:, None, None] + 1e-3)
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        x = lax.conv_general_dilated(x, p[3], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return x.reshape(x.shape[0], -1) @ p[4]

    graph = imported(model, (3, 8, 8))
    expected = [
        "Transpose",
        "Convolution",
        "BatchNorm",
        "Relu",
        "MaxPool",
        "Convolution",
        "Transpose",
        "Reshape",
        "Dense",
    ]
    assert kinds(graph) == expected


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_flatten_keeps_the_order_of_elements(data_format):
    kernel, dense = random(2, 2, 3, 4), random(4 * 5 * 6, 3)
    numbers = (data_format, "HWIO", data_format)

    def model(x):
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return x.reshape(x.shape[0], -1) @ dense

    imported(model, (5, 6, 3) if data_format == "NHWC" else (3, 5, 6))


def norm_linen(p, x):
    return (x - p["m"]) * (lax.rsqrt(p["v"] + 1e-3) * p["s"]) + p["b"]


def norm_division(p, x):
    return (x - p["m"]) / jnp.sqrt(p["v"] + 1e-3) * p["s"] + p["b"]


def norm_scale_inside(p, x):
    return p["s"] * ((x - p["m"]) / jnp.sqrt(1e-3 + p["v"])) + p["b"]


def norm_plain(p, x):
    return (x - p["m"]) * lax.rsqrt(p["v"] + 1e-3)


def norm_broadcast(p, x):
    mean, variance = jnp.broadcast_to(p["m"], x.shape), p["v"].reshape(1, 1, 1, -1)
    return (x - mean) / jnp.sqrt(variance + 1e-3) + p["b"]


@pytest.mark.parametrize("norm", [norm_linen, norm_division, norm_scale_inside, norm_plain, norm_broadcast])
@pytest.mark.parametrize("channels", [5, 1])
def test_batch_norms_are_recognised_however_written(norm, channels):
    p = {"m": random(channels), "v": np.abs(random(channels)), "s": random(channels), "b": random(channels)}
    p = p if norm in (norm_linen, norm_division, norm_scale_inside) else {k: p[k] for k in ("m", "v", "b")}
    p = p if norm is not norm_plain else {k: p[k] for k in ("m", "v")}
    kernel = random(3, 3, 2, channels)

    def model(p, x):
        x = lax.conv_general_dilated(x, p[1], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(norm(p[0], x))

    graph = trace(model, (p, kernel), (4, 4, 2))
    assert_same(graph, lambda x: model((p, kernel), x), (4, 4, 2))
    assert kinds(graph) == ["Convolution", "BatchNorm", "Relu"]
    np.testing.assert_array_equal(graph.nodes[2].variance, p["v"])
    assert (graph.nodes[2].scale is None) == ("s" not in p) and (graph.nodes[2].bias is None) == ("b" not in p)


@pytest.mark.parametrize(("use_bias", "use_scale"), [(False, True), (True, False), (False, False)])
def test_linen_batch_norm_without_scale_or_bias(use_bias, use_scale):
    norm = nn.BatchNorm(use_running_average=True, use_bias=use_bias, use_scale=use_scale)
    graph = imported(bound(nn.Sequential([nn.Dense(4), norm]), (3,)), (3,))
    assert kinds(graph) == ["Dense", "BatchNorm"]


def test_batch_norm_before_any_layer_and_with_two_consumers():
    p = {"m": random(4), "v": np.abs(random(4)), "s": random(4), "b": random(4)}
    kernel = random(4, 4)

    def model(x):
        y = norm_linen(p, x)
        return norm_linen(p, jax.nn.relu(y) @ kernel) + y

    assert kinds(imported(model, (4,))) == ["BatchNorm", "Relu", "Dense", "BatchNorm", "Add"]


def test_constants_made_of_parameters_are_evaluated():
    module = nn.Sequential([nn.WeightNorm(nn.Conv(4, (2, 2))), nn.relu, nn.WeightNorm(nn.Dense(3))])
    assert kinds(imported(bound(module, (4, 4, 2)), (4, 4, 2))) == ["Convolution", "Relu", "Dense"]


def test_tied_weights_are_two_layers_with_equal_arrays():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(4, name="shared")
            return layer(nn.relu(layer(x)))

    graph = imported(bound(Tied(), (4,)), (4,))
    first, second = (graph.nodes[i] for i in graph.layers)
    assert first.name == second.name == "shared"
    np.testing.assert_array_equal(first.kernel, second.kernel)


def test_transposed_kernels_of_one_parameter():
    graph = trace(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"].T, {"w": random(5, 3)}, (5,))
    np.testing.assert_array_equal(graph.nodes[1].kernel, graph.nodes[3].kernel.T)


@pytest.mark.parametrize("shape", [(7, 7, 3), (1, 6, 1), (11, 7, 13)])
def test_shapes_that_meet_the_batch_size_of_the_trace(shape):
    module = nn.Sequential([nn.Conv(7, (3, 3)), nn.relu, lambda x: x.reshape(x.shape[0], -1), nn.Dense(7)])
    imported(bound(module, shape), shape)


def test_without_a_batch_axis():
    kernel, dense = random(3, 3, 2, 4), random(4 * 8, 3)

    def model(x):
        y = lax.conv_general_dilated(x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        return jax.nn.softmax(jax.nn.relu(y).ravel() @ dense)

    graph = imported(model, (4, 8, 2), batch_axis=None)
    assert kinds(graph) == ["Convolution", "Relu", "Reshape", "Dense", "Softmax"]


def test_nothing_is_left_of_what_no_output_needs():
    def model(x):
        jnp.sin(x).sum()
        return x @ KERNEL

    assert kinds(imported(model, (4,))) == ["Dense"]


def test_a_custom_gradient_is_looked_through():
    @jax.custom_vjp
    def twice(x):
        return x * 2.0

    twice.defvjp(lambda x: (x * 2.0, None), lambda _, g: (g,))
    assert kinds(imported(lambda x: twice(x @ KERNEL), (4,))) == ["Dense", "Affine"]


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "inner", x)
        return nn.PReLU()(nn.Dense(3)(x))


def test_a_module_bound_with_mutable_collections_in_inference():
    variables = {"params": jax.jit(Sowing().init)(jax.random.key(0), jnp.ones((1, 4)))["params"]}
    graph = import_model(Sowing().bind(variables, mutable=["intermediates"]), (4,))
    x = random(3, 4)
    assert kinds(graph) == ["Dense", "LeakyRelu"]
    np.testing.assert_allclose(evaluate(graph, x)[0], Sowing().apply(variables, x), rtol=1e-5, atol=1e-5)


def test_float64_parameters_are_those_of_the_32_bit_model():
    with jax.enable_x64(True):
        kernel = jnp.asarray(random(3, 3, 2, 4), jnp.float64)
    module = nn.Conv(4, (3, 3), use_bias=False)
    assert import_model(module.bind({"params": {"kernel": kernel}}), (4, 4, 2)).nodes[1].kernel.dtype == np.float32


def test_the_global_configuration_is_left_alone():
    with jax.enable_x64(True):
        graph = import_model(lambda x: x @ KERNEL, (4,))
        assert graph.nodes[1].kernel.dtype == np.float32
    assert not jax.config.jax_enable_x64
