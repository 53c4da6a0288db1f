"""certify(): how far two networks of one graph can be apart, from what is proved to what samples say."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slth_compile import measure
from slth_compile.certificate import engine
from slth_compile.certificate.attack import attack as run_attack
from slth_compile.certificate.certificate import certify_enclosed
from slth_compile.certificate.execution import FLOAT64, evaluated
from slth_compile.certificate.margins import top1_by_margins
from slth_compile.certificate.pair import Pair, pair_of, pair_with_ticket
from slth_compile.certificate.statistical import CONFIDENCE, exceedance
from slth_compile.certificate.top1 import Top1, is_list, top1
from slth_compile.certificate.weight_errors import largest_error
from slth_compile.compiled import Compiled
from slth_compile.domain import Box, Domain, Points
from slth_compile.errors import InputError, UnsupportedModelError
from slth_compile.found import Found
from slth_compile.frontends.model import import_model, is_onnx
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import LayerWeights, evaluate
from slth_compile.graph.graph import Graph
from slth_compile.graph.nodes import Weighted
from slth_compile.progress import Progress, part_of, silent
from slth_compile.report.comparison import Comparison, LayerChange, Rung, Statistical
from slth_compile.request import Domains, domains_of, refuse_effort, shape_of
from slth_compile.stored import load
from slth_compile.summarise import describe, platform_text

ATTACK_STEPS, ATTACK_RESTARTS = 100, 4
_BATCH = 256

Data = np.ndarray | tuple[np.ndarray, np.ndarray]


def certify(
    f: Any,
    g: Any,
    domain: Domains | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    batch_axis: int | None = 0,
    effort: str = engine.NORMAL,
    splits: int = 0,
    seconds: float | None = None,
    attack: bool = True,
    data: Data | None = None,
    names: tuple[str, str] = ("f", "g"),
    progress: Progress = silent,
) -> Comparison:
    """How far two networks of one graph can be apart, certified.

        sup over x in domain of |f(x)_i - g(x)_i| <= rungs[k].per_output_i <= rungs[k].bound

    They have the same nodes, shapes and attributes, and weights of different values: pruned, quantised, rounded,
    trained on; or one of them is a ticket. Batch norms are folded first, so either may have them folded already.

    Args:
        f: The first network: a bound linen module, an `nnx.Module`, any JAX callable, a `Graph`, the path of
            an `.onnx` file, a `Compiled` ticket or the path of a ticket directory.
        g: The second one, likewise; at most one of them is a ticket.
        domain: Where the statement holds, one or several; the box [0, 1] where it is left out.
        input_shape: Per-sample input shape, where neither networks nor domains tell it.
        batch_axis: Axis of the batch in the models' input; None for models of single samples.
        effort: What bounds may cost: `"quick"` finds all by intervals; `"normal"` evaluates points of deep networks in
            fixed point, and bounds boxes and balls by backward passes where these take minutes at most, else with
            Euclidean norms; `"full"` by backward passes whatever they take.
        splits: Units, 0 to 12, that every bound over a box or balls is split at: it is then the largest of up to
            `2^splits` backward passes, one for each pattern of their signs. Each one more takes twice the time; its
            bound is mostly closer, not always.
        seconds: Wall time for the bounds of each domain, XLA's compiling included: after plain passes, which are always
            done, 1, 2, 3, ... splits (up to `splits` where that is given) while the next number is expected to be done
            in time, and given up where it is not; the closest bound is kept, with its own splits. float32 bounds and
            proofs of predictions come on top.
        attack: Whether each bound is set beside what a projected-gradient attack finds.
        data: Held-out inputs `x`, or `(x, y)` with labels, that had no part in making or choosing either network, for
            the statistical statement.
        names: What the statements call the networks. A ticket is always the second one of the comparison.
        progress: Called as the stages advance.

    Returns:
        One certified statement a domain, what is proved about predictions, and what the held-out inputs say.

    Raises:
        UnsupportedModelError: A model that has no graph here, or two that are not of one graph; names the first node
            that differs.
        InputError: An argument that cannot be used.
        VerificationError: A ticket directory that is damaged.
    """
    refuse_effort(effort)
    engine.refuse_branching(splits, seconds, effort)
    domains = domains_of(domain) or (Box(0.0, 1.0),)
    shape = input_shape or shape_of(domains)
    sides = [_opened(side, shape) for side in (f, g)]
    known = next((_graph_of(side).input_shape for side in sides if isinstance(side, Compiled | Graph)), None)
    shape = shape or known
    if isinstance(sides[0], Compiled) and not isinstance(sides[1], Compiled):
        # The engine's second network may have weights for each sign; the difference is the same up to its own.
        sides, names = sides[::-1], (names[1], names[0])
    pair = _pair(sides, shape, batch_axis)
    domains = tuple(d.with_shape(pair.graph.input_shape) for d in domains)
    errors = [pair.errors_on(domain) for domain in domains]
    held_out = None if data is None else _held_out(pair.graph, data)
    rungs, done, total = [], 0, sum(d.count for d in domains)
    for index, d in enumerate(domains):
        progress("certify", done, total)
        show = part_of(progress, "certify", done, total, ("nodes", "split", "predict", "attack"))
        rungs.append(_rung(pair, errors[index], d, effort, engine.Branching(splits, seconds), attack, show))
        done += d.count
    progress("certify", total, total)
    return Comparison(
        first=names[0],
        second=names[1],
        layers=_changes(pair),
        rungs=tuple(rungs),
        statistical=None if held_out is None else _statistical(pair, *held_out),
        platform=platform_text(),
    )


def _opened(side: Any, shape: tuple[int, ...] | None) -> Any:
    """The side, a path as the graph or ticket it leads to."""
    if is_onnx(side):
        return import_model(side, shape)
    if isinstance(side, str | os.PathLike):
        side = load(side)
    # What was found is a network as any other.
    return side.graph if isinstance(side, Found) else side


def _graph_of(side: Compiled | Graph) -> Graph:
    return side.graph if isinstance(side, Compiled) else side


def _pair(sides: Sequence[Any], shape: tuple[int, ...] | None, batch_axis: int | None) -> Pair:
    """The networks, folded; a ticket comes second."""
    tickets = [side for side in sides if isinstance(side, Compiled)]
    models = [
        check(import_model(side, shape, batch_axis=batch_axis)) for side in sides if not isinstance(side, Compiled)
    ]
    if len(tickets) == 2:
        raise UnsupportedModelError("both networks are tickets; certify each of them against its target")
    if not tickets:
        return pair_of(*models)
    return pair_with_ticket(models[0], tickets[0].folded, tickets[0].ticket, tickets[0].layers)


def _rung(
    pair: Pair,
    errors: Any,
    domain: Domain,
    effort: str,
    branching: engine.Branching,
    attack: bool,
    progress: Progress,
) -> Rung:
    start = time.perf_counter()
    found, enclosed = certify_enclosed(pair.graph, errors, domain, 0, effort, progress, pair.exact, branching)
    predictions = None
    if not isinstance(domain, Box):
        predictions = _top1(pair, errors, domain, enclosed, found.splits or 0, progress)
    seconds = time.perf_counter() - start
    seen = None
    if attack:
        tried = {"steps": ATTACK_STEPS, "restarts": ATTACK_RESTARTS}
        seen = run_attack(pair.graph, pair.weights, pair.other, domain, **tried, progress=progress)
    return Rung(
        domain=describe(domain, domain.kind),
        kind=domain.kind,
        method=found.method,
        splits=found.splits,
        arithmetic=found.arithmetic,
        float32=found.float32,
        bound=found.bound,
        lower=found.lower,
        per_output=found.per_output,
        seconds=round(seconds, 3),
        attack=seen,
        output_range=measure.output_range(pair.graph, domain),
        top1=predictions,
    )


def _top1(
    pair: Pair, errors: Any, domain: Domain, enclosed: engine.Enclosed, splits: int, progress: Progress
) -> Top1 | None:
    """What is proved about predictions; of balls by margins as well where backward passes bounded them."""
    leaf = enclosed.leaves[0]
    if not is_list(leaf) or enclosed.method not in (engine.BACKWARD, engine.BRANCHED):
        return top1(leaf)
    with np.errstate(all="ignore"):
        both = evaluated(pair.graph, errors, FLOAT64) or (pair.graph, errors)
    lower, upper = domain.regions()
    classes = _classes(pair.graph, pair.weights, Points(0.5 * lower + 0.5 * upper))

    def show(stage: str, done: int, total: int) -> None:
        progress(stage if stage == "nodes" else "predict", done, total)

    return top1_by_margins(*both, (lower, upper), leaf, classes, splits=splits, progress=show)


def _changes(pair: Pair) -> tuple[LayerChange, ...]:
    found = []
    for number, i in enumerate(pair.graph.layers):
        node, other, errors = pair.graph.nodes[i], pair.other[i], pair.errors[i]
        assert isinstance(node, Weighted)
        kernels = [np.asarray(k) for k in (other.positive, other.negative) if k is not None]
        changed = np.any([kernel != node.kernel for kernel in kernels], axis=0).sum()
        largest, weights = largest_error(errors), np.abs(node.kernel).max()
        if node.bias is not None:
            bias = np.zeros_like(node.bias) if other.bias is None else np.asarray(other.bias)
            changed, weights = changed + np.sum(bias != node.bias), max(weights, np.abs(node.bias).max())
            moved = 0.0 if errors.bias_center is None else np.abs(errors.bias_center)
            radius = 0.0 if errors.bias_radius is None else errors.bias_radius
            largest = max(largest, float(np.max(moved + radius)) * (1 + 2.0**-52))
        found.append(
            LayerChange(
                name=node.name or f"layer {number}",
                weights=node.kernel.size + (0 if node.bias is None else node.bias.size),
                changed=int(changed),
                largest_change=largest,
                largest_weight=float(weights),
            )
        )
    return tuple(found)


def _held_out(graph: Graph, data: Data) -> tuple[Points, np.ndarray | None]:
    """Held-out inputs, and their labels where there are any."""
    x, y = data if isinstance(data, tuple | list) else (data, None)
    points = Points(x).with_shape(graph.input_shape)
    if y is None:
        return points, None
    y = np.asarray(y)
    if y.shape != (len(points.x),) or y.dtype.kind not in "iu" or len(graph.shapes[graph.outputs[0]]) != 1:
        raise InputError(
            f"data: labels are {y.dtype} {y.shape} for {len(points.x)} inputs; expected one integer a sample, and a "
            "network whose first output is a list of classes"
        )
    return points, y


def _statistical(pair: Pair, points: Points, labels: np.ndarray | None) -> Statistical:
    seen = run_attack(pair.graph, pair.weights, pair.other, points)
    agreeing, accuracies = None, None
    shape = pair.graph.shapes[pair.graph.outputs[0]]
    if len(shape) == 1 and shape[0] > 1:
        one, two = (_classes(pair.graph, weights, points) for weights in (pair.weights, pair.other))
        agreeing = int(np.sum(one == two))
        if labels is not None:
            accuracies = float(np.mean(one == labels)), float(np.mean(two == labels))
    return Statistical(
        samples=len(points.x),
        largest=seen.value,
        confidence=CONFIDENCE,
        exceedance=exceedance(len(points.x)),
        agreeing=agreeing,
        accuracies=accuracies,
    )


def _classes(graph: Graph, weights: dict[int, LayerWeights] | Any, points: Points) -> np.ndarray:
    """The class of the largest first output, in float64."""
    x, _ = points.regions()
    with jax.enable_x64(True):
        program = jax.jit(lambda rows: jnp.argmax(evaluate(graph, rows, weights)[0], axis=1))
        return np.concatenate([np.asarray(program(x[i : i + _BATCH])) for i in range(0, len(x), _BATCH)])
