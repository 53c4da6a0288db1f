"""What a report shows, as plain records: planned and certified never in one of them."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One weighted layer.

    Attributes:
        name: The layer's name in the model.
        kind: In words, such as `"convolution 5x5, 6 -> 16"`.
        signed: Whether it keeps copies of both signs.
        weights: Kernel weights and bias entries.
        width: Planned copies N of every input channel.
        bias_width: Planned copies of the bias gadget, 0 without bias.
        gain: Exponent g of the kernel gadget.
        window: Candidates solved together.
        tolerance: Planned largest |weight error|.
        failure: Planned bound on P(some weight of the layer is missed), over seeds; None where none is stated.
        parameters_v: Random parameters of `V` and the bias gadget.
        parameters_u: Random parameters of `U` as a full (grouped) matrix.
        largest_error: Largest |weight error| of the ticket, kernel and bias, rounded up.
        kept: Random weights kept in `V` (and `v`).
        mask_bits: Coded mask, bits.
        raw_bits: The same mask without a model: window numbers in unary and a bit for every candidate of the window.
        quantiser_bits: For comparison, what an ideal code needs for the layer's weights, rounded by a uniform quantiser
            of the same largest error.
    """

    name: str
    kind: str
    signed: bool
    weights: int
    width: int
    bias_width: int
    gain: int
    window: int
    tolerance: float
    failure: float | None
    parameters_v: int
    parameters_u: int
    largest_error: float
    kept: int
    mask_bits: int
    raw_bits: int
    quantiser_bits: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackRow:
    """What an attack found: a lower bound on what a certificate bounds from above.

    Attributes:
        value: Largest |target - ticket| of any output seen, in float64.
        steps: Projected gradient steps.
        restarts: Random starts.
        inputs: Inputs evaluated.
    """

    value: float
    steps: int
    restarts: int
    inputs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertificateRow:
    """One certified statement.

    Attributes:
        domain: In words, such as `"360 points"` or `"box [0, 1]"`.
        kind: `"points"`, `"balls"` or `"box"`.
        method: How the bound was computed.
        arithmetic: What it is true for.
        bound: Certified: no input of the domain and no output differs by more.
        float32: The same where both networks are evaluated in float32; None where it is not stated.
        lower: For points: the largest difference is at least this.
        attack: The attack's lower bound, None where none was run.
        largest_output: Largest |target output| seen over samples of the domain; a bound above it says nothing.
        seconds: Wall time of the bound, None where it was not recorded.
        splits: Of branched bounds, the most units that one is split at; None for other methods.
    """

    domain: str
    kind: str
    method: str
    bound: float
    lower: float
    attack: AttackRow | None
    largest_output: float
    arithmetic: str = "real"
    float32: float | None = None
    seconds: float | None = None
    splits: int | None = None

    @property
    def ratio(self) -> float | None:
        """`bound / attack`; None without a figure."""
        if self.attack is None or self.attack.value == 0 or not math.isfinite(self.bound):
            return None
        return self.bound / self.attack.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Quality on labelled data.

    Attributes:
        metric: `"top-1 accuracy"`, or `"mean squared difference"` to the given outputs.
        samples: Number of samples.
        target: Of the target network.
        ticket: Of the ticket in its effective form.
        literal: Of the literal pruned random network, None where it was not run.
    """

    metric: str
    samples: int
    target: float
    ticket: float
    literal: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured while compiling; written to `stats.json`, never part of the ticket id.

    Attributes:
        seconds: Wall time by stage.
        attacks: One entry a domain.
        largest_outputs: One entry a domain.
        evaluation: Where labelled data was given.
        platform: Versions and device, in words.
        bound_seconds: Wall time of each domain's bound; empty where it was not recorded.
    """

    seconds: dict[str, float]
    attacks: tuple[AttackRow | None, ...]
    largest_outputs: tuple[float, ...]
    evaluation: Evaluation | None
    platform: str
    bound_seconds: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything a report shows about one compiled ticket.

    Attributes:
        ticket_id: SHA-256 of the manifest.
        target_digest: Digest of the target.
        seed: The source's seed; None where it was supplied.
        eps: Asked: largest difference.
        delta: Asked: largest failure probability over seeds; None where nothing is stated.
        objective: Asked: which subset within its tolerance a weight takes.
        construction: Asked: whose proof the network is built by.
        planned_failure: Planned bound on the failure probability; None where none is stated.
        planned_bound: `B(eta)`: the bound promised for all errors within the tolerances, or expected of typical ones.
        promise: Which of the two, as in `plan.budget`.
        constant_v: `C_V` of the plan.
        constant_u: `C_U` of the plan.
        layers: One row a weighted layer.
        certificates: One row a domain.
        mask_bytes: Size of `masks.safetensors`.
        measured: What was measured.
        source: What the random weights come from, in words.
        depth: Random layers in place of the target's.
        copies: How often every layer is built; empty where each is built once.
    """

    ticket_id: str
    target_digest: str
    seed: int | None
    eps: float
    delta: float | None
    planned_failure: float | None
    planned_bound: float
    promise: str
    constant_v: float
    constant_u: float
    layers: tuple[LayerRow, ...]
    certificates: tuple[CertificateRow, ...]
    mask_bytes: int
    measured: Measured
    objective: str = "closest"
    construction: str = "da-cunha"
    source: str = ""
    depth: int = 0
    copies: tuple[int, ...] = ()

    @property
    def weights(self) -> int:
        """Weights of the target, k."""
        return sum(layer.weights for layer in self.layers)

    @property
    def parameters_v(self) -> int:
        """Random parameters of all `V`."""
        return sum(layer.parameters_v for layer in self.layers)

    @property
    def parameters_u(self) -> int:
        """Random parameters of all `U`."""
        return sum(layer.parameters_u for layer in self.layers)

    @property
    def kept(self) -> int:
        """Random weights kept in all `V`."""
        return sum(layer.kept for layer in self.layers)

    @property
    def mask_bits_per_weight(self) -> float:
        """Coded mask, bits for one weight of the target."""
        return sum(layer.mask_bits for layer in self.layers) / self.weights

    @property
    def raw_bits_per_weight(self) -> float:
        """Mask without a model, bits for one weight of the target."""
        return sum(layer.raw_bits for layer in self.layers) / self.weights

    @property
    def quantiser_bits_per_weight(self) -> float:
        """Entropy of every layer's uniform quantiser of the same largest error, bits for one weight of the target."""
        return sum(layer.quantiser_bits for layer in self.layers) / self.weights
