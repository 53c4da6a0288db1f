"""The node types of a target network, and nothing that computes.

Shapes are per sample, without a batch axis, channels last. A node's arrays are its parameters, read-only, in their own
dtype; every other field is a static attribute. `inputs` are positions of earlier nodes in the graph.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation.

    Attributes:
        inputs: Positions of the operands, each smaller than the node's own position.
        name: Where the model has it, for messages only; never part of a digest.
    """

    inputs: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        for field, array in parameters(self).items():
            array = np.asarray(array)
            if array.flags.writeable:
                # A copy that nobody else can change; what nobody can change is shared by all nodes made from this one.
                array = np.array(array)
                array.setflags(write=False)
            object.__setattr__(self, field, array)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """The network's input, of the given per-sample shape. Always node 0, the only one of its kind."""

    inputs: tuple[int, ...] = ()
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Node):
    """Cross-correlation of `(spatial..., C)` with `kernel (taps..., C/groups, S)` -> `(spatial'..., S)`.

    Zero to three spatial axes; `stride`, `padding` (low, high) and `dilation` have one entry for each. Output channel
    `s` belongs to group `s // (S/groups)`.

    Attributes:
        kernel_error: Relative error of every kernel entry after folding; 0.0 for a kernel that is exact.
        bias_error: Absolute error of the bias after folding, shape `(S,)`; None where the bias is exact.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int = 1
    kernel_error: float = 0.0
    bias_error: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Node):
    """`x @ kernel + bias` on the last axis: `(..., C)` with `kernel (C, S)` -> `(..., S)`.

    `kernel_error` and `bias_error` as in `Convolution`.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    kernel_error: float = 0.0
    bias_error: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchNorm(Node):
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` on the last axis, in inference; gone after folding."""

    mean: np.ndarray
    variance: np.ndarray
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    epsilon: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Affine(Node):
    """`x * scale + shift`, each of shape `(C,)` for the last axis, or `()`.

    Attributes:
        trained: True where a parameter of the model went into it. A trained one is folded into the layer before it or
            becomes a layer of its own; one made of constants alone may stay as it is.
    """

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    trained: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Relu(Node):
    """`max(x, 0)`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LeakyRelu(Node):
    """`max(x, slope * x)` with `0 <= slope <= 1`."""

    slope: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prelu(Node):
    """`x` where `x >= 0`, `slopes * x` below: one slope a channel, shape `(C,)`, or `()`; any finite numbers."""

    slopes: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip(Node):
    """`min(max(x, low), high)` with `low <= high`; at most one of them is None, for no bound on that side."""

    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sigmoid(Node):
    """`1 / (1 + exp(-x))`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tanh(Node):
    """`tanh(x)`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HardSigmoid(Node):
    """`max(0, min(1, slope * x + offset))`."""

    slope: float
    offset: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HardSwish(Node):
    """`x * min(max(x + 3, 0), 6) / 6`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Silu(Node):
    """`x / (1 + exp(-x))`, also called swish."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gelu(Node):
    """`x * Phi(x)`, Phi the distribution function of the normal law.

    Attributes:
        approximate: True stands for `x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2` instead.
    """

    approximate: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Node):
    """Maximum over windows of the spatial axes; padding never wins. Every window holds at least one real element."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Node):
    """Mean over windows of the spatial axes.

    Attributes:
        count_padding: True divides by the window's size, False by the number of real elements in it.
    """

    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    count_padding: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Node):
    """Mean over `axes`, which are removed (global average pooling)."""

    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Maximum(Node):
    """Maximum over `axes`, which are removed (global max pooling)."""

    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of two nodes of one shape."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Multiply(Node):
    """Product of two nodes of one rank, elementwise; axes of size one of the second are broadcast to the first."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Concatenate(Node):
    """Concatenation of one or more nodes along `axis` (non-negative)."""

    axis: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Node):
    """`x[start:limit:stride]` on every axis; strides are positive."""

    start: tuple[int, ...]
    limit: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Node):
    """Zero padding, (low, high) for every axis, non-negative."""

    padding: Pairs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dilate(Node):
    """`factor - 1` zeros between neighbours, one positive factor for every axis: size `s` -> `(s - 1) * factor + 1`.

    A transposed convolution is one of these and a convolution.
    """

    factors: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Resample(Node):
    """`matrix @ x` along `axis` (non-negative), `matrix (out, in)` a constant: interpolation, copies of elements.

    The matrix is stored with the parameters, but was never trained and is not compiled: both networks apply it.
    """

    axis: int
    matrix: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same elements, C order, in another shape."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Node):
    """Axes permuted: output axis `i` is input axis `permutation[i]`."""

    permutation: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Node):
    """`exp(x) / sum(exp(x))` along `axis` (non-negative); at an output only."""

    axis: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LogSoftmax(Node):
    """`x - log(sum(exp(x)))` along `axis` (non-negative); at an output only."""

    axis: int


Weighted = Convolution | Dense
Activation = Relu | LeakyRelu | Prelu | Clip | Sigmoid | Tanh | HardSigmoid | HardSwish | Silu | Gelu
"""Functions of one number, applied to every element."""

NODE_TYPES: dict[str, type[Node]] = {
    "input": Input,
    "convolution": Convolution,
    "dense": Dense,
    "batch_norm": BatchNorm,
    "affine": Affine,
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "prelu": Prelu,
    "clip": Clip,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "hard_sigmoid": HardSigmoid,
    "hard_swish": HardSwish,
    "silu": Silu,
    "gelu": Gelu,
    "max_pool": MaxPool,
    "average_pool": AveragePool,
    "mean": Mean,
    "maximum": Maximum,
    "add": Add,
    "multiply": Multiply,
    "concatenate": Concatenate,
    "slice": Slice,
    "pad": Pad,
    "dilate": Dilate,
    "resample": Resample,
    "reshape": Reshape,
    "transpose": Transpose,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}
"""Every operation by its name in the file format."""

OPERATION_NAMES: dict[type[Node], str] = {kind: name for name, kind in NODE_TYPES.items()}

PARAMETER_FIELDS = ("bias", "kernel", "matrix", "mean", "scale", "shift", "slopes", "variance")
"""Fields that hold parameters, in the order of the digest."""


def parameters(node: Node) -> dict[str, Any]:
    """The node's parameter arrays by field name, in the order of the digest."""
    found = {field: getattr(node, field, None) for field in PARAMETER_FIELDS}
    return {field: array for field, array in found.items() if array is not None}
