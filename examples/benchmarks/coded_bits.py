"""Coded bits of one weight under every objective, beside a uniform quantiser of the same largest error.

    python examples/benchmarks/coded_bits.py --weights 100000 --sigma 0.2 --ratio 20 --ratio 200

The weights are N(0, sigma) and belong to one dense, one-signed layer, planned for the tolerance sigma / RATIO and
delta. `coded` is the size of the written code, headers and window numbers included, for all weights: those that the
first window misses look through further ones, and pay for its number. `quantiser` is the entropy of the same weights
rounded to multiples of twice the largest error that the masks leave, which is just below the tolerance.
"""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
import typer

from slth_compile.constructions.da_cunha import Family, families
from slth_compile.graph.nodes import Dense
from slth_compile.plan.plan import PLANNED
from slth_compile.plan.width import Problems
from slth_compile.source.dyadic import enclose_difference
from slth_compile.source.layout import OBJECTIVES, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.subset_sum.windows import solve_family
from slth_compile.summarise import quantiser_entropy
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.coding import encode_family

FAN_IN = 400


def measure(weights: np.ndarray, tolerance: float, objective: str, delta: float, seed: int) -> str:
    """One line of the table."""
    start = time.perf_counter()
    gadget = PLANNED[objective](Problems("layer 'dense' kernel", np.abs(weights).ravel(), 0.0, 1, tolerance, delta))
    planned = time.perf_counter()
    node = Dense(inputs=(0,), kernel=weights, bias=None)
    family = families(Generated(seed), 0, node, LayerLayout(signed=False, kernel=gadget, bias=None))[0]
    solution = solve_family(family, objective=objective)
    solved = time.perf_counter()
    coded = 8 * encode_family(family, solution.mask).size / weights.size
    error = largest_error(family, masked_sums(family, solution.mask))
    quantiser = quantiser_entropy(weights.ravel(), error)
    return (
        f"{objective:<11} {gadget.window:>6} {gadget.gain:>4} {gadget.width:>5} {len(solution.misses):>6} "
        f"{error / tolerance:>10.6f} {solution.mask.kept / weights.size:>6.2f} "
        f"{solution.mask.raw_bits(gadget.window) / weights.size:>7.3f} {coded:>7.3f} {quantiser:>9.3f} "
        f"{coded / quantiser:>6.3f} {planned - start:>6.1f} {solved - planned:>7.1f}"
    )


def largest_error(family: Family, sums: np.ndarray) -> float:
    """The largest |error| of the masks, from their exact sums, rounded up."""
    center, radius = enclose_difference(sums, family.gadget.gain, family.weights, np.zeros(1))
    return float((np.abs(center) + radius).max())


def main(
    weights: Annotated[int, typer.Option(help="How many, in whole rows of 400.")] = 100_000,
    sigma: Annotated[list[float] | None, typer.Option(help="Their standard deviation; repeatable.")] = None,
    ratio: Annotated[list[int] | None, typer.Option(help="sigma / tolerance; repeatable.")] = None,
    objective: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    delta: Annotated[float, typer.Option(help="Planned probability that some weight is missed.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of the source, and of the weights.")] = 0,
) -> None:
    """Prints the table."""
    normal = np.random.default_rng(seed).normal(size=(FAN_IN, -(-weights // FAN_IN)))
    for deviation in sigma or [0.2]:
        for share in ratio or [20, 200]:
            print(f"\n{normal.size:,} weights N(0, {deviation:g}), tolerance sigma / {share}")
            print(
                "objective   window gain width misses error/tol  kept     raw   coded quantiser  ratio   plan   solve"
            )
            for name in objective or OBJECTIVES:
                print(measure(normal * deviation, deviation / share, name, delta, seed), flush=True)


if __name__ == "__main__":
    typer.run(main)
