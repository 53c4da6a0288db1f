"""PyTorch checkpoints compute in flax what they compute in PyTorch; what cannot be told is refused."""

from __future__ import annotations

import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_network
from flax import linen as nn
from flax import nnx

from slth_compile.errors import InputError
from slth_compile.frontends.checkpoint import flatten, read_checkpoint, restore_model, torch_names
from slth_compile.frontends.checkpoint.slots import linen_slots
from slth_compile.frontends.flax import survey_model

SHAPE = torch_network.INPUT_SHAPE


def convolve(features, name, **more):
    return nn.Conv(features, (3, 3), padding=1, name=name, **more)


class Network(nn.Module):
    """`torch_network` in linen, with its names or with flax's own."""

    named: bool = True
    transpose_kernel: bool = False
    channels_first: bool = False

    @nn.compact
    def __call__(self, x):
        def name(given):
            return given if self.named else None

        def norm(given):
            return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name(given))

        x = nn.relu(norm("bn1")(convolve(4, name("conv1"))(x)))
        x = convolve(8, name("depthwise"), strides=(2, 2), feature_group_count=4, use_bias=False)(x)
        x = nn.PReLU(name=name("act"))(x)
        up = nn.ConvTranspose(
            3, (2, 2), (2, 2), padding="VALID", transpose_kernel=self.transpose_kernel, name=name("up")
        )
        x = up(x)
        x = x.transpose(0, 3, 1, 2) if self.channels_first else x
        x = norm("bn2")(nn.relu(x.reshape(x.shape[0], -1)))
        x = nn.relu(nn.Dense(24, name=name("fc2"))(nn.Dense(6, name=name("fc1"))(x)))
        x = x.reshape(-1, 3, 4, 2).transpose(0, 2, 3, 1) if self.channels_first else x.reshape(-1, 4, 2, 3)
        return convolve(2, name("conv2"), use_bias=False)(x)


class InNnx(nnx.Module):
    """The same in nnx."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(2, 4, (3, 3), padding=1, rngs=rngs)
        self.bn1, self.bn2 = (nnx.BatchNorm(size, epsilon=1e-5, rngs=rngs) for size in (4, 48))
        self.depthwise = nnx.Conv(4, 8, (3, 3), (2, 2), padding=1, feature_group_count=4, use_bias=False, rngs=rngs)
        self.act = nnx.PReLU()
        self.up = nnx.ConvTranspose(8, 3, (2, 2), (2, 2), padding="VALID", rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(48, 6, rngs=rngs), nnx.Linear(6, 24, rngs=rngs)
        self.conv2 = nnx.Conv(3, 2, (3, 3), padding=1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = self.act(self.depthwise(nnx.relu(self.bn1(self.conv1(x)))))
        x = self.bn2(nnx.relu(self.up(x).reshape(x.shape[0], -1)))
        return self.conv2(nnx.relu(self.fc2(self.fc1(x))).reshape(-1, 4, 2, 3))


class Pieces(nn.Module):
    """A function in a module: what a test gives it."""

    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(x)


@pytest.fixture
def factory(monkeypatch):
    """Makes a model nameable on a command line."""

    def make(model):
        module = types.ModuleType("torch_factories")
        module.model = lambda: model  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch_factories", module)
        return "torch_factories:model"

    return make


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def assert_computes(model):
    np.testing.assert_allclose(model(torch_network.inputs()), torch_network.outputs(), rtol=0, atol=3e-6)


@pytest.mark.parametrize("around", ["module.", "state_dict.model._orig_mod."])
def test_found_by_name(around, factory, tmp_path):
    """Whatever training scripts put around the names, an optimizer beside them."""
    arrays = {f"{around}{name}": array for name, array in torch_network.state().items()}
    arrays |= {f"{around}bn1.num_batches_tracked": np.asarray(7)}
    if around.startswith("state_dict"):
        arrays |= {"optimizer.state.0.exp_avg": np.ones(3, np.float32), "epoch": np.asarray(3.5)}
    restored = restore_model(save(tmp_path / "m.npz", arrays), factory(Network()), input_shape=SHAPE)
    assert restored.layout == "torch"
    assert restored.inferred == (
        "'fc1': inputs reordered, PyTorch flattens channels first",
        "'fc2': outputs reordered, PyTorch reshapes to channels first",
    )
    assert_computes(restored.model)


@pytest.mark.parametrize("kind", ["transpose_kernel", "channels_first", "unnamed", "nnx", "safetensors"])
def test_other_models_of_the_same(kind, factory, tmp_path):
    """Kernels stored the other way, vectors ordered by the model itself, layers found by order, nnx."""
    model = {
        "transpose_kernel": Network(transpose_kernel=True),
        "channels_first": Network(channels_first=True),
        "unnamed": Network(named=False),
        "nnx": InNnx(),
        "safetensors": Network(),
    }[kind]
    if kind == "safetensors":
        path = tmp_path / "m.safetensors"
        safetensors.numpy.save_file(torch_network.state(), path)
    else:
        path = save(tmp_path / "m.npz", torch_network.state())
    restored = restore_model(path, factory(model), input_shape=SHAPE)
    assert_computes(restored.model)
    by_order = [line for line in restored.inferred if "shape and order" in line]
    assert len(by_order) == (9 if kind == "unnamed" else 0)
    reordered = [line for line in restored.inferred if "reordered" in line]
    assert len(reordered) == (0 if kind == "channels_first" else 2)
    if kind == "unnamed":
        assert "'Dense_0' takes 'fc2', by shape and order" in by_order


def test_what_layout_and_shape_say(factory, tmp_path):
    """A model with PyTorch's own names and layouts is not converted; a conversion needs the input's shape."""
    path = save(tmp_path / "m.npz", torch_network.state())
    with pytest.raises(InputError, match="pass --input-shape"):
        restore_model(path, factory(InNnx()))
    with pytest.raises(InputError, match="missing 'act/negative_slope'"):
        restore_model(path, factory(InNnx()), layout="flax", input_shape=SHAPE)
    with pytest.raises(InputError, match="did you mean 'torch'"):
        restore_model(path, factory(InNnx()), layout="pytorch", input_shape=SHAPE)

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("weight", nn.initializers.ones, (2, 2))

    weight = np.asarray([[1, 2], [3, 4]], np.float32)
    restored = restore_model(save(tmp_path / "own.npz", {"weight": weight}), factory(Own()), input_shape=(2,))
    assert restored.layout == "flax"
    np.testing.assert_array_equal(restored.model(jnp.eye(2)), weight)


# ---------------------------------------------------------------- which module is which


def dense(*sizes):
    return {f"{name}": torch_names.form({"weight": shape}) for name, shape in sizes}


def weights(*sizes):
    return {f"{name}/weight": np.zeros(shape, np.float32) for name, shape in sizes}


SQUARE, OTHER = (3, 3), (5, 3)


@pytest.mark.parametrize(
    ("model", "checkpoint", "expected"),
    [
        ("a b", "a b", "a b"),  # by name
        ("layer1_0_conv1 B", "b layer1/0/conv1", "layer1/0/conv1 b"),
        ("x y", "q p", "q p"),  # by order of the file
        ("x y", "p q", None),  # sorted by name: that is no order
        ("x y z", "fc10 fc2 fc9", "fc2 fc9 fc10"),
        ("x y", "f/0 f/1", "f/0 f/1"),
        ("x y z", "f/10 f/2 f/9", "f/2 f/9 f/10"),
        ("l/0 l/1 l/2", "l/0 l/2 l/4", None),  # names that agree by accident
        ("z", "x y", None),
        ("x y", "z", None),
    ],
)
def test_pairs_of_equal_forms(model, checkpoint, expected):
    forms = dense(*((name, SQUARE) for name in model.split()))
    arrays = weights(*((name, SQUARE) for name in checkpoint.split()))
    if expected is None:
        with pytest.raises(InputError) as caught:
            torch_names.pair(forms, arrays, "m.pt")
        for name in checkpoint.split()[-1], model.split()[-1]:
            assert f"'{name}'" in str(caught.value)
    else:
        found = torch_names.pair(forms, arrays, "m.pt").sources
        assert [found[name] for name in forms] == expected.split()


def test_pairs_by_form():
    """A form that both sides have once needs no order; two lists in different order tell nothing about equal forms."""
    arrays = weights(("one", SQUARE), ("head", OTHER))
    assert torch_names.pair(dense(("h", OTHER), ("s", SQUARE)), arrays, "m").sources == {"h": "head", "s": "one"}
    arrays = weights(("stem", SQUARE), ("head", OTHER), ("body", SQUARE))
    with pytest.raises(InputError, match="cannot be told apart"):
        torch_names.pair(dense(("a", SQUARE), ("b", SQUARE), ("c", OTHER)), arrays, "m")
    with pytest.raises(InputError, match=r"'one' holds weight \(3, 3\), the model's 'one' expects weight \(5, 3\)"):
        torch_names.pair(dense(("one", OTHER)), weights(("one", SQUARE)), "m")
    one_by_one = torch_names.form({"weight": (4, 2, 1, 1)})
    assert one_by_one == torch_names.form({"weight": (4, 2)})


# ---------------------------------------------------------------- orders of vectors


def orders_of(function, shape):
    slots = linen_slots(Pieces(function), shape)
    blank = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in slots.expected.items()}
    return flatten.orders(survey_model(slots.fill(blank), shape).entries, "m.pt")


def conv(x):
    return nn.Conv(3, (1,) * (x.ndim - 2), name="conv")(x)


def flat(x):
    return x.reshape(x.shape[0], -1)


def last(x):
    return nn.Dense(2, name="last")(x)


def channels_first_order(*shape):
    """Position in the flattened `(C, spatial...)` of each position of the flattened `(spatial..., C)`."""
    size = math.prod(shape)
    return np.moveaxis(np.arange(size).reshape(shape[-1], *shape[:-1]), 0, -1).ravel()


REORDERED = {
    "image": (lambda x: last(flat(x)), (2, 4, 3), (2, 4, 3)),
    "convolution": (lambda x: last(flat(conv(x))), (2, 4, 3), (2, 4, 3)),
    "one axis": (lambda x: last(flat(conv(x))), (5, 2), (5, 3)),
    "three axes": (lambda x: last(flat(conv(x))), (2, 1, 4, 2), (2, 1, 4, 3)),
    "relu between": (lambda x: last(nn.relu(flat(conv(x)))), (2, 4, 1), (2, 4, 3)),
    "one row": (lambda x: last(flat(conv(x)[:, 0:1])), (2, 4, 3), (1, 4, 3)),
}
AS_THEY_ARE = {
    "one channel": (lambda x: last(flat(x)), (4, 4, 1)),
    "one position": (lambda x: last(flat(conv(x).mean((1, 2), keepdims=True))), (4, 4, 3)),
    "mean": (lambda x: last(conv(x).mean((1, 2))), (4, 4, 3)),
    "vectors": (lambda x: last(flat(x)), (4, 3)),
    "tokens": (lambda x: last(flat(nn.Dense(3)(x))), (4, 5)),
    "channels first": (lambda x: last(flat(conv(x).transpose(0, 3, 1, 2))), (2, 4, 3)),
    "channels first, then relu": (lambda x: last(flat(nn.relu(conv(x).transpose(0, 3, 1, 2)))), (2, 4, 3)),
    "an output that is a table": (lambda x: nn.Dense(12, name="last")(x).reshape(-1, 2, 2, 3), (4,)),
}


@pytest.mark.parametrize("name", REORDERED)
def test_flattened_images_are_reordered(name):
    function, shape, flattened = REORDERED[name]
    found = orders_of(function, shape)
    assert list(found.inputs) == ["params/last/kernel"] and not found.outputs
    np.testing.assert_array_equal(found.inputs["params/last/kernel"], channels_first_order(*flattened))
    assert found.notes == ("'last': inputs reordered, PyTorch flattens channels first",)


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_other_vectors_are_not(name):
    found = orders_of(*AS_THEY_ARE[name])
    assert not found.inputs and not found.outputs and not found.notes


def test_vectors_beside_each_other():
    """Concatenated vectors are reordered each in its place; the order of a slice or a strange transpose is unknown."""
    joined = orders_of(lambda x: last(jnp.concatenate([x.mean((1, 2)), flat(conv(x))], -1)), (2, 4, 3))
    expected = [0, 1, 2, *(3 + channels_first_order(2, 4, 3))]
    np.testing.assert_array_equal(joined.inputs["params/last/kernel"], expected)
    for strange in (lambda x: last(flat(x)[:, 3:]), lambda x: last(flat(conv(x).transpose(0, 2, 1, 3)))):
        with pytest.raises(InputError, match="'last' uses a vector whose order in PyTorch"):
            orders_of(strange, (2, 4, 3))


# ---------------------------------------------------------------- PyTorch's own files


def test_without_torch(monkeypatch, tmp_path):
    """Its absence and its dangerous releases are refused, and nothing is unpickled."""
    (tmp_path / "m.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs torch, which is not installed; install it, or convert .*save_file"):
        read_checkpoint(tmp_path / "m.pt")
    old = types.ModuleType("torch")
    old.__version__ = "2.5.1+cpu"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", old)
    with pytest.raises(InputError, match=r"found torch 2\.5\.1\+cpu.*expected 2\.6"):
        read_checkpoint(tmp_path / "m.pt")


def test_with_torch(factory, tmp_path):
    """A real file; bfloat16; what is more than tensors is refused by PyTorch itself."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in torch_network.state().items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "m.pt")
    assert_computes(restore_model(tmp_path / "m.pt", factory(Network(named=False)), input_shape=SHAPE).model)
    np.testing.assert_allclose(torch_network.torch_outputs(), torch_network.outputs(), rtol=0, atol=1e-6)
    torch.save({"half": tensors["fc1.weight"].bfloat16()}, tmp_path / "half.pth")
    half = read_checkpoint(tmp_path / "half.pth")["half"]
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, torch_network.state()["fc1.weight"].astype(jnp.bfloat16))
    torch.save({"sparse": torch.eye(2).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(InputError, match="'sparse' is sparse"):
        read_checkpoint(tmp_path / "sparse.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    (tmp_path / "pickle.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for name in ("module.pt", "pickle.pt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_checkpoint(tmp_path / name)


def test_modules_with_two_arrays_of_one_name(factory, tmp_path):
    """A kernel with a scale beside it has no counterpart in PyTorch: its arrays keep their names, and misfits show."""

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (2, 3))
            return x @ (kernel * self.param("scale", nn.initializers.ones, (3,)))

    path = save(tmp_path / "m.npz", {"weight": np.zeros((3, 2), np.float32)})
    with pytest.raises(InputError, match="does not fit the model"):
        restore_model(path, factory(Scaled()), input_shape=(2,))
    path = save(tmp_path / "deep.npz", {"/".join("a" * 3000): np.zeros(1)})
    with pytest.raises(InputError):
        restore_model(path, factory(Scaled()), input_shape=(2,))
