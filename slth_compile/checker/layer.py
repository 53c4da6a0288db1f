"""A layer's masks and random numbers turned into its exact weight errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.copies import repeated, split, spread
from slth_compile.checker.decode import Mask, decode_mask
from slth_compile.checker.fold import Layer
from slth_compile.checker.manifest import Gadget, LayerPlan
from slth_compile.checker.matrices import Dyadic, Effective, PairLayer, enclose, enclose_split, spread_scale
from slth_compile.checker.rational import Triple
from slth_compile.checker.safetensors import Tensor
from slth_compile.checker.source import Source
from slth_compile.checker.threefry import BIAS_U, BIAS_V, KERNEL_U, KERNEL_V
from slth_compile.checker.weights import Part, contexts, effective_integers, kept_entries, weight_error
from slth_compile.errors import VerificationError

Masks = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Weights of the folded target, candidates kept, random parameters of first and second layers."""

    weights: int
    kept: int
    u: int
    v: int


def expected_masks(plans: tuple[LayerPlan, ...]) -> set[str]:
    """Names of the tensors that `masks.safetensors` must hold."""
    return {
        f"{i}.{part}"
        for i, plan in enumerate(plans)
        for part, there in (
            ("positive", True),
            ("negative", _has_two(plan)),
            ("bias", plan.bias is not None),
        )
        if there
    }


def pair_layer(
    index: int,
    layer: Layer,
    plan: LayerPlan,
    source: Source,
    masks: Masks,
    *,
    exact: bool = False,
    single: bool = False,
) -> tuple[PairLayer, Counts]:
    """The layer that masks and source amount to, every weight found within its tolerance.

    Args:
        index: The layer's number.
        layer: The folded target's layer.
        plan: Its gadgets.
        source: Where the random numbers come from.
        masks: Contents of `masks.safetensors`.
        exact: True keeps the effective weights beside their errors: for certificates by exact evaluation.
        single: Whether a weight may keep one candidate at most.

    Raises:
        VerificationError: A mask is malformed, names candidates that do not exist or keeps too many, or a tolerance is
            missed.
    """
    layer = repeated(layer, plan)
    kernel, scale = layer.canonical(layer.kernel), spread_scale(layer)
    shape, gadget, width = kernel.shape, plan.kernel, plan.kernel.width
    v = source.tensor(index, KERNEL_V, (width, *shape))
    inputs = shape[1] // layer.groups
    u = _ones if plan.direct else source.tensor(index, KERNEL_U, (width, shape[1], inputs))
    part = Part(f"{index}.positive", u, v, shape, width, gadget.window, 1, layer.groups)
    positive, mask, positive_weights = _errors(part, gadget, kernel, scale, masks, single)
    kept, negative, negative_weights = _kept(mask), None, None
    if _has_two(plan):
        other = dataclasses.replace(part, name=f"{index}.negative", sign=-1)
        negative, more, negative_weights = _errors(other, gadget, kernel, scale, masks, single)
        kept += _kept(more)
    in_u = 0 if plan.direct else width * shape[1] * inputs
    counts = [kernel.size // plan.copies, kept, in_u, width * kernel.size]
    bias_error, bias_weights, own = _bias_error(index, layer, plan, source, masks, single)
    total = Counts(*(a + b for a, b in zip(counts, own, strict=True)))
    if not plan.direct:
        effective = Effective(positive_weights, negative_weights, bias_weights) if exact else None
        return enclose(layer, positive, negative, bias_error, effective), total
    entries, exponent = kept_entries(part, mask), gadget.gain - 23
    chosen, others = split(entries)
    # What the others' sum lacks, with its sign turned; the sum in units of 2^(gain - 46).
    lacking = weight_error(others << 23, exponent - 23, kernel, scale)
    target = spread(entries, exponent, chosen, Interval(-lacking.upper, -lacking.lower), others_too=True)
    error = spread(entries, exponent, chosen, positive, others_too=False)
    return enclose_split(layer, target, error, bias_error, signed=plan.signed), total


def _bias_error(
    index: int, layer: Layer, plan: LayerPlan, source: Source, masks: Masks, single: bool
) -> tuple[Interval | None, Dyadic | None, list[int]]:
    """Errors of the bias, shape `(S,)`, the bias, and its counts."""
    if layer.bias is None or plan.bias is None:
        return None, None, [0, 0, 0, 0]
    shape, gadget = (1, 1, len(layer.bias.high)), plan.bias
    u = source.tensor(index, BIAS_U, (gadget.width, 1, 1))
    v = source.tensor(index, BIAS_V, (gadget.width, *shape))
    # The bias is a triple itself: ones, scaled by it.
    triple = Triple(*(field.reshape(shape) for field in layer.bias))
    part = Part(f"{index}.bias", u, v, shape, gadget.width, gadget.window, 1, 1)
    error, mask, weights = _errors(part, gadget, np.ones(shape), triple, masks, single)
    counts = [shape[2] // plan.copies, _kept(mask), gadget.width, gadget.width * shape[2]]
    flat = Dyadic(weights.integers.reshape(-1), weights.exponent)
    return Interval(error.lower.reshape(-1), error.upper.reshape(-1)), flat, counts


def _has_two(plan: LayerPlan) -> bool:
    """Whether each sign of an input meets weights of its own."""
    return plan.signed and not plan.direct


def _ones(addresses: np.ndarray) -> np.ndarray:
    """Entries of the U that a direct layer does without."""
    return np.full(addresses.shape, 1 << 23, np.int64)


def _kept(mask: Mask) -> int:
    return int(np.bitwise_count(mask.subsets).sum(dtype=np.int64))


def _errors(
    part: Part, gadget: Gadget, kernel: np.ndarray, scale: Triple | None, masks: Masks, single: bool
) -> tuple[Interval, Mask, Dyadic]:
    """Errors of all weights, of the kernel's canonical shape, their mask, and the weights."""
    name = part.name
    offered = gadget.width // gadget.window
    own_contexts = functools.partial(contexts, part)
    mask = decode_mask(masks[name], kernel.size, gadget.window, offered, own_contexts, name)
    if single and np.bitwise_count(mask.subsets).max(initial=0) > 1:
        raise VerificationError("construction", f"{name}: a weight keeps several candidates, malach's keep one at most")
    integers = effective_integers(part, mask)
    error = weight_error(integers, gadget.gain - 46, kernel, scale)
    largest = np.maximum(-error.lower, error.upper)
    if not np.isfinite(largest).all():
        raise VerificationError("weights", f"{name}: a weight is beyond the range of float64")
    worst = float(largest.max())
    if worst > gadget.tolerance:
        expected = f"its tolerance is {gadget.tolerance:.6g}"
        raise VerificationError("tolerance", f"{name}: a weight is off by {worst:.6g}, {expected}")
    return error, mask, Dyadic(integers, gadget.gain - 46)
