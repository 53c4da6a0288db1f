"""Products of two activations, as in attention: of matrices, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slth_compile.frontends.draft import BATCH, UNIT, Activation, Draft
from slth_compile.graph import nodes as n

Axes = Sequence[int]


def matrix_product(
    draft: Draft, operands: Sequence[Activation], contracted: tuple[Axes, Axes], paired: tuple[Axes, Axes]
) -> Activation:
    """A `dot_general` of two activations: a product of matrices for every place along the paired axes.

    Args:
        draft: Where it goes.
        operands: Both operands; where they have a batch axis, the two must be paired.
        contracted: Axes of either one that are summed over.
        paired: Axes of either one that go along.

    Returns:
        An array with the paired axes, the rest of the first one's and the rest of the second one's.
    """
    x, y = operands
    (summed, other_summed), (batched, other_batched) = contracted, paired
    places = [(x.layout[a], y.layout[b]) for a, b in zip(batched, other_batched, strict=True)]
    shared = [axis for axis in batched if x.layout[axis] != BATCH]
    rows = [axis for axis in range(len(x.layout)) if axis not in (*batched, *summed)]
    columns = [axis for axis in range(len(y.layout)) if axis not in (*other_batched, *other_summed)]
    shape, other_shape = draft.shape(x), draft.shape(y)
    apart = any((a == BATCH) != (b == BATCH) for a, b in places)
    if apart or any((BATCH in v.layout) != ((BATCH, BATCH) in places) for v in operands):
        whole = (*(shape[a] for a in batched), *(shape[a] for a in rows), *(other_shape[a] for a in columns))
        return draft.unknown("dot_general", operands, whole, "a product of two activations of different samples")
    front, sides = [shape[a] for a in shared], ([shape[a] for a in rows], [other_shape[a] for a in columns])
    terms = math.prod(shape[a] for a in summed)
    left = draft.arrange(x, [*shared, *rows, *summed])
    left = draft.add(n.Reshape(inputs=(left,), shape=(*front, math.prod(sides[0]), terms)))
    other_shared = [axis for axis in other_batched if y.layout[axis] != BATCH]
    right = draft.arrange(y, [*other_shared, *other_summed, *columns])
    right = draft.add(n.Reshape(inputs=(right,), shape=(*front, terms, math.prod(sides[1]))))
    product = draft.add(n.MatrixProduct(inputs=(left, right)))
    sizes = [*(BATCH if x.layout[axis] == BATCH else shape[axis] for axis in batched), *sides[0], *sides[1]]
    # axes of size one need no place
    kept = [size for size in sizes if size not in (1, BATCH)]
    entry, numbers = draft.add(n.Reshape(inputs=(product,), shape=tuple(kept))), iter(range(len(kept)))
    return Activation(entry, tuple({1: UNIT, BATCH: BATCH}.get(size) or next(numbers) for size in sizes))
