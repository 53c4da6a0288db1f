"""Which layers read an input that can never be negative, by structure alone."""

from __future__ import annotations

from slth_compile.checker.fold import Folded
from slth_compile.checker.graph import Node

_PRESERVING = set(
    "leaky_relu max_pool average_pool mean maximum slice pad dilate reshape transpose concatenate add".split()  # noqa: SIM905
    + "multiply tanh hard_swish silu gelu".split()  # noqa: SIM905
)


def nonnegative_nodes(folded: Folded, domain_is_nonnegative: bool) -> list[bool]:
    """For each node of the folded graph, whether its value is >= 0 in target and ticket for every declared input.

    A kept affine counts where its scale and shift are >= 0; everything that preserves signs, where all its operands do.
    """
    found: list[bool] = []
    for node in folded.graph.nodes:
        operands = all(found[i] for i in node.inputs)
        found.append(_is_nonnegative(node, operands, domain_is_nonnegative))
    return found


def _is_nonnegative(node: Node, operands: bool, domain_is_nonnegative: bool) -> bool:
    if node.op == "input":
        return domain_is_nonnegative
    if node.op in ("relu", "softmax", "sigmoid", "hard_sigmoid"):
        return True
    if node.op == "clip":
        return node.fields.get("low", -1.0) >= 0 or (operands and node.fields.get("high", 0.0) >= 0)
    if node.op == "prelu":
        return operands or bool((node.arrays["slopes"] <= 0).all())
    if node.op == "resample":
        return operands and bool((node.arrays["matrix"] >= 0).all())
    if node.op == "affine":
        return operands and all(bool((array >= 0).all()) for array in node.arrays.values())
    return node.op in _PRESERVING and operands
