"""From a compiled ticket to the record its reports show, and `stats.json` there and back."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from slth_compile.certificate.certificate import Certificate
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.weight_errors import largest_error
from slth_compile.constructions.da_cunha import BIAS
from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.errors import VerificationError
from slth_compile.graph.graph import Graph, target_digest
from slth_compile.graph.nodes import Convolution, Weighted
from slth_compile.plan.plan import LayerSize, Plan
from slth_compile.report.summary import AttackRow, CertificateRow, Evaluation, LayerRow, Measured, Summary
from slth_compile.source.layout import BURKHOLZ, Gadget, LayerLayout, added
from slth_compile.source.network import kernel_shape
from slth_compile.ticket.format import mask_sizes
from slth_compile.ticket.masks import SubsetMask
from slth_compile.ticket.ticket import Ticket


def summarise(
    *,
    ticket_id: str,
    graph: Graph,
    folded: Graph,
    plan: Plan,
    ticket: Ticket,
    errors: Mapping[int, LayerErrors],
    domains: Sequence[Domain | None],
    certificates: Sequence[Certificate],
    masks: bytes,
    measured: Measured,
) -> Summary:
    """The record a report is made from; `masks` is the content of `masks.safetensors`."""
    sizes = mask_sizes(masks)
    rows = [
        _layer_row(
            folded,
            position,
            size,
            layout,
            own,
            errors[position],
            8 * sum(sizes[f"{i}.{part}"] for part in own),
        )
        for i, (position, size, layout, own) in enumerate(
            zip(folded.layers, plan.layers, plan.layout.layers, ticket.masks, strict=True)
        )
    ]
    return Summary(
        ticket_id=ticket_id,
        target_digest=target_digest(graph),
        seed=ticket.seed,
        eps=plan.layout.eps,
        delta=plan.layout.delta,
        planned_failure=plan.layout.failure,
        planned_bound=plan.bound,
        promise=plan.promise,
        constant_v=plan.constant_v,
        constant_u=plan.constant_u,
        layers=tuple(rows),
        certificates=tuple(
            CertificateRow(
                domain=describe(domain, certificate.kind),
                kind=certificate.kind,
                method=certificate.method,
                splits=certificate.splits,
                bound=certificate.bound,
                lower=certificate.lower,
                attack=attack,
                largest_output=largest,
                arithmetic=certificate.arithmetic,
                float32=certificate.float32,
                seconds=seconds,
            )
            for domain, certificate, attack, largest, seconds in zip(
                domains,
                certificates,
                measured.attacks,
                measured.largest_outputs,
                measured.bound_seconds or (None,) * len(certificates),
                strict=True,
            )
        ),
        mask_bytes=len(masks),
        measured=measured,
        objective=plan.layout.objective,
        construction=plan.layout.construction,
        source=str(ticket.source),
        depth=plan.layout.depth,
        copies=tuple(layer.copies for layer in plan.layout.layers) if plan.layout.construction == BURKHOLZ else (),
    )


def describe(domain: Domain | None, kind: str) -> str:
    """A domain in words."""
    match domain:
        case Box():
            return f"box {_range(domain.lower, domain.upper)}"
        case Points():
            return f"{len(domain.x)} points"
        case Balls():
            return f"{len(domain.x)} balls of radius {float(np.max(domain.radius)):.4g}"
        case None:
            return f"{kind} (not stored)"


def stats_json(measured: Measured, plan: Plan, graph: Graph) -> bytes:
    """The content of `stats.json`: what the manifest does not state, names of nodes among it."""
    names = [node.name for node in graph.nodes]
    plain = dataclasses.asdict(measured) | {"planned_bound": plan.bound, "promise": plan.promise, "names": names}
    return (json.dumps(plain, indent=1) + "\n").encode()


def measured_from_json(plain: Mapping[str, Any]) -> Measured:
    """The record `stats_json` wrote; what another version measured besides is left out.

    Raises:
        VerificationError: Something is missing that this version reads.
    """
    whole = known_fields(Measured, plain, "it")
    attacks, evaluation = whole["attacks"], whole["evaluation"]
    return Measured(
        seconds=dict(whole["seconds"]),
        attacks=tuple(None if a is None else AttackRow(**known_fields(AttackRow, a, "an attack")) for a in attacks),
        largest_outputs=tuple(whole["largest_outputs"]),
        evaluation=None if evaluation is None else Evaluation(**known_fields(Evaluation, evaluation, "'evaluation'")),
        platform=whole["platform"],
        bound_seconds=tuple(whole.get("bound_seconds", ())),
    )


def known_fields(record: type, plain: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The entries of `stats.json` that a dataclass has fields for; `what` names them in the error."""
    fields = dataclasses.fields(record)
    for field in fields:
        if field.name not in plain and field.default is dataclasses.MISSING:
            raise missing_from_stats(what, field.name)
    return {field.name: plain[field.name] for field in fields if field.name in plain}


def missing_from_stats(what: str, name: str) -> VerificationError:
    """What is said of an entry that is not there."""
    return VerificationError(
        "format",
        f"stats.json: {what} lacks '{name}', as other versions of this package may; `verify` does not read that file",
    )


def platform_text() -> str:
    """Versions and device, in words."""
    device = jax.devices()[0]
    return f"jax {jax.__version__} on {device.platform}, NumPy {np.__version__}, Python {platform.python_version()}"


def _layer_row(
    graph: Graph,
    position: int,
    size: LayerSize,
    layout: LayerLayout,
    masks: Mapping[str, SubsetMask],
    errors: LayerErrors,
    coded_bits: int,
) -> LayerRow:
    node = graph.nodes[position]
    assert isinstance(node, Weighted)
    largest = largest_error(errors)
    weights = node.kernel.reshape(-1)
    if node.bias is not None:
        weights = np.concatenate([weights, node.bias.reshape(-1)])
    return LayerRow(
        name=size.name,
        kind=_kind(node),
        signed=layout.signed,
        weights=size.weights,
        width=layout.kernel.width,
        bias_width=layout.bias.width if layout.bias else 0,
        gain=layout.kernel.gain,
        window=layout.kernel.window,
        tolerance=layout.kernel.tolerance,
        failure=added([layout.kernel.failure, layout.bias.failure if layout.bias else 0.0]),
        parameters_v=size.parameters_v,
        parameters_u=size.parameters_u,
        largest_error=largest,
        kept=sum(mask.kept for mask in masks.values()),
        mask_bits=coded_bits,
        raw_bits=sum(_raw_bits(mask, layout.bias if part == BIAS else layout.kernel) for part, mask in masks.items()),
        quantiser_bits=quantiser_entropy(weights, largest) * weights.size,
    )


def quantiser_entropy(weights: np.ndarray, error: float) -> float:
    """Entropy of a uniform quantiser of the same largest error, bits a weight.

    The quantiser rounds a weight to the nearest multiple of `2 error`; the entropy is that of the distribution of the
    rounded weights as they are, `sum over values v of (n_v / n) log2(n / n_v)`. It is therefore at most `log2(n)`.

    Args:
        weights: The n weights of a layer.
        error: Largest error of the ticket's, in their units; with 0 the weights are taken as they are.
    """
    rounded = np.rint(weights / (2 * error)) if error > 0 else weights
    counts = np.unique(rounded, return_counts=True)[1]
    return float(np.sum(counts * np.log2(weights.size / counts)) / max(1, weights.size))


def _raw_bits(mask: SubsetMask, gadget: Gadget | None) -> int:
    assert gadget is not None
    return mask.raw_bits(gadget.window)


def _kind(node: Weighted) -> str:
    shape = kernel_shape(node)
    channels = f"{shape.inputs} -> {shape.outputs}"
    if not isinstance(node, Convolution):
        return f"dense, {channels}"
    taps = "x".join(str(k) for k in node.kernel.shape[:-2]) or "1"
    groups = "" if node.groups == 1 else ", depthwise" if shape.inputs == node.groups else f", {node.groups} groups"
    return f"convolution {taps}{groups}, {channels}"


def _range(lower: object, upper: object) -> str:
    low, high = np.asarray(lower), np.asarray(upper)
    if np.ptp(low) == 0 and np.ptp(high) == 0:
        return f"[{float(low.flat[0]):g}, {float(high.flat[0]):g}]"
    return f"within [{float(low.min()):g}, {float(high.max()):g}]"
