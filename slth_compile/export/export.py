"""A ticket written to a file, loaded back, compared, and only then put in its place."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from slth_compile.certificate.certificate import Certificate, certify_enclosed
from slth_compile.certificate.engine import EFFORTS, NORMAL
from slth_compile.certificate.pair import pair_of
from slth_compile.errors import InputError
from slth_compile.export import checkpoints
from slth_compile.export.check import Agreement, compare, inputs_of
from slth_compile.export.files import ONNX, SAFETENSORS, STABLEHLO, form_of, refuse_occupied, whole
from slth_compile.export.network import EFFECTIVE, Network
from slth_compile.export.onnx import OPSET, load_onnx, onnx_model, require_onnx
from slth_compile.export.stablehlo import load_stablehlo, stablehlo_module
from slth_compile.export.variables import Model, effective_leaves
from slth_compile.graph.evaluate import LayerWeights, target_weights
from slth_compile.graph.graph import Graph
from slth_compile.progress import Progress, part_of, silent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported, found to compute what the ticket does.

    Attributes:
        path: Where it is.
        form: The ending that says what it is.
        network: `"effective"` or `"literal"`.
        layout: Shapes of input and outputs, in words.
        bytes: Size.
        agreement: How it compared with the ticket when loaded back.
        certificates: Of parameters, which are rounded to their type and so another network than the ticket: bounds on
            its difference from the target, one for each of the ticket's stored domains.
    """

    path: str
    form: str
    network: str
    layout: str
    bytes: int
    agreement: Agreement
    certificates: tuple[Certificate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        certificates = [{"kind": c.kind, "method": c.method, "bound": c.bound} for c in self.certificates]
        return plain | {"agreement": dataclasses.asdict(self.agreement), "certificates": certificates}

    def to_text(self) -> str:
        """Two or three lines."""
        a, what = self.agreement, "the ticket" if self.form in (ONNX, STABLEHLO) else "the rounded weights"
        lines = [
            f"{self.path}: {self.network} network, {self.layout}, {self.bytes:,} bytes",
            f"loaded back with {a.runtime}, {a.inputs} inputs: within {a.difference:.2g} of {what}, rounding "
            f"explains {a.allowed:.2g} (outputs up to {a.largest:.3g})",
        ]
        lines += [f"certified for these rounded weights ({c.kind}): <= {c.bound:.4g}" for c in self.certificates]
        return "\n".join(lines)


def export_network(
    network: Network, path: pathlib.Path, *, nchw: bool = False, force: bool = False, progress: Progress = silent
) -> Exported:
    """A ticket as `.onnx` or `.stablehlo`.

    Args:
        network: What is exported.
        path: Where.
        nchw: Whether an ONNX model takes and returns channels first.
        force: Whether an existing file is replaced.
        progress: Called as the steps advance.

    Raises:
        InputError: A path or a network that cannot be used.
        UnsupportedModelError: A node that has no operators.
        ExportError: What was loaded back is not the ticket.
    """
    refuse_occupied(path, force)
    form = form_of(path)
    if form == ONNX:
        require_onnx(path)
    elif nchw:
        raise InputError(f"{path}: channels first is for .onnx; a {form} file takes what the ticket takes")
    with whole(path) as partial:
        progress("export", 0, 3)
        content = onnx_model(network, nchw) if form == ONNX else stablehlo_module(network)
        partial.write_bytes(content)
        progress("export", 1, 3)
        function, runtime = load_onnx(partial, nchw) if form == ONNX else load_stablehlo(partial)
        progress("export", 2, 3)
        x = inputs_of(network.domains, network.graph.input_shape)
        agreement = compare(function, jax.jit(network.outputs), network.reference(), x, runtime)
        progress("export", 3, 3)
    words = f"opset {OPSET}, " if form == ONNX else ""
    return Exported(
        path=str(path),
        form=form,
        network=network.kind,
        layout=words + _shapes(network.graph, nchw),
        bytes=len(content),
        agreement=agreement,
    )


def export_variables(
    network: Network,
    target: Graph,
    path: pathlib.Path,
    model: Model,
    *,
    effort: str = NORMAL,
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """A ticket's effective weights as the target's own parameters, `.safetensors` or an `.orbax` directory.

    Args:
        network: The ticket.
        target: The target as given.
        path: Where.
        model: The target's model.
        effort: What its bounds may cost, as for `certify`.
        force: Whether an existing file or orbax directory is replaced.
        progress: Called as the steps advance.

    Raises:
        InputError: A path that cannot be used.
        UnsupportedModelError: The target's parameters cannot hold the weights; names every reason.
        ExportError: What was loaded back is not what was written.
    """
    if effort not in EFFORTS:
        raise InputError(f"effort is {effort!r}; expected {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}")
    refuse_occupied(path, force)
    form = form_of(path)
    if len({name.replace("/", ".") for name in model.names}) < len(model.names):
        raise InputError(f"{path}: two of the model's parameters have one name once '.' and '/' are the same")
    progress("export", 0, 3)
    found, made = effective_leaves(target, network.graph, network.exact, model)
    progress("export", 1, 3)
    certificates = tuple(_certified(target, made, network, effort, progress))
    bounds = {f"bound_{i}_{c.kind}": repr(c.bound) for i, c in enumerate(certificates)}
    # The ticket's own bounds are not those of other weights.
    properties = {key: value for key, value in network.properties.items() if not key.startswith("bound")} | bounds
    arrays = dict(zip(model.names, found, strict=True))
    with whole(path) as partial:
        if form == SAFETENSORS:
            checkpoints.write_safetensors(partial, arrays, properties)
            again = checkpoints.read_safetensors(partial, model.names)
        else:
            checkpoints.write_orbax(partial, arrays, properties)
            again = checkpoints.read_orbax(partial, model.names)
        progress("export", 2, 3)
        x = inputs_of(network.domains, target.input_shape)
        weights = {i: _narrow(w) for i, w in target_weights(made).items()}
        rounded = dataclasses.replace(network, graph=made, weights=weights, exact=target_weights(made))
        loaded = [again[name] for name in model.names]
        own = jax.jit(rounded.outputs)
        agreement = compare(lambda x: model.outputs(loaded, x), own, rounded.reference(), x, "the model")
        size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()) or partial.stat().st_size
        progress("export", 3, 3)
    return Exported(
        path=str(path),
        form=form,
        network=EFFECTIVE,
        layout=f"{len(model.names)} arrays of the target's own parameters",
        bytes=size,
        agreement=agreement,
        certificates=certificates,
    )


def _certified(target: Graph, made: Graph, network: Network, effort: str, progress: Progress) -> list[Certificate]:
    """Bounds on the difference of the target and the network of the rounded weights, on every stored domain."""
    pair = pair_of(target, made)
    domains = [domain for domain in network.domains if domain is not None]
    found, done, total = [], 0, sum(domain.count for domain in domains)
    for index, domain in enumerate(domains):
        show = part_of(progress, "certify", done, total, ("nodes",))
        found.append(certify_enclosed(pair.graph, pair.errors_on(domain), domain, index, effort, show, pair.exact)[0])
        done += domain.count
    return found


def _narrow(weights: LayerWeights) -> LayerWeights:
    return weights._replace(positive=np.asarray(weights.positive, np.float32))


def _shapes(graph: Graph, nchw: bool) -> str:
    def shown(shape: tuple[int, ...]) -> str:
        sizes = (shape[-1:] + shape[:-1]) if nchw and len(shape) > 1 else shape
        return f"({', '.join(['batch', *map(str, sizes)])})"

    outputs = ", ".join(shown(graph.shapes[i]) for i in graph.outputs)
    return f"{shown(graph.input_shape)} -> {outputs}"
