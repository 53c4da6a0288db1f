"""What the theorems assume of a target and its inputs, and where a network is not like that.

A plan does not need them: its widths are for the actual weights, and its bound is computed. They tell how far a network
is from those that the theorems speak about.

    Malach et al. (2020), dense:        relu, no bias, ||W||_2 <= 1 and max |w| <= 1/sqrt(n_in) a layer, ||x||_2 <= 1
    Pensia et al. (2020), dense:        relu, no bias, ||W||_2 <= 1 a layer, ||x||_2 <= 1
    da Cunha et al. (2022), CNNs:       relu, no bias, stride 1, ||K||_1 <= 1 a layer, x in [0, 1]
    Burkholz (2022), CNNs:              relu, leaky relu, tanh or sigmoid, residuals; weights and biases in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from slth_compile.domain import Domain
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import (
    Add,
    Convolution,
    Dense,
    Input,
    LeakyRelu,
    Relu,
    Reshape,
    Sigmoid,
    Tanh,
    Transpose,
    Weighted,
)
from slth_compile.source.layout import BURKHOLZ, DA_CUNHA, MALACH, PENSIA
from slth_compile.source.network import kernel_shape

AUTHORS = {
    MALACH: "Malach et al. (2020)",
    PENSIA: "Pensia et al. (2020)",
    DA_CUNHA: "da Cunha et al. (2022)",
    BURKHOLZ: "Burkholz (2022)",
}
_ITERATIONS = 30
_ABOVE = 1 + 1e-6

Layers = Sequence[tuple[str, Weighted]]


def violated(graph: Graph, domains: Sequence[Domain], construction: str) -> tuple[str, ...]:
    """The assumptions of a construction's theorem that a target and its domains do not meet, each in words.

    What is said is true; a norm just above its limit may go unnoticed.

    Args:
        graph: The folded target.
        domains: Where it is to be approximated.
        construction: One of `source.layout.CONSTRUCTIONS`.
    """
    layers = []
    for index, position in enumerate(graph.layers):
        node = graph.nodes[position]
        assert isinstance(node, Weighted)
        layers.append((node.name or f"layer {index}", node))
    with np.errstate(over="ignore", invalid="ignore"):
        structure, norms = _structure(graph, layers, construction), _norms(layers, construction)
        return (*structure, *norms, *_inputs(domains, construction))


def _structure(graph: Graph, layers: Layers, construction: str) -> Iterator[str]:
    more = _BURKHOLZ if construction == BURKHOLZ else set()
    others = {type(node).__name__.lower() for node in graph.nodes} - _KNOWN - more
    wanted = ", ".join(["layers and relu", *sorted(more)])
    if others:
        yield f"no operations but {wanted}; found {', '.join(sorted(others))}"
    if construction == BURKHOLZ:
        return
    yield from _counted("no biases", layers, lambda node: node.bias is not None and bool(np.any(node.bias)))
    if construction == MALACH:
        yield from _counted("dense layers only", layers, lambda node: not isinstance(node, Dense))
    if construction == DA_CUNHA:
        strided = "stride 1", layers, lambda node: isinstance(node, Convolution) and max(node.stride, default=1) > 1
        yield from _counted(*strided)


def _norms(layers: Layers, construction: str) -> Iterator[str]:
    if construction == DA_CUNHA:
        yield from _largest("||K||_1 <= 1", layers, lambda node: float(np.abs(node.kernel).sum(dtype=np.float64)))
        return
    if construction == BURKHOLZ:
        yield from _largest("max |w| <= 1", layers, lambda node: float(np.abs(node.kernel).max()))
        biased = [(name, node) for name, node in layers if node.bias is not None]
        yield from _largest("max |b| <= 1", biased, lambda node: float(np.abs(node.bias).max()))  # type: ignore[arg-type]
        return
    yield from _largest("||W||_2 <= 1", layers, _spectral)
    if construction == MALACH:
        yield from _largest(
            "max |w| sqrt(n_in) <= 1", layers, lambda n: float(np.abs(n.kernel).max() * _fan_in(n) ** 0.5)
        )


def _inputs(domains: Sequence[Domain], construction: str) -> Iterator[str]:
    if construction == BURKHOLZ:
        return
    for domain in domains:
        # Of a region the corner furthest from zero, or its bounds.
        lower, upper = domain.regions()
        if construction == DA_CUNHA:
            if lower.min() < 0 or upper.max() > 1:
                yield f"inputs in [0, 1]; the domain reaches from {lower.min():.3g} to {upper.max():.3g}"
            continue
        norm = max(float(np.linalg.norm(np.maximum(abs(a), abs(b)))) for a, b in zip(lower, upper, strict=True))
        if norm > _ABOVE:
            yield f"||x||_2 <= 1; the domain reaches {norm:.3g}"


def _counted(wanted: str, layers: Layers, wrong: Callable[[Weighted], bool]) -> Iterator[str]:
    """The assumption, and how many layers it does not hold for."""
    found = [name for name, node in layers if wrong(node)]
    if found:
        yield f"{wanted}; not so in {len(found)} of {len(layers)} layers, '{found[0]}' the first"


def _largest(wanted: str, layers: Layers, measure: Callable[[Weighted], float]) -> Iterator[str]:
    """The assumption, how many layers lie above its limit 1, and by how much."""
    found = [(value, name) for name, node in layers if (value := measure(node)) > _ABOVE]
    if found:
        largest, worst = max(found)
        yield f"{wanted}; above in {len(found)} of {len(layers)} layers, {largest:.3g} in '{worst}'"


def _fan_in(node: Weighted) -> int:
    return node.kernel.size // kernel_shape(node).outputs


def _spectral(node: Weighted) -> float:
    """A lower bound on the spectral norm of the kernel as a matrix, close to it: `||W x|| / ||x||` for some x."""
    matrix = np.asarray(node.kernel, np.float64).reshape(-1, node.kernel.shape[-1])
    x = np.random.default_rng(0).normal(size=matrix.shape[1])
    for _ in range(_ITERATIONS):
        x = matrix.T @ (matrix @ x)
        size = float(np.linalg.norm(x))
        if not 0 < size < np.inf:
            return 0.0
        x /= size
    return float(np.linalg.norm(matrix @ x))


_KNOWN = {kind.__name__.lower() for kind in (Input, Dense, Convolution, Relu, Reshape, Transpose)}
_BURKHOLZ = {kind.__name__.lower() for kind in (Add, LeakyRelu, Sigmoid, Tanh)}
