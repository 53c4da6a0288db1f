"""Bounds and attacks of the torch prototype on a case, from a process of its own on one core.

The worker is this file, run by an interpreter that has torch and NumPy and not this project; the prototype's folder
holds `differential_torch.py`. A case travels as an `.npz`: the operations (JSON), `W`, `E`, `b` of every weighted one
in PyTorch's layout, regions and starts with channels first.

The prototype knows no bias errors: where there are some, the input gets a constant channel of ones, which carries them
through the layers of a purely dense network, and is added to every layer's output by a kernel of its own otherwise.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from examples.benchmarks.certificate_cases import Case


def run_prototype(case: Case, folder: pathlib.Path, python: pathlib.Path) -> dict[str, Any]:
    """What the prototype finds: `bounds` and `l2` (`regions` rows of outputs; `l2` on boxes), `attack`, seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        given, found = pathlib.Path(scratch, "case.npz"), pathlib.Path(scratch, "found.json")
        np.savez(given, **describe(case))
        subprocess.run([python, __file__, folder, given, found], check=True)
        return json.loads(found.read_text())


# ---- this project's side: a case as arrays ----


def describe(case: Case) -> dict[str, Any]:
    """The case as the worker reads it.

    Raises:
        ValueError: The graph has an operation the prototype lacks.
    """
    from slth_compile.graph import nodes as n

    graph, errors = case.pair.graph, case.pair.errors
    shifted = {i: e.bias_center for i, e in errors.items() if e.bias_center is not None and np.any(e.bias_center)}
    chain = bool(shifted) and all(isinstance(node, n.Input | n.Dense | n.Relu) for node in graph.nodes)
    operations: list[dict[str, Any]] = [{"op": "input", "inputs": []}]
    arrays: dict[str, np.ndarray] = {}
    place = {0: 0}

    def add(op: str, *inputs: int, **attributes: int) -> int:
        operations.append({"op": op, "inputs": list(inputs)} | attributes)
        return len(operations) - 1

    def weigh(k: int, kernel: np.ndarray, error: np.ndarray, bias: np.ndarray | None = None) -> None:
        outputs = len(kernel)
        arrays.update({f"{k}.W": kernel, f"{k}.E": error, f"{k}.b": np.zeros(outputs) if bias is None else bias})

    def of_constant(i: int, shift: np.ndarray) -> int:
        """A layer that reads the input's constant channel alone and puts out the bias error."""
        shape, size = graph.shapes[i], graph.input_shape
        if len(shape) == 1:
            k = add("dense", add("flatten", 0) if len(size) == 3 else 0)
            error = np.zeros((len(shift), *((size[-1] + 1, *size[:-1]) if len(size) == 3 else (size[0] + 1,))))
            error[(slice(None), -1, *(0,) * (len(size) - 1))] = shift
            error = error.reshape(len(shift), -1)
        else:
            k = add("conv", 0, stride=-(-size[0] // shape[0]), pad=0)
            error = np.zeros((len(shift), size[-1] + 1, 1, 1))
            error[:, -1, 0, 0] = shift
        weigh(k, np.zeros_like(error), error)
        return k

    for i, node in enumerate(graph.nodes[1:], 1):
        inputs = [place[j] for j in node.inputs]
        match node:
            case n.Convolution(stride=(s, t), padding=((p, q), (r, u)), dilation=(1, 1), groups=1) if (
                s == t and p == q == r == u
            ):
                k = add("conv", *inputs, stride=s, pad=p)
                kernel, error = (_padded(a.transpose(3, 2, 0, 1), inputs, shifted) for a in _weights(node, errors[i]))
                weigh(k, kernel, error, node.bias)
            case n.Dense():
                k = add("dense", *inputs)
                before = graph.nodes[node.inputs[0]]
                kernel, error = _weights(node, errors[i])
                if isinstance(before, n.Reshape):
                    shape = graph.shapes[before.inputs[0]]
                    kernel, error = (a.reshape(*shape, -1).transpose(3, 2, 0, 1) for a in (kernel, error))
                    kernel, error = (a.reshape(len(a), -1) for a in (kernel, error))
                else:
                    kernel, error = kernel.T, error.T
                if chain:
                    last = i in graph.outputs
                    kernel = _augmented(kernel, node.bias, 0.0 if last else 1.0)
                    error = _augmented(error, errors[i].bias_center, 0.0)
                    if last:
                        kernel, error = kernel[:-1], error[:-1]
                weigh(k, kernel, error, None if chain else node.bias)
            case n.Relu():
                k = add("relu", *inputs)
            case n.MaxPool(window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))):
                k = add("maxpool", *inputs)
            case n.AveragePool(window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))):
                k = add("avgpool", *inputs)
            case n.Mean(axes=(0, 1)):
                k = add("gap", *inputs)
            case n.Add():
                k = add("add", *inputs)
            case n.Reshape(shape=(_,)):
                k = add("flatten", *inputs)
            case n.Slice(start=(0, 0, 0), stride=(s, t, 1)) if s == t:
                k = add("conv", *inputs, stride=s, pad=0)
                kernel = np.eye(graph.shapes[i][-1])[:, :, None, None]
                weigh(k, kernel, np.zeros_like(kernel))
            case n.Pad(padding=((0, 0), (0, 0), (low, high))):
                channels = graph.shapes[node.inputs[0]][-1]
                kernel = np.pad(np.eye(channels), ((low, high), (0, 0)))[:, :, None, None]
                if isinstance(graph.nodes[node.inputs[0]], n.Slice) and graph.consumers[node.inputs[0]] == 1:
                    k = inputs[0]  # one kernel for both
                else:
                    k = add("conv", *inputs, stride=1, pad=0)
                weigh(k, kernel, np.zeros_like(kernel))
            case _:
                raise ValueError(f"the prototype has no {type(node).__name__} with these attributes")
        if not chain and i in shifted:
            k = add("add", k, of_constant(i, shifted[i]))
        place[i] = k
    regions = {"lower": case.lower, "upper": case.upper, "starts": case.starts}
    for name, x in regions.items():
        regions[name] = np.moveaxis(x, -1, -3) if len(graph.input_shape) == 3 else x
        if shifted:
            axis = -3 if len(graph.input_shape) == 3 else -1
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, 1)
            regions[name] = np.pad(regions[name], widths, constant_values=1.0)
    labels = np.full(len(case.lower), -1) if case.labels is None else case.labels
    settings = {"steps": case.climb[0], "rate": case.climb[1], "l2": case.domain.startswith("box")}
    texts = {"operations": json.dumps(operations), "settings": json.dumps(settings)}
    return arrays | regions | {"labels": labels, "outputs": case.outputs(case.upper)} | texts


def _weights(node: Any, errors: Any) -> tuple[np.ndarray, np.ndarray]:
    center = np.zeros_like(node.kernel) if errors.positive_center is None else errors.positive_center
    if errors.negative_radius is not None and errors.negative_center is not errors.positive_center:
        raise ValueError("the prototype has one error for both signs of an input")
    return node.kernel, center


def _padded(kernel: np.ndarray, inputs: list[int], shifted: Any) -> np.ndarray:
    """The kernel with a channel for the input's constant, where it reads that."""
    return np.pad(kernel, ((0, 0), (0, 1), (0, 0), (0, 0))) if shifted and inputs == [0] else kernel


def _augmented(kernel: np.ndarray, bias: np.ndarray | None, corner: float) -> np.ndarray:
    column = np.zeros((len(kernel), 1)) if bias is None else bias[:, None]
    row = np.append(np.zeros(kernel.shape[1]), corner)
    return np.vstack([np.hstack([kernel, column]), row])


# ---- the worker ----


def work(folder: pathlib.Path, given: pathlib.Path, found: pathlib.Path) -> None:
    """Bounds and attacks the case in `given`, one region after the other."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sys.path.insert(0, str(folder))
    import differential_torch as prototype  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    arrays = np.load(given)
    settings = json.loads(str(arrays["settings"]))

    def network(label: int) -> Any:
        """The network, all outputs or one."""
        net = prototype.Net(arrays["lower"].shape[1:])
        operations = json.loads(str(arrays["operations"]))
        for k, operation in enumerate(operations[1:], 1):
            attributes = {key: value for key, value in operation.items() if key not in ("op", "inputs")}
            node = net.nodes[net.add(operation["op"], operation["inputs"], **attributes)]
            if f"{k}.W" in arrays:
                last = label >= 0 and k == len(operations) - 1
                rows = slice(label, label + 1) if last else slice(None)
                node.W, node.E, node.b = (
                    torch.tensor(np.ascontiguousarray(arrays[f"{k}.{part}"][rows]), dtype=prototype.DT)
                    for part in "WEb"
                )
        return net

    net = network(-1)
    with torch.no_grad():
        ends = torch.tensor(arrays["upper"])
        outputs = np.stack([prototype.fwd(net, ends, hat=hat).numpy() for hat in (False, True)])
    if not np.allclose(outputs, arrays["outputs"], rtol=1e-9, atol=1e-9 * np.abs(outputs).max()):
        raise ValueError("the prototype's networks put out something else than the case's")
    bounds, l2, attacks, seconds, cpu_seconds, attack_seconds = [], [], [], [], [], []
    regions = zip(arrays["lower"], arrays["upper"], arrays["starts"], arrays["labels"], strict=True)
    for lower, upper, starts, label in regions:
        low, high = torch.tensor(lower)[None], torch.tensor(upper)[None]
        start, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            nodes = prototype.crown(net, low, high, "all")
            bounds.append(torch.maximum(nodes[-1][2].abs(), nodes[-1][3].abs())[0].tolist())
            if settings["l2"]:
                l2.append(prototype.l2_bound(net, low, high, nodes))
        middle = time.perf_counter()
        cpu_seconds.append(time.process_time() - cpu)
        attacked = net if label < 0 else network(label)
        attacks.append(prototype.pgd(attacked, low, high, torch.tensor(starts), settings["steps"], settings["rate"])[0])
        seconds.append(middle - start)
        attack_seconds.append(time.perf_counter() - middle)
    result = {"bounds": bounds, "l2": l2, "attack": attacks, "attack_seconds": attack_seconds}
    result |= {"seconds": seconds, "cpu_seconds": cpu_seconds, "torch": torch.__version__}
    found.write_text(json.dumps(result))


if __name__ == "__main__":
    work(*map(pathlib.Path, sys.argv[1:]))
