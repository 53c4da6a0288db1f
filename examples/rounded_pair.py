"""A digits CNN and the same with its weights rounded to float16: two checkpoints to certify against each other.

    python examples/rounded_pair.py
    slth-compile certify digits.msgpack rounded.msgpack --factory slth_compile.demo:DigitsNet \\
        --domain points:held_out.npz --domain balls:held_out.npz,0.002,0,1 --domain box:0,1 --data held_out.npz
"""

import pathlib

import flax.serialization
import jax
import numpy as np

from slth_compile.demo import digits, train

images, labels, held_out, held_out_labels = digits()
_, variables = train(images, labels).unbind()
rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), variables)
pathlib.Path("digits.msgpack").write_bytes(flax.serialization.to_bytes(variables))
pathlib.Path("rounded.msgpack").write_bytes(flax.serialization.to_bytes(rounded))
np.savez("held_out.npz", x=held_out, y=held_out_labels)
print("digits.msgpack, rounded.msgpack, held_out.npz")
