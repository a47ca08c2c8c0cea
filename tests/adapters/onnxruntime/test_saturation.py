from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapters.onnxruntime.dynamic import DYNAMIC_KERNEL
from autotune.adapters.onnxruntime.model import OnnxModel
from autotune.adapters.onnxruntime.saturation import saturating_ops

Weight = npt.NDArray[np.int8]


def one_op(op_type: str, weight: npt.NDArray[np.generic], shape: list[int], **attributes: Any) -> OnnxModel:
    """An op between DequantizeLinears, with this integer weight."""
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.zeros((), weight.dtype), "w_zero"),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "w_zero"], ["dw"]),
        helper.make_node(op_type, ["dx", "dw"], ["y"], "op", **attributes),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "one", inputs, outputs, constants)
    return OnnxModel(proto=helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def column(*values: int) -> Weight:
    return np.array(values, np.int8)[:, None]


@pytest.mark.parametrize(
    ("weight", "at_risk"),
    [
        (column(64, 64, -64, -64), False),  # 7 bits: 2 x 255 x 64 = 32,640
        (column(64, 65, 0, 0), True),  # 255 x 129 = 32,895
        (column(127, 1), False),  # 255 x 128 = 32,640
        (column(127, -127, 127, -127), False),  # products of opposite signs cannot exceed one of them
        (column(-127, -2), True),  # -32,895
        (column(-64, -64), False),
        (column(127, 0, 127, 0), False),  # never neighbours
        (column(0, 127, 127, 0), True),  # which neighbour begins a pair depends on the packing
        (column(127), False),  # nothing to add it to
    ],
)
def test_two_neighbouring_weights_decide(weight: Weight, at_risk: bool) -> None:
    model = one_op("MatMul", weight, [1, len(weight)])
    assert saturating_ops(model) == (("op",) if at_risk else ())
    transposed = one_op("Gemm", np.ascontiguousarray(weight.T), [1, len(weight)], transB=1)
    assert saturating_ops(transposed) == saturating_ops(model)


def test_the_check_is_the_arithmetic_of_the_instruction() -> None:
    """Against all activations at their two extremes, for random pairs of weights."""
    rng = np.random.default_rng(0)
    for pair in rng.integers(-128, 128, (200, 2)):
        sums = [a * int(pair[0]) + b * int(pair[1]) for a in (0, 255) for b in (0, 255)]
        saturates = min(sums) < -32768 or max(sums) > 32767
        model = one_op("MatMul", pair.astype(np.int8)[:, None], [1, 2])
        assert bool(saturating_ops(model)) == saturates, pair


def test_channels_of_one_position_are_neighbours_in_a_convolution() -> None:
    along_channels = np.zeros((1, 2, 1, 3), np.int8)
    along_channels[0, :, 0, 1] = 100
    along_width = np.zeros((1, 2, 1, 3), np.int8)
    along_width[0, 0, 0, :2] = 100  # the other channel, which is zero, lies between them
    assert saturating_ops(one_op("Conv", along_channels, [1, 2, 4, 4])) == ("op",)
    assert saturating_ops(one_op("Conv", along_width, [1, 2, 4, 4])) == ()


def test_depthwise_convolutions_and_u8_weights_are_widened_before_they_are_multiplied() -> None:
    depthwise = np.full((4, 1, 3, 3), 127, np.int8)
    assert saturating_ops(one_op("Conv", depthwise, [1, 4, 8, 8], group=4)) == ()
    assert saturating_ops(one_op("MatMul", np.full((4, 4), 255, np.uint8), [1, 4])) == ()


def test_dynamic_int8_is_checked_by_the_same_rule_under_the_ops_own_name() -> None:
    for weight, expected in ((column(100, 100), ("op",)), (column(64, 64), ())):
        constants = [numpy_helper.from_array(weight, "w")]
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["y"], f"op{DYNAMIC_KERNEL}"),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
        graph = helper.make_graph(nodes, "dynamic", inputs, outputs, constants)
        assert saturating_ops(OnnxModel(proto=helper.make_model(graph))) == expected


def test_an_op_in_fp32_is_at_no_risk(network: onnx.ModelProto) -> None:
    assert saturating_ops(OnnxModel(proto=network)) == ()


@pytest.mark.parametrize(("dtype", "expected"), [(np.int8, ("op",)), (np.uint8, ())])
def test_a_product_of_two_activations_is_at_risk_where_the_second_is_s8(
    dtype: type[np.generic], expected: tuple[str, ...]
) -> None:
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.zeros((), dtype), "zero"),
        numpy_helper.from_array(np.array([0, 2, 1], np.int64), "unused"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
        helper.make_node("DequantizeLinear", ["t", "scale", "zero"], ["dt"]),
        helper.make_node("MatMul", ["d", "dt"], ["y"], "op"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert saturating_ops(OnnxModel(proto=model)) == expected
