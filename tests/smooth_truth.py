"""Activations in 50 digits, from their definitions: what enclosures are held against."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext

DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")


def logistic(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp()) if x >= 0 else x.exp() / (1 + x.exp())


def tanh(x: Decimal) -> Decimal:
    e = (-2 * abs(x)).exp()
    return (1 - e) / (1 + e) * (1 if x >= 0 else -1)


def density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def distribution(x: Decimal) -> Decimal:
    """`1/2 + phi(x) (x + x^3/3 + x^5/15 + ...)`; far out, where that cancels, the continued fraction of Mills' ratio."""
    if abs(x) > 12:
        ratio = Decimal(0)
        for k in range(400, 0, -1):
            ratio = k / (abs(x) + ratio)
        tail = density(x) / (abs(x) + ratio)
        return tail if x < 0 else 1 - tail
    with localcontext() as context:
        context.prec = DIGITS + 60
        total = term = x
        n = 1
        while abs(term) > Decimal(10) ** -(DIGITS + 50):
            term = term * x * x / (2 * n + 1)
            total, n = total + term, n + 1
        return Decimal("0.5") + density(x) * total


def inner(x: Decimal) -> Decimal:
    return 2 * (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)


def inner_slope(x: Decimal) -> Decimal:
    return 2 * (2 / PI).sqrt() * (1 + 3 * Decimal("0.044715") * x * x)


def hard_swish(x: Decimal) -> Decimal:
    return x * min(max(x + 3, Decimal(0)), Decimal(6)) / 6


Function = Callable[[Decimal], Decimal]
VALUES: dict[str, Function] = {
    "sigmoid": logistic,
    "tanh": tanh,
    "silu": lambda x: x * logistic(x),
    "gelu": lambda x: x * distribution(x),
    "tanh gelu": lambda x: x * logistic(inner(x)),
    "hard swish": hard_swish,
}
SLOPES: dict[str, Function] = {
    "sigmoid": lambda x: logistic(x) * logistic(-x),
    "tanh": lambda x: 4 * logistic(2 * x) * logistic(-2 * x),
    "silu": lambda x: logistic(x) + x * logistic(x) * logistic(-x),
    "gelu": lambda x: distribution(x) + x * density(x),
    "tanh gelu": lambda x: (
        logistic(inner(x)) + x * inner_slope(x) * logistic(inner(x)) * logistic(-inner(x))
    ),
    "hard swish": lambda x: Decimal(0) if x <= -3 else Decimal(1) if x >= 3 else (2 * x + 3) / 6,
}
