"""A small CNN on scikit-learn's digits: trained, compiled, certified, verified, reported; no network access."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from slth_compile.compiled import Compiled
from slth_compile.compiler import compile, verify
from slth_compile.domain import Box, Points
from slth_compile.errors import InputError
from slth_compile.progress import Progress, silent
from slth_compile.ticket.workspace import Workspace

EPS, DELTA = 1e-2, 1e-3
HELD_OUT = 360
STEPS, BATCH, RATE = 1000, 128, 4e-3
SMOOTHING, DECAY = 0.1, 5e-4


class DigitsNet(nn.Module):
    """Two convolutions and a dense layer; 8x8 grey images to ten logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, 10)` of images `(batch, 8, 8, 1)`."""
        x = nn.relu(nn.Conv(8, (3, 3), name="conv1")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (3, 3), name="conv2")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10, name="dense")(x.reshape(x.shape[0], -1))


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train and held-out images (pixels/16, `(n, 8, 8, 1)`, float32) and labels of scikit-learn's digits.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the demo needs scikit-learn; install it with: pip install 'slth-compile[demo]'") from None
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int32)
    return images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:]


def train(images: np.ndarray, labels: np.ndarray, progress: Progress = silent) -> nn.Module:
    """`DigitsNet` trained with Adam, smoothed labels and an l2 penalty, bound to its variables.

    Args:
        images: `(n, 8, 8, 1)`.
        labels: `(n,)`.
        progress: Called as training advances.
    """
    model = DigitsNet()
    variables = model.init(jax.random.key(0), images[:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    generator = np.random.default_rng(1)
    state = optimizer.init(variables)
    step = _step(model, optimizer)
    for number in range(STEPS):
        rows = generator.choice(len(images), BATCH, replace=False)
        variables, state = step(variables, state, images[rows], labels[rows])
        if (number + 1) % 100 == 0:
            progress("train", number + 1, STEPS)
    return model.bind(variables)


def _step(model: nn.Module, optimizer: optax.GradientTransformation) -> Callable:
    def loss(variables, x, y):
        smooth = optax.smooth_labels(jax.nn.one_hot(y, 10), SMOOTHING)
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(variables))
        logits = jnp.asarray(model.apply(variables, x))
        return optax.softmax_cross_entropy(logits, smooth).mean() + DECAY * penalty

    @jax.jit
    def step(variables, state, x, y):
        updates, state = optimizer.update(jax.grad(loss)(variables, jnp.asarray(x), jnp.asarray(y)), state, variables)
        return optax.apply_updates(variables, updates), state

    return step


def run(
    out: pathlib.Path,
    *,
    eps: float | str = EPS,
    delta: float = DELTA,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Compiled:
    """The demo: a trained CNN compiled over its held-out images and the whole box [0, 1], saved and verified.

    Args:
        out: Where to save.
        eps: Allowed difference of any logit.
        delta: Allowed failure probability over seeds.
        seed: Seed of the source.
        resume: Whether an interrupted run is continued.
        force: Whether an existing `out` is replaced.
        progress: Called as the stages advance.
    """
    Workspace(out).refuse_occupied(resume=resume, force=force)
    images, labels, held_out, held_out_labels = digits()
    found = compile(
        train(images, labels, progress),
        eps,
        delta,
        domain=(Points(held_out), Box(0.0, 1.0)),
        seed=seed,
        evaluate=(held_out, held_out_labels),
        literal=True,
        out=out,
        resume=resume,
        force=force,
        progress=progress,
    )
    progress("verify", 0, 1)
    verify(out, expected_id=found.ticket_id)
    progress("verify", 1, 1)
    return found
