"""Layer norm, softmax and products of matrices by both engines, against sixty digits."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from slth_compile.certificate import elementary, enclosure, layer_norm, matrix_product, row_derivatives, softmax
from slth_compile.certificate.enclosure import Interval
from slth_compile.checker import elementary as checker_elementary
from slth_compile.checker import layer_norm as checker_layer_norm
from slth_compile.checker import matrix_product as checker_matrix_product
from slth_compile.checker import pooling as checker_pooling
from slth_compile.checker import softmax as checker_softmax
from slth_compile.checker.arithmetic import Interval as CheckerInterval
from slth_compile.graph import nodes as n
from slth_compile.graph.evaluate import apply_node

Rows = list[Decimal]
Function = Callable[[Rows], Rows]
Images = tuple[tuple, ...]
NODES = {
    "layer norm": n.LayerNorm(inputs=(0,), epsilon=1e-5),
    "loose layer norm": n.LayerNorm(inputs=(0,), epsilon=0.5),
    "rms norm": n.LayerNorm(inputs=(0,), epsilon=1e-5, centred=False),
    "softmax": n.Softmax(inputs=(0,), axis=0),
}
seeds = st.integers(0, 2**32 - 1)
names = st.sampled_from(sorted(NODES))
sizes = st.sampled_from([0.0, 1e-300, 1e-12, 1e-6, 1e-3, 0.3, 2.0, 40.0])


def truth(node: n.Node) -> Function:
    """The node of one row, in the digits of the context."""

    def normed(x: Rows) -> Rows:
        assert isinstance(node, n.LayerNorm)
        mean = sum(x, Decimal(0)) / len(x) if node.centred else Decimal(0)
        centred = [v - mean for v in x]
        scale = (sum((v * v for v in centred), Decimal(0)) / len(x) + Decimal(node.epsilon)).sqrt()
        return [v / scale for v in centred]

    def shares(x: Rows) -> Rows:
        powers = [v.exp() for v in x]
        return [p / sum(powers) for p in powers]

    return shares if isinstance(node, n.Softmax) else normed


def by_both(node: n.Node, x: np.ndarray, d: np.ndarray) -> list[tuple]:
    """Values and changes of one row, `(2, features)` lower and upper, by either engine."""
    own = Interval(*x[..., None]), Interval(*d[..., None])
    other = CheckerInterval(*x[:, None]), CheckerInterval(*d[:, None])
    if isinstance(node, n.Softmax):
        mine = softmax.softmax_image(*own, 0)
        theirs = checker_softmax.softmax(other[0], 1), checker_softmax.softmax_change(*other, 1)
    else:
        assert isinstance(node, n.LayerNorm)
        mine = layer_norm.layer_norm_image(node, *own)
        norm = node.epsilon, node.centred
        theirs = checker_layer_norm.layer_norm(other[0], *norm), checker_layer_norm.layer_norm_change(*other, *norm)
    return [tuple(np.stack([np.ravel(end) for end in v]) for v in pair) for pair in (mine, theirs)]


def holds(found: np.ndarray, values: Rows, slack: Decimal = Decimal(0)) -> bool:
    return all(
        Decimal(low) - slack <= v <= Decimal(high) + slack for low, high, v in zip(*found.tolist(), values, strict=True)
    )


def box(rng: np.random.Generator, features: int, scale: float, radius: float) -> np.ndarray:
    centre = rng.normal(size=features) * scale
    return np.stack([centre - radius * rng.random(features), centre + radius * rng.random(features)])


@given(names, seeds, st.integers(1, 6), sizes, sizes, sizes, sizes)
@settings(max_examples=120, deadline=None)
@np.errstate(all="ignore")
def test_both_engines_hold_every_value_and_change(name, seed, features, scale, radius, moved, spread) -> None:
    rng, node = np.random.default_rng(seed), NODES[name]
    x, d = box(rng, features, scale, radius), box(rng, features, moved, spread)
    found = by_both(node, x, d)
    with localcontext() as context:
        context.prec = 60 if min([v for v in (scale, radius, moved, spread) if v] or [1]) > 1e-100 else 700
        slack = Decimal(10) ** (8 - context.prec)
        for _ in range(3):
            at, move = (v[0] + (v[1] - v[0]) * rng.choice([0.0, 1.0, 0.37], features) for v in (x, d))
            at, move = np.clip(at, *x), np.clip(move, *d)
            before = truth(node)(list(map(Decimal, at.tolist())))
            after = truth(node)([Decimal(a) + Decimal(b) for a, b in zip(at.tolist(), move.tolist(), strict=True)])
            for value, change in found:
                assert holds(value, before, slack)
                assert holds(change, [b - a for a, b in zip(before, after, strict=True)], slack)


@given(names, seeds, st.integers(2, 6), sizes, sizes, sizes)
@settings(max_examples=60, deadline=None)
@np.errstate(all="ignore")
def test_the_checker_is_never_the_looser_one(name, seed, features, radius, moved, spread) -> None:
    rng = np.random.default_rng(seed)
    (_, own), (_, other) = by_both(NODES[name], box(rng, features, 1.0, radius), box(rng, features, moved, spread))
    largest = [np.maximum(-v[0], v[1]) for v in (own, other)]
    assert np.all(largest[1] <= largest[0] * (1 + 1e-10) + 2.0**-400)


@pytest.mark.parametrize("name", NODES)
def test_at_points_rounding_alone_is_left(name) -> None:
    """Whatever the size of the change; in balls the bound is a few times what is there."""
    node, rng = NODES[name], np.random.default_rng(3)
    x, d = rng.normal(size=6), rng.normal(size=6)
    with localcontext() as context:
        context.prec = 60
        for size in (1e-2, 1e-6, 1e-10):
            move = size * d
            before = truth(node)(list(map(Decimal, x.tolist())))
            after = truth(node)([Decimal(a) + Decimal(b) for a, b in zip(x.tolist(), move.tolist(), strict=True)])
            change = np.array([float(b - a) for a, b in zip(before, after, strict=True)])
            for _, found in by_both(node, np.stack([x, x]), np.stack([move, move])):
                assert np.abs(found - change).max() <= size * 1e-11 + 1e-14
            for _, found in by_both(node, np.stack([x - 1e-3, x + 1e-3]), np.stack([move, move])):
                assert np.abs(found).max() <= 1.3 * np.abs(change).max()


@pytest.mark.parametrize("name", NODES)
def test_larger_intervals_have_larger_images(name) -> None:
    """What is planned for all errors within tolerances holds for each: no step shrinks when an operand grows."""
    rng, node = np.random.default_rng(4), NODES[name]
    for _ in range(150):
        x, d = (box(rng, 4, 1.0, 10.0 ** rng.uniform(-6, 1)) for _ in range(2))
        inner = [np.sort(v[0] + (v[1] - v[0]) * rng.uniform(0, 1, (2, 4)), 0) for v in (x, d)]
        for outside, inside in zip(by_both(node, x, d), by_both(node, *inner), strict=True):
            for large, small in zip(outside, inside, strict=True):
                assert np.all(large[0] <= small[0] + 1e-12) and np.all(small[1] <= large[1] + 1e-12)


def test_compiled_programs_enclose_too() -> None:
    """XLA may merge, fuse and flush."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(6, 16)) * 10.0 ** rng.integers(-3, 2, 16)
    d = rng.normal(size=(6, 16)) * 10.0 ** rng.integers(-12, 0, 16)
    for node in (NODES["layer norm"], NODES["softmax"]):
        image = softmax.softmax_image if isinstance(node, n.Softmax) else layer_norm.layer_norm_image
        first = () if isinstance(node, n.Softmax) else (node,)
        last = (0,) if isinstance(node, n.Softmax) else ()
        with jax.enable_x64(True):
            program = jax.jit(lambda a, b, f=image, p=first, q=last: f(*p, Interval(a, a), Interval(b, b), *q))
            found = jax.tree.map(np.asarray, program(jnp.asarray(x), jnp.asarray(d)))
        with localcontext() as context:
            context.prec = 50
            for k in range(x.shape[1]):
                before = truth(node)(list(map(Decimal, x[:, k].tolist())))
                after = truth(node)(
                    [Decimal(a) + Decimal(b) for a, b in zip(x[:, k].tolist(), d[:, k].tolist(), strict=True)]
                )
                rows = before, [b - a for a, b in zip(before, after, strict=True)]
                assert all(holds(np.stack(v)[..., k], row) for v, row in zip(found, rows, strict=True))


@given(seeds, sizes, sizes)
@settings(max_examples=40, deadline=None)
def test_products_of_matrices_hold_every_product(seed, radius, moved) -> None:
    rng = np.random.default_rng(seed)
    shapes = (2, 2, 3), (2, 3, 2)
    xs = [(a := rng.normal(size=s), a + radius * rng.random(s)) for s in shapes]
    ds = [(a := moved * rng.normal(size=s), a + radius * rng.random(s)) for s in shapes]
    own = matrix_product.matrix_product_image(
        *(tuple(Interval(*(end[..., None] for end in v)) for v in part) for part in (xs, ds))
    )
    other = [tuple(CheckerInterval(*(end[None] for end in v)) for v in part) for part in (xs, ds)]
    theirs = checker_matrix_product.product(*other[0]), checker_matrix_product.product_change(*other[0], *other[1])
    exact = np.vectorize(Fraction, otypes=[object])
    for _ in range(3):
        a, b, da, db = (exact(np.where(rng.random(v[0].shape) < 0.5, *v)) for v in (*xs, *ds))
        value = np.stack([p @ q for p, q in zip(a, b, strict=True)])
        change = np.stack([p @ q for p, q in zip(a + da, b + db, strict=True)]) - value
        for enclosures, place in ((own, -1), (theirs, 0)):
            for found, real in zip(enclosures, (value, change), strict=True):
                low, high = (exact(np.squeeze(end, place)) for end in found)
                assert np.all(low <= real) and np.all(real <= high)
    assert matrix_product.matrix_product_image((own[0], own[0]), (None, None))[1] is None
    for image, claimed in zip(theirs, own, strict=True):
        sizes = [np.maximum(-v.lower, v.upper).reshape(-1) for v in (image, claimed)]
        assert np.all(sizes[0] <= sizes[1] * (1 + 1e-12) + 2.0**-800)


def is_sound(name: str) -> tuple[bool, bool]:
    """Whether each engine holds the values and changes of a hundred points."""
    rng, node = np.random.default_rng(6), NODES[name]
    sound = [True, True]
    with localcontext() as context:
        context.prec = 50
        for _ in range(100):
            x, d = rng.normal(size=3), rng.normal(size=3) * 1e-3
            before = truth(node)(list(map(Decimal, x.tolist())))
            after = truth(node)([Decimal(a) + Decimal(b) for a, b in zip(x.tolist(), d.tolist(), strict=True)])
            change = [b - a for a, b in zip(before, after, strict=True)]
            for which, found in enumerate(by_both(node, np.stack([x, x]), np.stack([d, d]))):
                sound[which] = sound[which] and holds(found[0], before) and holds(found[1], change)
    return sound[0], sound[1]


@pytest.mark.parametrize("name", ["layer norm", "softmax"])
def test_missing_outward_rounding_is_seen(name, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_sound(name) == (True, True)
    for module in (layer_norm, softmax, enclosure, checker_layer_norm, checker_softmax):
        for function in ("up", "down"):
            monkeypatch.setattr(module, function, lambda v: v)
    for module in (softmax, checker_layer_norm, checker_softmax):
        for constant in ("_FEW_ROUNDINGS", "_SLACK", "TINY"):
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, 0.0)
        if hasattr(module, "gamma"):
            monkeypatch.setattr(module, "gamma", lambda terms: 0.0)
    monkeypatch.setattr(enclosure, "gamma", lambda terms: 0.0)
    monkeypatch.setattr(checker_pooling, "gamma", lambda terms: 0.0)
    monkeypatch.setattr(elementary, "EXP_MARGIN", 0.0)
    monkeypatch.setattr(elementary, "GROWTH_MARGIN", 0.0)
    monkeypatch.setattr(checker_elementary, "_EXP_MARGIN", 0.0)
    assert is_sound(name) == (False, False)


@pytest.mark.parametrize(("module", "function"), [(layer_norm, "_minus"), (checker_layer_norm, "_less")])
def test_a_wrong_sign_is_seen(module, function, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = getattr(module, function)
    monkeypatch.setattr(module, function, lambda a, b: kept(a, type(b)(-b.upper, -b.lower)))
    assert is_sound("rms norm") != (True, True)


@pytest.mark.parametrize("name", NODES)
def test_first_order_and_remainder_hold_every_change(name) -> None:
    """The plan's derivative and its bounds, which grow at least as fast as the reach."""
    node, rng = NODES[name], np.random.default_rng(7)
    is_softmax = isinstance(node, n.Softmax)
    reached = row_derivatives.softmax_reach if is_softmax else row_derivatives.layer_norm_reach
    moved = row_derivatives.softmax_moved if is_softmax else row_derivatives.layer_norm_moved
    with jax.enable_x64(True):
        x, share = jnp.asarray(rng.normal(size=(300, 5))), jnp.asarray(rng.uniform(-1, 1, (300, 5)))
        reach = jnp.asarray(rng.uniform(0, 1, (300, 5)) * 10.0 ** rng.uniform(-4, 1.7, (300, 1)))
        whole, rest = reached(node, x, reach)
        change = apply_node(node, [x + share * reach]) - apply_node(node, [x])
        assert np.all(np.abs(change) <= whole * (1 + 1e-9) + 1e-12)
        assert np.all(np.abs(change - moved(node, x, share * reach)) <= rest * (1 + 1e-9) + 1e-12)
        _, tangent = jax.jvp(lambda v: apply_node(node, [v]), (x,), (share,))
        np.testing.assert_allclose(moved(node, x, share), tangent, atol=1e-12)
        for bound, smaller in zip((whole, rest), reached(node, x, 0.3 * reach), strict=True):
            assert np.all(smaller <= 0.3 * bound * (1 + 1e-9))
