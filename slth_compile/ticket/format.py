"""The files of a ticket directory: what is written, how it is named, and reading it back.

`manifest.json` names everything the statement depends on; its SHA-256 is the ticket id. `SHA256SUMS` covers every file.
Nothing here is executed when read: JSON and safetensors only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from slth_compile.constructions.burkholz import families
from slth_compile.constructions.da_cunha import Family
from slth_compile.domain import Balls, Box, Domain, Points
from slth_compile.errors import InputError, SlthError, VerificationError
from slth_compile.graph.check import check
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph, graph_from_json, graph_json, target_arrays, target_digest
from slth_compile.graph.nodes import Weighted
from slth_compile.source.law import FEWEST_BITS, MOST_BITS, STANDARD, SourceLaw
from slth_compile.source.layout import (
    BURKHOLZ,
    CONSTRUCTIONS,
    DA_CUNHA,
    MAXIMUM_WIDTH,
    OBJECTIVES,
    Gadget,
    LayerLayout,
    Layout,
    layers_json,
)
from slth_compile.source.source import Generated, Source, Supplied
from slth_compile.source.supplied import numbers, refuse_unfitting, supplied
from slth_compile.source.threefry import GENERATOR
from slth_compile.ticket.coding import decode_family, encode_family
from slth_compile.ticket.masks import LARGEST_WINDOW
from slth_compile.ticket.ticket import Ticket

FORMAT, VERSION, SOURCE_VERSION, CONSTRUCTION_VERSION, WITNESS_VERSION = "slth-ticket", 2, 3, 4, 5
"""A ticket of the standard source is of version 2; version 3 adds what another source is, version 4 whose construction
it is, and of burkholz how each layer is built; version 5 states both whatever they are, and has a witness."""

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
MASKS, TARGET, DOMAIN, CERTIFICATE = "masks.safetensors", "target.safetensors", "domain.safetensors", "certificate.json"
SOURCE, WITNESS = "source.safetensors", "witness.safetensors"
"""Where the source was supplied; where bounds are branched."""

STATED = (MASKS, TARGET, DOMAIN, CERTIFICATE)
STATS = "stats.json"
LARGEST_STORED_DOMAIN = 64 << 20
DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
"""What reading a damaged or hostile directory may raise."""
_DTYPES = {"float32": "F32", "float64": "F64"}
_STORED = {"U8": np.uint8, "F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
_STORED |= {"I32": np.int32, "I64": np.int64}


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Everything a ticket directory says.

    Attributes:
        graph: The target as given, unfolded.
        ticket: Layout, source, masks.
        domains: Where the certificates hold; a domain too large to store has no samples when read back and is None.
        certificates: Entries of `certificate.json`.
        witness: Arrays of `witness.safetensors` by name; none where no certificate needs them.
        stats: What was measured on the way: seconds, accuracies, attacks. Not part of the ticket id.
        stated: The bytes of the manifest and the files it covers, by name.
    """

    graph: Graph
    ticket: Ticket
    domains: tuple[Domain | None, ...]
    certificates: tuple[dict[str, Any], ...]
    witness: dict[str, np.ndarray]
    stats: dict[str, Any]
    stated: dict[str, bytes]


def stated_files(
    graph: Graph,
    ticket: Ticket,
    domains: Sequence[Domain],
    certificates: Sequence[Mapping[str, Any]],
    witness: Mapping[str, np.ndarray] | None = None,
) -> dict[str, bytes]:
    """The manifest and the files it covers, as bytes by name; the same input gives the same bytes.

    Args:
        graph: The unfolded target.
        ticket: Layout, source, masks.
        domains: Where the certificates hold.
        certificates: Entries of `certificate.json`.
        witness: Arrays that branched certificates rest on, by name; None, or none, where none is.
    """
    stored = {
        f"{d}.{name}": array
        for d, domain in enumerate(domains)
        if _is_stored(domain)
        for name, array in domain_tensors(domain).items()
    }
    files = {
        MASKS: safetensors.numpy.save(mask_tensors(graph, ticket)),
        TARGET: safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in target_arrays(graph).items()}),
        DOMAIN: safetensors.numpy.save(stored),
        CERTIFICATE: _json(list(certificates)),
    }
    if isinstance(ticket.source, Supplied):
        files[SOURCE] = safetensors.numpy.save(numbers(ticket.source))
    if witness:
        files[WITNESS] = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in witness.items()})
    added = _added(ticket, WITNESS in files)
    manifest = {
        "format": FORMAT,
        "version": WITNESS_VERSION if WITNESS in files else _version(added),
        "generator": GENERATOR,
        "seed": ticket.seed,
        "eps": ticket.layout.eps,
        "delta": ticket.layout.delta,
        "objective": ticket.layout.objective,
        "graph": graph_json(graph),
        "output_names": list(graph.output_names),
        "target_digest": target_digest(graph),
        "layers": layers_json(ticket.layout),
        "domains": [
            {"kind": domain.kind, "digest": domain_digest(domain), "stored": _is_stored(domain)} for domain in domains
        ],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    } | added
    return {MANIFEST: _json(manifest), **files}


def ticket_id(directory: pathlib.Path) -> str:
    """SHA-256 of the directory's manifest."""
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def checksums(files: Mapping[str, bytes]) -> bytes:
    """The content of `SHA256SUMS` for some files, as `sha256sum` writes it."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def mask_tensors(graph: Graph, ticket: Ticket) -> dict[str, np.ndarray]:
    """The coded masks, by tensor name: `layer.part`; two are coded at a time."""
    found = [
        (family, masks[family.part])
        for masks, parts in zip(ticket.masks, _families(graph, ticket.layout, ticket.source), strict=True)
        for family in parts
    ]
    # The large ones first, so that none is left over at the end.
    order = sorted(range(len(found)), key=lambda i: -found[i][1].subsets.size)
    with ThreadPoolExecutor(2) as pool:
        coded = dict(zip(order, pool.map(lambda i: encode_family(*found[i]), order), strict=True))
    return {f"{family.layer}.{family.part}": coded[i] for i, (family, _) in enumerate(found)}


def mask_sizes(content: bytes) -> dict[str, int]:
    """Bytes of every coded mask in the content of `masks.safetensors`, by tensor name."""
    return {name: len(entry["data"]) for name, entry in safetensors.deserialize(content)}


def domain_tensors(domain: Domain) -> dict[str, np.ndarray]:
    """The arrays that define a domain, by name."""
    match domain:
        case Box():
            return {"lower": _plain(domain.lower), "upper": _plain(domain.upper)}
        case Points():
            return {"x": np.ascontiguousarray(domain.x)}
        case Balls():
            bounds = {"radius": domain.radius, "lower": domain.lower, "upper": domain.upper}
            return {"x": np.ascontiguousarray(domain.x)} | {name: _plain(value) for name, value in bounds.items()}


def domain_digest(domain: Domain) -> str:
    """SHA-256 over names, types, shapes and bytes of a domain's arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(domain_tensors(domain).items()):
        shape = json.dumps(list(array.shape), separators=(",", ":"))
        digest.update(name.encode() + b"\0" + _DTYPES[array.dtype.name].encode() + shape.encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def read(directory: pathlib.Path) -> Record:
    """What a ticket directory says, digests checked; for the truth of it, ask the checker.

    Raises:
        InputError: No ticket directory there.
        VerificationError: A file is missing or damaged, or the format, version or generator is unknown.
    """
    if not (directory / MANIFEST).is_file():
        raise InputError(f"{directory}: not a ticket directory, it has no {MANIFEST}; a checkpoint needs --factory")
    try:
        content = _listed(directory)
        manifest = json.loads(content[MANIFEST])
        _refuse_unknown(manifest)
        _refuse_unstated(content, manifest["files"])
        graph = graph_from_json(manifest["graph"], _tensors(content[TARGET]), tuple(manifest["output_names"]))
        construction = _construction(manifest)
        layers = tuple(_layer_layout(entry, construction) for entry in manifest["layers"])
        source, law = _source(manifest, content)
        objective = _objective(manifest["objective"])
        layout = Layout(
            eps=manifest["eps"],
            delta=manifest["delta"],
            layers=layers,
            objective=objective,
            construction=construction,
            law=law,
        )
        if isinstance(source, Supplied):
            refuse_unfitting(fold(graph), layout, source)
        coded = _tensors(content[MASKS])
        masks = tuple(
            {family.part: decode_family(family, coded[f"{family.layer}.{family.part}"]) for family in parts}
            for parts in _families(check(graph), layout, source)
        )
        arrays = _tensors(content[DOMAIN])
        domains = tuple(_domain(entry, d, arrays, graph.input_shape) for d, entry in enumerate(manifest["domains"]))
        certificates = tuple(json.loads(content[CERTIFICATE]))
        if len(certificates) != len(domains):
            raise ValueError(f"{len(certificates)} certificates for {len(domains)} domains")
        witness = _tensors(content[WITNESS]) if WITNESS in content else {}
        if (manifest["version"] == WITNESS_VERSION) != bool(witness):
            raise ValueError(f"{WITNESS} is needed in version {WITNESS_VERSION}, and in no other")
        stats = json.loads(content.pop(STATS))
    except VerificationError:
        raise
    except (SlthError, safetensors.SafetensorError, *DAMAGED) as error:
        raise VerificationError("format", f"{directory}: damaged or not of this format ({error!r})") from error
    return Record(graph, Ticket(layout, source, masks), domains, certificates, witness, stats, content)


def _refuse_unknown(manifest: Mapping[str, Any]) -> None:
    if manifest["format"] != FORMAT:
        raise VerificationError("format", f"found format '{manifest['format']}', expected '{FORMAT}'")
    if manifest["version"] not in (VERSION, SOURCE_VERSION, CONSTRUCTION_VERSION, WITNESS_VERSION):
        known = f"{VERSION}, {SOURCE_VERSION}, {CONSTRUCTION_VERSION} and {WITNESS_VERSION}"
        raise VerificationError("version", f"found version {manifest['version']}, this release reads {known}")
    if manifest["generator"] != GENERATOR:
        raise VerificationError("version", f"found generator '{manifest['generator']}', expected '{GENERATOR}'")


def _listed(directory: pathlib.Path) -> dict[str, bytes]:
    """What is read of a ticket, each file with the digest that `SHA256SUMS` lists."""
    for name in (SUMS, MANIFEST, *STATED, STATS):
        if not (directory / name).is_file():
            raise VerificationError("format", f"{name} is missing")
    lines = (line.split("  ", 1) for line in (directory / SUMS).read_text("ascii").splitlines())
    listed = {name: digest for digest, name in lines}
    names = [MANIFEST, *STATED, STATS, *(name for name in (SOURCE, WITNESS) if (directory / name).is_file())]
    content = {name: (directory / name).read_bytes() for name in names}
    for name, raw in content.items():
        if hashlib.sha256(raw).hexdigest() != listed.get(name):
            raise VerificationError("digest", f"{name} is not the file that {SUMS} lists")
    return content


def _refuse_unstated(content: Mapping[str, bytes], digests: Mapping[str, str]) -> None:
    for name in (SOURCE, WITNESS):
        if (name in content) != (name in digests):
            raise VerificationError("format", f"{name} is there and not in the manifest, or the other way round")
    for name in (*STATED, *(name for name in (SOURCE, WITNESS) if name in content)):
        if hashlib.sha256(content[name]).hexdigest() != digests[name]:
            raise VerificationError("digest", f"{name} is not the file the manifest names")


def _tensors(content: bytes) -> dict[str, np.ndarray]:
    # Not safetensors.numpy.load: it does not read the BF16 that safetensors.numpy.save writes.
    return {
        name: np.frombuffer(entry["data"], _STORED[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(content)
    }


def _layer_layout(entry: Mapping[str, Any], construction: str) -> LayerLayout:
    bias = None if entry["bias"] is None else _gadget(entry["bias"])
    found = LayerLayout(signed=bool(entry["signed"]), kernel=_gadget(entry["kernel"]), bias=bias)
    if construction != BURKHOLZ:
        return found
    return dataclasses.replace(found, copies=_whole(entry["copies"], 1, MAXIMUM_WIDTH), direct=bool(entry["direct"]))


def _gadget(entry: Mapping[str, Any]) -> Gadget:
    return Gadget(
        width=_whole(entry["width"], 1, MAXIMUM_WIDTH),
        gain=_whole(entry["gain"], -512, 512),
        window=_whole(entry["window"], 1, LARGEST_WINDOW),
        tolerance=float(entry["tolerance"]),
        failure=None if entry["failure"] is None else float(entry["failure"]),
    )


def _objective(value: Any) -> str:
    if value not in OBJECTIVES:
        raise ValueError(f"found the objective {value!r:.40}, expected one of {', '.join(OBJECTIVES)}")
    return value


def _construction(manifest: Mapping[str, Any]) -> str:
    if manifest["version"] < CONSTRUCTION_VERSION:
        return DA_CUNHA
    found, known = manifest["construction"], CONSTRUCTIONS[manifest["version"] == CONSTRUCTION_VERSION :]
    if found not in known:
        raise ValueError(f"found the construction {found!r:.40}, expected one of {', '.join(known)}")
    return found


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"found {value!r:.40}, expected a whole number from {low} to {high}")
    return value


def _added(ticket: Ticket, everything: bool) -> dict[str, Any]:
    """What the manifest says of a source other than the standard one, and of a construction other than the first."""
    law = None if isinstance(ticket.source, Supplied) else ticket.source.law
    source = {"kind": "supplied"} if law is None else {"kind": "generated", **dataclasses.asdict(law)}
    if ticket.layout.construction == DA_CUNHA and not everything:
        return {} if law == STANDARD else {"source": source}
    return {"source": source, "construction": ticket.layout.construction}


def _version(added: Mapping[str, Any]) -> int:
    if "construction" in added:
        return CONSTRUCTION_VERSION
    return SOURCE_VERSION if added else VERSION


def _source(manifest: Mapping[str, Any], content: Mapping[str, bytes]) -> tuple[Source, SourceLaw | None]:
    described = {"kind": "generated"} if manifest["version"] == VERSION else manifest["source"]
    if described["kind"] not in ("generated", "supplied"):
        raise VerificationError(
            "source", f"found a source of kind {described['kind']!r:.40}, expected generated or supplied"
        )
    if (described["kind"] == "supplied") != (SOURCE in content):
        raise VerificationError("format", f"{SOURCE} is needed exactly where the source was supplied")
    if described["kind"] == "supplied":
        return supplied(_tensors(content[SOURCE])), None
    bits = _whole(described.get("bits", STANDARD.bits), FEWEST_BITS, MOST_BITS)
    law = SourceLaw(bits, bool(described.get("signs", False)))
    return Generated(_whole(manifest["seed"], 0, 2**64 - 1), law), law


def _families(graph: Graph, layout: Layout, source: Source) -> Iterator[tuple[Family, ...]]:
    """The problems of every layer of an unfolded target."""
    folded = fold(graph)
    for index, (position, layer) in enumerate(zip(folded.layers, layout.layers, strict=True)):
        node = folded.nodes[position]
        assert isinstance(node, Weighted)
        yield families(source, index, node, layer)


def _domain(
    entry: Mapping[str, Any], d: int, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> Domain | None:
    if not entry["stored"]:
        return None
    match entry["kind"]:
        case "box":
            return Box(arrays[f"{d}.lower"], arrays[f"{d}.upper"], shape)
        case "points":
            return Points(arrays[f"{d}.x"])
        case "balls":
            return Balls(arrays[f"{d}.x"], arrays[f"{d}.radius"], arrays[f"{d}.lower"], arrays[f"{d}.upper"])
        case kind:
            raise VerificationError("format", f"found a domain of kind '{kind}', expected box, points or balls")


def _is_stored(domain: Domain) -> bool:
    return sum(array.nbytes for array in domain_tensors(domain).values()) <= LARGEST_STORED_DOMAIN


def _plain(value: float | np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(value, np.float64))


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
