"""CPU seconds for proved bounds on the norms of layers, in compiler and checker, and how far apart the two are.

    python examples/benchmarks/layer_norms.py

Kernels are normal numbers: of networks as they are trained only the geometry matters here. `patches` is the bound that
does without frequencies, divided by the published one: what the torus gains.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from slth_compile.certificate import spectral
from slth_compile.checker.fold import Layer
from slth_compile.checker.spectral import layer_norm
from slth_compile.graph import nodes as n

Geometry = tuple[tuple[int, ...], int, int, tuple[int, ...]]
"""Shape of the kernel, stride, padding, shape of the input."""


def lenet5() -> Iterator[Geometry]:
    """Two convolutions of 5 x 5 and three dense layers."""
    yield (5, 5, 1, 6), 1, 2, (28, 28, 1)
    yield (5, 5, 6, 16), 1, 0, (14, 14, 6)
    for inputs, outputs in ((400, 120), (120, 84), (84, 10)):
        yield (inputs, outputs), 1, 0, (inputs,)


def resnet20() -> Iterator[Geometry]:
    """Nineteen convolutions of 3 x 3, two of 1 x 1, a dense layer, on 32 x 32 inputs."""
    yield (3, 3, 3, 16), 1, 1, (32, 32, 3)
    size, channels = 32, 16
    for block in range(9):
        stride, outputs = (2, 2 * channels) if block in (3, 6) else (1, channels)
        yield (3, 3, channels, outputs), stride, 1, (size, size, channels)
        if stride == 2:
            yield (1, 1, channels, outputs), stride, 0, (size, size, channels)
        size, channels = size // stride, outputs
        yield (3, 3, channels, channels), 1, 1, (size, size, channels)
    yield (64, 10), 1, 0, (64,)


CASES: dict[str, list[Geometry]] = {
    "LeNet5": list(lenet5()),
    "ResNet-20": list(resnet20()),
    "3x3x128x128 on 16x16": [((3, 3, 128, 128), 1, 1, (16, 16, 128))],
    "3x3x64x64 on 64x64": [((3, 3, 64, 64), 1, 1, (64, 64, 64))],
    "3x3x512x512 on 4x4": [((3, 3, 512, 512), 1, 1, (4, 4, 512))],
    "dense 1024x1024": [((1024, 1024), 1, 0, (1024,))],
    "dense 4096x4096": [((4096, 4096), 1, 0, (4096,))],
}


def main() -> None:
    """Prints one line a case."""
    rng = np.random.default_rng(0)
    print(f"{'one norm of every layer':24} {'compiler s':>10} {'checker s':>10} {'apart':>9} {'patches':>8}")
    for name, geometries in CASES.items():
        seconds, apart, gains = np.zeros(2), 0.0, []
        for shape, stride, padding, size in geometries:
            rank, kernel = len(shape) - 2, rng.normal(size=shape)
            fields = {"stride": (stride,) * rank, "padding": ((padding, padding),) * rank, "dilation": (1,) * rank}
            node = n.Convolution(inputs=(0,), kernel=kernel, **fields)
            layer = Layer(1, kernel.reshape(-1, *shape[-2:]), None, None, taps=shape[:-2], groups=1, **fields)
            centre = kernel.reshape(1, -1, shape[-1])
            start = time.process_time()
            mine = spectral.operator_norm(node, size, kernel)
            middle = time.process_time()
            own = layer_norm(layer, size, centre, np.zeros(centre.shape))
            seconds += middle - start, time.process_time() - middle
            apart = max(apart, abs(mine / own - 1))
            axes = [axis for axis in spectral.axes_of(node, size) if axis is not None]
            gains.append(spectral._by_patches(spectral._by_group(node, kernel, axes), axes) / mine)
        print(f"{name:24} {seconds[0]:10.2f} {seconds[1]:10.2f} {apart:9.0e} {np.median(gains):8.2f}", flush=True)


if __name__ == "__main__":
    main()
