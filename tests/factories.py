"""Models that the tests of the command line name: `--factory factories:tiny`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

SHAPE = (3, 3, 1)


class Tiny(nn.Module):
    """A convolution with batch norm, a relu, a dense layer: 30 weights."""

    outputs: int = 2
    train: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (2, 2), padding="VALID", name="conv")(x)
        x = nn.relu(x)
        if self.train:
            x = nn.BatchNorm(use_running_average=False, name="norm")(x)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=False)(x)
        return nn.Dense(self.outputs, name="last")(x.reshape(x.shape[0], -1))


class Weightless(nn.Module):
    """Nothing to compile."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (1,))
        return nn.relu(x * scale)


class Refused(nn.Module):
    """Two operations that no graph has."""

    @nn.compact
    def __call__(self, x):
        x = jnp.sort(nn.Conv(2, (2, 2), padding="VALID", name="conv")(x), axis=-1)
        return jnp.cos(nn.Dense(2, name="last")(x.reshape(x.shape[0], -1)))


def refused() -> Refused:
    return Refused()


def tiny(outputs: int = 2) -> Tiny:
    return Tiny(outputs)


def training() -> Tiny:
    return Tiny(train=True)


def dropping() -> Tiny:
    return Tiny(dropout=0.5)


def weightless() -> Weightless:
    return Weightless()


def number() -> int:
    return 3


def failing() -> Tiny:
    raise RuntimeError("no such model")


def variables() -> dict:
    """Weights of `tiny`, multiples of 1/8, so that every test knows them exactly."""
    rng = np.random.default_rng(0)

    def draw(*shape: int):
        return jnp.asarray(rng.integers(-6, 7, shape) / 8, jnp.float32)

    conv = {"kernel": draw(2, 2, 1, 2), "bias": jnp.asarray([0.25, -0.5], jnp.float32)}
    return {"params": {"conv": conv, "last": {"kernel": draw(8, 2), "bias": jnp.asarray([0.25, -0.5], jnp.float32)}}}
