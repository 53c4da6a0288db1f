"""Norms of layers: never below those of their matrices, tight, and the same in compiler and checker."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slth_compile.certificate import matrix_norm, spectral, torus
from slth_compile.certificate.activations import activations
from slth_compile.certificate.matrix_norm import largest_norm
from slth_compile.certificate.spectral import norms_of, operator_norm, row_norms
from slth_compile.checker import gram as checker_gram
from slth_compile.checker import spectral as checker_spectral
from slth_compile.checker.fold import Layer
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import LayerWeights
from slth_compile.graph.graph import Graph

COUNTEREXAMPLE = np.array([[1.0, 1.0, -1.0], [0.0, -1.0, 0.0], [1.0, -1.0, -1.0]]).reshape(3, 3, 1, 1)
"""On a padded 6 x 6 input its norm is 6.7 % above that of the circular convolution of the same size."""


def convolution(kernel: np.ndarray, **geometry) -> n.Convolution:
    rank = kernel.ndim - 2
    plain = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank} | geometry
    return n.Convolution(inputs=(0,), kernel=kernel, **plain)


def matrix_of(node: n.Weighted, shape: tuple[int, ...], kernel: np.ndarray) -> np.ndarray:
    """The layer as one matrix `(outputs, inputs)`, by its action on every unit vector: entries are the kernel's."""
    units = np.eye(math.prod(shape)).reshape(-1, *shape)
    single = Graph((n.Input(shape=shape), dataclasses.replace(node, inputs=(0,))), (1,))
    return activations(single, units, {1: LayerWeights(kernel)})[1].reshape(len(units), -1).T


def is_norm_at_most(matrix: np.ndarray, bound: float) -> bool:
    """Whether a vector found by the singular value decomposition is lengthened no more, in exact arithmetic."""
    if math.isinf(bound):
        return True
    vector = np.linalg.svd(matrix)[2][0]
    x = [Fraction(v) for v in vector.tolist()]
    rows = [[(Fraction(v), x[j]) for j, v in enumerate(row) if v] for row in matrix.tolist()]
    image = sum(sum((a * b for a, b in row), Fraction(0)) ** 2 for row in rows)
    return image <= Fraction(bound) ** 2 * sum(v**2 for v in x)


def checker_layer(node: n.Weighted, kernel: np.ndarray) -> tuple[Layer, np.ndarray]:
    """The layer as the checker has it, and its kernel one matrix a group."""
    geometry = {} if isinstance(node, n.Dense) else {f: getattr(node, f) for f in ("stride", "padding", "dilation")}
    geometry = geometry or {"stride": (), "padding": (), "dilation": ()}
    groups = 1 if isinstance(node, n.Dense) else node.groups
    flat = kernel.reshape(-1, *kernel.shape[-2:])
    layer = Layer(1, flat, None, None, taps=kernel.shape[:-2], groups=groups, **geometry)
    split = flat.reshape(-1, groups, flat.shape[-1] // groups)
    return layer, split.transpose(1, 0, 2)


def checked(node: n.Weighted, shape: tuple[int, ...], kernel: np.ndarray, radius: float = 0.0) -> float:
    layer, centre = checker_layer(node, kernel)
    return checker_spectral.layer_norm(layer, shape, centre, np.full(centre.shape, radius))


@st.composite
def layers(draw) -> tuple[n.Weighted, tuple[int, ...]]:
    """Every geometry there is, small; kernels of several kinds."""
    rank = draw(st.integers(0, 3))
    most = (0, 9, 5, 3)[rank]
    groups, inputs, features = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes, taps, stride, padding, dilation = [], [], [], [], []
    for _ in range(rank):
        k, d = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        pad = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        size = draw(st.integers(1, most))
        if size + sum(pad) < (k - 1) * d + 1:
            size = (k - 1) * d + 1
        for values, value in zip(
            (sizes, taps, stride, padding, dilation), (size, k, draw(st.integers(1, 3)), pad, d), strict=True
        ):
            values.append(value)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (*taps, inputs, groups * features)
    kind = draw(st.sampled_from(["normal", "coarse", "rank one", "ones", "sparse"]))
    kernel = {
        "normal": lambda: rng.normal(size=shape),
        "coarse": lambda: rng.integers(-2, 3, shape).astype(float),
        "rank one": lambda: rng.normal(size=(*shape[:-1], 1)) * rng.normal(size=shape[-1]),
        "ones": lambda: np.ones(shape),
        "sparse": lambda: rng.normal(size=shape) * (rng.random(shape) < 0.2),
    }[kind]()
    if rank == 0 and draw(st.booleans()):
        return n.Dense(inputs=(0,), kernel=kernel.reshape(inputs, -1)), (draw(st.integers(1, 3)), inputs)
    node = convolution(kernel, stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups)
    return node, (*sizes, groups * inputs)


@settings(max_examples=150, deadline=None)
@given(layers(), st.integers(0, 2))
def test_no_layer_is_longer_than_its_bounds(case: tuple[n.Weighted, tuple[int, ...]], points: int) -> None:
    """The bound, each of its three parts, and the torus where frequencies are left out."""
    node, shape = case
    kernel = np.asarray(node.kernel)
    matrix = matrix_of(node, shape, kernel)
    found, other = operator_norm(node, shape, kernel), checked(node, shape, kernel)
    for value in (found, other):
        assert is_norm_at_most(matrix, value)
    assert abs(found - other) <= 1e-9 * found
    axes = [axis for axis in spectral.axes_of(node, shape) if axis is not None]
    if len(axes) < len(spectral.axes_of(node, shape)):
        assert found == 0 and not matrix.any()
        return
    grouped = spectral._by_group(node, kernel, axes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spectral, "MOST_POINTS", ((64, 5, 3)[points],))
        parts = [
            spectral._by_torus(grouped, axes),
            spectral._by_patches(grouped, axes),
            spectral._by_sums(grouped, axes),
        ]
    assert all(is_norm_at_most(matrix, part) for part in parts)
    rows = row_norms(kernel)
    exact = [sum(Fraction(v) ** 2 for v in column) for column in kernel.reshape(-1, kernel.shape[-1]).T.tolist()]
    assert all(Fraction(row) ** 2 >= square for row, square in zip(rows.tolist(), exact, strict=True))
    layer_rows = np.square(matrix).sum(1).reshape(-1, len(rows)).max(0)
    assert np.all(layer_rows <= np.square(rows))


def test_a_torus_of_the_inputs_own_size_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    node, shape = convolution(COUNTEREXAMPLE, padding=((1, 1), (1, 1))), (6, 6, 1)
    matrix = matrix_of(node, shape, COUNTEREXAMPLE)
    same = np.abs(np.fft.fft2(COUNTEREXAMPLE[..., 0, 0], (6, 6))).max()
    axes = spectral.axes_of(node, shape)
    grouped = spectral._by_group(node, COUNTEREXAMPLE, axes)
    assert not is_norm_at_most(matrix, same * 1.06)
    assert is_norm_at_most(matrix, spectral._by_torus(grouped, axes))
    assert [axis.circle for axis in axes] == [7, 7]
    small = [axis._replace(circle=6) for axis in axes]
    assert not is_norm_at_most(matrix, spectral._by_torus(grouped, small))
    assert spectral._by_torus(grouped, small) == pytest.approx(same, rel=1e-7)


@pytest.mark.parametrize("taps", [2, 3, 5])
def test_frequencies_left_out_are_made_up_for(taps: int) -> None:
    """The factor is needed (some kernels exceed the points' maximum) and enough (none exceeds it with the factor)."""
    rng = np.random.default_rng(taps)
    axis = torus.axis_of(100, taps, 1, (0, 0))
    assert axis is not None and torus.sampled([axis], 200) == ((100,), 1.0)
    found = torus.sampled([axis], 8)
    assert found is not None and found[0] == (8,)

    def largest(kernel: np.ndarray, points: int) -> float:
        return float(np.linalg.norm(np.fft.fft(kernel, points, axis=0), 2, axis=(1, 2)).max())

    kernels = rng.normal(size=(40, taps, 2, 2))
    assert all(largest(kernel, 512) <= largest(kernel, 8) * found[1] for kernel in kernels)
    assert sum(largest(kernel, 512) > largest(kernel, 8) * (1 + 1e-9) for kernel in kernels) >= 3
    assert torus.sampled([axis], taps - 1) is None


def test_the_factor_for_frequencies_left_out_can_be_attained() -> None:
    """A turn of half the distance of the points: the largest norm is half way between two of them."""
    cos, sin = math.cos(math.pi / 8), math.sin(math.pi / 8)
    kernel = np.stack([np.eye(2), [[cos, -sin], [sin, cos]]])
    axis = torus.axis_of(100, 2, 1, (0, 0))
    assert axis is not None
    found = torus.sampled([axis], 8)
    at_points = np.linalg.norm(np.fft.fft(kernel, 8, axis=0), 2, axis=(1, 2)).max()
    assert found is not None and 2 <= at_points * found[1] <= 2 * (1 + 1e-11)


@pytest.mark.parametrize("scale", [1e-150, 1e150, 2.0**-1000, 2.0**1000, 1e-320])
def test_the_scale_of_a_kernel_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 3))
    node, shape = convolution(kernel, padding=((1, 1),)), (6, 2)
    plain = operator_norm(node, shape, kernel)
    found = operator_norm(node, shape, kernel * scale)
    if scale > 1e-300:
        assert found == pytest.approx(plain * scale, rel=1e-12)
        np.testing.assert_allclose(row_norms(kernel * scale), row_norms(kernel) * scale, rtol=1e-12)
    assert plain * scale <= found * (1 + 1e-12) and found < 1e-300 + plain * scale * (1 + 1e-9)
    assert checked(node, shape, kernel * scale) == pytest.approx(found, rel=1e-9, abs=2.0**-890)


def test_zeros_and_what_is_not_finite() -> None:
    kernel = np.zeros((3, 2, 3))
    node, shape = convolution(kernel, padding=((1, 1),)), (6, 2)
    assert operator_norm(node, shape, kernel) == 0 == checked(node, shape, kernel)
    assert np.all(row_norms(kernel) == 0)
    for bad in (np.nan, np.inf, -np.inf):
        kernel = np.zeros((3, 2, 3))
        kernel[1, 1, 1] = bad
        assert operator_norm(node, shape, kernel) == np.inf == checked(node, shape, kernel)
        assert operator_norm(node, shape, np.zeros(kernel.shape), np.abs(kernel)) == np.inf
        assert row_norms(kernel)[1] == np.inf and norms_of(np.full((1, 2), bad)) == np.inf
    kernel = np.full((3, 2, 3), 1.5e308)
    assert operator_norm(node, shape, kernel) == np.inf == checked(node, shape, kernel)


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_equal_singular_values_cost_nothing(size: int) -> None:
    q = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]
    node = n.Dense(inputs=(0,), kernel=q)
    for found in (operator_norm(node, (size,), q), checked(node, (size,), q)):
        assert 1 - 1e-15 * size <= found <= 1 + 1e-7
    identity = np.zeros((3, 3, size, size))
    identity[1, 1] = np.eye(size)
    node = convolution(identity, padding=((1, 1), (1, 1)))
    assert 1 <= operator_norm(node, (5, 5, size), identity) <= 1 + 1e-7


def test_how_tight_the_bounds_are() -> None:
    """To 1e-7 of a matrix, and of the largest norm over frequencies; within 2 % of a layer on an image."""
    rng = np.random.default_rng(3)
    for shape in ((40, 25), (25, 40), (300, 10)):
        kernel = rng.normal(size=shape)
        true = np.linalg.norm(kernel, 2)
        assert true <= operator_norm(n.Dense(inputs=(0,), kernel=kernel), shape[:1], kernel) <= true * (1 + 1e-7)
    kernel = rng.normal(size=(3, 3, 2, 3))
    node, shape = convolution(kernel, padding=((1, 1), (1, 1))), (14, 14, 2)
    true = np.linalg.norm(matrix_of(node, shape, kernel), 2)
    symbol = np.fft.fft2(kernel, (15, 15), axes=(0, 1))
    largest = np.linalg.norm(symbol.reshape(-1, 2, 3), 2, axis=(1, 2)).max()
    found = operator_norm(node, shape, kernel)
    assert largest <= found <= largest * (1 + 1e-7)
    assert true <= found <= 1.02 * true


def test_a_radius_adds_the_norm_of_anything_within_it() -> None:
    rng = np.random.default_rng(4)
    kernel = rng.normal(size=(3, 2, 3))
    node, shape = convolution(kernel, padding=((2, 1),), stride=(2,)), (7, 2)
    radius = np.abs(rng.normal(size=kernel.shape)) * 0.1
    bound, rows = operator_norm(node, shape, kernel, radius), row_norms(kernel, radius)
    for _ in range(20):
        inside = kernel + radius * rng.choice([-1.0, 1.0], kernel.shape) * (1 - 2.0**-50)
        assert is_norm_at_most(matrix_of(node, shape, inside), bound)
        assert np.all(row_norms(inside) <= rows * (1 + 1e-15))
    assert not is_norm_at_most(matrix_of(node, shape, kernel + radius), operator_norm(node, shape, kernel) / 2)
    assert operator_norm(node, shape, kernel, 0.01) == pytest.approx(checked(node, shape, kernel, 0.01), rel=1e-9)


@pytest.mark.parametrize("module", [matrix_norm, checker_gram], ids=["compiler", "checker"])
def test_solvers_are_not_believed(module, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eigenvalue that is too small, a factor that is not one: whatever comes out is still a bound."""
    rng = np.random.default_rng(5)
    stack = rng.normal(size=(3, 6, 4))
    bound = largest_norm if module is matrix_norm else checker_gram.spectral_norm
    true = np.linalg.norm(stack, 2, axis=(1, 2)).max()
    assert true <= bound(stack) <= true * (1 + 1e-7)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_largest_eigenvalue", lambda *_: 0.9 * true**2)
        assert bound(stack) >= true
    with monkeypatch.context() as patched:
        patched.setattr(module, "_largest_eigenvalue", lambda *_: (1 - 2.0**-18) * true**2)
        assert true <= bound(stack) <= true * (1 + 2.0**-13)
    for factor in (np.zeros((3, 4, 4)), np.broadcast_to(np.eye(4), (3, 4, 4)), np.full((3, 4, 4), np.nan)):
        with monkeypatch.context() as patched:
            patched.setattr(np.linalg, "cholesky", lambda _, factor=factor: factor)
            patched.setattr(module, "_largest_eigenvalue", lambda *_: 0.1 * true**2)
            assert bound(stack) >= true


def test_large_matrices_by_lanczos_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_norm, "DENSE_SOLVER", 4)
    monkeypatch.setattr(checker_gram, "_SOLVED", 4)
    rng = np.random.default_rng(6)
    for kernel in (rng.normal(size=(150, 120)), np.eye(20), np.ones((9, 30)), np.diag(np.arange(1.0, 31))):
        node, true = n.Dense(inputs=(0,), kernel=kernel), np.linalg.norm(kernel, 2)
        found, other = operator_norm(node, kernel.shape[:1], kernel), checked(node, kernel.shape[:1], kernel)
        assert true * (1 - 1e-14) <= found <= true * (1 + 1e-7)
        assert other == pytest.approx(found, rel=1e-9)
    stack = rng.normal(size=(2, 8, 8)), rng.normal(size=(2, 8, 8))
    true = np.linalg.norm(stack[0] + 1j * stack[1], 2, axis=(1, 2)).max()
    assert true <= largest_norm(*stack) <= true * (1 + 1e-7)


def test_more_work_than_allowed_falls_back_to_fewer_frequencies_and_to_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    kernel = rng.normal(size=(3, 3, 2, 2))
    node, shape = convolution(kernel, padding=((1, 1), (1, 1))), (70, 70, 2)
    found = [operator_norm(node, shape, kernel)]
    for work in (64 * 64 // 2 * 4 * 514 - 1, 0):
        monkeypatch.setattr(spectral, "WORK", work)
        monkeypatch.setattr(checker_spectral, "_WORK", work)
        found.append(operator_norm(node, shape, kernel))
        assert checked(node, shape, kernel) == pytest.approx(found[-1], rel=1e-9)
    axes = spectral.axes_of(node, shape)
    assert found[2] == pytest.approx(spectral._by_patches(spectral._by_group(node, kernel, axes), axes), rel=1e-12)
    assert found[0] <= found[1] * (1 + 1e-12) <= found[0] * 1.02 and found[1] < found[2]


def test_roots_of_unity_are_the_same_by_two_ways() -> None:
    """Integers over 2^128 here, decimals there; and what libraries say, to a few units in the last place."""
    for count in (*range(1, 20), 33, 64):
        table = torus.roots(count)
        np.testing.assert_allclose(table, checker_spectral._circle(count), rtol=0, atol=2.0**-100)
        np.testing.assert_allclose(table, np.exp(2j * np.pi * np.arange(count) / count), atol=1e-15)


def test_agreement_on_layers_of_real_size() -> None:
    rng = np.random.default_rng(8)
    for shape, stride, size in (((5, 5, 1, 6), 1, (28, 28, 1)), ((3, 3, 8, 16), 2, (16, 16, 8))):
        kernel = rng.normal(size=shape)
        node = convolution(kernel, padding=((1, 1), (1, 1)), stride=(stride, stride))
        assert checked(node, size, kernel) == pytest.approx(operator_norm(node, size, kernel), rel=1e-12)
