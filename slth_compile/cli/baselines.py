"""`prune`, `lottery` and `edge-popup`: what found tickets reach, over seeds and densities."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from slth_compile.cli.frame import Force, Json, Quiet, Resume, app, output, progress_bars
from slth_compile.errors import InputError
from slth_compile.interrupts import wait_for_steps

if TYPE_CHECKING:
    from slth_compile.baselines.data import Data
    from slth_compile.baselines.edge_popup import Popup
    from slth_compile.baselines.records import Records
    from slth_compile.baselines.study import Study

Paths = Annotated[
    list[pathlib.Path],
    typer.Argument(
        metavar="[FILE.npz] OUT/",
        help="Labelled images (train_images, train_labels, test_images, test_labels; or x, y), by default "
        "scikit-learn's digits; and where to write.",
    ),
]
Network = Annotated[str, typer.Option(help="lenet-300-100 | lenet-5 | conv-4.")]
Densities = Annotated[list[float] | None, typer.Option("--density", help="Kept fraction of the weights; repeatable.")]
Seeds = Annotated[int, typer.Option(help="Number of seeds: 0, 1, ...")]
Steps = Annotated[int, typer.Option(help="Steps of every training.")]
Samples = Annotated[int | None, typer.Option(help="Train on the first of the images only.")]


@app.command()
def prune(
    paths: Paths,
    network: Network = "lenet-300-100",
    density: Densities = None,
    seeds: Seeds = 3,
    steps: Steps = 2000,
    tuning_steps: Annotated[int, typer.Option(help="Steps of fine-tuning after pruning.")] = 500,
    samples: Samples = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One-shot magnitude pruning, global and layerwise, beside random pruning and the dense network."""
    wait_for_steps()
    from slth_compile.baselines import magnitude

    pruning = magnitude.Pruning(
        network=network,
        densities=tuple(density or magnitude.Pruning.densities),
        seeds=tuple(range(seeds)),
        training=dataclasses.replace(magnitude.TRAINING, steps=steps),
        tuning=dataclasses.replace(magnitude.TUNING, steps=tuning_steps),
    )
    data, out = _data(paths, samples)
    with progress_bars(quiet or as_json) as progress:
        study, records = magnitude.prune(pruning, data, out, resume=resume, force=force, progress=progress)
    _finish(study, records, f"One-shot pruning of {network}", as_json)


@app.command()
def lottery(
    paths: Paths,
    network: Network = "lenet-300-100",
    levels: Annotated[int, typer.Option(help="Times a fifth of what is left is pruned.")] = 13,
    control: Annotated[
        list[int] | None, typer.Option(help="Level with controls; repeatable. Default: 1, 4, ...")
    ] = None,
    rewind: Annotated[int, typer.Option(help="Step whose weights a ticket begins with.")] = 0,
    seeds: Seeds = 3,
    steps: Steps = 1500,
    samples: Samples = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Iterative magnitude pruning with rewinding, beside fresh weights and random masks."""
    wait_for_steps()
    from slth_compile.baselines import lottery as tickets

    plan = tickets.Lottery(
        network=network,
        levels=levels,
        controls=tuple(control or range(1, levels + 1, 3)),
        rewind=rewind,
        seeds=tuple(range(seeds)),
        training=dataclasses.replace(tickets.TRAINING, steps=steps),
    )
    data, out = _data(paths, samples)
    with progress_bars(quiet or as_json) as progress:
        study, records = tickets.draw_tickets(plan, data, out, resume=resume, force=force, progress=progress)
    _finish(study, records, f"Lottery tickets of {network}", as_json)


@app.command()
def edge_popup(
    paths: Paths,
    network: Network = "conv-4",
    width: Annotated[int | None, typer.Option(help="Channels of the first convolutions of conv-4.")] = None,
    density: Densities = None,
    law: Annotated[
        list[str] | None,
        typer.Option(help="Of the weights: signed-constant, kaiming-normal; repeatable. Default: both."),
    ] = None,
    bernoulli: Annotated[bool, typer.Option(help="Train masks as probabilities too.")] = True,
    seeds: Seeds = 3,
    steps: Steps = 2000,
    samples: Samples = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Masks found by training scores on random weights that never change, beside the trained network."""
    wait_for_steps()
    from slth_compile.baselines import edge_popup as found

    popup = found.Popup(
        network=network,
        width=width,
        densities=tuple(density or found.Popup.densities),
        seeds=tuple(range(seeds)),
        laws=tuple(law or found.Popup.laws),
        bernoulli=bernoulli,
        training=dataclasses.replace(found.TRAINING, steps=steps),
        sampling=dataclasses.replace(found.SAMPLING, steps=steps),
        control=dataclasses.replace(found.CONTROL, steps=steps),
    )
    data, out = _data(paths, samples)
    with progress_bars(quiet or as_json) as progress:
        study, records = found.search(popup, data, out, resume=resume, force=force, progress=progress)
        tickets = _tickets(popup, data, study, records)
    _finish(study, records, f"Masks of a random {network}", as_json, tickets)


def _data(paths: list[pathlib.Path], samples: int | None) -> tuple[Data, pathlib.Path]:
    """The images and the output that the arguments name."""
    from slth_compile.baselines.data import Data, load_data

    if len(paths) > 2:
        raise InputError(f"found {len(paths)} arguments; expected [FILE.npz] OUT/")
    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: expected at least 1")
    *files, out = paths
    if files:
        data = load_data(str(files[0]))
    else:
        from slth_compile.demo import digits

        data = Data(*digits())
    return data.first(samples), out


def _tickets(popup: Popup, data: Data, study: Study, records: Records) -> dict[str, bytes]:
    """Every mask as a ticket directory: the files by path within OUT/."""
    from slth_compile.baselines.edge_popup import found_masks
    from slth_compile.baselines.networks import initial
    from slth_compile.baselines.train import seed_key
    from slth_compile.found import Found
    from slth_compile.frontends.model import import_model
    from slth_compile.ticket.found import found_ticket

    model = popup.model(data.classes)
    graph, files = import_model(model.bind({"params": initial(model, data.shape, seed_key(0))}), data.shape), {}
    for found in found_masks(popup, data, study, records):
        trial = found.trial
        stats = {"method": trial.method, "density_asked": trial.density, "correct": trial.correct,
                 "tested": trial.tested, "accuracy": trial.accuracy, "data": data.digest}  # fmt: skip
        ticket = Found(found_ticket(graph, trial.seed, found.law, found.masks), stats)
        files |= {f"tickets/{found.name}/{name}": content for name, content in ticket.files().items()}
    return files


def _finish(
    study: Study, records: Records, heading: str, as_json: bool, further: dict[str, bytes] | None = None
) -> None:
    from slth_compile.baselines import files, table

    files.write(study, records, heading, further)
    if as_json:
        print(json.dumps(table.study_json(study) | {"out": str(records.out)}))
        return
    shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    # The number of seeds is in the line above; a narrow terminal has no room for it.
    for i, title in enumerate(table.HEADING[:-1]):
        shown.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in table.rows(study):
        shown.add_row(*row[:-1])
    tested, seeds = study.trials[0].tested, len({trial.seed for trial in study.trials})
    print(f"{heading}; accuracy in per cent of {tested} test images, mean ± standard deviation over {seeds} seeds")
    output.print(shown)
    tickets = ", tickets" if further else ""
    print(f"tables, picture and masks{tickets}: {records.out.absolute()}")
