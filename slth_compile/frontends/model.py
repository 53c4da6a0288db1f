"""Any model as a graph: a file that holds a whole network, or an object in Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from slth_compile.errors import InputError
from slth_compile.frontends import flax
from slth_compile.graph.graph import Graph


def import_model(model: Any, input_shape: Sequence[int] | None = None, *, batch_axis: int | None = 0) -> Graph:
    """The graph of a model, in inference.

    Args:
        model: The path of an `.onnx` file or a `ModelProto`, or whatever `flax.import_model` takes.
        input_shape: Shape of one sample, channels last; needed where the model does not tell.
        batch_axis: 0 where the model takes a leading batch axis, None where it takes none.

    Raises:
        InputError: An input shape that is missing or does not fit, a file that cannot be read, something that is no
            model.
        UnsupportedModelError: The model has no graph here; the message lists why.
    """
    if is_onnx(model):
        from slth_compile.frontends.onnx import import_onnx

        if batch_axis != 0:
            raise InputError(f"batch_axis={batch_axis!r}: an ONNX model itself says where its batch is; leave it out")
        return import_onnx(model, input_shape)
    if isinstance(model, str | os.PathLike):
        raise InputError(
            f"{os.fspath(model)}: the path of a whole model ends in .onnx; a checkpoint holds weights only, restore it "
            "into its module first (--factory pkg.module:function on the command line)"
        )
    return flax.import_model(model, input_shape, batch_axis=batch_axis)


def is_onnx(model: Any) -> bool:
    """Whether a model is the path of an ONNX file, by its name, or a `ModelProto`."""
    if isinstance(model, str | os.PathLike):
        return str(os.fspath(model)).lower().endswith(".onnx")
    return type(model).__name__ == "ModelProto"
