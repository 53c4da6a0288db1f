"""Which operations lines stand for in a backward pass, and the lines of each."""

from __future__ import annotations

from slth_compile.checker import kinked_lines, lines, smooth, smooth_lines
from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.graph import Node
from slth_compile.checker.lines import Lines, Planes
from slth_compile.checker.rewriting import RELUS

ACTIVATIONS = (*RELUS, *kinked_lines.OPERATIONS, *sorted(smooth.OPERATIONS))

BENDS = (*ACTIVATIONS, "larger")
"""Operations that lines stand for."""

STOPS = (*BENDS, "largest")
"""Operations before which a pass stops for a bound."""

ENDS = ("multiply", "matrix_product", "layer_norm", "softmax", "log_softmax")
"""Operations that no form passes: their enclosures take its place."""

NARROWED = ("layer_norm", "softmax", "log_softmax")
"""Those of them whose operand is tightened before."""


def activation_lines(node: Node, y: Interval, d: Interval | None) -> tuple[Lines, Planes | None]:
    """Lines of `a(y)` and planes of `a(y + d) - a(y)`, None where d is; for `larger` y and d are its difference's."""
    if node.op in kinked_lines.OPERATIONS:
        return kinked_lines.kinked_lines(node, y, d)
    if node.op in smooth.OPERATIONS:
        return smooth_lines.smooth_lines(node, y, d)
    return lines.activation_lines(node, y, d)
