"""The quickstart's data: scikit-learn's handwritten digits, which come with the package and need no download.

The 1,797 pictures lie in the order in which their writers were asked, so the first 600 train and calibrate, and the
other 1,197 are by people whom the model has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

TRAINING_SAMPLES = 600
"""How many of the first pictures are for training and calibration."""

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Batches:
    """Pairs of images and labels in batches; it can be iterated again and again."""

    def __init__(self, images: Images, labels: Labels, batch_size: int) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Images, Labels]]:
        for start in range(0, len(self.labels), self.batch_size):
            stop = start + self.batch_size
            yield self.images[start:stop], self.labels[start:stop]


def training(batch_size: int = 20) -> Batches:
    """The data that the model was trained on; calibration reads it too.

    Args:
        batch_size: Samples in a batch.

    Returns:
        Batches of images, float32 (batch, 1, 8, 8) from 0 to 1, and labels, int64 (batch,).
    """
    images, labels = _digits()
    return Batches(images[:TRAINING_SAMPLES], labels[:TRAINING_SAMPLES], batch_size)


def evaluation(batch_size: int = 100) -> Batches:
    """Data that the model has never seen; batches as those of :func:`training`."""
    images, labels = _digits()
    return Batches(images[TRAINING_SAMPLES:], labels[TRAINING_SAMPLES:], batch_size)


def accuracy(model: Callable[[Images], Any]) -> float:
    """The share of the evaluation pictures that a model names correctly."""
    batches = evaluation()
    correct = sum(int((np.asarray(model(images)).argmax(axis=1) == labels).sum()) for images, labels in batches)
    return correct / len(batches.labels)


def _digits() -> tuple[Images, Labels]:
    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32)[:, np.newaxis], bunch.target.astype(np.int64)
