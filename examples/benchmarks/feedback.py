"""What error feedback gains on inputs it never saw, at the same tolerances, widths and seed.

    python examples/benchmarks/feedback.py
    python examples/benchmarks/feedback.py --weights dacunha_lenet5_mnist.npz --mnist mnist.npz

Compiles twice, without and with `feedback`, and sets beside each other: root mean square and maximum of |f - g| in
float64 on held-out images, certified bounds on balls around some of them and on the whole box, bytes of the masks,
seconds spent solving (the first compile pays for XLA's, so one is thrown away). Without arguments the target is the
demo's CNN on scikit-learn's digits, calibrated on training images; else da Cunha et al.'s LeNet5 (see
`examples/dacunha_lenet5.py`), calibrated on MNIST's training images.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import numpy as np
import typer

import slth_compile as slth
from slth_compile.certificate.weight_errors import largest_error
from slth_compile.demo import digits, train
from slth_compile.graph.evaluate import evaluate
from slth_compile.ticket.format import MASKS

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))


def main(
    weights: pathlib.Path | None = None,
    mnist: pathlib.Path | None = None,
    eps: float = 1e-2,
    seeds: int = 3,
    samples: int = 512,
    balls: int = 20,
) -> None:
    """Compile without and with feedback, and print what each is worth."""
    target, calibration, held_out = _digits() if weights is None or mnist is None else _lenet(weights, mnist)
    domain, rows = slth.Points(held_out), []
    slth.compile(target, eps, domain=domain, attack=False)
    print("seed feedback       rms       max  balls .5  balls 2       box   largest error  mask bytes  solve s")
    for seed in range(seeds):
        pair = []
        for feedback in (None, calibration[:samples]):
            found = slth.compile(target, eps, domain=domain, seed=seed, feedback=feedback, attack=False)
            values = [*_difference(found, held_out), *_bounds(found, held_out[:balls])]
            errors = max(largest_error(layer) for layer in found.errors.values())
            written = len(found.files()[MASKS])
            figures = "  ".join(f"{value:8.2e}" for value in values)
            name = "no" if feedback is None else "yes"
            seconds = found.measured.seconds["solve"]
            print(f"{seed:4}  {name:7} {figures}  {errors:13.2e}  {written:10}  {seconds:7.1f}", flush=True)
            pair.append(values)
        rows.append(np.divide(*pair))
    gain = np.exp(np.mean(np.log(rows), 0))
    print("gain  (geometric) " + "  ".join(f"{value:7.2f}x" for value in gain))


def _difference(found: slth.Compiled, x: np.ndarray) -> tuple[float, float]:
    """Root mean square and maximum of |f - g|."""
    with jax.enable_x64(True):
        x = x.astype(np.float64)
        difference = np.asarray(evaluate(found.folded, x, found.weights)[0]) - np.asarray(evaluate(found.folded, x)[0])
    return float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max())


def _bounds(found: slth.Compiled, x: np.ndarray) -> list[float]:
    """Certified on balls of radius .5/255 and 2/255, and on the box [0, 1]."""
    domains = [slth.Balls(x, radius / 255, 0.0, 1.0) for radius in (0.5, 2.0)]
    return [found.certify(domain).bound for domain in (*domains, slth.Box(0.0, 1.0))]


def _digits() -> tuple[Any, np.ndarray, np.ndarray]:
    images, labels, held_out, _ = digits()
    return train(images, labels), images, held_out


def _lenet(weights: pathlib.Path, mnist: pathlib.Path) -> tuple[Any, np.ndarray, np.ndarray]:
    from dacunha_lenet5 import load_images, load_target

    training = (np.load(mnist)["train_images"][:10_000] / 255).astype(np.float32).reshape(-1, 28, 28, 1)
    return load_target(weights), training, load_images(mnist)[0][:2000]


if __name__ == "__main__":
    typer.run(main)
