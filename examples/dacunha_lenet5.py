"""da Cunha et al.'s own LeNet5, all five layers with biases, compiled over the 10,000 MNIST test images.

    python examples/dacunha_lenet5.py dacunha_lenet5_mnist.npz mnist.npz OUT/

The paper compiled the two convolutions in hours and kept no mask. The weights are theirs (Flux layout: kernels are
`(width, height, in, out)`, flipped, and images are column-major), as arrays `conv1.kernel`, `conv1.bias`, ...,
`dense3.weight`, `dense3.bias` of the parameters they published. `mnist.npz` holds `test_images` and `test_labels`,
uint8.
"""

from __future__ import annotations

import pathlib
import time
from typing import Annotated

import flax.linen as nn
import jax
import numpy as np
import typer

import slth_compile as slth
from slth_compile.measure import quality
from slth_compile.report.terminal import render_terminal


class LeNet5(nn.Module):
    """28x28 grey images to ten logits; 107,786 parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, 10)` of images `(batch, 28, 28, 1)`."""
        x = nn.relu(nn.Conv(6, (5, 5), name="conv1")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (5, 5), name="conv2")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(120, name="dense1")(x))
        x = nn.relu(nn.Dense(84, name="dense2")(x))
        return nn.Dense(10, name="dense3")(x)


def load_target(path: pathlib.Path) -> nn.Module:
    """The published weights in a bound `LeNet5`."""
    arrays = np.load(path)
    parameters = {}
    for name in ("conv1", "conv2"):
        kernel = arrays[f"{name}.kernel"][::-1, ::-1].transpose(1, 0, 2, 3)
        parameters[name] = {"kernel": np.ascontiguousarray(kernel), "bias": arrays[f"{name}.bias"]}
    for name in ("dense1", "dense2", "dense3"):
        weight = arrays[f"{name}.weight"]
        if name == "dense1":  # channels come last here, first there
            weight = weight.reshape(120, 16, 7, 7).transpose(0, 2, 3, 1).reshape(120, 784)
        parameters[name] = {"kernel": np.ascontiguousarray(weight.T), "bias": arrays[f"{name}.bias"]}
    return LeNet5().bind({"params": parameters})


def load_images(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The test images `(10000, 28, 28, 1)` in [0, 1], float32, and their labels."""
    arrays = np.load(path)
    images = (arrays["test_images"] / 255).astype(np.float32).reshape(-1, 28, 28, 1)
    return images, arrays["test_labels"].astype(np.int32)


def main(
    weights: pathlib.Path,
    mnist: pathlib.Path,
    out: pathlib.Path,
    eps: float = 1e-2,
    delta: float = 1e-3,
    literal: Annotated[bool, typer.Option(help="Evaluate the literal pruned network on all images.")] = True,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Compile, verify, and set the box's bound beside it."""
    target = load_target(weights)
    images, labels = load_images(mnist)
    start = time.perf_counter()
    found = slth.compile(target, eps, delta, domain=slth.Points(images), seed=seed, out=out, force=force)
    compiled = time.perf_counter()
    verdict = slth.verify(out, expected_id=found.ticket_id)
    verified = time.perf_counter()
    print(render_terminal(found.summary))
    print(verdict.to_text())
    print(f"compiled in {compiled - start:.1f} s, verified in {verified - compiled:.1f} s")
    box = found.certify(slth.Box(0.0, 1.0))
    print(f"box [0, 1]: certified {box.bound:.4f}")
    if literal:
        pruned = found.compact_network()
        evaluation = quality(found.folded, (images, labels), found, jax.jit(lambda x: pruned(x)), batch=50)
        print(f"target {evaluation.target:.4f}, ticket {evaluation.ticket:.4f}, literal {evaluation.literal:.4f}")
        print(f"literal network evaluated in {time.perf_counter() - verified:.1f} s")


if __name__ == "__main__":
    typer.run(main)
