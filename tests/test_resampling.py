"""Maps along an axis against exact rationals."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slth_compile.certificate import resampling
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import operations
from slth_compile.checker.arithmetic import Interval as CheckerInterval

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(5, 300)) * 2.0 ** RNG.integers(-20, 20, (5, 300))


def rationals(array: np.ndarray) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(array)


def members(width: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Regions `(2, 300, 3)`, and arrays in them: both ends, and for one row of the matrix what reaches furthest."""
    low = RNG.normal(size=(2, 300, 3))
    high = low + width * RNG.uniform(0, 1, low.shape)
    furthest = np.where(MATRIX[0][:, None] > 0, high, low)
    return low, high, [low, high, furthest]


def is_enclosed(found: Interval, values: list[np.ndarray]) -> bool:
    low, high = (rationals(np.asarray(end)) for end in found)
    images = [np.moveaxis(np.tensordot(rationals(MATRIX), rationals(v), (1, 1)), 0, 1) for v in values]
    return all(bool(np.all((low <= image) & (image <= high))) for image in images)


@pytest.mark.parametrize("width", [0.0, 1e-12, 1.0])
def test_images_hold_every_member(width: float) -> None:
    low, high, values = members(width)
    found = resampling.resampled(Interval(low, high), MATRIX, 1)
    assert is_enclosed(found, values)
    # no wider than rounding makes it, where the bounds are attained
    attained = np.tensordot(MATRIX[0], values[2], (0, 1))
    size = np.tensordot(abs(MATRIX[0]), abs(values[2]), (0, 1))
    assert np.all(found.upper[:, 0] - attained <= 1e-12 * size)
    assert is_enclosed(operations._resampled(CheckerInterval(low, high), 1, MATRIX), values)
    with jax.enable_x64(True):
        assert is_enclosed(resampling.resampled(Interval(jnp.asarray(low), jnp.asarray(high)), MATRIX, 1), values)


@pytest.mark.parametrize("engine", ["compiler", "checker"])
def test_a_missing_gamma_is_seen(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high, values = members(0.0)
    monkeypatch.setattr(resampling if engine == "compiler" else operations, "gamma", lambda terms: 0.0)
    if engine == "compiler":
        found = resampling.resampled(Interval(low, high), MATRIX, 1)
    else:
        found = operations._resampled(CheckerInterval(low, high), 1, MATRIX)
    assert not is_enclosed(found, values)


def test_dilation_by_either_library() -> None:
    values = RNG.normal(size=(2, 3, 4))
    found = resampling.dilated(values, (3, 1, 2))
    assert found.shape == (4, 3, 7) and np.count_nonzero(found) == values.size
    np.testing.assert_array_equal(found[::3, :, ::2], values)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(resampling.dilated(jnp.asarray(values), (3, 1, 2)), found)
