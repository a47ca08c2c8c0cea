"""What is measured of the ops before anything is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Execution, Feeds
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.config import Precision
from autotune.errors import ApplyError
from autotune.history import History
from autotune.insights import MeasuredInsights, noise_to_signal
from autotune.stopwatch import Stopwatch

WIDTH = 256
ROW = {"data": np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)}
EVERY = {
    Precision.FP32,
    Precision.INT8,
    Precision.INT8_DYNAMIC,
    Precision.INT8_WEIGHT,
    Precision.INT4_WEIGHT,
}


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


class Profiled(OnnxRuntimeAdapter):
    """Gives figures of ours for a profile: in fp32 one op takes 0.95 of the time, quantized half as much.

    Each profile is taken at a slower pace than the one before.
    """

    def __init__(self, *, refuses: bool = False) -> None:
        self.calls: list[int] = []
        self._refuses = refuses

    def op_seconds(self, models: Sequence[Any], feeds: Feeds, execution: Execution) -> Sequence[Mapping[str, float]]:  # noqa: ARG002
        """0.95 in gemm_0, the rest in the others; at the n-th call everything takes n times as long."""
        self.calls.append(len(models))
        if self._refuses:
            raise ApplyError("refused")
        pace = float(len(self.calls))
        fp32 = {"gemm_0": 0.95 * pace, "gemm_1": 0.02 * pace, "gemm_2": 0.02 * pace, "gemm_3": 0.01 * pace}
        return [fp32, *({op: value / 2 for op, value in fp32.items()} for _ in models[1:])]


def insights_of(adapter: OnnxRuntimeAdapter, keep: set[str] | None = None) -> MeasuredInsights[Any]:
    """Of the perceptron; ``keep``: ops that offer more than one quantized precision."""
    model = adapter.load(perceptron())
    space = adapter.space(model)
    if keep is not None:
        ops = tuple(
            op if op.name in keep else type(op)(name=op.name, op_type=op.op_type, precisions=op.precisions[:1])
            for op in space.ops
        )
        space = type(space)(ops=ops, recipe=space.recipe)
    return MeasuredInsights(
        adapter=adapter,
        model=model,
        space=space,
        statistics=adapter.calibrate(model, [ROW], seed=0),
        feeds=[ROW],
        latency_feeds=ROW,
        execution=Execution(),
        history=History(None, {}),
        stopwatch=Stopwatch(),
    )


def test_every_precision_that_ops_offer_is_profiled() -> None:
    latency = insights_of(OnnxRuntimeAdapter()).op_latency()
    # A Gemm's activation is computed with it in fp32, and its kernel bears another name then.
    assert set(latency) == {"gemm_0", "gemm_1", "gemm_2", "gemm_3"}
    assert all(set(by) == EVERY for by in latency.values())
    assert all(seconds > 0 for by in latency.values() for seconds in by.values())


def test_seconds_of_a_later_profile_are_brought_to_the_pace_of_the_first() -> None:
    adapter = Profiled()
    latency = insights_of(adapter).op_latency()
    assert adapter.calls == [2, 2, 2, 4, 4, 4]
    # The median of the first three paces is 2.
    assert latency["gemm_0"][Precision.INT4_WEIGHT] == pytest.approx(0.95)


def test_a_precision_of_ops_that_take_no_time_is_not_profiled() -> None:
    adapter = Profiled()
    latency = insights_of(adapter, keep={"gemm_1", "gemm_2"}).op_latency()
    assert adapter.calls == [2, 2, 2]
    assert set(latency["gemm_1"]) < EVERY


def test_without_a_profile_there_is_no_entry() -> None:
    assert insights_of(Profiled(refuses=True)).op_latency() == {}


def test_infinities_of_fp32_itself_are_no_error() -> None:
    masked = np.array([1.0, 2.0, -np.inf, 2.0])
    same, off = [[masked]], [[masked + np.array([0.0, 0.3, 0.0, 0.0])]]
    assert noise_to_signal(same, same) == 0.0
    assert noise_to_signal(same, off) == pytest.approx(0.09 / 9)
    assert noise_to_signal([[np.array([1.0])]], [[np.array([np.nan])]]) != 0.0
