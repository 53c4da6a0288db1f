"""Models restored from checkpoints compute what was saved; misfits are named."""

import sys
import warnings

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from safetensors.flax import save_file

from slth_compile.errors import InputError
from slth_compile.frontends.checkpoint import load_model, read_checkpoint
from slth_compile.frontends.flax import import_model

ocp = pytest.importorskip("orbax.checkpoint")
SHAPE = (4, 4, 2)
MODELS = """
import jax
from flax import linen as nn, nnx

class Linen(nn.Module):
    features: int = 3
    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train, name="norm")(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(self.features, name="last")(nn.relu(x).mean((1, 2)))

class Nnx(nnx.Module):
    def __init__(self, rngs, features):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, features, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

def linen(features=3):
    return Linen(features)

def with_nnx(features=3):
    return Nnx(nnx.Rngs(0), features)

def broken():
    raise RuntimeError("no weights")

number = 3
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module in the working directory, as a user of the command line has it."""
    (tmp_path / "mymodels.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    sys.modules.pop("mymodels", None)
    sys.path.insert(0, str(tmp_path))
    import mymodels

    sys.path.remove(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield mymodels
    sys.modules.pop("mymodels", None)


def variables_of(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(np.abs(rng.standard_normal(leaf.shape)), jnp.float32), shapes)


def save_orbax(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def assert_restored(model, variables, module):
    x = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(model(x), module.apply(variables, x))
    assert [import_model(model, SHAPE).nodes[i].name for i in import_model(model, SHAPE).layers] == ["conv", "last"]


TREES = {
    "variables": lambda v: v,
    "training state": lambda v: {"step": jnp.asarray(7), "opt_state": {"mu": v["params"]}, **v},
    "nested": lambda v: {"model": v, "step": jnp.asarray(7)},
    "nested in params": lambda v: {"params": v},
}


@pytest.mark.parametrize("kind", TREES)
def test_linen_from_an_orbax_item(models, tmp_path, kind):
    variables = variables_of(models.linen())
    save_orbax(tmp_path / "saved", TREES[kind](variables))
    assert_restored(load_model(tmp_path / "saved", "mymodels:linen", {}, SHAPE), variables, models.linen())


def test_linen_from_orbax_root_and_step_directories(models, tmp_path):
    variables = variables_of(models.linen())
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=ocp.args.StandardSave(jax.tree.map(jnp.zeros_like, variables)))
        manager.save(12, args=ocp.args.StandardSave(variables))
        manager.wait_until_finished()
    with ocp.CheckpointManager(tmp_path / "named") as manager:
        manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave(variables)))
        manager.wait_until_finished()
    for path in ("run", "run/12", "run/12/default", "named", "named/1"):
        assert_restored(load_model(path, "mymodels:linen", {}, SHAPE), variables, models.linen())
    zero = load_model("run/3", "mymodels:linen", {}, SHAPE)
    assert not np.any(zero.variables["params"]["last"]["kernel"])


@pytest.mark.parametrize("separator", ["/", "."])
def test_linen_from_safetensors(models, tmp_path, separator):
    variables = variables_of(models.linen())
    save_file(flax.traverse_util.flatten_dict(variables, sep=separator), tmp_path / "m.safetensors")
    assert_restored(load_model("m.safetensors", "mymodels:linen", {}, SHAPE), variables, models.linen())


def test_linen_from_msgpack(models, tmp_path):
    variables = variables_of(models.linen())
    (tmp_path / "m.msgpack").write_bytes(flax.serialization.to_bytes(variables))
    assert_restored(load_model("m.msgpack", "mymodels:linen", {}, SHAPE), variables, models.linen())


def test_bare_parameters(models, tmp_path):
    variables = {"params": {"kernel": jnp.ones((32, 3)), "bias": jnp.ones(3)}}
    save_file({"kernel": jnp.ones((32, 3)), "bias": jnp.ones(3)}, tmp_path / "m.safetensors")
    models.dense = lambda: nn.Dense(3)
    restored = load_model("m.safetensors", "mymodels:dense", {}, (32,))
    np.testing.assert_array_equal(restored.variables["params"]["kernel"], variables["params"]["kernel"])


@pytest.mark.parametrize("saved", ["state", "pure", "safetensors"])
def test_nnx_is_restored_in_inference_mode(models, tmp_path, saved):
    model = models.with_nnx(features=5)
    rng = np.random.default_rng(0)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda a: jnp.asarray(np.abs(rng.standard_normal(a.shape)), jnp.float32), state))
    state = nnx.state(model)
    if saved == "safetensors":
        flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        save_file({".".join(map(str, path)): leaf[...] for path, leaf in flat}, tmp_path / "saved.safetensors")
    else:
        save_orbax(tmp_path / "saved.orbax", state if saved == "state" else nnx.to_pure_dict(state))
    path = "saved.safetensors" if saved == "safetensors" else "saved.orbax"
    restored = load_model(path, "mymodels:with_nnx", {"features": 5})
    model.eval()
    x = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(restored(x), model(x))
    assert len(import_model(restored, SHAPE).layers) == 2


@pytest.mark.parametrize("separator", ["/", "."])
def test_linen_from_npz(models, tmp_path, separator):
    variables = variables_of(models.linen())
    np.savez(tmp_path / "m.npz", **flax.traverse_util.flatten_dict(variables, sep=separator))
    assert_restored(load_model("m.npz", "mymodels:linen", {}, SHAPE), variables, models.linen())


def test_nothing_in_an_npz_is_unpickled(models, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "m.npz", kernel=np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        load_model("m.npz", "mymodels:linen", {}, SHAPE)
    assert not (tmp_path / "sprung").exists()


def test_several_orbax_items(models, tmp_path):
    """The one named as whole states are, or the parameters with their statistics; else the item must be named."""
    variables = variables_of(models.linen())
    other = jax.tree.map(jnp.zeros_like, variables)
    save = ocp.args.StandardSave
    sets = {
        "whole": {"model": save(variables), "ema": save(other), "optimizer": save(other)},
        "parts": {"batch_stats": save(variables["batch_stats"]), "params": save(variables["params"])},
        "unknown": {"ema": save(variables), "slow": save(other), "meta": ocp.args.JsonSave({"step": 1})},
    }
    for name, items in sets.items():
        with ocp.CheckpointManager(tmp_path / name) as manager:
            manager.save(4, args=ocp.args.Composite(**items))
            manager.wait_until_finished()
    for path in ("whole", "parts/4", "unknown/4/ema"):
        assert_restored(load_model(path, "mymodels:linen", {}, SHAPE), variables, models.linen())
    with pytest.raises(InputError, match=r"one item \(name it: 4/ITEM\)"):
        load_model("unknown", "mymodels:linen", {}, SHAPE)


def test_nnx_from_steps_of_a_run(models, tmp_path):
    """nnx states as `StandardSave` and `PyTreeSave` write them, in a root with steps."""
    model = models.with_nnx()
    nnx.update(model, jax.tree.map(lambda leaf: leaf + 1, nnx.state(model, nnx.Param)))
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    for name, args in {"standard": ocp.args.StandardSave(state), "pytree": ocp.args.PyTreeSave(state)}.items():
        with ocp.CheckpointManager(tmp_path / name) as manager:
            manager.save(2, args=args)
            manager.wait_until_finished()
        restored = load_model(name, "mymodels:with_nnx")
        for path, leaf in nnx.to_flat_state(state):
            np.testing.assert_array_equal(dict(nnx.to_flat_state(nnx.state(restored)))[path][...], leaf[...])


def test_misfits_are_all_named(models, tmp_path):
    variables = variables_of(models.linen(features=5))
    variables["params"]["last"]["kernal"] = variables["params"]["last"].pop("kernel")
    save_file(flax.traverse_util.flatten_dict(variables, sep="/"), tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        load_model("m.safetensors", "mymodels:linen", {}, SHAPE)
    message = str(caught.value)
    assert "missing 'params/last/kernel'; did you mean 'params/last/kernal'?" in message
    assert "unexpected 'params/last/kernal'" in message
    assert "'params/last/bias' has shape (5,), the model expects (3,)" in message
    assert caught.value.exit_code == 2


def test_unreadable_checkpoints(models, tmp_path):
    variables = variables_of(models.linen())
    save_file(flax.traverse_util.flatten_dict(variables, sep="/"), tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[:100])
    (tmp_path / "short.msgpack").write_bytes(flax.serialization.to_bytes(variables)[:100])
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "empty").mkdir()
    save_orbax(tmp_path / "damaged", variables)
    (tmp_path / "damaged" / "_METADATA").write_text("{")
    (tmp_path / "nothing.msgpack").write_bytes(flax.serialization.msgpack_serialize({}))
    for path, expected in {
        "short.safetensors": "cannot be read",
        "short.msgpack": "cannot be read",
        "model.pkl": "unknown kind '.pkl'",
        "empty": "no orbax directory: found nothing",
        "damaged": "cannot be read",
        "nothing.msgpack": "holds no arrays",
        "modle.safetensors": "does not exist; did you mean 'model.safetensors'?",
    }.items():
        with pytest.raises(InputError, match=expected.replace("?", r"\?").replace(".", r"\.")):
            load_model(path, "mymodels:linen", {}, SHAPE)


FACTORIES = {
    "mymodels": "expected 'package.module:function'",
    "mymodel:linen": "no module named 'mymodel'; did you mean 'mymodels'?",
    "mymodels:linnen": "has no 'linnen'; did you mean 'linen'?",
    "flax.linnen:Dense": "no module named 'flax.linnen'; did you mean 'flax.linen'?",
    "mymodels:number": "'number' is a int, expected a function",
    "mymodels:broken": "called with no arguments failed (RuntimeError: no weights)",
    "mymodels:MODELS": "has no 'MODELS'",
    "collections:OrderedDict": "returned a OrderedDict, expected a linen module or nnx.Module",
    "syntax_error:f": "importing 'syntax_error' failed (SyntaxError",
    "needs:f": "module 'needs' needs 'not_installed_anywhere', which is missing",
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_bad_factories(models, tmp_path, factory):
    (tmp_path / "syntax_error.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import not_installed_anywhere\n")
    save_file({"kernel": jnp.ones((2, 3))}, tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        load_model("m.safetensors", factory, {}, SHAPE)
    assert FACTORIES[factory] in str(caught.value)


def test_model_kwargs_and_input_shape(models, tmp_path):
    save_file({"kernel": jnp.ones((2, 3))}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="called with colour failed"):
        load_model("m.safetensors", "mymodels:linen", {"colour": 1}, SHAPE)
    with pytest.raises(InputError, match="needs its input shape"):
        load_model("m.safetensors", "mymodels:linen", {})
    with pytest.raises(InputError, match="cannot be initialised on inputs of shape"):
        load_model("m.safetensors", "mymodels:linen", {}, (4,))
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "npz"])
def test_damaged_files_are_one_error(kind, tmp_path):
    """A hundred mutations of a file: it is read, or refused in one sentence, and nothing else happens."""
    arrays = {"params/a/kernel": np.ones((2, 3), np.float32), "params/a/bias": np.zeros(3, np.float32)}
    path = tmp_path / f"m.{kind}"
    match kind:
        case "safetensors":
            save_file(arrays, path)
        case "msgpack":
            path.write_bytes(flax.serialization.msgpack_serialize({"params": {"a": arrays}}))
        case "npz":
            np.savez(path, **arrays)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.2 else whole)
        for place in rng.integers(max(1, len(damaged)), size=rng.integers(1, 8)):
            if damaged:
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20
