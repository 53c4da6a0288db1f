"""Every command on good input: what it prints, what it writes, that it says nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import factories
import flax.serialization
import numpy as np
import pytest
from helpers import OPTIONS, PLAN, copy_ticket, save_checkpoint

import slth_compile as slth
from slth_compile.checker import verify


def other_checkpoint(folder: Path) -> Path:
    """The same model with another weight."""
    variables = factories.variables()
    variables["params"]["last"]["bias"] = np.asarray([0.25, 0.5], np.float32)
    return save_checkpoint(folder / "other.safetensors", variables)


# ---------------------------------------------------------------- compile


def test_compile_prints_one_json_object(shared, cli, tmp_path):
    """With labelled data: accuracies; the attack beside each bound; stdout is one object, stderr silent."""
    out = tmp_path / "out"
    arguments = [a for a in shared.arguments if a != "--no-attack"]
    done = cli("compile", *arguments, out, "--json", "--evaluate", shared.points, "--literal")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert done.out.count("\n") == 1
    verdict = verify(out)
    assert found["ticket_id"] == verdict.ticket_id == verify(shared.ticket).ticket_id
    assert found["out"] == str(out)
    evaluation = found["measured"]["evaluation"]
    assert evaluation["samples"] == 6
    assert evaluation["ticket"] == evaluation["literal"]
    compiled = slth.load(out)
    for row, certificate in zip(compiled.measured.attacks, compiled.certificates, strict=True):
        assert row is not None
        assert row.value <= certificate.bound
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("kind", ["msgpack", "orbax"])
def test_compile_other_checkpoints(kind, shared, cli, tmp_path):
    """The same weights from another file are the same ticket."""
    path = tmp_path / ("tiny.msgpack" if kind == "msgpack" else "tiny")
    if kind == "msgpack":
        path.write_bytes(flax.serialization.to_bytes(factories.variables()))
    else:
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, factories.variables())
    done = cli("compile", path, *shared.arguments[1:], tmp_path / "out", "--quiet")
    assert done.code == 0, done.err
    assert verify(tmp_path / "out").ticket_id == verify(shared.ticket).ticket_id
    assert verify(shared.ticket).ticket_id[:12] in done.out
    assert done.err == ""


def test_compile_with_model_kwargs_seed_and_the_default_domain(cli, tmp_path):
    """Another number of outputs; balls as the domain; another seed in the manifest."""
    variables = factories.variables()
    last = {"kernel": np.full((8, 3), 0.25, np.float32), "bias": np.zeros(3, np.float32)}
    variables["params"]["last"] = last
    checkpoint = save_checkpoint(tmp_path / "three.safetensors", variables)
    np.savez(tmp_path / "x.npz", x=np.full((2, 3, 3, 1), 0.5))
    done = cli("compile", checkpoint, tmp_path / "out", *OPTIONS, "--model-kwargs", '{"outputs": 3}',
               "--seed", 2**64 - 1, "--eps", "30", "--delta", "0.01", "--domain", f"balls:{tmp_path / 'x.npz'},0.1,0,1",
               "--no-attack", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    verdict = verify(tmp_path / "out")
    assert verdict.seed == 2**64 - 1
    assert [certificate.kind for certificate in verdict.certificates] == ["balls"]


def test_an_eps_above_every_weight_needs_no_masks(shared, cli, tmp_path):
    """A statement that the empty ticket meets is compiled to a ticket that keeps next to nothing, and verified."""
    done = cli("compile", shared.checkpoint, tmp_path / "out", *OPTIONS, "--eps", "1000", "--no-attack", "--quiet")
    assert done.code == 0, done.err
    assert verify(tmp_path / "out").kept == 0


def test_relative_eps(shared, cli, tmp_path):
    """A share of the largest output over the points."""
    done = cli("compile", shared.checkpoint, tmp_path / "out", *OPTIONS, "--eps", "10rel", "--dry-run", "--json")
    absolute = json.loads(done.out)["layout"]["eps"]
    assert 1 < absolute < 100


def test_dry_run_prints_the_plan_and_writes_nothing(shared, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("compile", *shared.arguments, tmp_path / "out", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "conv" in done.out
    assert "promised bound" in done.out
    done = cli("compile", *shared.arguments, tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["layout"]["eps"] == 30.0
    assert plan["failure"] <= 0.01
    assert [layer["name"] for layer in plan["layers"]] == ["conv", "last"]
    manifest = json.loads((shared.ticket / "manifest.json").read_bytes())
    assert plan["layout"]["layers"] == manifest["layers"]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- verify, inspect, report


def test_verify(shared, cli):
    done = cli("verify", shared.ticket)
    assert (done.code, done.err) == (0, "")
    *_, first, second, last = done.out.splitlines()
    assert last == "verified"
    for line, claim in zip((first, second), json.loads((shared.ticket / "certificate.json").read_bytes()), strict=True):
        assert f"; {claim['arithmetic']}), recomputed " in line
        assert line.endswith("not stated" if claim["float32"] is None else f"in float32: <= {claim['float32']!r}")
    ticket_id = verify(shared.ticket).ticket_id
    done = cli("verify", shared.ticket, "--id", ticket_id, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["ticket_id"] == ticket_id
    quick = cli("verify", shared.ticket, "--quick", "--json")
    entries = json.loads(quick.out)["certificates"]
    assert quick.code == 0 and all((e["recomputed"] is None) == (e["method"] == "backward") for e in entries)
    assert cli("verify", shared.ticket, "--id", "0" * 64).message.startswith("verification failed: ticket id: ")


def test_verify_against_a_model(shared, cli, tmp_path):
    """The right model passes, one with another weight does not, and a file that is missing is another matter."""
    assert cli("verify", shared.ticket, "--against", shared.checkpoint, *OPTIONS).code == 0
    wrong = cli("verify", shared.ticket, "--against", other_checkpoint(tmp_path), *OPTIONS)
    assert wrong.code == 3
    assert wrong.message.startswith("verification failed: target: ")
    assert wrong.out == ""
    assert cli("verify", shared.ticket, "--against", tmp_path / "missing.safetensors", *OPTIONS).code == 2
    assert cli("verify", shared.ticket, "--against", shared.checkpoint).code == 2


def test_inspect_a_ticket(shared, cli):
    done = cli("inspect", shared.ticket)
    assert (done.code, done.err) == (0, "")
    assert verify(shared.ticket).ticket_id[:12] in done.out
    done = cli("inspect", shared.ticket, "--json")
    assert json.loads(done.out)["ticket_id"] == verify(shared.ticket).ticket_id


def test_inspect_a_model(shared, cli):
    done = cli("inspect", shared.checkpoint, *OPTIONS)
    assert (done.code, done.err) == (0, "")
    for word in ("convolution", "relu", "dense", "conv", "last"):
        assert word in done.out
    found = json.loads(cli("inspect", shared.checkpoint, *OPTIONS, "--json").out)
    manifest = json.loads((shared.ticket / "manifest.json").read_bytes())
    assert found["graph"] == manifest["graph"]
    assert found["totals"] == {"layers": 2, "weights": 24, "parameters": 28, "bytes": 112}
    rows = {row["name"]: row for row in found["nodes"]}
    assert (rows["conv"]["sign"], rows["last"]["sign"]) == ("one-signed for inputs >= 0", "one-signed")
    assert (rows["conv"]["receptive_field"], rows["last"]["receptive_field"]) == ([2, 2], None)
    assert (found["layout"], found["inferred"], found["refused"]) == ("flax", [], [])


def test_inspect_a_checkpoint(shared, cli, tmp_path):
    """Without a factory its arrays and what to pass; no ticket is asked for."""
    done = cli("inspect", shared.checkpoint)
    assert (done.code, done.err) == (0, "")
    for word in ("params/conv/kernel", "2x2x1x2", "float32", "convolution (taps, in/groups, out)", "--factory"):
        assert word in done.out
    found = json.loads(cli("inspect", shared.checkpoint, "--json").out)
    assert (found["layout"], found["elements"], len(found["arrays"])) == ("flax", 28, 4)
    np.savez(tmp_path / "m.npz", **{"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)})
    found = json.loads(cli("inspect", tmp_path / "m.npz", "--json").out)
    assert (found["layout"], found["arrays"][0]["reading"]) == ("torch", "linear (out, in)")
    assert "--input-shape" in found["hint"]
    (tmp_path / "empty").mkdir()
    done = cli("inspect", tmp_path / "empty")
    assert done.code == 2
    assert "no orbax directory" in done.message and "manifest.json" in done.message


def test_inspect_what_is_refused(shared, cli):
    """The graph as far as it goes on stdout, every refusal on stderr, exit code 4."""
    options = ["--factory", "factories:refused", "--input-shape", "3,3,1"]
    done = cli("inspect", shared.checkpoint, *options)
    assert done.code == 4
    for word in ("convolution", "refused: sort", "refused: cos", "dense"):
        assert word in done.out
    assert done.message.startswith("unsupported model:")
    assert "sort" in done.message and "cos" in done.message
    done = cli("inspect", shared.checkpoint, *options, "--json")
    found = json.loads(done.out)
    assert (done.code, found["graph"], len(found["refused"])) == (4, None, 2)


def test_a_pytorch_checkpoint(shared, cli, tmp_path):
    """Compiled from PyTorch's names and layouts, the ticket is that of the flax checkpoint; verify compares targets."""
    parameters = factories.variables()["params"]
    conv, last = (np.asarray(parameters[name]["kernel"]) for name in ("conv", "last"))
    state = {
        "conv.weight": conv.transpose(3, 2, 0, 1),
        "conv.bias": np.asarray(parameters["conv"]["bias"]),
        "last.weight": last.reshape(2, 2, 2, 2).transpose(3, 2, 0, 1).reshape(2, 8),
        "last.bias": np.asarray(parameters["last"]["bias"]),
    }
    np.savez(tmp_path / "m.npz", **state)
    done = cli("verify", shared.ticket, "--against", tmp_path / "m.npz", *OPTIONS)
    assert done.code == 0, done.err
    assert "1 layers reordered from channels first" in done.err
    assert cli("verify", shared.ticket, "--against", tmp_path / "m.npz", *OPTIONS, "--layout", "flax").code == 2
    found = json.loads(cli("inspect", tmp_path / "m.npz", *OPTIONS, "--json").out)
    assert found["inferred"] == ["'last': inputs reordered, PyTorch flattens channels first"]
    assert found["graph"] == json.loads((shared.ticket / "manifest.json").read_bytes())["graph"]


def test_report(shared, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("report", shared.ticket)
    assert (done.code, done.out, done.err) == (0, "report.html\n", "")
    assert (tmp_path / "report.html").read_bytes() == (shared.ticket / "report.html").read_bytes()
    assert cli("report", shared.ticket).code == 2
    assert cli("report", shared.ticket, "--force").code == 0
    assert cli("report", shared.ticket, "-o", "card.md").code == 0
    assert (tmp_path / "card.md").read_bytes() == (shared.ticket / "report.md").read_bytes()
    assert cli("report", shared.ticket, "-o", "no/where.html").code == 2
    assert verify(shared.ticket)


# ---------------------------------------------------------------- the frame


def test_version_and_help(cli):
    done = cli("--version")
    assert (done.code, done.out, done.err) == (0, f"slth-compile {slth.__version__}\n", "")
    for arguments in ([], ["--help"], ["compile", "--help"], ["verify", "-h"]):
        done = cli(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "Usage" in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slth-compile ", {"compile", "verify", "inspect", "certify"}),
        ("slth-compile compile m out --effort ", {"quick", "normal", "full"}),
        ("slth-compile compile m out --objective f", {"fewest-bits"}),
        ("slth-compile compile m out --construction m", {"malach"}),
        ("slth-compile compile m out --lay", {"--layout"}),
        ("slth-compile compile ", set()),
    ],
)
def test_completion(words, expected, cli, monkeypatch):
    """What bash is told; where it is told nothing it completes paths."""
    monkeypatch.setenv("_SLTH_COMPILE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    done = cli()
    assert (done.code, done.err) == (0, "")
    assert expected <= set(done.out.split())
    assert bool(expected) == bool(done.out.split())


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["compil"], "compile"),
        (["compile", "m", "o", "--sead", "1"], "--seed"),
        (["compile", "m", "o", "--domain", "boxx:0,1"], "box"),
        (["compile", "m", "o", "--objective", "sparse"], "sparsest"),
        (["compile", "m", "o", "--construction", "malak"], "malach"),
        (["compile", "m", "o", "--effort", "ful"], "full"),
        (["compile", "m", "o", "--layout", "pytorch"], "torch"),
        (["compile", "m", "o", "--factory", "factories:tinny"], "tiny"),
    ],
)
def test_close_names_are_suggested(arguments, meant, shared, cli, tmp_path):
    arguments = [{"m": shared.checkpoint, "o": tmp_path / "o"}.get(a, a) for a in arguments]
    more = [] if "--factory" in arguments or len(arguments) == 1 else OPTIONS[:2]
    done = cli(*arguments, *more, *(OPTIONS[2:] if len(arguments) > 1 else []))
    assert done.code == 2
    assert meant in done.message.partition("expected")[2] or f"{meant}" in done.message
    assert any(word in done.message for word in ("did you mean", "Did you mean", "Possible options")), done.message


def test_a_terminal_without_the_characters(shared):
    """Output is whole where stdout knows ASCII alone."""
    command = [sys.executable, "-m", "slth_compile", "inspect", str(shared.checkpoint)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"params/conv/kernel" in done.stdout


def test_file_names_are_good_everywhere(shared):
    """Also where upper and lower case are one, and some characters and names are not allowed."""
    names = [path.name for path in shared.ticket.rglob("*")]
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and not name.endswith(".") for name in names)
    assert not {name.partition(".")[0].lower() for name in names} & {"con", "prn", "aux", "nul", "com1", "lpt1"}
    texts = [path for path in shared.ticket.iterdir() if path.suffix in (".md", ".html", ".json")]
    assert all(b"\r" not in path.read_bytes() for path in texts)


def test_module_and_exit_code_of_a_process(shared, tmp_path):
    """`python -m slth_compile` is the command; errors are one line on stderr."""
    command = [sys.executable, "-m", "slth_compile", "verify"]
    done = subprocess.run([*command, str(shared.ticket)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("slth-compile: verification failed: format: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_error(shared):
    """`slth-compile verify OUT/ | head -0`"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "slth_compile", "verify", str(shared.ticket)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_is_130(shared, cli, monkeypatch, tmp_path):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slth_compile.subset_sum.network.solve_family", interrupt)
    done = cli("compile", *shared.arguments, tmp_path / "out")
    assert done.code == 130
    assert "--resume" in done.message
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


def test_a_bug_is_70(shared, cli, monkeypatch):
    """One line; the traceback is asked for."""

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr("slth_compile.checker.verify", bug)
    done = cli("verify", shared.ticket)
    assert done.code == 70
    assert done.message.startswith("internal error, please report it: ZeroDivisionError")
    monkeypatch.setenv("SLTH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli("verify", shared.ticket)


def test_force_and_resume_options(shared, cli, tmp_path):
    """An old ticket is replaced on request only."""
    out = copy_ticket(shared.ticket, tmp_path / "out")
    (out / "README.md").write_text("old")
    assert cli("compile", *shared.arguments, out).code == 2
    assert cli("compile", *shared.arguments, out, "--resume").code == 2
    assert (out / "README.md").read_text() == "old"
    assert cli("compile", *shared.arguments, out, "--force").code == 0
    assert verify(out)
    assert PLAN[1] == "30"
