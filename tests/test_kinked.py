"""Images of piecewise linear activations and of products, by both engines, against exact fractions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker_lines import assert_alike, lines_by_both
from counts import few
from hypothesis import Phase, given, settings

from slth_compile.certificate import enclosure, kinked, kinked_lines, lines, pointwise
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import kinked as checker_kinked
from slth_compile.checker import kinked_lines as checker_kinked_lines
from slth_compile.checker import operations
from slth_compile.checker.arithmetic import Interval as CheckerInterval
from slth_compile.graph import nodes as n

Scalar = Callable[[Fraction], Fraction]
small = st.integers(-8, 8).map(lambda v: v / 4)
wild = st.sampled_from([-1e-300, -1e-17, -(2.0**-60), 0.0, 2.0**-60, 1e-17, 1.0, -1.0, 3.0, -1e8, 1e8, 0.1, -0.3])
numbers = small | wild


def prelu(slope: float) -> tuple[n.Activation, Scalar, list[Fraction]]:
    s = Fraction(slope)
    return n.Prelu(inputs=(), slopes=np.array(slope)), lambda x: x if x >= 0 else s * x, [Fraction(0)]


def clip(low: float | None, high: float | None) -> tuple[n.Activation, Scalar, list[Fraction]]:
    kinks = [Fraction(v) for v in (low, high) if v is not None]

    def function(x: Fraction) -> Fraction:
        x = x if low is None else max(x, Fraction(low))
        return x if high is None else min(x, Fraction(high))

    return n.Clip(inputs=(), low=low, high=high), function, kinks


def hard_sigmoid(slope: float, offset: float) -> tuple[n.Activation, Scalar, list[Fraction]]:
    a, b = Fraction(slope), Fraction(offset)
    return (
        n.HardSigmoid(inputs=(), slope=slope, offset=offset),
        lambda x: max(Fraction(0), min(Fraction(1), a * x + b)),
        [-b / a, (1 - b) / a],
    )


def leaky(slope: float) -> tuple[n.Activation, Scalar, list[Fraction]]:
    s = Fraction(slope)
    return n.LeakyRelu(inputs=(), slope=slope), lambda x: max(x, s * x), [Fraction(0)]


relu = (n.Relu(inputs=()), lambda x: max(x, Fraction(0)), [Fraction(0)])
KINKED = {
    "relu": relu,
    "leaky relu": leaky(0.1),
    **{f"prelu {s}": prelu(s) for s in (-2.0, -0.3, 0.0, 0.1, 1.0, 2.5)},
    "relu6": clip(0.0, 6.0),
    "clip": clip(-0.75, 0.5),
    "thin clip": clip(0.1, 0.1 + 2.0**-50),
    "point": clip(0.5, 0.5),
    "low": clip(-0.3, None),
    "high": clip(None, 0.7),
    "hard sigmoid": hard_sigmoid(1 / 6, 0.5),
    "falling": hard_sigmoid(-2.0, 0.25),
}
names = st.sampled_from(sorted(KINKED))


def interval(a: float, b: float) -> Interval:
    low, high = sorted((a, b))
    return Interval(np.array([low]), np.array([high]))


def difference_by_checker(node: n.Activation, y: Interval, d: Interval):
    y, d = CheckerInterval(*y), CheckerInterval(*d)
    match node:
        case n.Prelu():
            return checker_kinked.prelu(y, node.slopes), checker_kinked.prelu_change(y, d, node.slopes)
        case n.Clip():
            return checker_kinked.clip(y, node.low, node.high), checker_kinked.clip_change(y, d, node.low, node.high)
        case n.HardSigmoid():
            y, d = checker_kinked.affine(y, node.slope, node.offset), checker_kinked.affine(d, node.slope, 0.0)
            return checker_kinked.clip(y, 0.0, 1.0), checker_kinked.clip_change(y, d, 0.0, 1.0)
        case _:
            return None


def vertices(y: Interval, d: Interval, kinks: list[Fraction]) -> list[tuple[Fraction, Fraction]]:
    """Every corner of the pieces on which `h` is linear."""
    (yl, yu), (dl, du) = ((Fraction(float(end[0])) for end in v) for v in (y, d))
    found = [(a, b) for a in (yl, yu, *kinks) for b in (dl, du, *(k - a for k in kinks))]
    found += [(k - b, b) for k in kinks for b in (dl, du)]
    return [(a, b) for a, b in found if yl <= a <= yu and dl <= b <= du]


def contains(found, values: list[Fraction], slack: Fraction = Fraction(0)) -> bool:
    low, high = Fraction(float(found.lower[0])), Fraction(float(found.upper[0]))
    return low - slack <= min(values) and max(values) <= high + slack


@given(names, numbers, numbers, numbers, numbers)
@settings(max_examples=500, deadline=None)
def test_images_are_exact(name, a, b, c, e) -> None:
    node, function, kinks = KINKED[name]
    y, d = interval(a, b), interval(c, e)
    low, high = (Fraction(float(end[0])) for end in y)
    values = [function(v) for v in (low, high, *(k for k in kinks if low <= k <= high))]
    moved = [function(v + w) - function(v) for v, w in vertices(y, d, kinks)]
    engines = [(pointwise.value_image(node, y), pointwise.difference_image(node, y, d))]
    engines += [own] if (own := difference_by_checker(node, y, d)) is not None else []
    size = max(abs(Fraction(float(v[0]))) for v in (*y, *d)) + 1
    steep = 1 + abs(Fraction(float(getattr(node, "slopes", 1))))
    for image, change in engines:
        assert contains(image, values) and contains(change, moved)
        room = size * steep * Fraction(1, 10**14)
        assert Fraction(float(image.upper[0])) <= max(values) + room
        assert Fraction(float(image.lower[0])) >= min(values) - room
        # of a difference no more than what rounding does to the difference itself
        room = max(abs(Fraction(float(end[0]))) for end in d) * steep * Fraction(1, 10**14) + Fraction(1, 10**260)
        if not isinstance(node, n.HardSigmoid):
            assert Fraction(float(change.upper[0])) <= max(moved) + room
            assert Fraction(float(change.lower[0])) >= min(moved) - room
    for v, w in vertices(y, d, kinks):
        if w and low <= v + w <= high:
            assert contains(pointwise.slope_image(node, y), [(function(v + w) - function(v)) / w])


@given(names, numbers, numbers, numbers, numbers)
@settings(max_examples=300, deadline=None)
def test_lines_hold_at_every_vertex(name, a, b, c, e) -> None:
    node, function, kinks = KINKED[name]
    y, d = interval(a, b), interval(c, e)
    if isinstance(node, n.Relu | n.LeakyRelu):  # the checker's planes are in test_checker_backward
        engines = [(lines.value_lines(node, y), lines.difference_lines(node, y, d))]
    else:
        engines = lines_by_both(node, y, d)
    for at, moved in engines:
        for v, w in vertices(y, d, kinks):
            for found, x, truth in ((at, v, function(v)), (moved, w, function(v + w) - function(v))):
                upper_slope, upper, lower_slope, lower = (Fraction(float(part[0])) for part in found)
                assert lower_slope * x + lower <= truth <= upper_slope * x + upper


@given(names, numbers, numbers, numbers, numbers)
@settings(max_examples=100, deadline=None)
def test_lines_touch_at_a_vertex_above_and_below(name, a, b, c, e) -> None:
    """No line of its slope is nearer: by both engines, but for rounding."""
    node, function, kinks = KINKED[name]
    if isinstance(node, n.Relu | n.LeakyRelu):
        return
    y, d = interval(a, b), interval(c, e)
    for at, moved in lines_by_both(node, y, d):
        corners = vertices(y, d, kinks)
        of_y, of_d = [(v, function(v)) for v, _ in corners], [(w, function(v + w) - function(v)) for v, w in corners]
        for found, held in ((at, of_y), (moved, of_d)):
            upper_slope, upper, lower_slope, lower = (Fraction(float(part[0])) for part in found)
            size = max(abs(x) + abs(v) for x, v in held) * (1 + abs(upper_slope) + abs(lower_slope))
            room = size * Fraction(1, 10**14) + Fraction(1, 10**260)
            if isinstance(node, n.HardSigmoid):
                room += (1 + abs(Fraction(node.offset))) * Fraction(1, 10**14)
            assert min(upper_slope * x + upper - v for x, v in held) <= room
            assert min(v - lower_slope * x - lower for x, v in held) <= room


WILD = [-1e-300, -1e-17, -(2.0**-60), 0.0, 2.0**-60, 1e-17, 0.1, -0.3, 0.5, -0.75, 1.0, -1.0, 3.0, 6.0, -1e8, 1e8]


@pytest.mark.parametrize("name", KINKED)
def test_both_engines_draw_the_same_lines(name: str) -> None:
    node, rng = KINKED[name][0], np.random.default_rng(0)
    if not isinstance(node, n.Relu | n.LeakyRelu):
        y, d = (
            np.where(rng.random((2, 4000)) < 0.5, rng.choice(WILD, (2, 4000)), rng.normal(size=(2, 4000))) for _ in "yd"
        )
        assert_alike(node, Interval(*np.sort(y, 0)), Interval(*np.sort(d, 0)))


@pytest.mark.parametrize("module", [kinked_lines, checker_kinked_lines])
def test_a_line_that_is_not_rounded_outward_is_seen(module, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("up", "down"):
        monkeypatch.setattr(module, name, lambda v: v)

    @given(names, st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
    @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
    def hold(name, a, b, c, e) -> None:
        test_lines_hold_at_every_vertex.hypothesis.inner_test(name, a, b, c, e)

    with pytest.raises(AssertionError):
        hold()


@given(st.lists(st.tuples(numbers, numbers), min_size=4, max_size=4), st.lists(st.floats(0, 1), min_size=4, max_size=4))
@settings(max_examples=300, deadline=None)
def test_products_hold_every_product(pairs, inside) -> None:
    a, b, da, db = (interval(*pair) for pair in pairs)
    states = [operations.State(CheckerInterval(*v), CheckerInterval(*w)) for v, w in ((a, da), (b, db))]
    engines = [pointwise.product_image((a, b), (da, db)), operations._multiply(*states)]
    for shares in [(0.0,) * 4, (1.0,) * 4, inside, *itertools.product((0.0, 1.0), repeat=4)]:
        p, q, dp, dq = (
            Fraction(min(max(float(v.lower[0] + (v.upper[0] - v.lower[0]) * s), v.lower[0]), v.upper[0]))
            for v, s in zip((a, b, da, db), shares, strict=True)
        )
        for image, moved in engines:
            assert contains(image, [p * q]) and contains(moved, [(p + dp) * (q + dq) - p * q])
    for image, moved in (pointwise.product_image((a, b), (da, None)), pointwise.product_image((b, a), (None, da))):
        p, q, dp = (Fraction(float(v.upper[0])) for v in (a, b, da))
        assert contains(image, [p * q]) and contains(moved, [dp * q])
    assert pointwise.product_image((a, b), (None, None))[1] is None


def test_products_of_numbers_leave_rounding_alone() -> None:
    a, b, da, db = (interval(v, v) for v in (0.3, -1.7, 1e-9, -2e-9))
    found = pointwise.product_image((a, b), (da, db))[1]
    assert found is not None and float(found.upper[0] - found.lower[0]) < 1e-23


@pytest.mark.parametrize("name", few(KINKED, "leaky relu", "prelu -0.3", "clip", "hard sigmoid"))
def test_compiled_images_are_those_of_numpy(name) -> None:
    node, rng = KINKED[name][0], np.random.default_rng(0)
    y, d = (Interval(*np.sort(rng.choice([0.0, 0.5, -0.75, 1e-9, -3.0, 2.0], (2, 64)), 0)) for _ in range(2))
    with jax.enable_x64(True):
        pairs = [Interval(*map(jnp.asarray, v)) for v in (y, d)]
        found = Interval(*map(np.asarray, jax.jit(lambda a, b: pointwise.difference_image(node, a, b))(*pairs)))
    for end, plain in zip(found, pointwise.difference_image(node, y, d), strict=True):
        np.testing.assert_allclose(end, plain, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("name", ["low", "prelu -0.3"])
def test_a_missing_outward_rounding_is_seen(name, monkeypatch: pytest.MonkeyPatch) -> None:
    node, function, _ = KINKED[name]
    pairs = np.random.default_rng(0).uniform(-1, 1, (100, 2))

    def is_sound(y: float, d: float) -> bool:
        truth = function(Fraction(y) + Fraction(d)) - function(Fraction(y))
        return contains(pointwise.difference_image(node, interval(y, y), interval(d, d)), [truth])

    assert all(is_sound(*pair) for pair in pairs.tolist())
    for module in (kinked, enclosure):
        monkeypatch.setattr(module, "up", lambda v: v)
        monkeypatch.setattr(module, "down", lambda v: v)
    assert not all(is_sound(*pair) for pair in pairs.tolist())
