"""The pairs of networks and the domains that the engines of `certificates.py` are measured on.

A pair is one folded graph `f` and the errors of `g`: a published pair, float16 kernels, a ticket, or kernels moved by
`E ~ U[-1, 1] * 1e-4 * max|W|` in every layer, biases kept.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

import slth_compile as slth
from examples import dacunha_lenet5, resnet20, resnet_2b
from slth_compile import demo
from slth_compile.certificate.difference import LayerErrors
from slth_compile.domain import Box
from slth_compile.frontends.flax import import_model
from slth_compile.graph import nodes as n
from slth_compile.graph.check import check, nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph

UNIFORM = 1e-4
"""Largest error of a kernel entry, of the layer's largest weight."""

BOX_STARTS = 32

Arrays = Mapping[int, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two networks of one graph.

    Attributes:
        name: What `f` and `g` are.
        graph: The folded graph, with the weights of `f`.
        errors: `g - f` of every layer, as the engines take it.
        weights: Of `g`, as float64 evaluation takes them.
    """

    name: str
    graph: Graph
    errors: Mapping[int, LayerErrors]
    weights: Mapping[int, LayerWeights]

    def only(self, output: int) -> Pair:
        """The pair with one output of its last layer, a dense one; the errors stay as they are."""
        last = self.graph.outputs[0]
        node, weights = self.graph.nodes[last], self.weights[last]
        assert isinstance(node, n.Dense) and node.bias is not None and weights.bias is not None
        rows = slice(output, output + 1)
        node = dataclasses.replace(node, kernel=node.kernel[:, rows], bias=node.bias[rows], bias_error=None)
        weights = weights._replace(positive=weights.positive[:, rows], bias=weights.bias[rows])
        graph = dataclasses.replace(self.graph, nodes=(*self.graph.nodes[:last], node))
        return dataclasses.replace(self, graph=graph, weights={**self.weights, last: weights})


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A pair over regions, each bounded and attacked on its own.

    Attributes:
        pair: The two networks.
        domain: The regions in words.
        lower: Lower ends, float64, shape `(regions, *input_shape)`.
        upper: Upper ends, likewise.
        starts: Where the prototype's attack starts, shape `(regions, starts, *input_shape)`.
        restarts: Starts of this project's attack in every region.
        labels: The one output that counts in every region, shape `(regions,)`; None where all do.
        climb: Steps and relative step size of the prototype's attack.
    """

    pair: Pair
    domain: str
    lower: np.ndarray
    upper: np.ndarray
    starts: np.ndarray
    restarts: int = 4
    labels: np.ndarray | None = None
    climb: tuple[int, float] = (200, 0.05)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """`f` and `g` of inputs in float64, shape `(2, samples, outputs)`."""
        with jax.enable_x64(True):
            networks = target_weights(self.pair.graph), self.pair.weights
            return np.stack([np.asarray(evaluate(self.pair.graph, x, weights)[0]) for weights in networks])

    def attacked(self, steps: int | None, starts: int | None) -> Case:
        """The same with other steps of the prototype's attack and at most so many starts of both; None keeps them."""
        restarts = self.restarts if starts is None else min(starts, self.restarts)
        climb = self.climb if steps is None else (steps, self.climb[1])
        return dataclasses.replace(self, starts=self.starts[:, :starts], restarts=restarts, climb=climb)

    def region(self, k: int) -> tuple[Pair, Box]:
        """One region, and the pair with the outputs that count there."""
        pair = self.pair if self.labels is None else self.pair.only(int(self.labels[k]))
        return pair, Box(self.lower[k], self.upper[k], pair.graph.input_shape)


def graph_of(model: Any, shape: tuple[int, ...]) -> Graph:
    """The folded graph of a model."""
    return fold(check(import_model(model, shape)))


def kernels_of(graph: Graph) -> dict[int, np.ndarray]:
    """Every kernel by node position."""
    return {i: np.asarray(weights.positive) for i, weights in target_weights(graph).items()}


def pair_of(name: str, graph: Graph, kernels: Arrays, biases: Arrays, *, nonnegative: bool, exact: bool) -> Pair:
    """The pair of `graph` and the network whose kernels and biases are off by the given arrays.

    Args:
        name: Of the pair.
        graph: `f`, folded.
        kernels: `E` of every layer, by node position.
        biases: `e_b` of the layers that have one.
        nonnegative: Whether the inputs are >= 0.
        exact: True where the arrays are the errors, False where they are differences rounded to float64.
    """
    signs = nonnegative_nodes(graph, nonnegative)
    errors, weights = {}, {}
    for i in graph.layers:
        node, error, shift = graph.nodes[i], kernels[i], biases.get(i)
        assert isinstance(node, n.Weighted)
        radius = node.kernel_error * np.abs(node.kernel) if node.kernel_error else 0.0
        rounding = 0.0 if exact else np.spacing(np.abs(error).max())
        bias_rounding = 0.0 if exact or shift is None else np.spacing(np.abs(shift).max())
        signed = not signs[node.inputs[0]]
        errors[i] = LayerErrors(
            positive_center=error,
            positive_radius=radius + rounding,
            negative_center=error if signed else None,
            negative_radius=radius + rounding if signed else None,
            bias_center=shift,
            bias_radius=None if node.bias is None else bias_rounding + (0.0 if (e := node.bias_error) is None else e),
        )
        bias = node.bias if node.bias is None or shift is None else node.bias + shift
        weights[i] = LayerWeights(node.kernel + error, None, bias)
    return Pair(name, graph, errors, weights)


def uniform_pair(name: str, graph: Graph, *, nonnegative: bool) -> Pair:
    """The pair of a graph and one with every kernel moved by up to `UNIFORM` of its layer's largest weight."""
    rng = np.random.default_rng(0)
    kernels = {i: rng.uniform(-1, 1, w.shape) * UNIFORM * np.abs(w).max() for i, w in kernels_of(graph).items()}
    return pair_of(f"{name}, E = {UNIFORM:g} uniform", graph, kernels, {}, nonnegative=nonnegative, exact=True)


def float16_pair(name: str, graph: Graph, *, nonnegative: bool) -> Pair:
    """The pair of a graph and one whose kernels went through float16."""
    kernels = {i: w.astype(np.float16).astype(np.float64) - w for i, w in kernels_of(graph).items()}
    return pair_of(f"{name}, float16 kernels", graph, kernels, {}, nonnegative=nonnegative, exact=False)


def balls(pair: Pair, domain: str, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, **rest: Any) -> Case:
    """The case of balls around `x`; the prototype starts at the samples and at three random points of each ball."""
    share = np.random.default_rng(1).uniform(size=(len(x), 3, *x.shape[1:]))
    random = lower[:, None] + share * (upper - lower)[:, None]
    return Case(pair, domain, lower, upper, np.concatenate([x[:, None], random], axis=1), **rest)


def box(pair: Pair, x: np.ndarray) -> Case:
    """The case of the box [0, 1]; the prototype starts at samples, and at as many random points."""
    x = x[: BOX_STARTS // 2]
    starts = np.concatenate([x, np.random.default_rng(1).uniform(size=x.shape)])
    lower, upper = np.zeros_like(x[:1]), np.ones_like(x[:1])
    return Case(pair, "box [0, 1]", lower, upper, starts[None], restarts=BOX_STARTS)


def reludiff(data: pathlib.Path, models: pathlib.Path, samples: int | None) -> Iterator[Case]:
    """784-100-100-10-10 on MNIST, float32 and float16 weights, pixels moved by up to p/255, the label's output."""
    arrays = np.load(data / "reludiff_mnist_3_100.npz")
    nodes: list[n.Node] = [n.Input(shape=(784,))]
    kernels, biases = {}, {}
    for i in range(4):
        if i:
            nodes.append(n.Relu(inputs=(len(nodes) - 1,)))
        kernel, bias = arrays[f"f_w{i}"].T, arrays[f"f_b{i}"]
        kernels[len(nodes)], biases[len(nodes)] = arrays[f"g_w{i}"].T - kernel, arrays[f"g_b{i}"] - bias
        nodes.append(n.Dense(inputs=(len(nodes) - 1,), kernel=kernel, bias=bias))
    graph = fold(Graph(tuple(nodes), (len(nodes) - 1,)))
    pair = pair_of("ReluDiff MNIST, float16", graph, kernels, biases, nonnegative=True, exact=False)
    count = 30 if samples is None else samples
    x, labels = arrays["images"][:count] / 255, arrays["labels"][:count].astype(int)
    for p in (3, 8):
        lower, upper = np.clip(x - p / 255, 0, 1), np.clip(x + p / 255, 0, 1)
        yield Case(pair, f"balls {p}/255, label", lower, upper, x[:, None], labels=labels, climb=(30, 0.2))


def digits(data: pathlib.Path, models: pathlib.Path, samples: int | None) -> Iterator[Case]:
    """The demo's network, two convolutions and a dense layer with max-pools, and the demo's ticket of it."""
    images, labels, held_out, _ = demo.digits()
    model = demo.train(images, labels)
    x = held_out.astype(np.float64)
    yield box(uniform_pair("digits CNN", graph_of(model, x.shape[1:]), nonnegative=True), x)
    found = slth.compile(model, demo.EPS, demo.DELTA, domain=(slth.Points(held_out), Box(0.0, 1.0)), attack=False)
    yield box(Pair("digits CNN, its ticket", found.folded, found.errors, found.weights), x)


def lenet(data: pathlib.Path, models: pathlib.Path, samples: int | None) -> Iterator[Case]:
    """The LeNet5 of da Cunha et al. on MNIST, with max-pools."""
    graph = graph_of(dacunha_lenet5.load_target(data / "dacunha_lenet5_mnist.npz"), (28, 28, 1))
    pair = uniform_pair("da Cunha LeNet5", graph, nonnegative=True)
    images = dacunha_lenet5.load_images(data / "mnist.npz")[0].astype(np.float64)
    x = images[: 20 if samples is None else samples]
    for p in (0.5, 2):
        yield balls(pair, f"balls {p:g}/255", x, np.clip(x - p / 255, 0, 1), np.clip(x + p / 255, 0, 1))
    yield box(pair, images)


def resnet_2b_float16(data: pathlib.Path, models: pathlib.Path, samples: int | None) -> Iterator[Case]:
    """The VNN-COMP network and its float16 kernels."""
    model = resnet_2b.load_target(models / "resnet_2b.onnx")
    pair = float16_pair("resnet_2b", graph_of(model, (32, 32, 3)), nonnegative=False)
    yield from _cifar(pair, model, data, (0.5, 2), 3 if samples is None else samples, resnet_2b.MEAN, resnet_2b.STD)


def resnet20_uniform(data: pathlib.Path, models: pathlib.Path, samples: int | None) -> Iterator[Case]:
    """ResNet-20, batch norms folded."""
    model = resnet20.load_target(models / "resnet20_cifar10.safetensors")
    pair = uniform_pair("ResNet-20", graph_of(model, (32, 32, 3)), nonnegative=False)
    yield from _cifar(pair, model, data, (0.02, 0.5), 1 if samples is None else samples, resnet20.MEAN, resnet20.STD)


def _cifar(
    pair: Pair,
    model: Callable[[np.ndarray], Any],
    data: pathlib.Path,
    radii: tuple[float, ...],
    samples: int,
    mean: np.ndarray,
    std: np.ndarray,
) -> Iterator[Case]:
    """Balls around the first samples the model is right about; radii are of pixels in [0, 255]."""
    arrays = np.load(data / "cifar10_200.npz")
    pixels = arrays["images"] / 255
    found = np.asarray(model(resnet_2b.normalised(pixels, mean, std).astype(np.float32))).argmax(axis=1)
    pixels = pixels[found == arrays["labels"]][:samples]
    x = resnet_2b.normalised(pixels, mean, std)
    for p in radii:
        lower, upper = (np.clip(pixels + sign * p / 255, 0, 1) for sign in (-1, 1))
        ends = (resnet_2b.normalised(end, mean, std) for end in (lower, upper))
        yield balls(pair, f"balls {p:g}/255", x, *ends)


CASES = {
    "reludiff": reludiff,
    "digits": digits,
    "lenet": lenet,
    "resnet_2b": resnet_2b_float16,
    "resnet20": resnet20_uniform,
}
