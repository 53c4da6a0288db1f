"""`B(eta)` at points from Euclidean norms: a few numbers a layer, for networks too large for backward passes.

Let rho bound the norm of a node's whole difference d (ticket minus target, all positions and channels). Maps that move
no two numbers further apart keep it (relu, slices, ...), sums add it, and a layer with errors `|E| <= eta` gives

    |d'| <= (N + eta M) rho + |eta * (sum of |x| over the window) + eta_b|

with N a bound on the norm of the layer as a linear map, M on that of any map of its geometry with entries in [-1, 1].
A convolution reads every input at most `overlap = prod ceil(taps / stride)` times, so with R its kernel as a matrix
(taps * C/groups, S/groups) of one group,

    N = sqrt(overlap) * max over groups of |R|,   M = sqrt(overlap * taps * C/groups * S/groups).

Of one element of d', the column of R is all there is: `top`, the bound on the largest element, uses it, and is what
counts at the outputs. Every number grows at least as fast as the tolerances: `B(s * eta) <= s * B(eta)`.

In float64 without outward rounding, activations in float32: the plan keeps a margin of 1e-3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from slth_compile.certificate.activations import activations
from slth_compile.certificate.derivatives import steepest
from slth_compile.certificate.difference import THREADS
from slth_compile.certificate.propagate import window_of
from slth_compile.certificate.sensitivity import window_sums
from slth_compile.certificate.spectral import matrix_sums
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import pool_counts
from slth_compile.graph.graph import Graph


@dataclasses.dataclass(frozen=True, eq=False)
class PointNorms:
    """What `B(eta)` needs to know of a network and some points, whatever the tolerances.

    Attributes:
        graph: The folded target.
        maps: By position of the layer: `(N, M, largest column norm of R, largest column norm for entries in [-1, 1])`.
        sums: By position, `(samples, 4)`: norm and largest element of the window sums of |x|, norm and largest element
            of ones in their place.
        peaks: By position of every product of two nodes, `(samples, 2)`: the largest |a| and |b|.
    """

    graph: Graph
    maps: Mapping[int, tuple[float, float, float, float]]
    sums: Mapping[int, np.ndarray]
    peaks: Mapping[int, np.ndarray]

    def picked(self, rows: np.ndarray) -> PointNorms:
        """The same for some of the points."""
        sums, peaks = ({i: found[rows] for i, found in table.items()} for table in (self.sums, self.peaks))
        return dataclasses.replace(self, sums=sums, peaks=peaks)

    @np.errstate(over="ignore", invalid="ignore")
    def bound(self, tolerances: Mapping[int, tuple[float, float]]) -> np.ndarray:
        """`B(eta)` of every point, `(samples,)`, all errors within `(kernel, bias)` tolerances; may be inf."""
        zero = np.zeros(len(next(iter(self.sums.values()))))
        found = [(zero, zero)]
        for i, node in enumerate(self.graph.nodes[1:], 1):
            operands = [found[j] for j in node.inputs]
            if isinstance(node, n.Convolution | n.Dense):
                rho, top = self._layer(i, operands[0][0], *tolerances[i])
            elif isinstance(node, n.Multiply):
                rho, top = self._product(i, operands)
            else:
                rho, top = _moved(node, operands, self.graph.shapes[node.inputs[0]])
            found.append((rho, np.minimum(rho, top)))
        return np.nan_to_num(np.max([found[i][1] for i in self.graph.outputs], 0), nan=np.inf, posinf=np.inf)

    def _layer(self, i: int, rho: np.ndarray, eta: float, eta_bias: float) -> tuple[np.ndarray, np.ndarray]:
        whole, whole_ones, column, column_ones = self.maps[i]
        norm, largest, norm_ones, largest_ones = self.sums[i].T
        return (
            (whole + eta * whole_ones) * rho + eta * norm + eta_bias * norm_ones,
            (column + eta * column_ones) * rho + eta * largest + eta_bias * largest_ones,
        )

    def _product(self, i: int, operands: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Of `(a + da)(b + db) - a b = (b + db) da + a db`; a db repeats each element of db."""
        (rho_a, top_a), (rho_b, top_b) = operands
        a, b = self.peaks[i].T
        first, second = (math.prod(self.graph.shapes[j]) for j in self.graph.nodes[i].inputs)
        repeats = math.sqrt(first / second)
        return (b + top_b) * rho_a + repeats * a * rho_b, (b + top_b) * top_a + a * top_b


def point_norms(graph: Graph, x: np.ndarray) -> PointNorms:
    """The norms of a network at points.

    Args:
        graph: The folded target.
        x: Points, `(samples, *input_shape)`.
    """
    # Eigenvalues gain nothing from threads inside, and lose much where other programs run.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
        maps = dict(zip(graph.layers, pool.map(_map_norms, (graph.nodes[i] for i in graph.layers)), strict=True))
    sums: dict[int, list[list[float]]] = {i: [] for i in graph.layers}
    products = [i for i, node in enumerate(graph.nodes) if isinstance(node, n.Multiply)]
    peaks: dict[int, list[list[float]]] = {i: [] for i in products}
    for point in np.asarray(x, np.float32):
        with np.errstate(all="ignore"):
            values = activations(graph, point[None])
        for i in graph.layers:
            node = graph.nodes[i]
            z = window_sums(node, np.abs(values[node.inputs[0]])).astype(np.float64)
            count = math.prod(graph.shapes[i])
            norm = math.sqrt(float(np.square(z).sum()) * (count / z.size))
            sums[i].append([norm, float(z.max()), math.sqrt(count), 1.0])
        for i in products:
            peaks[i].append([float(np.abs(values[j]).max()) for j in graph.nodes[i].inputs])
    tables = ({i: np.asarray(rows) for i, rows in table.items()} for table in (sums, peaks))
    return PointNorms(graph, maps, *tables)


def _map_norms(node: n.Node) -> tuple[float, float, float, float]:
    assert isinstance(node, n.Weighted)
    groups = 1 if isinstance(node, n.Dense) else node.groups
    features = node.kernel.shape[-1] // groups
    by_group = np.moveaxis(np.asarray(node.kernel, np.float64).reshape(-1, groups, features), 1, 0)
    overlap, reads = math.sqrt(_overlap(node)), by_group.shape[1]
    largest = max(math.sqrt(_largest_eigenvalue(r)) for r in by_group)
    with np.errstate(over="ignore"):
        columns = math.sqrt(float(np.square(by_group).sum(1).max()))
    return overlap * largest, overlap * math.sqrt(reads * features), columns, math.sqrt(reads)


@np.errstate(over="ignore", invalid="ignore")  # what overflows is not finite, and bounds nothing
def _largest_eigenvalue(r: np.ndarray) -> float:
    """Of `r r^T`, the square of the norm of `r`; infinite where that overflows."""
    gram = r @ r.T if r.shape[0] < r.shape[1] else r.T @ r
    if not np.all(np.isfinite(gram)):
        return math.inf
    return max(0.0, float(np.linalg.eigvalsh(gram)[-1])) + 1e-12 * float(np.trace(gram))


def _overlap(node: n.Node) -> int:
    """How many windows an element lies in at most."""
    window = window_of(node)
    axes = zip(window.taps, window.stride, window.dilation, strict=True)
    return math.prod(taps if dilation > 1 else -(-taps // stride) for taps, stride, dilation in axes)


def _moved(
    node: n.Node, operands: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """`(rho, top)` of a node that is no layer."""
    rho, top = operands[0]
    match node:
        case n.Add():
            return rho + operands[1][0], top + operands[1][1]
        case n.Prelu() | n.HardSigmoid() | n.HardSwish() | n.Sigmoid() | n.Silu() | n.Gelu():
            slope = steepest(node)
            return slope * rho, slope * top
        case n.Concatenate():
            return np.sqrt(sum(r**2 for r, _ in operands)), np.max([t for _, t in operands], 0)
        case n.MaxPool():
            return math.sqrt(_overlap(node)) * rho, top
        case n.AveragePool():
            least = float(pool_counts(node, shape).min())
            return math.sqrt(_overlap(node) / least) * rho, np.minimum(top, rho / math.sqrt(least))
        case n.Mean():
            root = math.sqrt(math.prod(shape[a] for a in node.axes))
            return rho / root, np.minimum(top, rho / root)
        case n.Resample():
            rows, columns = matrix_sums(node.matrix)
            return math.sqrt(rows * columns) * rho, rows * top
        case n.Affine():
            scale = 1.0 if node.scale is None else float(np.abs(np.asarray(node.scale, np.float64)).max())
            return scale * rho, scale * top
        case n.LogSoftmax():
            return 2 * math.sqrt(math.prod(shape)) * rho, 2 * top
        case n.Softmax():
            return np.minimum(rho, math.sqrt(math.prod(shape))), np.minimum(top, 1.0)
        case _:
            return rho, top
