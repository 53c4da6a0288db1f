"""Masks of given sizes: the largest magnitudes, or entries at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slth_compile.baselines.networks import Kernels


def counts(kernels: Kernels, density: float) -> dict[str, int]:
    """Entries to keep of every kernel: `density * size` to the nearest integer, at least one."""
    return {name: max(1, round(density * kernel.size)) for name, kernel in kernels.items()}


def largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """True at the `count` largest numbers; of equal ones at the first in C order."""
    order = np.argsort(-sizes.reshape(-1), kind="stable")
    mask = np.zeros(sizes.size, bool)
    mask[order[:count]] = True
    return mask.reshape(sizes.shape)


def layerwise(kernels: Kernels, density: float) -> dict[str, np.ndarray]:
    """The entries of largest magnitude of every kernel, `counts` of them."""
    kept = counts(kernels, density)
    return {name: largest(np.abs(kernel), kept[name]) for name, kernel in kernels.items()}


def overall(kernels: Kernels, count: int, allowed: Kernels | None = None) -> dict[str, np.ndarray]:
    """The `count` entries of largest magnitude of all kernels together.

    Args:
        kernels: The weights.
        count: Entries to keep, at most those allowed.
        allowed: Masks outside of which nothing is kept.
    """
    sizes = {name: np.abs(kernel) for name, kernel in kernels.items()}
    if allowed is not None:
        # Below every magnitude, zeros among them.
        sizes = {name: np.where(allowed[name], size, -1) for name, size in sizes.items()}
    flat = largest(np.concatenate([size.reshape(-1) for size in sizes.values()]), count)
    ends = np.cumsum([size.size for size in sizes.values()])[:-1]
    parts = zip(sizes.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(size.shape) for (name, size), part in parts}


def at_random(shapes: Mapping[str, tuple[int, ...]], kept: Mapping[str, int], *seed: int) -> dict[str, np.ndarray]:
    """Masks of `kept` entries of every layer, all such masks equally likely."""
    generator = np.random.default_rng((*seed, 0x72616E64))
    found = {}
    for name, shape in shapes.items():
        mask = np.zeros(int(np.prod(shape)), bool)
        mask[generator.permutation(mask.size)[: kept[name]]] = True
        found[name] = mask.reshape(shape)
    return found


def everything(kernels: Kernels) -> dict[str, np.ndarray]:
    """Masks that keep all."""
    return {name: np.ones(kernel.shape, bool) for name, kernel in kernels.items()}
