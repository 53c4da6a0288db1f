"""The source: known answers, addressing, nesting in the width, exact splits."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slth_compile.graph.nodes import Convolution, Dense
from slth_compile.source.dyadic import enclose_difference, entries, split
from slth_compile.source.network import KernelShape, from_canonical, own_entries, to_canonical, usable_copies
from slth_compile.source.source import Generated
from slth_compile.source.threefry import TENSOR_V, block, tensor_key, words

GOLDEN = pathlib.Path(__file__).parent / "golden"

# Random123's published known answers of threefry2x32 with 20 rounds: key, counter, result.
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_block_gives_the_published_answers(key, counter, answer):
    first, second = block(tuple(map(jnp.uint32, key)), *map(jnp.uint32, counter))
    assert (int(first), int(second)) == answer


def test_words_are_the_golden_ones():
    golden = json.loads((GOLDEN / "words.json").read_text())
    for entry in golden:
        with jax.enable_x64(True):
            key = tensor_key(entry["seed"], entry["layer"], entry["tensor"])
            drawn = words(key, jnp.asarray(entry["elements"], jnp.uint64))
        assert [int(w) for w in drawn] == entry["words"]


def test_any_word_can_be_computed_alone():
    with jax.enable_x64(True):
        key = tensor_key(7, 1, TENSOR_V)
        together = np.asarray(words(key, jnp.arange(1000, dtype=jnp.uint64)))
        alone = [int(words(key, jnp.uint64(i))) for i in (0, 1, 2, 499, 999)]
    assert alone == [int(together[i]) for i in (0, 1, 2, 499, 999)]


@pytest.mark.parametrize("shape", [KernelShape(9, 4, 6, 1), KernelShape(9, 6, 6, 6), KernelShape(1, 8, 4, 2)])
def test_a_wider_source_extends_a_narrower_one(shape):
    assert np.array_equal(own_entries(Generated(3), 0, shape, 40)[:25], own_entries(Generated(3), 0, shape, 25))


def test_entries_are_uniform_multiples_of_two_to_the_minus_23():
    with jax.enable_x64(True):
        drawn = np.asarray(entries(words(tensor_key(0, 0, TENSOR_V), jnp.arange(1 << 16, dtype=jnp.uint64))))
    assert drawn.min() >= -(2**23) and drawn.max() < 2**23
    # Mean and variance of a uniform law, within five standard errors.
    scaled = drawn * 2.0**-23
    assert abs(scaled.mean()) < 5 * np.sqrt(1 / 3 / scaled.size)
    assert abs((scaled**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / scaled.size)


def test_usable_copies_are_those_of_the_sign_in_ascending_order():
    own = np.array([[3, -1], [0, 5], [-2, 7], [4, -9]])
    copies, counts = usable_copies(own, +1)
    assert counts.tolist() == [2, 2]
    assert copies[:2, 0].tolist() == [0, 3] and copies[:2, 1].tolist() == [1, 2]
    copies, counts = usable_copies(own, -1)
    assert counts.tolist() == [1, 2] and copies[:2, 1].tolist() == [0, 3]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_canonical_order_is_a_bijection(taps, groups, fan_in, fan_out, seed):
    kernel = np.random.default_rng(seed).normal(size=(taps, fan_in, groups * fan_out))
    node = Convolution(inputs=(0,), kernel=kernel, stride=(1,), padding=((0, 0),), dilation=(1,), groups=groups)
    canonical = to_canonical(node, kernel)
    assert np.array_equal(from_canonical(node, canonical), kernel)
    for p in range(taps):
        for t in range(groups * fan_in):
            for s in range(fan_out):
                group = t // fan_in
                assert canonical[p, t, s] == kernel[p, t % fan_in, group * fan_out + s]


@given(st.integers(-(2**62) + 1, 2**62 - 1), st.integers(-20, 20))
def test_split_is_exact(number, gain):
    from fractions import Fraction

    high, low = split(np.array([number]), gain)
    assert Fraction(float(high[0])) + Fraction(float(low[0])) == number * Fraction(2) ** (gain - 46)


@given(st.integers(-(2**55), 2**55), st.integers(-8, 8), st.floats(-4, 4), st.floats(0, 1e-3))
def test_difference_is_enclosed(number, gain, weight, error):
    from fractions import Fraction

    center, radius = enclose_difference(np.array([number]), gain, np.array([weight]), np.array([error]))
    exact = number * Fraction(2) ** (gain - 46)
    for end in (Fraction(weight) - Fraction(error), Fraction(weight) + Fraction(error)):
        assert abs(exact - end - Fraction(float(center[0]))) <= Fraction(float(radius[0]))


def test_dense_is_one_tap():
    kernel = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(to_canonical(Dense(inputs=(0,), kernel=kernel), kernel)[0], kernel)
