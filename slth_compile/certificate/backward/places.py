"""Where the rows of a pass are: their samples, and which window of a node they see.

A row that starts at one position of a convolutional network sees a few more positions of every layer before. Rows
that start close together share a window: all of one shape, each chunk's at a corner of its own (`windows`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_NONE = np.int32(0)

Margins = tuple[tuple[int, int], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Into:
    """The window of an operand that rows go on to.

    Attributes:
        corner: Its first position along every spatial axis.
        offset: Where in it, with as much padding in front as a convolution's transposed map needs, the first
            coefficient of the window before comes to lie, along every spatial axis.
        sizes: Its spatial shape.
        margins: How far coefficients, all of them zero there, may stick out of it on either side.
    """

    corner: Any
    offset: Any
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    margins: Margins = dataclasses.field(metadata={"static": True})


class At(NamedTuple):
    """Where the rows of a pass are.

    Attributes:
        sample: Every row's sample, `(rows,)`.
        corner: Where the window of the form's node begins; None for the whole node.
        into: The window of its operand where the step to it moves positions; None for the whole operand.
    """

    sample: Any
    corner: Any = None
    into: Into | None = None

    @property
    def there(self) -> At:
        """Where the rows are once they have got to the operand."""
        return self if self.into is None else At(self.sample, self.into.corner)


def spread(array: Any, at: At, like: Any = None) -> Any:
    """One column a row of the pass: of the row's own sample, or of the only one; of what the rows see.

    Args:
        array: Of a node's shape, channels in front and samples at the end, or of shape `(samples,)`.
        at: Where the rows are.
        like: Coefficients of the node, `(C, spatial..., rows)`; not needed for whole nodes.
    """
    if at.corner is not None and array.ndim > 2:
        sizes = like.shape[1:-1]
        array = lax.dynamic_slice(array, (_NONE, *at.corner, _NONE), (len(array), *sizes, array.shape[-1]))
    return array if array.shape[-1] == 1 else jnp.take(array, at.sample, axis=-1)


def placed(a: Any, offset: Any, sizes: tuple[int, ...], margins: Margins) -> Any:
    """Coefficients among zeros, `(C, *sizes, rows)`.

    Args:
        a: Coefficients, `(C, spatial..., rows)`.
        offset: Where the first one comes to lie, along every spatial axis.
        sizes: The spatial shape of the result.
        margins: How far they may stick out on either side.
    """
    room = [low + size + high for size, (low, high) in zip(sizes, margins, strict=True)]
    start = [at + np.int32(low) for at, (low, _) in zip(offset, margins, strict=True)]
    wide = lax.dynamic_update_slice(jnp.zeros((len(a), *room, a.shape[-1]), a.dtype), a, (_NONE, *start, _NONE))
    inner = [slice(low, low + size) for size, (low, _) in zip(sizes, margins, strict=True)]
    return wide[(slice(None), *inner)]


def places_of(shape: tuple[int, ...]) -> np.ndarray:
    """Where each element, counted in C order, is once the channels come first."""
    order = np.arange(math.prod(shape)).reshape(shape)
    order = np.moveaxis(order, -1, 0) if len(shape) > 1 else order
    places = np.empty(order.size, np.int64)
    places[order.reshape(-1)] = np.arange(order.size)
    return places
