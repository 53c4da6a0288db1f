"""Models from checkpoints: files to arrays, arrays to the model's names and layouts, a model with them in place."""

from slth_compile.frontends.checkpoint.load import LAYOUTS, Restored, load_model, restore_model
from slth_compile.frontends.checkpoint.read import read_checkpoint

__all__ = ["LAYOUTS", "Restored", "load_model", "read_checkpoint", "restore_model"]
