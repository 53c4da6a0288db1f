"""Found tickets: a seed and a mask of the random weights themselves, with no target; what they are, and their files.

The network is the graph whose kernels are the random weights of `source.initialisation` where the mask keeps them, and
zero elsewhere. `manifest.json` names all of it, its SHA-256 is the ticket id; `certificate.json` says what is true of
every such directory and nothing more; `stats.json` informs and is not believed. JSON and safetensors only.

A mask is one sequence of bits, in C order of its kernel, coded as in `lanes`: the byte q, the numbers of words of all
lanes but the last, four bytes each, the words; little-endian, `L = max(1, floor(weights / 2^16))` lanes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from slth_compile.errors import InputError, SlthError, VerificationError
from slth_compile.graph.check import check
from slth_compile.graph.graph import Graph, graph_from_json, graph_json, target_arrays
from slth_compile.graph.nodes import Convolution, Dense
from slth_compile.source.initialisation import LAWS, kernel_entries, random_kernel
from slth_compile.source.threefry import GENERATOR
from slth_compile.ticket.format import CERTIFICATE, DAMAGED, MANIFEST, MASKS, STATS, SUMS
from slth_compile.ticket.lanes import Reader, quantised, write

FORMAT, VERSION = "slth-found-ticket", 1
STATEMENT = "a mask of this source; nothing is stated about a target"
LARGEST = 1 << 27
"""Weights a found ticket may have."""

_STATED = (MASKS, CERTIFICATE)


@dataclasses.dataclass(frozen=True, eq=False)
class FoundTicket:
    """A pruned random network that was found.

    Attributes:
        graph: The network; its kernels are the masked random weights, float32.
        seed: Of the source, unsigned 64 bit.
        laws: The law of the weights, layer by layer; each one of `source.initialisation.LAWS`.
        masks: True where a weight is kept, bool, in the shapes of the kernels.
    """

    graph: Graph
    seed: int
    laws: tuple[str, ...]
    masks: tuple[np.ndarray, ...]

    @property
    def kept(self) -> int:
        """Number of kept random weights."""
        return sum(int(np.count_nonzero(mask)) for mask in self.masks)

    @property
    def weights(self) -> int:
        """Number of random weights."""
        return sum(mask.size for mask in self.masks)


def found_ticket(graph: Graph, seed: int, law: str, masks: Sequence[np.ndarray]) -> FoundTicket:
    """The ticket that masks are of a random network.

    Args:
        graph: The network; only its structure counts, kernels are replaced.
        seed: Of the source, unsigned 64 bit.
        law: Of all weights.
        masks: For every weighted node in topological order, bool in the shape of its kernel; True = kept.

    Raises:
        InputError: A mask of another shape or type, a law or a seed that there is not, or parameters that are no
            kernels.
    """
    if law not in LAWS or not 0 <= seed < 1 << 64:
        raise InputError(f"law {law!r:.40}, seed {seed}: expected one of {', '.join(LAWS)} and 0 to 2^64 - 1")
    shapes = [_kernel(graph, position).shape for position in graph.layers]
    if [(mask.shape, mask.dtype) for mask in masks] != [(shape, np.dtype(bool)) for shape in shapes]:
        found = [(mask.shape, str(mask.dtype)) for mask in masks]
        raise InputError(f"masks are {found}; expected bool, in the kernels' shapes {shapes}")
    if others := sorted(set(target_arrays(graph)) - {f"{position}.kernel" for position in graph.layers}):
        raise InputError(f"the network has parameters that are no kernels ({', '.join(others[:8])}); expected none")
    nodes = list(graph.nodes)
    for layer, (position, mask) in enumerate(zip(graph.layers, masks, strict=True)):
        kernel = np.where(mask, random_kernel(seed, layer, mask.shape, law), np.float32(0))
        nodes[position] = dataclasses.replace(nodes[position], kernel=kernel)  # type: ignore[call-arg]
    return FoundTicket(check(dataclasses.replace(graph, nodes=tuple(nodes))), seed, (law,) * len(masks), tuple(masks))


def stated_files(ticket: FoundTicket) -> dict[str, bytes]:
    """The manifest and the files it covers, as bytes by name; the same ticket gives the same bytes."""
    coded = {f"{layer}": encode_mask(mask) for layer, mask in enumerate(ticket.masks)}
    files = {MASKS: safetensors.numpy.save(coded), CERTIFICATE: to_bytes([certificate(ticket.weights, ticket.kept)])}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": GENERATOR,
        "seed": ticket.seed,
        "graph": graph_json(ticket.graph),
        "output_names": list(ticket.graph.output_names),
        "layers": [
            {
                "law": law,
                "fan_in": math.prod(mask.shape[:-1]),
                "weights": mask.size,
                "kept": int(np.count_nonzero(mask)),
                "entries": entries_digest(ticket.seed, layer, mask),
            }
            for layer, (law, mask) in enumerate(zip(ticket.laws, ticket.masks, strict=True))
        ],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    return {MANIFEST: to_bytes(manifest), **files}


def certificate(weights: int, kept: int) -> dict[str, Any]:
    """The one entry of `certificate.json`."""
    return {"kind": "mask", "statement": STATEMENT, "weights": weights, "kept": kept}


def entries_digest(seed: int, layer: int, mask: np.ndarray) -> str:
    """SHA-256 of the entries that a mask keeps, int32 little-endian in C order: exact, whatever the law."""
    kept = kernel_entries(seed, layer, np.flatnonzero(mask))
    return hashlib.sha256(kept.astype("<i4").tobytes()).hexdigest()


def is_found(directory: pathlib.Path) -> bool:
    """Whether a directory's manifest says that it is a found ticket, sound or not."""
    try:
        return json.loads((directory / MANIFEST).read_bytes())["format"] == FORMAT
    except DAMAGED:
        return False


def read(directory: pathlib.Path) -> tuple[FoundTicket, dict[str, Any], dict[str, bytes]]:
    """The ticket of a directory, its stats and the bytes it is stated in, digests checked.

    Raises:
        VerificationError: A file is missing or damaged, or the version or generator is unknown.
    """
    try:
        content = _listed(directory)
        manifest = json.loads(content[MANIFEST])
        if (manifest["version"], manifest["generator"]) != (VERSION, GENERATOR):
            found = f"version {manifest['version']!r:.40}, generator {manifest['generator']!r:.40}"
            raise VerificationError("version", f"found {found}; this release reads {VERSION} and '{GENERATOR}'")
        ticket = _ticket(manifest, content[MASKS])
        stats = json.loads(content.pop(STATS)) if STATS in content else {}
        if stated_files(ticket) != content:
            raise VerificationError("format", f"{directory}: its files are not those of the ticket that they hold")
    except VerificationError:
        raise
    except (SlthError, safetensors.SafetensorError, *DAMAGED) as error:
        raise VerificationError("format", f"{directory}: damaged or not of this format ({error!r})") from error
    return ticket, stats, content


def _listed(directory: pathlib.Path) -> dict[str, bytes]:
    """What is read, each file with the digest that `SHA256SUMS` lists."""
    for name in (SUMS, MANIFEST, *_STATED):
        if not (directory / name).is_file():
            raise VerificationError("format", f"{name} is missing")
    lines = (line.split("  ", 1) for line in (directory / SUMS).read_text("ascii").splitlines())
    listed = {name: digest for digest, name in lines}
    names = [MANIFEST, *_STATED] + [STATS] * (directory / STATS).is_file()
    content = {name: (directory / name).read_bytes() for name in names}
    for name, raw in content.items():
        if hashlib.sha256(raw).hexdigest() != listed.get(name):
            raise VerificationError("digest", f"{name} is not the file that {SUMS} lists")
    return content


def _ticket(manifest: Mapping[str, Any], coded: bytes) -> FoundTicket:
    plain, seed = manifest["graph"], manifest["seed"]
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise VerificationError("source", f"found the seed {seed!r:.40}, expected 0 to 2^64 - 1")
    stated = {
        f"{i}.kernel": tuple(node["kernel"]["shape"]) for i, node in enumerate(plain["nodes"]) if "kernel" in node
    }
    if sum(math.prod(shape) for shape in stated.values()) > LARGEST:
        raise VerificationError("format", f"more than {LARGEST} weights")
    layers, bytes_of = manifest["layers"], dict(safetensors.deserialize(coded))
    if len(layers) != len(stated) or any(entry["law"] not in LAWS for entry in layers):
        raise VerificationError("format", f"{len(layers)} layers, or their laws, do not fit the graph")
    arrays, masks = {}, []
    for layer, ((name, shape), entry) in enumerate(zip(stated.items(), layers, strict=True)):
        raw = np.frombuffer(bytes_of[str(layer)]["data"], np.uint8)
        masks.append(decode_mask(raw, shape))
        arrays[name] = np.where(masks[-1], random_kernel(seed, layer, shape, entry["law"]), np.float32(0))
    graph = check(graph_from_json(plain, arrays, tuple(manifest["output_names"])))
    return FoundTicket(graph, seed, tuple(entry["law"] for entry in layers), tuple(masks))


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """The code of a mask, uint8 `(bytes,)`; there is exactly one."""
    bits = mask.reshape(-1)
    q = quantised(int(np.count_nonzero(bits)), bits.size)
    lanes = write([np.packbits(bits, bitorder="little")], [q], _lanes(bits.size))
    lengths = np.array([len(lane) for lane in lanes[:-1]], "<u4").tobytes()
    return np.frombuffer(bytes([q]) + lengths + np.concatenate(lanes).astype("<u4").tobytes(), np.uint8)


def decode_mask(coded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask that `encode_mask` wrote, bool.

    Raises:
        InputError: It is not the code of a mask of this shape.
    """
    size, raw = math.prod(shape), coded.tobytes()
    body = 1 + 4 * (_lanes(size) - 1)
    if len(raw) < body or (len(raw) - body) % 4:
        raise InputError(f"masks: {len(raw)} bytes do not hold the head and whole words of a code")
    ends = np.cumsum(np.frombuffer(raw[1:body], "<u4").astype(np.int64)).tolist()
    stream = np.frombuffer(raw[body:], "<u4").astype(np.uint32)
    if ends and ends[-1] > len(stream):
        raise InputError(f"masks: {len(stream)} words do not hold lanes of {ends[-1]}")
    reader = Reader([stream[a:b] for a, b in itertools.pairwise([0, *ends, len(stream)])])
    bits = reader.read(size, raw[0])
    reader.finish()
    return bits.astype(bool).reshape(shape)


def _lanes(weights: int) -> int:
    return max(1, weights >> 16)


def _kernel(graph: Graph, position: int) -> np.ndarray:
    node = graph.nodes[position]
    assert isinstance(node, Convolution | Dense)
    return node.kernel


def to_bytes(value: Any) -> bytes:
    """A JSON value as the text of a file, the same for the same value."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
