"""Models that have no graph are refused with every reason and its place, never compiled into something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.flax import import_model
from slth_compile.frontends.jaxpr import trace

KERNEL = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def lines(model, shape=(4,), **options):
    with pytest.raises(UnsupportedModelError) as caught:
        import_model(model, shape, **options)
    head, *rest = str(caught.value).split("\n  ")
    assert head == "unsupported model:" and caught.value.exit_code == 4
    return rest


def bound(module, shape, **options):
    return module.bind(ones(module, shape, jax.random.key(0)), **options)


def ones(module, shape, keys):
    """Variables of the module, for what is refused whatever they are: nothing is compiled for them."""
    shapes = jax.eval_shape(module.init, keys, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


class ThreeUnknown(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Sequential([nn.Dense(4), jnp.sin, nn.Dense(4), jnp.sin, nn.Dense(4), nn.selu, nn.Dense(3)])(x)


def test_every_unsupported_operation_is_listed_once_with_its_place():
    found = lines(bound(ThreeUnknown(), (4,)))
    assert len(found) == 3
    assert all("'ThreeUnknown/Sequential_0' (test_frontend_refusals.py:" in line for line in found)
    assert [line.split()[0] for line in found] == ["sin", "sin", "selu"]


def test_places_in_plain_functions_are_source_lines():
    def model(x):
        x = jnp.sin(x @ KERNEL)
        x = jnp.sin(x)
        x = jax.nn.elu(x)
        return jax.nn.softplus(x) @ KERNEL

    found = lines(model)
    start = model.__code__.co_firstlineno
    assert len(found) == 4
    assert [f"test_frontend_refusals.py:{start + i}" in line for i, line in enumerate(found, 1)] == [True] * 4
    assert found[2].startswith("elu") and found[3].startswith("softplus")


class Norms(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(4, name="first_norm")(nn.Conv(4, (3, 3))(x))
        return nn.GroupNorm(2, name="second_norm")(nn.Conv(4, (3, 3))(x)).sum((1, 2))


def test_norms_of_activations_are_one_problem_each():
    found = lines(bound(Norms(), (6, 6, 2)), (6, 6, 2))
    assert [name in line for name, line in zip(["first_norm", "second_norm"], found, strict=True)] == [True, True]


class Train(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=self.rate > 0, name="norm")(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(self.rate, deterministic=False)(x)
        return nn.Dense(3)(x.mean((1, 2)))


def test_linen_batch_norm_in_train_mode_bound_with_mutable_collections():
    found = lines(bound(Train(), (6, 6, 2), mutable=["batch_stats"]), (6, 6, 2))
    assert any("train mode" in line and "use_running_average=True" in line and "Train/norm" in line for line in found)


def test_linen_batch_norm_in_train_mode():
    assert "train mode" in lines(bound(Train(), (6, 6, 2)), (6, 6, 2))[0]


def test_linen_dropout_in_train_mode():
    module = Train(0.5)
    variables = ones(module, (6, 6, 2), {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    found = lines(module.bind(variables, rngs={"dropout": jax.random.key(2)}), (6, 6, 2))
    assert any("random bits" in line and "train mode" in line for line in found)
    assert "train mode" in lines(module.bind(variables), (6, 6, 2))[0]


class NnxTrain(nnx.Module):
    def __init__(self, rngs, rate):
        self.layer = nnx.Linear(4, 4, rngs=rngs)
        self.other = nnx.Dropout(rate, rngs=rngs) if rate else nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.other(self.layer(x))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_nnx_in_train_mode(rate):
    model = NnxTrain(nnx.Rngs(0), rate)
    assert any("train mode" in line for line in lines(model))
    # closed over, flax itself refuses the changed variable
    assert any("train mode" in line for line in lines(lambda x: model(x)))
    model.eval()
    assert import_model(model, (4,)).layers


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(4)(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        loop = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=4000)
        return nn.Dense(2)(loop()(nn.Dense(4)(x), None)[0])


def test_a_long_scan_is_refused_by_name():
    (line,) = lines(bound(Scanned(), (4,)))
    assert "scan" in line and "a loop of 4000 steps" in line and "at most 8192 together" in line


LOOPS = {
    "while": lambda x: lax.while_loop(lambda s: s.sum() < 9, lambda s: s + 1, x),
    "cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_branches_over_activations(name):
    found = lines(lambda x: LOOPS[name](x @ KERNEL))
    assert any(line.startswith(name) for line in found)


def test_a_parameter_that_reaches_no_node_is_named():
    p = {"used": KERNEL, "unused": {"kernel": KERNEL}, "count": np.zeros((), np.int32)}
    with pytest.raises(UnsupportedModelError, match="parameter 'unused/kernel' reaches no node"):
        trace(lambda p, x: x @ p["used"], p, (4,))


def test_no_weighted_layer():
    assert "no weighted layer" in lines(jax.nn.relu)[0]


def test_a_constant_output():
    assert "output 'b' does not depend on the input" in lines(lambda x: {"a": x @ KERNEL, "b": jnp.ones(3)})[0]


class FixedFilter(nn.Module):
    @nn.compact
    def __call__(self, x):
        blurred = lax.conv_general_dilated(
            x, jnp.full((3, 3, 2, 2), 0.1), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.Conv(3, (1, 1))(blurred)


def test_a_convolution_by_a_constant_is_no_site():
    (line,) = lines(bound(FixedFilter(), (6, 6, 2)), (6, 6, 2))
    assert "convolution" in line and "no parameter" in line


IMAGE = np.ones((3, 3, 2, 4), np.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv(x, kernel=IMAGE, padding="SAME", **options):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=NUMBERS, **options)


UNSUPPORTED = {
    "negative padding": lambda x: conv(x, padding=((-7, 5), (0, 0))),
    "batch_group_count": lambda x: conv(jnp.concatenate([x, x]), kernel=IMAGE, batch_group_count=2),
    "a convolution of two activations": lambda x: conv(x, kernel=jnp.broadcast_to(x[0, :3, :3, :, None], (3, 3, 2, 4))),
    "a quotient of two activations": lambda x: conv(x) / conv(x),
    "a minimum of two activations": lambda x: jnp.minimum(conv(x), -conv(x)),
    "a maximum of two activations": lambda x: jnp.maximum(conv(x), conv(x).mean((1, 2), keepdims=True)),
    "two activations of different samples": lambda x: jnp.einsum("bijc,eijd->bcd", conv(x), x),
    "a power of 4": lambda x: conv(x) ** 4,
    "constant divided by an activation": lambda x: 1 / conv(x),
    "trained or not one number": lambda x: jnp.maximum(conv(x), IMAGE[0, 0, 0]),
    "with a slope of 1.5": lambda x: jnp.maximum(y := conv(x), 1.5 * y),
    "a slope for each element": lambda x: jnp.where(
        (y := conv(x)) > 0, y, y * np.linspace(0, 1, 6, dtype=np.float32)[:, None, None]
    ),
    "padding with anything but zeros": lambda x: jnp.pad(conv(x), ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1),
    "between activations": lambda x: jnp.concatenate([conv(x), jnp.ones_like(conv(x)), conv(x)], 1),
    "starting at": lambda x: lax.reduce_window(conv(x), 1.0, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"),
    "dilation": lambda x: lax.reduce_window(
        conv(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1)
    ),
    "0 <= padding < window": lambda x: lax.reduce_window(
        conv(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), ((0, 0), (2, 0), (0, 0), (0, 0))
    ),
    "sort": lambda x: jnp.sort(conv(x), 1),
    "along several axes": lambda x: conv(x)[:, np.array([0, 2]), np.array([1, 3])],
    "expected a list of them": lambda x: conv(x)[:, np.array([[0, 2], [1, 3]])],
    "places -7 to 2 of 6": lambda x: jnp.take(conv(x), np.array([-13, 2]), 1),
    "at places that depend": lambda x: jnp.take_along_axis(conv(x), jnp.argmax(conv(x), 1, keepdims=True), 1),
    "argmax": lambda x: jnp.argmax(conv(x).sum((1, 2)), -1),
    "some samples": lambda x: conv(x)[1:],
    "along the batch": lambda x: jnp.concatenate([conv(x), conv(x)], 0),
    "mixes samples": lambda x: conv(x).reshape(-1, 4),
    "mixes the samples": lambda x: conv(x) - conv(x).mean(0),
    "batch axis first": lambda x: conv(x).transpose(1, 0, 2, 3),
    "sums over the batch": lambda x: jnp.einsum("bijc,bd->ijcd", x, np.ones((x.shape[0], 3), np.float32)),
    "from sample to sample": lambda x: conv(x) + jnp.arange(x.shape[0], dtype=np.float32).reshape(-1, 1, 1, 1),
    "batch dimensions": lambda x: (
        jnp.einsum("bijc,cd->bijd", x, IMAGE[0, 0])
        + jnp.einsum("bijc,ic->bij", x, KERNEL[:1].repeat(6, 0)[:, :2])[..., None]
    ),
    "random bits": lambda x: conv(x) * jax.random.bernoulli(jax.random.key(0), shape=(1, 6, 6, 4)).astype(np.float32),
    "its result is empty": lambda x: nn.max_pool(conv(x), (7, 7), (1, 1)),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_unsupported_operations_say_what_they_are(reason):
    model = UNSUPPORTED[reason]
    found = lines(model, (6, 6, 2))
    assert any(reason in line for line in found), found
    assert all("test_frontend_refusals.py:" in line or line.startswith("the output") for line in found)


def test_log_softmax_inside_the_network_is_refused_by_the_graph_check():
    from slth_compile.graph.check import check

    graph = import_model(lambda x: jax.nn.log_softmax(x @ KERNEL) @ KERNEL, (4,))
    with pytest.raises(UnsupportedModelError, match="at an output only"):
        check(graph)


def test_python_branches_on_values():
    assert "depends on the values" in lines(lambda x: x @ KERNEL if x.sum() > 0 else x)[0]


def test_arguments_that_cannot_be_used():
    module = nn.Dense(3)
    with pytest.raises(InputError, match="has no variables"):
        import_model(module, (4,))
    with pytest.raises(InputError, match="input_shape="):
        import_model(bound(module, (4,)))
    with pytest.raises(InputError, match="expected an nnx"):
        import_model(3, (4,))
    with pytest.raises(InputError, match="check input_shape"):
        import_model(bound(module, (4,)), (5,))
    with pytest.raises(InputError, match="positive"):
        import_model(bound(module, (4,)), (0,))
    with pytest.raises(InputError, match="batch_axis=1"):
        import_model(bound(module, (4,)), (4,), batch_axis=1)
    with pytest.raises(InputError, match="the graph's input has shape"):
        import_model(import_model(bound(module, (4,)), (4,)), (5,))
