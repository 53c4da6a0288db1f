"""Length of coded masks against the ideal code of their model, and the speed of writing and reading them on one core.

    python examples/benchmarks/coding.py

Masks are drawn: windows of 16 candidates, one weight in ten keeps nothing, a candidate of context c is kept with
probability p. Seconds are those of the process, candidates and their contexts not included.
"""

from __future__ import annotations

import time

import numpy as np

from slth_compile.checker.decode import decode_mask
from slth_compile.checker.safetensors import Tensor
from slth_compile.ticket.coding import CONTEXTS, decode, encode
from slth_compile.ticket.masks import SubsetMask

WINDOW, OFFERED = 16, 6
SHARES = (0.30, 0.20, 0.15, 0.10, 0.10, 0.05, 0.05, 0.05)
"""Of the contexts."""


def drawn(weights: int, p: float) -> tuple[SubsetMask, np.ndarray]:
    """A mask and the contexts of the candidates of those that keep something."""
    rng = np.random.default_rng(weights)
    contexts = rng.choice(CONTEXTS, size=(weights, WINDOW), p=SHARES).astype(np.uint8)
    bits = (rng.random((weights, WINDOW), np.float32) < p) & (rng.random((weights, 1)) < 0.9)
    subsets = np.packbits(np.pad(bits, ((0, 0), (0, 16))), axis=1, bitorder="little").view("<u4")[:, 0]
    windows = np.where(subsets == 0, 0, np.minimum(OFFERED - 1, rng.geometric(0.9, weights) - 1)).astype(np.uint16)
    return SubsetMask(windows, subsets), contexts[subsets != 0]


def ideal_bits(mask: SubsetMask, contexts: np.ndarray) -> float:
    """Empirical entropy of all sequences."""
    kept = mask.subsets != 0
    numbers = mask.windows[kept]
    bits = (mask.subsets[kept][:, None] >> np.arange(WINDOW, dtype=np.uint32)) & 1
    sequences = [~kept, *(numbers[numbers >= j] > j for j in range(int(mask.windows.max())))]
    sequences += [bits[contexts == c] for c in range(CONTEXTS)]
    return sum(s.size * _entropy(float(s.mean())) for s in sequences if s.size)


def _entropy(p: float) -> float:
    return 0.0 if p in (0, 1) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def main() -> None:
    """One line a size and probability."""
    print("  weights     p  bytes coded   ideal  overhead    write     read  checker  (Mbit/s of subset bits)")
    for weights in (10, 100, 1000, 10_000, 100_000, 1_000_000):
        for p in (0.5, 0.2, 0.05):
            mask, contexts = drawn(weights, p)
            moments = [time.process_time()]
            coded = encode(mask, WINDOW, contexts)
            moments.append(time.process_time())
            again = decode(coded, (weights,), WINDOW, OFFERED, lambda flat, windows, own=contexts: own)
            moments.append(time.process_time())
            tensor = Tensor("U8", coded.shape, coded)
            found = decode_mask(tensor, weights, WINDOW, OFFERED, lambda windows, kept, own=contexts: own, "mask")
            moments.append(time.process_time())
            assert np.array_equal(again.subsets, mask.subsets) and np.array_equal(found.subsets, mask.subsets)
            ideal = ideal_bits(mask, contexts) / 8
            speeds = weights * WINDOW / 1e6 / np.maximum(np.diff(moments), 1e-9)
            print(
                f"{weights:>9}  {p:>4}  {len(coded):>11}  {ideal:>6.0f}  {100 * (len(coded) / ideal - 1):>6.2f} %  "
                + "  ".join(f"{speed:>7.1f}" for speed in speeds)
            )


if __name__ == "__main__":
    main()
