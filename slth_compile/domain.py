"""The inputs a certificate speaks about: a box, balls around samples, or named points."""

from __future__ import annotations

import dataclasses

import numpy as np

from slth_compile.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """`{x : lower <= x <= upper}`, elementwise.

    Args:
        lower: Lower bound, a number or an array of the input's shape.
        upper: Upper bound, likewise.
        shape: The input's per-sample shape; may be left out where the model's is known.
    """

    lower: float | np.ndarray
    upper: float | np.ndarray
    shape: tuple[int, ...] | None = None
    kind = "box"

    def __post_init__(self) -> None:
        _freeze(self, "lower", "upper")
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        _refuse_nan(self.lower, self.upper)
        if not np.all(np.isfinite(self.lower)) or not np.all(np.isfinite(self.upper)):
            raise InputError("domain: a box needs finite bounds")
        if np.any(np.asarray(self.lower) > np.asarray(self.upper)):
            raise InputError("domain: the box is empty, a lower bound lies above its upper bound")

    def with_shape(self, shape: tuple[int, ...]) -> Box:
        """The same box with its bounds spread over `shape`."""
        if self.shape is not None and self.shape != shape:
            raise InputError(f"domain: the box has shape {self.shape}, the model's input has shape {shape}")
        return Box(_spread(self.lower, shape), _spread(self.upper, shape), shape)

    @property
    def count(self) -> int:
        """Regions: one."""
        return 1

    def regions(self) -> tuple[np.ndarray, np.ndarray]:
        """One region: `(lower, upper)`, float64, each of shape `(1, *shape)`."""
        assert self.shape is not None
        return _spread(self.lower, self.shape)[None], _spread(self.upper, self.shape)[None]

    def is_nonnegative(self) -> bool:
        """Whether every declared input is elementwise >= 0."""
        return bool(np.all(np.asarray(self.lower) >= 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """The finite set of the rows of `x`.

    Args:
        x: Inputs, shape `(samples, *input_shape)`, any float dtype; taken at exactly these values.
    """

    x: np.ndarray
    kind = "points"

    def __post_init__(self) -> None:
        _freeze(self, "x")
        _require_samples(self.x)

    def with_shape(self, shape: tuple[int, ...]) -> Points:
        """The same points, checked against the model's input shape."""
        _require_shape(self.x, shape)
        return self

    @property
    def count(self) -> int:
        """Regions: one a sample."""
        return len(self.x)

    def regions(self) -> tuple[np.ndarray, np.ndarray]:
        """One region a sample: `(x, x)` in float64."""
        x = self.x.astype(np.float64)
        return x, x

    def is_nonnegative(self) -> bool:
        """Whether every declared input is elementwise >= 0."""
        return bool(np.all(self.x >= 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Balls:
    """The union over samples of `{y : |y - x| <= radius, lower <= y <= upper}`, elementwise (L-infinity).

    Args:
        x: Centres, shape `(samples, *input_shape)`.
        radius: Radius in input units, a number or an array of the input's shape.
        lower: Lower clip, a number or an array of the input's shape.
        upper: Upper clip, likewise.
    """

    x: np.ndarray
    radius: float | np.ndarray
    lower: float | np.ndarray = -np.inf
    upper: float | np.ndarray = np.inf
    kind = "balls"

    def __post_init__(self) -> None:
        _freeze(self, "x", "radius", "lower", "upper")
        _require_samples(self.x)
        _refuse_nan(self.radius, self.lower, self.upper)
        if not np.all(np.isfinite(self.radius)) or np.any(np.asarray(self.radius) < 0):
            raise InputError("domain: a ball's radius must be finite and not negative")
        lower, upper = self.regions()
        if np.any(lower > upper):
            raise InputError("domain: a ball is empty, its centre lies outside lower..upper by more than the radius")
        if not np.all(np.isfinite(lower)) or not np.all(np.isfinite(upper)):
            raise InputError("domain: a ball reaches beyond the numbers of float64; give it a smaller radius or clips")

    def with_shape(self, shape: tuple[int, ...]) -> Balls:
        """The same balls, checked against the model's input shape."""
        _require_shape(self.x, shape)
        return dataclasses.replace(
            self,
            radius=_spread(self.radius, shape),
            lower=_spread(self.lower, shape),
            upper=_spread(self.upper, shape),
        )

    @property
    def count(self) -> int:
        """Regions: one a sample."""
        return len(self.x)

    def regions(self) -> tuple[np.ndarray, np.ndarray]:
        """One region a sample: `(lower, upper)`, float64, rounded outward."""
        x = self.x.astype(np.float64)
        with np.errstate(over="ignore"):  # what has no end is refused
            low = np.nextafter(x - self.radius, -np.inf)
            high = np.nextafter(x + self.radius, np.inf)
        return np.maximum(low, self.lower), np.minimum(high, self.upper)

    def is_nonnegative(self) -> bool:
        """Whether every declared input is elementwise >= 0."""
        return bool(np.all((np.asarray(self.lower) >= 0) | (self.x.astype(np.float64) >= self.radius)))


Domain = Box | Points | Balls


def order_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What to do about samples of shape `found`, where these are the `expected` ones with their channels first."""
    if len(found) < 2 or found == expected or (*found[1:], found[0]) != expected:
        return ""
    axes = ", ".join(str(axis) for axis in (*range(2, len(found) + 1), 1))
    return f"; they are channels first, expected channels last: x.transpose(0, {axes})"


def require_domain(domain: object) -> Domain:
    """The same domain.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(domain, Domain):
        found = type(domain).__name__
        raise InputError(f"domain is of type {found}; expected slth.Box, slth.Points, slth.Balls or a list of them")
    return domain


def _freeze(domain: object, *fields: str) -> None:
    for field in fields:
        array = np.array(getattr(domain, field))
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise InputError(f"domain: '{field}' holds {array.dtype}, expected numbers")
        if array.dtype.name not in ("float32", "float64"):
            array = array.astype(np.float64)
        array.setflags(write=False)
        object.__setattr__(domain, field, array)


def _refuse_nan(*arrays: object) -> None:
    if any(np.any(np.isnan(np.asarray(a))) for a in arrays):
        raise InputError("domain: a bound is NaN")


def _require_samples(x: np.ndarray) -> None:
    if x.ndim < 2 or x.size == 0:
        empty = "empty, " if x.size == 0 else ""
        raise InputError(f"domain: {empty}samples have shape {x.shape}; expected (samples, *input_shape)")
    if not np.all(np.isfinite(x)):
        raise InputError("domain: samples hold NaN or infinity")


def _require_shape(x: np.ndarray, shape: tuple[int, ...]) -> None:
    if x.shape[1:] != shape:
        hint = order_hint(x.shape[1:], shape)
        raise InputError(f"domain: samples have shape {x.shape[1:]}, the model's input has shape {shape}{hint}")


def _spread(value: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, np.float64)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise InputError(f"domain: a bound has shape {array.shape}, the model's input has shape {shape}") from None
