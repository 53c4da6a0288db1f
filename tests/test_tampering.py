"""Damage that digests see, and lies with every digest made right."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import mask_code
import numpy as np
import pytest
from counts import examples
from helpers import (
    Parts,
    Unclear,
    contexts_of,
    copy_ticket,
    falsehoods,
    family_of,
    repack,
    sha256,
    take_apart,
    unpacked,
)

import slth_compile as slth
from slth_compile.checker import verify
from slth_compile.errors import SlthError, VerificationError

Random = np.random.Generator

# ---------------------------------------------------------------- (a) one file changed, nothing signed again


def choose(directory: Path, rng: Random) -> Path:
    return sorted(directory.iterdir())[rng.integers(len(list(directory.iterdir())))]


def flip(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    raw = bytearray(path.read_bytes())
    raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def truncate(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def append(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 40))))


def overwrite(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    raw = bytearray(path.read_bytes())
    at = int(rng.integers(len(raw)))
    block = bytes(255 - byte for byte in raw[at : at + 16])
    raw[at : at + 16] = block
    path.write_bytes(raw)


def delete(directory: Path, rng: Random) -> None:
    choose(directory, rng).unlink()


def rename(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    path.rename(path.with_name(str(rng.choice(["README.txt", "manifest.json.bak", "x", "Masks.safetensors"]))))


def add(directory: Path, rng: Random) -> None:
    name = str(rng.choice(["extra.json", "README.md~", ".hidden", "source.safetensors", "folder", "link"]))
    if name == "folder":
        (directory / name).mkdir()
    elif name == "link":
        (directory / name).symlink_to(directory / "README.md")
    else:
        (directory / name).write_bytes(rng.bytes(20))


def swap(directory: Path, rng: Random) -> None:
    paths = sorted(directory.iterdir())
    first, second = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def replace(directory: Path, rng: Random) -> None:
    path = choose(directory, rng)
    path.unlink()
    match rng.integers(3):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(os.devnull)
        case _:
            path.write_bytes(b"")


def alter_sums(directory: Path, rng: Random) -> None:
    path = directory / "SHA256SUMS"
    lines = path.read_text().splitlines()
    at = int(rng.integers(len(lines)))
    match rng.integers(6):
        case 0:
            lines[at] = ("0" if lines[at][0] != "0" else "1") + lines[at][1:]
        case 1:
            del lines[at]
        case 2:
            lines.append(lines[at])
        case 3:
            lines[at] = lines[at].replace("  ", " *")
        case 4:
            lines[0], lines[-1] = lines[-1], lines[0]
        case _:
            lines[at] = lines[at][:64].upper() + "  ../" + lines[at][66:]
    path.write_text("\n".join(lines) + "\n")


def alter_manifest(directory: Path, rng: Random) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_bytes())
    match rng.integers(6):
        case 0:
            manifest["seed"] += 1
        case 1:
            manifest["eps"] *= 2
        case 2:
            name = str(rng.choice(sorted(manifest["files"])))
            manifest["files"][name] = sha256(rng.bytes(8))
        case 3:
            manifest["layers"][int(rng.integers(2))]["kernel"]["width"] = 1 << int(rng.integers(1, 60))
        case 4:
            del manifest[str(rng.choice(sorted(manifest)))]
        case _:
            manifest["domains"].reverse()
    path.write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")


def sign_sums(directory: Path, rng: Random) -> None:
    """A stated file changed and listed in SHA256SUMS, but not in the manifest."""
    path = directory / str(rng.choice(["masks", "target", "domain"]))
    path = path.with_suffix(".safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1 - int(rng.integers(min(40, len(raw))))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)
    names = sorted(p.name for p in directory.iterdir() if p.name != "SHA256SUMS")
    sums = "".join(f"{sha256((directory / name).read_bytes())}  {name}\n" for name in names)
    (directory / "SHA256SUMS").write_text(sums)


DAMAGES: list[tuple[Callable[[Path, Random], None], int]] = [
    (flip, 60), (truncate, 24), (append, 24), (overwrite, 24), (delete, 12), (rename, 12), (add, 12), (swap, 16),
    (replace, 16), (alter_sums, 16), (alter_manifest, 16), (sign_sums, 8),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "count"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damage_is_seen_by_digests(damage, count, shared, tmp_path):
    """Every change of one file is a verification error; loading is refused or works, and never breaks."""
    rng = np.random.default_rng(count + ord(damage.__name__[0]))
    for i in range(count):
        directory = copy_ticket(shared.ticket, tmp_path / str(i))
        damage(directory, rng)
        with pytest.raises(VerificationError):
            verify(directory)
        with contextlib.suppress(SlthError):
            slth.load(directory)


def test_there_are_two_hundred_damages():
    assert sum(count for _, count in DAMAGES) >= 200


# ---------------------------------------------------------------- (b) every digest made right again

TRUE: set[str] = set()
"""No check fails."""


@pytest.fixture(scope="module")
def parts(shared) -> Parts:
    return take_apart(shared.ticket)


PARTS = {"0.positive": 8, "0.negative": 8, "0.bias": 2, "1.positive": 16, "1.bias": 2}


def mask_bits(count: int) -> Callable[[Parts, Random], None]:
    """Other subsets of the same windows."""

    def change(parts: Parts, rng: Random) -> None:
        for _ in range(count):
            name = str(rng.choice(sorted(PARTS)))
            windows, subsets = unpacked(parts, name, PARTS[name])
            bits = parts.gadget(int(name[0]), name[2:])["window"]
            subsets[rng.integers(len(subsets))] ^= 1 << int(rng.integers(bits))
            repack(parts, name, windows, subsets)

    return change


def mask_bit_with_room(parts: Parts, rng: Random) -> None:
    """Another subset, with claims and tolerances as large as eps allows."""
    mask_bits(1)(parts, rng)
    largest_claims(parts, rng)
    for claim in parts.claims:
        claim["lower"] = 0.0  # another subset may keep all outputs below what they were
    for layer in parts.manifest["layers"]:
        layer["kernel"]["tolerance"] = layer["bias"]["tolerance"] = 20.0


def other_window(parts: Parts, rng: Random) -> None:
    name = str(rng.choice(sorted(PARTS)))
    windows, subsets = unpacked(parts, name, PARTS[name])
    at = rng.choice(np.flatnonzero(subsets))
    windows[at] = windows[at] + 1 if windows[at] == 0 or rng.random() < 0.5 else windows[at] - 1
    repack(parts, name, windows, subsets)


def far_window(parts: Parts, rng: Random) -> None:
    name = str(rng.choice(sorted(PARTS)))
    windows, subsets = unpacked(parts, name, PARTS[name])
    windows[rng.choice(np.flatnonzero(subsets))] = 6
    repack(parts, name, windows, subsets)


def empty_but_kept(parts: Parts, rng: Random) -> None:
    """A weight that keeps nothing without the flag that says so."""
    name = str(rng.choice(sorted(PARTS)))
    windows, subsets = unpacked(parts, name, PARTS[name])
    empty = [int(subset == 0) for subset in subsets]
    at = rng.integers(len(windows))
    subsets[at], empty[at] = 0, 0
    repack(parts, name, windows, subsets, empty)


def code_bit(parts: Parts, rng: Random) -> None:
    """A code changed as bytes."""
    name = str(rng.choice(sorted(PARTS)))
    raw = parts.masks[name].copy()
    raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    parts.masks[name] = raw


def code_length(words: int) -> Callable[[Parts, Random], None]:
    """Words more, or less, at the end of a code."""

    def change(parts: Parts, rng: Random) -> None:
        name = str(rng.choice(sorted(PARTS)))
        raw = parts.masks[name].tobytes()
        raw = raw[: 4 * words] if words < 0 else raw + rng.bytes(4 * words)
        parts.masks[name] = np.frombuffer(raw, np.uint8)

    return change


def other_probability(parts: Parts, rng: Random) -> None:
    """The same mask coded with a probability next to the nearest."""
    name = str(rng.choice(sorted(PARTS)))
    windows, subsets = unpacked(parts, name, PARTS[name])
    family = family_of(parts, name)
    empty = [int(subset == 0) for subset in subsets]
    sequences = mask_code.sequences_of(empty, windows, subsets, contexts_of(family), family.gadget.window)
    numbers = [mask_code.nearest(bits) for bits in sequences]
    at = rng.choice(np.flatnonzero(numbers))
    numbers[at] += 1 if numbers[at] < 255 else -1
    words = mask_code.lane_words(sequences, numbers, 1)
    raw = mask_code.assemble(len(sequences) - 9, numbers, words)
    parts.masks[name] = np.frombuffer(raw, np.uint8)


def no_mask(parts: Parts, rng: Random) -> None:
    del parts.masks[str(rng.choice(sorted(PARTS)))]


def extra_mask(parts: Parts, rng: Random) -> None:
    parts.masks[str(rng.choice(["1.negative", "2.positive", "x"]))] = np.zeros(1, np.uint8)


def target_weight(size: float, kind: str = "kernel") -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        name = str(rng.choice(sorted(name for name in parts.target if name.endswith(kind))))
        array = np.array(parts.target[name])
        array.reshape(-1)[rng.integers(array.size)] += np.float32(size * rng.choice([-1, 1]))
        parts.target[name] = array

    return change


def target_value(value: float) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        name = str(rng.choice(sorted(parts.target)))
        array = np.array(parts.target[name])
        array.reshape(-1)[rng.integers(array.size)] = value
        parts.target[name] = array

    return change


def wider_type(parts: Parts, rng: Random) -> None:
    """The same target numbers in another type."""
    for name, array in parts.target.items():
        parts.target[name] = array.astype(np.float64)
        node, field = name.split(".")
        parts.manifest["graph"]["nodes"][int(node)][field]["dtype"] = "float64"


def put(*path: object) -> Callable[[Parts, Random], None]:
    """Keys of the manifest, then the value."""

    def change(parts: Parts, rng: Random) -> None:
        place = parts.manifest
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


def add_to(*path: object) -> Callable[[Parts, Random], None]:
    """Keys of the manifest, then what is added to the value."""

    def change(parts: Parts, rng: Random) -> None:
        place = parts.manifest
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] += path[-1]

    return change


def tight_tolerance(layer: int, part: str) -> Callable[[Parts, Random], None]:
    """Smaller than any gadget reached on this ticket, for which no weight is met exactly."""
    return put("layers", layer, part, "tolerance", 1e-7)


def claims(scale: float, domain: int | None = None) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        for i, claim in enumerate(parts.claims):
            if domain in (None, i):
                claim["per_output"] = [[value * scale for value in leaf] for leaf in claim["per_output"]]
                claim["bound"] = max(value for leaf in claim["per_output"] for value in leaf)
                claim["lower"] = min(claim["lower"], claim["bound"])

    return change


def largest_claims(parts: Parts, rng: Random) -> None:
    eps = parts.manifest["eps"]
    for claim in parts.claims:
        claim["per_output"] = [[eps for _ in leaf] for leaf in claim["per_output"]]
        claim["bound"] = claim["float32"] = eps


def small_float32(parts: Parts, rng: Random) -> None:
    """A figure for float32 that the rounding of float32 does not allow."""
    parts.claims[rng.integers(2)]["float32"] *= 0.3


def one_output(parts: Parts, rng: Random) -> None:
    """One element's bound too small; the largest stays."""
    leaf = parts.claims[rng.integers(2)]["per_output"][0]
    leaf[int(np.argmin(leaf))] *= 0.99


def claim_field(**fields: object) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        for claim in parts.claims:
            claim.update(fields)

    return change


def lower_above(parts: Parts, rng: Random) -> None:
    parts.claims[1]["lower"] = parts.claims[1]["bound"] * 1.01


def high_lower(parts: Parts, rng: Random) -> None:
    """A lower end above the maximum, under a bound that was widened first."""
    claims(3.0)(parts, rng)
    parts.claims[1]["lower"] = parts.claims[1]["bound"] * 0.9


def unsigned(parts: Parts, rng: Random) -> None:
    parts.manifest["layers"][0]["signed"] = False
    del parts.masks["0.negative"]


def leaky(parts: Parts, rng: Random) -> None:
    """An activation that lets negative values reach the one-signed dense layer."""
    node = next(node for node in parts.manifest["graph"]["nodes"] if node["op"] == "relu")
    node |= {"op": "leaky_relu", "slope": 0.5}


def convolution(**fields: object) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        node = next(node for node in parts.manifest["graph"]["nodes"] if node["op"] == "convolution")
        node.update(fields)

    return change


def box(lower: float, upper: float) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        parts.domain["0.lower"] = np.full((3, 3, 1), lower)
        parts.domain["0.upper"] = np.full((3, 3, 1), upper)

    return change


def move_points(size: float) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        x = parts.domain["1.x"]
        parts.domain["1.x"] = (x + size * rng.standard_normal(x.shape)).astype(np.float32)

    return change


def fewer_points(parts: Parts, rng: Random) -> None:
    parts.domain["1.x"] = np.ascontiguousarray(parts.domain["1.x"][rng.permutation(6)[:3]])
    parts.claims[1]["lower"] = 0.0


def points_as(array: np.ndarray) -> Callable[[Parts, Random], None]:
    def change(parts: Parts, rng: Random) -> None:
        parts.domain["1.x"] = array

    return change


def drop_domain(parts: Parts, rng: Random) -> None:
    """A weaker statement: about the points no more."""
    del parts.manifest["domains"][1], parts.claims[1], parts.domain["1.x"]


def drop_claim(parts: Parts, rng: Random) -> None:
    del parts.claims[int(rng.integers(2))]


def swap_claims(parts: Parts, rng: Random) -> None:
    parts.claims.reverse()


MASKS, TOLERANCE, BOUND = {"masks"}, {"tolerance"}, {"bound"}
LIES: list[tuple[str, int, Callable[[Parts, Random], object], set[str] | None]] = [
    # Where the last column is None, either may come out: exact fractions and the compiler's bounds decide.
    ("a mask bit", 24, mask_bits(1), None),
    ("two mask bits", 6, mask_bits(2), None),
    ("a mask bit with room", 6, mask_bit_with_room, TRUE),
    ("another window", 12, other_window, None),
    ("a window that does not exist", 4, far_window, MASKS),
    ("a kept subset of nothing", 3, empty_but_kept, MASKS),
    ("a bit of a code", 24, code_bit, None),
    ("words after a code", 3, code_length(1), MASKS),
    ("many words after a code", 1, code_length(1000), MASKS),
    ("a word less", 3, code_length(-1), MASKS),
    ("no words", 3, code_length(-100), MASKS),
    ("another probability", 8, other_probability, MASKS),
    ("no mask", 3, no_mask, MASKS),
    ("an extra mask", 3, extra_mask, MASKS),
    ("a far target weight", 6, target_weight(2.0), TOLERANCE),
    ("a near target weight", 8, target_weight(0.01), None),
    ("a far target bias", 4, target_weight(2.0, "bias"), TOLERANCE),
    ("a near target bias", 4, target_weight(0.01, "bias"), None),
    ("a target weight that is NaN", 1, target_value(np.nan), {"weights"}),
    ("a target weight that is infinite", 1, target_value(np.inf), {"weights"}),
    ("target numbers in another type", 1, wider_type, TRUE),
    ("another seed", 1, put("seed", 1), TOLERANCE | MASKS),
    ("a far seed", 1, put("seed", 2**64 - 1), TOLERANCE | MASKS),
    ("no seed of 64 bits", 1, put("seed", 2**64), {"source"}),
    ("a negative seed", 1, put("seed", -1), {"source"}),
    *[(f"gain {by:+} of layer {i} {part}", 1, add_to("layers", i, part, "gain", by), None)
      for i in (0, 1) for part in ("kernel", "bias") for by in (-1, 1, 4)],
    ("a gain outside the format", 1, put("layers", 0, "kernel", "gain", 600), {"source"}),
    *[(f"a wider layer {i} {part}", 1, add_to("layers", i, part, "width", 9), TRUE)
      for i in (0, 1) for part in ("kernel", "bias")],
    *[(f"a narrow layer {i} {part}", 1, put("layers", i, part, "width", 5), MASKS)
      for i in (0, 1) for part in ("kernel", "bias")],
    ("a width outside the format", 1, put("layers", 0, "kernel", "width", 1 << 15), {"source"}),
    *[(f"window {by:+} of layer {i} {part}", 1, add_to("layers", i, part, "window", by), None)
      for i in (0, 1) for part in ("kernel", "bias") for by in (-1, 1)],
    *[(f"a tight tolerance of layer {i} {part}", 1, tight_tolerance(i, part), TOLERANCE)
      for i in (0, 1) for part in ("kernel", "bias")],
    *[(f"a loose tolerance of layer {i} {part}", 1, add_to("layers", i, part, "tolerance", 1.0), TRUE)
      for i in (0, 1) for part in ("kernel", "bias")],
    ("a negative tolerance", 1, put("layers", 0, "kernel", "tolerance", -1.0), TOLERANCE),
    ("smaller claims", 1, claims(0.999), BOUND),
    ("a smaller claim on the box", 1, claims(0.99999, 0), BOUND),
    ("a smaller claim on the points", 1, claims(0.99999, 1), BOUND),
    ("a tiny claim", 1, claims(1e-6), BOUND),
    ("larger claims", 1, claims(1.5), TRUE),
    ("claims of eps", 1, largest_claims, TRUE),
    ("claims above eps", 1, claims(1e3), {"eps"}),
    ("one output too small", 3, one_output, BOUND),
    ("float32 too small", 3, small_float32, BOUND),
    ("a bound below its outputs", 1, claim_field(bound=1e-3), BOUND),
    ("a bound above its outputs", 1, claim_field(bound=29.0), BOUND),
    ("a method of another kind", 1, claim_field(method="points"), BOUND),
    ("a lower end above the bound", 1, lower_above, BOUND),
    ("a lower end above the maximum", 1, high_lower, BOUND),
    ("no lower end", 1, claim_field(lower=0.0), TRUE),
    ("eps below the bound", 1, put("eps", 1e-3), {"eps"}),
    ("eps 0", 1, put("eps", 0.0), {"eps"}),
    ("eps below 0", 1, put("eps", -1.0), {"eps"}),
    ("a larger eps", 1, put("eps", 50.0), TRUE),
    ("a smaller eps above the bound", 1, put("eps", 20.0), TRUE),
    ("another objective", 1, put("objective", "fewest-bits"), TRUE),
    ("no objective", 1, put("objective", "shortest"), {"format"}),
    ("an objective of another type", 1, put("objective", ["closest"]), {"format"}),
    ("a larger delta", 1, put("delta", 0.5), TRUE),
    ("delta below the plan", 1, put("delta", 1e-6), {"delta"}),
    ("delta 1", 1, put("delta", 1.0), {"delta"}),
    ("delta 0", 1, put("delta", 0.0), {"delta"}),
    ("a gadget that fails more often", 1, put("layers", 1, "kernel", "failure", 0.5), {"delta"}),
    ("no chance", 1, put("layers", 1, "kernel", "failure", 1.5), {"delta"}),
    ("one sign on signed input", 1, unsigned, {"sign"}),
    ("two signs without masks", 1, put("layers", 1, "signed", True), MASKS),
    ("a bias less", 1, put("layers", 0, "bias", None), {"format"}),
    ("a leaky relu", 1, leaky, {"sign"}),
    ("padding", 1, convolution(padding=[[1, 1], [0, 0]]), {"target"}),
    ("a stride", 1, convolution(stride=[2, 2]), {"target"}),
    ("a dilation", 1, convolution(dilation=[2, 2]), {"target"}),
    ("groups", 1, convolution(groups=2), {"target"}),
    ("stride and padding that fit", 1, convolution(stride=[2, 2], padding=[[1, 0], [1, 0]]), None),
    ("other stride and padding that fit", 1, convolution(stride=[2, 1], padding=[[1, 0], [0, 0]]), None),
    ("an unknown operation", 1, put("graph", "nodes", 1, "op", "erf"), {"target"}),
    ("another output", 1, put("graph", "outputs", [0]), {"format", "target"}),
    ("points elsewhere", 4, move_points(1.0), None),
    ("points nearby", 4, move_points(1e-3), None),
    ("fewer points", 3, fewer_points, TRUE),
    ("points that are NaN", 1, points_as(np.full((1, 3, 3, 1), np.nan, np.float32)), {"domain"}),
    ("points of another shape", 1, points_as(np.zeros((2, 3, 3), np.float32)), {"domain"}),
    ("no points", 1, points_as(np.zeros((0, 3, 3, 1), np.float32)), {"domain"}),
    ("a wider box", 1, box(-0.6, 1.1), BOUND),
    ("a box above", 1, box(-0.5, 2.0), BOUND),
    ("a narrower box", 1, box(-0.4, 0.9), TRUE),
    ("an empty box", 1, box(1.0, -0.5), {"domain"}),
    ("a box that is NaN", 1, box(np.nan, 1.0), {"domain"}),
    ("an endless box", 1, box(-np.inf, 1.0), {"domain"}),
    ("one domain less", 1, drop_domain, TRUE),
    ("one claim less", 2, drop_claim, {"format"}),
    ("claims in another order", 1, swap_claims, {"format", "bound"}),
    ("another generator", 1, put("generator", "threefry2x32-20-v2"), {"version"}),
    ("another version", 1, put("version", 1), {"version"}),
    ("version as text", 1, put("version", "1"), {"version", "format"}),
    ("another format", 1, put("format", "slth-tickets"), {"format", "version"}),
    ("another output name", 1, put("output_names", ["logits"]), TRUE),
    ("two output names", 1, put("output_names", ["a", "b"]), {"format"}),
    ("an unknown key", 1, put("comment", "nothing"), {"format"}),
]  # fmt: skip
CASES = [(name, i) for name, count, _, _ in LIES for i in range(count)]
BY_NAME = {name: (change, expected) for name, _, change, expected in LIES}


@pytest.mark.parametrize("name", list(BY_NAME))
def test_signed_lies_are_named(name, parts, shared, tmp_path):
    """A false statement fails the check that it is about; a true one is verified under another ticket id."""
    change, expected = BY_NAME[name]
    original = sha256((shared.ticket / "manifest.json").read_bytes())
    count = sum(case == name for case, _ in CASES)
    for i in range(examples(count, -(-count // 3))):
        changed = parts.copy()
        change(changed, np.random.default_rng([i, len(name)]))
        directory = changed.write(tmp_path / str(i))
        allowed = expected
        if allowed is None:
            try:
                allowed = falsehoods(directory)
            except Unclear:
                continue
        if allowed:
            with pytest.raises(VerificationError) as caught:
                verify(directory)
            assert caught.value.check in allowed, caught.value
        else:
            verdict = verify(directory)
            assert verdict.ticket_id == sha256((directory / "manifest.json").read_bytes()) != original
        with contextlib.suppress(SlthError):
            slth.load(directory)


def test_there_are_a_hundred_lies():
    assert len(CASES) >= 100
    assert len(BY_NAME) == len(LIES)


@pytest.mark.parametrize("name", ["a mask bit", "another window", "points elsewhere", "a near target weight"])
def test_chance_gives_lies(name, parts, tmp_path):
    """One in 24 of each random family at the latest; that not everything is one, the untouched ticket shows."""

    def is_false(i: int) -> bool:
        changed = parts.copy()
        BY_NAME[name][0](changed, np.random.default_rng([i, len(name)]))
        with contextlib.suppress(Unclear):
            return bool(falsehoods(changed.write(tmp_path / str(i))))
        return False

    assert any(map(is_false, range(24)))


def test_the_untouched_ticket_is_true(parts, shared, tmp_path):
    """Taken apart and put together it is the same ticket, and the second opinion agrees with the checker."""
    again = parts.write(tmp_path / "again")
    assert (again / "manifest.json").read_bytes() == (shared.ticket / "manifest.json").read_bytes()
    assert falsehoods(again) == TRUE
    assert verify(again).ticket_id == verify(shared.ticket).ticket_id
