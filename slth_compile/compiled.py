"""A compiled target: callable, inspectable, saved and loaded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile.certificate.certificate import Certificate, certify_domain
from slth_compile.certificate.difference import LayerErrors
from slth_compile.certificate.weight_errors import weight_errors
from slth_compile.domain import Domain, require_domain
from slth_compile.errors import InputError, UnsupportedModelError, VerificationError
from slth_compile.graph.check import check, nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.plan.plan import Plan, predict
from slth_compile.report.card import render_card
from slth_compile.report.html import render_html
from slth_compile.report.markdown import render_markdown
from slth_compile.report.summary import Measured, Summary
from slth_compile.source.layout import Layout
from slth_compile.summarise import measured_from_json, stats_json, summarise
from slth_compile.ticket import format as ticket_format
from slth_compile.ticket.apply import effective_layers, effective_weights
from slth_compile.ticket.materialise import PrunedRandomNetwork, network
from slth_compile.ticket.ticket import EffectiveLayer, Ticket
from slth_compile.ticket.workspace import Workspace


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compiled:
    """A pruned random network that computes what a trained one does, within a certified error.

    Attributes:
        graph: The target as given.
        folded: The target without batch norms.
        plan: Layout and predicted sizes, fixed before the source was drawn.
        ticket: Layout, source and masks: all there is to the pruned network.
        layers: Its layers in closed form, exact.
        errors: Enclosed weight errors by position in `folded`.
        domains: Where it is certified; None stands for a domain that was too large to be stored.
        certificates: One a domain.
        measured: Seconds, accuracies, attacks.
        stated: The manifest and the files it covers as they were loaded, by name; None for what was just compiled.
    """

    graph: Graph
    folded: Graph
    plan: Plan
    ticket: Ticket
    layers: tuple[EffectiveLayer, ...]
    errors: Mapping[int, LayerErrors]
    domains: tuple[Domain | None, ...]
    certificates: tuple[Certificate, ...]
    measured: Measured
    stated: Mapping[str, bytes] | None = None

    def __repr__(self) -> str:
        """One line: size and certificates."""
        weights = sum(size.weights for size in self.plan.layers)
        certified = ", ".join(f"{c.kind}: <= {c.bound:.3g}" for c in self.certificates)
        source = "source supplied" if self.ticket.seed is None else str(self.ticket.source)
        return f"Compiled({len(self.plan.layers)} layers, {weights:,} weights, {source}, {certified})"

    def __call__(self, x: np.ndarray | jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        """The ticket's output for a batch in float32, at the cost of the target; a tuple where it has several."""
        if np.shape(x)[1:] != self.graph.input_shape:
            raise InputError(f"x has shape {np.shape(x)}; expected (batch, {str(self.graph.input_shape)[1:]}")
        outputs = self._effective(jnp.asarray(x, jnp.float32))
        return outputs[0] if len(outputs) == 1 else outputs

    @functools.cached_property
    def network(self) -> PrunedRandomNetwork:
        """The literal pruned random network of 2l weighted layers: a bound flax module, callable on a batch."""
        # First asked for inside somebody's jit, its weights are constants all the same.
        with jax.ensure_compile_time_eval():
            return network(self.folded, self.ticket)

    def dense_network(self) -> PrunedRandomNetwork:
        """The literal network with its first layers as full matrices; large."""
        return network(self.folded, self.ticket, dense=True)

    def compact_network(self) -> PrunedRandomNetwork:
        """The literal network without the copies that nothing reads: the same function, several times cheaper."""
        return network(self.folded, self.ticket, compact=True)

    @property
    def certificate(self) -> Certificate:
        """The first domain's certificate."""
        return self.certificates[0]

    @property
    def layout(self) -> Layout:
        """Widths, gains, windows, tolerances."""
        return self.plan.layout

    @functools.cached_property
    def weights(self) -> dict[int, LayerWeights]:
        """Effective weights by position in `folded`, float64."""
        return effective_weights(self.folded, self.ticket, self.layers)

    @functools.cached_property
    def ticket_id(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self._stated[ticket_format.MANIFEST]).hexdigest()

    @functools.cached_property
    def summary(self) -> Summary:
        """Everything a report shows."""
        return summarise(
            ticket_id=self.ticket_id,
            graph=self.graph,
            folded=self.folded,
            plan=self.plan,
            ticket=self.ticket,
            errors=self.errors,
            domains=self.domains,
            certificates=self.certificates,
            masks=self._stated[ticket_format.MASKS],
            measured=self.measured,
        )

    def certify(self, domain: Domain) -> Certificate:
        """A certificate on another domain, whatever its bound.

        Args:
            domain: Where to bound the difference. A one-signed layer that reads the input holds for it only where the
                domain is >= 0 as the compiled ones were.

        Raises:
            InputError: The domain goes below zero and the ticket was compiled for inputs >= 0.
        """
        domain = require_domain(domain).with_shape(self.graph.input_shape)
        signs = nonnegative_nodes(self.folded, domain.is_nonnegative())
        for position, layout in zip(self.folded.layers, self.layout.layers, strict=True):
            if not layout.signed and not signs[self.folded.nodes[position].inputs[0]]:
                raise InputError(
                    "the ticket was compiled for inputs >= 0 and this domain goes below zero; compile again with a "
                    "domain that does"
                )
        return certify_domain(self.folded, self.errors, domain, len(self.certificates))

    def report(self, path: str | os.PathLike[str]) -> None:
        """The report as a file: `.md` in markdown, anything else in HTML.

        Raises:
            InputError: The file cannot be written.
        """
        path = pathlib.Path(path)
        text = render_markdown(self.summary) if path.suffix == ".md" else render_html(self.summary)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error

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
        workspace = Workspace(pathlib.Path(directory))
        workspace.refuse_occupied(resume=False, force=force)
        try:
            workspace.begin(self.ticket_id, resume=False)
            workspace.finish(self.files())
        except OSError as error:
            workspace.discard()
            raise InputError(f"{directory}: cannot be written ({error.strerror or error})") from error
        return self.ticket_id

    def files(self) -> dict[str, bytes]:
        """Every file of the ticket directory, by name."""
        files = dict(self._stated)
        files[ticket_format.STATS] = stats_json(self.measured, self.plan.bound, self.graph)
        files["report.html"] = render_html(self.summary).encode()
        files["report.md"] = render_markdown(self.summary).encode()
        files["README.md"] = render_card(self.summary).encode()
        return files | {ticket_format.SUMS: ticket_format.checksums(files)}

    @functools.cached_property
    def _stated(self) -> dict[str, bytes]:
        # What was loaded is kept: the same id, and digests of inputs that are not here.
        if self.stated is not None:
            return dict(self.stated)
        domains = [domain for domain in self.domains if domain is not None]
        certificates = [certificate.to_json() for certificate in self.certificates]
        return ticket_format.stated_files(self.graph, self.ticket, domains, certificates)

    @functools.cached_property
    def _effective(self):
        # NumPy arrays: first asked for inside somebody's jit, they are constants all the same.
        weights = {
            i: LayerWeights(
                np.asarray(w.positive, np.float32),
                None if w.negative is None else np.asarray(w.negative, np.float32),
                None if w.bias is None else np.asarray(w.bias, np.float32),
                clip=w.clip,
            )
            for i, w in self.weights.items()
        }
        return jax.jit(lambda x: evaluate(self.folded, x, weights))


def load_compiled(directory: str | os.PathLike[str]) -> Compiled:
    """The compiled target that `save` wrote; digests checked, nothing unpickled.

    Raises:
        InputError: No ticket directory there.
        VerificationError: Damaged, or of an unknown format, version or generator.
    """
    record = ticket_format.read(pathlib.Path(directory))
    try:
        graph = _named(check(record.graph), record.stats["names"])
        folded = fold(graph)
        layout = record.ticket.layout
        layers = effective_layers(folded, record.ticket)
        return Compiled(
            graph=graph,
            folded=folded,
            plan=predict(folded, layout, float(record.stats["planned_bound"])),
            ticket=record.ticket,
            layers=layers,
            errors=weight_errors(folded, record.ticket, layers),
            domains=record.domains,
            certificates=tuple(Certificate.from_json(entry, graph) for entry in record.certificates),
            measured=measured_from_json(record.stats),
            stated=record.stated,
        )
    except (InputError, UnsupportedModelError, *ticket_format.DAMAGED) as error:
        raise VerificationError("format", f"{directory}: damaged or not of this format ({error!r})") from error


def _named(graph: Graph, names: Sequence[str]) -> Graph:
    nodes = [dataclasses.replace(node, name=str(name)) for node, name in zip(graph.nodes, names, strict=True)]
    return dataclasses.replace(graph, nodes=tuple(nodes))
