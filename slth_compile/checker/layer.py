"""A layer's masks and random numbers turned into its exact weight errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from slth_compile.checker.arithmetic import Interval
from slth_compile.checker.decode import decode_mask
from slth_compile.checker.fold import Layer
from slth_compile.checker.manifest import Gadget, LayerPlan
from slth_compile.checker.matrices import Dyadic, Effective, PairLayer, enclose, spread_scale
from slth_compile.checker.rational import Triple
from slth_compile.checker.safetensors import Tensor
from slth_compile.checker.source import Source
from slth_compile.checker.threefry import BIAS_U, BIAS_V, KERNEL_U, KERNEL_V
from slth_compile.checker.weights import Part, contexts, effective_integers, weight_error
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
        for part, there in (("positive", True), ("negative", plan.signed), ("bias", plan.bias is not None))
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
    kernel, scale = layer.canonical(layer.kernel), spread_scale(layer)
    shape, gadget = kernel.shape, plan.kernel
    u = source.tensor(index, KERNEL_U, (gadget.width, shape[1], shape[1] // layer.groups))
    v = source.tensor(index, KERNEL_V, (gadget.width, *shape))
    part = Part(f"{index}.positive", u, v, shape, gadget.width, gadget.window, 1, layer.groups)
    positive, kept, positive_weights = _errors(part, gadget, kernel, scale, masks, single)
    negative = bias_error = negative_weights = bias_weights = None
    if plan.signed:
        part = dataclasses.replace(part, name=f"{index}.negative", sign=-1)
        negative, more, negative_weights = _errors(part, gadget, kernel, scale, masks, single)
        kept += more
    width, channels = plan.kernel.width, kernel.shape[1]
    counts = [kernel.size, kept, width * channels * channels // layer.groups, width * kernel.size]
    if layer.bias is not None and plan.bias is not None:
        shape, gadget = (1, 1, len(layer.bias.high)), plan.bias
        u = source.tensor(index, BIAS_U, (gadget.width, 1, 1))
        v = source.tensor(index, BIAS_V, (gadget.width, *shape))
        # The bias is a triple itself: ones, scaled by it.
        triple = Triple(*(field.reshape(shape) for field in layer.bias))
        part = Part(f"{index}.bias", u, v, shape, gadget.width, gadget.window, 1, 1)
        error, more, found = _errors(part, gadget, np.ones(shape), triple, masks, single)
        bias_error = Interval(error.lower.reshape(-1), error.upper.reshape(-1))
        bias_weights = Dyadic(found.integers.reshape(-1), found.exponent)
        own = (shape[2], more, plan.bias.width, plan.bias.width * shape[2])
        counts = [a + b for a, b in zip(counts, own, strict=True)]
    effective = Effective(positive_weights, negative_weights, bias_weights) if exact else None
    return enclose(layer, positive, negative, bias_error, effective), Counts(*counts)


def _errors(
    part: Part, gadget: Gadget, kernel: np.ndarray, scale: Triple | None, masks: Masks, single: bool
) -> tuple[Interval, int, Dyadic]:
    """Errors of all weights, of the kernel's canonical shape, the number of candidates kept, and the weights."""
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
    kept = int(np.bitwise_count(mask.subsets).sum(dtype=np.int64))
    return error, kept, Dyadic(integers, gadget.gain - 46)
