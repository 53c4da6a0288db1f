"""What solving and storing the subsets of a gadget costs, as far as that can be told before."""

from __future__ import annotations

import numpy as np

from slth_compile.plan.one_product import predicted_bits
from slth_compile.source.layout import CLOSEST, MALACH, Gadget, Layout
from slth_compile.subset_sum.code_length import tried
from slth_compile.subset_sum.problem import rounding

# Problems a second of one core in 64 bits, measured for these windows; between them by interpolation.
_RATES = (
    (8, 9e6),
    (12, 3e6),
    (16, 8e5),
    (20, 1.5e5),
    (24, 2.4e4),
    (28, 4.5e3),
    (34, 6e3),
    (42, 1.5e3),
    (50, 400),
    (58, 100),
)

# How many times as many in 32 bits.
_NARROW = 1.8

# The same for the cheapest subset within a tolerance.
_CHEAPEST_RATES = ((8, 7e6), (12, 1.5e6), (16, 2.2e5), (20, 1.8e4), (24, 1.2e3))

# Products a second of one core that are compared with a weight.
_PRODUCTS = 1e8


def mask_bits(gadget: Gadget | None, layout: Layout) -> float:
    """Estimate of the coded mask's bits for one weight; none without a gadget."""
    if gadget is None:
        return 0.0
    return predicted_bits(gadget.width) if layout.construction == MALACH else gadget.window + 2


def solving_seconds(problems: int, gadget: Gadget, layout: Layout) -> float:
    """Estimate of the seconds that one core takes to solve so many problems of a gadget."""
    if layout.construction == MALACH:
        return problems * gadget.width / 2 / _PRODUCTS
    objective = layout.objective
    windows, rates = zip(*(_RATES if objective == CLOSEST else _CHEAPEST_RATES), strict=True)
    problems *= 1 if objective == CLOSEST else tried(gadget.window)
    rate = float(np.exp(np.interp(gadget.window, windows, np.log(rates))))
    if objective == CLOSEST and rounding(gadget.window, float(np.ldexp(gadget.tolerance, -gadget.gain))) > 0:
        rate *= _NARROW
    return 2 * problems / rate
