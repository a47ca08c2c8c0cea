"""A small ONNX network, and a cache of the tests' own: what the tests of ONNX adapters share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import host_of
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.measure.half_cache import read_or_measure
from autotune.adapters.onnxruntime.measure.half_speed import HalfSpeeds
from autotune.cache import CACHE_VARIABLE
from tests.cli.conftest import command  # noqa: F401  a fixture


def convolutional_network(seed: int = 0) -> onnx.ModelProto:
    """Three convolutions, an addition, average pooling and a head over ten classes; random weights."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:]) or 1), shape)
        return numpy_helper.from_array(values.astype(np.float32), name)

    constants = [
        weight("w0", 16, 3, 3, 3),
        weight("b0", 16),
        weight("w1", 16, 16, 3, 3),
        weight("w2", 32, 16, 3, 3),
        weight("wf", 10, 32),
        weight("bf", 10),
    ]
    nodes = [
        helper.make_node("Conv", ["data", "w0", "b0"], ["c0"], "conv_0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu_0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "conv_1", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["a1"], "add_1"),
        helper.make_node("Relu", ["a1"], ["r1"], "relu_1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv_2", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu_2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session", autouse=True)
def half_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, in which nothing is faster in half precision: the same on every host."""
    folder = tmp_path_factory.mktemp("cache")
    read_or_measure(host_of(OnnxRuntimeAdapter()).fingerprint, folder, HalfSpeeds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    return convolutional_network()


@pytest.fixture
def network_file(network: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    onnx.save(network, path)
    return path
