"""A compiled ticket taken apart, changed, and signed again; and a second opinion on whether it is still true."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import factories
import mask_code
import numpy as np
import safetensors.numpy

from slth_compile.certificate.certificate import certify_domain
from slth_compile.certificate.weight_errors import weight_errors
from slth_compile.constructions.da_cunha import Family, families
from slth_compile.errors import InputError, VerificationError
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import graph_from_json
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.source.tensor import read_entries
from slth_compile.ticket import format as ticket_format
from slth_compile.ticket.apply import effective_layers

OPTIONS = ["--factory", "factories:tiny", "--input-shape", "3,3,1"]
PLAN = ["--eps", "30", "--delta", "0.01", "--domain", "box:-0.5,1", "--window", "8"]
TENSORS = ("masks", "target", "domain")
INFORMATIONAL = ("README.md", "report.html", "report.md", "stats.json")


@dataclasses.dataclass
class Inputs:
    """Files that a compile of the tiny model reads, and the arguments that name them."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "tiny.safetensors"

    @property
    def arguments(self) -> list[str]:
        """Everything but the output directory."""
        points = ["--domain", f"points:{self.folder / 'points.npz'}"]
        return [str(self.checkpoint), *OPTIONS, *PLAN, *points, "--no-attack"]

    def write(self) -> Inputs:
        self.folder.mkdir(exist_ok=True)
        save_checkpoint(self.checkpoint, factories.variables())
        rng = np.random.default_rng(1)
        x = (rng.integers(-16, 48, (6, *factories.SHAPE)) / 64).astype(np.float32)
        np.savez(self.folder / "points.npz", x=x, y=np.array([0, 1, 0, 1, 1, 0]))
        return self


def save_checkpoint(path: Path, variables: dict[str, Any]) -> Path:
    """Variables of two levels as a safetensors file."""
    flat = {
        f"{collection}.{layer}.{field}": np.asarray(array)
        for collection, layers in variables.items()
        for layer, fields in layers.items()
        for field, array in fields.items()
    }
    safetensors.numpy.save_file(flat, path)
    return path


@dataclasses.dataclass
class Parts:
    """What a ticket states, as plain values."""

    manifest: dict[str, Any]
    tensors: dict[str, dict[str, np.ndarray]]
    claims: list[dict[str, Any]]
    others: dict[str, bytes]

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return self.tensors["masks"]

    @property
    def target(self) -> dict[str, np.ndarray]:
        return self.tensors["target"]

    @property
    def domain(self) -> dict[str, np.ndarray]:
        return self.tensors["domain"]

    def gadget(self, layer: int, part: str = "kernel") -> dict[str, Any]:
        return self.manifest["layers"][layer]["bias" if part == "bias" else "kernel"]

    def copy(self) -> Parts:
        return copy.deepcopy(self)

    def write(self, directory: Path) -> Path:
        """The ticket with every digest right."""
        files = {f"{name}.safetensors": safetensors.numpy.save(self.tensors[name]) for name in TENSORS}
        return self.write_files(directory, files)

    def write_files(self, directory: Path, files: dict[str, bytes]) -> Path:
        """The same with the safetensors files given as bytes."""
        files = files | {"certificate.json": as_json(self.claims)}
        manifest = self.manifest | {"files": {name: sha256(raw) for name, raw in files.items()}}
        manifest["target_digest"] = target_digest(manifest["graph"], self.target)
        manifest["domains"] = [
            entry | {"digest": domain_digest(self.domain, i)} if entry["stored"] else entry
            for i, entry in enumerate(manifest["domains"])
        ]
        files = files | self.others | {"manifest.json": as_json(manifest)}
        directory.mkdir(parents=True, exist_ok=True)
        for name, raw in files.items():
            (directory / name).write_bytes(raw)
        (directory / "SHA256SUMS").write_text("".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files)))
        return directory


def take_apart(directory: Path) -> Parts:
    """The parts of a ticket directory."""
    return Parts(
        json.loads((directory / "manifest.json").read_bytes()),
        {name: safetensors.numpy.load_file(directory / f"{name}.safetensors") for name in TENSORS},
        json.loads((directory / "certificate.json").read_bytes()),
        {name: (directory / name).read_bytes() for name in INFORMATIONAL},
    )


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def as_json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def target_digest(graph: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the canonical graph and the parameters' bytes in graph order."""
    digest = hashlib.sha256(json.dumps(graph, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(arrays, key=lambda name: (int(name.split(".")[0]), name)):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def domain_digest(arrays: dict[str, np.ndarray], position: int) -> str:
    """SHA-256 over a domain's arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if name.startswith(f"{position}."):
            array = arrays[name]
            shape = json.dumps(list(array.shape), separators=(",", ":"))
            kind = {"float32": "F32", "float64": "F64"}.get(array.dtype.name, array.dtype.name)
            digest.update(name.split(".")[1].encode() + b"\0" + kind.encode() + shape.encode() + array.tobytes())
    return digest.hexdigest()


def copy_ticket(source: Path, target: Path) -> Path:
    """A copy of a ticket directory."""
    shutil.copytree(source, target)
    return target


# ---------------------------------------------------------------- what is true, from the compiler's own classes


class Unclear(Exception):
    """A claim so near the truth that two sound checkers may differ."""


def falsehoods(directory: Path) -> set[str]:
    """The checks that a signed ticket must fail: none where its statement is true.

    Weights are compared as fractions; bounds with those of the compiler, which shares no code with the checker.
    """
    try:
        record = ticket_format.read(directory)
    except (InputError, VerificationError):
        return {"masks", "format", "domain", "target"}
    folded, ticket = fold(record.graph), record.ticket
    failing: set[str] = set()
    positive = nonnegative_nodes(folded, all(d is not None and d.is_nonnegative() for d in record.domains))
    for i, (position, layout) in enumerate(zip(folded.layers, ticket.layout.layers, strict=True)):
        if not layout.signed and not positive[folded.nodes[position].inputs[0]]:
            failing.add("sign")
        for family in families(ticket.source, i, folded.nodes[position], layout):
            mask = ticket.masks[i][family.part]
            windows, subsets = mask.windows.reshape(-1), mask.subsets.reshape(-1)
            available = family.windows[family.channel(np.arange(windows.size))]
            if np.any((subsets != 0) & (windows >= available)) or np.any((subsets == 0) & (windows != 0)):
                return {"masks"}
    layers = effective_layers(folded, ticket)
    for i, (layer, layout) in enumerate(zip(layers, ticket.layout.layers, strict=True)):
        for family in families(ticket.source, i, folded.nodes[folded.layers[i]], layout):
            unit = Fraction(2) ** (family.gadget.gain - 46)
            tolerance = Fraction(family.gadget.tolerance)
            pairs = zip(getattr(layer, family.part).reshape(-1), family.weights.reshape(-1), strict=True)
            if any(abs(int(k) * unit - Fraction(float(w))) > tolerance for k, w in pairs):
                failing.add("tolerance")
    errors = weight_errors(folded, ticket, layers)
    for d, (domain, claim) in enumerate(zip(record.domains, record.certificates, strict=True)):
        own = certify_domain(folded, errors, domain, d)
        claimed = [np.asarray(leaf) for leaf in claim["per_output"]]
        found = [leaf.reshape(-1) for leaf in own.per_output]
        if any(np.any(a > b * (1 + 1e-6)) for a, b in zip(found, claimed, strict=True)):
            failing.add("bound")
        elif any(np.any(a > b) for a, b in zip(found, claimed, strict=True)):
            raise Unclear
        if claim["lower"] > own.bound * (1 + 1e-6):
            failing.add("bound")
        elif claim["lower"] > own.lower:
            raise Unclear
        if claim["bound"] > ticket.layout.eps:
            failing.add("eps")
    return failing


def family_of(parts: Parts, name: str) -> Family:
    """The problems of one part, `layer.part`, as the parts state them."""
    manifest, (layer, part) = parts.manifest, name.split(".")
    graph = fold(graph_from_json(manifest["graph"], parts.target, tuple(manifest["output_names"])))
    plan = manifest["layers"][int(layer)]
    bias = None if plan["bias"] is None else Gadget(**plan["bias"])
    layout = LayerLayout(signed=plan["signed"], kernel=Gadget(**plan["kernel"]), bias=bias)
    found = families(Generated(manifest["seed"]), int(layer), graph.nodes[graph.layers[int(layer)]], layout)
    return next(family for family in found if family.part == part)


def contexts_of(family: Family) -> Callable[[int, int], list[int]]:
    """The contexts of a weight's candidates in a window; zeros where there is no such window."""

    def contexts(weight: int, number: int) -> list[int]:
        flat = np.array([weight])
        if number >= family.windows[family.channel(flat)[0]]:
            return [0] * family.gadget.window
        addresses, own = family.candidates(flat, np.array([number]))
        products = read_entries(family.v, addresses[:, 0]) * own[:, 0]
        return [mask_code.context(int(product)) for product in products]

    return contexts


def unpacked(parts: Parts, name: str, weights: int) -> tuple[list[int], list[int]]:
    """Windows and subsets of one part, decoded bit by bit."""
    family = family_of(parts, name)
    return mask_code.decode(parts.masks[name].tobytes(), weights, family.gadget.window, contexts_of(family))


def repack(parts: Parts, name: str, windows: list[int], subsets: list[int], empty: list[int] | None = None) -> None:
    """Writes windows and subsets back; `empty` may lie about which subsets are."""
    family = family_of(parts, name)
    raw = mask_code.encode(windows, subsets, contexts_of(family), family.gadget.window, empty)
    parts.masks[name] = np.frombuffer(raw, np.uint8)


# ---------------------------------------------------------------- the command in a process of its own

RUNNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import slth_compile.cli
print("ready", flush=True)
slth_compile.cli.main()
"""


def start(*arguments: str, cache: Path) -> subprocess.Popen:
    """The command line in a process of its own, past its imports; `cache` keeps what XLA compiled between processes."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def stop_after(process: subprocess.Popen, seconds: float, number: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of a process that gets a signal at some moment."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def timed(process: subprocess.Popen) -> tuple[float, str, str]:
    """Seconds, stdout and stderr of a process that must end well."""
    begin = time.monotonic()
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return time.monotonic() - begin, output, errors
