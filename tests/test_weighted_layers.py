"""Weighted layers by both engines, where float64 loses as much as it can: every enclosure contains what is attained.

The sums are `1 + e + e + ...` with e just below half a unit in the last place of one and each e in a block of its own:
rounded they are 1, whatever adds up a block. What is attained lies 62 units above, in exact rationals.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from slth_compile.certificate.difference import LayerErrors, bound_difference
from slth_compile.checker.arithmetic import BLOCK, Interval
from slth_compile.checker.fold import Layer
from slth_compile.checker.matrices import enclose
from slth_compile.checker.operations import State
from slth_compile.checker.weighted import weighted
from slth_compile.graph import nodes as n
from slth_compile.graph.graph import Graph

ROWS = 64 * BLOCK
UNIT = 2.0**-53


def lost() -> np.ndarray:
    """`(ROWS,)`, non-negative; its sum in float64, block after block, is 1."""
    column = np.zeros(ROWS)
    column[::BLOCK] = 0.99 * UNIT
    column[0] = 1.0
    return column


def total(values: np.ndarray) -> Fraction:
    return sum(map(Fraction, values[values != 0]), Fraction(0))


def image(kernel: np.ndarray, error: np.ndarray, x: Interval, d: Interval | None, *, signed: bool) -> State:
    """The checker's image under one output, `|E| <= error` for inputs of either sign."""
    layer = Layer(0, kernel[None, :, None], None, None, (), (), (), (), 1)
    errors = Interval(-error[None, :, None], error[None, :, None])
    pair = enclose(layer, errors, errors if signed else None, None)
    batch = [None if v is None else Interval(v.lower[None], v.upper[None]) for v in (x, d)]
    assert batch[0] is not None
    return weighted(pair, batch[0], batch[1])


def contains(interval: Interval | None, *values: Fraction) -> bool:
    assert interval is not None
    low, high = interval.lower[0, 0], interval.upper[0, 0]
    return all(Fraction(low) <= value <= Fraction(high) for value in values)


def point(value: float) -> Interval:
    return Interval(np.full(ROWS, value), np.full(ROWS, value))


NONE = np.zeros(ROWS)


@pytest.mark.parametrize("signed", [False, True])
def test_the_checker_rounds_sums_of_weights_outward(signed: bool) -> None:
    """`f = W x` at a point, and `g - f = W d` at another: noise is a multiple of the weights."""
    found = image(lost(), NONE, point(1.0), point(1.0), signed=signed)
    assert contains(found.x, total(lost())) and contains(found.d, total(lost()))
    found = image(-lost(), NONE, point(1.0), point(1.0), signed=signed)
    assert contains(found.x, -total(lost())) and contains(found.d, -total(lost()))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_the_checker_rounds_sums_of_errors_outward(signed: bool, moved: bool) -> None:
    """`g - f = E z` at a point where every error may be attained: the radius is itself a sum that rounds."""
    for z in (1.0, -1.0) if signed else (1.0,):
        x, d = (point(z / 2), point(z / 2)) if moved else (point(z), None)
        found = image(NONE, lost(), x, d, signed=signed)
        assert contains(found.d, total(lost()), -total(lost()))


def test_the_checker_rounds_sums_of_radii_outward() -> None:
    """`f = W x`, `g - f = W d` and `g - f = E x` over boxes around nothing: radii meet magnitudes."""
    ones = np.ones(ROWS)
    for box, kernel in ((Interval(-ones, ones), lost()), (Interval(-lost(), lost()), ones)):
        found = image(kernel, NONE, box, box, signed=True)
        assert contains(found.x, total(lost()), -total(lost())) and contains(found.d, total(lost()), -total(lost()))
        found = image(NONE, kernel, Interval(0 * box.lower, box.upper), None, signed=False)
        assert contains(found.d, total(lost()), -total(lost()))


def compiler(kernel: np.ndarray, radius: np.ndarray, lower: np.ndarray, upper: np.ndarray):
    """The compiler's enclosures of `f` and of `g - f`, `|E| <= radius` for inputs of either sign."""
    graph = Graph((n.Input(shape=(ROWS,)), n.Dense(inputs=(0,), kernel=kernel[:, None])), (1,))
    errors = {1: LayerErrors(positive_center=None, positive_radius=radius, negative_radius=radius)}
    (leaf,) = bound_difference(graph, errors, lower[None], upper[None])
    return Interval(leaf.output_lower, leaf.output_upper), Interval(leaf.lower, leaf.upper)


def test_the_compiler_rounds_sums_of_weights_and_radii_outward() -> None:
    ones = np.ones(ROWS)
    for kernel in (lost(), -lost()):
        f, _ = compiler(kernel, NONE[:, None], ones, ones)
        assert contains(f, total(kernel))
    for kernel, end in ((lost(), ones), (ones, lost())):
        f, _ = compiler(kernel, NONE[:, None], -end, end)
        assert contains(f, total(lost()), -total(lost()))


def test_the_compiler_rounds_sums_of_errors_outward() -> None:
    ones = np.ones(ROWS)
    for z in (ones, -ones):
        _, d = compiler(NONE, lost()[:, None], z, z)
        assert contains(d, total(lost()), -total(lost()))
