"""Labelled images, split into those to train on and those to test on."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from slth_compile.arguments import load_arrays
from slth_compile.errors import InputError

HELD_OUT = 5
"""One image of so many is held out where a file has no test images of its own."""

_FORMS = "train_images, train_labels, test_images and test_labels, or images and labels, or x and y"


@dataclasses.dataclass(frozen=True)
class Data:
    """Images float32 `(n, height, width, channels)`, pixels of bytes divided by 255, and labels int32 `(n,)` from 0 on.

    Attributes:
        images: To train on.
        labels: Of these.
        test_images: To test on, the same shape.
        test_labels: Of these.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, `(height, width, channels)`."""
        return self.images.shape[1:]

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(max(self.labels.max(), self.test_labels.max())) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of everything."""
        found = hashlib.sha256()
        for array in (self.images, self.labels, self.test_images, self.test_labels):
            found.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def first(self, samples: int | None) -> Data:
        """The same with only the first `samples` images to train on; None keeps all."""
        return dataclasses.replace(self, images=self.images[:samples], labels=self.labels[:samples])


def load_data(path: str) -> Data:
    """The labelled images of an `.npz` file.

    Args:
        path: Of arrays `train_images, train_labels, test_images, test_labels`; or of `images, labels` or `x, y`, of
            which a fifth, always the same, is held out. Images are `(n, height, width[, channels])`.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    arrays = load_arrays(path, ())
    for names in (("train_images", "train_labels", "test_images", "test_labels"), ("images", "labels"), ("x", "y")):
        if all(name in arrays for name in names):
            found = [arrays[name] for name in names]
            break
    else:
        raise InputError(f"{path}: holds {sorted(arrays) or 'nothing'}; expected arrays {_FORMS}")
    if len(found) == 2:
        images, labels = _images(path, found[0]), _labels(path, found[1], len(found[0]))
        order = np.random.default_rng(0).permutation(len(images))
        held = order[: max(1, len(images) // HELD_OUT)]
        kept = order[len(held) :]
        return Data(images[kept], labels[kept], images[held], labels[held])
    train, test = _images(path, found[0]), _images(path, found[2])
    if train.shape[1:] != test.shape[1:]:
        raise InputError(f"{path}: images to train on are {train.shape[1:]}, to test on {test.shape[1:]}; expected one")
    return Data(train, _labels(path, found[1], len(train)), test, _labels(path, found[3], len(test)))


def _images(path: str, array: np.ndarray) -> np.ndarray:
    if array.ndim not in (3, 4) or len(array) < 2 or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise InputError(
            f"{path}: images are {array.dtype} of shape {array.shape}; expected finite numbers (n, height, width[, "
            "channels]) of at least two images"
        )
    scaled = array / np.float32(255) if array.dtype == np.uint8 else array
    return scaled.astype(np.float32).reshape(*array.shape[:3], -1)


def _labels(path: str, array: np.ndarray, count: int) -> np.ndarray:
    if array.shape != (count,) or array.dtype.kind not in "ui" or array.min() < 0 or array.max() >= 1 << 16:
        raise InputError(
            f"{path}: labels are {array.dtype} of shape {array.shape}; expected integers from 0 on of shape ({count},)"
        )
    return array.astype(np.int32)
