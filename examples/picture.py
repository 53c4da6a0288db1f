"""The README's picture, drawn from a ticket directory: one weight's subset, all weights' errors, the certificates.

slth-compile demo && python examples/picture.py slth-demo examples/picture.svg
"""

from __future__ import annotations

import pathlib

import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import slth_compile as slth
from slth_compile.constructions.da_cunha import Family, families
from slth_compile.graph.nodes import Weighted
from slth_compile.source.dyadic import PRODUCT_BITS
from slth_compile.source.tensor import read_entries
from slth_compile.ticket.masks import SubsetMask

KEPT, PRUNED, LINE = "#0072B2", "#C9CDD2", "#D55E00"


def main(directory: pathlib.Path, picture: pathlib.Path) -> None:
    """Draw the picture."""
    found = slth.load(directory)
    assert isinstance(found, slth.Compiled)
    node = found.folded.nodes[found.folded.layers[1]]
    assert isinstance(node, Weighted)
    family = families(found.ticket.source, 1, node, found.layout.layers[1])[0]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    mask = found.ticket.masks[1][family.part]
    assert isinstance(mask, SubsetMask)
    draw_subset(left, family, mask)
    draw_errors(middle, found)
    draw_certificates(right, found)
    figure.savefig(picture)


def draw_subset(axes: Axes, family: Family, mask: SubsetMask) -> None:
    """The candidates of the largest weight; the kept ones add up to it."""
    flat = int(np.argmax(np.abs(family.weights)))
    addresses, own = family.candidates(np.array([flat]), mask.windows.reshape(-1)[[flat]].astype(np.int64))
    drawn = read_entries(family.v, addresses)
    candidates = np.ldexp((drawn * own)[:, 0].astype(np.float64), family.gadget.gain - PRODUCT_BITS)
    kept = (int(mask.subsets.reshape(-1)[flat]) >> np.arange(len(candidates))) & 1 == 1
    places = np.arange(len(candidates))
    axes.bar(places, candidates, color=np.where(kept, KEPT, PRUNED))
    axes.step(places, np.cumsum(candidates * kept), where="mid", color=KEPT, linewidth=1)
    weight = float(family.weights.reshape(-1)[flat])
    axes.axhline(weight, color=LINE, linewidth=1, linestyle="--")
    error = abs(float(candidates[kept].sum()) - weight)
    axes.set_title(f"One weight: {weight:.4f}, met to {error:.0e}", fontsize=10)
    axes.set_xlabel(f"{len(candidates)} random products: blue kept, grey pruned, line = running sum", fontsize=8)
    _tidy(axes)


def draw_errors(axes: Axes, found: slth.Compiled) -> None:
    """How far every weight is off, by layer, against the planned tolerance."""
    for row, (position, layout) in enumerate(zip(found.folded.layers, found.layout.layers, strict=True)):
        center = found.errors[position].positive_center
        assert center is not None
        sizes = np.abs(center[center != 0]).ravel()
        jitter = np.random.default_rng(0).uniform(-0.28, 0.28, sizes.size)
        axes.scatter(sizes, row + jitter, s=2, color=KEPT, alpha=0.35, linewidths=0, rasterized=True)
        axes.plot([layout.kernel.tolerance] * 2, [row - 0.36, row + 0.36], color=LINE)
    names = [found.folded.nodes[i].name for i in found.folded.layers]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_title("All weights: error and tolerance", fontsize=10)
    axes.set_xlabel("|effective weight - weight|", fontsize=8)
    _tidy(axes)


def draw_certificates(axes: Axes, found: slth.Compiled) -> None:
    """Certified bound and attack for every domain, against eps."""
    rows = found.summary.certificates
    for place, row in enumerate(rows):
        if row.attack is not None:
            axes.plot([row.attack.value, row.bound], [place] * 2, color=PRUNED, linewidth=3, zorder=1)
            axes.scatter(row.attack.value, place, marker="x", color=KEPT, zorder=2)
        axes.scatter(row.bound, place, color=KEPT, zorder=2)
        axes.annotate(
            f"{row.domain}: {row.bound:.1e}", (row.bound, place), (0, 9), textcoords="offset points", fontsize=8
        )
    axes.axvline(found.layout.eps, color=LINE, linestyle="--", linewidth=1)
    axes.annotate(
        "eps", (found.layout.eps, len(rows) - 0.6), (-4, 0), textcoords="offset points", ha="right", fontsize=8
    )
    axes.set_xscale("log")
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.set_yticks([])
    axes.set_title("Whole network: attack (x), certified (dot)", fontsize=10)
    axes.set_xlabel("largest difference of any output", fontsize=8)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


if __name__ == "__main__":
    typer.run(main)
