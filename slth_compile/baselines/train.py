"""One training loop for weights and for scores: compiled, on data that stay on the device, the same for a seed."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from slth_compile.baselines.data import Data
from slth_compile.baselines.networks import masked
from slth_compile.errors import InputError
from slth_compile.progress import Progress, silent

ADAM, SGD = "adam", "sgd"
COSINE, CONSTANT = "cosine", "constant"
MOMENTUM = 0.9
_BLOCK = 2000
_TOGETHER = 50


class Forward(Protocol):
    """Logits of images; hashable by value, since compiled programs are kept by it."""

    def __call__(self, trained: Any, fixed: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        """Logits `(batch, classes)` of `x (batch, height, width, channels)`.

        Args:
            trained: What the optimiser changes.
            fixed: What it does not.
            x: Images.
            key: Randomness of this step.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Masked:
    """A network whose parameters are trained under fixed masks; pruned entries have no gradient."""

    model: nn.Module

    def __call__(self, trained: Any, fixed: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        """Logits with parameters `trained` and masks `fixed`."""
        return jnp.asarray(self.model.apply({"params": masked(trained, fixed)}, x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: Steps of the optimiser.
        batch: Images a step; every image is seen once in `images // batch` steps, but for what is left over.
        optimizer: `"adam"`, or `"sgd"` with momentum 0.9.
        rate: Learning rate, of the first step.
        schedule: `"cosine"` to 0, or `"constant"`.
    """

    steps: int
    batch: int = 128
    optimizer: str = ADAM
    rate: float = 1.2e-3
    schedule: str = COSINE

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.rate < float("inf"):
            raise InputError(
                f"steps {self.steps}, batch {self.batch}, rate {self.rate:g}: expected steps >= 1, batch >= 1, rate > 0"
            )
        if self.optimizer not in (ADAM, SGD) or self.schedule not in (COSINE, CONSTANT):
            raise InputError(
                f"optimizer '{self.optimizer}', schedule '{self.schedule}': expected {ADAM} or {SGD}, {COSINE} or "
                f"{CONSTANT}"
            )


def seed_key(seed: int) -> jax.Array:
    """The key of an unsigned 64-bit seed, all of its bits; that of `jax.random.key` below 2^32."""
    return jax.random.wrap_key_data(jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32), impl="threefry2x32")


def fit(
    forward: Forward,
    trained: Any,
    fixed: Any,
    data: Data,
    training: Training,
    key: jax.Array,
    *,
    start: int = 0,
    stop: int | None = None,
    progress: Progress = silent,
) -> Any:
    """What `trained` becomes in steps `start ... stop - 1` of a training; the optimiser begins without memory.

    Args:
        forward: The network.
        trained: What is trained.
        fixed: What is not.
        data: Images and labels.
        training: How.
        key: Of the order of the images and of every step's randomness.
        start: First step; rates and images are those of the step's number.
        stop: Where to end; None is after the last step.
        progress: Called as the steps are done.

    Raises:
        InputError: A batch is larger than the data.
    """
    count, per_epoch = len(data.images), len(data.images) // training.batch
    if per_epoch == 0:
        raise InputError(f"batch {training.batch}: there are only {count} images to train on; choose a smaller batch")
    end = training.steps if stop is None else min(stop, training.steps)
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    state = _optimizer(training, 0).init(trained)
    order, seen = None, -1
    # A scan over the steps would be one program, but in a loop XLA's convolutions are 15 times slower on CPU.
    for step in range(start, end):
        if order is None or step // per_epoch != seen:
            seen = step // per_epoch
            order = _order(jax.random.fold_in(jax.random.fold_in(key, 0), seen), count, training.batch)
        numbers = np.array([step % per_epoch, step, start], np.int32)
        trained, state = _step((forward, training), trained, state, fixed, images, labels, order, numbers, key)
        if (step + 1) % _TOGETHER == 0 or step + 1 == end:
            jax.block_until_ready(trained)
            progress("steps", step + 1 - start, end - start)
    return trained


def correct(forward: Forward, trained: Any, fixed: Any, data: Data, key: jax.Array) -> int:
    """Test images whose largest logit is their label's."""
    found = 0
    for start in range(0, len(data.test_images), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found += int(_hits(forward, trained, fixed, data.test_images[rows], data.test_labels[rows], key))
    return found


@partial(jax.jit, static_argnums=(1, 2))
def _order(key: jax.Array, count: int, batch: int) -> jax.Array:
    """Rows `(steps, batch)` of one epoch."""
    return jax.random.permutation(key, count)[: count // batch * batch].reshape(-1, batch)


def _optimizer(training: Training, start: int | jax.Array) -> optax.GradientTransformation:
    cosine = optax.cosine_decay_schedule(training.rate, training.steps)
    rate = (lambda count: cosine(count + start)) if training.schedule == COSINE else training.rate
    return optax.adam(rate) if training.optimizer == ADAM else optax.sgd(rate, MOMENTUM)


@partial(jax.jit, static_argnums=0)
def _step(
    static: tuple[Forward, Training],
    trained: Any,
    state: Any,
    fixed: Any,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    numbers: jax.Array,
    key: jax.Array,
) -> tuple[Any, Any]:
    (forward, training), (index, step, start) = static, numbers
    rows, own = order[index], jax.random.fold_in(jax.random.fold_in(key, 1), step)

    def loss(trained: Any) -> jax.Array:
        logits = forward(trained, fixed, images[rows], own)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    updates, state = _optimizer(training, start).update(jax.grad(loss)(trained), state, trained)
    return optax.apply_updates(trained, updates), state


@partial(jax.jit, static_argnums=0)
def _hits(forward: Forward, trained: Any, fixed: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sum(jnp.argmax(forward(trained, fixed, x, key), axis=-1) == y)
