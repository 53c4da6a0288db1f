"""Smooth activations and their slopes in as many digits as the decimal context has, from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, getcontext

from slth_compile.graph import nodes as n

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")
CUBIC = Decimal("0.044715")

Function = Callable[[Decimal], Decimal]


def logistic(x: Decimal) -> Decimal:
    e = (-abs(x)).exp()
    return (1 if x >= 0 else e) / (1 + e)


def tanh(x: Decimal) -> Decimal:
    if abs(x) < Decimal("1e-25"):
        return x - x**3 / 3
    return 2 * logistic(2 * x) - 1


def density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def distribution(x: Decimal) -> Decimal:
    """`1/2 + phi(x) (x + x^3/3 + x^5/15 + ...)`; far out by the continued fraction of the tail."""
    if abs(x) > 14:
        ratio = Decimal(0)
        for k in range(150, 0, -1):
            ratio = k / (abs(x) + ratio)
        tail = density(x) / (abs(x) + ratio)
        return tail if x < 0 else 1 - tail
    context = getcontext()
    context.prec += 90
    try:
        total = term = x
        k = 1
        while abs(term) > Decimal(10) ** -context.prec * abs(total):
            term = term * x * x / (2 * k + 1)
            total, k = total + term, k + 1
        return Decimal("0.5") + density(x) * total
    finally:
        context.prec -= 90


def inner(x: Decimal) -> Decimal:
    return 2 * (2 / PI).sqrt() * (x + CUBIC * x**3)


def inner_slope(x: Decimal) -> Decimal:
    return 2 * (2 / PI).sqrt() * (1 + 3 * CUBIC * x * x)


def hard_swish(x: Decimal) -> Decimal:
    return Decimal(0) if x <= -3 else x if x >= 3 else x * (x + 3) / 6


SMOOTH: dict[str, tuple[n.Activation, Function, Function]] = {
    "sigmoid": (n.Sigmoid(inputs=()), logistic, lambda x: logistic(x) * logistic(-x)),
    "tanh": (n.Tanh(inputs=()), tanh, lambda x: 4 * logistic(2 * x) * logistic(-2 * x)),
    "silu": (
        n.Silu(inputs=()),
        lambda x: x * logistic(x),
        lambda x: logistic(x) + x * logistic(x) * logistic(-x),
    ),
    "gelu": (
        n.Gelu(inputs=(), approximate=False),
        lambda x: x * distribution(x),
        lambda x: distribution(x) + x * density(x),
    ),
    "tanh gelu": (
        n.Gelu(inputs=(), approximate=True),
        lambda x: x * logistic(inner(x)),
        lambda x: logistic(inner(x)) + x * inner_slope(x) * logistic(inner(x)) * logistic(-inner(x)),
    ),
    "hard swish": (
        n.HardSwish(inputs=()),
        hard_swish,
        lambda x: Decimal(0) if x <= -3 else Decimal(1) if x >= 3 else (2 * x + 3) / 6,
    ),
}
"""By name: the node, the function, its derivative."""
