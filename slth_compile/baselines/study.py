"""A study: networks pruned by several methods, to several densities, from several seeds; and what they reach."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slth_compile.baselines.accounting import Cost, cost
from slth_compile.baselines.data import Data
from slth_compile.baselines.networks import Kernels, Layer
from slth_compile.errors import InputError

DENSE = "dense"
"""The control: nothing pruned."""

_MASK = "mask."


@dataclasses.dataclass(frozen=True)
class Trial:
    """One pruned network, tested.

    Attributes:
        method: How it was pruned.
        density: The density asked for; that of `cost` differs from it by roundings.
        seed: Of everything random.
        correct: Test images with the right label.
        tested: Test images.
        cost: What is left of the network.
        correct_before: The same as `correct` before weights were fine-tuned; None where they never were.
    """

    method: str
    density: float
    seed: int
    correct: int
    tested: int
    cost: Cost
    correct_before: int | None = None

    @property
    def accuracy(self) -> float:
        """Share of the test images with the right label."""
        return self.correct / self.tested


@dataclasses.dataclass(frozen=True)
class Summary:
    """The trials of one method and density, over seeds.

    Attributes:
        method: The method.
        density: The density asked for.
        seeds: Number of trials.
        mean: Mean accuracy.
        deviation: Its standard deviation over seeds (n - 1 in the denominator); None for one seed.
        kept: Mean density of the masks.
        compression: Mean compression ratio.
        speedup: Mean theoretical speed-up.
    """

    method: str
    density: float
    seeds: int
    mean: float
    deviation: float | None
    kept: float
    compression: float
    speedup: float


@dataclasses.dataclass(frozen=True)
class Study:
    """Every trial of a study.

    Attributes:
        name: Which study.
        settings: What it depends on.
        trials: In the order of methods, densities, seeds.
    """

    name: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]

    def summaries(self) -> tuple[Summary, ...]:
        """Mean and standard deviation over seeds, for every method and density."""
        group = {trial: (trial.method, trial.density) for trial in self.trials}
        order = list(dict.fromkeys(group.values()))
        return tuple(_summary([trial for trial in self.trials if group[trial] == own]) for own in order)


def _summary(trials: Sequence[Trial]) -> Summary:
    accuracies = [trial.accuracy for trial in trials]
    return Summary(
        trials[0].method,
        trials[0].density,
        len(trials),
        statistics.fmean(accuracies),
        statistics.stdev(accuracies) if len(trials) > 1 else None,
        statistics.fmean(trial.cost.density for trial in trials),
        statistics.fmean(trial.cost.compression for trial in trials),
        statistics.fmean(trial.cost.speedup for trial in trials),
    )


def settings_json(name: str, settings: Any, data: Data) -> dict[str, Any]:
    """What the results of a study depend on."""
    counts = {"train": len(data.images), "test": len(data.test_images)}
    images = counts | {"shape": list(data.shape), "sha256": data.digest}
    return {"format": 1, "study": name, **json.loads(json.dumps(dataclasses.asdict(settings))), "data": images}


def settings_text(found: Mapping[str, Any]) -> str:
    """Settings as the text of a file."""
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def check_grid(densities: Sequence[float], seeds: Sequence[int]) -> None:
    """Nothing, where a study can be made of these.

    Raises:
        InputError: A density outside (0, 1], a seed outside 64 bits, or one of them twice.
    """
    if not densities or any(not 0 < density <= 1 for density in densities) or len(set(densities)) < len(densities):
        raise InputError(f"densities {list(densities)}: expected different numbers above 0 and up to 1")
    if not seeds or any(not 0 <= seed < 1 << 64 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {list(seeds)}: expected different integers from 0 to 2^64 - 1")


def trial_arrays(correct: int, masks: Kernels, before: int | None = None) -> dict[str, np.ndarray]:
    """A trial as arrays to keep."""
    counts = {"correct": np.int64(correct)} | ({} if before is None else {"correct_before": np.int64(before)})
    return {name: np.asarray(count) for name, count in counts.items()} | {_MASK + name: m for name, m in masks.items()}


def trial_masks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The masks of a kept trial."""
    return {name.removeprefix(_MASK): array for name, array in arrays.items() if name.startswith(_MASK)}


def trial(
    method: str, density: float, seed: int, arrays: Mapping[str, np.ndarray], layers: Sequence[Layer], data: Data
) -> Trial:
    """A kept trial as a record."""
    before = int(arrays["correct_before"]) if "correct_before" in arrays else None
    found = cost(layers, trial_masks(arrays))
    return Trial(method, density, seed, int(arrays["correct"]), len(data.test_images), found, before)


def in_order(trials: Sequence[Trial], methods: Sequence[str]) -> tuple[Trial, ...]:
    """Trials by method, then from dense to sparse, then by seed."""
    return tuple(sorted(trials, key=lambda found: (methods.index(found.method), -found.density, found.seed)))


def grid(densities: Sequence[float], seeds: Sequence[int]) -> list[tuple[int, float]]:
    """Seeds and densities, seed by seed."""
    return list(itertools.product(seeds, densities))
