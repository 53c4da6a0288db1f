"""A ticket as a serialised `jax.export`: StableHLO with a symbolic batch, for CPU, CUDA and TPU."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from slth_compile.errors import InputError
from slth_compile.export.network import Function, Network

PLATFORMS = ("cpu", "cuda", "tpu")
LARGEST = 2**31 - 1
"""Bytes of the flat buffer that holds the module."""


def stablehlo_module(network: Network) -> bytes:
    """The network as `jax.export.deserialize` reads it: `(batch, *input_shape)` float32 in, its outputs out.

    Weights are constants of the module. The exported function returns an array, or a tuple where the target has
    several outputs; its name ends in the first 16 digits of the ticket id.

    Raises:
        InputError: More weights than such a file can hold.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(_weights(network)))
    if size > LARGEST:
        raise InputError(
            f"the weights take {size:,} bytes, more than {LARGEST:,}, the limit of a serialised module; the effective "
            "network is the smallest export there is"
        )

    def ticket(x: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        outputs = network.outputs(x)
        return outputs[0] if len(outputs) == 1 else outputs

    ticket.__name__ = f"{network.kind}_ticket_{network.properties['ticket_id'][:16]}"
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *network.graph.input_shape), jnp.float32)
    return bytes(export.export(jax.jit(ticket), platforms=PLATFORMS)(x).serialize())


def load_stablehlo(path: pathlib.Path) -> tuple[Function, str]:
    """The function in such a file, and what runs it."""
    # A bytearray: `deserialize` takes nothing else.
    module = export.deserialize(bytearray(path.read_bytes()))

    def function(x: np.ndarray) -> list[jax.Array]:
        return jax.tree.leaves(module.call(jnp.asarray(x)))

    return function, f"jax {jax.__version__}"


def _weights(network: Network) -> object:
    if network.literal is not None:
        return network.literal.variables
    return {i: tuple(array for array in w[:3] if array is not None) for i, w in network.weights.items()}
