"""The contract of an adapter, checked on each of them. A new adapter adds a class."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Example, Feeds
from autotune.adapters import ADAPTERS, get_adapter
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.testing import AdapterSuite
from tests.adapters.onnx.graphs import image_batches, small_cnn
from tests.adapters.openvino.graphs import wide_cnn
from tests.conftest import dense_network
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel


class TestOnnxRuntime(AdapterSuite):
    def adapter(self) -> OnnxRuntimeAdapter:
        return OnnxRuntimeAdapter()

    def source(self) -> object:
        return small_cnn()

    def batches(self) -> Sequence[Feeds]:
        return image_batches()


class TestOpenVino(AdapterSuite):
    def adapter(self) -> Any:
        pytest.importorskip("openvino")
        return get_adapter("openvino")

    def source(self) -> object:
        return wide_cnn()

    def batches(self) -> Sequence[Feeds]:
        return image_batches()


class TestPytorch(AdapterSuite):
    def adapter(self) -> Any:
        pytest.importorskip("torch")
        return get_adapter("pytorch")

    def source(self) -> object:
        return importlib.import_module("tests.adapters.pytorch.networks").exported_cnn()

    def batches(self) -> Sequence[Feeds]:
        rng = np.random.default_rng(1)
        return [{"x": rng.normal(size=(8, 3, 16, 16)).astype(np.float32)} for _ in range(4)]


class TestTensorflow(AdapterSuite):
    def adapter(self) -> Any:
        pytest.importorskip("ai_edge_litert")
        pytest.importorskip("ai_edge_quantizer")
        return get_adapter("tensorflow")

    def source(self) -> object:
        return importlib.import_module("tests.adapters.tensorflow.networks").small_cnn()

    def batches(self) -> Sequence[Feeds]:
        rng = np.random.default_rng(1)
        return [{"x": rng.normal(size=(8, 16, 16, 3)).astype(np.float32)} for _ in range(4)]


class TestPaddle(AdapterSuite):
    folder: Path | None = None

    def adapter(self) -> Any:
        importlib.util.find_spec("paddle") or pytest.skip("paddle is not installed")
        return get_adapter("paddle")

    def source(self) -> object:
        networks = importlib.import_module("tests.adapters.paddle.networks")
        if TestPaddle.folder is None:
            TestPaddle.folder = networks.saved(networks.filled(networks.Residual()))
        return TestPaddle.folder

    def batches(self) -> Sequence[Feeds]:
        feeds: Sequence[Feeds] = importlib.import_module("tests.adapters.paddle.networks").batches()
        return feeds


class TestMxnet(AdapterSuite):
    stores_integers = False  # MXNet makes them of fp32 weights when a model is first run

    def adapter(self) -> Any:
        importlib.util.find_spec("mxnet") or pytest.skip("mxnet is not installed")
        return get_adapter("mxnet")

    def source(self) -> object:
        # With data, which declare the shapes that symbols do not.
        networks = importlib.import_module("tests.adapters.mxnet.networks")
        example = Example([networks.images()])
        return get_adapter("mxnet").load(networks.saved(networks.residual()), example)

    def batches(self) -> Sequence[Feeds]:
        feeds: Sequence[Feeds] = importlib.import_module("tests.adapters.mxnet.networks").batches()
        return feeds


class TestNumpy(AdapterSuite):
    def adapter(self) -> NumpyAdapter:
        return NumpyAdapter()

    def source(self) -> NumpyModel:
        return dense_network()

    def batches(self) -> Sequence[Feeds]:
        rng = np.random.default_rng(1)
        return [{"data": rng.normal(size=(8, 3, 16, 16)).astype(np.float32)} for _ in range(4)]


def test_every_adapter_has_a_suite() -> None:
    assert {suite().adapter().name for suite in AdapterSuite.__subclasses__()} >= set(ADAPTERS)
