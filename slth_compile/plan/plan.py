"""The plan: what will be drawn for a target, before anything is drawn, and what it will cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from slth_compile.constructions.assumptions import violated
from slth_compile.constructions.pensia import refuse_kernels
from slth_compile.domain import Domain
from slth_compile.errors import UnreachableError
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.plan.budget import AUTO, TYPICAL, allocate
from slth_compile.plan.copies import Built, plan_copies
from slth_compile.plan.cost import mask_bits, solving_seconds
from slth_compile.plan.objective import plan_fewest_bits, plan_pinned, plan_sparsest
from slth_compile.plan.one_product import plan_one_product
from slth_compile.plan.typical import widening
from slth_compile.plan.width import Problems, plan_gadget
from slth_compile.source.law import STANDARD, SourceLaw
from slth_compile.source.layout import (
    BURKHOLZ,
    CLOSEST,
    DA_CUNHA,
    FEWEST_BITS,
    MALACH,
    PENSIA,
    SPARSEST,
    Gadget,
    LayerLayout,
    Layout,
)
from slth_compile.source.network import kernel_shape
from slth_compile.subset_sum.meet_in_the_middle import MAXIMUM_WINDOW

_BIAS_WIDENING = 2

PLANNED = {CLOSEST: plan_gadget, SPARSEST: plan_sparsest, FEWEST_BITS: plan_fewest_bits}
PINNED = {CLOSEST: plan_gadget, SPARSEST: plan_pinned, FEWEST_BITS: plan_pinned}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSize:
    """Predicted size of one layer.

    Attributes:
        name: The layer's name in the model.
        weights: Weights of the kernel and entries of the bias.
        parameters_v: Random parameters of `V` and the bias gadget.
        parameters_u: Random parameters of `U`, as a full (grouped) matrix; never stored.
        mask_bits: Estimate of the coded masks' size.
        problems: Subset-sum problems to solve: a weight of a signed layer of two random ones has two, any other weight
            and a bias entry one; as many times as the layer is built.
    """

    name: str
    weights: int
    parameters_v: int
    parameters_u: int
    mask_bits: int
    problems: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Layout and prediction.

    Attributes:
        layout: What will be drawn.
        bound: The bound promised for all errors within the tolerances, `B(eta)`, or expected of typical ones.
        promise: Which of the two, `budget.ALL` or `budget.TYPICAL`.
        layers: Predicted sizes.
        constant_v: `C_V` in `parameters of V = C_V * k * log2(k l / min(eps, delta))`.
        constant_u: The same for `U`.
        seconds: Estimate for solving, on one core.
        memory: Estimate of the peak memory of solving, bytes.
        violated: What the construction's theorem assumes and the target is not like, in words.
    """

    layout: Layout
    bound: float
    promise: str
    layers: tuple[LayerSize, ...]
    constant_v: float
    constant_u: float
    seconds: float
    memory: int
    violated: tuple[str, ...] = ()


def plan(
    graph: Graph,
    eps: float,
    delta: float,
    domains: Sequence[Domain],
    objective: str = CLOSEST,
    window: int | None = None,
    law: SourceLaw | None = STANDARD,
    construction: str = DA_CUNHA,
    promise: str = AUTO,
) -> Plan:
    """Tolerances, gains, windows and widths for a target.

    Args:
        graph: The folded target.
        eps: Allowed difference of any output over all domains, > 0.
        delta: Allowed probability, over seeds, that some weight misses its tolerance; in (0, 1).
        domains: Where eps must hold.
        objective: Which subset within its tolerance a weight takes, one of `OBJECTIVES`.
        window: Candidates solved together, everywhere; None chooses for every gadget.
        law: Of the source; None where it is supplied, which is planned for as if it were the standard one. Where its
            misses cannot be bounded (`plan.law`), delta is what widths are estimated for, and is not stated.
        construction: Whose proof the network is built by, one of `CONSTRUCTIONS`.
        promise: Which errors within the tolerances are to keep within eps, one of `budget.PROMISES`.

    Raises:
        UnsupportedModelError: The construction is not for networks of this kind.
        InputError: A window that was not measured.
        UnreachableError: eps or delta is out of reach; names the layer and the number.
    """
    if construction == PENSIA:
        refuse_kernels(graph)
    positive = nonnegative_nodes(graph, all(domain.is_nonnegative() for domain in domains))
    signed = {i: not positive[graph.nodes[i].inputs[0]] for i in graph.layers}
    # Of copies nothing is promised; at points their tolerances are those of typical errors.
    promise = TYPICAL if construction == BURKHOLZ else promise
    total = sum(_problems(graph, i, signed[i], Built()) for i in graph.layers)
    wider = widening(delta / total) if objective == CLOSEST and construction not in (MALACH, BURKHOLZ) else 1.0
    budget = allocate(graph, eps, domains, signed, promise, wider)

    gadgets = _Gadgets(objective, window, construction)

    def built_as(stated: bool, built: Sequence[Built]) -> tuple[LayerLayout, ...]:
        total = sum(_problems(graph, i, signed[i], how) for i, how in zip(graph.layers, built, strict=True))
        share = functools.partial(_Share, failure=delta / total, law=law or STANDARD, stated=stated)
        return tuple(
            _plan_layer(graph, index, i, signed[i], how, share(_nearer(budget.tolerances[i], how)), gadgets)
            for index, (i, how) in enumerate(zip(graph.layers, built, strict=True))
        )

    def layers(stated: bool) -> tuple[LayerLayout, ...]:
        if construction == BURKHOLZ:
            return plan_copies(graph, domains, objective, functools.partial(built_as, stated))
        return built_as(stated, [Built()] * len(graph.layers))

    stated = law is not None
    try:
        found = layers(stated)
    except UnreachableError:
        if law is None or law == STANDARD:
            raise
        stated, found = False, layers(stated=False)
    if budget.promise == TYPICAL and wider > 1 and any(_is_near(layer) for layer in found):
        # A near subset is not far closer than its tolerance, as the closest is.
        budget = allocate(graph, eps, domains, signed, promise)
        found = layers(stated)
    layout = Layout(
        eps=eps,
        delta=delta if stated else None,
        layers=found,
        objective=objective,
        construction=construction,
        law=law,
    )
    planned = predict(graph, layout, budget.bound, TYPICAL if construction == BURKHOLZ else budget.promise)
    return dataclasses.replace(planned, violated=violated(graph, domains, construction))


def _is_near(layer: LayerLayout) -> bool:
    """Whether the four-list solver, which finds a subset within the tolerance and not the closest, has a part in it."""
    gadgets = (layer.kernel, layer.bias)
    return any(gadget is not None and gadget.window > MAXIMUM_WINDOW for gadget in gadgets)


def predict(graph: Graph, layout: Layout, bound: float, promise: str) -> Plan:
    """Sizes and costs of a layout: the realised constants of the theorem, mask bits, seconds, memory."""
    sizes, seconds, memory = [], 0.0, 0
    for i, layer in zip(graph.layers, layout.layers, strict=True):
        node = graph.nodes[i]
        assert isinstance(node, Weighted)
        shape = kernel_shape(node)
        outputs = 0 if layer.bias is None else shape.outputs * layer.copies
        problems = shape.size * layer.copies * (1 + (layer.signed and not layer.direct))
        in_u = 0 if layer.direct else shape.parameters_u(layer.kernel.width)
        size = LayerSize(
            name=node.name or f"layer {len(sizes)}",
            weights=shape.size + outputs // layer.copies,
            parameters_v=shape.parameters_v(layer.kernel.width) * layer.copies
            + outputs * (layer.bias.width if layer.bias else 0),
            parameters_u=in_u + (layer.bias.width if layer.bias else 0),
            problems=problems + outputs,
            mask_bits=round(problems * mask_bits(layer.kernel, layout) + outputs * mask_bits(layer.bias, layout)),
        )
        sizes.append(size)
        seconds += solving_seconds(problems, layer.kernel, layout)
        seconds += solving_seconds(outputs, layer.bias, layout) if layer.bias else 0.0
        memory = max(memory, problems * (64 + 16 * layer.kernel.window))
    weights = sum(size.weights for size in sizes)
    smallest = layout.eps if layout.delta is None else min(layout.eps, layout.delta)
    unit = weights * math.log2(weights * len(sizes) / smallest)
    return Plan(
        layout=layout,
        bound=bound,
        promise=promise,
        layers=tuple(sizes),
        constant_v=sum(size.parameters_v for size in sizes) / unit,
        constant_u=sum(size.parameters_u for size in sizes) / unit,
        seconds=seconds,
        memory=memory,
    )


@dataclasses.dataclass(frozen=True)
class _Gadgets:
    """How gadgets are planned: for which subsets, in windows of a given size (None chooses), by whose construction."""

    objective: str
    window: int | None
    construction: str

    def plan(self, problems: Problems) -> Gadget:
        if self.construction == MALACH:
            return plan_one_product(problems)
        return PLANNED[self.objective](problems) if self.window is None else self._pinned(problems, self.window)

    def plan_few(self, problems: Problems, window: int) -> Gadget:
        """The gadget of few problems in a window that is in use anyway, unless it gets much wider there.

        Every size of window is a program to compile, which takes longer than to solve them.
        """
        gadget = self.plan(problems)
        if self.construction == MALACH:
            return gadget
        try:
            found = self._pinned(problems, window)
        except UnreachableError:
            return gadget
        return found if found.width <= _BIAS_WIDENING * gadget.width else gadget

    def _pinned(self, problems: Problems, window: int) -> Gadget:
        return PINNED[self.objective](problems, window=window)


@dataclasses.dataclass(frozen=True)
class _Share:
    """What is asked of a layer's gadgets: tolerances of kernel and bias, failure of a problem; and of which source."""

    tolerances: tuple[float, float]
    failure: float
    law: SourceLaw
    stated: bool

    def problems(
        self, name: str, magnitudes: np.ndarray, error: float, times: int, which: int, direct: bool = False
    ) -> Problems:
        allowed = self.failure * max(1, magnitudes.size * times)
        law = dataclasses.replace(self.law, signs=True) if direct else self.law
        found = Problems(name, magnitudes, error, times, self.tolerances[which], allowed, law, self.stated)
        return dataclasses.replace(found, usable=1.0) if direct else found


def _plan_layer(
    graph: Graph,
    index: int,
    position: int,
    signed: bool,
    built: Built,
    share: _Share,
    gadgets: _Gadgets,
) -> LayerLayout:
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    name = f"layer '{node.name or index}'"
    times = built.copies * (2 if signed and not built.direct else 1)
    magnitudes = np.abs(node.kernel[node.kernel != 0])
    error = node.kernel_error * float(magnitudes.max(initial=0.0))
    kernel = gadgets.plan(share.problems(f"{name} kernel", magnitudes, error, times, 0, built.direct))
    bias = None
    if node.bias is not None:
        magnitudes = np.abs(node.bias[node.bias != 0])
        error = 0.0 if node.bias_error is None else float(node.bias_error.max())
        problems = share.problems(f"{name} bias", magnitudes, error, built.copies, 1)
        bias = gadgets.plan_few(problems, kernel.window)
    return LayerLayout(signed=signed, kernel=kernel, bias=bias, copies=built.copies, direct=built.direct)


def _problems(graph: Graph, position: int, signed: bool, built: Built) -> int:
    """How many shares of delta a layer takes: its nonzero weights, at least one a gadget, each time it is built."""
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    kernel = max(1, int(np.count_nonzero(node.kernel)) * (1 + (signed and not built.direct)))
    return built.copies * (kernel + (0 if node.bias is None else max(1, int(np.count_nonzero(node.bias)))))


def _nearer(tolerances: tuple[float, float], built: Built) -> tuple[float, float]:
    return tolerances[0] / built.nearer, tolerances[1] / built.nearer
