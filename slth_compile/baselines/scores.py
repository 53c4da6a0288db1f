"""Networks of fixed weights whose masks are trained: by the largest scores, or by probabilities.

    edge-popup (Ramanujan et al. 2020)        kept: the k largest |score| of a layer;  gradient sign(score) * w * dL/dw'
    Bernoulli (Zhou et al. 2019, FedPM 2023)  kept with probability p = sigmoid(score), drawn anew in every step;
                                              gradient p (1 - p) * w * dL/dw'

with `w` the random weight and `w'` the weight used, `w` or 0: straight-through estimators, which pass the gradient of a
mask entry to its score whether it is kept or not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.baselines.masks import largest
from slth_compile.baselines.networks import Kernels, Layer


@dataclasses.dataclass(frozen=True)
class EdgePopup:
    """The network with the largest scores of every layer; `trained`: scores, `fixed`: (kernels, entries to keep)."""

    model: nn.Module

    def __call__(self, trained: Any, fixed: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        """Logits; `key` is not used."""
        kernels, kept = fixed
        used = {name: {"kernel": popped(kernels[name], score, kept[name])} for name, score in trained.items()}
        return jnp.asarray(self.model.apply({"params": used}, x))


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """The network with a mask drawn by the scores' probabilities; `trained`: scores, `fixed`: kernels."""

    model: nn.Module

    def __call__(self, trained: Any, fixed: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        """Logits with the mask that `key` draws."""
        used = {}
        for number, (name, score) in enumerate(sorted(trained.items())):
            uniform = jax.random.uniform(jax.random.fold_in(key, number), score.shape)
            used[name] = {"kernel": sampled(fixed[name], score, uniform)}
        return jnp.asarray(self.model.apply({"params": used}, x))


@jax.custom_vjp
def popped(kernel: jax.Array, scores: jax.Array, kept: jax.Array) -> jax.Array:
    """The kernel with zeros where |score| is below the `kept`-th largest (equal ones are all kept)."""
    mask = _bits(scores) >= threshold(scores, kept)
    return jnp.where(mask.reshape(kernel.shape), kernel, 0)


def _popped_forward(kernel: jax.Array, scores: jax.Array, kept: jax.Array) -> tuple[jax.Array, Any]:
    return popped(kernel, scores, kept), (kernel, jnp.sign(scores))


def _popped_backward(seen: Any, gradient: jax.Array) -> tuple[None, jax.Array, None]:
    kernel, sign = seen
    return None, sign * kernel * gradient, None


popped.defvjp(_popped_forward, _popped_backward)


@jax.custom_vjp
def sampled(kernel: jax.Array, scores: jax.Array, uniform: jax.Array) -> jax.Array:
    """The kernel where `uniform < sigmoid(scores)`, zeros elsewhere."""
    return jnp.where(uniform < jax.nn.sigmoid(scores), kernel, 0)


def _sampled_forward(kernel: jax.Array, scores: jax.Array, uniform: jax.Array) -> tuple[jax.Array, Any]:
    return sampled(kernel, scores, uniform), (kernel, scores)


def _sampled_backward(seen: Any, gradient: jax.Array) -> tuple[None, jax.Array, None]:
    kernel, scores = seen
    p = jax.nn.sigmoid(scores)
    return None, p * (1 - p) * kernel * gradient, None


sampled.defvjp(_sampled_forward, _sampled_backward)


def threshold(scores: jax.Array, kept: jax.Array) -> jax.Array:
    """The bits of the `kept`-th largest |score|, int32.

    Bits of non-negative floats are in the floats' order. They are found from the highest on by counting: of 74,000
    scores in 0.7 ms, which a sort takes 15 for.
    """
    bits = _bits(scores)

    def with_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (jnp.int32(1) << (30 - i.astype(jnp.int32)))
        return jnp.where(jnp.sum((bits >= candidate).astype(jnp.int32)) >= kept, candidate, found)

    return jax.lax.fori_loop(0, 31, with_bit, jnp.int32(0))


def _bits(scores: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(jnp.abs(scores).reshape(-1), jnp.int32)


def popup_scores(layers: Sequence[Layer], key: jax.Array) -> dict[str, jax.Array]:
    """Scores to begin with: Uniform(-1, 1) / sqrt(fan_in), as the paper's code has them."""
    keys = jax.random.split(key, len(layers))
    return {
        layer.name: jax.random.uniform(own, layer.kernel, minval=-1, maxval=1) / math.sqrt(layer.fan_in)
        for own, layer in zip(keys, layers, strict=True)
    }


def bernoulli_scores(layers: Sequence[Layer], density: float, key: jax.Array) -> dict[str, jax.Array]:
    """Scores to begin with: `logit(density)` and a little noise, so that masks begin at this density."""
    keys, middle = jax.random.split(key, len(layers)), math.log(density / (1 - density))
    return {
        layer.name: middle + 0.01 * jax.random.normal(own, layer.kernel)
        for own, layer in zip(keys, layers, strict=True)
    }


def popup_masks(scores: Kernels, kept: Mapping[str, int]) -> dict[str, np.ndarray]:
    """True at exactly the `kept` largest |score| of every layer."""
    return {name: largest(np.abs(score), kept[name]) for name, score in scores.items()}


def bernoulli_masks(scores: Kernels, seed: int) -> dict[str, np.ndarray]:
    """One mask drawn by the scores' probabilities: the network that is reported."""
    generator = np.random.default_rng((seed, 0x6265726E))
    found = {}
    for name, score in sorted(scores.items()):
        p = 1 / (1 + np.exp(-np.asarray(score, np.float64)))
        found[name] = generator.random(p.shape) < p
    return found
