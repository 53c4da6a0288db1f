"""Several results in one pass: what comes out is what the function says, on this platform and in its plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts import few
from jax import lax

from slth_compile.subset_sum.bitonic import cleaned, half_cleaned
from slth_compile.subset_sum.one_pass import materialise, one_pass


def split(a, b, c):
    """More results than operands, and an order that matters."""
    return lax.sub(a, b), lax.max(b, c), lax.min(lax.add(a, c), b), lax.sub(c, lax.sub(b, a))


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("shape", [(5,), (3, 64), (2, 4, 16)])
def test_the_results_are_those_of_the_function(outputs, shape):
    operands = [jnp.asarray(x, jnp.int32) for x in np.random.default_rng(0).integers(-99, 99, (3, *shape))]
    found = jax.jit(lambda *x: one_pass(lambda *x: split(*x)[:outputs], x, outputs))(*operands)
    assert len(found) == outputs
    for one, other in zip(found, split(*operands), strict=False):
        assert np.array_equal(one, other)
    assert np.array_equal(jax.jit(materialise)(operands[0]), operands[0])


@pytest.mark.parametrize("length", few([2, 8, 64, 256], 2, 8, 64))
def test_bitonic_sequences_are_sorted(length):
    x = np.sort(np.random.default_rng(length).integers(-50, 50, (length, 7)), 0)
    bitonic = np.concatenate([x[: length // 3], x[length // 3 :][::-1]])
    rolled = np.roll(bitonic, length // 5, 0)  # a rotated bitonic sequence is bitonic too
    for rows in (bitonic, rolled):
        assert np.array_equal(np.stack(half_cleaned(list(jnp.asarray(rows)))), x)
        assert np.array_equal(jax.jit(lambda y: cleaned(y[None], 1))(jnp.asarray(rows)).reshape(length, 7), x)
