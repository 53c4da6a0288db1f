"""Mutated files of every kind: a right answer or one line of error; memory bounded, nothing run, nothing touched."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import factories
import flax.serialization
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from helpers import TENSORS, save_checkpoint, take_apart

from slth_compile.arguments import load_arrays
from slth_compile.checker.domain import load_domains
from slth_compile.checker.manifest import DomainEntry
from slth_compile.domain import Points
from slth_compile.errors import InputError, SlthError
from slth_compile.source.supplied import read_source, supplied

Random = np.random.Generator
MEBIBYTE = 2**20
LARGE = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1)


class Canary:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# ---------------------------------------------------------------- bytes


def damage(raw: bytes, rng: Random) -> bytes:
    """The bytes after one to three random changes."""
    found = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(found) + 1)) if rng.random() < 0.5 else int(rng.integers(min(len(found), 200) + 1))
        size = int(rng.choice([1, 2, 4, 8, 30]))
        match rng.integers(6):
            case 0:
                found[at : at + 1] = rng.bytes(1)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + size]
            case 3:
                found[at:at] = rng.bytes(size)
            case 4:
                value = int(rng.choice(LARGE[:2] + LARGE[3:])) % 256 ** min(size, 8)
                found[at : at + size] = value.to_bytes(size, "little")
            case _:
                found[at:at] = found[max(0, at - size) : at] * 3
    return bytes(found)


def texts(text: str, rng: Random) -> str:
    """JSON with one or two of its values replaced."""
    tree = json.loads(text)
    for _ in range(rng.integers(1, 3)):
        branch, key = tree, None
        while isinstance(branch, dict | list) and branch:
            keys = list(branch) if isinstance(branch, dict) else list(range(len(branch)))
            above, key = branch, keys[rng.integers(len(keys))]
            branch = above[key]
            if rng.random() < 0.1:
                break
        if key is None:
            continue
        others = [*LARGE, None, True, 1e308, float("nan"), "", "../../x", "x" * 300, [], {}, [[]] * 9, -1.5]
        above[key] = others[rng.integers(len(others))]
        if rng.random() < 0.1:
            del above[key]
    changed = json.dumps(tree)
    return "[" * 20_000 + changed if rng.random() < 0.03 else changed


# ---------------------------------------------------------------- one kind of file each


def mutated_safetensors(folder: Path, rng: Random) -> Path:
    path = save_checkpoint(folder / "m.safetensors", factories.variables())
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    if rng.random() < 0.5:
        path.write_bytes(damage(raw, rng))
    else:
        header = texts(raw[8 : 8 + size].decode(), rng).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size :])
    return path


def header(shape: object, kind: object = "<f4", version: bytes = b"\1\0") -> bytes:
    """The beginning of a `.npy` file."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(text)) + text


def unpickled(folder: Path) -> bytes:
    """An array of objects that say so when they are made."""
    file = io.BytesIO()
    np.save(file, np.array([Canary(folder.parent / "canary")], object), allow_pickle=True)
    return file.getvalue()


ARRAYS: dict[str, Callable[[Path], bytes]] = {
    "huge": lambda _: header((2**20, 2**20)) + bytes(64),
    "overflowing": lambda _: header((2**62, 2**62)) + bytes(64),
    "negative": lambda _: header((-4, -4)) + bytes(64),
    "negative in both": lambda _: header((-(2**40), -(2**40))) + bytes(64),
    "empty and huge": lambda _: header((0, 2**62)),
    "of large items": lambda _: header((1,), "<V1099511627776"),
    "of no items": lambda _: header((2**62,), "<V0"),
    "many axes": lambda _: header((1,) * 80) + bytes(4),
    "bool size": lambda _: header("(True, 2.5)") + bytes(8),
    "objects": unpickled,
    "objects in fields": lambda _: header((1,), [("a", "|O")]) + pickle.dumps(1),
    "subarrays": lambda _: header((1,), [("a", "<f4", (2**30, 2**10))]) + bytes(8),
    "code": lambda _: header("__import__('os').getcwd()") + bytes(64),
    "deep": lambda _: header("(" * 4000),
    "unbalanced": lambda _: header("(1,L", version=b"\1\0"),
    "version 3": lambda _: header((1,), version=b"\3\0") + bytes(4),
    "version 9": lambda _: header((1,), version=b"\x09\0") + bytes(4),
    "header of 4 GB": lambda _: b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    "words": lambda _: header((1,), "<U4") + bytes(16),
    "complex": lambda _: header((1,), "<c16") + bytes(16),
    "dates": lambda _: header((1,), "<M8[s]") + bytes(8),
    "no array": lambda _: b"no array",
    "a pickle": lambda folder: pickle.dumps(Canary(folder.parent / "canary")),
}


def zipped(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return path


def plain_npz(folder: Path, rng: Random) -> Path:
    path = folder / "m.npz"
    save = np.savez if rng.random() < 0.5 else np.savez_compressed
    save(path, x=rng.normal(size=(3, 2)).astype(np.float32), y=np.arange(3))
    return path


def mutated_npz(folder: Path, rng: Random) -> Path:
    path = plain_npz(folder, rng)
    if rng.random() < 0.5:
        path.write_bytes(damage(path.read_bytes(), rng))
        return path
    kind = str(rng.choice(list(ARRAYS)))
    name = str(rng.choice(["x.npy", "x", "../x.npy", "/x.npy", "a/../../x.npy", ".npy", "x.npy\0.npy"]))
    compression = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    zipped(path, [(name, ARRAYS[kind](folder))], compression)
    raw = path.read_bytes()
    if rng.random() < 0.2:  # the method of compression is another, or the member is said to be encrypted
        at = raw.rindex(b"PK\1\2")
        raw = raw[: at + 8] + rng.bytes(4) + raw[at + 12 :]
    path.write_bytes(raw)
    return path


def mutated_msgpack(folder: Path, rng: Random) -> Path:
    path = folder / "m.msgpack"
    raw = flax.serialization.to_bytes(factories.variables())
    if rng.random() < 0.5:
        path.write_bytes(damage(raw, rng))
        return path

    def array(shape, kind, content=bytes(8)):
        return msgpack.ExtType(1, msgpack.packb((shape, kind, content), use_bin_type=True))

    strange = [
        array((2**40,), "float32"), array((-1, -1), "float32"), array((2,), "object"), array((0, 2**62), "float32"),
        array((2,), "V1000000000"), array((0,), "V1000000000", b""), array((1,), "U2"), array((8,), "no_type"),
        array("x", "float32"), array((2.5,), "float32"), msgpack.ExtType(2, b"\x92\1\2"), msgpack.ExtType(3, b"\xc1"),
        msgpack.ExtType(77, b"pickle"), {"__msgpack_chunked_array__": True, "shape": {"0": 2**40}, "chunks": {}},
        {"__msgpack_chunked_array__": True}, {"__msgpack_chunked_array__": True, "shape": [2], "chunks": [1, 2]},
        [], {}, {1: {}}, {"": array((2,), "float32")}, {"a/b": array((2,), "float32"), "a": {"b": 1}}, 2**63, "x" * 999,
    ]  # fmt: skip
    tree = {"params": {"a": strange[rng.integers(len(strange))], "b": strange[rng.integers(len(strange))]}}
    raw = msgpack.packb(tree, strict_types=True)
    if rng.random() < 0.1:
        raw = b"\x81\xa1a" * int(rng.choice([400, 900, 100_000])) + b"\x01"
    if rng.random() < 0.1:
        raw = bytes(rng.choice([0xDD, 0xDF, 0xC6, 0xC9], 1).astype(np.uint8)) + b"\xff\xff\xff\xff" + raw
    path.write_bytes(raw)
    return path


def saved_orbax(folder: Path, rng: Random) -> Path:
    import orbax.checkpoint as ocp

    kept = folder.parent / f"kept{rng.integers(2)}"
    if not kept.exists():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=kept.name == "kept0")) as checkpointer:
            checkpointer.save(kept, factories.variables())
    shutil.copytree(kept, folder / "m")
    return folder / "m"


def mutated_orbax(folder: Path, rng: Random) -> Path:
    path = saved_orbax(folder, rng)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 1)
    described = [p for p in files if p.name in (".zarray", "_METADATA")]
    if rng.random() < 0.5:
        chosen = described[rng.integers(len(described))]
        chosen.write_text(texts(chosen.read_text(), rng))
    elif rng.random() < 0.8:
        chosen = files[rng.integers(len(files))]
        chosen.write_bytes(damage(chosen.read_bytes(), rng))
    else:
        files[rng.integers(len(files))].unlink()
    return path


def mutated_torch(folder: Path, rng: Random) -> Path:
    """A pickle, alone or in the zip that PyTorch writes."""
    path = folder / str(rng.choice(["m.pt", "m.pth"]))
    raw = pickle.dumps({"weight": Canary(folder.parent / "canary"), "more": [1, 2]}, protocol=int(rng.integers(5)))
    raw = damage(raw, rng) if rng.random() < 0.5 else raw
    if rng.random() < 0.5:
        zipped(path, [("m/data.pkl", raw), ("m/version", b"3\n"), ("m/data/0", bytes(16))], zipfile.ZIP_STORED)
    else:
        path.write_bytes(raw)
    return path


def mutated_onnx(folder: Path, rng: Random) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_models import Case, draw, node

    nodes = (
        node("Conv", "a w b", "c", pads=[1, 1, 1, 1], strides=[1, 2]),
        node("BatchNormalization", "c s t m v", "d", epsilon=1e-3),
        node("Clip", "d low high", "e"),
        node("MaxPool", "e", "f", kernel_shape=[2, 2]),
        node("Pad", "f pads", "g"),
        node("Flatten", "g", "h", axis=1),
        node("Reshape", "h shape", "i"),
        node("Gemm", "i k", "y", transB=1),
    )
    tensors = {
        "w": draw(4, 3, 3, 3), "b": draw(4), "s": draw(4), "t": draw(4), "m": draw(4), "v": abs(draw(4)),
        "low": np.float32(-1), "high": np.float32(6), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "shape": np.array([0, -1]), "k": draw(3, 4 * 7 * 5),
    }  # fmt: skip
    proto = Case("fuzz", nodes, tensors=tensors).proto()
    path = folder / "m.onnx"
    if rng.random() < 0.3:
        path.write_bytes(damage(proto.SerializeToString(), rng))
        return path
    for _ in range(rng.integers(1, 3)):
        alter_onnx(proto, rng)
    path.write_bytes(proto.SerializeToString())
    return path


def alter_onnx(proto, rng: Random) -> None:
    """One field of a model becomes another."""
    graph = proto.graph
    chosen = graph.node[rng.integers(len(graph.node))]
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    names = [name for one in graph.node for name in (*one.input, *one.output)]
    number = int(rng.choice(LARGE))
    match rng.integers(10):
        case 0:
            chosen.input[rng.integers(len(chosen.input))] = names[rng.integers(len(names))]
        case 1:
            chosen.op_type = str(rng.choice([*(one.op_type for one in graph.node), "Relu", "If", "Loop", "Expand", ""]))
        case 2:
            for attribute in chosen.attribute:
                if attribute.ints:
                    attribute.ints[rng.integers(len(attribute.ints))] = number
                attribute.i = number
                attribute.type = int(rng.integers(15)) if rng.random() < 0.3 else attribute.type
        case 3 if tensor.dims:
            tensor.dims[rng.integers(len(tensor.dims))] = number
        case 4:
            tensor.data_type = int(rng.integers(25))
        case 5:
            special = np.float32(rng.choice([np.nan, np.inf, -np.inf, 1e38, 1e-45])).tobytes()
            at = 4 * int(rng.integers(max(1, len(tensor.raw_data) // 4)))
            tensor.raw_data = tensor.raw_data[:at] + special + tensor.raw_data[at + 4 :]
        case 6:
            tensor.raw_data = rng.bytes(len(tensor.raw_data))
        case 7:
            tensor.ClearField("raw_data")
            tensor.data_location = 1
            where = ["/etc/passwd", "../secret.bin", "..", "", "m.onnx", "no.bin", "/dev/zero", "\0"]
            tensor.external_data.add(key="location", value=where[rng.integers(len(where))])
            if rng.random() < 0.5:
                tensor.external_data.add(key=str(rng.choice(["offset", "length"])), value=str(number))
        case 8:
            dims = graph.input[0].type.tensor_type.shape.dim
            dims[rng.integers(len(dims))].dim_value = number
        case _:
            order = rng.permutation(len(graph.node))
            nodes = [type(one).FromString(one.SerializeToString()) for one in graph.node]
            del graph.node[:]
            graph.node.extend(nodes[i] for i in order if rng.random() < 0.9)
            if not graph.node:
                graph.node.extend(nodes[:1])


SLOW = pytest.mark.slow

# threads of tensorstore report to the loop of a directory that orbax could not read after orbax has closed it; pytest
# hears of it then, or at a later test
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s)Exception ignored in.*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)

KINDS = {
    "safetensors": mutated_safetensors,
    "npz": mutated_npz,
    "msgpack": mutated_msgpack,
    "orbax": mutated_orbax,
    "torch": mutated_torch,
    "onnx": mutated_onnx,
}


# ---------------------------------------------------------------- what must be true of each


def contents(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def bounded() -> Iterator[Callable]:
    """Runs a function and refuses what it may not do: allocate more than some MiB beyond, or write anything."""

    # tracemalloc and the threads of tensorstore end the process together: there the resident size alone is measured
    def run(function: Callable, folder: Path, at_most: int = 64 * MEBIBYTE, traced: bool = True):
        before, peak = contents(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if traced:
            tracemalloc.start()
        try:
            result = function()
            assert not traced or tracemalloc.get_traced_memory()[1] < at_most
        finally:
            tracemalloc.stop()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 4 * at_most / 1024
        assert contents(folder) == before
        assert not (folder.parent / "canary").exists()
        return result

    yield run


def inspect_mutants(kind: str, numbers: range, cli, bounded, tmp_path: Path, monkeypatch) -> int:
    """How many of the mutants were refused; all of them in the right way."""
    if kind == "torch":
        monkeypatch.setitem(sys.modules, "torch", None)
    refused = 0
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    for number in numbers:
        rng = np.random.default_rng([number, *kind.encode()])
        folder = tmp_path / "folder"
        folder.mkdir()
        path = KINDS[kind](folder, rng)
        done = bounded(lambda path=path: cli("inspect", path), folder, traced=kind != "orbax")
        assert done.code in (0, 2, 4), (kind, number, done.err)
        if done.code:
            assert done.message, (kind, number)
            assert done.code == 4 or "\n" not in done.message, (kind, number, done.err)
            refused += 1
        shutil.rmtree(folder)
    return refused


@pytest.mark.parametrize("kind", [k if k in ("npz", "safetensors") else pytest.param(k, marks=SLOW) for k in KINDS])
def test_some_mutants(kind, cli, bounded, tmp_path, monkeypatch):
    inspect_mutants(kind, range(6 if kind == "orbax" else 12), cli, bounded, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mutants(kind, cli, bounded, tmp_path, monkeypatch):
    refused = inspect_mutants(kind, range(100, 200), cli, bounded, tmp_path, monkeypatch)
    assert refused > 30
    assert kind != "torch" or refused == 100


# ---------------------------------------------------------------- arrays that lie


def domain_from(path: Path):
    entry = DomainEntry(kind="points", digest="0" * 64, stored=False)
    return load_domains((entry,), {}, (2,), path)


READERS: dict[str, Callable[[Path], object]] = {
    "domain": lambda path: Points(load_arrays(str(path), ("x",))["x"]),
    "source": lambda path: supplied(read_source(path)),
    "checker": domain_from,
}


@pytest.mark.parametrize("reader", READERS)
def test_arrays_that_lie(reader, bounded, tmp_path):
    """Every strange array in every reader, stored and deflated, and as `.npy`."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, made in ARRAYS.items():
        for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path = zipped(folder / "m.npz", [("x.npy", made(folder))], compression)
            ends(reader, path, bounded, name)
        (folder / "m.npy").write_bytes(made(folder))
        ends(reader, folder / "m.npy", bounded, name)


def ends(reader: str, path: Path, bounded, name: object) -> None:
    def read():
        with np.errstate(all="ignore"):
            try:
                READERS[reader](path)
            except SlthError as error:
                assert error.exit_code in (2, 3), name
                assert "\n" not in str(error), name
                assert len(str(error)) < 1000, name

    bounded(read, path.parent)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_mutants_of_arrays(reader, bounded, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(100):
        rng = np.random.default_rng([number, 5])
        make = mutated_safetensors if reader == "source" and number % 2 else mutated_npz
        ends(reader, make(folder, rng), bounded, number)


BOMBS = {
    "zeros": (zipfile.ZIP_DEFLATED, 1),
    "many": (zipfile.ZIP_DEFLATED, 4),
    "bzip2": (zipfile.ZIP_BZIP2, 1),
    "lzma": (zipfile.ZIP_LZMA, 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_zip_bombs(name, bounded, tmp_path):
    """Members that unfold a thousandfold, with headers that agree, are refused before they are unfolded."""
    compression, count = BOMBS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    size = 80 * MEBIBYTE // count
    with zipfile.ZipFile(folder / "m.npz", "w", compression, compresslevel=1) as archive:
        for number in range(count):
            with archive.open(f"x{number or ''}.npy", "w") as member:
                member.write(header((size // 8, 2)))
                for _ in range(size // MEBIBYTE):
                    member.write(bytes(MEBIBYTE))
    from slth_compile.frontends.checkpoint import read_checkpoint

    for read in (*READERS.values(), read_checkpoint):
        with pytest.raises(InputError, match=r"unfold|stored nor deflated"):
            bounded(lambda read=read: read(folder / "m.npz"), folder, 8 * MEBIBYTE)


def test_arrays_are_what_numpy_reads(tmp_path):
    """Of an honest file the bounded reader makes the same arrays as NumPy."""
    rng = np.random.default_rng(3)
    arrays = {
        "c": rng.normal(size=(3, 4)), "f": np.asfortranarray(rng.normal(size=(3, 4, 2))), "s": np.float32(2.5),
        "empty": np.zeros((0, 3)), "big": rng.integers(9, size=5).astype(">i4"), "u": np.array(["ab", "c"]),
        "bool": rng.random(7) < 0.5,
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = load_arrays(str(tmp_path / "a.npz"), ("c",))
        with np.load(tmp_path / "a.npz") as expected:
            assert list(found) == expected.files
            for name in expected.files:
                assert found[name].dtype == expected[name].dtype
                assert found[name].flags.writeable
                np.testing.assert_array_equal(found[name], expected[name])
    np.save(tmp_path / "a.npy", arrays["f"])
    np.testing.assert_array_equal(load_arrays(str(tmp_path / "a.npy"), ("x",))["x"], arrays["f"])


def test_pipes_are_not_waited_for(tmp_path, cli):
    for suffix in (".npz", ".safetensors", ".msgpack", ".pt"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        assert "no regular file" in cli("inspect", tmp_path / f"pipe{suffix}").message
    for reader in READERS:
        with pytest.raises(InputError, match="no regular file"):
            READERS[reader](tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="no regular file"):
        read_source(tmp_path / "pipe.safetensors")


@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_orbax_directories_that_announce_too_much(field, cli, bounded, tmp_path):
    """Shapes of terabytes over files of bytes are refused before an array of that shape is made."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = saved_orbax(folder, np.random.default_rng(1))
    if not list(path.rglob(".zarray")):
        shutil.rmtree(path)
        path = saved_orbax(folder, np.random.default_rng(0))
    described = next(path.rglob(".zarray"))
    entry = json.loads(described.read_text())
    described.write_text(json.dumps(entry | {field: [2**40 // 2**8] + [1] * (len(entry[field]) - 1), "fill_value": 0}))
    done = bounded(lambda: cli("inspect", path), folder, traced=False)
    assert done.code == 2
    assert "would unfold" in done.message


# ---------------------------------------------------------------- tickets of random bytes


def mutated_ticket(directory: Path, parts, rng: Random) -> None:
    """A ticket in which one file is noise, with every digest made right where that is possible."""
    files = {f"{name}.safetensors": safetensors.numpy.save(parts.tensors[name]) for name in TENSORS}
    name = str(rng.choice([*files, "manifest", "source"]))
    changed = parts.copy()
    if name == "manifest":
        changed.manifest = json.loads(texts(json.dumps(changed.manifest), rng).lstrip("["))
        changed.manifest |= {"graph": parts.manifest["graph"], "domains": parts.manifest["domains"]}
    elif name == "source":
        files["source.safetensors"] = damage(files["target.safetensors"], rng)
        changed.manifest["version"], changed.manifest["source"] = 3, {"kind": "supplied"}
        changed.manifest["delta"] = None
    else:
        files[name] = damage(files[name], rng)
    changed.write_files(directory, files)


def check_tickets(numbers: range, shared, cli, bounded, tmp_path: Path) -> None:
    parts = take_apart(shared.ticket)
    # what an honest one takes, and what importing takes the first time, is not theirs
    assert cli("verify", shared.ticket, "--quick").code == cli("inspect", shared.ticket).code == 0
    for number in numbers:
        folder = tmp_path / "folder"
        mutated_ticket(folder / "t", parts, np.random.default_rng([number, 9]))
        for command in (["verify", folder / "t", "--quick"], ["inspect", folder / "t"]):
            done = bounded(lambda command=command: cli(*command), folder, 16 * MEBIBYTE)
            assert done.code in (0, 3), (number, command[0], done.err)
            assert not done.code or "\n" not in done.message, (number, command[0], done.err)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_some_tickets_of_noise(shared, cli, bounded, tmp_path):
    check_tickets(range(4), shared, cli, bounded, tmp_path)


@pytest.mark.slow
def test_tickets_of_noise(shared, cli, bounded, tmp_path):
    check_tickets(range(100, 180), shared, cli, bounded, tmp_path)
