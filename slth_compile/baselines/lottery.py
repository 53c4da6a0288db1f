"""Lottery tickets: train, prune a fifth of what is left by global magnitude, rewind, and again.

    winning ticket  the weights of step k under the mask, trained from there
    random reinit   the same mask on fresh weights, trained from the beginning
    random prune    the weights of step k under a random mask that keeps as many entries of every layer

Frankle & Carbin (2019) have k = 0, Frankle et al. (2020) a later step. Level 0 is the dense network, trained from step
k as well. Biases are never pruned.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from slth_compile.baselines import masks
from slth_compile.baselines.data import Data
from slth_compile.baselines.networks import Kernels, Layer, initial, kernels, layers, network
from slth_compile.baselines.records import Records, begin
from slth_compile.baselines.study import (
    DENSE,
    Study,
    Trial,
    check_grid,
    in_order,
    settings_json,
    settings_text,
    trial,
    trial_arrays,
    trial_masks,
)
from slth_compile.baselines.train import CONSTANT, Masked, Training, correct, fit, seed_key
from slth_compile.errors import InputError
from slth_compile.progress import Progress, silent

WINNING, REINIT, RANDOM = "winning ticket", "random reinit", "random prune"
METHODS = (DENSE, WINNING, REINIT, RANDOM)
TRAINING = Training(steps=1500, schedule=CONSTANT)
_NEXT = "next."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lottery:
    """A study of lottery tickets.

    Attributes:
        network: One of `networks.NETWORKS`.
        levels: Times something is pruned.
        rate: Fraction of what is left that is pruned each time.
        controls: Levels at which both controls are trained.
        rewind: The step k whose weights a ticket begins with.
        seeds: Seeds of initialisation, order of the images and controls.
        training: Of every level.
    """

    network: str = "lenet-300-100"
    levels: int = 14
    rate: float = 0.2
    controls: tuple[int, ...] = (1, 3, 7, 10, 13)
    rewind: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    training: Training = TRAINING

    def __post_init__(self) -> None:
        check_grid((1.0,), self.seeds)
        if self.levels < 1 or not 0 < self.rate < 1 or not 0 <= self.rewind < self.training.steps:
            raise InputError(
                f"levels {self.levels}, rate {self.rate:g}, rewind {self.rewind}: expected at least one level, a rate "
                f"in (0, 1) and a step from 0 to {self.training.steps - 1} to rewind to"
            )
        if any(not 1 <= level <= self.levels for level in self.controls):
            raise InputError(f"control levels {list(self.controls)}: expected levels from 1 to {self.levels}")

    @property
    def steps(self) -> int:
        """Steps of all trainings."""
        rest = self.training.steps - self.rewind
        own = self.rewind + (1 + self.levels) * rest + len(set(self.controls)) * (self.training.steps + rest)
        return len(self.seeds) * own

    def density(self, level: int) -> float:
        """The density of a level, but for roundings."""
        return (1 - self.rate) ** level


@dataclasses.dataclass(frozen=True)
class _Draw:
    """One seed of a study.

    Attributes:
        lottery: The study.
        model: The network.
        layers: Its weighted layers.
        data: Labelled images.
        seed: The seed.
        records: What is finished.
    """

    lottery: Lottery
    model: nn.Module
    layers: tuple[Layer, ...]
    data: Data
    seed: int
    records: Records

    def key(self, purpose: int, number: int = 0) -> jax.Array:
        """Randomness for a purpose: 0 initialisation, 1 order of the images, 2 fresh weights."""
        return jax.random.fold_in(jax.random.fold_in(seed_key(self.seed), purpose), number)

    def trained(self, weights: Any, kept: Kernels, start: int, progress: Progress) -> tuple[Any, int]:
        """Weights after the training's last step, and the test images they have right."""
        forward, training = Masked(self.model), self.lottery.training
        found = fit(forward, weights, kept, self.data, training, self.key(1), start=start, progress=progress)
        return found, correct(forward, found, kept, self.data, self.key(1))

    def trial(self, method: str, level: int, arrays: Mapping[str, np.ndarray]) -> Trial:
        """A kept trial as a record."""
        return trial(method, self.lottery.density(level), self.seed, arrays, self.layers, self.data)


def draw_tickets(
    lottery: Lottery,
    data: Data,
    out: pathlib.Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Study, Records]:
    """The study, whose networks are kept beside `out` until the records are finished.

    Args:
        lottery: What to do.
        data: Labelled images.
        out: The final directory.
        resume: Whether an interrupted run is continued.
        force: Whether an existing directory is replaced.
        progress: Called as steps are done.
    """
    model = network(lottery.network, data.classes)
    found = layers(model, data.shape)
    settings = settings_json("lottery tickets", lottery, data)
    records = begin(out, settings_text(settings), lottery.steps, resume=resume, force=force, progress=progress)
    trials = [trial for seed in lottery.seeds for trial in _levels(_Draw(lottery, model, found, data, seed, records))]
    return Study("lottery tickets", settings, in_order(trials, METHODS)), records


def rewound(draw: _Draw) -> Any:
    """The weights a ticket begins with: those of step k of the dense network's training."""
    weights = initial(draw.model, draw.data.shape, draw.key(0))
    everything = masks.everything(kernels(weights))
    training, stop = draw.lottery.training, draw.lottery.rewind
    return fit(Masked(draw.model), weights, everything, draw.data, training, draw.key(1), stop=stop)


def _levels(draw: _Draw) -> list[Trial]:
    lottery, start = draw.lottery, rewound(draw)
    draw.records.done += lottery.rewind
    rest, kept, trials = lottery.training.steps - lottery.rewind, masks.everything(kernels(start)), []
    for level in range(lottery.levels + 1):

        def make(progress: Progress, kept: dict[str, np.ndarray] = kept) -> dict[str, np.ndarray]:
            found, right = draw.trained(start, kept, lottery.rewind, progress)
            fewer = pruned(kernels(found), kept, lottery.rate)
            return trial_arrays(right, kept) | {_NEXT + name: mask for name, mask in fewer.items()}

        arrays = draw.records.once(f"level-{level}-{draw.seed}", rest, make)
        trials.append(draw.trial(WINNING if level else DENSE, level, arrays))
        if level in lottery.controls:
            trials += _controls(draw, level, start, trial_masks(arrays))
        kept = {name.removeprefix(_NEXT): mask for name, mask in arrays.items() if name.startswith(_NEXT)}
    return trials


def pruned(weights: Kernels, kept: Kernels, rate: float) -> dict[str, np.ndarray]:
    """Masks without the `rate` smallest of the entries that are kept, over all layers; one at least stays."""
    count = sum(int(np.count_nonzero(mask)) for mask in kept.values())
    return masks.overall(weights, max(1, round((1 - rate) * count)), kept)


def _controls(draw: _Draw, level: int, start: Any, kept: dict[str, np.ndarray]) -> list[Trial]:
    lottery = draw.lottery

    def reinit(progress: Progress) -> dict[str, np.ndarray]:
        fresh = initial(draw.model, draw.data.shape, draw.key(2, level))
        return trial_arrays(draw.trained(fresh, kept, 0, progress)[1], kept)

    def random(progress: Progress) -> dict[str, np.ndarray]:
        shapes = {name: mask.shape for name, mask in kept.items()}
        counts = {name: int(np.count_nonzero(mask)) for name, mask in kept.items()}
        other = masks.at_random(shapes, counts, draw.seed, level)
        return trial_arrays(draw.trained(start, other, lottery.rewind, progress)[1], other)

    rest = lottery.training.steps - lottery.rewind
    again = draw.records.once(f"reinit-{level}-{draw.seed}", lottery.training.steps, reinit)
    anywhere = draw.records.once(f"random-{level}-{draw.seed}", rest, random)
    return [draw.trial(REINIT, level, again), draw.trial(RANDOM, level, anywhere)]
