"""Input that cannot be used: one clear sentence, the right exit code, nothing written."""

from __future__ import annotations

import errno
import os
import pathlib

import factories
import numpy as np
import pytest
from helpers import OPTIONS, PLAN, copy_ticket, save_checkpoint

import slth_compile as slth
from slth_compile.checker import verify
from slth_compile.ticket import workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared):
    """A directory with all sorts of input; what a command may not add to."""
    tmp_path = tmp_path_factory.mktemp("input")
    x = np.load(shared.points)["x"]
    nan = np.array(x)
    nan[0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x=nan)
    np.savez(tmp_path / "empty.npz", x=x[:0])
    np.savez(tmp_path / "flat.npz", x=x.reshape(6, 9))
    np.savez(tmp_path / "words.npz", x=np.array(["a", "b"]))
    np.savez(tmp_path / "other.npz", inputs=x)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    np.savez(tmp_path / "short.npz", x=x, y=np.zeros(5, np.int64))
    np.savez(tmp_path / "wide.npz", x=x, y=np.zeros((6, 3)))
    np.savez(tmp_path / "named.npz", x=x, y=np.array(list("abcdef")))
    np.savez(tmp_path / "shape.npz", x=x.reshape(6, 9), y=np.zeros(6, np.int64))
    (tmp_path / "pickled.npy").write_bytes(b"")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    whole = shared.points.read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.npz").write_bytes(whole[:60] + bytes(20) + whole[80:])
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "text.npz").write_text("x = 1")
    for name, value in (("nan", np.nan), ("inf", -np.inf)):
        variables = factories.variables()
        kernel = np.array(variables["params"]["conv"]["kernel"])
        kernel[0, 0, 0, 0] = value
        variables["params"]["conv"]["kernel"] = kernel
        save_checkpoint(tmp_path / f"{name}.safetensors", variables)
    variables = factories.variables()
    del variables["params"]["last"]
    save_checkpoint(tmp_path / "part.safetensors", variables)
    normed = factories.variables()
    normed["params"]["norm"] = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    normed["batch_stats"] = {"norm": {"mean": np.zeros(2, np.float32), "var": np.ones(2, np.float32)}}
    save_checkpoint(tmp_path / "normed.safetensors", normed)
    save_checkpoint(tmp_path / "scale.safetensors", {"params": {"x": {}}, "none": {"a": {"b": np.zeros(1)}}})
    import safetensors.numpy

    safetensors.numpy.save_file({"params.scale": np.ones(1, np.float32)}, tmp_path / "weightless.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(pathlib.Path(shared.checkpoint).read_bytes()[:50])
    (tmp_path / "broken.msgpack").write_bytes(b"\xc1\xc1\xc1")
    (tmp_path / "weights.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "file").write_text("a file")
    return tmp_path


def contents(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def compile_with(checkpoint, *, domain=("box:-0.5,1",), eps="30", delta="0.01", factory="tiny", shape="3,3,1", more=()):
    """Arguments of a compile in which one thing is wrong."""
    domains = [part for text in domain for part in ("--domain", text)]
    model = ["--factory", f"factories:{factory}"] if factory else []
    shapes = ["--input-shape", shape] if shape else []
    return [checkpoint, *model, *shapes, "--eps", eps, "--delta", delta, *domains, *more]


BAD: dict[str, tuple[dict, int, str]] = {
    "NaN weight": ({"checkpoint": "nan.safetensors"}, 2, "NaN or infinity"),
    "infinite weight": ({"checkpoint": "inf.safetensors"}, 2, "'conv' kernel"),
    "eps 0": ({"eps": "0"}, 2, "eps"),
    "eps below 0": ({"eps": "-1"}, 2, "eps"),
    "eps no number": ({"eps": "abc"}, 2, "abc"),
    "eps NaN": ({"eps": "nan"}, 2, "eps"),
    "eps infinite": ({"eps": "inf"}, 2, "eps"),
    "eps relative to nothing": ({"eps": "rel"}, 2, "eps"),
    "delta 0": ({"delta": "0"}, 2, "delta"),
    "delta 1": ({"delta": "1"}, 2, "delta"),
    "delta below 0": ({"delta": "-0.1"}, 2, "delta"),
    "delta NaN": ({"delta": "nan"}, 2, "delta"),
    "delta no number": ({"delta": "abc"}, 2, "delta"),
    "eps out of reach": ({"eps": "1e-12"}, 1, "layer 'conv' kernel"),
    "delta out of reach": ({"eps": "1e-11", "delta": "1e-300"}, 1, "layer "),
    "seed below 0": ({"more": ["--seed", "-1"]}, 2, "seed"),
    "seed of 65 bits": ({"more": ["--seed", str(2**64)]}, 2, "seed"),
    "seed no number": ({"more": ["--seed", "x"]}, 2, "seed"),
    "unknown objective": ({"more": ["--objective", "shortest"]}, 2, "closest, sparsest or fewest-bits"),
    "subsets of single products": ({"more": ["--construction", "malach", "--objective", "sparsest"]}, 2, "objective"),
    "single products out of reach": ({"eps": "1e-6", "more": ["--construction", "malach"]}, 1, "copies of an input"),
    "kernels that Pensia's has not": ({"more": ["--construction", "pensia"]}, 4, "1x1 convolutions only"),
    "processes of another form": ({"more": ["--distributed", "2"]}, 2, "HOST:PORT,N,I"),
    "process that is none of them": ({"more": ["--distributed", "localhost:1,2,2"]}, 2, "counted from 0"),
    "unknown option": ({"more": ["--sead", "1"]}, 2, "--sead"),
    "empty domain": ({"domain": ["points:empty.npz"]}, 2, "empty"),
    "empty box": ({"domain": ["box:1,0"]}, 2, "empty"),
    "empty ball": ({"domain": ["balls:unlabelled.npz,0.1,5,6"]}, 2, "empty"),
    "NaN point": ({"domain": ["points:nan.npz"]}, 2, "NaN"),
    "NaN box": ({"domain": ["box:nan,1"]}, 2, "NaN"),
    "endless box": ({"domain": ["box:-inf,1"]}, 2, "finite"),
    "negative radius": ({"domain": ["balls:unlabelled.npz,-1"]}, 2, "radius"),
    "points of another shape": ({"domain": ["points:flat.npz"]}, 2, "shape"),
    "points that are words": ({"domain": ["points:words.npz"]}, 2, "number"),
    "points under another name": ({"domain": ["points:other.npz"]}, 2, "'inputs'"),
    "missing points": ({"domain": ["points:missing.npz"]}, 2, "missing.npz"),
    "half a file of points": ({"domain": ["points:half.npz"]}, 2, "half.npz"),
    "noise in a file of points": ({"domain": ["points:noise.npz"]}, 2, "noise.npz"),
    "a broken zip of points": ({"domain": ["points:zip.npz"]}, 2, "zip.npz"),
    "text instead of points": ({"domain": ["points:text.npz"]}, 2, "text.npz"),
    "pickled points": ({"domain": ["points:pickled.npy"]}, 2, "pickled.npy"),
    "a directory of points": ({"domain": ["points:nowhere"]}, 2, "nowhere"),
    "one bound": ({"domain": ["box:0"]}, 2, "box:LO,HI"),
    "three bounds": ({"domain": ["box:0,1,2"]}, 2, "box:LO,HI"),
    "bounds no numbers": ({"domain": ["box:a,b"]}, 2, "not a number"),
    "no radius": ({"domain": ["balls:unlabelled.npz"]}, 2, "balls:FILE,R"),
    "two numbers of a ball": ({"domain": ["balls:unlabelled.npz,1,2"]}, 2, "balls:FILE,R"),
    "an unknown domain": ({"domain": ["sphere:0,1"]}, 2, "unknown form"),
    "no domain": ({"domain": [""]}, 2, "unknown form"),
    "points of nothing": ({"domain": ["points:"]}, 2, "unknown form"),
    "one bad domain of two": ({"domain": ["box:0,1", "box:1,0"]}, 2, "empty"),
    "no shape": ({"shape": None}, 2, "input shape"),
    "shape no numbers": ({"shape": "a,b"}, 2, "--input-shape"),
    "shape of 0": ({"shape": "0,3,1"}, 2, "--input-shape"),
    "another shape": ({"shape": "5,5,1"}, 2, "shape"),
    "missing checkpoint": ({"checkpoint": "missing.safetensors"}, 2, "does not exist"),
    "broken safetensors": ({"checkpoint": "broken.safetensors"}, 2, "cannot be read"),
    "broken msgpack": ({"checkpoint": "broken.msgpack"}, 2, "cannot be read"),
    "a pickle": ({"checkpoint": "weights.pkl"}, 2, "unknown kind"),
    "an empty directory": ({"checkpoint": "nowhere"}, 2, "orbax"),
    "half the weights": ({"checkpoint": "part.safetensors"}, 2, "does not fit"),
    "no factory": ({"factory": None}, 2, "--factory"),
    "a factory that is not there": ({"factory": "tinny"}, 2, "did you mean 'tiny'"),
    "a factory that is no function": ({"factory": "SHAPE"}, 2, "expected a function"),
    "a factory of no model": ({"factory": "number"}, 2, "returned a int"),
    "a factory that fails": ({"factory": "failing"}, 2, "no such model"),
    "a module that is not there": ({"factory": None, "more": ["--factory", "factory:tiny"]}, 2, "no module named"),
    "a factory without a colon": ({"factory": None, "more": ["--factory", "factories"]}, 2, "package.module:function"),
    "arguments no JSON": ({"more": ["--model-kwargs", "{outputs: 3}"]}, 2, "not JSON"),
    "arguments a list": ({"more": ["--model-kwargs", "[1]"]}, 2, "JSON object"),
    "arguments unknown": ({"more": ["--model-kwargs", '{"inputs": 3}']}, 2, "inputs"),
    "arguments that do not fit": ({"more": ["--model-kwargs", '{"outputs": 3}']}, 2, "does not fit"),
    "train mode": ({"checkpoint": "normed.safetensors", "factory": "training"}, 4, "norm"),
    "dropout": ({"factory": "dropping"}, 4, "train mode"),
    "no weighted layer": ({"checkpoint": "weightless.safetensors", "factory": "weightless"}, 4, "weight"),
    "missing calibration": ({"more": ["--feedback", "missing.npz"]}, 2, "missing.npz"),
    "no calibration": ({"more": ["--feedback", "empty.npz"]}, 2, "at least one"),
    "calibration of another shape": ({"more": ["--feedback", "flat.npz"]}, 2, "(samples, 3, 3, 1)"),
    "NaN in calibration": ({"more": ["--feedback", "nan.npz"]}, 2, "NaN"),
    "calibration of words": ({"more": ["--feedback", "words.npz"]}, 2, "not numbers"),
    "calibration under another name": ({"more": ["--feedback", "other.npz"]}, 2, "'inputs'"),
    "calibration for the sparsest": ({"more": ["--feedback", "short.npz", "--objective", "sparsest"]}, 2, "feedback"),
    "missing labels": ({"more": ["--evaluate", "missing.npz"]}, 2, "missing.npz"),
    "no labels": ({"more": ["--evaluate", "unlabelled.npz"]}, 2, "'y'"),
    "too few labels": ({"more": ["--evaluate", "short.npz"]}, 2, "one label a sample"),
    "labels of another size": ({"more": ["--evaluate", "wide.npz"]}, 2, "labels"),
    "labels that are words": ({"more": ["--evaluate", "named.npz"]}, 2, "labels"),
    "inputs of another shape": ({"more": ["--evaluate", "shape.npz"]}, 2, "evaluate"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name, folder, shared, cli, monkeypatch):
    """Through the command line, in a folder that stays as it was."""
    options, code, words = BAD[name]
    monkeypatch.chdir(folder)
    before = contents(folder)
    options = {"checkpoint": shared.checkpoint} | options
    done = cli("compile", *compile_with(**options), "out", "--json")
    assert (done.code, done.out) == (code, ""), done.err
    assert words in done.message
    assert contents(folder) == before


def test_missing_arguments(cli):
    for arguments in (["compile"], ["verify"], ["report"], ["inspect"], ["no-such-command"]):
        assert cli(*arguments).code == 2
        assert cli(*arguments).message


# ---------------------------------------------------------------- places that cannot be written


def test_an_occupied_output(shared, cli, tmp_path):
    """A ticket, a file, an empty directory, the rest of an interrupted run: said before any work is done."""
    out = copy_ticket(shared.ticket, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "left.partial").mkdir()
    before = contents(tmp_path)
    for name in ("out", "file", "empty"):
        done = cli("compile", *shared.arguments, tmp_path / name)
        assert done.code == 2
        assert "exists already" in done.message
    done = cli("compile", *shared.arguments, tmp_path / "left")
    assert done.code == 2
    assert "--resume" in done.message
    assert contents(tmp_path) == before
    assert verify(out)


def test_an_output_without_a_parent(shared, cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for name in ("no/such/folder", "file/out"):
        done = cli("compile", *shared.arguments, tmp_path / name)
        assert done.code == 2
        assert "not a directory" in done.message
    assert contents(tmp_path) == before


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")
def test_an_unwritable_parent(shared, cli, tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o500)
    done = cli("compile", *shared.arguments, parent / "out")
    assert done.code == 2
    assert "cannot be written" in done.message


def test_a_parent_that_refuses(shared, cli, tmp_path, monkeypatch):
    """What `mkdir` says there, whoever runs this."""

    def refuse(path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    done = cli("compile", *shared.arguments, tmp_path / "out")
    assert done.code == 2
    assert "Permission denied" in done.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1, 3, 6, 8, 12, 15])
def test_a_full_disk(after, shared, cli, tmp_path, monkeypatch):
    """At the key, at a layer, at a file of the ticket: nothing is left behind."""
    left = after
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(workspace.os, "fsync", fsync)
    done = cli("compile", *shared.arguments, tmp_path / "out")
    assert done.code == 2
    assert "No space left on device" in done.message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_ticket(shared, cli, tmp_path, monkeypatch):
    """`--force` deletes last: whatever fails before, the old ticket is there."""
    out = copy_ticket(shared.ticket, tmp_path / "out")
    real = os.rename

    def rename(source: object, target: object) -> None:
        if str(source).endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(workspace.os, "rename", rename)
    done = cli("compile", *shared.arguments, out, "--force", "--seed", "1")
    assert done.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert verify(out).seed == 0


# ---------------------------------------------------------------- other commands


def test_tickets_that_are_none(shared, cli, tmp_path):
    """A path that is no ticket is exit 2; a ticket that is damaged is exit 3."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for command in ("verify", "inspect", "report"):
        assert cli(command, tmp_path / "missing").code == 2
        assert cli(command, tmp_path / "missing").message
        assert cli(command, tmp_path / "file").code == 2
    assert cli("verify", tmp_path / "empty").code == 3
    damaged = copy_ticket(shared.ticket, tmp_path / "damaged")
    (damaged / "masks.safetensors").write_bytes(b"damaged")
    for command in ("verify", "inspect", "report"):
        done = cli(command, damaged, *(["-o", tmp_path / "r.html"] if command == "report" else []))
        assert done.code == 3
        assert done.message.startswith("verification failed: digest: ")
    assert not (tmp_path / "r.html").exists()


def test_domain_data_that_is_none(shared, cli, tmp_path):
    """It is read only where it is needed."""
    assert cli("verify", shared.ticket, "--domain-data", tmp_path / "missing.npz").code == 0


# ---------------------------------------------------------------- from Python


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": None}, "eps"),
        ({"eps": [1]}, "eps"),
        ({"delta": 2.0}, "delta"),
        ({"domain": ()}, "domain"),
        ({"domain": slth.Box(0.0, 1.0, (4, 4, 1))}, "shape"),
        ({"seed": 1.5}, "seed"),
        ({"objective": "shortest"}, "objective is 'shortest'; expected closest, sparsest or fewest-bits"),
        ({"objective": None}, "objective"),
        ({"evaluate": (np.zeros((0, 3, 3, 1)), np.zeros(0))}, "evaluate"),
        ({"evaluate": (np.zeros((2, 3, 3, 1)), 1)}, "evaluate"),
    ],
)
def test_bad_arguments_from_python(options, words):
    model = factories.tiny().bind(factories.variables())
    given = {"eps": 30.0, "domain": slth.Box(0.0, 1.0), "input_shape": factories.SHAPE} | options
    with pytest.raises(slth.InputError, match=words):
        slth.compile(model, **given)


def test_the_options_are_those_of_the_ticket(shared):
    """The arguments in which one thing is changed above are good ones."""
    assert compile_with(shared.checkpoint)[1:5] == OPTIONS
    assert [*compile_with(shared.checkpoint)[5:], "--window", "8"] == PLAN
