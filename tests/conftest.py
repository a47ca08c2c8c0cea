"""A small network of the toy framework in tests/numpy_framework.py: what the tests of the core tune."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autotune.adapter import TensorSpec
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import Layer, NumpyModel

Image = npt.NDArray[np.float32]


@pytest.fixture(scope="session", autouse=True)
def numpy_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes ``framework="numpy"`` known as adapters of third parties are: by an entry point of a distribution."""
    folder = tmp_path_factory.mktemp("site")
    information = folder / "numpy_toy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-toy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[autotune.adapters]\nnumpy = tests.numpy_adapter:NumpyAdapter\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        yield folder


def dense_network(seed: int = 0) -> NumpyModel:
    """Three dense layers with an addition, and a head over ten classes; random weights."""
    rng = np.random.default_rng(seed)

    def dense(name: str, read: str, inputs: int, outputs: int) -> Layer:
        weight = rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        bias = rng.normal(0, 0.1, outputs).astype(np.float32)
        return Layer(name=name, kind="dense", reads=(read,), weight=weight, bias=bias)

    layers = (
        Layer(name="flat", kind="flatten", reads=("data",)),
        dense("dense_0", "flat", 768, 64),
        Layer(name="relu_0", kind="relu", reads=("dense_0",)),
        dense("dense_1", "relu_0", 64, 64),
        Layer(name="add_1", kind="add", reads=("dense_1", "relu_0")),
        Layer(name="relu_1", kind="relu", reads=("add_1",)),
        dense("dense_2", "relu_1", 64, 32),
        Layer(name="relu_2", kind="relu", reads=("dense_2",)),
        dense("head", "relu_2", 32, 10),
    )
    return NumpyModel(
        layers=layers,
        inputs=(TensorSpec(name="data", dtype=np.dtype(np.float32), shape=("batch", 3, 16, 16)),),
        outputs=(TensorSpec(name="logits", dtype=np.dtype(np.float32), shape=("batch", 10)),),
    )


@pytest.fixture(scope="session")
def network() -> NumpyModel:
    return dense_network()


@pytest.fixture
def network_file(network: NumpyModel, tmp_path: Path) -> Path:
    path = tmp_path / "network.npz"
    NumpyAdapter().save(network, path, {})
    return path


@pytest.fixture(scope="session")
def images() -> Sequence[Image]:
    """Four batches of eight pictures."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=(8, 3, 16, 16)).astype(np.float32) for _ in range(4)]


class Recorder:
    """An eval_fn that scores a model by its distance from the first model it was given, and counts its calls."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images
        self.calls = 0
        self.expected: list[Any] | None = None

    def __call__(self, model: Any) -> float:
        self.calls += 1
        outputs = [model(batch) for batch in self.images]
        if self.expected is None:
            self.expected = outputs
        error = sum(float(np.square(a - b).sum()) for a, b in zip(outputs, self.expected, strict=True))
        return 1.0 - error / sum(float(np.square(b).sum()) for b in self.expected)


@pytest.fixture
def score(images: Sequence[Image]) -> Recorder:
    return Recorder(images)
