"""The manifest as typed records."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from slth_compile.checker.files import COVERED, SOURCE, WITNESS
from slth_compile.checker.schema import flag, hexadecimal, integer, real, record, sequence, strict_json, text
from slth_compile.checker.threefry import GENERATOR
from slth_compile.errors import VerificationError

_KEYS = (
    "format version generator seed eps delta objective graph output_names target_digest layers domains files".split()  # noqa: SIM905
)

BRANCHED = 5
"""The version of manifests with a witness; they describe the source and the construction, whatever these are."""


@dataclasses.dataclass(frozen=True)
class Gadget:
    """The two random layers behind one kernel or bias.

    Attributes:
        width: Copies per input channel, below 2^15.
        gain: Second-layer entries are in units of 2^(gain - 23).
        window: Candidates solved together, 1 to 64.
        tolerance: Claimed bound of every weight's error.
        failure: Planned bound on the probability over seeds that a weight is missed; None where it is not stated.
    """

    width: int
    gain: int
    window: int
    tolerance: float
    failure: float | None


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """A layer's gadgets; `bias` is None where the layer has none.

    `copies` says how often every output channel is built; `direct` that the layer is one random layer, which reads the
    `kernel.width` copies of its input channels.
    """

    signed: bool
    kernel: Gadget
    bias: Gadget | None
    copies: int = 1
    direct: bool = False


@dataclasses.dataclass(frozen=True)
class DomainEntry:
    """What the manifest says of one domain."""

    kind: str
    digest: str
    stored: bool


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest; `graph` is plain JSON still. `objective` says how the masks were chosen; nothing rests on it.

    `construction` is checked: of `malach` no weight keeps more than one candidate, of `pensia` no kernel is larger than
    1x1, and of `burkholz` layers read as many copies of channels as there are. `seed` is None where the source was
    supplied, `delta` where no probability is stated.
    """

    version: int
    seed: int | None
    bits: int
    signs: bool
    eps: float
    delta: float | None
    objective: str
    construction: str
    graph: Any
    output_names: tuple[str, ...]
    target_digest: str
    layers: tuple[LayerPlan, ...]
    domains: tuple[DomainEntry, ...]
    files: dict[str, str]


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest in `raw`.

    Raises:
        VerificationError: It is of another version, or a value is missing, unknown, of the wrong type or out of range.
    """
    plain = strict_json(raw, "the manifest")
    if not isinstance(plain, dict) or plain.get("format") != "slth-ticket":
        raise VerificationError("format", "the manifest's 'format' is not 'slth-ticket'")
    version = plain.get("version")
    if type(version) is not int or version not in (2, 3, 4, 5):
        found = ascii(version)[:40]
        raise VerificationError("version", f"the format's version is {found}, this checker knows 2, 3, 4 and 5")
    if plain.get("generator") != GENERATOR:
        found = ascii(plain.get("generator"))[:60]
        raise VerificationError("version", f"the generator is {found}, this checker knows '{GENERATOR}'")
    plain = record(plain, [*_KEYS, *("source", "construction")[: version - 2]], "the manifest")
    supplied, bits, signs = (False, 24, False) if version == 2 else _source(plain["source"])
    standard = (supplied, bits, signs) == (False, 24, False)
    if version == 3 and standard:
        raise VerificationError("source", "the standard source is described; it belongs to version 2")
    layers = sequence(plain["layers"], "'layers'")
    built = version >= 4 and plain["construction"] == "burkholz"
    if built and supplied:
        raise VerificationError("source", "the source was supplied; expected a generated one with burkholz")
    domains = sequence(plain["domains"], "'domains'")
    names = tuple(text(v, "an output's name") for v in sequence(plain["output_names"], "'output_names'"))
    stated = (*COVERED, *((SOURCE,) if supplied else ()), *((WITNESS,) if version == BRANCHED else ()))
    files = record(plain["files"], stated, "'files'")
    if supplied and plain["seed"] is not None:
        raise VerificationError("source", "the source was supplied, and the manifest has a seed")
    manifest = Manifest(
        version=version,
        seed=None if supplied else integer(plain["seed"], "the seed", 0, (1 << 64) - 1, "source"),
        bits=bits,
        signs=signs,
        eps=real(plain["eps"], "eps", "eps"),
        delta=None if not standard and plain["delta"] is None else real(plain["delta"], "delta", "delta"),
        objective=_objective(plain["objective"]),
        construction=_construction(plain["construction"], version) if version >= 4 else "da-cunha",
        graph=plain["graph"],
        output_names=names,
        target_digest=hexadecimal(plain["target_digest"], "'target_digest'"),
        layers=tuple(_layer(entry, f"layer {i}", built) for i, entry in enumerate(layers)),
        domains=tuple(_domain(entry, f"domain {i}") for i, entry in enumerate(domains)),
        files={name: hexadecimal(value, f"the digest of '{name}'") for name, value in files.items()},
    )
    _check_chances(manifest)
    return manifest


def _source(entry: Any) -> tuple[bool, int, bool]:
    """Whether it was supplied; bits, and whether U is a signed constant, where it is generated."""
    if isinstance(entry, dict) and entry.get("kind") == "supplied":
        record(entry, ("kind",), "'source'")
        return True, 24, False
    entry = record(entry, ("kind", "bits", "signs"), "'source'")
    if entry["kind"] != "generated":
        raise VerificationError("source", f"the source is {ascii(entry['kind'])[:40]}, expected generated or supplied")
    bits, signs = integer(entry["bits"], "the source's bits", 4, 24, "source"), flag(entry["signs"], "'signs'")
    return False, bits, signs


def _objective(value: Any) -> str:
    if value not in ("closest", "sparsest", "fewest-bits"):
        found = ascii(value)[:60]
        raise VerificationError("format", f"the objective is {found}, expected closest, sparsest or fewest-bits")
    return value


def _construction(value: Any, version: int) -> str:
    known = ("pensia", "malach", "burkholz", *(("da-cunha",) if version == BRANCHED else ()))
    if value not in known:
        found = f"the construction is {ascii(value)[:60]}, expected {', '.join(known[:-1])} or {known[-1]}"
        raise VerificationError("construction", found)
    return value


def _layer(entry: Any, what: str, built: bool) -> LayerPlan:
    entry = record(entry, ("signed", "kernel", "bias", *(("copies", "direct") if built else ())), what)
    copies, direct = 1, False
    if built:
        copies = integer(entry["copies"], f"'copies' of {what}", 1, (1 << 15) - 1, "construction")
        direct = flag(entry["direct"], f"'direct' of {what}")
    bias = None if entry["bias"] is None else _gadget(entry["bias"], f"the bias of {what}")
    return LayerPlan(
        flag(entry["signed"], f"'signed' of {what}"),
        _gadget(entry["kernel"], f"the kernel of {what}"),
        bias,
        copies,
        direct,
    )


def _gadget(entry: Any, what: str) -> Gadget:
    entry = record(entry, ("width", "gain", "window", "tolerance", "failure"), what)
    width = integer(entry["width"], f"the width of {what}", 1, (1 << 15) - 1, "source")
    gain = integer(entry["gain"], f"the gain of {what}", -512, 512, "source")
    window = integer(entry["window"], f"the window of {what}", 1, 64, "source")
    tolerance = real(entry["tolerance"], f"the tolerance of {what}", "tolerance")
    failure = None
    if entry["failure"] is not None:
        failure = real(entry["failure"], f"the failure figure of {what}", "delta")
    if tolerance < 0:
        raise VerificationError("tolerance", f"the tolerance of {what} is {tolerance}, expected none below 0")
    if failure is not None and not 0 <= failure <= 1:
        raise VerificationError("delta", f"the failure figure of {what} is {failure}, expected a probability")
    return Gadget(width, gain, window, tolerance, failure)


def _domain(entry: Any, what: str) -> DomainEntry:
    entry = record(entry, ("kind", "digest", "stored"), what)
    kind = text(entry["kind"], f"the kind of {what}")
    if kind not in ("box", "balls", "points"):
        raise VerificationError("format", f"{what} is of the kind {kind[:40]!a}, expected box, balls or points")
    return DomainEntry(
        kind, hexadecimal(entry["digest"], f"the digest of {what}"), flag(entry["stored"], f"'stored' of {what}")
    )


def _check_chances(manifest: Manifest) -> None:
    if not manifest.eps > 0:
        raise VerificationError("eps", f"eps is {manifest.eps}, expected more than 0")
    gadgets = [g for layer in manifest.layers for g in (layer.kernel, layer.bias) if g is not None]
    failures = [gadget.failure for gadget in gadgets if gadget.failure is not None]
    if manifest.delta is None or manifest.seed is None:
        if manifest.delta is not None or failures:
            raise VerificationError("delta", "a probability is stated where none can be, or only in part")
        return
    if len(failures) < len(gadgets):
        raise VerificationError("delta", "delta is stated, and a failure figure is missing")
    if not 0 < manifest.delta < 1:
        raise VerificationError("delta", f"delta is {manifest.delta}, expected a number between 0 and 1")
    total = math.fsum(failures)
    if total > manifest.delta * (1 + 1e-9):
        raise VerificationError(
            "delta", f"the layers' failure figures add up to {total}, more than delta {manifest.delta}"
        )
