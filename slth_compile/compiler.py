"""The stages in order: model -> graph -> plan -> masks -> ticket -> certificates -> files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from slth_compile import checker, measure
from slth_compile.certificate.attack import attack as run_attack
from slth_compile.certificate.certificate import Certificate, certify_domain
from slth_compile.certificate.copies import exact_pair, ticket_pair
from slth_compile.certificate.engine import NORMAL, Branching, refuse_branching
from slth_compile.certificate.fixed_point.points import Exact
from slth_compile.compiled import Compiled
from slth_compile.domain import Domain
from slth_compile.errors import InputError, Note, UnreachableError
from slth_compile.graph.evaluate import ArrayLike, target_weights
from slth_compile.graph.graph import Graph, target_digest
from slth_compile.plan.budget import AUTO, TYPICAL
from slth_compile.plan.plan import Plan, plan, predict
from slth_compile.processes import by_first, is_first
from slth_compile.progress import Progress, part_of, share_of, silent
from slth_compile.report.summary import AttackRow, Measured
from slth_compile.request import (
    Domains,
    Request,
    calibration_inputs,
    checked_request,
    checked_source,
    refuse_construction,
    refuse_effort,
    refuse_objective,
    refuse_promise,
    refuse_seed,
)
from slth_compile.source.law import SourceLaw
from slth_compile.source.layout import CLOSEST, DA_CUNHA
from slth_compile.source.source import Generated, Source, Supplied
from slth_compile.source.supplied import called, fitted, numbers, supplied, with_copies
from slth_compile.subset_sum.compensation import LARGEST
from slth_compile.subset_sum.network import solve_network, without_feedback
from slth_compile.summarise import platform_text
from slth_compile.ticket.apply import effective_layers
from slth_compile.ticket.format import VERSION, domain_digest
from slth_compile.ticket.workspace import Workspace

Labelled = tuple[np.ndarray, np.ndarray]
ATTACK_STEPS, ATTACK_RESTARTS = 100, 4


def compile(
    target_model: Any,
    eps: float | str,
    delta: float = 1e-3,
    *,
    domain: Domains | None = None,
    seed: int = 0,
    source: Any = None,
    objective: str = CLOSEST,
    construction: str = DA_CUNHA,
    window: int | None = None,
    feedback: ArrayLike | None = None,
    effort: str = NORMAL,
    splits: int = 0,
    seconds: float | None = None,
    promise: str = AUTO,
    input_shape: tuple[int, ...] | None = None,
    batch_axis: int | None = 0,
    evaluate: Labelled | None = None,
    literal: bool = False,
    attack: bool = True,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Compiled:
    """A pruned random network within `eps` of a trained one, certified.

        sup over x in domain of max_i |target(x)_i - ticket(x)_i| <= certificate.bound <= eps

    Args:
        target_model: A bound linen module, an `nnx.Module`, any JAX callable, a `Graph` or the path of an `.onnx` file.
        eps: Allowed difference of any output, in output units; `"1e-4rel"` is relative to the largest |output| over the
            domain's points (or sampled inputs of a box).
        delta: Allowed probability, over seeds, that some weight misses its planned tolerance.
        domain: Where the statement holds, one or several; the box [0, 1] where the input shape is known otherwise.
        seed: Seed of the source, 0 <= seed < 2^64. Only this one is ever tried.
        source: Where the random numbers come from: None generates entries of 24 bits; a `SourceLaw` generates shorter
            ones, or signed constants for `U`; arrays by name (`source.supplied`), a `.safetensors` or `.npz` file of
            them, or a function `(layer, tensor, index) -> entries` supplies them. Nothing is stated about how likely a
            supplied source is to do: `delta` only shapes the plan.
        objective: Which subset within its tolerance every weight takes: `"closest"`; `"sparsest"`, which keeps fewest
            random weights; `"fewest-bits"`, whose masks code shortest.
        construction: Whose proof the network is built by: `"da-cunha"`; `"pensia"`, the same for networks of dense
            layers and 1x1 convolutions alone; `"malach"`, where a weight keeps the one product closest to it, out of
            thousands; `"burkholz"`, one random layer for each behind those that read the input, on several copies of
            every channel. Of that one the plan promises tolerances and no bound, and its random parameters grow with
            the square of the copies.
        window: Candidates solved together, for every weight; None leaves it to the plan, layer by layer.
        feedback: Calibration inputs `(samples, *input_shape)`, some hundred of the kind the ticket will see; None does
            without. Weights then take, instead of the closest subset, one that makes up for the errors of others on
            these inputs (`subset_sum.compensation`). They choose masks and nothing else: tolerances, widths, delta and
            what is certified stay what they are.
        effort: What bounds may cost: `"quick"` finds all by intervals; `"normal"` evaluates points of deep networks in
            fixed point, and bounds boxes and balls by backward passes where these take minutes at most, else with
            Euclidean norms; `"full"` by backward passes whatever they take.
        splits: Units, 0 to 12, that every bound over a box or balls is split at: it is then the largest of up to
            `2^splits` backward passes, one for each pattern of their signs. What they are is kept in the ticket, for
            the checker. Each one more takes twice the time; its bound is mostly closer, not always.
        seconds: Wall time for the bounds of each domain, XLA's compiling included: after plain passes, which are always
            done, 1, 2, 3, ... splits (up to `splits` where that is given) while the next number is expected to be done
            in time, and given up where it is not; the closest bound is kept, with its own splits. float32 bounds come
            on top.
        promise: Which errors within its tolerances the plan answers for before anything is drawn: `"all"`; `"typical"`,
            at points, those of independent problems, which cancel, with narrower layers and no promise; `"auto"`, all
            of them where any tolerances do that, as they do not in deep networks. Either way a certificate above eps
            is refused.
        input_shape: Per-sample input shape, where neither model nor domain tells it.
        batch_axis: Axis of the batch in the model's input; None for a model of single samples.
        evaluate: Labelled data `(x, y)` for accuracies.
        literal: Whether the literal pruned network is evaluated on it too; it costs `width` times the target.
        attack: Whether each bound is set beside what a projected-gradient attack finds.
        out: Where to save; finished layers are kept beside it while compiling. Of several processes
            (`jax.distributed`) all take part in solving and the first one writes.
        resume: Whether an interrupted run is continued.
        force: Whether an existing `out` is replaced.
        progress: Called as the stages advance.

    Returns:
        The ticket with its certificates; every certificate's bound is at most eps.

    Raises:
        UnreachableError: eps or delta is out of reach, or this seed missed a planned tolerance (an event of
            probability at most delta).
        InputError: An argument, weight or path that cannot be used.
        UnsupportedModelError: The model has parts that cannot be compiled; all of them are named.
    """
    workspace = None if out is None or not is_first() else Workspace(pathlib.Path(out))
    by_first(lambda: None if workspace is None else workspace.refuse_occupied(resume=resume, force=force))
    refuse_seed(seed)
    refuse_objective(objective)
    refuse_effort(effort)
    refuse_branching(splits, seconds, effort)
    refuse_promise(promise)
    given = checked_source(source, seed)
    refuse_construction(construction, objective, window, feedback, given, promise)
    clock = _Clock()
    with clock("plan"):
        asked = checked_request(target_model, eps, delta, domain, input_shape, batch_axis)
        graph, folded, domains = asked.graph, asked.folded, asked.domains
        if evaluate is not None:
            evaluate = measure.labelled(folded, evaluate)
        calibration = None if feedback is None else calibration_inputs(folded, feedback, objective)
        progress("plan", 0, 1)
        planned, drawn = _planned(asked, objective, construction, window, given, seed, promise)
        progress("plan", 1, 1)
        if calibration is not None and (large := without_feedback(folded, planned.layout)):
            warnings.warn(
                Note(f"feedback: {', '.join(large)} without it: no more than {LARGEST} features can have it"),
                stacklevel=2,
            )
    try:
        with clock("solve"):
            key = _key(graph, planned, drawn, domains, calibration)
            by_first(lambda: None if workspace is None else workspace.begin(key, resume=resume))
            problems = sum(layer.problems for layer in planned.layers)
            ticket = solve_network(folded, planned.layout, drawn, workspace, problems, progress, calibration)
        with clock("certify"):
            layers = effective_layers(folded, ticket)
            pair, errors = ticket_pair(folded, ticket, layers)
            exact = exact_pair(graph, folded, ticket, layers)
            branching = Branching(splits, seconds)
            certified = list(_certify(pair, errors, domains, effort, progress, exact, branching))
            certificates = tuple(certificate for certificate, _ in certified)
            _refuse_above(certificates, planned)
        none = _nothing_measured(domains)
        found = Compiled(graph, folded, planned, ticket, layers, pair, errors, domains, certificates, none)
        measured = _measure(found, evaluate, literal, attack, clock, progress)
        measured = dataclasses.replace(measured, bound_seconds=tuple(seconds for _, seconds in certified))
        found = dataclasses.replace(found, measured=measured)
        by_first(lambda: None if workspace is None else workspace.finish(found.files()))
    except OSError as error:
        if workspace is not None:
            workspace.discard()
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); nothing was left behind") from error
    except UnreachableError:
        if workspace is not None:
            workspace.discard()
        raise
    return found


def dry_run(
    target_model: Any,
    eps: float | str,
    delta: float = 1e-3,
    *,
    domain: Domains | None = None,
    source: Any = None,
    objective: str = CLOSEST,
    construction: str = DA_CUNHA,
    window: int | None = None,
    promise: str = AUTO,
    input_shape: tuple[int, ...] | None = None,
    batch_axis: int | None = 0,
) -> Plan:
    """What `compile` would draw and what it would cost; nothing is drawn. Arguments as for `compile`.

    A function that supplies the source is asked for its entries: the gains depend on how large they are.
    """
    refuse_objective(objective)
    refuse_promise(promise)
    given = checked_source(source, 0)
    refuse_construction(construction, objective, window, None, given, promise)
    asked = checked_request(target_model, eps, delta, domain, input_shape, batch_axis)
    return _planned(asked, objective, construction, window, given, 0, promise)[0]


def verify(directory: str | os.PathLike[str], **options: Any) -> checker.Verdict | checker.FoundVerdict:
    """The independent checker's verdict on a ticket directory; of a found ticket, that its mask is one of its source.

    Args:
        directory: What `save` or the command line wrote.
        options: `expected_id`, `domain_data`, `quick`; see `checker.verify`.

    Raises:
        VerificationError: Something is damaged, missing, unknown or false; names the check.
    """
    if not isinstance(directory, str | os.PathLike):
        raise InputError(f"verify takes a directory, not a {type(directory).__name__}; save the ticket first")
    # The checker works on one batch of samples a core; threads inside its products would only wait for each other.
    with threadpool_limits(1, "blas"):
        return checker.verify(directory, **options)


Offer = SourceLaw | Mapping[str, Any] | Callable[..., Any]


def _planned(
    asked: Request, objective: str, construction: str, window: int | None, given: Offer, seed: int, promise: str
) -> tuple[Plan, Source]:
    """The plan, and the source it is of."""
    law = given if isinstance(given, SourceLaw) else None
    # Before anything is planned: shapes are found wrong at once.
    arrays = fitted(asked.folded, given) if isinstance(given, Mapping) else {}
    about = asked.folded, asked.eps, asked.delta, asked.domains
    planned = plan(*about, objective, window, law, construction, promise)
    if isinstance(given, SourceLaw):
        return planned, Generated(seed, given)
    if callable(given):
        arrays = called(asked.folded, planned.layout, given)
    source = supplied({name: arrays[name] for name in sorted(arrays)})
    layout = with_copies(asked.folded, planned.layout, source)
    actual = predict(asked.folded, layout, planned.bound, planned.promise)
    return dataclasses.replace(actual, violated=planned.violated), source


def _certify(
    graph: Graph,
    errors: Any,
    domains: Sequence[Domain],
    effort: str,
    progress: Progress,
    exact: Exact | None,
    branching: Branching,
) -> Iterator[tuple[Certificate, float]]:
    """Every domain's certificate, and the seconds it took."""
    done, total = 0, sum(domain.count for domain in domains)
    for index, domain in enumerate(domains):
        progress("certify", done, total)
        start = time.perf_counter()
        show = part_of(progress, "certify", done, total, ("nodes", "split"))
        certificate = certify_domain(graph, errors, domain, index, effort, show, exact, branching)
        yield certificate, round(time.perf_counter() - start, 3)
        done += domain.count
    progress("certify", total, total)


def _measure(
    found: Compiled, data: Labelled | None, literal: bool, attack: bool, clock: _Clock, progress: Progress
) -> Measured:
    """Attacks and accuracies: what is seen, beside what is proved."""
    attacks: list[AttackRow | None] = [None] * len(found.domains)
    domains = [domain for domain in found.domains if domain is not None]
    with clock("attack"):
        for index, domain in enumerate(domains if attack else ()):
            show = share_of(progress, "attack", index, len(domains))
            show("attack", 0, 1)
            seen = run_attack(
                found.pair,
                target_weights(found.pair),
                found.weights,
                domain,
                steps=ATTACK_STEPS,
                restarts=ATTACK_RESTARTS,
                progress=show,
            )
            attacks[index] = AttackRow(value=seen.value, steps=seen.steps, restarts=seen.restarts, inputs=seen.inputs)
            show("attack", 1, 1)
    evaluation = None
    if data is not None:
        with clock("evaluate"):
            pruned = found.compact_network() if literal else None
            literal_form = None if pruned is None else jax.jit(lambda x: pruned(x))
            evaluation = measure.quality(found.folded, data, found, literal_form)
    return Measured(
        seconds=clock.seconds,
        attacks=tuple(attacks),
        largest_outputs=tuple(measure.largest_output(found.folded, domain) for domain in domains),
        evaluation=evaluation,
        platform=platform_text(),
    )


class _Clock:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def _nothing_measured(domains: Sequence[Domain]) -> Measured:
    none = (None,) * len(domains)
    return Measured(seconds={}, attacks=none, largest_outputs=(0.0,) * len(domains), evaluation=None, platform="")


def _key(
    graph: Graph, planned: Plan, source: Source, domains: Sequence[Domain], calibration: np.ndarray | None = None
) -> str:
    layout = dataclasses.asdict(planned.layout)
    parts = [VERSION, target_digest(graph), layout, source.seed, [domain_digest(d) for d in domains]]
    if isinstance(source, Supplied):
        parts.append({name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in numbers(source).items()})
    if calibration is not None:
        parts.append([list(calibration.shape), hashlib.sha256(calibration.tobytes()).hexdigest()])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _refuse_above(certificates: Sequence[Certificate], plan: Plan) -> None:
    eps = plan.layout.eps
    expected = " (a plan for typical errors promises nothing)" if plan.promise == TYPICAL else ""
    for certificate in certificates:
        if not certificate.bound <= eps:
            raise UnreachableError(
                f"domain {certificate.domain}: certified {certificate.bound:.4e}, above eps = {eps:.4e}, although "
                f"every tolerance is met{expected}; ask for a larger eps"
            )


__all__ = ["Compiled", "compile", "dry_run", "verify"]
