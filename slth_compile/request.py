"""What a compile is asked for, checked: the target as a graph, the domains with shapes, eps in output units."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from slth_compile import measure
from slth_compile.certificate.engine import EFFORTS
from slth_compile.domain import Box, Domain, order_hint, require_domain
from slth_compile.errors import InputError, suggestion
from slth_compile.frontends.model import import_model
from slth_compile.graph.check import check
from slth_compile.graph.evaluate import ArrayLike
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.plan.budget import ALL, PROMISES
from slth_compile.source.law import FEWEST_BITS, MOST_BITS, STANDARD, SourceLaw
from slth_compile.source.layout import BURKHOLZ, CLOSEST, CONSTRUCTIONS, DA_CUNHA, MALACH, OBJECTIVES
from slth_compile.source.supplied import read_source

Domains = Domain | Sequence[Domain]


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A checked request.

    Attributes:
        graph: The target as given.
        folded: The target without batch norms.
        domains: Where the statement is to hold, with the input's shape.
        eps: Allowed difference, output units.
        delta: Allowed failure probability over seeds.
    """

    graph: Graph
    folded: Graph
    domains: tuple[Domain, ...]
    eps: float
    delta: float


def checked_request(
    target_model: Any,
    eps: float | str,
    delta: float,
    domain: Domains | None,
    input_shape: tuple[int, ...] | None,
    batch_axis: int | None,
) -> Request:
    """The request of `compiler.compile`'s arguments of the same names.

    Raises:
        InputError: An argument that cannot be used; one sentence.
        UnsupportedModelError: The model cannot be compiled; everything that stands against it.
    """
    value, relative = _parse_eps(eps)
    if not isinstance(delta, float | int) or not 0 < delta < 1:
        raise InputError(f"delta is {delta!r}; expected a probability between 0 and 1")
    domains = domains_of(domain)
    graph = check(import_model(target_model, input_shape or shape_of(domains), batch_axis=batch_axis))
    folded = fold(graph)
    domains = tuple(d.with_shape(graph.input_shape) for d in domains or (Box(0.0, 1.0),))
    if relative:
        value *= min(measure.largest_output(folded, d, 10_000) for d in domains)
        if not value > 0:
            raise InputError("eps is relative, but the target's output is zero on the domain; give it in output units")
    return Request(graph, folded, domains, value, delta)


def refuse_seed(seed: int) -> None:
    """Nothing, for an unsigned 64-bit seed.

    Raises:
        InputError: Anything else.
    """
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; expected an integer from 0 to 2^64 - 1")


def refuse_objective(objective: str) -> None:
    """Nothing, for one of `source.layout.OBJECTIVES`.

    Raises:
        InputError: Anything else.
    """
    if objective not in OBJECTIVES:
        raise InputError(
            f"objective is {objective!r}; expected {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}"
            f"{suggestion(str(objective), OBJECTIVES)}"
        )


def refuse_construction(
    construction: str, objective: str, window: int | None, feedback: ArrayLike | None, source: object, promise: str
) -> None:
    """Nothing, for one of `source.layout.CONSTRUCTIONS` and what goes with it.

    Raises:
        InputError: Another name, an argument about subsets where every weight keeps one product, or one about what a
            construction on copies of channels does not have.
    """
    if construction not in CONSTRUCTIONS:
        raise InputError(
            f"construction is {construction!r}; expected {', '.join(CONSTRUCTIONS[:-1])} or {CONSTRUCTIONS[-1]}"
            f"{suggestion(str(construction), CONSTRUCTIONS)}"
        )
    others = {
        "feedback": feedback is not None,
        "a supplied source": not isinstance(source, SourceLaw),
        "a promise for all errors": promise == ALL,
    }
    if construction == BURKHOLZ and any(others.values()):
        what = next(name for name, is_given in others.items() if is_given)
        raise InputError(f"construction {BURKHOLZ} does not go with {what}; leave it out, or take {DA_CUNHA}")
    if construction != MALACH:
        return
    given = {"objective": objective != CLOSEST, "window": window is not None, "feedback": feedback is not None}
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise InputError(
            f"construction {MALACH}: every weight keeps the product closest to it, so {' and '.join(wrong)} cannot be "
            "chosen; leave it out"
        )


def checked_source(source: Any, seed: int) -> SourceLaw | Mapping[str, Any] | Callable[..., Any]:
    """What `compiler.compile` takes as a source: a law, arrays by name (read where a path is given) or a function.

    Raises:
        InputError: Something else, a law that there is not, an unreadable file, or a seed for numbers that are given.
    """
    if source is None:
        return STANDARD
    if isinstance(source, SourceLaw):
        if not isinstance(source.bits, int) or not FEWEST_BITS <= source.bits <= MOST_BITS:
            raise InputError(f"source: {source.bits} bits an entry; expected {FEWEST_BITS} to {MOST_BITS}")
        return source
    if seed != 0:
        raise InputError("seed has no meaning for a supplied source; leave it out")
    if isinstance(source, str | os.PathLike):
        return read_source(source)
    if isinstance(source, Mapping) or callable(source):
        return source
    raise InputError(
        f"source is a {type(source).__name__}; expected a SourceLaw, arrays by name, a function of layer, tensor and "
        "index, or a .safetensors or .npz file"
    )


def refuse_effort(effort: str) -> None:
    """Nothing, for one of `certificate.engine.EFFORTS`.

    Raises:
        InputError: Anything else.
    """
    if effort not in EFFORTS:
        raise InputError(
            f"effort is {effort!r}; expected {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}"
            f"{suggestion(str(effort), EFFORTS)}"
        )


def refuse_promise(promise: str) -> None:
    """Nothing, for one of `plan.budget.PROMISES`.

    Raises:
        InputError: Anything else.
    """
    if promise not in PROMISES:
        raise InputError(
            f"promise is {promise!r}; expected {', '.join(PROMISES[:-1])} or {PROMISES[-1]}"
            f"{suggestion(str(promise), PROMISES)}"
        )


def calibration_inputs(graph: Graph, feedback: ArrayLike, objective: str) -> np.ndarray:
    """Calibration inputs in float32, found to fit a network.

    Args:
        graph: The folded target.
        feedback: What was given, `(samples, *input_shape)`.
        objective: One of `OBJECTIVES`.

    Raises:
        InputError: No numbers, another shape, none at all, NaN or infinity, or an objective that has its own subsets.
    """
    if objective != CLOSEST:
        raise InputError(f"feedback goes with the objective {CLOSEST}, not {objective}; leave one of them out")
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 is refused
            x = np.ascontiguousarray(feedback, np.float32)
    except (TypeError, ValueError):
        raise InputError("feedback: the calibration inputs are not numbers") from None
    if x.shape[1:] != graph.input_shape or len(x) == 0:
        raise InputError(
            f"feedback: calibration inputs have shape {x.shape}; expected (samples, {str(graph.input_shape)[1:]}, at "
            f"least one sample{order_hint(x.shape[1:], graph.input_shape)}"
        )
    if not np.isfinite(x).all():
        raise InputError("feedback: the calibration inputs hold NaN or infinity; remove those samples")
    return x


def _parse_eps(eps: float | str) -> tuple[float, bool]:
    relative = isinstance(eps, str) and eps.endswith("rel")
    try:
        value = float(eps[:-3] if relative and isinstance(eps, str) else eps)
    except (TypeError, ValueError):
        raise InputError(f"eps is '{eps}'; expected a number such as 1e-2, or 1e-4rel") from None
    if not 0 < value < np.inf:
        raise InputError(f"eps is {eps}; expected a positive number")
    return value, relative


def domains_of(domain: Domains | None) -> tuple[Domain, ...]:
    """The domains asked for, none where `domain` is None.

    Raises:
        InputError: Something that is no domain, or an empty list.
    """
    if domain is None:
        return ()
    domains = tuple(domain) if isinstance(domain, list | tuple) else (domain,)
    if not domains:
        raise InputError("domain: an empty list; give at least one, or leave it out for the box [0, 1]")
    return tuple(require_domain(d) for d in domains)


def shape_of(domains: Sequence[Domain]) -> tuple[int, ...] | None:
    """The input shape that the first domain with one tells."""
    for domain in domains:
        if isinstance(domain, Box):
            bounds = [np.shape(domain.lower), np.shape(domain.upper)]
            shape = domain.shape or next((s for s in bounds if s), None)
        else:
            shape = domain.x.shape[1:]
        if shape is not None:
            return shape
    return None
