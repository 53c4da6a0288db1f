"""One-shot magnitude pruning: train, prune by magnitude, fine-tune; beside it pruning at random and the dense network.

    global      the largest |w| of all layers together
    layerwise   the largest |w| of every layer, the same density in each
    random      entries of every layer at random, the same density in each

The baselines of Blalock et al. (2020). The dense control is trained and fine-tuned for as many steps as the others.
Biases are never pruned.
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
from slth_compile.baselines.networks import Layer, initial, kernels, layers, network
from slth_compile.baselines.records import Records, begin
from slth_compile.baselines.study import (
    DENSE,
    Study,
    Trial,
    check_grid,
    grid,
    in_order,
    settings_json,
    settings_text,
    trial,
    trial_arrays,
)
from slth_compile.baselines.train import CONSTANT, Masked, Training, correct, fit, seed_key
from slth_compile.progress import Progress, silent

GLOBAL, LAYERWISE, RANDOM = "global magnitude", "layerwise magnitude", "random"
METHODS = (DENSE, GLOBAL, LAYERWISE, RANDOM)
TRAINING = Training(steps=2000)
TUNING = Training(steps=500, rate=3e-4, schedule=CONSTANT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruning:
    """A study of one-shot pruning.

    Attributes:
        network: One of `networks.NETWORKS`.
        densities: Kept fractions of the kernel entries.
        seeds: Seeds of initialisation, order of the images and random masks.
        training: Of the dense network.
        tuning: Of what is left after pruning.
    """

    network: str = "lenet-300-100"
    densities: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625, 0.03125)
    seeds: tuple[int, ...] = (0, 1, 2)
    training: Training = TRAINING
    tuning: Training = TUNING

    def __post_init__(self) -> None:
        check_grid(self.densities, self.seeds)

    @property
    def steps(self) -> int:
        """Steps of all trainings."""
        pruned = (len(METHODS) - 1) * len(self.densities)
        return len(self.seeds) * (self.training.steps + (1 + pruned) * self.tuning.steps)


def prune(
    pruning: Pruning,
    data: Data,
    out: pathlib.Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Study, Records]:
    """The study, whose networks are kept beside `out` until the records are finished.

    Args:
        pruning: What to do.
        data: Labelled images.
        out: The final directory.
        resume: Whether an interrupted run is continued.
        force: Whether an existing directory is replaced.
        progress: Called as steps are done.
    """
    model = network(pruning.network, data.classes)
    found = layers(model, data.shape)
    settings = settings_json("one-shot pruning", pruning, data)
    records = begin(out, settings_text(settings), pruning.steps, resume=resume, force=force, progress=progress)
    trials = []
    for seed in pruning.seeds:
        weights = _dense(pruning, model, data, seed, records)
        trials.append(_tuned(pruning, model, found, data, (DENSE, 1.0, seed), weights, records))
        for _, density in grid(pruning.densities, (seed,)):
            for method in METHODS[1:]:
                trials.append(_tuned(pruning, model, found, data, (method, density, seed), weights, records))
    return Study("one-shot pruning", settings, in_order(trials, METHODS)), records


def masks_by(method: str, weights: Mapping[str, np.ndarray], density: float, seed: int) -> dict[str, np.ndarray]:
    """The masks of a method on trained kernels."""
    if method == DENSE:
        return masks.everything(weights)
    if method == GLOBAL:
        return masks.overall(weights, max(1, round(density * sum(kernel.size for kernel in weights.values()))))
    if method == LAYERWISE:
        return masks.layerwise(weights, density)
    shapes = {name: kernel.shape for name, kernel in weights.items()}
    return masks.at_random(shapes, masks.counts(weights, density), seed)


def _dense(pruning: Pruning, model: nn.Module, data: Data, seed: int, records: Records) -> Any:
    """Parameters of the trained dense network."""
    key = seed_key(seed)

    def make(progress: Progress) -> dict[str, np.ndarray]:
        parameters = initial(model, data.shape, jax.random.fold_in(key, 0))
        everything = masks.everything(kernels(parameters))
        own = jax.random.fold_in(key, 1)
        trained = fit(Masked(model), parameters, everything, data, pruning.training, own, progress=progress)
        named = ((f"{layer}.{kind}", leaf) for layer, leaves in trained.items() for kind, leaf in leaves.items())
        return {name: np.asarray(leaf) for name, leaf in named}

    parameters: dict[str, dict[str, np.ndarray]] = {}
    for name, array in records.once(f"trained-{seed}", pruning.training.steps, make).items():
        layer, kind = name.rsplit(".", 1)
        parameters.setdefault(layer, {})[kind] = array
    return parameters


def _tuned(
    pruning: Pruning,
    model: nn.Module,
    found: tuple[Layer, ...],
    data: Data,
    which: tuple[str, float, int],
    weights: Any,
    records: Records,
) -> Trial:
    """A pruned network, fine-tuned and tested."""
    method, density, seed = which
    forward, key = Masked(model), jax.random.fold_in(seed_key(seed), 2)

    def make(progress: Progress) -> dict[str, np.ndarray]:
        kept = masks_by(method, kernels(weights), density, seed)
        before = correct(forward, weights, kept, data, key)
        tuned = fit(forward, weights, kept, data, pruning.tuning, key, progress=progress)
        return trial_arrays(correct(forward, tuned, kept, data, key), kept, before)

    name = f"{method.replace(' ', '-')}-{density:g}-{seed}"
    return trial(*which, records.once(name, pruning.tuning.steps, make), found, data)
