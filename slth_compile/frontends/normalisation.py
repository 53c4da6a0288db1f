"""Matchers for what follows a layer channel by channel: batch norm, bias, scale and shift."""

from __future__ import annotations

import numpy as np

from slth_compile.frontends.channels import affine_fields, by_channel, factors, spread, variance_and_epsilon
from slth_compile.frontends.constants import Constant
from slth_compile.frontends.draft import Elementwise
from slth_compile.frontends.patterns import Match, View
from slth_compile.graph import nodes as n


def batch_norm(view: View, i: int) -> Match | None:
    """`(x - mean) * scale / sqrt(variance + epsilon) + bias` with its raw statistics, scale and bias optional."""
    bias, place = None, i
    if (node := view.elementwise(place, "add")) is not None:
        bias, place = node, node.inputs[0]
    terms: list[tuple[Constant, bool]] = []
    steps = [bias] if bias else []
    while (node := view.elementwise(place, "mul", "div")) is not None:
        if place != i and view.consumers[place] != 1:
            return None
        terms += factors(node.constant, node.operation == "div")
        steps.append(node)
        place = node.inputs[0]
    centred = view.elementwise(place, "sub")
    if not terms or centred is None or view.consumers[place] != 1:
        return None
    found = [variance_and_epsilon(*term) for term in terms]
    scales = [term for term, root in zip(terms, found, strict=True) if root is None]
    roots = [root for root in found if root is not None]
    if len(roots) != 1 or len(scales) > 1 or any(inverted for _, inverted in scales):
        return None
    steps.append(centred)
    shape = view.entries[i].shape
    if not shape or any(not _on_last_axis(step, shape) for step in steps):
        return None
    (variance, epsilon), scale = roots[0], scales[0][0] if scales else None
    fields = {"mean": centred.constant, "variance": variance, "scale": scale, "bias": bias.constant if bias else None}
    arrays = {name: spread(constant, shape[-1]) for name, constant in fields.items() if constant is not None}
    if any(array is None for array in arrays.values()):
        return None
    leaves = frozenset().union(*(step.constant.leaves for step in steps))
    named = next((p for p in sorted(variance.leaves) if not p.startswith("<")), "").rpartition("/")[0]
    name = named.removeprefix("batch_stats/")
    return Match(n.BatchNorm(inputs=centred.inputs, name=name, epsilon=epsilon, **arrays), leaves)  # type: ignore[arg-type]


def bias(view: View, i: int) -> Match | None:
    """A constant added to a layer that has no bias and no other consumer: the layer with that bias."""
    node = view.elementwise(i, "add", "sub")
    before = view.node(node.inputs[0]) if node else None
    if node is None or not isinstance(before, n.Convolution | n.Dense) or view.consumers[node.inputs[0]] != 1:
        return None
    value = by_channel(node)
    if before.bias is not None or value is None:
        return None
    value = np.broadcast_to(-value if node.operation == "sub" else value, before.kernel.shape[-1:])
    fields = {"inputs": before.inputs, "name": before.name, "kernel": before.kernel, "bias": value}
    leaves = node.constant.leaves | view.entries[node.inputs[0]].leaves
    if isinstance(before, n.Dense):
        return Match(n.Dense(**fields), leaves)
    rest = {"stride": before.stride, "padding": before.padding, "dilation": before.dilation, "groups": before.groups}
    return Match(n.Convolution(**fields, **rest), leaves)  # type: ignore[arg-type]


def scale_and_shift(view: View, i: int) -> Match | None:
    """`x * scale + shift` in one node."""
    outer = view.elementwise(i, "add", "sub")
    inner = view.elementwise(outer.inputs[0], "mul", "div") if outer else None
    if outer is None or inner is None or view.consumers[outer.inputs[0]] != 1 or not view.entries[i].shape:
        return None
    shift, scale = by_channel(outer), by_channel(inner)
    if shift is None or scale is None:
        return None
    leaves = outer.constant.leaves | inner.constant.leaves
    fields = {**affine_fields(inner.operation, scale), **affine_fields(outer.operation, shift)}
    return Match(n.Affine(inputs=inner.inputs, trained=bool(leaves), **fields), leaves)


def _on_last_axis(node: Elementwise, shape: tuple[int, ...]) -> bool:
    """Whether the constant varies along the entry's last axis only; computed only where its shape leaves doubt."""
    sizes = zip(node.constant.shape, node.layout, strict=False)
    if all(size == 1 or place == len(shape) - 1 for size, place in sizes):
        return True
    return by_channel(node) is not None
