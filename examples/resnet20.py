"""ResNet-20 for CIFAR-10 as a linen module with live batch norms, weights from a PyTorch checkpoint in safetensors.

    python -m examples.resnet20 resnet20_cifar10.safetensors resnet20_cifar10.onnx

prints how far its logits are from those of onnxruntime on the exported network. Names are PyTorch's of the usual
implementation (He et al. 2016, shortcuts of option A: every second pixel, zero channels on both sides).
"""

from __future__ import annotations

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import typer
from safetensors.numpy import load_file

from examples.resnet_2b import distance_to_onnx, normalised

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
"""Of the pixels in [0, 1], a channel: the input is `(pixels - MEAN) / STD`."""

STAGES, BLOCKS = (16, 32, 64), 3


class ResNet20(nn.Module):
    """32x32 colour images to ten logits; 269,722 parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, 10)` of normalised images `(batch, 32, 32, 3)`."""

        def layer(x: jax.Array, features: int, stride: int, name: str) -> jax.Array:
            conv = nn.Conv(features, (3, 3), (stride, stride), padding=1, use_bias=False, name=f"{name}_conv")
            return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"{name}_bn")(conv(x))

        x = nn.relu(layer(x, STAGES[0], 1, "stem"))
        for stage, features in enumerate(STAGES):
            for block in range(BLOCKS):
                name, stride = f"stage{stage}_block{block}", 2 if stage and not block else 1
                y = layer(nn.relu(layer(x, features, stride, f"{name}_1")), features, 1, f"{name}_2")
                if stride > 1:
                    missing = features - x.shape[-1]
                    x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (missing // 2, missing // 2)))
                x = nn.relu(y + x)
        return nn.Dense(10, name="dense")(x.mean((1, 2)))


def load_target(path: pathlib.Path) -> nn.Module:
    """The checkpoint in a bound `ResNet20`."""
    arrays = load_file(path)
    parameters, statistics = {}, {}

    def take(name: str, conv: str, norm: str) -> None:
        parameters[f"{name}_conv"] = {"kernel": np.ascontiguousarray(arrays[f"{conv}.weight"].transpose(2, 3, 1, 0))}
        parameters[f"{name}_bn"] = {"scale": arrays[f"{norm}.weight"], "bias": arrays[f"{norm}.bias"]}
        statistics[f"{name}_bn"] = {"mean": arrays[f"{norm}.running_mean"], "var": arrays[f"{norm}.running_var"]}

    take("stem", "conv1", "bn1")
    for stage in range(len(STAGES)):
        for block in range(BLOCKS):
            for part in (1, 2):
                source = f"layer{stage + 1}.{block}"
                take(f"stage{stage}_block{block}_{part}", f"{source}.conv{part}", f"{source}.bn{part}")
    parameters["dense"] = {"kernel": np.ascontiguousarray(arrays["linear.weight"].T), "bias": arrays["linear.bias"]}
    return ResNet20().bind({"params": parameters, "batch_stats": statistics})


def main(weights: pathlib.Path, onnx: pathlib.Path) -> None:
    """Compare with onnxruntime on random images."""
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)) / 255
    inputs = normalised(images, MEAN, STD)
    print(f"largest difference of a logit: {distance_to_onnx(load_target(weights), onnx, inputs):.2e}")


if __name__ == "__main__":
    typer.run(main)
