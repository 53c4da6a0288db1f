"""Stride, dilation and padding of convolutions and pools, whichever way the file says them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from slth_compile.errors import InputError
from slth_compile.frontends.onnx.operation import Operation
from slth_compile.graph.nodes import Pairs


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes.

    Attributes:
        taps: Size of a window.
        stride: Distance between windows.
        dilation: Distance between taps.
        padding: Declared or derived padding, (low, high); it may be negative.
        overhang: What a last window, rounded up (ceil_mode), reaches beyond the padding.
    """

    taps: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs
    overhang: tuple[int, ...]


def windows_of(op: Operation, sizes: Sequence[int], taps: Sequence[int]) -> Windows:
    """The windows of an operator.

    Args:
        op: A convolution or pool.
        sizes: Sizes of the spatial axes.
        taps: Sizes of the window.

    Raises:
        InputError: Attributes of the wrong length, not positive, or an unknown `auto_pad`.
    """
    rank = len(sizes)
    stride = positive(op, "strides", rank)
    dilation = positive(op, "dilations", rank)
    spans = [(tap - 1) * step + 1 for tap, step in zip(taps, dilation, strict=True)]
    axes = list(zip(sizes, spans, stride, strict=True))
    mode = op.text("auto_pad", "NOTSET")
    declared = op.integers("pads")
    match mode:
        case "NOTSET":
            flat = declared or (0,) * (2 * rank)
            if len(flat) != 2 * rank:
                raise InputError(f"{op}: pads={flat}; expected {2 * rank} numbers")
            padding = tuple(zip(flat[:rank], flat[rank:], strict=True))
        case "VALID":
            padding = ((0, 0),) * rank
        case "SAME_UPPER" | "SAME_LOWER":
            totals = [max((-(-size // step) - 1) * step + span - size, 0) for size, span, step in axes]
            halves = [(total // 2, total - total // 2) for total in totals]
            padding = tuple((a, b) if mode == "SAME_UPPER" else (b, a) for a, b in halves)
        case _:
            raise InputError(f"{op}: auto_pad={mode}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    overhang = (0,) * rank
    if op.flag("ceil_mode"):
        overhang = tuple(_overhang(*axis, *pair) for axis, pair in zip(axes, padding, strict=True))
    return Windows(tuple(taps), stride, dilation, padding, overhang)


def _overhang(size: int, span: int, stride: int, low: int, high: int) -> int:
    """What the last window lacks where their number is rounded up; it must start before the high padding."""
    count = -(-(size + low + high - span) // stride) + 1
    if (count - 1) * stride >= size + low:
        count -= 1
    return max((count - 1) * stride + span - (size + low + high), 0)


def positive(op: Operation, name: str, rank: int) -> tuple[int, ...]:
    """An attribute of one positive number for each of `rank` axes, 1 where it is left out."""
    found = op.integers(name) or (1,) * rank
    if len(found) != rank or min(found) < 1:
        raise InputError(f"{op}: {name}={found}; expected {rank} positive numbers")
    return found
