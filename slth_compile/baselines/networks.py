"""The networks that are pruned, as flax modules, and what their weighted layers look like."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.errors import InputError

Kernels = Mapping[str, Any]
"""An array for every weighted layer, by the layer's name; masks are such arrays of booleans, True = kept."""


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 window, stride 2; `(batch, h, w, c) -> (batch, h // 2, w // 2, c)`.

    Equal largest entries share the gradient. It is computed by comparing, twice as fast on CPU as XLA's own.

    Raises:
        InputError: There is no window.
    """
    if min(x.shape[1:3]) < 2:
        raise InputError(f"a 2x2 pool finds {x.shape[1]}x{x.shape[2]}: the images are too small for this network")
    return nn.max_pool(x, (2, 2), (2, 2))


def _pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool(x)
    return y, (x, y)


def _pool_backward(seen: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    x, y = seen
    height, width = 2 * y.shape[1], 2 * y.shape[2]
    windows = x[:, :height, :width].reshape(x.shape[0], y.shape[1], 2, y.shape[2], 2, x.shape[3])
    largest = windows == y[:, :, None, :, None]
    share = gradient / largest.sum((2, 4))
    found = jnp.where(largest, share[:, :, None, :, None], 0).reshape(x.shape[0], height, width, x.shape[3])
    return (jnp.pad(found, ((0, 0), (0, x.shape[1] - height), (0, x.shape[2] - width), (0, 0))),)


max_pool.defvjp(_pool_forward, _pool_backward)


class LeNet300100(nn.Module):
    """Dense layers of 300 and 100 units, the network of Frankle & Carbin (2019); 266,610 parameters on MNIST.

    Attributes:
        hidden: Units of the hidden layers.
        classes: Number of logits.
        bias: Whether layers have biases.
    """

    hidden: tuple[int, ...] = (300, 100)
    classes: int = 10
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, classes)` of images `(batch, height, width, channels)`."""
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, self.bias, name=f"dense{i + 1}")(x))
        return nn.Dense(self.classes, self.bias, name=f"dense{len(self.hidden) + 1}")(x)


class LeNet5(nn.Module):
    """Two 5x5 convolutions and three dense layers, after LeCun et al. (1998).

    Attributes:
        classes: Number of logits.
        bias: Whether layers have biases.
    """

    classes: int = 10
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, classes)` of images `(batch, height, width, channels)`."""
        for i, channels in enumerate((6, 16)):
            x = nn.relu(nn.Conv(channels, (5, 5), use_bias=self.bias, name=f"conv{i + 1}")(x))
            x = max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate((120, 84)):
            x = nn.relu(nn.Dense(units, self.bias, name=f"dense{i + 1}")(x))
        return nn.Dense(self.classes, self.bias, name="dense3")(x)


class Conv4(nn.Module):
    """Four 3x3 convolutions in two blocks, then dense layers: Conv-4 of Frankle & Carbin, narrower and with a stride.

    Theirs has 64, 64, 128, 128 channels, stride 1 and hidden dense layers of 256 and 256: 74 million
    multiplications for a 28x28 image. The first convolution has stride 2 here.

    Attributes:
        width: Channels of the first block; the second has twice as many.
        hidden: Units of the hidden dense layers.
        classes: Number of logits.
        bias: Whether layers have biases.
    """

    width: int = 16
    hidden: tuple[int, ...] = (256, 256)
    classes: int = 10
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, classes)` of images `(batch, height, width, channels)`."""
        for block in range(2):
            for i in range(2):
                stride = (2, 2) if block == i == 0 else (1, 1)
                name = f"conv{2 * block + i + 1}"
                conv = nn.Conv(self.width << block, (3, 3), strides=stride, use_bias=self.bias, name=name)
                x = nn.relu(conv(x))
            x = max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, self.bias, name=f"dense{i + 1}")(x))
        return nn.Dense(self.classes, self.bias, name=f"dense{len(self.hidden) + 1}")(x)


NETWORKS: dict[str, type[LeNet300100] | type[LeNet5] | type[Conv4]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5": LeNet5,
    "conv-4": Conv4,
}
"""The networks of `--network`."""


def network(name: str, classes: int, *, bias: bool = True) -> nn.Module:
    """The network of that name.

    Raises:
        InputError: There is none.
    """
    if name not in NETWORKS:
        raise InputError(f"--network {name}: unknown; expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name](classes=classes, bias=bias)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A weighted layer as it is applied.

    Attributes:
        name: Its name among the parameters.
        kernel: Shape of its kernel, `(taps..., inputs, outputs)`.
        bias: Number of its biases.
        positions: Places of one image where the kernel is applied, 1 for a dense layer.
    """

    name: str
    kernel: tuple[int, ...]
    bias: int
    positions: int

    @property
    def size(self) -> int:
        """Number of kernel entries."""
        return math.prod(self.kernel)

    @property
    def fan_in(self) -> int:
        """Kernel entries that one output reads."""
        return math.prod(self.kernel[:-1])


def layers(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """The weighted layers in the order in which they are applied.

    Args:
        model: Of dense layers and convolutions, each with a name of its own and applied once.
        image_shape: `(height, width, channels)`.
    """
    applied: list[tuple[str, int]] = []

    def note(following: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        y = following(*arguments, **keywords)
        if isinstance(context.module, nn.Dense | nn.Conv) and context.method_name == "__call__":
            applied.append((str(context.module.name), math.prod(y.shape[1:-1])))
        return y

    with nn.intercept_methods(note):
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))["params"]
    biases = {name: math.prod(layer["bias"].shape) if "bias" in layer else 0 for name, layer in shapes.items()}
    return tuple(Layer(name, shapes[name]["kernel"].shape, biases[name], n) for name, n in applied)


def initial(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """Fresh parameters, by flax's own initialisers: LeCun normal kernels, biases of zero."""
    return _initialise(model, image_shape, key)["params"]


@partial(jax.jit, static_argnums=(0, 1))
def _initialise(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    return model.init(key, jnp.zeros((1, *image_shape)))


def kernels(parameters: Any) -> dict[str, np.ndarray]:
    """The kernel of every layer, as NumPy arrays."""
    return {name: np.asarray(layer["kernel"]) for name, layer in parameters.items()}


def masked(parameters: Any, masks: Kernels) -> Any:
    """The parameters with pruned kernel entries at zero; biases are never pruned."""
    return {
        name: dict(layer) | {"kernel": jnp.where(masks[name], layer["kernel"], 0)} for name, layer in parameters.items()
    }
