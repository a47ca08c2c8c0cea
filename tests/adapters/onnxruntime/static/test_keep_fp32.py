"""Ops that a config leaves in fp32 between int8 ops stay fp32 in the session too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.session import (
    SessionRunner,
    open_session,
    optimized_op_counts,
    session_options,
)
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.static.keep_fp32 import keep_fp32
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()

KINDS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], int]] = {
    # operator, attributes, shapes of input and weight, channels of the input
    "convolution": ("Conv", {}, (2, 6, 5, 5), (4, 6, 3, 3), 6),
    "in groups": ("Conv", {"group": 3}, (2, 6, 5, 5), (3, 2, 3, 3), 6),
    "depthwise": ("Conv", {"group": 6}, (2, 6, 5, 5), (6, 1, 3, 3), 6),
    "transposed": ("ConvTranspose", {}, (2, 6, 5, 5), (6, 4, 3, 3), 6),
    "product": ("Gemm", {}, (2, 6), (6, 4), 6),
    "transposed product": ("Gemm", {"transB": 1}, (2, 6), (4, 6), 6),
}


def between(
    kind: str, *, middle: Sequence[onnx.NodeProto] = (), last: str = "a", opset: int = 17, scale: Any = 0.05
) -> onnx.ModelProto:
    """An op with an fp32 weight, a pair before and a pair after it."""
    op_type, options, shape, weight, _ = KINDS[kind]
    constants: dict[str, Array] = {
        "s": np.asarray(scale, np.float32),
        "z": np.full(np.shape(scale), 128, np.uint8),
        "t": np.asarray(0.1, np.float32),
        "u": np.asarray(120, np.uint8),
        "w": normal(*weight),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node(op_type, "d w", "a", **options),
        *middle,
        node("QuantizeLinear", f"{last} t u", "r"),
        node("DequantizeLinear", "r t u", "y"),
    ]
    return build(nodes, {"x": shape}, {"y": None}, constants, opset=opset)


def source(proto: onnx.ModelProto) -> onnx.NodeProto:
    """The node that writes the input of op ``a``."""
    graph = Graph(proto)
    op = next(each for each in graph.nodes if each.name == "a")
    found: onnx.NodeProto = graph.producers[op.input[0]]
    return found


def constant(proto: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(each for each in proto.graph.initializer if each.name == name))


def run(proto: onnx.ModelProto, x: Array) -> Array:
    return ADAPTER.runner(OnnxModel(proto=proto), Execution())({"x": x})[0]


def as_written(proto: onnx.ModelProto, x: Array) -> Array:
    options = session_options(Execution())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return SessionRunner(open_session(proto, None, options))({"x": x})[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_repeated_for_each_channel_of_the_input(kind: str) -> None:
    op_type, _, shape, _, channels = KINDS[kind]
    proto = between(kind)
    kept = onnx.ModelProto()
    kept.CopyFrom(proto)
    keep_fp32(kept)
    before = source(kept)
    assert before.op_type == "DequantizeLinear"
    assert attributes(before)["axis"] == 1
    assert constant(kept, before.input[1]).tolist() == [np.float32(0.05)] * channels
    assert constant(kept, before.input[2]).tolist() == [128] * channels
    # The old one has no reader left.
    assert [each.op_type for each in kept.graph.node].count("DequantizeLinear") == 2
    counts = optimized_op_counts(kept)
    assert counts["QLinearConv"] + counts["QGemm"] == 0
    assert counts[op_type] + counts["FusedConv"] == 1
    x = normal(*shape, seed=3, scale=1.0)
    exact = as_written(proto, x)
    # One step of the output, where fp32 sums of another order cross its rounding.
    assert np.abs(run(kept, x) - exact).max() <= 0.1001
    assert np.mean(run(kept, x) != exact) < 0.02


@pytest.mark.parametrize("kind", ["convolution", "transposed product"])
def test_without_it_onnxruntime_quantizes_the_weight(kind: str) -> None:
    """If this fails, ONNX Runtime has changed, and the module may go."""
    counts = optimized_op_counts(between(kind))
    assert counts["QLinearConv"] + counts["QGemm"] == 1


def test_a_relu_in_between_is_looked_through() -> None:
    proto = between("convolution", middle=[node("Relu", "a", "b"), node("Relu", "b", "c")], last="c")
    keep_fp32(proto)
    assert source(proto).input[1] == "s/a"


def unchanged(proto: onnx.ModelProto) -> bool:
    before = proto.SerializeToString()
    keep_fp32(proto)
    return bool(proto.SerializeToString() == before)


def test_what_is_not_at_risk_stays() -> None:
    assert unchanged(between("convolution", middle=[node("Sigmoid", "a", "b")], last="b"))
    assert unchanged(between("convolution", opset=12))
    two = between("convolution")
    two.graph.node.append(node("Sigmoid", "a", "z"))
    assert unchanged(two)
    int8 = between("convolution")
    int8.graph.node.insert(0, node("DequantizeLinear", "wi s zi", "w8"))
    int8.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones((4, 6, 3, 3), np.int8), "wi"),
            numpy_helper.from_array(np.asarray(0, np.int8), "zi"),
        ]
    )
    next(each for each in int8.graph.node if each.name == "a").input[1] = "w8"
    assert unchanged(int8)


def test_others_go_on_reading_the_old_pair() -> None:
    proto = between("convolution")
    proto.graph.node.append(node("Relu", "d", "z"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    keep_fp32(proto)
    graph = Graph(proto)
    assert source(proto).output[0] == "d/a"
    assert graph.producers["d"].input[1] == "s"


def test_a_single_channel_cannot_be_told_from_a_single_scale() -> None:
    KINDS["one channel"] = ("Conv", {}, (2, 1, 5, 5), (4, 1, 3, 3), 1)
    try:
        assert unchanged(between("one channel"))
    finally:
        del KINDS["one channel"]
