"""The checks in order, cheap integrity first."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path

import numpy as np

from slth_compile.checker import files
from slth_compile.checker.certificate import BRANCHED, Claim, check_claim, parse_claims
from slth_compile.checker.copies import widen
from slth_compile.checker.domain import Domain, load_domains
from slth_compile.checker.fold import Folded, fold
from slth_compile.checker.found import FoundVerdict, is_found, verify_found
from slth_compile.checker.graph import Graph, parse_graph
from slth_compile.checker.layer import Counts, expected_masks, pair_layer
from slth_compile.checker.manifest import Manifest, parse_manifest
from slth_compile.checker.matrices import PairLayer
from slth_compile.checker.safetensors import read_safetensors
from slth_compile.checker.signs import nonnegative_nodes
from slth_compile.checker.source import Generated, Source, Supplied
from slth_compile.checker.verdict import Verdict
from slth_compile.checker.witness import Witness, read_witness
from slth_compile.errors import VerificationError

_CONSTRUCTIONS = {
    "pensia": "every kernel has one tap",
    "malach": "no weight keeps more than one product",
    "burkholz": "layers read as many copies of channels as there are",
}

_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    BufferError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def verify(
    directory: str | os.PathLike[str],
    *,
    expected_id: str | None = None,
    domain_data: str | os.PathLike[str] | None = None,
    quick: bool = False,
) -> Verdict | FoundVerdict:
    """What is true of a ticket directory, with nothing taken on trust.

    The source's words are regenerated from the seed (numbers that were supplied are read), the target is folded, every
    effective weight is recomputed in integers, and the statement
    `sup over x in D of max_i |f(x)_i - g(x)_i| <= bound <= eps` is proved again.

    Of a found ticket, which has no target, the statement is that its mask is one of its source (`checker.found`).

    Args:
        directory: The folder that holds `manifest.json`.
        expected_id: Ticket id that the manifest must have, 64 hexadecimal digits.
        domain_data: An `.npz` with the inputs of a domain that the folder does not hold.
        quick: True bounds balls and boxes by intervals alone, whatever is claimed, and checks everything else.

    Returns:
        The verdict.

    Raises:
        VerificationError: Something is damaged, missing, unknown or false; `check` names it.
        InputError: There is no such directory, or `domain_data` cannot be read.
    """
    try:
        with np.errstate(all="ignore"):  # overflow shows up as a value that is not finite
            if is_found(Path(directory)):
                return dataclasses.replace(verify_found(Path(directory), expected_id, domain_data), quick=quick)
            return _verify(Path(directory), expected_id, domain_data, quick)
    except _UNFORESEEN as error:
        reason = ascii(str(error))[1:-1][:200]
        raise VerificationError("format", f"the files cannot be read ({type(error).__name__}: {reason})") from error


def _verify(
    directory: Path, expected_id: str | None, domain_data: str | os.PathLike[str] | None, quick: bool
) -> Verdict:
    passed: list[tuple[str, str]] = []
    manifest, ticket_id = _integrity(directory, expected_id, passed)
    passed.append(("version", f"format version {manifest.version}, generator threefry2x32-20-v1"))
    graph, target_digest = parse_graph(manifest.graph, read_safetensors(directory / "target.safetensors"))
    if target_digest != manifest.target_digest:
        found = f"the target has digest {target_digest}, the manifest says {manifest.target_digest}"
        raise VerificationError("target", found)
    if len(manifest.output_names) != len(graph.outputs):
        raise VerificationError("format", f"{len(manifest.output_names)} output names for {len(graph.outputs)} outputs")
    folded = fold(graph)
    passed.append(("target", f"{len(graph.nodes)} operations, {len(folded.layers)} weighted layers after folding"))
    domains = _domains(directory, manifest, graph, domain_data, passed)
    sizes = [math.prod(graph.nodes[i].shape) for i in graph.outputs]
    claims = parse_claims(files.read_small(directory / "certificate.json"), domains, sizes, manifest.eps)
    witnesses = _witnesses(directory, manifest, claims, domains, passed)
    passed.append(("eps", f"every claimed bound is at most eps {manifest.eps!r}"))
    if manifest.delta is None:
        passed.append(("delta", _not_stated(manifest)))
    else:
        passed.append(("delta", f"the layers' failure figures add up to at most delta {manifest.delta!r}"))
    _check_layers(manifest, folded, domains)
    widened = widen(folded, manifest.layers) if manifest.construction == "burkholz" else folded
    passed.append(("sign", "one-signed layers read non-negative inputs by structure"))
    source = _source(directory, manifest)
    exact = any(claim.method == "exact" for claim in claims)
    if exact and manifest.construction == "burkholz":
        raise VerificationError("bound", "a bound of copies has the method 'exact', expected intervals")
    layers, counts = _layers(directory, manifest, folded, source, exact)
    if manifest.construction != "da-cunha":
        passed.append(("construction", f"of {manifest.construction}: {_CONSTRUCTIONS[manifest.construction]}"))
    passed.append(("masks", f"{counts.kept} candidates kept, all of them in the source"))
    passed.append(("source", source.finish()))
    passed.append(("weights", f"{counts.weights} weights recomputed in integers"))
    passed.append(("tolerance", "every weight is within its layer's tolerance"))
    certificates = tuple(
        check_claim(claim, i, widened, layers, domain, witnesses.get(i), quick=quick)
        for i, (claim, domain) in enumerate(zip(claims, domains, strict=True))
    )
    recomputed = sum(entry.recomputed is not None for entry in certificates)
    if recomputed:
        passed.append(("bound", f"{recomputed} of {len(certificates)} certificates recomputed"))
    return Verdict(
        ticket_id=ticket_id,
        target_digest=target_digest,
        seed=manifest.seed,
        eps=manifest.eps,
        delta=manifest.delta,
        checks=tuple(passed),
        certificates=certificates,
        weights=counts.weights,
        kept=counts.kept,
        parameters_u=counts.u,
        parameters_v=counts.v,
        quick=quick,
    )


def _integrity(directory: Path, expected_id: str | None, passed: list[tuple[str, str]]) -> tuple[Manifest, str]:
    """The manifest and the ticket id, once every file has the digest that is listed for it."""
    names = files.inventory(directory)
    sums = files.check_sums(directory, names)
    raw = files.read_small(directory / files.MANIFEST)
    ticket_id = hashlib.sha256(raw).hexdigest()
    if ticket_id != sums[files.MANIFEST]:
        raise VerificationError("digest", "the manifest changed while it was read")
    if expected_id is not None:
        if expected_id.strip().lower() != ticket_id:
            raise VerificationError(
                "ticket id", f"the ticket id is {ticket_id}, expected {ascii(expected_id)[1:-1][:80]}"
            )
        passed.append(("ticket id", "as expected"))
    manifest = parse_manifest(raw)
    if (files.SOURCE in sums) != (files.SOURCE in manifest.files):
        raise VerificationError("source", f"{files.SOURCE} is needed exactly where the source was supplied")
    if (files.WITNESS in sums) != (files.WITNESS in manifest.files):
        raise VerificationError("witness", f"{files.WITNESS} is needed exactly where the manifest states it")
    for name, claimed in manifest.files.items():
        if sums[name] != claimed:
            raise VerificationError("digest", f"'{name}' has SHA-256 {sums[name]}, the manifest says {claimed}")
    passed.append(("digest", f"{len(sums)} files as listed"))
    passed.append(("format", "manifest well formed"))
    return manifest, ticket_id


def _domains(
    directory: Path,
    manifest: Manifest,
    graph: Graph,
    domain_data: str | os.PathLike[str] | None,
    passed: list[tuple[str, str]],
) -> tuple[Domain, ...]:
    tensors = read_safetensors(directory / "domain.safetensors")
    domains = load_domains(manifest.domains, tensors, graph.nodes[0].shape, domain_data)
    kinds = ", ".join(
        f"{domain.kind} ({domain.samples})" if "x" in domain.arrays else domain.kind for domain in domains
    )
    passed.append(("domain", kinds))
    return domains


def _witnesses(
    directory: Path,
    manifest: Manifest,
    claims: tuple[Claim, ...],
    domains: tuple[Domain, ...],
    passed: list[tuple[str, str]],
) -> dict[int, Witness]:
    """What is listed for every domain whose bound is branched."""
    samples = {i: domain.samples for i, domain in enumerate(domains) if claims[i].method == BRANCHED}
    if bool(samples) != (files.WITNESS in manifest.files):
        raise VerificationError("witness", f"{files.WITNESS} is needed exactly where a bound is branched")
    if not samples:
        return {}
    found = read_witness(directory / files.WITNESS, samples)
    listed = sum(len(witness.listed.rows) for witness in found.values())
    passed.append(("witness", f"{listed} bounds by cases, for {len(found)} of {len(domains)} domains"))
    return found


def _check_layers(manifest: Manifest, folded: Folded, domains: tuple[Domain, ...]) -> None:
    """One plan a layer, a bias where the layer has one, and one sign only where the input is never negative."""
    if not folded.layers or len(manifest.layers) != len(folded.layers):
        found = f"{len(manifest.layers)} layers are planned, the folded target has {len(folded.layers)}"
        raise VerificationError("format", f"{found}; expected one plan for each of one or more layers")
    nonnegative = nonnegative_nodes(folded, all(domain.is_nonnegative() for domain in domains))
    for i, (plan, layer) in enumerate(zip(manifest.layers, folded.layers, strict=True)):
        if (plan.bias is None) != (layer.bias is None):
            has = "no bias" if layer.bias is None else "a bias"
            raise VerificationError("format", f"layer {i} has {has} after folding, the manifest says otherwise")
        if not plan.signed and not nonnegative[folded.graph.nodes[layer.node].inputs[0]]:
            raise VerificationError("sign", f"layer {i} is declared one-signed, but its input may be negative")


def _source(directory: Path, manifest: Manifest) -> Source:
    if manifest.seed is None:
        return Supplied(read_safetensors(directory / files.SOURCE))
    return Generated(manifest.seed, manifest.bits, manifest.signs)


def _not_stated(manifest: Manifest) -> str:
    """Why there is no probability."""
    supplied = "the source was supplied" if manifest.seed is None else f"the source has {manifest.bits} bits an entry"
    return f"not stated: {supplied}; the weights were checked one by one"


def _layers(
    directory: Path, manifest: Manifest, folded: Folded, source: Source, exact: bool
) -> tuple[dict[int, PairLayer], Counts]:
    """Every layer in both networks, by position in the folded graph; with its exact weights where they are needed."""
    masks = read_safetensors(directory / "masks.safetensors")
    expected = expected_masks(manifest.layers)
    if set(masks) != expected:
        wrong = ascii(sorted(set(masks) ^ expected))[:200]
        raise VerificationError("masks", f"masks.safetensors lacks or should not have {wrong}")
    layers: dict[int, PairLayer] = {}
    counts: list[Counts] = []
    for i, (plan, layer) in enumerate(zip(manifest.layers, folded.layers, strict=True)):
        if manifest.construction == "pensia" and layer.canonical(layer.kernel).shape[0] > 1:
            raise VerificationError("construction", f"layer {i} is of pensia's, and its kernel is larger than 1x1")
        single = manifest.construction == "malach"
        layers[layer.node], count = pair_layer(i, layer, plan, source, masks, exact=exact, single=single)
        counts.append(count)
    total = [sum(getattr(count, field) for count in counts) for field in ("weights", "kept", "u", "v")]
    return layers, Counts(*total)
