"""The solver against exhaustive search, and masks through their code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slth_compile.errors import InputError
from slth_compile.source.dyadic import masked_sum
from slth_compile.subset_sum.meet_in_the_middle import closest_subset
from slth_compile.ticket.masks import SubsetMask, decode, encode

SOLVE = jax.jit(closest_subset)


def solve(candidates, targets):
    with jax.enable_x64(True):
        return np.asarray(SOLVE(jnp.asarray(candidates, jnp.int64), jnp.asarray(targets, jnp.int64)))


def sums_of(candidates, subsets):
    bits = (subsets >> np.arange(len(candidates), dtype=np.uint32)[:, None]) & 1
    return (bits * candidates).sum(0)


def exhaustive(candidates, targets):
    bits = (np.arange(1 << len(candidates))[:, None] >> np.arange(len(candidates))) & 1
    return np.abs(bits @ candidates - targets).min(0)


def hard_problems(n, batch, generator):
    """Random products, and ties, zeros, duplicates, one sign, targets out of reach, extreme scales."""
    products = generator.integers(1, 2**23, (n, batch)) * generator.integers(-(2**23), 2**23, (n, batch))
    targets = generator.integers(-(2**46), 2**46, batch)
    kind = np.arange(batch) % 8
    products = np.where(kind == 1, np.abs(products), products)
    products = np.where(kind == 2, -np.abs(products), products)
    products = np.where(kind == 3, products[:1], products)
    products = np.where((kind == 4) & (generator.random((n, batch)) < 0.5), 0, products)
    products = np.where(kind == 5, generator.integers(-3, 4, (n, batch)), products)
    targets = np.where(kind == 5, generator.integers(-8, 9, batch), targets)
    targets = np.where(kind == 6, 2**46, targets)
    targets = np.where(kind == 7, 0, targets)
    return products, targets


@pytest.mark.parametrize("n", [*range(2, 15), 16])
def test_the_fast_solver_equals_exhaustive_search(n):
    batch = 512 if n <= 12 else 64
    candidates, targets = hard_problems(n, batch, np.random.default_rng(n))
    subsets = solve(candidates, targets)
    assert subsets.max() < 1 << n
    assert np.array_equal(np.abs(sums_of(candidates, subsets) - targets), exhaustive(candidates, targets))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.int64, (9, 4), elements=st.integers(-(2**46), 2**46)), st.data())
def test_the_fast_solver_equals_exhaustive_search_anywhere(candidates, data):
    targets = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(-(2**46), 2**46)))
    subsets = solve(candidates, targets)
    assert np.array_equal(np.abs(sums_of(candidates, subsets) - targets), exhaustive(candidates, targets))


def test_masked_sum_reads_candidate_i_from_bit_i():
    candidates = np.array([[1], [10], [100]])
    with jax.enable_x64(True):
        assert int(masked_sum(jnp.asarray(candidates), jnp.asarray([0b101], jnp.uint32))[0]) == 101


@st.composite
def masks(draw):
    window = draw(st.integers(8, 24))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    windows = draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 40)))
    subsets = draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, 2**window - 1)))
    return window, SubsetMask(windows, subsets)


@given(masks())
def test_masks_survive_their_code(case):
    window, mask = case
    again = decode(*encode(mask, window), window, mask.windows.shape)
    assert np.array_equal(again.windows, mask.windows) and np.array_equal(again.subsets, mask.subsets)


def test_the_mask_code_is_the_documented_one():
    mask = SubsetMask(np.array([[[2, 0]]], np.uint16), np.array([[[0b00000011, 0b10000000]]], np.uint32))
    windows, subsets = encode(mask, 8)
    # Two ones and a zero, then a zero; least significant bit first.
    assert windows.tolist() == [0b0011] and subsets.tolist() == [3, 128]


@given(masks(), st.data())
def test_damaged_streams_are_refused_or_read_as_another_mask(case, data):
    window, mask = case
    windows, subsets = encode(mask, window)
    with pytest.raises(InputError):
        decode(windows[:-1], subsets, window, mask.windows.shape)
    with pytest.raises(InputError):
        decode(windows, subsets[:-1], window, mask.windows.shape)
    with pytest.raises(InputError):
        decode(np.append(windows, np.uint8(data.draw(st.integers(0, 255)))), subsets, window, mask.windows.shape)
