"""da Cunha, Natale & Viennot (2022): their experiment with true subsets, then what they left out: the pruned network.

    python examples/experiments/dacunha2022.py OUT/ --data DIR

`DIR` holds `dacunha_lenet5_mnist.npz` and `dacunha_lenet5_fashionmnist.npz`, the parameters they published as
`examples/dacunha_lenet5.py` reads them, and `mnist.npz` with `test_images, test_labels`, uint8.

Theirs: every parameter of the two convolutions, biases too, becomes the best subset sum of n fresh numbers Uniform[-1,
1], by a mixed-integer solver whose x is not rounded to 0 and 1. Reported are the largest |error| of a tensor by its
largest |weight|, over tensors, and the largest |difference| of the second pool's output by its largest |output|. The
same here, with subsets that are optimal and true.

Ours: all five layers; every weight has one window of n products `2^g U V` of the source of a seed, g the least with
`max |w| <= 2^(g-1)` in its tensor; what is tested is the literal pruned random network of ten layers. Widths are the
least that offer every channel n usable copies but for a chance of 1e-3. No tolerance is planned and nothing certified:
that needs several windows (`examples/dacunha_lenet5.py`).

Without `fashion_mnist.npz` in `DIR` the Fashion-MNIST target is run on MNIST digits, which it does not know:
differences are real, but not theirs; accuracies would mean nothing and are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import pathlib
import statistics
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure
from scipy import stats

from slth_compile.cli.frame import progress_bars
from slth_compile.constructions.da_cunha import families
from slth_compile.frontends.model import import_model
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import MaxPool, Weighted
from slth_compile.lab.laws import draw_candidates
from slth_compile.progress import Progress
from slth_compile.source.dyadic import PRODUCT_BITS, masked_sum
from slth_compile.source.layout import Gadget, LayerLayout, Layout
from slth_compile.source.network import kernel_shape
from slth_compile.source.source import Generated
from slth_compile.source.threefry import tensor_key
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.subset_sum.search import Search
from slth_compile.ticket.apply import effective_layers, effective_weights
from slth_compile.ticket.coding import encode_family
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.materialise import network
from slth_compile.ticket.ticket import Ticket

PRINTED = {
    "MNIST": {5: 0.89, 10: 0.57, 15: 0.018, 20: 7.3e-4, 25: 7.7e-5, 30: 7.7e-6},
    "Fashion-MNIST": {5: 0.79, 10: 0.77, 15: 0.51, 20: 2.6e-3, 25: 1.5e-5, 30: 2.2e-5},
}
"""Their largest relative weight errors."""

TARGETS = {"MNIST": "dacunha_lenet5_mnist.npz", "Fashion-MNIST": "dacunha_lenet5_fashionmnist.npz"}
IMAGES = {"MNIST": "mnist.npz", "Fashion-MNIST": "fashion_mnist.npz"}
CHANCE = 1e-3
_CHUNK, _BATCH = 32, 500

Weights = dict[int, LayerWeights]


@dataclasses.dataclass(frozen=True)
class Row:
    """One target, one n.

    Attributes:
        target: Whose images it was trained on.
        n: Candidates of a weight.
        printed: Their largest relative weight error, where they have one.
        weight_errors: Ours, of the convolutions, from n fresh numbers, one for each draw of these.
        weight_median: The median over the convolutions' parameters, in the first draw.
        output_errors: Largest relative difference of the second pool's output, one for each draw.
        seconds: To solve the convolutions of a draw, median.
        product_weight_error: Largest relative weight error of all five layers, from n products.
        product_output_error: Largest relative difference of the second pool's output.
        logit_error: The same of the logits.
        widths: Copies of an input channel, layer by layer.
        kept: Kept weights of V for each weight.
        bits: Coded mask bits a weight.
        product_seconds: To solve all layers.
        target_accuracy: Of the target on the test images; None without its own images.
        accuracy: Of the literal pruned random network.
        agreement: Share of the images which target and pruned network classify alike.
    """

    target: str
    n: int
    printed: float | None
    weight_errors: tuple[float, ...]
    weight_median: float
    output_errors: tuple[float, ...]
    seconds: float
    product_weight_error: float
    product_output_error: float
    logit_error: float
    widths: tuple[int, ...]
    kept: float
    bits: float
    product_seconds: float
    target_accuracy: float | None
    accuracy: float | None
    agreement: float


def load_target(path: pathlib.Path) -> Graph:
    """The published network as a graph."""
    place = pathlib.Path(__file__).parents[1] / "dacunha_lenet5.py"
    spec = importlib.util.spec_from_file_location("dacunha_lenet5", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return import_model(module.load_target(path), (28, 28, 1))


# ---------------------------------------------------------------- theirs: fresh numbers for every weight


def fresh_subset_sums(targets: np.ndarray, n: int, seed: int, tensor: int) -> np.ndarray:
    """The best subset sums of n numbers Uniform[-1, 1] of each target's own, float64, exact, of the same shape."""
    goals = np.rint(np.ldexp(targets.astype(np.float64).reshape(-1), PRODUCT_BITS)).astype(np.int64)
    padded = np.pad(goals, (0, -goals.size % _CHUNK))
    with jax.enable_x64(True):
        sums = _fresh(n, tensor_key(seed, n, tensor), jnp.asarray(padded.reshape(-1, _CHUNK)))
        return np.ldexp(np.asarray(sums, np.float64).reshape(-1)[: goals.size], -PRODUCT_BITS).reshape(targets.shape)


@functools.partial(jax.jit, static_argnums=0)
def _fresh(n: int, key: Any, targets: jax.Array) -> jax.Array:
    """The sums that the best subsets of every problem keep, problems in chunks."""

    def solve(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        problems, goals = part
        candidates = jax.lax.optimization_barrier(draw_candidates("uniform", key, problems, n, jnp.int64(n)))
        return masked_sum(candidates, closest_subset(candidates, goals))

    problems = jnp.arange(targets.size, dtype=jnp.uint64).reshape(targets.shape)
    return jax.lax.map(solve, (problems, targets))


def fresh_convolutions(graph: Graph, n: int, seed: int) -> Weights:
    """The target's weights, those of the convolutions replaced by subset sums of fresh numbers."""
    weights = target_weights(graph)
    for layer, position in enumerate(graph.layers[:2]):
        own = weights[position]
        kernel = fresh_subset_sums(np.asarray(own.positive), n, seed, 2 * layer)
        bias = fresh_subset_sums(np.asarray(own.bias), n, seed, 2 * layer + 1)
        weights[position] = own._replace(positive=kernel, bias=bias)
    return weights


# ---------------------------------------------------------------- ours: products of a source, all layers


def least_width(n: int, channels: int, chance: float) -> int:
    """The least N of which no channel has fewer than n usable copies, but for a chance of `chance`."""
    width = n
    while channels * stats.binom.cdf(n - 1, width, 0.5) > chance:
        width += 1
    return width


def prune_source(graph: Graph, n: int, seed: int, progress: Progress) -> tuple[Ticket, int, int]:
    """The ticket whose every weight has one window of n products, the bytes of its masks, and what it keeps."""
    channels = sum(kernel_shape(_weighted(graph, i)).inputs + 1 for i in graph.layers)
    width, layers = least_width(n, channels, CHANCE), []
    for position in graph.layers:
        node = _weighted(graph, position)
        assert node.bias is not None
        kernel, bias = (Gadget(width=width, gain=_gain(w), window=n, tolerance=0.0, failure=None) for w in
                        (node.kernel, node.bias))  # fmt: skip
        layers.append(LayerLayout(signed=False, kernel=kernel, bias=bias))
    layout, source = Layout(eps=float("inf"), delta=None, layers=tuple(layers)), Generated(seed)
    total, done, masks, size = sum(_weighted(graph, i).kernel.size for i in graph.layers), 0, [], 0
    for layer, position in enumerate(graph.layers):
        parts = {}
        for family in families(source, layer, _weighted(graph, position), layout.layers[layer]):
            if family.counts.min() < n:
                raise SystemExit(f"n = {n}: a channel has fewer than n usable copies; choose another --seed")
            # One window each, whatever else a channel offers.
            one = dataclasses.replace(family, counts=np.full_like(family.counts, n))
            search = Search(one, lambda solved: None)
            search.settle(search.wanting(np.arange(one.weights.size)))
            shape = one.weights.shape
            parts[family.part] = SubsetMask(search.windows.reshape(shape), search.subsets.reshape(shape))
            size += len(encode_family(family, parts[family.part]))
        masks.append(parts)
        done += _weighted(graph, position).kernel.size
        progress(f"n = {n}", done, total)
    ticket = Ticket(layout, source, tuple(masks))
    return ticket, size, ticket.kept


def _weighted(graph: Graph, position: int) -> Weighted:
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    return node


def _gain(weights: np.ndarray) -> int:
    """The least g with `max |w| <= 2^(g-1)`."""
    return int(np.frexp(np.abs(weights).max())[1]) + 1


# ---------------------------------------------------------------- errors


def weight_errors(graph: Graph, weights: Weights, layers: int) -> list[np.ndarray]:
    """|error| by the largest |weight| of its tensor, for every tensor of the first layers."""
    found, own = [], target_weights(graph)
    for position in graph.layers[:layers]:
        pairs = [(own[position].positive, weights[position].positive), (own[position].bias, weights[position].bias)]
        for target, other in pairs:
            target = np.asarray(target, np.float64)
            found.append(np.abs(np.asarray(other, np.float64) - target) / np.abs(target).max())
    return found


def outputs(graph: Graph, weights: Weights | None, images: np.ndarray, position: int) -> np.ndarray:
    """A node's output for all images, in float64."""
    part = dataclasses.replace(graph, outputs=(position,))
    with jax.enable_x64(True):
        program = jax.jit(lambda x: evaluate(part, x, weights)[0])
        rows = range(0, len(images), _BATCH)
        return np.concatenate([np.asarray(program(images[i : i + _BATCH].astype(np.float64))) for i in rows])


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest |difference| by the largest |reference|."""
    return float(np.abs(found - reference).max() / np.abs(reference).max())


# ---------------------------------------------------------------- one target


def measure(
    name: str,
    graph: Graph,
    data: tuple[np.ndarray, np.ndarray | None],
    sizes: list[int],
    draws: int,
    seed: int,
    progress: Progress,
) -> list[Row]:
    """The rows of one target; of images that are not its own, labels are None."""
    images, labels = data
    stack, end = [i for i, node in enumerate(graph.nodes) if isinstance(node, MaxPool)][1], graph.outputs[0]
    pooled, logits = (outputs(graph, None, images, position) for position in (stack, end))
    parameters, rows = sum(w.positive.size + w.bias.size for w in target_weights(graph).values()), []  # type: ignore[union-attr]
    for n in sizes:
        fresh, seconds = [], []
        for draw in range(draws):
            start = time.perf_counter()
            fresh.append(fresh_convolutions(graph, n, seed + draw))
            seconds.append(time.perf_counter() - start)
        errors = [weight_errors(graph, weights, 2) for weights in fresh]
        start = time.perf_counter()
        ticket, size, kept = prune_source(graph, n, seed, progress)
        product_seconds = time.perf_counter() - start
        ours = effective_weights(graph, ticket, effective_layers(graph, ticket))
        literal = network(graph, ticket, compact=True)
        program = jax.jit(lambda x, literal=literal: jnp.argmax(jnp.asarray(literal(x)), -1))
        classes = np.concatenate([np.asarray(program(images[i : i + 100])) for i in range(0, len(images), 100)])
        rows.append(
            Row(
                target=name,
                n=n,
                printed=PRINTED[name].get(n),
                weight_errors=tuple(max(float(e.max()) for e in own) for own in errors),
                weight_median=float(np.median(np.concatenate([e.reshape(-1) for e in errors[0]]))),
                output_errors=tuple(relative(outputs(graph, weights, images, stack), pooled) for weights in fresh),
                seconds=statistics.median(seconds),
                product_weight_error=max(float(e.max()) for e in weight_errors(graph, ours, 5)),
                product_output_error=relative(outputs(graph, ours, images, stack), pooled),
                logit_error=relative(outputs(graph, ours, images, end), logits),
                widths=tuple(layer.kernel.width for layer in ticket.layout.layers),
                kept=kept / parameters,
                bits=8 * size / parameters,
                product_seconds=product_seconds,
                target_accuracy=None if labels is None else float(np.mean(logits.argmax(-1) == labels)),
                accuracy=None if labels is None else float(np.mean(classes == labels)),
                agreement=float(np.mean(classes == logits.argmax(-1))),
            )
        )
    return rows


HEADING = (
    *("target", "n", "weights, printed", "weights, here", "conv stack, here", "all layers, products: weights"),
    *("conv stack", "logits", "literal network", "like the target", "kept / weight", "bits / weight", "s"),
)


def middle(errors: tuple[float, ...]) -> str:
    """The median, and between what the draws lie."""
    return f"{statistics.median(errors):.2g} ({min(errors):.2g} to {max(errors):.2g})"


def markdown(rows: list[Row]) -> str:
    """The rows as a table; errors are relative."""
    lines: list[tuple[str, ...]] = [HEADING, ("---",) * len(HEADING)]
    for r in rows:
        printed = "-" if r.printed is None else f"{r.printed:.2g}"
        fresh = (middle(r.weight_errors), middle(r.output_errors))
        errors = (r.product_weight_error, r.product_output_error, r.logit_error)
        accuracy = "-" if r.accuracy is None else f"{100 * r.accuracy:.2f} %"
        sizes = (f"{100 * r.agreement:.2f} %", f"{r.kept:.2f}", f"{r.bits:.1f}", f"{r.seconds + r.product_seconds:.0f}")
        lines.append((r.target, str(r.n), printed, *fresh, *(f"{e:.2g}" for e in errors), accuracy, *sizes))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw(rows: list[Row]) -> Figure:
    """Errors against n, one panel a target."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    names = list(dict.fromkeys(row.target for row in rows))
    lines = (
        ("printed: weights", "printed", "#667085", "x--"),
        ("n fresh numbers, true subsets: weights", "weight_errors", "#0072b2", "o-"),
        ("their conv stack's output", "output_errors", "#56b4e9", "s-"),
        ("n products of a source, all layers: weights", "product_weight_error", "#d55e00", "D-"),
        ("their logits", "logit_error", "#e69f00", "^-"),
    )
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        own = [row for row in rows if row.target == name]
        for label, field, colour, style in lines:
            points = [(row.n, np.median(getattr(row, field))) for row in own if getattr(row, field) is not None]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4.5, linewidth=1.2)
        axes.set_title(f"LeNet5 of {name}", loc="left", fontsize=11)
        axes.set_yscale("log")
        axes.set_xlabel("candidates n of a weight")
        axes.grid(color="#d9dde3", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("largest relative error")
    figure.axes[0].legend(frameon=False, fontsize=8.5)
    return figure


def _shown(progress: Progress, name: str, stage: str, done: int, total: int) -> None:
    progress(f"{name}, {stage}", done, total)


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    data: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="Folder of the published weights and images.")],
    candidates: Annotated[str, typer.Option(help="Numbers of candidates n, 2 to 30.")] = "5,10,15,20,25,30",
    target: Annotated[str, typer.Option(help="MNIST, Fashion-MNIST, or both by default.")] = "MNIST,Fashion-MNIST",
    images: Annotated[int, typer.Option(help="Test images.")] = 10_000,
    draws: Annotated[int, typer.Option(help="Draws of fresh numbers.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the source.")] = 0,
) -> None:
    """Prints the table; writes it with a picture and JSON."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with progress_bars(quiet=False) as progress:
        for name in target.split(","):
            graph = load_target(data / TARGETS[name])
            own = (data / IMAGES[name]).is_file()
            arrays = np.load(data / (IMAGES[name] if own else IMAGES["MNIST"]))
            x = (arrays["test_images"][:images] / 255).astype(np.float32).reshape(-1, 28, 28, 1)
            labels = arrays["test_labels"][:images] if own else None
            sizes = [int(n) for n in candidates.split(",")]
            shown = functools.partial(_shown, progress, name)
            found = measure(name, graph, (x, labels), sizes, draws, seed, shown)
            rows += found
            accuracy = found[0].target_accuracy
            print(f"{name}: {'images of its own' if own else 'MNIST images in place of its own'}"
                  + ("" if accuracy is None else f", target {100 * accuracy:.2f} %"))  # fmt: skip
    (out / "results.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    (out / "results.md").write_text(markdown(rows))
    for kind in ("png", "svg"):
        draw(rows).savefig(out / f"plot.{kind}", dpi=150)
    print(markdown(rows))


if __name__ == "__main__":
    typer.run(main)
