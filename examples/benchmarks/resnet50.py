"""A network of ResNet-50's size, compiled by the command line: seconds by stage, memory, bytes, bounds.

    python examples/benchmarks/resnet50.py [WORK/] [--window 16] [--eps 1e-2] [--effort normal] [--network plain]

`plain` has 25.5 million weights in eight layers, `resnet50` as many in ResNet-50's own 54. Weights are synthetic: He
fan-in, batch norms with the statistics of synthetic images. Nothing is downloaded, and nothing depends on how well the
network classifies.

What *any* errors within the tolerances could do, all 25 million of them with the worst signs, is 5e5 for windows of 16;
what the errors of a ticket do is about 1e-3. So `plain` is planned for typical errors; `--eps 5e5` promises for all of
them. Enclosures by intervals widen about tenfold a layer in networks with such weights: after eight layers rounding
alone makes up most of the bound that `--effort quick` finds in half the time, and the point is evaluated in fixed point
without it. Of `resnet50` the plan is of interest: `--network resnet50 --dry-run`.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import typer

SHAPE = (224, 224, 3)
PLAIN = ((64, 7, 2), (128, 3, 1), (256, 3, 2), (512, 3, 1), (1024, 3, 2), (1024, 3, 2), (960, 3, 1))
STAGES = (3, 4, 6, 3)
# flax knows pairs here as well, its annotation does not
POOL_PADDING: Any = [(1, 1)] * 2


class Plain(nn.Module):
    """Seven convolutions and a dense layer: images `(batch, 224, 224, 3)` to logits."""

    outputs: int = 1000
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, outputs)`."""
        for layer, (features, taps, stride) in enumerate(PLAIN):
            padding = [(taps // 2, taps // 2)] * 2
            name = f"conv{layer + 1}"
            x = nn.Conv(features, (taps, taps), (stride, stride), padding=padding, use_bias=False, name=name)(x)
            x = nn.BatchNorm(use_running_average=not self.train, momentum=0.0, name=f"norm{layer + 1}")(x)
            x = nn.relu(x)
            if layer == 0:
                x = nn.max_pool(x, (3, 3), (2, 2), padding=POOL_PADDING)
        return nn.Dense(self.outputs, name="head")(x.mean((1, 2)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, beside the identity or a projection."""

    features: int
    stride: int
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(batch, h, w, c)` to `(batch, h / stride, w / stride, 4 features)`."""
        conv = functools.partial(nn.Conv, use_bias=False, padding=[(0, 0)] * 2)
        stride = (self.stride, self.stride)
        y = nn.relu(self.norm(name="norm1")(conv(self.features, (1, 1), name="conv1")(x)))
        y = conv(self.features, (3, 3), stride, padding=[(1, 1)] * 2, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.norm(name="norm3")(conv(4 * self.features, (1, 1), name="conv3")(y))
        if x.shape != y.shape:
            x = self.norm(name="norm0")(conv(4 * self.features, (1, 1), stride, name="conv0")(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50 v1.5: images `(batch, 224, 224, 3)` to logits; 25.6 million parameters with 1000 outputs."""

    outputs: int = 1000
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(batch, outputs)`."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not self.train, momentum=0.0)
        x = nn.Conv(64, (7, 7), (2, 2), padding=[(3, 3)] * 2, use_bias=False, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=POOL_PADDING)
        for stage, blocks in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Bottleneck(64 << stage, stride, norm, name=f"stage{stage + 1}_block{block + 1}")(x)
        return nn.Dense(self.outputs, name="head")(x.mean((1, 2)))


NETWORKS = {"plain": Plain, "resnet50": ResNet50}


def plain() -> Plain:
    """The network in inference, for `--factory`."""
    return Plain()


def resnet50() -> ResNet50:
    """The network in inference, for `--factory`."""
    return ResNet50()


def images(count: int, seed: int = 0) -> np.ndarray:
    """Synthetic images in [0, 1]: noise on every scale, `(count, 224, 224, 3)` float32."""
    rng = np.random.default_rng(seed)
    total = np.zeros((count, *SHAPE))
    for size in (7, 14, 28, 56, 112, 224):
        total += rng.normal(size=(count, size, size, 3)).repeat(224 // size, 1).repeat(224 // size, 2)
    return (1 / (1 + np.exp(-total / 2))).astype(np.float32)


def synthetic_variables(network: str, seed: int = 0) -> dict[str, Any]:
    """Weights and statistics, float32; the last scales of residual blocks are below one as in trained networks."""
    rng = np.random.default_rng(seed)
    model = NETWORKS[network](train=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))

    def draw(path: Any, leaf: Any) -> np.ndarray:
        *_, layer, field = (part.key for part in path)
        if field == "kernel":
            gain = 1.0 if layer == "head" else 2.0
            return rng.normal(0, np.sqrt(gain / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        if field == "scale":
            low, high = (0.1, 0.5) if layer == "norm3" and network == "resnet50" else (0.7, 1.3)
            return rng.uniform(low, high, leaf.shape).astype(np.float32)
        if field == "bias":
            return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.zeros(leaf.shape, np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    # One pass in train mode: the statistics become those of the images.
    _, seen = jax.jit(lambda v, x: model.apply(v, x, mutable="batch_stats"))(variables, images(4, seed + 1))
    return {"params": variables["params"], "batch_stats": jax.tree.map(np.asarray, seen["batch_stats"])}


def write_inputs(folder: pathlib.Path, network: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The checkpoint and the one image that the benchmark compiles; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, image = folder / f"{network}.safetensors", folder / "image.npz"
    if not checkpoint.exists():
        flat, _ = jax.tree_util.tree_flatten_with_path(synthetic_variables(network))
        tensors = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in flat}
        safetensors.numpy.save_file(tensors, checkpoint)
    if not image.exists():
        np.savez(image, x=images(1))
    return checkpoint, image


def main(
    folder: Annotated[pathlib.Path | None, typer.Argument(metavar="[WORK/]", help="Where files are kept.")] = None,
    network: Annotated[str, typer.Option(help="plain or resnet50.")] = "plain",
    eps: str = "1e-2",
    effort: str = "normal",
    delta: float = 1e-3,
    window: int = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The plan alone.")] = False,
    check: Annotated[bool, typer.Option("--verify/--no-verify", help="Verify the ticket too, timed apart.")] = True,
) -> None:
    """Writes a checkpoint, compiles it in a process of its own, and verifies the ticket in another."""
    folder = folder or pathlib.Path(tempfile.mkdtemp(prefix="slth-resnet50-"))
    checkpoint, image = write_inputs(folder.absolute(), network)
    out = folder.absolute() / "ticket"
    here = pathlib.Path(__file__).resolve().parent
    command = [sys.executable, "-m", "slth_compile"]
    arguments = [
        *("compile", str(checkpoint), str(out), "--force", "--json", "--eps", eps, "--delta", str(delta)),
        *("--factory", f"resnet50:{network}", "--input-shape", ",".join(map(str, SHAPE))),
        *("--domain", f"points:{image}", "--window", str(window), "--effort", effort),
    ]
    if dry_run:
        found, seconds, memory = _timed([*command, *arguments, "--dry-run"], here)
        print(found)
        print(f"{'command':<12}{seconds:>9.1f}    peak memory {memory / 2**30:.2f} GiB")
        return
    found, seconds, memory = _timed([*command, *arguments], here)
    summary = json.loads(found)
    certified, size = summary["certified"][0], summary["size"]
    stages = summary["measured"]["seconds"]
    print(f"{'stage':<12}{'seconds':>9}")
    for stage, value in stages.items():
        print(f"{stage:<12}{value:>9.1f}")
    print(f"{'the rest':<12}{seconds - sum(stages.values()):>9.1f}    imports, checkpoint, reports, files")
    print(f"{'command':<12}{seconds:>9.1f}    peak memory {memory / 2**30:.2f} GiB")
    print(
        f"weights {size['weights']:,}, masks {size['mask_bytes']:,} bytes, {size['mask_bits_per_weight']:.2f} bits each"
    )
    print(
        f"largest output {certified['measured']['largest_output']:.4g}, eps {summary['asked']['eps']:.4g}, certified "
        f"{certified['bound']:.4g}, seen {certified['measured']['attack']['value']:.4g}"
    )
    if check:
        _, seconds, memory = _timed([*command, "verify", str(out), "--json"], here)
        print(f"{'verify':<12}{seconds:>9.1f}    peak memory {memory / 2**30:.2f} GiB")


def _timed(command: list[str], folder: pathlib.Path) -> tuple[str, float, int]:
    """Output, wall seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise typer.Exit(process.returncode)
    # Kilobytes on Linux, bytes on macOS.
    return output, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    typer.run(main)
