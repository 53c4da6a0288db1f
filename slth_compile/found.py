"""A found ticket in Python: callable, exported, saved and loaded. Nothing is certified about what it is worth."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.errors import InputError
from slth_compile.export.export import Exported, export_network
from slth_compile.export.files import ONNX, STABLEHLO, form_of
from slth_compile.export.network import Network
from slth_compile.graph.evaluate import LayerWeights, evaluate, target_weights
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, silent
from slth_compile.report import numbers
from slth_compile.source.threefry import GENERATOR
from slth_compile.ticket import found as found_format
from slth_compile.ticket import workspace
from slth_compile.ticket.format import MANIFEST, MASKS, STATS, SUMS, checksums, mask_sizes
from slth_compile.ticket.found import STATEMENT, FoundTicket


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Found:
    """A pruned random network that was found by training a mask. It has no target, so nothing is certified about one.

    Attributes:
        ticket: Network, seed, laws and masks: all there is to it.
        stats: What was measured when it was found; not part of the ticket, and not believed.
    """

    ticket: FoundTicket
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """One line."""
        kept = f"{self.ticket.kept:,} of {self.ticket.weights:,} weights kept"
        return f"Found({len(self.ticket.masks)} layers, {kept}, seed {self.ticket.seed})"

    def __call__(self, x: np.ndarray | jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """The network's output for a batch in float32; a tuple where it has several."""
        if np.shape(x)[1:] != self.graph.input_shape:
            raise InputError(f"x has shape {np.shape(x)}; expected (batch, {str(self.graph.input_shape)[1:]}")
        outputs = self._program(jnp.asarray(x, jnp.float32))
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def graph(self) -> Graph:
        """The network with its masked random weights, as any other: `slth.certify` takes it."""
        return self.ticket.graph

    @functools.cached_property
    def ticket_id(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self._stated[MANIFEST]).hexdigest()

    @property
    def bits(self) -> int:
        """Coded mask bits, of all layers."""
        return 8 * sum(mask_sizes(self._stated[MASKS]).values())

    def to_json(self) -> dict[str, Any]:
        """What `inspect` says, as plain values."""
        layers = zip(self.ticket.laws, self.ticket.masks, strict=True)
        return {
            "ticket_id": self.ticket_id,
            "kind": "found",
            "statement": STATEMENT,
            "seed": self.ticket.seed,
            "weights": self.ticket.weights,
            "kept": self.ticket.kept,
            "mask_bits": self.bits,
            "layers": [
                {"law": law, "shape": list(mask.shape), "kept": int(np.count_nonzero(mask))} for law, mask in layers
            ],
            "not_verified": dict(self.stats),
        }

    def to_text(self) -> str:
        """What `inspect` says, in a few lines."""
        kept, weights = self.ticket.kept, self.ticket.weights
        lines = [
            f"found ticket {self.ticket_id}",
            f"seed {self.ticket.seed}, {', '.join(dict.fromkeys(self.ticket.laws))}: {numbers.count(kept)} of "
            f"{numbers.count(weights)} random weights kept ({100 * kept / weights:.3g} %)",
            f"mask {numbers.count(self.bits)} bits, {self.bits / weights:.3g} a weight",
            STATEMENT,
        ]
        for i, mask in enumerate(self.ticket.masks):
            size = "x".join(map(str, mask.shape))
            lines.append(f"  layer {i}: {size}, {numbers.count(int(np.count_nonzero(mask)))} kept")
        lines += [f"not verified: {name} {value}" for name, value in sorted(self.stats.items())]
        return "\n".join(lines)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        literal: bool = False,
        nchw: bool = False,
        like: Any = None,
        force: bool = False,
        progress: Progress = silent,
        **_: Any,
    ) -> Exported:
        """The network as `.onnx` or `.stablehlo`, loaded back and compared before the file is in its place.

        Args:
            path: Where; the ending chooses the format.
            literal: Refused: it is its own literal network.
            nchw: Whether an ONNX model takes and returns channels first.
            like: Refused: there is no target.
            force: Whether an existing file is replaced.
            progress: Called as the steps advance.

        Raises:
            InputError: A path or an argument that cannot be used.
            ExportError: What was loaded back computes something else; nothing is kept.
        """
        path = pathlib.Path(path)
        if form_of(path) not in (ONNX, STABLEHLO) or like is not None or literal:
            raise InputError(
                f"{path}: a found ticket has no target and is its own literal network; it is exported as a function, "
                ".onnx or .stablehlo, without like (--like) and literal (--literal)"
            )
        return export_network(self._network, path, nchw=nchw, force=force, progress=progress)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Refused: with no target there is nothing to report that its README.md does not say.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{path}: a found ticket has no report, there is no target; its README.md says what it is")

    def save(self, directory: str | os.PathLike[str], *, force: bool = False) -> str:
        """The ticket directory, written beside its place and renamed as the last act.

        Args:
            directory: Where; it must not exist unless `force`.
            force: Whether an existing one is replaced.

        Returns:
            The ticket id.

        Raises:
            InputError: The directory exists, or cannot be written.
        """
        workspace.save(pathlib.Path(directory), self.ticket_id, self.files, force=force)
        return self.ticket_id

    def files(self) -> dict[str, bytes]:
        """Every file of the ticket directory, by name."""
        files = dict(self._stated)
        files[STATS] = found_format.to_bytes(dict(self.stats))
        files["README.md"] = self._card().encode()
        return files | {SUMS: checksums(files)}

    @functools.cached_property
    def _stated(self) -> dict[str, bytes]:
        return found_format.stated_files(self.ticket)

    @functools.cached_property
    def _network(self) -> Network:
        weights = target_weights(self.graph)
        properties = {
            "ticket_id": self.ticket_id,
            "seed": str(self.ticket.seed),
            "format": found_format.FORMAT,
            "format_version": str(found_format.VERSION),
            "generator": GENERATOR,
            "statement": STATEMENT,
        }
        exact = {i: LayerWeights(np.asarray(w.positive, np.float64)) for i, w in weights.items()}
        return Network(self.graph, weights, exact, literal=None, domains=(), properties=properties)

    @functools.cached_property
    def _program(self):
        return jax.jit(lambda x: evaluate(self.graph, x))

    def _card(self) -> str:
        return (
            f"# A found ticket\n\n{STATEMENT[0].upper()}{STATEMENT[1:]}.\n\n```\n{self.to_text()}\n```\n\n"
            "* check it: `slth-compile verify DIR/`, or where only NumPy is installed "
            "`python -m slth_compile.checker DIR/`\n"
            '* run it: `slth_compile.load("DIR/")(x)`\n'
            "* export it: `slth-compile export DIR/ net.onnx`\n\n"
            "What is not verified, accuracies among it, was measured when the mask was found.\n"
        )


def load_found(directory: str | os.PathLike[str]) -> Found:
    """The found ticket that `save` wrote; digests checked, nothing unpickled.

    Raises:
        VerificationError: Damaged, or of an unknown version or generator.
    """
    ticket, stats, _ = found_format.read(pathlib.Path(directory))
    return Found(ticket, stats)
