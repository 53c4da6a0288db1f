"""The code of masks: goldens, a scalar reading of the format, the checker's decoder, damage, and its length."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import constriction
import jax
import jax.numpy as jnp
import mask_code
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slth_compile.checker import decode as checker_decode
from slth_compile.checker import lanes as checker_lanes
from slth_compile.checker import weights as checker_weights
from slth_compile.checker.safetensors import Tensor
from slth_compile.checker.source import Generated as CheckedSource
from slth_compile.constructions.da_cunha import families
from slth_compile.errors import InputError, VerificationError
from slth_compile.graph import nodes as n
from slth_compile.source.layout import Gadget, LayerLayout
from slth_compile.source.source import Generated
from slth_compile.ticket import lanes
from slth_compile.ticket.apply import masked_sums
from slth_compile.ticket.coding import (
    CONTEXTS,
    candidate_contexts,
    context,
    decode,
    decode_family,
    encode,
    encode_family,
)
from slth_compile.ticket.masks import SubsetMask, subset_dtype

GOLDEN = Path(__file__).parent / "golden" / "masks.json"
"""Written by `python tests/test_coding.py`, in plain Python integers."""


class Case:
    """A mask and the contexts of its candidates, in every window up to the largest of the mask."""

    def __init__(self, windows: Any, subsets: Any, contexts: np.ndarray, window: int) -> None:
        self.windows, self.subsets = np.array(windows, np.uint16), np.array(subsets, subset_dtype(window))
        self.contexts, self.window = contexts, window  # (weights, windows, m)

    @property
    def mask(self) -> SubsetMask:
        return SubsetMask(self.windows, self.subsets)

    def of(self, flat: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Contexts as `decode` asks for them."""
        if np.any(windows >= self.contexts.shape[1]):
            raise InputError("masks: no such window")
        return self.contexts[flat, windows]

    def encoded(self) -> np.ndarray:
        kept = np.flatnonzero(self.subsets)
        return encode(self.mask, self.window, self.of(kept, self.windows[kept]))

    def scalar(self) -> bytes:
        return mask_code.encode(
            self.windows.tolist(), self.subsets.tolist(), lambda w, k: self.contexts[w, k].tolist(), self.window
        )

    def checked(self, raw: np.ndarray) -> checker_decode.Mask:
        """What the checker reads."""

        def contexts(windows: np.ndarray, kept: np.ndarray) -> np.ndarray:
            if np.any(windows >= self.contexts.shape[1]):
                raise VerificationError("masks", "no such window")
            return self.contexts[np.flatnonzero(kept), windows[kept]]

        tensor = Tensor("U8", raw.shape, raw)
        return checker_decode.decode_mask(tensor, self.windows.size, self.window, 1 << 15, contexts, "test")


def drawn(size: int, window: int, p: float, seed: int, empty: float = 0.1, levels: int = 4) -> Case:
    """A mask of independent bits, sparser in higher contexts."""
    rng = np.random.default_rng(seed)
    contexts = np.minimum(7, rng.geometric(0.3, (size, levels, window)) - 1).astype(np.uint8)
    windows = np.minimum(levels - 1, rng.geometric(0.8, size) - 1)
    kept = rng.random((size, window)) < p * 0.8 ** contexts[np.arange(size), windows]
    kept[rng.random(size) < empty] = False
    subsets = np.packbits(np.pad(kept, ((0, 0), (0, 64 - window))), axis=1, bitorder="little").view("<u8")[:, 0]
    return Case(np.where(subsets == 0, 0, windows), subsets, contexts, window)


GOLDENS = {
    "nothing kept": lambda: drawn(9, 12, 0.5, 0, empty=1.0),
    "a bias": lambda: drawn(10, 14, 0.5, 1),
    "one weight, one candidate": lambda: Case([0], [1], np.full((1, 1, 1), 7, np.uint8), 1),
    "everything kept": lambda: Case(np.zeros(20), np.full(20, 255), np.zeros((20, 1, 8), np.uint8), 8),
    "a kernel": lambda: drawn(300, 9, 0.4, 2, levels=6),
    "windows of 64": lambda: drawn(40, 64, 0.3, 3),
    "two lanes": lambda: drawn(2100, 64, 0.03, 4, empty=0.97, levels=2),
}


def golden(case: Case) -> dict[str, Any]:
    """A case and its code; `contexts` has a digit for each candidate of the window of each weight that keeps some."""
    kept = np.flatnonzero(case.subsets)
    contexts = case.of(kept, case.windows[kept])
    return {
        "window": case.window,
        "windows": " ".join(map(str, case.windows.tolist())),
        "subsets": " ".join(f"{subset:x}" for subset in case.subsets.tolist()),
        "contexts": " ".join("".join(map(str, row)) for row in contexts.tolist()),
        "code": case.scalar().hex(),
    }


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name):
    """The stored codes are what is written, and both decoders read the mask out of them."""
    entry = json.loads(GOLDEN.read_text())[name]
    case, raw = GOLDENS[name](), np.frombuffer(bytes.fromhex(entry["code"]), np.uint8)
    assert entry == golden(case)
    assert case.encoded().tobytes() == raw.tobytes()
    windows, subsets = [int(k) for k in entry["windows"].split()], [int(v, 16) for v in entry["subsets"].split()]
    again = decode(raw, case.windows.shape, case.window, 1 << 16, case.of)
    assert (again.windows.tolist(), again.subsets.tolist()) == (windows, subsets)
    assert again.subsets.dtype == subset_dtype(case.window)
    found = case.checked(raw)
    assert (found.windows.tolist(), found.subsets.tolist()) == (windows, subsets)


@st.composite
def cases(draw, largest: int = 40) -> Case:
    window = draw(st.integers(1, 64))
    size = draw(st.integers(1, largest))
    subsets = draw(st.lists(st.integers(0, 2**window - 1) | st.just(0), min_size=size, max_size=size))
    windows = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    used = [k if subset else 0 for k, subset in zip(windows, subsets, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    high = draw(st.integers(1, CONTEXTS))
    return Case(used, subsets, rng.integers(0, high, (size, 10, window)).astype(np.uint8), window)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_three_readings_of_the_format_agree(case):
    raw = case.encoded()
    assert raw.tobytes() == case.scalar()
    expected = (case.windows.tolist(), case.subsets.tolist())
    again = decode(raw, case.windows.shape, case.window, 1 << 16, case.of)
    found = case.checked(raw)
    assert (again.windows.tolist(), again.subsets.tolist()) == expected
    assert (found.windows.tolist(), found.subsets.tolist()) == expected
    plain = mask_code.decode(raw.tobytes(), case.windows.size, case.window, lambda w, k: case.contexts[w, k].tolist())
    assert plain == expected


@settings(max_examples=100, deadline=None)
@given(cases(12), st.data())
def test_a_damaged_code_is_refused_or_another_mask(case, data):
    """By both decoders alike: there is one code for a mask, so damage that is read is read as another mask."""
    raw = bytearray(case.encoded().tobytes())
    match data.draw(st.sampled_from(["flip", "cut", "append", "replace"])):
        case "flip":
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        case "append":
            raw += data.draw(st.binary(min_size=1, max_size=12))
        case "replace":
            raw = bytearray(data.draw(st.binary(max_size=60)))
    changed = np.frombuffer(bytes(raw), np.uint8)
    read: list[Any] = []
    for reader, error in (
        (lambda: decode(changed, case.windows.shape, case.window, 1 << 16, case.of), InputError),
        (lambda: case.checked(changed), VerificationError),
    ):
        try:
            found = reader()
        except error as refused:
            assert "masks" in (str(refused) if error is InputError else refused.check)
            read.append(None)
        else:
            read.append((found.windows.tolist(), found.subsets.tolist()))
    assert read[0] == read[1]
    if read[0] is not None and bytes(raw) != case.encoded().tobytes():
        assert read[0] != (case.windows.tolist(), case.subsets.tolist())
        assert Case(*read[0], case.contexts, case.window).encoded().tobytes() == bytes(raw)


def test_numbers_that_promise_too_much_are_refused_at_once():
    """Sizes in a code never decide how much memory is taken."""
    case = GOLDENS["two lanes"]()
    raw = case.encoded()
    begin = 3 + int(case.windows.max()) + CONTEXTS
    for change in (raw[:begin], raw[: begin + 8], np.concatenate([raw[:begin], raw[begin:] * 0 + 255])):
        with pytest.raises(InputError, match="masks"):
            decode(change, case.windows.shape, case.window, 1 << 16, case.of)
        with pytest.raises(VerificationError, match="masks"):
            case.checked(change)


# ---------------------------------------------------------------- on candidates of a seed

NODES = {
    "dense": n.Dense(inputs=(0,), kernel=np.ones((4, 3)), bias=np.ones(3)),
    "groups": n.Convolution(
        inputs=(0,), kernel=np.ones((2, 2, 2, 6)), bias=np.ones(6), stride=(1, 1), padding=((0, 0), (0, 0)),
        dilation=(1, 1), groups=2,
    ),
}  # fmt: skip
SEED, LAYER = 2**40 + 11, 3
TENSORS = {"positive": (0, 1, 1), "negative": (0, 1, -1), "bias": (2, 3, 1)}


@pytest.mark.parametrize("window", [1, 6, 64])
@pytest.mark.parametrize("name", NODES)
def test_the_checker_finds_masks_and_sums_of_a_seed(name, window):
    """Package and checker draw the same candidates, so that one reads what the other wrote, up to the exact sums."""
    rng = np.random.default_rng(window)
    gadget = Gadget(width=6 * window + 30, gain=0, window=window, tolerance=1.0, failure=0.0)
    layout = LayerLayout(signed=True, kernel=gadget, bias=gadget)
    for family in families(Generated(SEED), LAYER, NODES[name], layout):
        shape = family.weights.shape
        available = family.windows[family.channel(np.arange(family.weights.size))].reshape(shape)
        subsets = rng.integers(0, 2**window, shape, np.uint64) * (rng.random(shape) < 0.9).astype(np.uint64)
        windows = np.where(subsets == 0, 0, rng.integers(0, available)).astype(np.uint16)
        mask = SubsetMask(windows, subsets.astype(subset_dtype(window)))
        raw = encode_family(family, mask)
        again = decode_family(family, raw)
        assert np.array_equal(again.windows, windows) and np.array_equal(again.subsets, mask.subsets)
        u, v, sign = TENSORS[family.part]
        groups = 1 if family.part == "bias" else getattr(NODES[name], "groups", 1)
        tensors = (CheckedSource(SEED).tensor(LAYER, number, ()) for number in (u, v))
        part = checker_weights.Part(family.part, *tensors, shape, gadget.width, window, sign, groups)
        contexts = functools.partial(checker_weights.contexts, part)
        offered = gadget.width // window
        tensor = Tensor("U8", raw.shape, raw)
        found = checker_decode.decode_mask(tensor, subsets.size, window, offered, contexts, family.part)
        assert np.array_equal(found.windows, windows.reshape(-1)) and np.array_equal(found.subsets, subsets.reshape(-1))
        assert np.array_equal(checker_weights.effective_integers(part, found), masked_sums(family, mask))
        beyond = np.where(subsets == 0, 0, available).astype(np.uint16)
        with pytest.raises(InputError, match="beyond the usable copies"):
            candidate_contexts(family)(np.flatnonzero(subsets), beyond.reshape(-1)[np.flatnonzero(subsets)])


# ---------------------------------------------------------------- the model and its coder


def test_the_three_tables_are_one():
    for q in range(1, 256):
        table = mask_code.frequencies(q)
        assert lanes.frequencies(q).tolist() == checker_lanes.frequencies(q) == table
        assert sum(table) == 2**24 and min(table) >= 1


@pytest.mark.parametrize("lane_count", [1, 3])
def test_constriction_codes_with_our_table_to_the_bit(lane_count):
    """For every probability the words are those of a coder in integers; every byte is coded once at least."""
    rng = np.random.default_rng(0)
    for q in range(1, 256):
        chance = mask_code.numerator(q) / 32768
        bits = np.concatenate([rng.random(800) < chance, np.unpackbits(np.arange(256, dtype=np.uint8))])
        data = np.packbits(bits, bitorder="little")
        words = lanes.write([data], [q], lane_count)
        assert [lane.tolist() for lane in words] == mask_code.lane_words([bits.tolist()], [q], lane_count)
        # Their own reading of their own words, without ours.
        model = constriction.stream.model.Categorical((lanes.frequencies(q) - 1).astype(np.float32), perfect=False)
        for lane, own in enumerate(words):
            coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(own[::-1]))
            assert coder.decode(model, len(data[lane::lane_count])).tolist() == data[lane::lane_count].tolist()


@given(st.integers(0, 2**20), st.integers(1, 2**20))
def test_the_stored_probability_is_the_nearest(ones, size):
    ones = min(ones, size)
    assert lanes.quantised(ones, size) == checker_lanes.nearest(ones, size)
    q = lanes.quantised(ones, size)
    assert (q == 0) == (ones == 0)
    if 1 < q < 255:
        here, below, above = (abs(mask_code.numerator(k) * size - 32768 * ones) for k in (q, q - 1, q + 1))
        assert (here <= above and here < below) or here == 0


@settings(deadline=None)
@given(st.lists(st.integers(-(2**46), 2**46), min_size=1, max_size=20))
def test_contexts_have_integer_boundaries(values):
    edges = [sign * ((c * c << 40) + off) for c in range(9) for off in (-1, 0, 1) for sign in (-1, 1)]
    values = [v for v in [*values, *[0] * (20 - len(values)), *edges] if abs(v) <= 2**46]  # always as many
    with jax.enable_x64(True):
        found = np.asarray(context(jnp.asarray(values)))
    assert found.dtype == np.uint8
    assert found.tolist() == [mask_code.context(v) for v in values]


# ---------------------------------------------------------------- how long it is


def ideal_bits(case: Case) -> float:
    """Ideal code length of the model: the empirical entropy of every sequence."""
    subsets, windows = case.subsets.tolist(), case.windows.tolist()
    contexts = lambda w, k: case.contexts[w, k].tolist()  # noqa: E731
    total = 0.0
    for bits in mask_code.sequences_of([int(s == 0) for s in subsets], windows, subsets, contexts, case.window):
        p = np.array([np.mean(bits), 1 - np.mean(bits)]) if bits else np.array([1.0])
        total -= len(bits) * float(np.sum(p * np.log2(p, where=p > 0, out=np.zeros_like(p))))
    return total


@pytest.mark.parametrize(("size", "bytes_more", "share"), [(10, 24, 0), (1000, 26, 0.001), (20_000, 24, 0.0045)])
@pytest.mark.parametrize("p", [0.5, 0.2, 0.05])
def test_the_code_is_near_the_ideal_length(size, bytes_more, share, p):
    """A few dozen bytes for a small part, under .5 % for a large one."""
    case = drawn(size, 16, p, 5)
    assert len(case.encoded()) <= ideal_bits(case) / 8 * (1 + share) + bytes_more


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(golden(make()))}" for name, make in GOLDENS.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
