"""A compiled target: callable, inspectable, saved and loaded."""

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

from slth_compile.certificate import engine
from slth_compile.certificate.certificate import Certificate, certify_domain
from slth_compile.certificate.copies import exact_pair
from slth_compile.certificate.difference import LayerErrors
from slth_compile.domain import Domain, require_domain
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.export.export import Exported, export_network, export_variables
from slth_compile.export.files import FORMS, ONNX, STABLEHLO, form_of, refuse_occupied
from slth_compile.export.network import EFFECTIVE, LITERAL, Network
from slth_compile.export.variables import effective_leaves
from slth_compile.frontends.leaves import parameters_of
from slth_compile.graph.check import nonnegative_nodes
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.graph import Graph
from slth_compile.plan.plan import Plan
from slth_compile.progress import Progress, silent
from slth_compile.report.card import render_card
from slth_compile.report.html import render_html
from slth_compile.report.markdown import render_markdown
from slth_compile.report.summary import Measured, Summary
from slth_compile.source.layout import Layout
from slth_compile.summarise import stats_json, summarise
from slth_compile.ticket import format as ticket_format
from slth_compile.ticket import workspace
from slth_compile.ticket.apply import effective_weights
from slth_compile.ticket.materialise import PrunedRandomNetwork, network
from slth_compile.ticket.ticket import EffectiveLayer, Ticket


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compiled:
    """A pruned random network that computes what a trained one does, within a certified error.

    Attributes:
        graph: The target as given.
        folded: The target without batch norms.
        plan: Layout and predicted sizes, fixed before the source was drawn.
        ticket: Layout, source and masks: all there is to the pruned network.
        layers: Its layers in closed form, exact.
        pair: The target in the ticket's shape (`certificate.copies`): `folded` itself where no channel is built twice.
        errors: Enclosed weight errors by position in it.
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
    pair: Graph
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
        """The ticket's output for a batch in float32, without the layers `U`; a tuple where it has several."""
        if np.shape(x)[1:] != self.graph.input_shape:
            raise InputError(f"x has shape {np.shape(x)}; expected (batch, {str(self.graph.input_shape)[1:]}")
        outputs = self._effective(jnp.asarray(x, jnp.float32))
        return outputs[0] if len(outputs) == 1 else outputs

    @functools.cached_property
    def network(self) -> PrunedRandomNetwork:
        """The literal pruned random network of `layout.depth` layers: a bound flax module, callable on a batch."""
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
        """Effective weights by position in `pair`, float64."""
        # First asked for inside somebody's jit, they are constants all the same.
        with jax.ensure_compile_time_eval():
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

    def certify(self, domain: Domain, *, splits: int = 0, seconds: float | None = None) -> Certificate:
        """A certificate on another domain, whatever its bound.

        Args:
            domain: Where to bound the difference. A one-signed layer that reads the input holds for it only where the
                domain is >= 0 as the compiled ones were.
            splits: As for `compiler.compile`.
            seconds: Likewise.

        Raises:
            InputError: The domain goes below zero and the ticket was compiled for inputs >= 0, or there are no such
                splits or seconds.
        """
        engine.refuse_branching(splits, seconds)
        domain = require_domain(domain).with_shape(self.graph.input_shape)
        signs = nonnegative_nodes(self.folded, domain.is_nonnegative())
        for position, layout in zip(self.folded.layers, self.layout.layers, strict=True):
            if not layout.signed and not signs[self.folded.nodes[position].inputs[0]]:
                raise InputError(
                    "the ticket was compiled for inputs >= 0 and this domain goes below zero; compile again with a "
                    "domain that does"
                )
        exact = exact_pair(self.graph, self.folded, self.ticket, self.layers)
        branching = engine.Branching(splits, seconds)
        return certify_domain(self.pair, self.errors, domain, len(self.certificates), exact=exact, branching=branching)

    def report(self, path: str | os.PathLike[str]) -> None:
        """The report as a file: `.md` in markdown, anything else in HTML.

        Raises:
            InputError: The file cannot be written.
        """
        path = pathlib.Path(path)
        text = render_markdown(self.summary) if path.suffix == ".md" else render_html(self.summary)
        try:
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        literal: bool = False,
        nchw: bool = False,
        like: Any = None,
        batch_axis: int | None = 0,
        effort: str = engine.NORMAL,
        force: bool = False,
        progress: Progress = silent,
    ) -> Exported:
        """The ticket in a format that other programs read, loaded back and compared before the file is in its place.

        `.onnx` and `.stablehlo` hold the ticket as a function, `.safetensors` and `.orbax` (a directory) its effective
        weights as the target's own parameters.

        Args:
            path: Where; the ending chooses the format.
            literal: Whether the function is written as the pruned random network of 2l layers, masks applied, and not
                as the effective network of the target's size.
            nchw: Whether an ONNX model takes and returns channels first; it takes what the ticket takes otherwise.
            like: The target's model, for its own parameters; see `variables`.
            batch_axis: Axis of the batch in that model's input; None for a model of single samples.
            effort: What the bounds of rounded parameters may cost, as for `certify`.
            force: Whether an existing file, or orbax directory, is replaced.
            progress: Called as the steps advance.

        Returns:
            What was written and how it compared.

        Raises:
            InputError: A path or an argument that cannot be used, or a network too large for the format.
            UnsupportedModelError: The format cannot hold the ticket; names every reason.
            ExportError: What was loaded back computes something else; nothing is kept.
        """
        path = pathlib.Path(path)
        function = form_of(path) in (ONNX, STABLEHLO)
        refuse_occupied(path, force)
        if function and like is not None:
            raise InputError(f"{path}: a function goes without the target's model; leave like (--like) out")
        if not function and like is None:
            what = FORMS[form_of(path)]
            raise InputError(
                f"{path}: {what} need the target's model; pass like=model (--like CHECKPOINT --factory ...)"
            )
        if function:
            exported = self._exported(literal)
            return export_network(exported, path, nchw=nchw, force=force, progress=progress)
        if literal or nchw:
            raise InputError(f"{path}: parameters of the target are of the effective network, in its own layout")
        self._refuse_copies()
        model = parameters_of(like, self.graph.input_shape, batch_axis)
        network = self._exported(literal=False)
        return export_variables(network, self.graph, path, model, effort=effort, force=force, progress=progress)

    def variables(self, model: Any, *, batch_axis: int | None = 0) -> Any:
        """The effective weights in the target's own pytree, each rounded to the type of the parameter it takes.

        That is another network than the ticket; `slth.certify(model, model_with_these, domain)` bounds its difference
        from the target. Where the ticket is for inputs >= 0, so are these weights.

        Args:
            model: The target: a bound linen module, an `nnx.Module`, or a callable pytree.
            batch_axis: Axis of the batch in its input; None for a model of single samples.

        Returns:
            The variables of the linen module, the state of the nnx module, or the pytree.

        Raises:
            InputError: Another model, or one that is not the ticket's target.
            UnsupportedModelError: No such network exists: a signed layer, a live batch norm, tied weights that the
                ticket approximates apart, weights computed from parameters, channels that the ticket has several times;
                names every reason.
        """
        self._refuse_copies()
        parameters = parameters_of(model, self.graph.input_shape, batch_axis)
        found, _ = effective_leaves(self.graph, self.folded, self.weights, parameters)
        return parameters.variables(found)

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
        files[ticket_format.STATS] = stats_json(self.measured, self.plan, self.graph)
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
        return ticket_format.stated_files(self.graph, self.ticket, domains, certificates, self._witness)

    @property
    def _witness(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for certificate in self.certificates:
            if certificate.witness is not None:
                found |= certificate.witness.tensors(certificate.domain)
        return found

    def _refuse_copies(self) -> None:
        if self.pair is not self.folded:
            raise UnsupportedModelError(
                "the ticket has every channel several times, each with weights of its own (construction burkholz); it "
                "has no weights in the target's shape. Export it as a function, to .onnx or .stablehlo"
            )

    def _exported(self, literal: bool) -> Network:
        layout, bounds = self.layout, enumerate(self.certificates)
        properties = {
            "ticket_id": self.ticket_id,
            "seed": str(self.ticket.seed),
            "eps": repr(layout.eps),
            "format": ticket_format.FORMAT,
            "format_version": str(ticket_format.VERSION),
            "generator": ticket_format.GENERATOR,
            "network": LITERAL if literal else EFFECTIVE,
        } | {f"bound_{i}_{c.kind}": repr(c.bound) for i, c in bounds}
        return Network(
            graph=self.pair,
            weights=self._narrow_weights,
            exact=self.weights,
            literal=self.compact_network() if literal else None,
            domains=self.domains,
            properties=properties,
        )

    @functools.cached_property
    def _narrow_weights(self) -> dict[int, LayerWeights]:
        # NumPy arrays: first asked for inside somebody's jit, they are constants all the same.
        return {
            i: LayerWeights(
                np.asarray(w.positive, np.float32),
                None if w.negative is None else np.asarray(w.negative, np.float32),
                None if w.bias is None else np.asarray(w.bias, np.float32),
                clip=w.clip,
            )
            for i, w in self.weights.items()
        }

    @functools.cached_property
    def _effective(self):
        return jax.jit(lambda x: evaluate(self.pair, x, self._narrow_weights))
