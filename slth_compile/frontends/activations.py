"""What a few primitives together are: leaky relu and PReLU, hard sigmoid and hard swish, silu, gelu."""

from __future__ import annotations

import math

import numpy as np

from slth_compile.frontends.channels import by_channel, inverse
from slth_compile.frontends.constants import scalar
from slth_compile.frontends.draft import Elementwise, Pairwise, Select, Unknown
from slth_compile.frontends.patterns import Match, View, operand_of
from slth_compile.graph import nodes as n

_SAME = 1e-6  # constants are rounded to 32 bits


def leaky_relu(view: View, i: int) -> Match | None:
    """`where(x > 0, x, slope * x)` and `max(x, slope * x)`: leaky relu, or PReLU where that is no number in [0, 1]."""
    node = view.node(i)
    if isinstance(node, Select):
        predicate = view.elementwise(node.inputs[0], "ge", "gt", "le", "lt")
        if predicate is None:
            return None
        x = predicate.inputs[0]
        positive, negative = node.inputs[2], node.inputs[1]
        if predicate.operation in ("le", "lt"):
            positive, negative = negative, positive
        if positive != x:
            return None
    elif isinstance(node, Pairwise) and node.operation == "max":
        x, negative = node.inputs
        if view.elementwise(negative, "mul", "div") is None:
            x, negative = negative, x
    else:
        return None
    scaled = view.elementwise(negative, "mul", "div")
    if scaled is None or scaled.inputs[0] != x:
        return None
    leaves = scaled.constant.leaves
    slopes = by_channel(scaled)
    if slopes is None:
        reason = "a slope for each element; expected one number, or one for each entry of the last axis"
        return Match(Unknown(inputs=(x,), operation="leaky_relu", reason=reason), leaves)
    slopes = inverse(slopes) if scaled.operation == "div" else slopes
    if isinstance(node, Pairwise) and np.any(slopes > 1):
        reason = f"max(x, slope * x) with a slope of {slopes.max():g}; expected at most 1"
        return Match(Unknown(inputs=(x,), operation="leaky_relu", reason=reason), leaves)
    if slopes.ndim == 0 and slopes == 0:
        return Match(n.Relu(inputs=(x,)), leaves)
    if slopes.ndim == 0 and 0 < slopes <= 1:
        return Match(n.LeakyRelu(inputs=(x,), slope=float(slopes)), leaves)
    return Match(n.Prelu(inputs=(x,), slopes=slopes), leaves)


def hard_sigmoid(view: View, i: int) -> Match | None:
    """`clip(x + b, 0, h) / h`."""
    found = _hard_sigmoid(view, i)
    if found is None:
        return None
    x, shift, height = found
    return Match(n.HardSigmoid(inputs=(x,), slope=1 / height, offset=shift / height))


def hard_swish(view: View, i: int) -> Match | None:
    """`x * clip(x + 3, 0, 6) / 6`, the quotient taken first or last, and `x` times that hard sigmoid as one node."""
    product = _factors(view, i)
    for x, other in product:
        gate = view.node(other)
        if isinstance(gate, n.HardSigmoid) and gate.inputs == (x,) and _is_sixth(gate):
            return Match(n.HardSwish(inputs=(x,)))
        if _hard_sigmoid(view, other) == (x, 3.0, 6.0):
            return Match(n.HardSwish(inputs=(x,)))
    whole = view.elementwise(i, "div", "mul")
    if whole is not None and _divisor(whole) == 6.0:
        for x, other in _factors(view, whole.inputs[0]):
            if _clipped_shift(view, other) == (x, 3.0, 6.0):
                return Match(n.HardSwish(inputs=(x,)))
    return None


def silu(view: View, i: int) -> Match | None:
    """`x * sigmoid(x)`."""
    for x, other in _factors(view, i):
        gate = view.node(other)
        if isinstance(gate, n.Sigmoid) and gate.inputs == (x,):
            return Match(n.Silu(inputs=(x,)))
    return None


def gelu(view: View, i: int) -> Match | None:
    """`x Phi(x)` with Phi by erf, erfc or tanh, and a half at either factor."""
    half = 1.0
    scaled = view.elementwise(i, "mul", "div")
    if scaled is not None:
        half, i = _factor(scaled), scaled.inputs[0]
    for first, second in _factors(view, i):
        (x, a), (twice, b) = _scaled(view, first), _scaled(view, second)
        if not _close(half * a * b, 0.5):
            continue
        if _is_twice_distribution(view, twice, x):
            return Match(n.Gelu(inputs=(x,), approximate=False))
        if _is_twice_tanh_distribution(view, twice, x):
            return Match(n.Gelu(inputs=(x,), approximate=True))
    return None


def _is_twice_distribution(view: View, i: int, x: int) -> bool:
    """Whether an entry is `erfc(-x / sqrt(2))` or `1 + erf(x / sqrt(2))`."""
    complement, plain = operand_of(view, i, "erfc"), _less_one(view, i)
    argument, sign = (complement, -1.0) if complement is not None else (operand_of(view, plain, "erf"), 1.0)
    if argument is None:
        return False
    source, factor = _scaled(view, argument)
    return source == x and _close(sign * factor, math.sqrt(0.5))


def _is_twice_tanh_distribution(view: View, i: int, x: int) -> bool:
    """Whether an entry is `1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))`."""
    node = view.node(_less_one(view, i))
    if not isinstance(node, n.Tanh):
        return False
    inner, root = _scaled(view, node.inputs[0])
    total = view.node(inner)
    if not isinstance(total, n.Add) or not _close(root, math.sqrt(2 / math.pi)):
        return False
    for start, cubic in (total.inputs, total.inputs[::-1]):
        factor, powers = _monomial(view, cubic, start)
        if start == x and powers == (x, x, x) and _close(factor, 0.044715):
            return True
    return False


def _monomial(view: View, i: int, x: int, depth: int = 2) -> tuple[float, tuple[int, ...]]:
    """An entry as a product of a number and entries, none taken apart further than `x` nor more often than `depth`."""
    if i == x:
        return 1.0, (x,)
    inner, factor = _scaled(view, i)
    pairs = _factors(view, inner)
    if inner == x or not pairs or depth == 0:
        return factor, (inner,)
    (first, left), (second, right) = (_monomial(view, j, x, depth - 1) for j in pairs[0])
    return factor * first * second, left + right


def _is_sixth(gate: n.HardSigmoid) -> bool:
    """Whether it is `clip(x + 3, 0, 6) / 6`."""
    return _close(gate.slope, 1 / 6) and gate.offset == 0.5


def _hard_sigmoid(view: View, i: int) -> tuple[int, float, float] | None:
    """`(x, b, h)` of `clip(x + b, 0, h) / h`."""
    node = view.elementwise(i, "div", "mul")
    found = None if node is None else _clipped_shift(view, node.inputs[0])
    return found if node is not None and found is not None and _divisor(node) == found[2] else None


def _clipped_shift(view: View, i: int) -> tuple[int, float, float] | None:
    """`(x, b, h)` of `clip(x + b, 0, h)`."""
    clip = view.node(i)
    if not isinstance(clip, n.Clip) or clip.low != 0 or not clip.high:
        return None
    shifted = view.elementwise(clip.inputs[0], "add", "sub")
    number = None if shifted is None or shifted.constant.leaves else scalar(shifted.constant)
    if shifted is None or number is None:
        return None
    return shifted.inputs[0], -number if shifted.operation == "sub" else number, clip.high


def _divisor(node: Elementwise) -> float | None:
    """The whole or other number that an untrained constant divides by; a factor may be a rounded reciprocal."""
    number = None if node.constant.leaves else scalar(node.constant)
    if number is None or node.operation == "div":
        return number
    near = round(1 / number) if number else 0
    return float(near) if near and _close(number * near, 1.0) else None


def _factors(view: View, i: int) -> list[tuple[int, int]]:
    """Both orders of the operands of a product of two entries of one shape."""
    node = view.node(i)
    if not (isinstance(node, Pairwise) and node.operation == "mul"):
        return []
    first, second = node.inputs
    same = view.entries[first].shape == view.entries[second].shape and node.axes == tuple(range(len(node.axes)))
    return [(first, second), (second, first)] if same else []


def _factor(node: Elementwise) -> float:
    """What an untrained constant multiplies by; not a number where it is none."""
    number = None if node.constant.leaves else scalar(node.constant)
    if number is None:
        return math.nan
    return number if node.operation == "mul" else 1 / number if number else math.nan


def _scaled(view: View, i: int) -> tuple[int, float]:
    """An entry without the untrained numbers it is multiplied by, and their product."""
    factor = 1.0
    while (node := view.elementwise(i, "mul", "div")) is not None and not math.isnan(_factor(node)):
        factor, i = factor * _factor(node), node.inputs[0]
    return i, factor


def _less_one(view: View, i: int) -> int:
    """The entry that one was added to, or the entry itself."""
    node = view.elementwise(i, "add")
    return node.inputs[0] if node is not None and not node.constant.leaves and scalar(node.constant) == 1 else i


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_SAME)
