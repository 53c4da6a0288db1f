"""Networks that others trained and exported as ONNX, through every stage: import, compile, attack, save, verify.

    python -m examples.benchmarks.models --models DIR --data DIR [--only mnist-8,...] [--samples N] [--eps 1e-4rel] \
        [--markdown] [--json FILE]

from the repository's root; the folders are those of the published networks (`mnist-8.onnx`, `resnet20_cifar10.onnx`,
...) and of the images that they read (`mnist.npz`, `cifar10_200.npz`). A network without images is given random inputs
of a fixed seed, in the range that it reads.

The domain is the inputs named, as points. `onnxruntime` is the largest difference of an output of the imported graph to
onnxruntime's, both in float32, of the largest output. `eps`, `bound` (certified, in real arithmetic), `float32` (the
same where both networks run in float32) and `attack` (the largest difference seen, in float64) are in units of the
output; `largest` is the largest output. `top-1` is of the target and the ticket, where there are labels. Seconds are
wall seconds of the whole compile, attack and XLA's programs in them, and of the checker's run. `masks` are
`masks.safetensors`, `float32` bytes those of the target's kernels and biases, batch norms folded. A bound below an
attack or above eps, a distance to onnxruntime above 1e-5, a ticket that
the checker refuses or an eps out of reach fails the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import slth_compile as slth
from examples import resnet20, resnet_2b
from examples.resnet_2b import normalised
from slth_compile.frontends.model import import_model
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import evaluate
from slth_compile.graph.graph import Graph
from slth_compile.ticket.format import MASKS

AGREEMENT = 1e-5
"""How far an import may be from onnxruntime, of the largest output."""

HEADER = (
    "model",
    "inputs",
    "weights",
    "layers",
    "widths",
    "onnxruntime",
    "largest",
    "eps",
    "bound",
    "float32",
    "attack",
)
HEADER += ("top-1 target / ticket", "compile s", "verify s", "masks bytes", "float32 bytes")

Labelled = tuple[np.ndarray, np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Model:
    """A file and what it reads.

    Attributes:
        shape: Of one sample, channels last.
        inputs: From the data folder and a number of samples: inputs `(samples, *shape)` and their labels, if any.
        what: The inputs in words.
        samples: How many by default.
        channels_last: Whether the file itself has its channels last.
    """

    shape: tuple[int, ...]
    inputs: Callable[[pathlib.Path, int], Labelled]
    what: str
    samples: int = 200
    channels_last: bool = False


def mnist(divisor: float) -> Callable[[pathlib.Path, int], Labelled]:
    """The first test images of MNIST over a divisor."""

    def load(data: pathlib.Path, samples: int) -> Labelled:
        with np.load(data / "mnist.npz") as arrays:
            images, labels = arrays["test_images"][:samples], arrays["test_labels"][:samples]
        return images[..., None] / divisor, labels

    return load


def cifar(mean: Any, std: Any) -> Callable[[pathlib.Path, int], Labelled]:
    """The first of 200 test images of CIFAR-10, normalised."""

    def load(data: pathlib.Path, samples: int) -> Labelled:
        with np.load(data / "cifar10_200.npz") as arrays:
            images, labels = arrays["images"][:samples], arrays["labels"][:samples]
        return normalised(images / 255, mean, std), labels

    return load


def random(*shape: int) -> Callable[[pathlib.Path, int], Labelled]:
    """Uniform inputs in [-1, 1], the range that these networks' own preprocessing gives pixels; no labels."""

    def draw(data: pathlib.Path, samples: int) -> Labelled:
        return np.random.default_rng(0).uniform(-1.0, 1.0, (samples, *shape)), None

    return draw


MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
MODELS = {
    "mnist-8": Model(MNIST, mnist(1.0), "MNIST, 0 to 255"),
    "cnn_mnist_pytorch": Model(MNIST, mnist(1.0), "MNIST, 0 to 255"),
    "Convnet_maxpool": Model(MNIST, mnist(255.0), "MNIST, 0 to 1"),
    "cifar_base_kw": Model(CIFAR, cifar(resnet20.MEAN, 0.225), "CIFAR-10"),
    "resnet_2b": Model(CIFAR, cifar(resnet_2b.MEAN, resnet_2b.STD), "CIFAR-10"),
    "resnet20_cifar10": Model(CIFAR, cifar(resnet20.MEAN, resnet20.STD), "CIFAR-10"),
    "mtcnn_pnet": Model((12, 12, 3), random(12, 12, 3), "random, -1 to 1", channels_last=True),
    "ppocr_cls": Model((48, 192, 3), random(48, 192, 3), "random, -1 to 1", samples=20),
}


def distance_to_onnxruntime(graph: Graph, path: pathlib.Path, x: np.ndarray, channels_last: bool) -> float:
    """`max |ours - theirs| / max |theirs|` over samples and outputs, the largest of any output leaf."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = x if channels_last else np.moveaxis(x, -1, 1)
    # Most of these files have a batch of one.
    runs = [session.run(None, {name: np.ascontiguousarray(row[None])}) for row in rows]
    worst = 0.0
    for ours, *theirs in zip(jax.jit(lambda x: evaluate(graph, x))(x), *runs, strict=True):
        found = np.concatenate(theirs)
        found = found if channels_last or found.ndim != x.ndim else np.moveaxis(found, 1, -1)
        if found.shape != ours.shape:
            raise ValueError(f"{path}: onnxruntime's output is {found.shape}, the graph's {ours.shape}")
        worst = max(worst, float(np.abs(np.asarray(ours) - found).max() / np.abs(found).max()))
    return worst


def measure(name: str, model: Model, path: pathlib.Path, data: pathlib.Path, eps: str, samples: int) -> dict[str, Any]:
    """Everything about one file."""
    inputs, labels = model.inputs(data, samples)
    x = inputs.astype(np.float32)
    distance = distance_to_onnxruntime(check(import_model(path, model.shape)), path, x, model.channels_last)
    start = time.perf_counter()
    labelled = None if labels is None else (x, labels)
    out = slth.compile(path, eps, domain=slth.Points(x), input_shape=model.shape, evaluate=labelled)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        out.save(pathlib.Path(folder) / "out")
        start = time.perf_counter()
        slth.verify(pathlib.Path(folder) / "out")
        verify_seconds = time.perf_counter() - start
        sizes = {file.name: file.stat().st_size for file in (pathlib.Path(folder) / "out").iterdir()}
    summary, certified, seen = out.summary, out.certificate, out.measured.attacks[0]
    assert seen is not None
    evaluation = out.measured.evaluation
    return {
        "model": name,
        "inputs": f"{len(x)} {model.what}",
        "weights": summary.weights,
        "layers": len(summary.layers),
        "widths": [layer.width for layer in summary.layers],
        "onnxruntime": distance,
        "largest": summary.certificates[0].largest_output,
        "eps": summary.eps,
        "bound": certified.bound,
        "lower": certified.lower,
        "float32": certified.float32,
        "attack": seen.value,
        "accuracy": None if evaluation is None else [evaluation.target, evaluation.ticket],
        "seconds": out.measured.seconds | {"compile": seconds, "verify": verify_seconds},
        "bytes": sizes,
    }


def failures(found: dict[str, Any]) -> list[str]:
    """What is wrong with a line; a verification that fails ends the run by itself."""
    wrong = []
    if found["onnxruntime"] > AGREEMENT:
        wrong.append(f"{found['model']}: {found['onnxruntime']:.1e} from onnxruntime")
    if not found["attack"] <= found["bound"] <= found["eps"]:
        wrong.append(f"{found['model']}: not attack {found['attack']} <= bound {found['bound']} <= eps {found['eps']}")
    return wrong


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    accuracy, float32 = found["accuracy"], found["float32"]
    return [
        found["model"],
        found["inputs"],
        f"{found['weights']:,}",
        str(found["layers"]),
        f"{min(found['widths'])}-{max(found['widths'])}",
        f"{found['onnxruntime']:.1e}",
        f"{found['largest']:.4g}",
        *(f"{found[key]:.2e}" for key in ("eps", "bound")),
        "-" if float32 is None else f"{float32:.2e}",
        f"{found['attack']:.2e}",
        "-" if accuracy is None else " / ".join(f"{100 * value:.2f} %" for value in accuracy),
        f"{found['seconds']['compile']:.1f}",
        f"{found['seconds']['verify']:.1f}",
        f"{found['bytes'][MASKS]:,}",
        f"{4 * found['weights']:,}",
    ]


def show(rows: list[list[str]], markdown: bool) -> None:
    """Prints the table."""
    if markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *rows)))
        return
    table = Table(*HEADER)
    for line in rows:
        table.add_row(*line)
    Console(width=None if os.isatty(1) else 240).print(table)


def main(
    models: Annotated[pathlib.Path, typer.Option(help="Folder of the .onnx files.")],
    data: Annotated[pathlib.Path, typer.Option(help="Folder of the images in .npz.")],
    only: Annotated[str, typer.Option(help="Models, separated by commas.")] = ",".join(MODELS),
    samples: Annotated[int | None, typer.Option(help="Inputs of a model, in place of its own number.")] = None,
    eps: Annotated[str, typer.Option(help="As for compile.")] = "1e-4rel",
    markdown: Annotated[bool, typer.Option(help="Print the table in markdown.")] = False,
    output: Annotated[pathlib.Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Prints the table."""
    report: list[dict[str, Any]] = []
    refused: list[str] = []
    for name in only.split(","):
        model = MODELS[name]
        try:
            report.append(measure(name, model, models / f"{name}.onnx", data, eps, samples or model.samples))
        except slth.UnreachableError as error:
            refused.append(f"{name}: {error}")
            continue
        print(" | ".join(row(report[-1])), flush=True)
        if output is not None:
            output.write_text(json.dumps(report, indent=1))
    show([row(found) for found in report], markdown)
    if wrong := refused + [line for found in report for line in failures(found)]:
        print("\n".join(wrong))
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
