"""ResNet-20 for CIFAR-10 as a linen module with live batch norms, weights from a PyTorch checkpoint in safetensors.

    python -m examples.resnet20 resnet20_cifar10.safetensors resnet20_cifar10.onnx [cifar10_200.npz]
    slth-compile inspect resnet20_cifar10.safetensors --factory examples.resnet20:ResNet20 --input-shape 32,32,3

The first prints how far its logits are from those of onnxruntime on the exported network, and why. Modules are named as
in the usual implementation in PyTorch (He et al. 2016, shortcuts of option A: every second pixel, zero channels on both
sides), so that the checkpoint is read by name.
"""

from __future__ import annotations

import pathlib
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import typer

from examples.resnet_2b import distance_to_onnx, normalised
from slth_compile.frontends.checkpoint import load_model
from slth_compile.frontends.flax import import_model
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.fold import fold

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
"""Of the pixels in [0, 1], a channel: the input is `(pixels - MEAN) / STD`."""

SHAPE = (32, 32, 3)
STAGES, BLOCKS = (16, 32, 64), 3


class ResNet20(nn.Module):
    """32x32 colour images to ten logits; 269,722 parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, 10)` of normalised images `(batch, 32, 32, 3)`."""

        def layer(x: jax.Array, features: int, stride: int, block: str, part: int) -> jax.Array:
            conv = nn.Conv(features, (3, 3), (stride, stride), padding=1, use_bias=False, name=f"{block}conv{part}")
            return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"{block}bn{part}")(conv(x))

        x = nn.relu(layer(x, STAGES[0], 1, "", 1))
        for stage, features in enumerate(STAGES):
            for i in range(BLOCKS):
                block, stride = f"layer{stage + 1}_{i}_", 2 if stage and not i else 1
                y = layer(nn.relu(layer(x, features, stride, block, 1)), features, 1, block, 2)
                if stride > 1:
                    missing = features - x.shape[-1]
                    x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (missing // 2, missing // 2)))
                x = nn.relu(y + x)
        return nn.Dense(10, name="linear")(x.mean((1, 2)))


def load_target(path: pathlib.Path) -> nn.Module:
    """The checkpoint in a bound `ResNet20`."""
    return load_model(path, "examples.resnet20:ResNet20", input_shape=SHAPE)


def distances_in_float64(model: nn.Module, path: pathlib.Path, x: np.ndarray) -> tuple[float, float]:
    """The largest differences of a logit that float32 does not make in the arithmetic, and that batch norms make.

    Returns:
        Between the network with the ONNX file's weights, whose batch norms were folded in float32, and the checkpoint;
        between the graph folded here and the checkpoint. All in float64.
    """
    import onnx
    from onnx import numpy_helper

    graph = import_model(model, SHAPE)
    folded = fold(graph)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    kernels = [name for name in arrays if f"{name}_bias" in arrays]
    weights: dict[int, LayerWeights] = dict(target_weights(folded))
    for i, name in zip(folded.layers[:-1], kernels, strict=True):
        kernel = arrays[name].transpose(2, 3, 1, 0).astype(np.float64)
        weights[i] = LayerWeights(kernel, None, arrays[f"{name}_bias"].astype(np.float64))
    with jax.enable_x64(True):
        exact = evaluate(graph, np.asarray(x, np.float64))[0]
        theirs = evaluate(folded, np.asarray(x, np.float64), weights)[0]
        ours = evaluate(folded, np.asarray(x, np.float64))[0]
        return float(np.abs(theirs - exact).max()), float(np.abs(ours - exact).max())


def main(
    weights: pathlib.Path, onnx: pathlib.Path, data: Annotated[pathlib.Path | None, typer.Argument()] = None
) -> None:
    """Compare with onnxruntime on the images of an `.npz` file, or on random ones."""
    random = np.random.default_rng(0).integers(0, 256, (16, *SHAPE))
    images = random if data is None else np.load(data)["images"]
    inputs = normalised(images / 255, MEAN, STD).astype(np.float32)
    model = load_target(weights)
    theirs, ours = distances_in_float64(model, onnx, inputs)
    print(f"largest difference of a logit, {len(inputs)} images")
    print(f"  float32, flax and onnxruntime:                               {distance_to_onnx(model, onnx, inputs):.2e}")
    print(f"  float64, the checkpoint and the ONNX file's folded weights:  {theirs:.2e}")
    print(f"  float64, the checkpoint and batch norms folded here:         {ours:.2e}")


if __name__ == "__main__":
    typer.run(main)
