"""ONNX -> Graph: the file's nodes in order, each by the rule of its operator.

Constants are computed in the file's own dtypes, as a runtime does, and the numbers that come out are the exact target;
what reaches a layer unchanged keeps the bits of the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from slth_compile.domain import order_hint
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.frontends.constants import Constant
from slth_compile.frontends.draft import BATCH, Activation, Draft, Entry, Unknown, Value
from slth_compile.frontends.jaxpr import checked_shape
from slth_compile.frontends.onnx.layout import channels_last, channels_last_layout, is_channels_first
from slth_compile.frontends.onnx.operation import Operation, Refused, Shape, constant
from slth_compile.frontends.onnx.operators.folding import Budget, fold
from slth_compile.frontends.onnx.operators.rules import RULES
from slth_compile.frontends.onnx.reader import Source, read
from slth_compile.frontends.onnx.structure import Wiring, open_sizes, wiring_of
from slth_compile.frontends.onnx.tensors import array_of
from slth_compile.frontends.refusals import problems, unsupported
from slth_compile.frontends.rewrite import rewrite
from slth_compile.frontends.shaping import squeezed
from slth_compile.frontends.sites import Site
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

MAX_ELEMENTS = 2**26
MAX_AXES = 16
MAX_LINES = 200
_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83)


def import_onnx(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of an ONNX model, opset 8 to 22, in inference.

    The graph is channels last where the file is channels first: an input (N, C, H, W) becomes (H, W, C), and so do
    outputs with as many axes. All other inputs and outputs keep the file's order of axes. `layout.is_channels_first`
    says which inputs these are.

    Args:
        model: Path of an `.onnx` file, or a `ModelProto`.
        input_shape: Shape of one sample, channels last; needed where the file leaves sizes open.

    Returns:
        The graph; its parameters have the file's dtypes.

    Raises:
        InputError: A file that is missing, damaged, too large or contradicts itself; an input shape that is missing or
            does not fit.
        UnsupportedModelError: Operators or attributes no node stands for; the message lists all of them.
    """
    source = read(model)
    wiring = wiring_of(source)
    shape, batch, channels_first = _input(source, wiring, None if input_shape is None else checked_shape(input_shape))
    walk = _Walk(source, wiring, Draft(batch))
    entry = walk.draft.add(n.Input(shape=shape))
    rank = len(shape) + (batch is not None)
    layout = tuple(range(rank)) if batch is None else (BATCH, *range(rank - 1))
    walk.values[wiring.input.name] = Activation(entry, channels_last_layout(rank) if channels_first else layout)
    for node in wiring.nodes:
        walk.visit(node)
    positions, misplaced = [], []
    for name in wiring.outputs:
        label = f"output '{name}'"
        value = walk.value(name)
        if isinstance(value, Constant):
            misplaced.append(f"{label} does not depend on the input")
        elif value is not None:
            problem, position = _output(walk.draft, value, rank if channels_first else -1)
            misplaced += [f"{label}: {problem}"] if problem else []
            positions.append(position)
    walk.refuse(misplaced)
    entries, positions = rewrite(walk.draft, positions)
    if found := problems(entries, ()):
        raise unsupported(found)
    nodes = tuple(_named(entry, i) for i, entry in enumerate(entries))
    return Graph(nodes, tuple(positions), wiring.outputs if len(positions) > 1 else ("",))


class _Walk:
    """The values of all names so far, and what stands against the model.

    A value is None where it comes out of an operator without a rule: what reads it is looked at by name only.
    """

    def __init__(self, source: Source, wiring: Wiring, draft: Draft) -> None:
        self.source, self.wiring, self.draft = source, wiring, draft
        self.values: dict[str, Value | None] = {}
        self.problems: list[str] = []
        self.budget = Budget()

    def value(self, name: str) -> Value | None:
        """The value of a name; a tensor of the file is read when it is first needed."""
        if name not in self.values:
            array = array_of(self.wiring.initialisers[name], self.source)
            self.budget.add(array.size)
            self.values[name] = constant(array, frozenset([name]))
        return self.values[name]

    def visit(self, node: Any) -> None:
        """Adds what a node computes."""
        name = node.name or next((output for output in node.output if output), "")
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        try:
            found = self._results(node, kind, name)
        except Refused as refusal:
            self.problems.append(f"{kind} at '{name}'" + (f": {refusal}" if str(refusal) else ""))
            found = [None] * len(node.output)
        self.values.update((output, value) for output, value in zip(node.output, found, strict=False) if output)

    def refuse(self, misplaced: Sequence[str]) -> None:
        """Nothing, where every operator has a rule.

        Raises:
            UnsupportedModelError: Otherwise, or where outputs are not what they must be.
        """
        if not self.problems and not misplaced:
            return
        reasons = [(entry.site, entry.node.reason) for entry in self.draft.entries if isinstance(entry.node, Unknown)]
        lines = self.problems + [f"{site.operation} at {site}: {reason}" for site, reason in reasons if reason]
        lines = lines or list(misplaced)
        more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
        raise UnsupportedModelError("unsupported model:\n  " + "\n  ".join(lines[:MAX_LINES] + more))

    def _results(self, node: Any, kind: str, name: str) -> Sequence[Value | None]:
        operands = tuple(self.value(read) if read else None for read in node.input)
        inner = any(isinstance(x, Activation) for x in operands)
        unknown = any(read and x is None for read, x in zip(node.input, operands, strict=True))
        if kind == "Constant":
            return [_stored(node, name, self.source)]
        if (inner or unknown) and kind not in RULES:
            raise Refused("")
        if unknown:
            return [None] * len(node.output)
        used = tuple(output in self.wiring.read for output in node.output)
        version, names = self.source.opset, tuple(node.input)
        self.draft.site = Site(scope=name, operation=kind)
        try:
            attributes = {entry.name: _attribute(entry, self.source) for entry in node.attribute}
            op = Operation(kind, name, version, self.draft, operands, names, attributes, used)
            found = RULES[kind](op) if inner else fold(op, self.budget)
            results: list[Value] = [*found] if isinstance(found, list) else [found]
            shapes = [self.draft.shape(x) for x in results if isinstance(x, Activation)]
        except (Refused, InputError, UnsupportedModelError):
            raise
        except Exception as error:
            # one of a damaged node's many contradictions, found by NumPy or by a node of the graph
            raise InputError(f"{self.source.label}: {kind} '{name}' is not valid ({_first_line(error)})") from error
        for shape in shapes:
            if len(shape) > MAX_AXES or math.prod(shape) > MAX_ELEMENTS or 0 in shape:
                raise InputError(
                    f"{self.source.label}: {kind} '{name}' has a result of shape {shape}; expected 1 to {MAX_ELEMENTS} "
                    f"elements and at most {MAX_AXES} axes"
                )
        if any(used[len(results) :]):
            raise Refused(f"{sum(used)} of its results are read; expected the first alone")
        return results


def _input(source: Source, wiring: Wiring, given: Shape | None) -> tuple[Shape, int | None, bool]:
    """Shape of one sample, channels last; the batch size to trace with; whether the file has channels first."""
    name, sizes = wiring.input.name, open_sizes(wiring.input)
    if sizes is None:
        if given is None:
            raise InputError(f"{source.label}: input '{name}' has no shape; {_hint(('H', 'W', 'C'))}")
        sizes = (None,) * (len(given) + 1)
    first = is_channels_first(source.proto.graph.node, name, len(sizes))
    batch = None if len(sizes) == 1 else sizes[0] or -1
    sample = sizes if batch is None else sizes[1:]
    sample = (*sample[1:], *sample[:1]) if first else sample
    shown = tuple("?" if size is None else str(size) for size in sample)
    if given is None:
        if None in sample:
            raise InputError(
                f"{source.label}: input '{name}' leaves sizes open, one sample is ({', '.join(shown)}); {_hint(shown)}"
            )
        given = tuple(size for size in sample if size is not None)
    fits = len(given) == len(sample) and all(size in (None, own) for size, own in zip(sample, given, strict=True))
    if not fits:
        swapped = channels_last(given)
        could_be = len(given) == len(sample) and all(s in (None, own) for s, own in zip(sample, swapped, strict=True))
        hint = order_hint(given, swapped) if could_be else ""
        raise InputError(f"{source.label}: found the input shape {given}, expected ({', '.join(shown)}){hint}")
    if math.prod(given) > MAX_ELEMENTS or len(given) > MAX_AXES or not given:
        raise InputError(f"{source.label}: input '{name}' of shape {given}; expected 1 to {MAX_ELEMENTS} elements")
    if batch == -1:
        batch = next((prime for prime in _PRIMES if prime not in given), 89)
    return given, batch, first


def _hint(shown: Sequence[str]) -> str:
    names = ["H", "W", "C"] if len(shown) == 3 else [f"N{i}" for i in range(len(shown))]
    sizes = ",".join(size if size.isdigit() else name for size, name in zip(shown, names, strict=True))
    return f"pass input_shape=({sizes}) (--input-shape {sizes})"


def _output(draft: Draft, x: Activation, image_rank: int) -> tuple[str, int]:
    """What is wrong with an output's axes, and its place; an image's channels come last."""
    if draft.batch is not None and BATCH not in x.layout:
        if draft.batch != 1:
            return "it has no batch axis", 0
        x = squeezed(draft, x, (0,)) if draft.shape(x)[:1] == (1,) else x
    elif draft.batch is not None and x.layout[0] != BATCH:
        return f"shape {draft.shape(x)} at batch {draft.batch}; expected the batch axis first", 0
    elif len(x.layout) == image_rank:
        return "", draft.arrange(x, [*range(2, image_rank), 1])
    return "", draft.canonical(x).entry


def _stored(node: Any, name: str, source: Source) -> Constant:
    """The value of a `Constant` node."""
    entries = [entry for entry in node.attribute if entry.name.startswith("value")]
    if len(entries) != 1:
        raise InputError(f"{source.label}: Constant '{name}' has {len(entries)} values")
    value = _attribute(entries[0], source)
    if isinstance(value, float) or (isinstance(value, tuple) and value and isinstance(value[0], float)):
        value = np.array(value, np.float32)
    elif isinstance(value, int | tuple) and not (isinstance(value, tuple) and value and isinstance(value[0], str)):
        value = np.array(value, np.int64)
    if not isinstance(value, np.ndarray):
        raise InputError(f"{source.label}: Constant '{name}' holds no numbers")
    return constant(value, frozenset([node.output[0] if node.output else name]))


def _attribute(entry: Any, source: Source) -> Any:
    """An attribute as a number, a string, a tuple of these or an array; None where it is a graph or something else."""
    kinds = type(entry)
    if entry.ref_attr_name:
        raise InputError(f"{source.label}: attribute '{entry.name}' belongs to a function; inline the functions first")
    match entry.type:
        case kinds.FLOAT:
            return float(entry.f)
        case kinds.INT:
            return int(entry.i)
        case kinds.STRING:
            return entry.s.decode("utf-8", "replace")
        case kinds.TENSOR:
            return array_of(entry.t, source)
        case kinds.FLOATS:
            return tuple(float(value) for value in entry.floats)
        case kinds.INTS:
            return tuple(int(value) for value in entry.ints)
        case kinds.STRINGS:
            return tuple(value.decode("utf-8", "replace") for value in entry.strings)
        case _:
            return None


def _named(entry: Entry, position: int) -> n.Node:
    if entry.node.name or isinstance(entry.node, n.Input):
        return entry.node
    own = f"{type(entry.node).__name__.lower()}{position}"
    return dataclasses.replace(entry.node, name=entry.site.scope or own)


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {text}"[:300]
