"""A plan as text for the terminal, and as JSON: predictions only."""

from __future__ import annotations

import dataclasses
from typing import Any

from slth_compile.constructions.assumptions import AUTHORS
from slth_compile.plan.budget import ALL
from slth_compile.plan.plan import Plan
from slth_compile.report.statements import not_stated_because
from slth_compile.source.layout import layers_json


def plan_text(plan: Plan) -> str:
    """What a plan would draw and cost, a line a layer."""
    layout = plan.layout
    widest = max(len("layer"), *(len(size.name) for size in plan.layers))
    lines = [f"{'layer':<{widest}}  sign  width  gain  window  tolerance  bias width  parameters V  parameters U"]
    for size, layer in zip(plan.layers, layout.layers, strict=True):
        kernel = layer.kernel
        lines.append(
            f"{size.name:<{widest}}  {'+-' if layer.signed else '+ ':>4}  {kernel.width:>5}  {kernel.gain:>4}  "
            f"{kernel.window:>6}  {kernel.tolerance:>9.2e}  {layer.bias.width if layer.bias else 0:>10}  "
            f"{size.parameters_v:>12,}  {size.parameters_u:>12,}"
        )
    weights = sum(size.weights for size in plan.layers)
    bits = sum(size.mask_bits for size in plan.layers)
    parameters_v = sum(size.parameters_v for size in plan.layers)
    parameters_u = sum(size.parameters_u for size in plan.layers)
    missed = not_stated_because(supplied=layout.law is None)
    if layout.failure is not None and layout.delta is not None:
        missed = f"{layout.failure:.2e}   (delta {layout.delta:g}, over seeds)"
    built = ""
    if any(layer.direct for layer in layout.layers):
        copies = ", ".join(str(layer.copies) for layer in layout.layers)
        built = f", {layout.depth} random layers; channels built {copies} times"
    lines += [
        "",
        f"construction       {layout.construction}" + built,
        f"objective          {layout.objective}",
        f"{'promised' if plan.promise == ALL else 'expected'} bound     {plan.bound:.4e}   (eps {layout.eps:g}"
        f"{'' if plan.promise == ALL else '; for typical errors, nothing is promised'})",
        f"P(a weight missed) {missed}",
        f"source             {'supplied' if layout.law is None else layout.law}",
        f"random parameters  V {parameters_v:,}, U {parameters_u:,} for {weights:,} weights: "
        f"C_V = {plan.constant_v:.2f}, C_U = {plan.constant_u:.2f}",
        f"mask               {bits / 8 / 1024:,.0f} KiB, {bits / weights:.1f} bits a weight",
        f"solving            about {plan.seconds:,.1f} s on one core, {plan.memory / 2**20:,.0f} MiB",
    ]
    if plan.violated:
        lines.append(f"outside the theorem of {AUTHORS[layout.construction]}, which the plan does not rest on:")
        lines += [f"  {sentence}" for sentence in plan.violated]
    return "\n".join(lines)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    plain = dataclasses.asdict(plan)
    plain["layout"]["layers"] = layers_json(plan.layout)
    return plain | {"failure": plan.layout.failure}
