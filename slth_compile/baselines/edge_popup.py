"""Networks found inside random ones: masks trained by scores, on weights that a seed gives and nobody changes.

    edge-popup   the k largest |score| of every layer, weights by both laws of `popup_source`
    Bernoulli    every entry kept with a probability of its own, on signed constants; begins at the density asked for
                 and is free to leave it; the network reported is one mask drawn at the end
    random       a random mask of the same size, on signed constants, never trained
    dense        the control: the same network with trained weights

What is found is a mask of the source: the network is the seed, the law and the mask.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import numpy as np

from slth_compile.baselines import masks
from slth_compile.baselines.data import Data
from slth_compile.baselines.networks import Conv4, Kernels, Layer, initial, kernels, layers, network
from slth_compile.baselines.popup_source import LAWS, SIGNED_CONSTANT, parse_law, random_kernels
from slth_compile.baselines.records import Records, begin
from slth_compile.baselines.scores import (
    Bernoulli,
    EdgePopup,
    bernoulli_masks,
    bernoulli_scores,
    popup_masks,
    popup_scores,
)
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
from slth_compile.baselines.train import Masked, Training, correct, fit, seed_key
from slth_compile.errors import InputError
from slth_compile.progress import Progress, silent

BERNOULLI, RANDOM = "Bernoulli", "random"
POPUP = {law: f"edge-popup, {law.replace('-', ' ')}" for law in LAWS}
"""The method's name for every law."""

TRAINING = Training(steps=2000, batch=32, rate=1e-3)
SAMPLING = Training(steps=2000, batch=32, rate=0.1)
CONTROL = Training(steps=2000, batch=32, rate=1e-3)
METHODS = (DENSE, *POPUP.values(), BERNOULLI, RANDOM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popup:
    """A study of masks on random weights.

    Attributes:
        network: One of `networks.NETWORKS`; without biases.
        width: Channels of the first convolutions of `conv-4`; None is its own default.
        densities: Kept fractions of the kernel entries.
        seeds: Seeds of the source, of scores and the order of the images.
        laws: Laws of the weights for edge-popup.
        bernoulli: Whether masks are also trained as probabilities.
        training: Of scores by edge-popup.
        sampling: Of scores as probabilities.
        control: Of the dense control's weights.
    """

    network: str = "conv-4"
    width: int | None = None
    densities: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2)
    laws: tuple[str, ...] = LAWS
    bernoulli: bool = True
    training: Training = TRAINING
    sampling: Training = SAMPLING
    control: Training = CONTROL

    def __post_init__(self) -> None:
        check_grid(self.densities, self.seeds)
        for law in self.laws:
            parse_law(law)
        if max(self.densities) == 1 and self.bernoulli:
            raise InputError("density 1: no probability is trained to it; leave it out, or leave out Bernoulli masks")
        if self.width is not None and (self.width < 1 or self.network != "conv-4"):
            raise InputError(f"width {self.width}: expected a positive number, and the network conv-4")

    @property
    def steps(self) -> int:
        """Steps of all trainings."""
        own = len(self.laws) * self.training.steps + (self.sampling.steps if self.bernoulli else 0)
        return len(self.seeds) * (self.control.steps + len(self.densities) * own)

    def model(self, classes: int) -> nn.Module:
        """The network."""
        if self.width is None:
            return network(self.network, classes, bias=False)
        return Conv4(classes=classes, bias=False, width=self.width)


@dataclasses.dataclass(frozen=True)
class _Search:
    """One seed of a study.

    Attributes:
        popup: The study.
        model: The network.
        layers: Its weighted layers.
        data: Labelled images.
        seed: The seed.
        records: What is finished.
    """

    popup: Popup
    model: nn.Module
    layers: tuple[Layer, ...]
    data: Data
    seed: int
    records: Records

    def key(self, purpose: int) -> jax.Array:
        """Randomness for a purpose: 0 initialisation, 1 training."""
        return jax.random.fold_in(seed_key(self.seed), purpose)

    def source(self, law: str) -> dict[str, np.ndarray]:
        """The random kernels of a law."""
        return random_kernels(self.layers, self.seed, law)

    def right(self, weights: Kernels, kept: Kernels) -> int:
        """Test images that the masked random network has right."""
        parameters = {name: {"kernel": kernel} for name, kernel in weights.items()}
        return correct(Masked(self.model), parameters, kept, self.data, self.key(1))

    def trial(self, method: str, density: float, arrays: Mapping[str, np.ndarray]) -> Trial:
        """A kept trial as a record."""
        return trial(method, density, self.seed, arrays, self.layers, self.data)


def search(
    popup: Popup,
    data: Data,
    out: pathlib.Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Study, Records]:
    """The study, whose masks are kept beside `out` until the records are finished.

    Args:
        popup: What to do.
        data: Labelled images.
        out: The final directory.
        resume: Whether an interrupted run is continued.
        force: Whether an existing directory is replaced.
        progress: Called as steps are done.
    """
    model = popup.model(data.classes)
    found = layers(model, data.shape)
    settings = settings_json("edge-popup", popup, data)
    records = begin(out, settings_text(settings), popup.steps, resume=resume, force=force, progress=progress)
    trials = []
    for seed in popup.seeds:
        one = _Search(popup, model, found, data, seed, records)
        trials.append(_dense(one))
        for density in popup.densities:
            trials += [_popped(one, law, density) for law in popup.laws]
            trials += [_sampled(one, density)] if popup.bernoulli else []
            trials.append(_random(one, density))
    return Study("edge-popup", settings, in_order(trials, METHODS)), records


@dataclasses.dataclass(frozen=True, eq=False)
class FoundMasks:
    """Masks of a random network that a study has found.

    Attributes:
        name: Of the network in the study's records.
        law: Of the random weights.
        masks: Layer by layer, in the order in which they are applied.
        trial: What they reached.
    """

    name: str
    law: str
    masks: tuple[np.ndarray, ...]
    trial: Trial


def found_masks(popup: Popup, data: Data, study: Study, records: Records) -> Iterator[FoundMasks]:
    """All masks that were trained, in the order of the study's trials.

    Args:
        popup: What was done.
        data: Labelled images.
        study: What came of it.
        records: Where its networks are kept.
    """
    order = layers(popup.model(data.classes), data.shape)
    laws = {method: (law, law) for law, method in POPUP.items()} | {BERNOULLI: ("bernoulli", SIGNED_CONSTANT)}
    for found in study.trials:
        if found.method in laws:
            prefix, law = laws[found.method]
            name = f"{prefix}-{found.density:g}-{found.seed}"
            kept = trial_masks(records.read(name))
            yield FoundMasks(name, law, tuple(kept[layer.name] for layer in order), found)


def _dense(one: _Search) -> Trial:
    def make(progress: Progress) -> dict[str, np.ndarray]:
        weights = initial(one.model, one.data.shape, one.key(0))
        kept, forward = masks.everything(kernels(weights)), Masked(one.model)
        trained = fit(forward, weights, kept, one.data, one.popup.control, one.key(1), progress=progress)
        return trial_arrays(correct(forward, trained, kept, one.data, one.key(1)), kept)

    return one.trial(DENSE, 1.0, one.records.once(f"dense-{one.seed}", one.popup.control.steps, make))


def _popped(one: _Search, law: str, density: float) -> Trial:
    def make(progress: Progress) -> dict[str, np.ndarray]:
        weights = one.source(law)
        counts = masks.counts(weights, density)
        scores, fixed = popup_scores(one.layers, one.key(0)), (weights, {n: np.int32(c) for n, c in counts.items()})
        scores = fit(EdgePopup(one.model), scores, fixed, one.data, one.popup.training, one.key(1), progress=progress)
        kept = popup_masks(scores, counts)
        return trial_arrays(one.right(weights, kept), kept)

    arrays = one.records.once(f"{law}-{density:g}-{one.seed}", one.popup.training.steps, make)
    return one.trial(POPUP[law], density, arrays)


def _sampled(one: _Search, density: float) -> Trial:
    def make(progress: Progress) -> dict[str, np.ndarray]:
        weights, scores = one.source(SIGNED_CONSTANT), bernoulli_scores(one.layers, density, one.key(0))
        scores = fit(Bernoulli(one.model), scores, weights, one.data, one.popup.sampling, one.key(1), progress=progress)
        kept = bernoulli_masks(scores, one.seed)
        return trial_arrays(one.right(weights, kept), kept)

    arrays = one.records.once(f"bernoulli-{density:g}-{one.seed}", one.popup.sampling.steps, make)
    return one.trial(BERNOULLI, density, arrays)


def _random(one: _Search, density: float) -> Trial:
    def make(progress: Progress) -> dict[str, np.ndarray]:
        weights = one.source(SIGNED_CONSTANT)
        shapes = {name: kernel.shape for name, kernel in weights.items()}
        kept = masks.at_random(shapes, masks.counts(weights, density), one.seed)
        return trial_arrays(one.right(weights, kept), kept)

    return one.trial(RANDOM, density, one.records.once(f"random-{density:g}-{one.seed}", 0, make))
