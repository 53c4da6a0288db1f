"""Tickets with a witness: bounds by cases verified from files, and everything that a file may lie about."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_witness import picked, stored_witness
from test_checker_units import Written, conv_ticket, fails

from slth_compile.checker import certificate, tighten, verify
from slth_compile.checker.witness import Listed
from slth_compile.errors import VerificationError

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
# Maxima of two can be split.
CONV = conv_ticket((2, 1))
DTYPES = {"I32": "<i4", "I64": "<i8"}


def described(ticket: Written) -> Written:
    """The same with what version 5 adds to a manifest, both claims over regions by cases."""
    ticket = copy.deepcopy(ticket)
    source = {"kind": "generated", "bits": 24, "signs": False}
    ticket.manifest |= {"version": 5, "source": source, "construction": "da-cunha"}
    for entry in ticket.claims[:2]:
        entry["method"] = "branched"
    return ticket


class Seen:
    """The networks and domains that a verification bounds, and its bounds."""

    def __init__(self, ticket: Written, directory: Path) -> None:
        self.nets: list[tighten.Net] = []
        self.domains: list[Any] = []
        self.bounds: list[list[list[float]]] = []
        with pytest.MonkeyPatch.context() as patch:
            own = certificate.backward_bounds

            def watched(folded: Any, layers: Any, domain: Any, **options: Any) -> Any:
                self.nets.append(tighten.net_of(folded, layers))
                self.domains.append(domain)
                found = own(folded, layers, domain, **options)
                self.bounds.append([leaf.upper.reshape(-1).tolist() for leaf in found])
                return found

            patch.setattr(certificate, "backward_bounds", watched)
            self.verdict = verify(ticket.save(directory))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    ticket = copy.deepcopy(CONV)
    for entry in ticket.claims[:2]:
        entry["method"] = "backward"
    return Seen(ticket, tmp_path_factory.mktemp("plain") / "ticket")


@pytest.fixture(scope="module")
def ticket(plain: Seen) -> Written:
    """A signed convolution, leaky relus behind a max pool, dense: bounds over a box and balls, rows at random."""
    found = described(CONV)
    rng = np.random.default_rng(4)
    for i, (net, domain) in enumerate(zip(plain.nets, plain.domains, strict=True)):
        regions = [domain.regions(k, k + 1) for k in range(domain.samples)]
        found.witness |= stored_witness(i, [picked(net, *region, rng, 5)[0] for region in regions])
    return found


def test_a_claim_by_cases_is_recomputed_but_by_quick(ticket: Written, plain: Seen, tmp_path: Path) -> None:
    seen = Seen(ticket, tmp_path / "loose")
    assert "by cases" in dict(seen.verdict.checks)["witness"]
    assert seen.bounds != plain.bounds
    for i in range(2):
        assert seen.verdict.certificates[i].method == "branched"
        assert seen.verdict.certificates[i].recomputed == max(map(max, seen.bounds[i]))
        for factor, accepted in ((1 + 2.0**-40, True), (1 - 2.0**-30, False)):
            figures = [[v * factor for v in leaf] for leaf in seen.bounds[i]]
            tight = copy.deepcopy(ticket)
            tight.claims[i].update(bound=max(map(max, figures)), per_output=figures)
            if accepted:
                directory = tight.save(tmp_path / f"{i}")
                assert verify(directory).certificates[i].claimed == max(map(max, figures))
                entry = verify(directory, quick=True).certificates[i]
                assert entry.recomputed is None and entry.interval is not None
            else:
                assert fails(tight, tmp_path / f"{i} below", lambda ticket: None) == "bound"


def test_float32_is_bounded_without_a_witness(ticket: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = certificate.backward_bounds, []

    def watched(folded: Any, layers: Any, domain: Any, inputs: Any = None, witness: Any = None) -> Any:
        given.append((inputs is not None, witness is not None))
        return own(folded, layers, domain, inputs, witness)

    monkeypatch.setattr(certificate, "backward_bounds", watched)
    # A folded bias of this ticket is next to zero, and so flushed in float32.
    evaluated = certificate._evaluated
    monkeypatch.setattr(certificate, "_evaluated", lambda *network: evaluated(*network[:2], "float64", network[3]))
    changed = copy.deepcopy(ticket)
    for entry in changed.claims[:2]:
        entry.update(float32=9.0)
    verify(changed.save(tmp_path))
    assert given == [(False, True), (True, False)] * 2


# ---------------------------------------------------------------- lies


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    return {k: np.frombuffer(raw, DTYPES[dtype]).reshape(shape).copy() for k, (dtype, shape, raw) in tensors.items()}


def altered(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Written], None]:
    """Changes the arrays of the witness."""

    def apply(ticket: Written) -> None:
        own = arrays(ticket.witness)
        change(own)
        ticket.witness = {
            k: ("I32" if v.dtype.itemsize == 4 else "I64", v.shape, np.ascontiguousarray(v).tobytes())
            for k, v in own.items()
        }

    return apply


def put(name: str, at: Any, value: Any) -> Callable[[Written], None]:
    return altered(lambda own: own[name].__setitem__(at, value))


def cast(name: str, dtype: str) -> Callable[[Written], None]:
    return altered(lambda own: own.update({name: own[name].astype(dtype)}))


def wider(columns: int) -> Callable[[Written], None]:
    def change(own: dict[str, np.ndarray]) -> None:
        splits = own["0/splits"]
        own["0/splits"] = np.pad(splits, ((0, 0), (0, columns - splits.shape[1])), constant_values=-1)

    return altered(change)


def full_row(own: dict[str, np.ndarray]) -> int:
    """A row with two units at least."""
    return int(np.flatnonzero(own["0/splits"][:, 1] >= 0)[0])


def twice(own: dict[str, np.ndarray]) -> None:
    row = full_row(own)
    own["0/splits"][row, 1] = own["0/splits"][row, 0]


def behind_none(own: dict[str, np.ndarray]) -> None:
    own["0/splits"][full_row(own), 0] = -1


def swapped(own: dict[str, np.ndarray]) -> None:
    own["0/rows"][:2] = own["0/rows"][1::-1].copy()


def another_region(own: dict[str, np.ndarray]) -> None:
    own["0/regions"] = np.append(own["0/regions"], len(own["0/rows"]))


def of_no_domain(ticket: Written) -> None:
    ticket.witness |= {k.replace("0/", "2/"): v for k, v in ticket.witness.items() if k.startswith("0/")}


def without(name: str) -> Callable[[Written], None]:
    return lambda ticket: ticket.witness.pop(name)


def no_claim(ticket: Written) -> None:
    for entry in ticket.claims[:2]:
        entry["method"] = "backward"


def one_claim(ticket: Written) -> None:
    ticket.claims[0]["method"] = "backward"


def older(ticket: Written) -> None:
    ticket.manifest["version"] = 2
    del ticket.manifest["source"], ticket.manifest["construction"]


LIES: dict[str, tuple[Callable[[Written], Any], set[str]]] = {
    "rows of 32 bits": (cast("0/rows", "<i4"), {"witness"}),
    "splits of 64 bits": (cast("0/splits", "<i8"), {"witness"}),
    "rows of two axes": (altered(lambda own: own.update({"0/rows": own["0/rows"][:, None]})), {"witness"}),
    "a row too few": (altered(lambda own: own.update({"0/rows": own["0/rows"][:-1]})), {"witness"}),
    "floats": (lambda t: t.witness.update({"0/rows": ("F64", *t.witness["0/rows"][1:])}), {"format"}),
    "many units": (wider(13), {"witness"}),
    "no units": (altered(lambda own: own.update({"0/splits": own["0/splits"][:, :0]})), {"witness"}),
    "huge": (lambda t: t.witness.update({"0/splits": ("I32", (1 << 40, 1 << 20), b"")}), {"format"}),
    "nothing times much": (lambda t: t.witness.update({"0/splits": ("I32", (0, 1 << 40), b"")}), {"witness"}),
    "rows not sorted": (altered(swapped), {"witness"}),
    "a row twice": (altered(lambda own: own["0/rows"].__setitem__(1, own["0/rows"][0])), {"witness"}),
    "a negative row": (put("0/rows", 0, -1), {"witness"}),
    "a row beyond": (put("0/rows", -1, 1 << 40), {"witness"}),
    "a unit twice": (altered(twice), {"witness"}),
    "a unit behind none": (altered(behind_none), {"witness"}),
    "minus two": (put("0/splits", (0, 0), -2), {"witness"}),
    "a unit beyond": (put("0/splits", (0, 0), 2**31 - 1), {"witness"}),
    "a start beyond": (put("1/regions", 1, 1 << 40), {"witness"}),
    "starts that fall": (put("1/regions", 1, -1), {"witness"}),
    "a first start": (put("1/regions", 0, 1), {"witness"}),
    "a last start": (put("1/regions", -1, 1), {"witness"}),
    "a region too many": (altered(another_region), {"witness"}),
    "a tensor missing": (without("1/splits"), {"witness"}),
    "a tensor unknown": (lambda t: t.witness.update({"x": t.witness["0/rows"]}), {"witness"}),
    "of points": (of_no_domain, {"witness"}),
    "no claim by cases": (no_claim, {"witness"}),
    "one claim by cases": (one_claim, {"witness"}),
    "no file": (lambda t: setattr(t, "witness", {}), {"format"}),
    "an older version": (older, {"format"}),
    "a newer version": (lambda t: t.manifest.update(version=6), {"version"}),
    "another construction": (lambda t: t.manifest.update(construction="x"), {"construction"}),
    "branched points": (lambda t: t.claims[2].update(method="branched"), {"bound"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name: str, ticket: Written, tmp_path: Path) -> None:
    change, checks = LIES[name]
    assert fails(ticket, tmp_path, change) in checks


@pytest.mark.parametrize("seed", range(12))
def test_noise_is_refused_or_proves_what_is_true(seed: int, ticket: Written, plain: Seen, tmp_path: Path) -> None:
    """A few numbers of a witness replaced by others: nothing but a refusal, or bounds near those without a witness."""
    rng = np.random.default_rng(seed)
    changed = copy.deepcopy(ticket)

    def change(own: dict[str, np.ndarray]) -> None:
        for _ in range(int(rng.integers(1, 4))):
            flat = own[str(rng.choice([name for name in own if "regions" not in name]))].reshape(-1)
            flat[rng.integers(len(flat))] = rng.choice([-1, 0, 3, 17, 40, 2**31 - 1, int(rng.integers(80))])

    altered(change)(changed)
    try:
        seen = Seen(changed, tmp_path / "ticket")
    except VerificationError as error:
        assert error.check == "witness" and "\n" not in str(error)
        return
    for found, known in zip(seen.bounds, plain.bounds, strict=True):
        assert all(
            a <= b * 1.5 for own, other in zip(found, known, strict=True) for a, b in zip(own, other, strict=True)
        )


def test_units_must_be_earlier(ticket: Written, plain: Seen, tmp_path: Path) -> None:
    targets = plain.nets[0].targets
    bend = targets.bends - 1  # a leaky relu
    row = np.array([targets.base[bend] * 4], np.int64)
    kept = {k: v for k, v in ticket.witness.items() if k.startswith("1/")}

    def with_unit(row: np.ndarray, unit: int) -> Callable[[Written], None]:
        listed = Listed(row, np.array([[unit]], np.int32))
        return lambda ticket: setattr(ticket, "witness", kept | stored_witness(0, [listed]))

    # Of its own activation, and of the last output, which is none.
    assert fails(ticket, tmp_path / "own", with_unit(row, int(targets.base[bend]))) == "witness"
    assert fails(ticket, tmp_path / "output", with_unit(row + 4, int(targets.base[-2]))) == "witness"


def test_units_may_be_on_one_side_of_zero(ticket: Written, plain: Seen, tmp_path: Path) -> None:
    """In a ball most are: a compiler finds some of them open that the checker does not, by a rounding."""
    targets = plain.nets[0].targets
    last = np.array([targets.base[-1] * 4 - 1], np.int64)
    kept = {k: v for k, v in ticket.witness.items() if k.startswith("0/")}
    for unit in range(int(targets.base[targets.bends])):
        listed = [Listed(last, np.array([[unit]], np.int32))] * plain.domains[1].samples
        changed = copy.deepcopy(ticket)
        changed.witness = kept | stored_witness(1, listed)
        verify(changed.save(tmp_path / str(unit)))


def test_the_file_is_covered_by_digests(ticket: Written, tmp_path: Path) -> None:
    directory = ticket.save(tmp_path / "ticket")
    raw = bytearray((directory / "witness.safetensors").read_bytes())
    raw[-1] ^= 1
    (directory / "witness.safetensors").write_bytes(raw)

    def check() -> str:
        with pytest.raises(VerificationError, match=r"witness\.safetensors") as caught:
            verify(directory)
        return caught.value.check

    assert check() == "digest"
    # Listed in SHA256SUMS, but not in the manifest.
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    (directory / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in names))
    assert check() == "digest"


def test_a_stray_witness_is_refused(tmp_path: Path) -> None:
    """One that no manifest states."""
    directory = CONV.save(tmp_path / "ticket")
    (directory / "witness.safetensors").write_bytes(b"x")
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    (directory / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in names))
    with pytest.raises(VerificationError, match="exactly where the manifest states it"):
        verify(directory)
