"""The independent checker: its parts against published vectors and exact rationals, tickets written by brute force."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import mask_code
import numpy as np
import pytest
from counts import examples

from slth_compile.checker import verify
from slth_compile.checker.__main__ import main
from slth_compile.checker.arithmetic import Interval, dyadic, from_centre, to_centre, two_product
from slth_compile.checker.bounds import output_bounds
from slth_compile.checker.domain import Domain
from slth_compile.checker.fold import Layer, fold
from slth_compile.checker.graph import Graph, parse_graph
from slth_compile.checker.matrices import enclose, spread_scale
from slth_compile.checker.operations import State, unweighted
from slth_compile.checker.safetensors import Tensor, read_safetensors
from slth_compile.checker.signs import nonnegative_nodes
from slth_compile.checker.threefry import entries, tensor_key, threefry2x32
from slth_compile.checker.weighted import weighted
from slth_compile.checker.weights import weight_error
from slth_compile.errors import InputError, VerificationError

# ---------------------------------------------------------------- a second, scalar reading of the format


def scalar_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry2x32-20 on Python integers."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + keys[0]) & 0xFFFFFFFF, (counter[1] + keys[1]) & 0xFFFFFFFF
    for i in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        x = (x + y) & 0xFFFFFFFF
        y = ((y << turn) | (y >> (32 - turn))) & 0xFFFFFFFF ^ x
        if i % 4 == 3:
            n = i // 4 + 1
            x, y = (x + keys[n % 3]) & 0xFFFFFFFF, (y + keys[(n + 1) % 3] + n) & 0xFFFFFFFF
    return x, y


def scalar_entry(seed: int, layer: int, tensor: int, i: int) -> int:
    """Entry `i` of a random tensor, in units of 2^-23."""
    key = scalar_threefry((seed >> 32, seed & 0xFFFFFFFF), (layer, tensor))
    block = i // 2
    return (scalar_threefry(key, (block >> 32, block & 0xFFFFFFFF))[i % 2] >> 8) - (1 << 23)


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A file in safetensors layout."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class Written:
    """The parts of a ticket, to be tampered with and signed again."""

    def __init__(self, manifest: dict, coded: dict[str, Coded], target: dict, domain: dict, claims: list) -> None:
        self.manifest, self.coded, self.target, self.domain, self.claims = manifest, coded, target, domain, claims
        self.masks = {name: part.tensor() for name, part in coded.items()}
        self.witness: dict = {}

    def sign_target(self) -> None:
        """Makes the target's digest right."""
        digest = hashlib.sha256(json.dumps(self.manifest["graph"], sort_keys=True, separators=(",", ":")).encode())
        for name in sorted(self.target, key=lambda key: (int(key.split(".")[0]), key)):
            digest.update(self.target[name][2])
        self.manifest["target_digest"] = digest.hexdigest()

    def sign_domains(self) -> None:
        """Makes the domains' digests right."""
        for i, entry in enumerate(self.manifest["domains"]):
            own = sorted((k.split(".")[1], v) for k, v in self.domain.items() if k.startswith(f"{i}."))
            shape = lambda value: json.dumps(list(value), separators=(",", ":")).encode()  # noqa: E731
            entry["digest"] = hashlib.sha256(
                b"".join(k.encode() + b"\0" + v[0].encode() + shape(v[1]) + v[2] for k, v in own)
            ).hexdigest()

    def save(self, directory: Path) -> Path:
        """Writes the folder, every digest right."""
        self.sign_target()
        self.sign_domains()
        directory.mkdir(exist_ok=True)
        parts = {"masks": self.masks, "target": self.target, "domain": self.domain}
        parts |= {"witness": self.witness} if self.witness else {}
        contents = {f"{name}.safetensors": safetensors_bytes(part) for name, part in parts.items()}
        contents["certificate.json"] = json.dumps(self.claims).encode()
        self.manifest["files"] = {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()}
        contents["manifest.json"] = json.dumps(self.manifest, sort_keys=True, indent=1).encode()
        contents["README.md"] = b"model card\n"
        for name, raw in contents.items():
            (directory / name).write_bytes(raw)
        sums = "".join(f"{hashlib.sha256(raw).hexdigest()}  {name}\n" for name, raw in sorted(contents.items()))
        (directory / "SHA256SUMS").write_text(sums)
        return directory


def brute_force(weight: float, candidates: np.ndarray, gain: int, window: int, tolerance: float) -> tuple[int, int]:
    """The first window with a subset within the tolerance, and that subset."""
    choices = np.array(list(itertools.product((0, 1), repeat=window)))[:, ::-1]
    for k in range(len(candidates) // window):
        sums = choices @ np.ldexp(candidates[k * window : (k + 1) * window].astype(float), gain - 46)
        best = int(np.argmin(np.abs(sums - weight)))
        if abs(sums[best] - weight) < tolerance:
            return (k, best) if best else (0, 0)
    raise AssertionError("no subset within the tolerance: widen the test's gadget")


@dataclasses.dataclass
class Coded:
    """The mask of one part, and what it takes to code it: all usable candidates of each weight."""

    windows: list[int]
    subsets: list[int]
    candidates: list[list[int]]
    window: int

    def tensor(self, empty: list[int] | None = None) -> tuple[str, tuple[int, ...], bytes]:
        """The stored code; a window that does not exist has candidates 0."""

        def contexts(weight: int, number: int) -> list[int]:
            own = self.candidates[weight][number * self.window : (number + 1) * self.window]
            return [mask_code.context(value) for value in own + [0] * (self.window - len(own))]

        raw = mask_code.encode(self.windows, self.subsets, contexts, self.window, empty)
        return "U8", (len(raw),), raw


def gadget_masks(
    seed: int, layer: int, tensors: tuple[int, int], kernel: np.ndarray, groups: int, gadget: dict, sign: int
):
    """The mask of one sign of a kernel of canonical shape `(P, C, S/groups)`."""
    taps, channels, outputs = kernel.shape
    inputs, window = channels // groups, gadget["window"]
    windows, subsets, offered = [], [], []
    for p, t, s in np.ndindex(kernel.shape):
        u = [
            scalar_entry(seed, layer, tensors[0], (j * channels + t) * inputs + t % inputs)
            for j in range(gadget["width"])
        ]
        usable = [j for j, value in enumerate(u) if value * sign > 0]
        v = [scalar_entry(seed, layer, tensors[1], ((j * taps + p) * channels + t) * outputs + s) for j in usable]
        offered.append([u[j] * w for j, w in zip(usable, v, strict=True)])
        candidates = np.array(offered[-1])
        choice = brute_force(float(kernel[p, t, s]), candidates, gadget["gain"], window, gadget["tolerance"])
        windows.append(choice[0])
        subsets.append(choice[1])
    return Coded(windows, subsets, offered, window)


GADGET = {"width": 80, "gain": 0, "window": 8, "tolerance": 0.05, "failure": 1e-5}
DTYPES = {"F16": ("float16", "<f2"), "F32": ("float32", "<f4"), "F64": ("float64", "<f8")}


def stored(array: Any, dtype: str = "F64") -> tuple[str, tuple[int, ...], bytes]:
    """A tensor as it is written."""
    if dtype == "BF16":
        raw = (np.asarray(array, np.float32).view(np.uint32) >> 16).astype("<u2")
    else:
        raw = np.asarray(array, DTYPES[dtype][1])
    return dtype, raw.shape, raw.tobytes()


def described(tensor: tuple[str, tuple[int, ...], bytes]) -> dict[str, Any]:
    """A parameter as the graph describes it."""
    name = "bfloat16" if tensor[0] == "BF16" else DTYPES[tensor[0]][0]
    return {"dtype": name, "shape": list(tensor[1])}


def write(graph: dict, target: dict, layers: list, domains: list, domain: dict, claims: list, seed: int = 7) -> Written:
    """A ticket; `layers` holds `(signed, groups, canonical kernel, bias or None)`, folded by hand."""
    for name, tensor in target.items():
        node, field = name.split(".")
        graph["nodes"][int(node)][field] = described(tensor)
    coded: dict[str, Coded] = {}
    plans = []
    for i, (signed, groups, kernel, bias) in enumerate(layers):
        parts = {"positive": (kernel, (0, 1), groups, 1)}
        if signed:
            parts["negative"] = (kernel, (0, 1), groups, -1)
        if bias is not None:
            parts["bias"] = (np.asarray(bias)[None, None], (2, 3), 1, 1)
        for part, (weights, tensors, g, sign) in parts.items():
            coded[f"{i}.{part}"] = gadget_masks(seed, i, tensors, weights, g, GADGET, sign)
        plans.append({"signed": signed, "kernel": dict(GADGET), "bias": None if bias is None else dict(GADGET)})
    manifest = {
        "format": "slth-ticket",
        "version": 2,
        "generator": "threefry2x32-20-v1",
        "seed": seed,
        "eps": 100.0,
        "delta": 1e-3,
        "objective": "closest",
        "graph": graph,
        "output_names": [""] * len(graph["outputs"]),
        "target_digest": "",
        "layers": plans,
        "domains": [{"kind": kind, "digest": "", "stored": True} for kind in domains],
        "files": {},
    }
    return Written(manifest, coded, target, domain, claims)


def claim(i: int, kind: str, figures: list[list[float]]) -> dict[str, Any]:
    """A certificate."""
    method = "points" if kind == "points" else "interval"
    bound = max(max(leaf) for leaf in figures)
    fixed = {"domain": i, "kind": kind, "method": method, "bound": bound, "lower": 0.0, "per_output": figures}
    return fixed | {"arithmetic": "real", "float32": None}


def dense_ticket() -> Written:
    """One dense layer 2 -> 2 with bias on the box [0, 1]^2; one weight is zero and may have an empty subset."""
    kernel, bias = np.array([[0.25, -0.375], [0.0, 0.5]]), np.array([0.125, -0.25])
    graph = {
        "nodes": [{"op": "input", "inputs": [], "shape": [2]}, {"op": "dense", "inputs": [0]}],
        "outputs": [1],
    }
    target = {"1.bias": stored(bias, "F16"), "1.kernel": stored(kernel, "F32")}
    box = {"0.lower": stored(np.zeros(2)), "0.upper": stored(np.ones(2))}
    return write(graph, target, [(False, 1, kernel[None], bias)], ["box"], box, [claim(0, "box", [[0.15, 0.15]])])


def conv_ticket(pool: tuple[int, int] = (2, 2)) -> Written:
    """Signed layers: convolution, batch norm, leaky relu, max pool, dense; on a box, balls and points."""
    rng = np.random.default_rng(0)
    features = 2 * (2 // pool[0]) * (2 // pool[1])
    kernel, dense = rng.integers(-3, 4, (2, 2, 1, 2)) / 8, rng.integers(-3, 4, (features, 2)) / 8
    scale, mean, variance, offset = (
        np.array([0.5, 0.75]),
        np.array([0.25, 0]),
        np.array([0.75, 3]),
        np.array([0.125, 0]),
    )
    factor = scale / np.sqrt(variance + 0.25)
    graph = {
        "nodes": [
            {"op": "input", "inputs": [], "shape": [3, 3, 1]},
            {"op": "convolution", "inputs": [0], "stride": [1, 1], "padding": [[0, 0], [0, 0]], "dilation": [1, 1]},
            {"op": "batch_norm", "inputs": [1], "epsilon": 0.25},
            {"op": "leaky_relu", "inputs": [2], "slope": 0.25},
            {"op": "max_pool", "inputs": [3], "window": [*pool], "stride": [*pool], "padding": [[0, 0], [0, 0]]},
            {"op": "reshape", "inputs": [4], "shape": [features]},
            {"op": "dense", "inputs": [5]},
        ],
        "outputs": [6, 5],
    }
    graph["nodes"][1]["groups"] = 1
    target = {"1.kernel": stored(kernel, "F32"), "6.kernel": stored(dense, "BF16"), "2.mean": stored(mean, "F64")}
    target |= {"2.variance": stored(variance, "F32"), "2.scale": stored(scale, "F16"), "2.bias": stored(offset)}
    layers = [
        (True, 1, (kernel * factor).reshape(4, 1, 2), -mean * factor + offset),
        (True, 1, dense[None], None),
    ]
    x, full = rng.normal(size=(5, 3, 3, 1)), np.ones((3, 3, 1))
    domain = {"0.lower": stored(-full), "0.upper": stored(full), "1.x": stored(x, "F32")}
    domain |= {"1.radius": stored(full / 8), "1.lower": stored(-full * np.inf), "1.upper": stored(full * 4)}
    domain |= {"2.x": stored(x, "F32")}
    kinds = ["box", "balls", "points"]
    claims = [claim(i, kind, [[9.0] * 2, [9.0] * features]) for i, kind in enumerate(kinds)]
    return write(graph, target, layers, kinds, domain, claims)


DENSE, CONV = dense_ticket(), conv_ticket()


def fails(ticket: Written, directory: Path, change: Callable[[Written], Any], **options: Any) -> str:
    """The name of the check that a changed ticket fails."""
    ticket = copy.deepcopy(ticket)
    change(ticket)
    with pytest.raises(VerificationError) as caught:
        verify(ticket.save(directory), **options)
    return caught.value.check


# ---------------------------------------------------------------- generator, decoding, arithmetic


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(key, counter, words):
    """Random123's published vectors."""
    found = threefry2x32(key, *(np.array([c], np.uint32) for c in counter))
    assert tuple(int(word[0]) for word in found) == words == scalar_threefry(key, counter)


def test_entries_agree_with_a_scalar_generator():
    """Both halves of a block, and addresses beyond 2^33."""
    addresses = np.array([0, 1, 2, 12345, (1 << 33) + 1, (1 << 45) + 6])
    found = entries(tensor_key(0x123456789ABCDEF0, 3, 1), addresses)
    assert found.tolist() == [scalar_entry(0x123456789ABCDEF0, 3, 1, int(i)) for i in addresses]


def test_products_and_dyadics_are_exact():
    """Error-free transformations, in rationals."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(size=200)
    for x, y, p, e in zip(a, b, *two_product(a, b), strict=True):
        assert Fraction(x) * Fraction(y) == Fraction(p) + Fraction(e)
    integers = rng.integers(-(1 << 62), 1 << 62, 200)
    for k, high, low in zip(integers, *dyadic(integers, -50), strict=True):
        assert Fraction(int(k)) / 2**50 == Fraction(high) + Fraction(low)


# ---------------------------------------------------------------- the engine against exact rationals


def node(op: str, *inputs: int, **fields: Any) -> dict[str, Any]:
    """An operation; arrays become parameters."""
    return {"op": op, "inputs": list(inputs), **fields}


def build(nodes: list[dict], outputs: list[int]) -> Graph:
    """A graph with its arrays in place."""
    tensors, plain = {}, []
    for i, fields in enumerate(nodes):
        plain.append(dict(fields))
        for key, value in fields.items():
            if isinstance(value, np.ndarray):
                tensors[f"{i}.{key}"] = Tensor(
                    "F64", value.shape, np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                )
                plain[-1][key] = {"dtype": "float64", "shape": list(value.shape)}
    return parse_graph({"nodes": plain, "outputs": outputs}, tensors)[0]


def rationals(array: np.ndarray) -> np.ndarray:
    """An array of `Fraction`."""
    return np.vectorize(Fraction, otypes=[object])(array)


def correlate(x: np.ndarray, kernel: np.ndarray, layer: Layer) -> np.ndarray:
    """The convolution of one sample, `kernel (P, C/g, S)`, by its definition."""
    x = np.pad(x, (*layer.padding, (0, 0)), constant_values=Fraction(0))
    reach = [(k - 1) * d for k, d in zip(layer.taps, layer.dilation, strict=True)]
    places = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape, reach, layer.stride, strict=False)]
    inputs, outputs = kernel.shape[1:]
    found = np.full((*places, outputs), Fraction(0), object)
    for at in np.ndindex(*places):
        for p, tap in enumerate(np.ndindex(*layer.taps)):
            place = tuple(a * s + k * d for a, s, k, d in zip(at, layer.stride, tap, layer.dilation, strict=True))
            for s in range(outputs):
                group = s // (outputs // layer.groups)
                found[at][s] += (x[place][group * inputs : (group + 1) * inputs] * kernel[p, :, s]).sum()
    return found


def pooled(x: np.ndarray, fields: dict, best: bool) -> np.ndarray:
    """A pool of one sample, by its definition."""
    low = [p[0] for p in fields["padding"]]
    places = [
        (n + sum(p) - k) // s + 1
        for n, k, s, p in zip(x.shape, fields["window"], fields["stride"], fields["padding"], strict=False)
    ]
    found = np.full((*places, x.shape[-1]), Fraction(0), object)
    for at in np.ndindex(*places):
        ends = [
            (a * s - b, a * s - b + k) for a, s, b, k in zip(at, fields["stride"], low, fields["window"], strict=True)
        ]
        part = x[tuple(slice(max(a, 0), b) for a, b in ends)].reshape(-1, x.shape[-1])
        count = math.prod(fields["window"]) if fields.get("count_padding") else len(part)
        found[at] = part.max(axis=0) if best else part.sum(axis=0) / count
    return found


def evaluate(graph: Graph, x: np.ndarray, weighted: Callable[[int, np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """The outputs for one sample, in exact rationals."""
    values: list[np.ndarray] = []
    for i, n in enumerate(graph.nodes):
        a = values[n.inputs[0]] if n.inputs else x
        f = n.fields
        match n.op:
            case "input":
                value = x
            case "convolution" | "dense":
                value = weighted(i, a)
            case "batch_norm":  # variances are chosen so that the root is rational
                root = rationals(np.sqrt(n.arrays["variance"] + f["epsilon"]))
                value = (a - rationals(n.arrays["mean"])) / root * rationals(n.arrays["scale"]) + rationals(
                    n.arrays["bias"]
                )
            case "affine":
                value = a * rationals(n.arrays.get("scale", np.array(1.0))) + rationals(
                    n.arrays.get("shift", np.array(0.0))
                )
            case "relu" | "leaky_relu":
                value = np.maximum(a, Fraction(f.get("slope", 0.0)) * a)
            case "max_pool" | "average_pool":
                value = pooled(a, dict(f), n.op == "max_pool")
            case "mean":
                value = a.sum(axis=f["axes"]) / math.prod(a.shape[axis] for axis in f["axes"])
            case "maximum":
                value = a.max(axis=f["axes"])
            case "add":
                value = a + values[n.inputs[1]]
            case "concatenate":
                value = np.concatenate([values[j] for j in n.inputs], axis=f["axis"])
            case "slice":
                value = a[tuple(itertools.starmap(slice, zip(f["start"], f["limit"], f["stride"], strict=True)))]
            case "pad":
                value = np.pad(a, f["padding"], constant_values=Fraction(0))
            case "dilate":
                value = np.full([(s - 1) * k + 1 for s, k in zip(a.shape, f["factors"], strict=True)], Fraction(0))
                value[tuple(slice(None, None, k) for k in f["factors"])] = a
            case "resample":
                value = np.moveaxis(np.tensordot(rationals(n.arrays["matrix"]), a, (1, f["axis"])), 0, f["axis"])
            case "reshape":
                value = a.reshape(f["shape"])
            case "transpose":
                value = a.transpose(f["permutation"])
            case _:
                raise AssertionError(n.op)
        values.append(np.asarray(value, object))
    return [values[i] for i in graph.outputs]


class Pair:
    """A folded target and a ticket with random weight errors, exactly known."""

    def __init__(self, graph: Graph, signed: bool, exponent: int, rng: np.random.Generator) -> None:
        self.graph, self.folded = graph, fold(graph)
        self.layers, self.exact = {}, {}
        for layer in self.folded.layers:
            scale = spread_scale(layer)
            kernel = layer.canonical(layer.kernel)
            weights = kernel if scale is None else kernel * scale.high
            integers, error = [], []
            for _ in range(1 + signed):
                noise = rng.normal(0, 1e-3, weights.shape)
                integers.append(np.rint(np.ldexp(weights + noise, -exponent)).astype(np.int64))
                error.append(weight_error(integers[-1], exponent, kernel, scale))
            bias, bias_error = None, None
            if layer.bias is not None:
                bias = np.rint(np.ldexp(layer.bias.high + 1e-3 * rng.normal(size=len(layer.bias.high)), -exponent))
                bias_error = weight_error(bias.astype(np.int64), exponent, np.ones(len(bias)), layer.bias)
            self.exact[layer.node] = [self.unfolded(layer, k, exponent) for k in integers], bias, exponent
            self.layers[layer.node] = enclose(layer, error[0], error[1] if signed else None, bias_error)
        self.by_node = {layer.node: layer for layer in self.folded.layers}
        self.plain = {layer.node: layer for layer in fold(Graph(graph.nodes, tuple(range(len(graph.nodes))))).layers}

    @staticmethod
    def unfolded(layer: Layer, integers: np.ndarray, exponent: int) -> np.ndarray:
        """Effective weights in the layout `(P, C/g, S)`, rationals."""
        taps, inputs, outputs = layer.kernel.shape
        found = np.empty(layer.kernel.shape, object)
        for p, i, s in np.ndindex(taps, inputs, outputs):
            per = outputs // layer.groups
            found[p, i, s] = Fraction(int(integers[p, s // per * inputs + i, s % per])) * Fraction(2) ** exponent
        return found

    def difference(self, x: np.ndarray) -> list[np.ndarray]:
        """`|f(x) - g(x)|` for one sample."""

        def target(i: int, a: np.ndarray) -> np.ndarray:
            layer, bias = self.plain[i], self.graph.nodes[i].arrays.get("bias")
            value = correlate(a, rationals(layer.kernel), layer)
            return value if bias is None else value + rationals(bias)

        def ticket(i: int, a: np.ndarray) -> np.ndarray:
            kernels, bias, exponent = self.exact[i]
            layer = self.by_node[i]
            value = correlate(np.maximum(a, Fraction(0)), kernels[0], layer)
            if len(kernels) == 2:
                value = value + correlate(np.minimum(a, Fraction(0)), kernels[1], layer)
            return value if bias is None else value + rationals(bias) * Fraction(2) ** exponent

        x = rationals(x)
        pairs = zip(evaluate(self.graph, x, target), evaluate(self.folded.graph, x, ticket), strict=True)
        return [np.abs(f - g) for f, g in pairs]


def networks(rng: np.random.Generator) -> dict[str, Graph]:
    """Small networks that use every operation."""

    def w(*shape: int) -> np.ndarray:
        return rng.normal(size=shape)

    def conv(
        i: int, kernel: np.ndarray, padding: int = 0, stride: int = 1, dilation: int = 1, groups: int = 1, **more: Any
    ):
        rank = kernel.ndim - 2
        static = {"stride": [stride] * rank, "padding": [[padding, padding]] * rank, "dilation": [dilation] * rank}
        return node("convolution", i, kernel=kernel, groups=groups, **static, **more)

    def norm(i: int, c: int) -> dict:
        return node("batch_norm", i, mean=w(c), variance=np.full(c, 3.75), scale=w(c), bias=w(c), epsilon=0.25)

    window = {"window": [2, 2], "stride": [2, 1], "padding": [[1, 0], [0, 1]]}
    image = node("input", shape=[4, 4, 2])
    dense = [node("input", shape=[3]), node("dense", 0, kernel=w(3, 4), bias=w(4)), node("relu", 1)]
    dense += [node("dense", 2, kernel=w(4, 2))]
    convolutions = [image, conv(0, w(3, 3, 2, 4), 1, 2, bias=w(4)), norm(1, 4), node("relu", 2)]
    convolutions += [conv(3, w(2, 2, 2, 4), 1, groups=2), node("leaky_relu", 4, slope=0.3)]
    convolutions += [node("average_pool", 5, count_padding=True, **window)]
    pools = [image, conv(0, w(2, 2, 2, 3), 1, dilation=2), node("leaky_relu", 1, slope=0.125)]
    pools += [node("max_pool", 2, **window), node("average_pool", 3, count_padding=False, **window)]
    pools += [conv(4, w(1, 1, 3, 2)), node("maximum", 5, axes=[0]), node("mean", 6, axes=[0])]
    residual = [image, norm(0, 2), conv(1, w(3, 3, 1, 2), 1, groups=2), node("relu", 2), node("add", 3, 0)]
    residual += [node("affine", 4, scale=np.array([-0.7, 0.3]), shift=np.array(0.1), trained=False)]
    residual += [node("concatenate", 5, 0, 3, axis=2)]
    residual += [node("slice", 6, start=[0, 1, 1], limit=[4, 4, 6], stride=[2, 1, 2])]
    residual += [node("pad", 7, padding=[[1, 0], [0, 0], [0, 1]]), node("transpose", 8, permutation=[2, 0, 1])]
    residual += [node("reshape", 9, shape=[4, 9]), node("dense", 10, kernel=w(9, 2))]
    residual += [node("affine", 11, scale=w(2), shift=w(2), trained=True)]
    lines = [node("input", shape=[5, 2]), conv(0, w(3, 2, 2), 2, 1, 2, bias=w(2))]
    lines += [node("affine", 1, scale=np.array(0.5), trained=True), node("relu", 2), norm(3, 2)]
    lines += [node("affine", 4, shift=w(2), trained=True)]
    spread = [image, node("resample", 0, axis=1, matrix=np.abs(w(3, 4))), conv(1, w(2, 2, 2, 3)), node("relu", 2)]
    spread += [node("dilate", 3, factors=[3, 2, 1]), conv(4, w(2, 2, 3, 2), 1)]
    spread += [node("resample", 5, axis=0, matrix=w(3, 8)), node("dilate", 6, factors=[1, 1, 2])]
    return {
        "dense": build(dense, [3, 2]),
        "spread": build(spread, [7, 3]),
        "conv": build(convolutions, [6]),
        "pools": build(pools, [7, 5]),
        "residual": build(residual, [12]),
        "lines": build(lines, [5, 3]),
    }


def domains(shape: tuple[int, ...], low: float, rng: np.random.Generator) -> list[tuple[Domain, np.ndarray]]:
    """A box, balls and points in `[low, 1]`, each with samples of its own."""
    x = rng.uniform(low, 1, (3, *shape))
    x[0] = np.where(rng.random(shape) < 0.5, low, 1.0)
    inside = np.clip(x + rng.choice([-0.1, 0, 0.1], x.shape), low, 1)
    full = np.ones(shape)
    return [
        (Domain("box", {"lower": low * full, "upper": full}), x),
        (Domain("balls", {"x": x, "radius": 0.1 * full, "lower": low * full, "upper": full}), inside),
        (Domain("points", {"x": x}), x),
    ]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["dense", "conv", "pools", "residual", "lines"])
def test_bounds_hold_exactly(name, signed):
    """The bound is never below a difference in exact rationals; over points it is equal but for rounding."""
    rng = np.random.default_rng(1)
    pair = Pair(networks(rng)[name], True, -44, rng)
    low = -1.0
    if not signed:  # the layers whose input is >= 0 by structure lose their second sign
        low = 0.0
        nonnegative = nonnegative_nodes(pair.folded, True)
        for i in [i for i in pair.layers if nonnegative[pair.folded.graph.nodes[i].inputs[0]]]:
            kernels, bias, exponent = pair.exact[i]
            pair.exact[i] = [kernels[0], np.full(kernels[0].shape, Fraction(0), object)], bias, exponent
            pair.layers[i] = type(pair.layers[i])(**{**vars(pair.layers[i]), "error_negative": None})
    for domain, samples in domains(pair.graph.nodes[0].shape, low, rng):
        bounds = output_bounds(pair.folded, pair.layers, domain)
        found = [pair.difference(x) for x in samples]
        for leaf, bound in enumerate(bounds):
            worst = np.max([sample[leaf] for sample in found], axis=0)
            assert all(Fraction(b) >= d for b, d in zip(bound.upper.flat, worst.flat, strict=True))
            assert all(Fraction(b) <= d for b, d in zip(bound.lower.flat, worst.flat, strict=True))
            if domain.kind == "points":
                assert np.allclose(bound.upper, worst.astype(float), rtol=1e-9, atol=1e-13)


SHAPE = (3, 4, 2)
POOL = {"window": [2, 3], "stride": [1, 2], "padding": [[1, 0], [0, 2]]}
OPERATIONS = {
    "relu": node("relu", 0),
    "leaky_relu": node("leaky_relu", 0, slope=0.3),
    "identity": node("leaky_relu", 0, slope=1),
    "max_pool": node("max_pool", 0, **POOL),
    "average_pool": node("average_pool", 0, count_padding=True, **POOL),
    "average_pool_of_real_elements": node("average_pool", 0, count_padding=False, **POOL),
    "mean": node("mean", 0, axes=[0, 2]),
    "maximum": node("maximum", 0, axes=[0, 1]),
    "affine": node("affine", 0, scale=np.array([-0.7, 0.3]), shift=np.array([1.1, -0.1]), trained=False),
    "add": node("add", 0, 0),
    "concatenate": node("concatenate", 0, 0, axis=1),
    "slice": node("slice", 0, start=[0, 1, 0], limit=[3, 4, 1], stride=[2, 2, 1]),
    "pad": node("pad", 0, padding=[[1, 0], [0, 2], [0, 0]]),
    "dilate": node("dilate", 0, factors=[2, 1, 3]),
    "resample": node("resample", 0, axis=1, matrix=np.array([[0.3, -0.7, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])),
    "reshape": node("reshape", 0, shape=[24]),
    "transpose": node("transpose", 0, permutation=[2, 0, 1]),
}


def intervals(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Interval:
    """Random intervals, some of width zero, some with an end at zero."""
    ends = np.sort(rng.normal(size=shape) + width * rng.uniform(-1, 1, (2, *shape)), axis=0)
    ends = np.where(rng.random(ends.shape) < 0.1, 0.0, ends)
    ends[1] = np.where(rng.random(shape) < 0.2, ends[0], ends[1])
    return Interval(ends.min(axis=0), ends.max(axis=0))


def members(rng: np.random.Generator, interval: Interval) -> np.ndarray:
    """An element of an interval: ends or, inside, dyadic mixtures."""
    low, high = (rationals(array) for array in interval)
    return low + (high - low) * rationals(rng.integers(0, 3, low.shape) / 2)


def encloses(interval: Interval, value: np.ndarray) -> bool:
    """Whether every exact value lies in its interval, the first of a batch."""
    low, high = (array[0].ravel() for array in interval)
    return all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(low, value.ravel(), high, strict=True))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_enclose_their_images(name):
    """x and d of members of random intervals lie in the image, exactly."""
    rng = np.random.default_rng(5)
    graph = build([node("input", shape=list(SHAPE)), OPERATIONS[name]], [1])

    def run(x: np.ndarray) -> np.ndarray:
        return evaluate(graph, x, lambda i, a: a)[0]

    for width in (0.0, 1e-9, 0.3, 2.0):
        x, d = intervals(rng, (1, *SHAPE), width), intervals(rng, (1, *SHAPE), width)
        d = Interval(d.lower * 0.5, d.upper * 0.5)
        image = unweighted(graph.nodes[1], [State(x, d)] * len(graph.nodes[1].inputs))
        assert image.d is not None
        for _ in range(12):
            y, change = members(rng, x)[0], members(rng, d)[0]
            assert encloses(image.x, run(y))
            assert encloses(image.d, run(y + change) - run(y))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rows", [1, 30, 1100])
def test_weighted_layers_enclose_their_images(rows, signed):
    """Long sums too, whose rounding errors a few ulps of the result do not cover."""
    rng = np.random.default_rng(rows)
    norm = node(
        "batch_norm", 1, mean=rng.normal(size=1), variance=np.full(1, 3.75), scale=np.array([1 / 3]), epsilon=0.25
    )
    dense = node("dense", 0, kernel=rng.normal(size=(rows, 1)), bias=np.array([1e3]))
    pair = Pair(build([node("input", shape=[rows]), dense, {**norm, "bias": np.array([0.1])}], [2]), signed, -40, rng)
    factor = Fraction(1 / 3) / 2
    kernel, mean = rationals(pair.graph.nodes[1].arrays["kernel"][:, 0]) * factor, pair.graph.nodes[2].arrays["mean"][0]
    bias = (1000 - Fraction(mean)) * factor + Fraction(0.1)
    kernels, ticket_bias, _ = pair.exact[1]
    offset = Fraction(ticket_bias[0]) / 2**40 - bias
    for width in (0.0, 1e-3):
        x, d = intervals(rng, (1, rows), width), intervals(rng, (1, rows), width)
        if not signed:
            x = Interval(np.abs(x.lower), np.abs(x.lower) + width)
            d = Interval(np.abs(d.lower), np.abs(d.lower) + width)
        image = weighted(pair.layers[1], x, d)
        for _ in range(4):
            y, change = members(rng, x)[0], members(rng, d)[0]
            z = y + change
            assert encloses(image.x, np.array([kernel @ y + bias]))
            positive, negative = np.maximum(z, Fraction(0)), np.minimum(z, Fraction(0))
            ticket = kernels[0][0, :, 0] @ positive + kernels[-1][0, :, 0] @ negative
            assert image.d is not None
            assert encloses(image.d, np.array([ticket - kernel @ y + offset]))


def test_centres_cover_their_intervals():
    """To centre and radius and back: never narrower, wider by a few ulps."""
    rng = np.random.default_rng(6)
    for width in (0.0, 1e-16, 1.0, 1e18):
        interval = intervals(rng, (500,), width)
        centre, radius = to_centre(interval)
        again = from_centre(centre, radius)
        for low, high, c, r, a, b in zip(*interval, centre, radius, *again, strict=True):
            assert Fraction(c) - Fraction(r) <= Fraction(low) <= Fraction(high) <= Fraction(c) + Fraction(r)
            assert Fraction(a) <= Fraction(c) - Fraction(r) <= Fraction(c) + Fraction(r) <= Fraction(b)
            assert b - a <= (high - low) * (1 + 1e-14) + 3e-15 * max(abs(low), abs(high)) + 1e-200


def test_signs_follow_structure():
    """Only non-negative scales and shifts keep a sign; one negative operand loses it."""
    one = np.ones(2)
    nodes = [node("input", shape=[2]), node("relu", 0), node("affine", 1, scale=one, shift=one, trained=False)]
    nodes += [node("affine", 1, scale=-one, trained=False), node("affine", 1, shift=-one, trained=False)]
    nodes += [node("add", 0, 1), node("add", 1, 2), node("concatenate", 1, 3, axis=0), node("leaky_relu", 0, slope=0.1)]
    nodes += [node("dense", 1, kernel=np.ones((2, 2))), node("softmax", 0, axis=0), node("log_softmax", 0, axis=0)]
    folded = fold(build(nodes, [11]))
    found = [False, True, True, False, False, False, True, False, False, False, True, False]
    assert nonnegative_nodes(folded, False) == found
    assert nonnegative_nodes(folded, True) == [
        True,
        True,
        True,
        False,
        False,
        True,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_signs_of_activations_and_products():
    """Bounded below by zero, or keeping the sign of what they read."""
    always = [node("sigmoid", 0), node("hard_sigmoid", 0, slope=-1.0, offset=0.5), node("clip", 0, low=0.0, high=6.0)]
    always += [node("prelu", 0, slopes=np.array([-1.0, 0.0]))]
    keeps = [node("clip", 0, low=-1.0), node("clip", 0, high=0.5), node("prelu", 0, slopes=np.array([-1.0, 0.5]))]
    keeps += [node(op, 0) for op in ("tanh", "hard_swish", "silu")] + [node("gelu", 0, approximate=True)]
    keeps += [node("multiply", 0, 0), node("multiply", 0, 1), node("layer_norm", 0, epsilon=0.5, centred=False)]
    keeps += [node("dilate", 0, factors=[2]), node("resample", 0, axis=0, matrix=np.array([[0.5, 0.0]]))]
    never = [node("clip", 0, low=-2.0, high=-1.0), node("resample", 0, axis=0, matrix=np.array([[1.0, -0.1]]))]
    nodes = [node("input", shape=[2]), *always, *keeps, *never]
    folded = fold(build(nodes, list(range(1, len(nodes)))))
    for nonnegative in (False, True):
        found = nonnegative_nodes(folded, nonnegative)[1:]
        assert found == [True] * len(always) + [nonnegative] * len(keeps) + [False] * len(never)


REFUSED = {
    "clips to": [node("clip", 0, low=1.0, high=0.5), node("clip", 0)],
    "expected a finite number": [
        node("clip", 0, low=None),
        node("clip", 0, low="0"),
        node("hard_sigmoid", 0, slope=True, offset=0.0),
        node("hard_sigmoid", 0, slope=10**400, offset=0.0),
    ],
    "unknown": [node("clip", 0, low=0.0, top=1.0), node("sigmoid", 0, slope=1.0), node("swish", 0)],
    "lacks": [node("hard_sigmoid", 0, slope=1.0), node("gelu", 0), node("prelu", 0)],
    "expected true or false": [node("gelu", 0, approximate=1)],
    "NaN": [node("prelu", 0, slopes=np.array([0.5, np.nan])), node("prelu", 0, slopes=np.array([0.5, -np.inf]))],
    "does not fit": [
        node("prelu", 0, slopes=np.ones(3)),
        node("prelu", 0, slopes=np.ones((1, 2))),
        node("multiply", 0, 1),
        node("dilate", 0, factors=[2, 2]),
        node("dilate", 0, factors=[1 << 30]),
        node("resample", 0, axis=1, matrix=np.ones((2, 2))),
        node("resample", 0, axis=0, matrix=np.ones((2, 3))),
        node("resample", 0, axis=0, matrix=np.ones(2)),
        node("matrix_product", 0, 1),
    ],
    "expected an integer": [node("dilate", 0, factors=[0]), node("resample", 0, axis=-1, matrix=np.ones((2, 2)))],
    "below 2\\^-1022": [node("resample", 0, axis=0, matrix=np.array([[1.0, 5e-324]]))],
    "do not fit": [node("multiply", 0), node("multiply", 0, 0, 0), node("tanh", 0, 0), node("matrix_product", 0)],
    "epsilon": [node("layer_norm", 0, epsilon=e, centred=True) for e in (0.0, -1.0, 1e-310)],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_activations_and_products_that_do_not_fit(reason):
    for entry in REFUSED[reason]:
        nodes = [node("input", shape=[2]), node("concatenate", 0, 0, axis=0), entry]
        with pytest.raises(VerificationError, match=reason):
            build(nodes, [2])


def test_linear_layer_on_a_box_is_tight():
    """One affine layer: the bound is the exact maximum, over corners, but for rounding."""
    rng = np.random.default_rng(2)
    graph = build([node("input", shape=[3]), node("dense", 0, kernel=rng.normal(size=(3, 2)))], [1])
    pair = Pair(graph, False, -44, rng)
    box = Domain("box", {"lower": np.zeros(3), "upper": np.ones(3)})
    (bound,) = output_bounds(pair.folded, pair.layers, box)
    corners = [pair.difference(np.array(c, float))[0] for c in itertools.product((0, 1), repeat=3)]
    assert np.allclose(bound.upper, np.max(corners, axis=0).astype(float), rtol=1e-12)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_differences_hold(op):
    """Compared in float64, whose rounding is far below the bound's own slack."""
    rng = np.random.default_rng(3)
    graph = build(
        [node("input", shape=[4]), node("dense", 0, kernel=rng.normal(size=(4, 3))), node(op, 1, axis=0)], [2]
    )
    pair = Pair(graph, False, -44, rng)
    x = rng.uniform(0, 1, (20, 4))
    (bound,) = output_bounds(pair.folded, pair.layers, Domain("points", {"x": x}))
    exact = pair.exact[1][0][0][0].astype(float)
    logits = x @ pair.graph.nodes[1].arrays["kernel"], x @ exact
    log = [v - np.log(np.exp(v).sum(axis=1, keepdims=True)) for v in logits]
    f, g = log if op == "log_softmax" else [np.exp(v) for v in log]
    assert (np.abs(f - g).max(axis=0) <= bound.upper).all()
    assert bound.upper.max() < 0.05


def test_folding_is_enclosed_exactly():
    """A weight error behind a batch norm with a rational root lies in its enclosure, which is a few ulps of it wide."""
    rng = np.random.default_rng(4)
    norm = node(
        "batch_norm", 1, mean=rng.normal(size=2), variance=np.full(2, 3.75), scale=rng.normal(size=2), epsilon=0.25
    )
    graph = build([node("input", shape=[2]), node("dense", 0, kernel=rng.normal(size=(2, 2))), norm], [2])
    (layer,) = fold(graph).layers
    integers = np.rint(np.ldexp(layer.kernel * layer.scale.high + 1e-6, 46)).astype(np.int64)
    error = weight_error(integers, -46, layer.kernel, spread_scale(layer))
    for at in np.ndindex(layer.kernel.shape):
        exact = Fraction(int(integers[at])) / 2**46
        exact -= Fraction(layer.kernel[at]) * Fraction(graph.nodes[2].arrays["scale"][at[-1]]) / 2
        assert Fraction(error.lower[at]) <= exact <= Fraction(error.upper[at])
        assert error.upper[at] - error.lower[at] <= 1e-14 * float(abs(exact))


# ---------------------------------------------------------------- whole tickets


@pytest.mark.parametrize("ticket", [DENSE, CONV])
def test_a_true_ticket_is_verified(ticket, tmp_path):
    """It passes, and passes with exactly the checker's own figures as claims."""
    verdict = verify(ticket.save(tmp_path))
    names = "digest format version target domain eps delta sign masks source weights tolerance bound".split()  # noqa: SIM905
    assert {name for name, _ in verdict.checks} == set(names)
    assert all(0 < entry.recomputed <= entry.claimed for entry in verdict.certificates)
    again = verify(tmp_path, expected_id=verdict.ticket_id.upper(), quick=True)
    assert again.certificates == verdict.certificates  # by intervals or at points: quick bounds them too


def test_counts(tmp_path):
    """Weights, random parameters and kept candidates of the dense ticket."""
    verdict = verify(DENSE.save(tmp_path))
    assert (verdict.weights, verdict.parameters_u, verdict.parameters_v) == (6, 80 * 4 + 80, 80 * 4 + 80 * 2)
    assert verdict.kept == sum(subset.bit_count() for part in DENSE.coded.values() for subset in part.subsets)


def test_bound_is_the_formula_on_one_layer(tmp_path):
    """Box [0, 1]: per output the larger of the sums of positive and of negative errors, in rationals."""
    DENSE.save(tmp_path)
    recomputed = verify(tmp_path).certificates[0].recomputed
    seed, gadget = 7, GADGET
    kernel, bias = np.array([[0.25, -0.375], [0.0, 0.5]]), np.array([0.125, -0.25])

    def effective(part: str, tensors: tuple[int, int], shape: tuple[int, int], t: int, s: int) -> Fraction:
        at = t * shape[1] + s
        subset, k = DENSE.coded[f"0.{part}"].subsets[at], DENSE.coded[f"0.{part}"].windows[at]
        c = shape[0]
        u = [scalar_entry(seed, 0, tensors[0], (j * c + t) * c + t) for j in range(gadget["width"])]
        usable = [j for j, value in enumerate(u) if value > 0][k * 8 : k * 8 + 8]
        kept = [j for i, j in enumerate(usable) if subset >> i & 1]
        return sum(
            (Fraction(u[j] * scalar_entry(seed, 0, tensors[1], (j * c + t) * 2 + s), 2**46) for j in kept), Fraction(0)
        )

    worst = Fraction(0)
    for s in range(2):
        errors = [effective("positive", (0, 1), (2, 2), t, s) - Fraction(kernel[t, s]) for t in range(2)]
        offset = effective("bias", (2, 3), (1, 2), 0, s) - Fraction(bias[s])
        ends = offset + sum(e for e in errors if e > 0), offset + sum(e for e in errors if e < 0)
        worst = max(worst, *map(abs, ends))
    assert Fraction(recomputed) >= worst
    assert recomputed == pytest.approx(float(worst), rel=1e-12)


def flip(name: str, weight: int, bit: int) -> Callable[[Written], None]:
    """Flips a bit of a mask."""

    def change(ticket: Written) -> None:
        ticket.coded[name].subsets[weight] ^= 1 << bit
        ticket.masks[name] = ticket.coded[name].tensor()

    return change


def cut(name: str, end: int | None, more: bytes = b"") -> Callable[[Written], None]:
    """A code without its end, and more bytes."""

    def change(ticket: Written) -> None:
        raw = ticket.masks[name][2][:end] + more
        ticket.masks[name] = ("U8", (len(raw),), raw)

    return change


def put(*path: Any) -> Callable[[Written], None]:
    """Sets a manifest value: keys, then the value."""

    def change(ticket: Written) -> None:
        place = ticket.manifest
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


def retarget(ticket: Written) -> None:
    """Another target weight."""
    ticket.target["1.kernel"] = stored(np.array([[0.5, -0.375], [0.0, 0.5]]), "F32")


def smaller(ticket: Written) -> None:
    """A bound that is not true."""
    ticket.claims = [claim(0, "box", [[1e-6, 1e-6]])]


def unsign(ticket: Written) -> None:
    """A layer on signed input that claims one sign."""
    ticket.manifest["layers"][0]["signed"] = False
    del ticket.masks["0.negative"]


def inner_softmax(ticket: Written) -> None:
    """A log-softmax that a layer reads."""
    ticket.manifest["graph"]["nodes"][3] = {"op": "log_softmax", "inputs": [2], "axis": 2}


def recode(*windows: int) -> Callable[[Written], None]:
    """Other windows for the bias."""

    def change(ticket: Written) -> None:
        ticket.coded["0.bias"].windows = list(windows)
        ticket.masks["0.bias"] = ticket.coded["0.bias"].tensor()

    return change


def unflagged(ticket: Written) -> None:
    """A weight that keeps nothing and is not said to."""
    ticket.coded["0.bias"].subsets[0] = 0
    ticket.masks["0.bias"] = ticket.coded["0.bias"].tensor([0, 0])


def negative_box(ticket: Written) -> None:
    """A domain with negative inputs under a one-signed layer."""
    ticket.domain["0.lower"] = stored(-np.ones(2))


TAMPERINGS: dict[str, tuple[Written, Callable[[Written], Any], set[str]]] = {
    "mask": (DENSE, flip("0.positive", 0, 6), {"tolerance"}),
    "window": (DENSE, recode(20, 0), {"masks"}),
    "far window": (DENSE, recode(0, 5), {"masks"}),
    "endless window": (DENSE, recode(0, 6000), {"masks"}),
    "empty": (DENSE, unflagged, {"masks"}),
    "a word more": (DENSE, cut("0.bias", None, bytes(4)), {"masks"}),
    "a byte more": (DENSE, cut("0.bias", None, bytes(1)), {"masks"}),
    "a word less": (DENSE, cut("0.bias", -4), {"masks"}),
    "no words": (DENSE, cut("0.bias", 11), {"masks"}),
    "no code": (DENSE, cut("0.bias", 0), {"masks"}),
    "extra mask": (DENSE, lambda t: t.masks.update({"9.bias": ("U8", (1,), b"\0")}), {"masks"}),
    "missing mask": (DENSE, lambda t: t.masks.pop("0.bias"), {"masks"}),
    "mask of another type": (DENSE, lambda t: t.masks.update({"0.bias": stored(np.zeros(8))}), {"masks"}),
    "mask of another shape": (
        DENSE,
        lambda t: t.masks.update({"0.bias": ("U8", (len(t.masks["0.bias"][2]), 1), t.masks["0.bias"][2])}),
        {"masks"},
    ),
    "target weight": (DENSE, retarget, {"tolerance"}),
    "infinite weight": (DENSE, lambda t: t.target.update({"1.bias": stored([1, np.inf], "F16")}), {"weights"}),
    "seed": (DENSE, put("seed", 8), {"tolerance", "masks"}),
    "seed range": (DENSE, put("seed", 1 << 64), {"source"}),
    "gain": (DENSE, put("layers", 0, "kernel", "gain", 1), {"tolerance"}),
    "width": (DENSE, put("layers", 0, "kernel", "width", 3), {"masks"}),
    "huge width": (DENSE, put("layers", 0, "kernel", "width", 1 << 15), {"source"}),
    "tolerance": (DENSE, put("layers", 0, "kernel", "tolerance", 1e-9), {"tolerance"}),
    "bias": (DENSE, put("layers", 0, "bias", None), {"format"}),
    "bound": (DENSE, smaller, {"bound"}),
    "one output": (DENSE, lambda t: t.claims[0]["per_output"][0].__setitem__(0, 1e-9), {"bound"}),
    "bound below outputs": (DENSE, lambda t: t.claims[0].update(bound=0.14), {"bound"}),
    "method": (DENSE, lambda t: t.claims[0].update(method="points"), {"bound"}),
    "lower": (CONV, lambda t: t.claims[2].update(lower=8.0), {"bound"}),
    "sign": (CONV, unsign, {"sign"}),
    "negative box": (DENSE, negative_box, {"sign"}),
    "sign without masks": (DENSE, put("layers", 0, "signed", True), {"masks"}),
    "empty box": (DENSE, lambda t: t.domain.update({"0.upper": stored(-np.ones(2))}), {"domain"}),
    "nan box": (DENSE, lambda t: t.domain.update({"0.upper": stored([np.nan, 1])}), {"domain"}),
    "no domain": (DENSE, lambda t: (t.manifest.update(domains=[]), t.domain.clear()), {"domain"}),
    "not stored": (CONV, lambda t: (t.manifest["domains"][2].update(stored=False), t.domain.pop("2.x")), {"domain"}),
    "eps": (DENSE, put("eps", 0.01), {"eps"}),
    "eps zero": (DENSE, put("eps", 0.0), {"eps"}),
    "delta": (DENSE, put("delta", 1.0), {"delta"}),
    "failure": (DENSE, put("layers", 0, "kernel", "failure", 2e-3), {"delta"}),
    "version": (DENSE, put("version", 1), {"version"}),
    "generator": (DENSE, put("generator", "threefry2x32-20-v2"), {"version"}),
    "unknown key": (DENSE, put("extra", 1), {"format"}),
    "operation": (DENSE, put("graph", "nodes", 1, "op", "erf"), {"target"}),
    "stated shape": (DENSE, put("graph", "nodes", 1, "kernel", "shape", [4, 1]), {"target"}),
    "no layer": (DENSE, put("layers", []), {"format"}),
    "log-softmax inside": (CONV, inner_softmax, {"target"}),
    "huge input": (DENSE, put("graph", "nodes", 0, "shape", [1 << 30, 2]), {"target"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named(name, tmp_path):
    """Every digest is right again, the content is not."""
    ticket, change, expected = TAMPERINGS[name]
    assert fails(ticket, tmp_path, change) in expected


def test_digests_ids_and_folders(tmp_path):
    """What the listing of files catches, before anything is read."""
    DENSE.save(tmp_path)
    with pytest.raises(VerificationError, match="ticket id"):
        verify(tmp_path, expected_id="0" * 64)
    with pytest.raises(InputError):
        verify(tmp_path / "missing")

    def check(*, undo: Path | None = None) -> str:
        with pytest.raises(VerificationError) as caught:
            verify(tmp_path)
        if undo is not None:
            undo.rmdir() if undo.is_dir() and not undo.is_symlink() else undo.unlink()
        return caught.value.check

    (tmp_path / "folder").mkdir()
    assert check(undo=tmp_path / "folder") == "format"
    (tmp_path / "stats.json").symlink_to(tmp_path / "manifest.json")
    assert check(undo=tmp_path / "stats.json") == "format"
    (tmp_path / "report.md").write_text("unlisted")
    assert check(undo=tmp_path / "report.md") == "digest"
    os.mkfifo(tmp_path / "report.md")
    assert check(undo=tmp_path / "report.md") == "format"
    (tmp_path / "README.md").write_text("changed")
    assert check() == "digest"
    DENSE.save(tmp_path)
    DENSE.manifest["files"]["masks.safetensors"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(DENSE.manifest))
    assert check() == "digest"
    (tmp_path / "masks.safetensors").unlink()
    assert check() == "format"


def test_a_domain_from_outside(tmp_path):
    """Points that are not stored are taken from an .npz of the right digest, balls too."""
    ticket = copy.deepcopy(CONV)
    ticket.save(tmp_path / "full")
    digests = [entry["digest"] for entry in ticket.manifest["domains"]]
    parts = {name: ticket.domain.pop(name) for name in list(ticket.domain) if not name.startswith("0.")}
    for entry in ticket.manifest["domains"][1:]:
        entry["stored"] = False
    ticket.sign_domains = lambda: None
    for entry, digest in zip(ticket.manifest["domains"], digests, strict=True):
        entry["digest"] = digest
    ticket.save(tmp_path / "out")
    x = np.frombuffer(parts["2.x"][2], "<f4").reshape(parts["2.x"][1])
    np.savez(tmp_path / "x.npz", x=x, radius=0.125, upper=4.0)
    verdict = verify(tmp_path / "out", domain_data=tmp_path / "x.npz")
    assert verdict.certificates == verify(tmp_path / "full").certificates
    np.savez(tmp_path / "x.npz", x=x + 1, radius=0.125, upper=4.0)
    with pytest.raises(VerificationError, match="domain"):
        verify(tmp_path / "out", domain_data=tmp_path / "x.npz")
    (tmp_path / "x.npz").write_text("not an archive")
    with pytest.raises(InputError):
        verify(tmp_path / "out", domain_data=tmp_path / "x.npz")


# ---------------------------------------------------------------- hostile files


def places(value: Any, path: tuple = ()):
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


HOSTILE = [
    None,
    True,
    -1,
    0,
    1 << 31,
    10**400,
    -(10**30),
    1e308,
    0.5,
    "",
    "\ud800",
    [],
    [[]],
    {},
    [1 << 40] * 3,
    {"a": 1},
]


@pytest.mark.parametrize("ticket", [DENSE, CONV])
def test_hostile_json_values(ticket, tmp_path):
    """Any value anywhere in manifest or certificate: verified or refused, never another exception."""
    parts = [(part, path) for part in ("manifest", "claims") for path in places(getattr(ticket, part))]
    cases = list(itertools.product([(m, p) for m, p in parts if p[0] not in ("files", "target_digest")], HOSTILE))
    refused = 0
    count = examples(400, 200)
    for case in np.random.default_rng(0).permutation(len(cases))[:count]:
        (part, path), value = cases[case]
        changed = copy.deepcopy(ticket)
        place = getattr(changed, part)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        try:
            verify(quietly(changed, tmp_path))
        except VerificationError as error:
            refused += 1
            assert len(str(error)) < 2000
            str(error).encode("ascii")
    assert refused > 0.75 * count


def quietly(ticket: Written, directory: Path) -> Path:
    """Saved, with the digests that can still be computed."""
    signing = ticket.sign_domains

    def attempt() -> None:
        with contextlib.suppress(AttributeError, TypeError, KeyError):
            signing()

    ticket.sign_domains = attempt
    return ticket.save(directory)


@pytest.mark.parametrize(
    "name", ["manifest.json", "certificate.json", "masks.safetensors", "target.safetensors", "SHA256SUMS"]
)
def test_damaged_bytes(name, tmp_path):
    """Truncated, extended, overwritten, empty, nested or binary files, with right sums: refused by name."""
    CONV.save(tmp_path)
    original = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    variants = [
        b"",
        b"\0",
        original[:9],
        original[:-1],
        original + b"\0",
        b"[" * 200_000,
        b"\xff" * 64,
        b"{}",
        b"NaN",
        b"[]",
    ]
    for _ in range(30):
        at = int(rng.integers(len(original)))
        variants.append(original[:at] + bytes([original[at] ^ int(rng.integers(1, 256))]) + original[at + 1 :])
    for raw in variants:
        (tmp_path / name).write_bytes(raw)
        if name != "SHA256SUMS":
            sign(tmp_path)
        try:
            verify(tmp_path)
        except VerificationError:
            continue
        assert name in ("certificate.json", "manifest.json", "target.safetensors", "masks.safetensors")


def sign(directory: Path) -> None:
    """Makes the digests of a folder's manifest and sums right, where the manifest can be read."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        manifest["files"] = {
            name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in manifest["files"]
        }
        (directory / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256((directory / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    (directory / "SHA256SUMS").write_text("".join(sums))


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "raw",
    [
        header({}, length=1 << 62),
        header({}, length=3),
        header({"a": ONE}, b"\0" * 5),
        header({"a": ONE}, b"\0" * 3),
        header({"a": ONE, "b": ONE}, b"\0" * 4),
        header({"a": {**ONE, "data_offsets": [4, 8]}}, b"\0" * 8),
        header({"a": {**ONE, "data_offsets": [4, 0]}}, b"\0" * 4),
        header({"a": {**ONE, "shape": [-1]}}, b"\0" * 4),
        header({"a": {**ONE, "shape": [1 << 80]}}, b"\0" * 4),
        header({"a": {**ONE, "shape": [0, 1 << 39], "data_offsets": [0, 0]}, "b": {**ONE, "shape": [2]}}, b"\0" * 4),
        header({"a": {**ONE, "dtype": "I64"}}, b"\0" * 4),
        header({"a": {**ONE, "extra": 1}}, b"\0" * 4),
        header({"a": ONE, "__metadata__": {"k": 1}}, b"\0" * 4),
        header(b'{"a":1,"a":1}'),
        header([ONE]),
    ],
)
def test_safetensors_reader_refuses(raw, tmp_path):
    """Headers that lie about sizes, types or offsets."""
    (tmp_path / "f").write_bytes(raw)
    with pytest.raises(VerificationError, match="format"):
        read_safetensors(tmp_path / "f")


def test_safetensors_reader_reads(tmp_path):
    """All five types, at exactly their values."""
    values = np.array([[1.5, -0.25]])
    tensors = {dtype: stored(values, dtype) for dtype in ("F16", "BF16", "F32", "F64")}
    (tmp_path / "f").write_bytes(safetensors_bytes(tensors))
    for tensor in read_safetensors(tmp_path / "f").values():
        assert np.array_equal(tensor.float64(), values)


# ---------------------------------------------------------------- the command


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "slth_compile", "sitecustomize"):
            raise ImportError(f"blocked {name}")
sys.meta_path.insert(0, Blocker())
import runpy
sys.argv = ["checker", *sys.argv[1:]]
runpy.run_module("slth_compile.checker", run_name="__main__")
"""


def test_command_needs_numpy_only(tmp_path):
    """With every third-party package but NumPy blocked, a verdict is printed."""
    DENSE.save(tmp_path)
    package = Path(sys.modules["slth_compile.checker"].__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(package)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", BLOCKER, *arguments], env=environment, capture_output=True, text=True
        )

    done = run(str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "verified"
    assert "numpy" not in done.stdout.lower()
    (tmp_path / "README.md").write_text("changed")
    done = run(str(tmp_path), "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["check"] == "digest"
    assert done.stderr.startswith("verification failed: digest: ")
    assert done.stderr.count("\n") == 1


def test_exit_codes(tmp_path, capsys):
    """0 verified, 2 usage, 3 false."""
    DENSE.save(tmp_path)
    assert main([str(tmp_path), "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    assert main([str(tmp_path / "missing")]) == 2
    assert main([str(tmp_path), "--id", "ab"]) == 3
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
