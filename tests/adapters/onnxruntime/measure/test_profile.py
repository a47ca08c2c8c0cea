from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import CostModel, Execution
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.measure.profile import conversion_seconds
from autotune.config import Precision
from tests.adapters.conftest import convolutional_network

WIDTH = 256
FEEDS = {"data": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}


@pytest.fixture
def adapter() -> OnnxRuntimeAdapter:
    return OnnxRuntimeAdapter()


def test_every_convolution_has_its_seconds_in_fp32_and_in_int8(adapter: OnnxRuntimeAdapter) -> None:
    assert isinstance(adapter, CostModel)
    model = adapter.load(convolutional_network())
    statistics = adapter.calibrate(model, [FEEDS], seed=0)
    candidate = adapter.apply(model, adapter.space(model).preferred, statistics)
    for seconds in adapter.op_seconds([model, candidate], FEEDS, Execution()):
        assert {"conv_0", "conv_1", "conv_2", "head"} <= set(seconds)
        assert all(0 < value < 0.1 for value in seconds.values())


def test_neighbours_are_found_through_what_keeps_the_integers(adapter: OnnxRuntimeAdapter) -> None:
    readers = adapter.neighbours(adapter.load(convolutional_network()))
    assert set(readers["conv_0"]) == {"conv_1", "add_1"}
    assert readers["conv_2"] == ("pool",)
    assert readers["pool"] == ("head",)
    assert readers["head"] == ()


def test_conversions_cost_more_where_there_is_more_to_convert(adapter: OnnxRuntimeAdapter) -> None:
    model = adapter.load(convolutional_network())
    statistics = adapter.calibrate(model, [FEEDS], seed=0)
    assert {"conv_0", "add_1", "head"} <= set(adapter.conversion_seconds(model, statistics, Execution()))
    seconds = conversion_seconds([1_000, 1_000_000, 1_000], Execution())
    assert 10 * seconds[1_000] < seconds[1_000_000] < 0.1
    assert conversion_seconds([], Execution()) == {}


def perceptron() -> onnx.ModelProto:
    """Four Gemms with a Relu each."""
    rng = np.random.default_rng(1)
    nodes, constants = [], []
    for i in range(4):
        weight = rng.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
        constants += [
            numpy_helper.from_array(weight, f"weight_{i}"),
            numpy_helper.from_array(np.zeros(WIDTH, np.float32), f"bias_{i}"),
        ]
        source = "data" if i == 0 else f"relu_{i - 1}"
        nodes.append(helper.make_node("Gemm", [source, f"weight_{i}", f"bias_{i}"], [f"sum_{i}"], f"gemm_{i}"))
        nodes.append(helper.make_node("Relu", [f"sum_{i}"], [f"relu_{i}"], f"activation_{i}"))
    shape: list[str | int | None] = ["batch", WIDTH]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("relu_3", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_every_precision_of_every_op_has_its_seconds(adapter: OnnxRuntimeAdapter) -> None:
    row = {"data": np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)}
    model = adapter.load(perceptron())
    space, statistics = adapter.space(model), adapter.calibrate(model, [row], seed=0)
    choices = [precision.preferred for precision in space.ops[0].precisions]
    assert {choice.precision for choice in choices} == {
        Precision.FP32,
        Precision.INT8,
        Precision.INT8_DYNAMIC,
        Precision.INT8_WEIGHT,
        Precision.INT4_WEIGHT,
    }
    candidates = [adapter.apply(model, space.uniform(choice), statistics) for choice in choices]
    # A Gemm's activation is computed with it in fp32, and its kernel bears another name then.
    for seconds in adapter.op_seconds([model, *candidates], row, Execution()):
        assert set(seconds) == {"gemm_0", "gemm_1", "gemm_2", "gemm_3"}
        assert all(value > 0 for value in seconds.values())
