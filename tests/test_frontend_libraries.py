"""Models of libraries that are not Flax, imported as the callables they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from frontend_helpers import imported, kinds

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.flax import import_model

KEY = jax.random.key(0)


@pytest.mark.slow
def test_equinox() -> None:
    """A module is a pytree of one sample's function: its leaves have names, and it takes no batch axis."""
    eqx = pytest.importorskip("equinox")
    first, second, third = jax.random.split(KEY, 3)

    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        up: eqx.nn.ConvTranspose2d
        slope: eqx.nn.PReLU
        head: eqx.nn.MLP
        drop: eqx.nn.Dropout

        def __call__(self, x):
            x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(self.up(self.slope(self.conv(x)))))
            return self.head(self.drop(x).reshape(-1))

    model = Network(
        eqx.nn.Conv2d(2, 4, 3, padding=1, key=first),
        eqx.nn.ConvTranspose2d(4, 3, 3, stride=2, key=second),
        eqx.nn.PReLU(0.3),
        eqx.nn.MLP(3 * 16, 5, 8, 1, key=third),
        eqx.nn.Dropout(0.5, inference=True),
    )
    graph = imported(model, (2, 4, 4), batch_axis=None)
    assert [graph.nodes[i].name for i in graph.layers] == ["conv", "up", "head/layers/0", "head/layers/1"]
    for wrapped, axis in ((jax.vmap(model), 0), (eqx.filter_jit(model), None)):
        assert kinds(imported(wrapped, (2, 4, 4), batch_axis=axis)) == kinds(graph)
    with pytest.raises(InputError, match="cannot be called"):
        import_model(eqx.nn.inference_mode(model, value=False), (2, 4, 4), batch_axis=None)


@pytest.mark.slow
def test_haiku() -> None:
    """`apply` with its parameters bound: layers are named by module."""
    hk = pytest.importorskip("haiku")

    def network(x, train=False):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3, name="first")(x), is_training=train)
        x = jax.nn.relu(hk.Conv2DTranspose(3, 3, stride=2)(jax.nn.relu(x)))
        x = hk.AvgPool((2, 2, 1), (2, 2, 1), "SAME")(hk.DepthwiseConv2D(2, 3)(x))
        x = hk.Linear(4)(hk.Flatten()(x))
        return hk.layer_stack(2)(lambda x: jax.nn.relu(hk.Linear(4, name="inner")(x)))(x)

    function = hk.without_apply_rng(hk.transform_with_state(network))
    variables, state = function.init(KEY, jnp.zeros((1, 3, 4, 2)), True)
    graph = imported(lambda x: function.apply(variables, state, x)[0], (3, 4, 2))
    names = [graph.nodes[i].name for i in graph.layers]
    assert [name.rpartition("/")[2] for name in names] == [
        *("first", "conv2_d_transpose", "depthwise_conv2_d", "linear", "inner", "inner"),
    ]
    with pytest.raises(UnsupportedModelError, match="mixes the samples of a batch"):
        import_model(lambda x: function.apply(variables, state, x, True)[0], (3, 4, 2))
