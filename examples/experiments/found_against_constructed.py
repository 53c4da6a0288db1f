"""One LeNet on MNIST, pruned in every way there is: what each way costs, what it leaves, what is proved about it.

    python examples/experiments/found_against_constructed.py OUT/ --data DIR

`DIR/mnist.npz` holds `train_images, train_labels, test_images, test_labels`, uint8. The network is LeNet5 with biases
(107,786 parameters; without them for random weights), every training has the same steps, batch and schedule:

    dense                  the target
    constructed ticket     a pruned random network of ten layers within eps of the target, certified over the test
                           images and in balls around a few of them; no gradient
    edge-popup             scores trained on random weights that never change, both laws, half of the weights kept
    winning ticket         a fifth less each level, rewound to step 0 and trained again (Frankle & Carbin 2019)
    one-shot magnitude     the largest of the dense network's weights, fine-tuned, as many as the winning ticket's

Writes a table, JSON, a figure, and the three networks that are a seed and a mask as ticket directories, each verified
by the checker. One seed: differences of some tenths of a point mean nothing.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure

import slth_compile as slth
from slth_compile.baselines import masks
from slth_compile.baselines.data import Data, load_data
from slth_compile.baselines.lottery import pruned
from slth_compile.baselines.networks import Layer, LeNet5, initial, kernels, layers, masked
from slth_compile.baselines.popup_source import LAWS, random_kernels
from slth_compile.baselines.scores import EdgePopup, popup_masks, popup_scores
from slth_compile.baselines.train import CONSTANT, Masked, Training, fit, seed_key
from slth_compile.checker import FoundVerdict, Verdict
from slth_compile.cli.frame import progress_bars
from slth_compile.found import Found
from slth_compile.frontends.model import import_model
from slth_compile.graph.evaluate import evaluate
from slth_compile.progress import Progress
from slth_compile.ticket.format import MASKS, mask_sizes
from slth_compile.ticket.found import encode_mask, found_ticket

LEVELS, RATE, POPUP_DENSITY = 7, 0.2, 0.5
_BATCH = 200


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of pruning.

    Attributes:
        method: Which.
        accuracy: On the test images; of the constructed ticket, that of its literal pruned random network.
        difference: Largest difference of any logit from the dense network's, seen on the test images, in float32.
        kept: Kept weights; of the constructed ticket, random weights of V.
        of: Out of how many.
        mask_bits: Bits of the coded masks; None where there is no mask.
        stored: Bytes that say the network: masks, weights in float32, a seed of 8 bytes.
        steps: Gradient steps, those of the network that it starts from included.
        own_steps: Those of its own.
        seconds: Wall clock, compilation of programs included, the start it shares with others not.
        certificate: What is proved, in words.
        bounds: Certified bounds on the difference from the dense network by kind of domain.
        verified: Seconds the checker took; None where there is nothing that it could check.
    """

    method: str
    accuracy: float
    difference: float
    kept: int
    of: int
    mask_bits: int | None
    stored: int
    steps: int
    own_steps: int
    seconds: float
    certificate: str
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    verified: float | None = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all ways share.

    Attributes:
        data: MNIST.
        model: The network.
        layers: Its weighted layers.
        training: Of everything.
        tuning: Steps of fine-tuning after one-shot pruning.
        seed: Of initialisation, order of the images, and sources.
        out: Where tickets go.
        progress: Called as trainings advance.
    """

    data: Data
    model: nn.Module
    layers: tuple[Layer, ...]
    training: Training
    tuning: int
    seed: int
    out: pathlib.Path
    progress: Progress

    def fit(self, what: str, forward: Any, trained: Any, fixed: Any, training: Training | None = None) -> Any:
        """What is trained, after the last step."""
        training = training or self.training
        key = jax.random.fold_in(seed_key(self.seed), 1)

        def shown(stage: str, done: int, total: int) -> None:
            self.progress(what, done, total)

        return fit(forward, trained, fixed, self.data, training, key, progress=shown)

    def logits(self, network: Callable[[Any], Any]) -> np.ndarray:
        """Of all test images, float32."""
        program, x = jax.jit(network), self.data.test_images
        return np.concatenate([np.asarray(program(x[i : i + _BATCH])) for i in range(0, len(x), _BATCH)])

    def accuracy(self, logits: np.ndarray) -> float:
        """Share of the test images that are classified rightly."""
        return float(np.mean(logits.argmax(-1) == self.data.test_labels))


def trained_row(
    bench: Bench,
    method: str,
    weights: Any,
    kept: dict[str, np.ndarray],
    dense: np.ndarray | None,
    cost: Sequence[float],
) -> tuple[Row, np.ndarray]:
    """The row of a network whose kept weights were trained, and its logits; `cost` is steps, own steps, seconds."""
    logits = bench.logits(lambda x: bench.model.apply({"params": masked(weights, kept)}, x))
    count, biases = (
        sum(int(np.count_nonzero(mask)) for mask in kept.values()),
        sum(layer.bias for layer in bench.layers),
    )
    size = sum(layer.size for layer in bench.layers)
    bits = None if count == size else 8 * sum(encode_mask(mask).size for mask in kept.values())
    steps, own, seconds = cost
    row = Row(
        method=method,
        accuracy=bench.accuracy(logits),
        difference=0.0 if dense is None else float(np.abs(logits - dense).max()),
        kept=count,
        of=size,
        mask_bits=bits,
        stored=4 * (count + biases) + (bits or 0) // 8,
        steps=int(steps),
        own_steps=int(own),
        seconds=seconds,
        certificate="none",
    )
    return row, logits


def one_shot(bench: Bench, target: Any, dense: np.ndarray, density: float) -> Row:
    """The largest weights of the dense network, fine-tuned."""
    start = time.perf_counter()
    weights = kernels(target)
    kept = masks.overall(weights, round(density * sum(kernel.size for kernel in weights.values())))
    tuning = Training(steps=bench.tuning, rate=3e-4, schedule=CONSTANT)
    tuned = bench.fit("one-shot", Masked(bench.model), target, kept, tuning)
    cost = (bench.training.steps + bench.tuning, bench.tuning, time.perf_counter() - start)
    return trained_row(bench, "one-shot magnitude", tuned, kept, dense, cost)[0]


def winning_ticket(bench: Bench, first: Any, target: Any, dense: np.ndarray) -> Row:
    """Iterative magnitude pruning; level 0 is the dense network."""
    start, kept, found = time.perf_counter(), masks.everything(kernels(first)), target
    for level in range(1, LEVELS + 1):
        kept = pruned(kernels(found), kept, RATE)
        found = bench.fit(f"level {level}", Masked(bench.model), first, kept)
    own = LEVELS * bench.training.steps
    cost = (bench.training.steps + own, own, time.perf_counter() - start)
    return trained_row(bench, "winning ticket", found, kept, dense, cost)[0]


def edge_popup(bench: Bench, law: str, dense: np.ndarray) -> Row:
    """Scores on random weights, and the ticket of what they keep."""
    start, model = time.perf_counter(), LeNet5(classes=bench.data.classes, bias=False)
    own = layers(model, bench.data.shape)
    weights = random_kernels(own, bench.seed, law)
    counts = masks.counts(weights, POPUP_DENSITY)
    scores = popup_scores(own, jax.random.fold_in(seed_key(bench.seed), 2))
    fixed = (weights, {name: np.int32(count) for name, count in counts.items()})
    scores = bench.fit(law, EdgePopup(model), scores, fixed)
    kept = popup_masks(scores, counts)
    seconds = time.perf_counter() - start
    graph = import_model(model.bind({"params": initial(model, bench.data.shape, seed_key(0))}), bench.data.shape)
    ticket = Found(found_ticket(graph, bench.seed, law, [kept[layer.name] for layer in own]))
    place = bench.out / f"edge-popup-{law}"
    ticket_id = ticket.save(place, force=True)
    begin = time.perf_counter()
    verdict = slth.verify(place, expected_id=ticket_id)
    verified = time.perf_counter() - begin
    assert isinstance(verdict, FoundVerdict)
    logits = bench.logits(ticket)
    return Row(
        method=f"edge-popup, {law.replace('-', ' ')}",
        accuracy=bench.accuracy(logits),
        difference=float(np.abs(logits - dense).max()),
        kept=verdict.kept,
        of=verdict.weights,
        mask_bits=ticket.bits,
        stored=8 + ticket.bits // 8,
        steps=bench.training.steps,
        own_steps=bench.training.steps,
        seconds=seconds,
        certificate=verdict.statement,
        verified=verified,
    )


def constructed(bench: Bench, target: Any, dense: np.ndarray, eps: float, balls: tuple[int, float]) -> Row:
    """The ticket that is within eps of the dense network, certified over the test images and in balls."""
    images, (count, radius) = bench.data.test_images, balls
    domains = (slth.Points(images), slth.Balls(images[:count], radius, 0.0, 1.0))
    model, place = bench.model.bind({"params": target}), bench.out / "constructed"
    start = time.perf_counter()
    out = slth.compile(
        model, eps, 1e-3, domain=domains, seed=bench.seed, attack=False, out=place, force=True, progress=bench.progress
    )
    seconds = time.perf_counter() - start
    verdict = slth.verify(place, expected_id=out.ticket_id)
    verified = time.perf_counter() - start - seconds
    assert isinstance(verdict, Verdict)
    points, within = (certificate.bound for certificate in out.certificates)
    literal = out.compact_network()
    logits = bench.logits(lambda x: literal(x))
    with jax.enable_x64(True):
        ranked = np.sort(bench.logits(lambda x: evaluate(out.folded, x.astype(np.float64))[0]), -1)
    # Both classes may move by the bound; float64 rounds far below the rest.
    sure = int(np.count_nonzero(ranked[:, -1] - ranked[:, -2] > 2 * points + 1e-9))
    bits = 8 * sum(mask_sizes((place / MASKS).read_bytes()).values())
    return Row(
        method="constructed ticket",
        accuracy=bench.accuracy(logits),
        difference=float(np.abs(logits - dense).max()),
        kept=verdict.kept,
        of=verdict.parameters_v,
        mask_bits=bits,
        stored=8 + bits // 8,
        steps=bench.training.steps,
        own_steps=0,
        seconds=seconds,
        certificate=f"logits within {points:.2g} on {len(images):,} test images, {sure:,} predictions cannot differ; "
        f"within {within:.2g} in {count} balls of {255 * radius:g}/255",
        bounds={"points": points, "balls": within},
        verified=verified,
    )


HEADING = (
    *("method", "accuracy", "logits differ by", "kept", "mask bits a weight", "stored"),
    *("gradient steps", "seconds", "proved"),
)


def markdown(rows: Sequence[Row], weights: int) -> str:
    """The table; mask bits are by weight of the dense network."""
    lines: list[Sequence[str]] = [HEADING, ("---",) * len(HEADING)]
    for r in rows:
        bits = "-" if r.mask_bits is None else f"{r.mask_bits / weights:.2f}"
        steps = f"{r.own_steps:,}" if r.own_steps == r.steps else f"{r.own_steps:,} (after {r.steps - r.own_steps:,})"
        kept = f"{r.kept:,} of {r.of:,}" + ("" if r.bounds else f" ({100 * r.kept / r.of:.3g} %)")
        checked = "" if r.verified is None else f" (verified in {r.verified:.1f} s)"
        difference = "-" if r.difference == 0 else f"{r.difference:.2g}"
        sizes = (bits, f"{r.stored / 1024:.0f} KiB", steps, f"{r.seconds:.0f}")
        lines.append((r.method, f"{100 * r.accuracy:.2f} %", difference, kept, *sizes, r.certificate + checked))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw(rows: Sequence[Row]) -> Figure:
    """Accuracy against what is stored, what was trained, and how far the logits are from the dense network's."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    colours, markers = ("#1b1f24", "#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7"), "so^Dvx"
    panels = (
        ("stored: mask, weights, seed [KiB]", [row.stored / 1024 for row in rows]),
        ("gradient steps, those of the start included", [row.steps for row in rows]),
        ("largest difference of a logit from the dense one's", [row.difference or None for row in rows]),
    )
    for axes, (label, values) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for row, value, colour, marker in zip(rows, values, colours, markers, strict=True):
            if value is not None:  # the dense network does not differ from itself
                # What is proved is filled.
                face, size = (colour, 6) if row.bounds else ("none", 10)
                place = {"color": colour, "markerfacecolor": face, "markersize": size, "label": row.method}
                axes.plot(value, 100 * row.accuracy, marker, **place)
        axes.set_xlabel(label)
        axes.grid(color="#d9dde3", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[:2]:
        axes.set_xlim(left=0)
    figure.axes[2].set_xscale("log")
    figure.axes[0].set_ylabel("accuracy on the test images [%]")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=len(rows))
    return figure


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    data: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="Folder of mnist.npz.")],
    steps: Annotated[int, typer.Option(help="Steps of every training.")] = 1000,
    tuning: Annotated[int, typer.Option(help="Steps of fine-tuning after one-shot pruning.")] = 500,
    eps: Annotated[float, typer.Option(help="Allowed difference of any logit.")] = 1e-2,
    balls: Annotated[int, typer.Option(help="Test images around which balls are certified.")] = 5,
    radius: Annotated[float, typer.Option(help="Of the balls, in steps of a pixel's 255.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Prints the table; writes it with JSON, a figure and the tickets."""
    out.mkdir(parents=True, exist_ok=True)
    with progress_bars(quiet=False) as progress:
        images = load_data(str(data / "mnist.npz"))
        model = LeNet5(classes=images.classes)
        training = Training(steps=steps)
        bench = Bench(images, model, layers(model, images.shape), training, tuning, seed, out, progress)
        start = time.perf_counter()
        first = initial(model, images.shape, jax.random.fold_in(seed_key(seed), 0))
        everything = masks.everything(kernels(first))
        target = bench.fit("dense", Masked(model), first, everything)
        target = jax.tree.map(jnp.asarray, target)
        cost = (steps, steps, time.perf_counter() - start)
        row, dense = trained_row(bench, "dense", target, everything, None, cost)
        rows = [row, constructed(bench, target, dense, eps, (balls, radius / 255))]
        rows += [edge_popup(bench, law, dense) for law in LAWS]
        rows.append(winning_ticket(bench, first, target, dense))
        rows.append(one_shot(bench, target, dense, rows[-1].kept / rows[-1].of))
    weights = sum(layer.size + layer.bias for layer in bench.layers)
    (out / "results.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    (out / "results.md").write_text(markdown(rows, weights))
    for kind in ("png", "svg"):
        draw(rows).savefig(out / f"plot.{kind}", dpi=150)
    print(markdown(rows, weights))


if __name__ == "__main__":
    typer.run(main)
