"""A summary for the terminal: what was certified, what was planned, where it came from."""

from __future__ import annotations

from slth_compile.plan.budget import ALL
from slth_compile.report import numbers, statements
from slth_compile.report.summary import Summary


def render_terminal(summary: Summary) -> str:
    """A dozen lines: layers with bits a weight, planned, certified with attacks, accuracies, sizes, ticket id."""
    widest = max(len("layer"), *(len(row.name) for row in summary.layers))
    lines = [
        f"{'layer':<{widest}}  sign  width  window  tolerance  largest error  kept/weight  raw bits  coded  quantiser"
    ]
    for row in summary.layers:
        lines.append(
            f"{row.name:<{widest}}  {'+-' if row.signed else '+ ':>4}  {row.width:>5}  {row.window:>6}  "
            f"{row.tolerance:>9.2e}  {row.largest_error:>13.2e}  {row.kept / row.weights:>11.2f}  "
            f"{row.raw_bits / row.weights:>8.1f}  {row.mask_bits / row.weights:>5.1f}  "
            f"{row.quantiser_bits / row.weights:>9.1f}"
        )
    failure = statements.not_stated(summary)
    if summary.planned_failure is not None:
        failure = f"<= {summary.planned_failure:.1e} over seeds"
    lines += [
        "",
        f"planned    bound {numbers.upper_bound(summary.planned_bound, summary.eps)}"
        f"{'' if summary.promise == ALL else ' for typical errors, not promised'}, "
        f"P(a weight missed) {failure}; "
        f"C_V = {summary.constant_v:.1f}, C_U = {summary.constant_u:.1f}",
    ]
    if summary.copies:
        lines.append(f"built      {numbers.count(summary.depth)} random layers by {statements.construction(summary)}")
    for row in summary.certificates:
        seen = ""
        if row.attack is not None:
            ratio = numbers.ratio(row.bound, row.attack.value)
            seen = f"; attack {numbers.significant(row.attack.value)}, ratio {ratio}"
        seen += f"; {numbers.method(row.method, row.splits)}"
        seen += "" if row.seconds is None else f", {numbers.duration(row.seconds)}"
        vacuous = " (vacuous)" if statements.is_vacuous(row) else ""
        bound = numbers.upper_bound(row.bound, summary.eps)
        if row.kind == "points":
            bound += f" (enclosed to {numbers.significant(row.bound - row.lower, 1, 'up')})"
        lines.append(f"certified  {row.domain}: |target - ticket| <= {bound}{vacuous}{seen}")
    found = summary.measured.evaluation
    if found is not None:
        literal = "" if found.literal is None else f", literal pruned network {found.literal:.4f}"
        lines.append(
            f"{'measured':<9}  {found.metric} on {found.samples} samples: target {found.target:.4f}, "
            f"ticket {found.ticket:.4f}{literal}"
        )
    seconds = summary.measured.seconds
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    lines += [
        f"size       mask {numbers.size(summary.mask_bytes)}, {summary.mask_bits_per_weight:.1f} bits a weight (raw "
        f"{summary.raw_bits_per_weight:.1f}; a uniform quantiser of the same largest errors has an entropy of "
        f"{summary.quantiser_bits_per_weight:.1f}), "
        f"{numbers.count(summary.parameters_v)} random weights in V of which {numbers.count(summary.kept)} kept",
        f"seconds    {sum(seconds.values()):.1f} ({stages})",
        f"source     {summary.source}, construction {summary.construction}",
        f"ticket id  {summary.ticket_id}",
    ]
    return "\n".join(lines)
