"""Lines around an activation and around its difference, by both engines, in one form."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from slth_compile.certificate import lines
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import bends
from slth_compile.checker.arithmetic import Interval as CheckerInterval
from slth_compile.checker.graph import Node
from slth_compile.graph import nodes as n


class Both(NamedTuple):
    """`lower_slope v + lower <= function <= upper_slope v + upper`, for `a` over y and for `h` over d."""

    value: lines.Lines
    moved: lines.Lines


def checker_node(node: n.Activation, shape: tuple[int, ...]) -> Node:
    """The activation as the checker has it."""
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in ("inputs", "name")}
    arrays = {"slopes": np.asarray(fields.pop("slopes"), np.float64)} if isinstance(node, n.Prelu) else {}
    return Node(n.OPERATION_NAMES[type(node)], (0,), fields, arrays, shape)


def lines_by_both(node: n.Activation, y: Interval, d: Interval) -> tuple[Both, Both]:
    """The compiler's, and the checker's; the latter has no tilts here."""
    with np.errstate(all="ignore"):
        own = Both(lines.value_lines(node, y), lines.difference_lines(node, y, d))
        of_y, of_d = bends.activation_lines(checker_node(node, y.lower.shape), CheckerInterval(*y), CheckerInterval(*d))
    assert of_d is not None and not np.any(of_d.above_tilt) and not np.any(of_d.below_tilt)
    return own, Both(lines.Lines(*of_y), lines.Lines(*of_d.lines))


def assert_alike(node: n.Activation, y: Interval, d: Interval) -> None:
    """The checker's lines are the compiler's, but for rounding, at both ends and in the middle of what they hold on."""
    for name, v in (("value", y), ("moved", d)):
        own, other = (getattr(both, name) for both in lines_by_both(node, y, d))
        size = np.maximum(abs(v.lower), abs(v.upper))
        # exponentials are within 2^-42 of their size, also where values are small
        known = 2.0**-800 if name == "moved" else 2.0**-40
        for at in (v.lower, 0.5 * v.lower + 0.5 * v.upper, v.upper):
            for slope, rest in (("upper_slope", "upper"), ("lower_slope", "lower")):
                near, far = (getattr(part, slope) * at + getattr(part, rest) for part in (own, other))
                room = 1e-11 * (size * (1 + abs(own.upper_slope) + abs(own.lower_slope)) + abs(getattr(own, rest)))
                wrong = np.flatnonzero(~(abs(near - far) <= room + known))
                assert not len(wrong), (name, slope, *(v[wrong[:3]] for v in (*y, *d, near, far)))
