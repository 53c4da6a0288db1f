"""A ticket's effective weights in the target's own parameters, where such a network exists.

Which entry of a model's parameters every entry of a layer's kernel is, is found by asking the model: traced with
parameters that hold their own positions, its graph says where they go. Whether that was the truth is asked again: with
the new parameters the model must have exactly the kernels that were to be put there, and everything else as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph, target_arrays, target_digest

_LAYER_FIELDS = ("kernel", "bias")
_INTEGERS = {"bfloat16": 2**8, "float16": 2**11}
_MORE_INTEGERS = 2**24


class Model(Protocol):
    """The target's model: its floating point parameters by name, and itself with others in their place."""

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the parameters in the model's variables, `"params/Conv_0/kernel"`."""
        ...

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Their values."""
        ...

    def graph(self, arrays: Sequence[Any]) -> Graph:
        """The graph of the model with other parameters."""
        ...

    def outputs(self, arrays: Sequence[Any], x: np.ndarray) -> list[Any]:
        """What the model itself puts out for a batch, with other parameters."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Leaves:
    """Parameters in one row of numbers.

    Attributes:
        names: Their paths.
        arrays: Their values, for shapes and types.
    """

    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]

    def flat(self) -> np.ndarray:
        """All entries, one leaf after the other, float64."""
        return np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in self.arrays] or [np.zeros(0)])

    def at(self, flat: np.ndarray) -> tuple[np.ndarray, ...]:
        """Arrays of the leaves' shapes and types that hold the entries of `flat`."""
        ends = np.cumsum([array.size for array in self.arrays])
        parts = np.split(flat, ends[:-1])
        with np.errstate(over="ignore"):
            return tuple(p.reshape(a.shape).astype(a.dtype) for p, a in zip(parts, self.arrays, strict=True))

    def owner(self, position: int) -> str:
        """Name of the leaf that holds a position of `flat`."""
        return self.names[int(np.searchsorted(np.cumsum([a.size for a in self.arrays]), position, "right"))]


def effective_leaves(
    graph: Graph, folded: Graph, weights: Mapping[int, LayerWeights], model: Model
) -> tuple[tuple[np.ndarray, ...], Graph]:
    """The leaves with the ticket's effective weights, each rounded to its leaf's type, and the graph they make.

    Args:
        graph: The target as given.
        folded: The target without batch norms.
        weights: Effective weights by position in `folded`, float64.
        model: The target's model.

    Raises:
        InputError: The model is not the target.
        UnsupportedModelError: No such network exists; every reason with the name of its layer.
    """
    _require_target(graph, model)
    _refuse(_refusals(graph, folded, weights))
    leaves = _Leaves(model.names, model.arrays)
    origins = _origins(graph, leaves, model)
    flat, problems, readers = leaves.flat(), [], {}
    rounded = leaves.flat()
    written = np.zeros(flat.size, bool)
    wanted = {name: array for name, array in _layer_arrays(graph, weights).items() if name in origins}
    for name, value in wanted.items():
        origin, layer = origins[name], _layer_name(graph, name)
        again = written[origin] & (rounded[origin] != value)
        if np.any(again):
            first = int(origin[again].reshape(-1)[0])
            other = readers.get(leaves.owner(first), "another")
            problems.append(
                f"{layer}: its weights are tied to those of {other} by '{leaves.owner(first)}', and the ticket "
                "approximates them by different ones"
            )
            continue
        rounded[origin], written[origin] = value, True
        readers[leaves.owner(int(origin.reshape(-1)[0]))] = layer
    _refuse(problems)
    found = leaves.at(rounded)
    made = model.graph(found)
    _refuse(_misplaced(graph, made, origins, _Leaves(leaves.names, found)))
    return found, made


def _require_target(graph: Graph, model: Model) -> None:
    own, found = (target_digest(g) for g in (graph, model.graph(model.arrays)))
    if own != found:
        raise InputError(f"the ticket is of target {own[:16]}, the given model is {found[:16]}; expected the same")


def _refusals(graph: Graph, folded: Graph, weights: Mapping[int, LayerWeights]) -> list[str]:
    """Why no network of the target's own parameters has the ticket's weights, as far as the graph tells."""
    found = []
    for position, node in enumerate(graph.nodes):
        behind_layer = position > 0 and isinstance(graph.nodes[node.inputs[0]], n.Weighted)
        folds = behind_layer and graph.consumers[node.inputs[0]] == 1
        if isinstance(node, n.BatchNorm):
            found.append(f"{_label(graph, position)}: a live batch norm, which the ticket has folded into a layer")
        elif isinstance(node, n.Affine) and (node.trained or folds):
            found.append(f"{_label(graph, position)}: a scale or shift, which the ticket has folded into a layer")
    for position, layer in weights.items():
        if layer.negative is not None:
            found.append(
                f"{_label(folded, position)}: a signed layer, whose weights for inputs above and below zero differ; "
                ".onnx and .stablehlo hold both"
            )
    return found


def _origins(graph: Graph, leaves: _Leaves, model: Model) -> dict[str, np.ndarray]:
    """Positions in the flat leaves of every entry of every layer's arrays, by `"<node>.<field>"`.

    Raises:
        UnsupportedModelError: A layer whose weights are computed from the parameters.
    """
    base = min((_INTEGERS.get(str(a.dtype), _MORE_INTEGERS) for a in leaves.arrays), default=_MORE_INTEGERS)
    names = [name for name in target_arrays(graph) if _is_layer(graph, name)]
    found = {name: np.zeros(np.shape(target_arrays(graph)[name]), np.float64) for name in names}
    positions = np.arange(leaves.flat().size, dtype=np.int64)
    place = 1
    while place == 1 or place < positions.size:
        # One digit at a time, from 1 to base, every one an integer that all leaves' types hold.
        probe = model.graph(leaves.at((positions // place % base + 1).astype(np.float64)))
        if not _same_structure(graph, probe):
            _refuse(["the model's structure depends on the values of its parameters"])
        arrays = target_arrays(probe)
        for name in names:
            with np.errstate(invalid="ignore"):
                found[name] += (np.asarray(arrays[name], np.float64) - 1) * place
        place *= base
    flat, own, problems, origins = leaves.flat(), target_arrays(graph), [], {}
    for name, origin in found.items():
        whole = np.all(np.isfinite(origin)) and np.all((origin >= 0) & (origin < flat.size) & (origin % 1 == 0))
        index = origin.astype(np.int64) if whole else None
        if index is not None and np.unique(index).size == index.size and _same(flat[index], own[name]):
            origins[name] = index
        else:
            field = name.partition(".")[2]
            problems.append(f"{_layer_name(graph, name)}: its {field} is computed from parameters, it is none itself")
    _refuse(problems)
    return origins


def _misplaced(graph: Graph, made: Graph, origins: dict[str, np.ndarray], leaves: _Leaves) -> list[str]:
    """What is not as it must be in the graph of the new leaves."""
    if not _same_structure(graph, made):
        return ["the model's structure depends on the values of its parameters"]
    flat, before, after = leaves.flat(), target_arrays(graph), target_arrays(made)
    found = []
    for name, array in after.items():
        expected = flat[origins[name]] if name in origins else before[name]
        if not _same(expected, array):
            field = name.partition(".")[2]
            kind = (
                "is computed from parameters, it is none itself" if name in origins else "is of a layer's weights too"
            )
            found.append(f"{_layer_name(graph, name)}: its {field} {kind}")
    return found


def _layer_arrays(graph: Graph, weights: Mapping[int, LayerWeights]) -> dict[str, np.ndarray]:
    """Effective kernels and biases by `"<node>.<field>"`; a layer without a bias has zeros."""
    found = {}
    for position in graph.layers:
        layer = weights[position]
        found[f"{position}.kernel"] = np.asarray(layer.positive)
        found[f"{position}.bias"] = np.zeros(()) if layer.bias is None else np.asarray(layer.bias)
    return found


def _is_layer(graph: Graph, name: str) -> bool:
    position, _, field = name.partition(".")
    return isinstance(graph.nodes[int(position)], n.Weighted) and field in _LAYER_FIELDS


def _layer_name(graph: Graph, name: str) -> str:
    return _label(graph, int(name.partition(".")[0]))


def _label(graph: Graph, position: int) -> str:
    return f"'{graph.nodes[position].name}'" if graph.nodes[position].name else f"node {position}"


def _same(expected: np.ndarray, array: np.ndarray) -> bool:
    """Whether the numbers agree as the trace has them: in 32 bit at most."""
    one, two = (np.asarray(a).astype(np.float64).astype(np.float32) for a in (expected, array))
    return np.array_equal(one, two)


def _same_structure(graph: Graph, other: Graph) -> bool:
    def kinds(g: Graph) -> list[object]:
        arrays = {name: np.shape(array) for name, array in target_arrays(g).items()}
        return [[type(node) for node in g.nodes], [node.inputs for node in g.nodes], arrays, g.outputs]

    return kinds(graph) == kinds(other)


def _refuse(problems: list[str]) -> None:
    if problems:
        listed = "\n  ".join(problems)
        raise UnsupportedModelError(f"the target's own parameters cannot hold the ticket's weights:\n  {listed}")
