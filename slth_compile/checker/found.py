"""The checks of a found ticket: it has no target, so what can be true is that its mask is one of its source.

The random words are regenerated from the seed and hashed where the mask keeps them, as integers: entry `i` of layer `l`
is `(word >> 8) - 2^23`, of the tensor `(l, 1)`. Both laws are functions of these; no float is computed here. Accuracies
and whatever else `stats.json` claims are not looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from slth_compile.checker import files
from slth_compile.checker.graph import Graph, parse_graph
from slth_compile.checker.lanes import Lanes
from slth_compile.checker.safetensors import Tensor, read_safetensors
from slth_compile.checker.schema import hexadecimal, integer, record, sequence, strict_json, text
from slth_compile.checker.threefry import GENERATOR, KERNEL_V, entries, tensor_key
from slth_compile.errors import InputError, VerificationError

FORMAT, VERSION = "slth-found-ticket", 1
LAWS = ("signed-constant", "kaiming-normal")
STATEMENT = "a mask of this source; nothing is stated about a target"
MAX_WEIGHTS = 1 << 27

_COVERED = ("certificate.json", "masks.safetensors")
_REQUIRED = {files.SUMS, files.MANIFEST, *_COVERED}
_OPTIONAL = {"stats.json", "README.md"}
_KEYS = ("format", "version", "generator", "seed", "graph", "output_names", "layers", "files")
_WEIGHTED = ("convolution", "dense")


@dataclasses.dataclass(frozen=True)
class Layer:
    """What the manifest says of one layer: law, sizes, kept weights, digest of the entries that are kept."""

    law: str
    fan_in: int
    weights: int
    kept: int
    entries: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundVerdict:
    """Everything that was found true of one found ticket.

    Attributes:
        ticket_id: SHA-256 of the manifest.
        statement: All that is stated.
        seed: Of the source, unsigned 64 bit.
        laws: Of the weights, layer by layer.
        weights: Random weights.
        kept: Those that the mask keeps.
        checks: `(name, one line of detail)` of every check passed, in order.
        quick: Whether less was asked for; nothing is left out.
    """

    ticket_id: str
    statement: str
    seed: int
    laws: tuple[str, ...]
    weights: int
    kept: int
    checks: tuple[tuple[str, str], ...]
    quick: bool = False

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"verified": True, "kind": "found", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """The verdict as a few lines of plain text."""
        lines = [f"found ticket {self.ticket_id}", f"seed {self.seed}, {', '.join(dict.fromkeys(self.laws))}"]
        lines += [f"{self.kept} of {self.weights} random weights kept"]
        lines += [f"  {name:<10} {detail}" for name, detail in self.checks]
        return "\n".join([*lines, f"verified: {self.statement}"])


def is_found(directory: Path) -> bool:
    """Whether the manifest in a directory names this format."""
    try:
        plain = json.loads(files.read_small(directory / files.MANIFEST))
    except (OSError, ValueError, RecursionError, VerificationError):
        return False
    return isinstance(plain, dict) and plain.get("format") == FORMAT


def verify_found(directory: Path, expected_id: str | None, domain_data: Any) -> FoundVerdict:
    """What is true of a found ticket, with nothing taken on trust.

    Raises:
        VerificationError: Something is damaged, missing, unknown or false; `check` names it.
        InputError: Inputs of a domain were given, which it does not have.
    """
    if domain_data is not None:
        raise InputError("a found ticket speaks about no domain; leave --domain-data (domain_data) out")
    passed: list[tuple[str, str]] = []
    plain, layers, ticket_id = _integrity(directory, expected_id, passed)
    graph, shapes = _network(plain["graph"], layers)
    if len(sequence(plain["output_names"], "'output_names'")) != len(graph.outputs):
        raise VerificationError("format", "the output names are not as many as the outputs")
    for name in plain["output_names"]:
        text(name, "an output's name")
    passed.append(("network", f"{len(graph.nodes)} operations, {len(layers)} weighted layers, no other parameters"))
    seed = integer(plain["seed"], "the seed", 0, (1 << 64) - 1, "source")
    masks = read_safetensors(directory / "masks.safetensors")
    if set(masks) != {str(i) for i in range(len(layers))}:
        raise VerificationError("masks", f"masks.safetensors has {ascii(sorted(masks))[:200]}, expected one a layer")
    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        _check_layer(f"layer {i}", layer, shape, decode_bits(masks[str(i)], math.prod(shape), f"mask {i}"), (seed, i))
    weights, kept = sum(layer.weights for layer in layers), sum(layer.kept for layer in layers)
    passed.append(("masks", f"{kept} of {weights} weights kept, in every layer as many as stated"))
    passed.append(("source", f"kept words regenerated from seed {seed}, digests as stated"))
    _check_certificate(directory, weights, kept)
    passed.append(("statement", "certificate.json states this and no more; stats.json was not believed"))
    return FoundVerdict(
        ticket_id=ticket_id,
        statement=STATEMENT,
        seed=seed,
        laws=tuple(layer.law for layer in layers),
        weights=weights,
        kept=kept,
        checks=tuple(passed),
    )


def _integrity(
    directory: Path, expected_id: str | None, passed: list[tuple[str, str]]
) -> tuple[dict[str, Any], list[Layer], str]:
    """The manifest, its layers and the ticket id, once every file has the digests that are listed for it."""
    names = files.inventory(directory, _REQUIRED, _OPTIONAL)
    sums = files.check_sums(directory, names)
    raw = files.read_small(directory / files.MANIFEST)
    ticket_id = hashlib.sha256(raw).hexdigest()
    if ticket_id != sums[files.MANIFEST]:
        raise VerificationError("digest", "the manifest changed while it was read")
    if expected_id is not None:
        if expected_id.strip().lower() != ticket_id:
            found = ascii(expected_id)[1:-1][:80]
            raise VerificationError("ticket id", f"the ticket id is {ticket_id}, expected {found}")
        passed.append(("ticket id", "as expected"))
    plain = strict_json(raw, "the manifest")
    if type(plain.get("version")) is not int or plain["version"] != VERSION or plain.get("generator") != GENERATOR:
        found = f"version {ascii(plain.get('version'))[:40]}, generator {ascii(plain.get('generator'))[:60]}"
        raise VerificationError("version", f"found {found}; this checker knows {VERSION} and '{GENERATOR}'")
    plain = record(plain, _KEYS, "the manifest")
    for name, value in record(plain["files"], _COVERED, "'files'").items():
        if sums[name] != hexadecimal(value, f"the digest of '{name}'"):
            raise VerificationError("digest", f"'{name}' has SHA-256 {sums[name]}, the manifest says {value}")
    layers = [_layer(entry, f"layer {i}") for i, entry in enumerate(sequence(plain["layers"], "'layers'"))]
    passed.append(("digest", f"{len(sums)} files as listed"))
    passed.append(("format", f"found ticket, format version {VERSION}, generator {GENERATOR}"))
    return plain, layers, ticket_id


def _layer(entry: Any, what: str) -> Layer:
    entry = record(entry, ("law", "fan_in", "weights", "kept", "entries"), what)
    law = text(entry["law"], f"the law of {what}")
    if law not in LAWS:
        raise VerificationError("source", f"the law of {what} is {law[:40]!a}, expected one of {', '.join(LAWS)}")
    counts = {key: integer(entry[key], f"'{key}' of {what}", 0, MAX_WEIGHTS) for key in ("fan_in", "weights", "kept")}
    return Layer(law=law, entries=hexadecimal(entry["entries"], f"the digest of {what}"), **counts)


def _network(plain: Any, layers: list[Layer]) -> tuple[Graph, list[tuple[int, ...]]]:
    """The graph, found to have random kernels and no other parameters; the kernels' shapes, layer by layer."""
    nodes = sequence(record(plain, ("nodes", "outputs"), "the graph")["nodes"], "the graph's nodes")
    shapes: dict[str, tuple[int, ...]] = {}
    for i, node in enumerate(nodes):
        if isinstance(node, dict) and node.get("op") in _WEIGHTED:
            kernel = record(node.get("kernel"), ("dtype", "shape"), f"the description of '{i}.kernel'")
            sizes = sequence(kernel["shape"], f"the shape of '{i}.kernel'")
            shapes[f"{i}.kernel"] = tuple(integer(n, f"a size of '{i}.kernel'", 1, MAX_WEIGHTS) for n in sizes)
    total = sum(math.prod(shape) for shape in shapes.values())
    if total > MAX_WEIGHTS or not shapes or len(shapes) != len(layers):
        found = f"{len(shapes)} weighted layers with {total} weights, {len(layers)} described"
        raise VerificationError("format", f"{found}; expected one or more, as many, at most {MAX_WEIGHTS} weights")
    # Structure and shapes alone are read of the graph: values would be floats.
    zeros = {name: Tensor("F32", shape, np.zeros(4 * math.prod(shape), np.uint8)) for name, shape in shapes.items()}
    return parse_graph(plain, zeros)[0], list(shapes.values())


def _check_layer(what: str, layer: Layer, shape: tuple[int, ...], kept: np.ndarray, where: tuple[int, int]) -> None:
    sizes = (math.prod(shape[:-1]), math.prod(shape))
    if (layer.fan_in, layer.weights) != sizes:
        found = f"fan_in {layer.fan_in} and {layer.weights} weights"
        raise VerificationError("network", f"{what} is stated to have {found}, its kernel has {sizes}")
    places = np.flatnonzero(kept)
    if len(places) != layer.kept:
        raise VerificationError("masks", f"the mask of {what} keeps {len(places)} weights, {layer.kept} are stated")
    seed, number = where
    found = entries(tensor_key(seed, number, KERNEL_V), places)
    digest = hashlib.sha256(found.astype("<i4").tobytes()).hexdigest()
    if digest != layer.entries:
        raise VerificationError(
            "source", f"the words that {what} keeps have digest {digest}, the manifest says {layer.entries}"
        )


def decode_bits(tensor: Tensor, size: int, what: str) -> np.ndarray:
    """The bits behind one coded tensor, bool `(size,)`.

    The tensor holds, little-endian: the byte q of the only sequence; the numbers of words of all lanes but the last,
    four bytes each; the words. There are `max(1, size >> 16)` lanes.

    Raises:
        VerificationError: It is too short, too long, or not the one code of a mask.
    """
    if tensor.dtype != "U8" or len(tensor.shape) != 1 or len(tensor.raw) < 1:
        raise VerificationError("masks", f"{what} is stored as {tensor.dtype} {tensor.shape}, expected bytes")
    raw, words = tensor.raw, 1 + 4 * (max(1, size >> 16) - 1)
    if len(raw) < words or (len(raw) - words) % 4:
        raise VerificationError("masks", f"{what}: {len(raw)} bytes, expected {words} and whole words")
    lengths = np.frombuffer(raw[1:words].tobytes(), "<u4").astype(np.int64)
    stream = np.frombuffer(raw[words:].tobytes(), "<u4")
    last = len(stream) - int(lengths.sum())
    if last < 0:
        raise VerificationError("masks", f"{what}: {len(stream)} words, expected {int(lengths.sum())} and more")
    lanes = Lanes(stream, np.append(lengths, last), what)
    bits = lanes.read(size, int(raw[0]))
    lanes.finish()
    return bits


def _check_certificate(directory: Path, weights: int, kept: int) -> None:
    stated = strict_json(files.read_small(directory / "certificate.json"), "'certificate.json'")
    expected = [{"kind": "mask", "statement": STATEMENT, "weights": weights, "kept": kept}]
    if stated != expected:
        raise VerificationError("statement", f"certificate.json states {ascii(stated)[:200]}, expected {expected}")
