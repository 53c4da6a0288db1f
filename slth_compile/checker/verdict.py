"""What a successful verification says."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedCertificate:
    """One domain's claim beside the checker's own figure.

    Attributes:
        kind: `"box"`, `"balls"` or `"points"`.
        method: `"branched"`, `"backward"`, `"euclidean"`, `"interval"`, `"points"` or `"exact"`.
        claimed: The bound in `certificate.json`, output units.
        recomputed: The checker's own bound, `<= claimed`; None where `quick` left it out.
        interval: Where `quick` left it out, a bound that was proved in its place, by intervals; it may be far larger.
        arithmetic: What the claim is for: `"real"`, or `"real, float64"`.
        float32: The claim for evaluation in float32, checked where the bound was recomputed; None where there is none.
    """

    kind: str
    method: str
    claimed: float
    recomputed: float | None
    interval: float | None = None
    arithmetic: str
    float32: float | None

    def to_text(self) -> str:
        """The claim, what it is for and what was found, in one line."""
        claim = f"{self.kind}: |f - g| <= {self.claimed!r} ({self.method}; {self.arithmetic})"
        if self.recomputed is None:
            found = f"NOT recomputed (quick); proved here: <= {self.interval:.10g}, by intervals"
        else:
            found = f"recomputed {self.recomputed:.10g}"
        if self.float32 is None:
            return f"{claim}, {found}; in float32: not stated"
        return f"{claim}, {found}; in float32: <= {self.float32!r}{', NOT recomputed' * (self.recomputed is None)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Everything that was found true of one ticket directory.

    Attributes:
        ticket_id: SHA-256 of the manifest.
        target_digest: SHA-256 of the unfolded target network.
        seed: Seed of the random source, unsigned 64 bit; None where it was supplied.
        eps: Largest error allowed, output units.
        delta: Probability over seeds, stated before the source was drawn, of missing a planned tolerance;
            None where it is not stated.
        checks: `(name, one line of detail)` of every check passed, in order.
        certificates: One entry a domain, in order.
        weights: Weights and biases of the folded target.
        kept: Candidates that the masks keep.
        parameters_u: Random parameters of the first layers of all gadgets.
        parameters_v: Random parameters of the second layers of all gadgets.
        quick: True where bounds by other means than intervals were not recomputed.
    """

    ticket_id: str
    target_digest: str
    seed: int | None
    eps: float
    delta: float | None
    checks: tuple[tuple[str, str], ...]
    certificates: tuple[CheckedCertificate, ...]
    weights: int
    kept: int
    parameters_u: int
    parameters_v: int
    quick: bool

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"verified": True, **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """The verdict as a few lines of plain text."""
        lines = [f"ticket {self.ticket_id}", f"target {self.target_digest}"]
        source = "source supplied" if self.seed is None else f"seed {self.seed}"
        delta = "not stated" if self.delta is None else repr(self.delta)
        lines.append(f"{source}, eps {self.eps!r}, delta {delta}")
        lines.append(
            f"{self.weights} weights, {self.kept} candidates kept, "
            f"{self.parameters_u + self.parameters_v} random parameters ({self.parameters_u} U, {self.parameters_v} V)"
        )
        lines += [f"  {name:<12} {detail}" for name, detail in self.checks]
        lines += [entry.to_text() for entry in self.certificates]
        left = sum(entry.recomputed is None for entry in self.certificates)
        of = f"{left} of {len(self.certificates)} claimed bounds NOT recomputed"
        lines.append(f"digests and weights verified, {of}" if left else "verified")
        return "\n".join(lines)
