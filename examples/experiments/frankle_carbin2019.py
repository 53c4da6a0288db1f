"""Frankle & Carbin (2019) on MNIST: winning tickets of LeNet-300-100 beside fresh weights and random masks.

    python examples/experiments/frankle_carbin2019.py OUT/ --data DIR

`DIR/mnist.npz` holds `train_images, train_labels, test_images, test_labels`, uint8. Theirs trains for 50,000 steps,
stops early by a validation set, and prunes layer by layer, the last layer at half the rate. This one trains every level
for 2,000 steps (2 epochs) with the same optimiser, learning rate and batch (Adam, 1.2e-3, 60 images), tests what the
last step has left, and prunes all layers together. Writes tables, a figure and all masks; `--resume` continues a run
that was stopped.
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Annotated

import typer

from slth_compile.baselines import files, table
from slth_compile.baselines.data import load_data
from slth_compile.baselines.lottery import RANDOM, REINIT, WINNING, Lottery, draw_tickets
from slth_compile.baselines.study import DENSE, Study
from slth_compile.baselines.train import CONSTANT, Training
from slth_compile.cli.frame import progress_bars


def differences(study: Study, lottery: Lottery, level: int) -> list[str]:
    """What a level's winning tickets are beside dense networks and controls of the same seed, in points of accuracy."""

    def found(method: str, density: float) -> list[float]:
        return [100 * t.accuracy for t in study.trials if t.method == method and t.density == density]

    density, lines = lottery.density(level), []
    winning = found(WINNING, density)
    for method, other in ((DENSE, found(DENSE, 1.0)), *((m, found(m, density)) for m in (REINIT, RANDOM))):
        points = [a - b for a, b in zip(winning, other, strict=True)]
        spread = f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
        better = sum(point > 0 for point in points)
        lines.append(
            f"{table.percent(density)} kept: winning tickets - {method} = {statistics.fmean(points):+.2f}{spread} "
            f"points, better for {better} of {len(points)} seeds"
        )
    return lines


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    data: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="Folder of mnist.npz.")],
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of every training.")] = 2000,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT/.")] = False,
) -> None:
    """Prints the table and what it says about levels 7 (21 % kept) and 13 (5.5 % kept)."""
    lottery = Lottery(
        levels=13,
        controls=(1, 4, 7, 10, 13),
        seeds=tuple(range(seeds)),
        training=Training(steps=steps, batch=60, schedule=CONSTANT),
    )
    with progress_bars(quiet=False) as progress:
        images = load_data(str(data / "mnist.npz"))
        study, records = draw_tickets(lottery, images, out, resume=resume, force=force, progress=progress)
    files.write(study, records, "Lottery tickets of LeNet-300-100 on MNIST, after Frankle & Carbin (2019)")
    print(table.markdown(study))
    print("\n".join(line for level in (7, 13) for line in differences(study, lottery, level)))


if __name__ == "__main__":
    typer.run(main)
