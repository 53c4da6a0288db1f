"""A residual network of VNN-COMP 2021 (cifar10_resnet, `resnet_2b.onnx`) as a linen module with the published weights.

    python examples/resnet_2b.py resnet_2b.onnx

prints how far its logits are from those of onnxruntime. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import pathlib

import flax.linen as nn
import jax
import numpy as np
import typer

MEAN = np.array([0.4914, 0.4822, 0.4465])
STD = np.array([0.2471, 0.2435, 0.2616])
"""Of the pixels in [0, 1], a channel: the input is `(pixels - MEAN) / STD`."""

_CONVOLUTIONS = {
    "stem": "conv1",
    "conv1a": "layer1.0.conv1",
    "conv1b": "layer1.0.conv2",
    "shortcut": "layer1.0.shortcut.0",
    "conv2a": "layer1.1.conv1",
    "conv2b": "layer1.1.conv2",
}


class ResNet2b(nn.Module):
    """32x32 colour images to ten logits; six convolutions, two residual additions, two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, 10)` of normalised images `(batch, 32, 32, 3)`."""

        def conv(features: int, stride: int, name: str) -> nn.Conv:
            return nn.Conv(features, (3, 3), (stride, stride), padding=1, name=name)

        x = nn.relu(conv(8, 2, "stem")(x))
        y = conv(16, 1, "conv1b")(nn.relu(conv(16, 2, "conv1a")(x)))
        x = nn.relu(y + nn.Conv(16, (1, 1), (2, 2), padding="VALID", name="shortcut")(x))
        y = conv(16, 1, "conv2b")(nn.relu(conv(16, 1, "conv2a")(x)))
        x = nn.relu(y + x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(100, name="dense1")(x))
        return nn.Dense(10, name="dense2")(x)


def load_target(path: pathlib.Path) -> nn.Module:
    """The initialisers of the ONNX file in a bound `ResNet2b`."""
    import onnx
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    parameters = {}
    for name, source in _CONVOLUTIONS.items():
        kernel = arrays[f"{source}.weight"].transpose(2, 3, 1, 0)
        parameters[name] = {"kernel": np.ascontiguousarray(kernel), "bias": arrays[f"{source}.bias"]}
    first = (
        arrays["linear1.weight"].reshape(100, 16, 8, 8).transpose(0, 2, 3, 1)
    )  # channels come last here, first there
    for name, weight, source in (
        ("dense1", first.reshape(100, -1), "linear1"),
        ("dense2", arrays["linear2.weight"], "linear2"),
    ):
        parameters[name] = {"kernel": np.ascontiguousarray(weight.T), "bias": arrays[f"{source}.bias"]}
    return ResNet2b().bind({"params": parameters})


def normalised(pixels: np.ndarray, mean: np.ndarray = MEAN, std: np.ndarray = STD) -> np.ndarray:
    """Network inputs, float64, of pixels in [0, 1], channels last."""
    return (np.asarray(pixels, np.float64) - mean) / std


def distance_to_onnx(model: nn.Module, path: pathlib.Path, x: np.ndarray) -> float:
    """The largest difference of any logit to onnxruntime's, over inputs `(n, 32, 32, 3)`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = np.asarray(x, np.float32)
    each = (session.run(None, {name: row[None].transpose(0, 3, 1, 2)})[0] for row in rows)
    theirs = np.concatenate([np.asarray(one) for one in each])
    return float(np.abs(np.asarray(model(rows)) - theirs).max())


def main(weights: pathlib.Path) -> None:
    """Compare with onnxruntime on random images."""
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)) / 255
    print(f"largest difference of a logit: {distance_to_onnx(load_target(weights), weights, normalised(images)):.2e}")


if __name__ == "__main__":
    typer.run(main)
