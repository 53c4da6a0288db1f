"""A network as PyTorch has it: its state dict, an input, and what PyTorch computes.

python tests/torch_network.py        writes golden/torch_network.json, where torch is installed
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden" / "torch_network.json"
STATE = {
    **{"conv1.weight": (4, 2, 3, 3), "conv1.bias": (4,)},
    **{f"bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")},
    **{"depthwise.weight": (8, 1, 3, 3), "up.weight": (8, 3, 2, 2), "up.bias": (3,), "act.weight": (1,)},
    **{"fc1.weight": (6, 48), "fc1.bias": (6,)},
    **{f"bn2.{leaf}": (48,) for leaf in ("weight", "bias", "running_mean", "running_var")},
    **{"fc2.weight": (24, 6), "fc2.bias": (24,), "conv2.weight": (2, 3, 3, 3)},
}
"""Shapes by name, in the order in which the module defines them."""

INPUT_SHAPE = (4, 3, 2)


def state() -> dict[str, np.ndarray]:
    """Weights drawn for every name; variances and scales are positive."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in STATE.items()}
    positive = {name for name in STATE if name.startswith("bn") and name.endswith(("weight", "var"))}
    found = {name: np.abs(array) + 0.5 if name in positive else array for name, array in drawn.items()}
    return {name: array / np.float32(np.sqrt(array[0].size)) for name, array in found.items()}


def inputs() -> np.ndarray:
    """Three inputs, channels last."""
    return np.random.default_rng(1).normal(size=(3, *INPUT_SHAPE)).astype(np.float32)


def torch_outputs() -> np.ndarray:
    """What PyTorch computes, channels last."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.depthwise = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4, bias=False)
            self.up, self.act = nn.ConvTranspose2d(8, 3, 2, stride=2), nn.PReLU()
            self.fc1, self.bn2, self.fc2 = nn.Linear(48, 6), nn.BatchNorm1d(48), nn.Linear(6, 24)
            self.conv2 = nn.Conv2d(3, 2, 3, padding=1, bias=False)

        def forward(self, x):
            x = self.act(self.depthwise(torch.relu(self.bn1(self.conv1(x)))))
            x = self.bn2(torch.relu(torch.flatten(self.up(x), 1)))
            x = torch.relu(self.fc2(self.fc1(x)))
            return self.conv2(x.view(-1, 3, 4, 2))

    network = Network().eval()
    tensors = {name: torch.from_numpy(array) for name, array in state().items()}
    told = network.load_state_dict(tensors, strict=False)
    assert not told.unexpected_keys and all("num_batches" in name for name in told.missing_keys), told
    with torch.no_grad():
        return network(torch.from_numpy(inputs().transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)


def outputs() -> np.ndarray:
    """The golden outputs."""
    return np.asarray(json.loads(GOLDEN.read_text("utf-8")), np.float32)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(torch_outputs().tolist()) + "\n", encoding="utf-8")
