"""Dynamic int8: fused into integer kernels, mixed with static int8, exact about what it reads."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.measure.profile import by_op
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    FP32,
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.onnx.transformers import small_transformer, token_batches
from tests.adapters.onnxruntime.saturating import EXACT_HERE, integer_product

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = dataclasses.replace(PER_TENSOR, granularity=Granularity.PER_CHANNEL)
DYNAMIC = OpConfig(precision=Precision.INT8_DYNAMIC, weight=PER_CHANNEL)
STATIC = OpConfig(
    precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8), weight=PER_CHANNEL, calibration=MINMAX
)
MATMULS = ("q_product", "k_product", "v_product", "projected", "inner", "down")
NOTHING = CalibrationStatistics({}, 0)


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return ADAPTER.load(small_transformer())


@pytest.fixture(scope="module")
def statistics(model: OnnxModel) -> CalibrationStatistics:
    return ADAPTER.calibrate(model, token_batches(), seed=0)


def output(model: OnnxModel, feeds: dict[str, Array] | None = None) -> Array:
    return ADAPTER.runner(model, Execution())(feeds or token_batches(1)[0])[0]


def sqnr_db(reference: Array, actual: Array) -> float:
    return float(10 * np.log10(np.square(reference).mean() / np.square(reference - actual).mean()))


def test_matmuls_of_a_transformer_are_dynamic_first(model: OnnxModel) -> None:
    space = ADAPTER.space(model)
    for name in (*MATMULS, "logits"):
        assert [p.precision for p in space.by_name[name].precisions] == [
            Precision.INT8_DYNAMIC,
            Precision.INT8,
            Precision.FP32,
        ]
    assert space.by_name["residual"].precisions[0].precision is Precision.FP32


def test_matmuls_of_a_convolutional_model_are_static_first() -> None:
    space = ADAPTER.space(ADAPTER.load(small_cnn()))
    assert [p.precision for p in space.by_name["logits"].precisions][:2] == [Precision.INT8, Precision.INT8_DYNAMIC]


def test_every_matmul_is_fused_with_its_bias(model: OnnxModel) -> None:
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, NOTHING)
    counts = optimized_op_counts(candidate.proto)
    # Query, key and value share one quantization of what they read.
    assert counts["MatMulIntegerToFloat"] == 3
    assert counts["DynamicQuantizeLinear"] == 1
    assert counts["DynamicQuantizeMatMul"] == 4
    assert counts["MatMul"] + counts["Gemm"] + counts["MatMulInteger"] + counts["Cast"] == 0
    # The residuals; biases went into the kernels.
    assert (counts["Sum"], counts["Add"], counts["SkipLayerNormalization"]) == (1, 1, 0)
    assert sqnr_db(output(model), output(candidate)) > 25.0


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_weight_schemes(model: OnnxModel, granularity: Granularity) -> None:
    choice = dataclasses.replace(DYNAMIC, weight=dataclasses.replace(PER_TENSOR, granularity=granularity))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=dict.fromkeys(MATMULS, choice), recipe=EXACT_HERE), NOTHING)
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == len(MATMULS)
    assert sqnr_db(output(model), output(candidate)) > 20.0


def test_result_is_that_of_the_definition() -> None:
    """u8 activations by the range of the call, s8 weights, sums as this CPU makes them."""
    weight, x = normal(6, 3), normal(2, 6, seed=1, scale=2.0)
    model = ADAPTER.load(build([node("MatMul", "x w", "y")], {"x": ("N", 6)}, {"y": ("N", 3)}, {"w": weight}))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": DYNAMIC}), NOTHING)
    low, high = min(0.0, x.min()), max(0.0, x.max())
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    integers = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    weight_scale = np.abs(weight).max(axis=0) / 127
    weights = np.rint(weight / weight_scale).astype(np.int8)
    sums = integer_product(integers, weights) - zero * weights.sum(axis=0, dtype=np.int64)
    expected = sums * scale * weight_scale
    np.testing.assert_allclose(output(candidate, {"x": x}), expected, rtol=1e-4, atol=1e-5)


def test_static_and_dynamic_in_one_model(model: OnnxModel, statistics: CalibrationStatistics) -> None:
    ops = {"q_product": DYNAMIC, "k_product": STATIC, "inner": STATIC, "down": DYNAMIC, "logits": STATIC}
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=ops, recipe=EXACT_HERE), statistics)
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == 4
    assert counts["QGemm"] == 1
    assert counts["MatMul"] == 2  # fp32: value and output projection
    assert counts["DequantizeLinear"] == 0  # fp32 ops read fp32 tensors
    assert sqnr_db(output(model), output(candidate)) > 25.0


def test_static_matmuls_take_their_bias_along(model: OnnxModel, statistics: CalibrationStatistics) -> None:
    candidate = ADAPTER.apply(
        model, QuantizationConfig(ops=dict.fromkeys(MATMULS, STATIC), recipe=EXACT_HERE), statistics
    )
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] == len(MATMULS)
    assert (counts["Sum"], counts["Add"], counts["SkipLayerNormalization"]) == (1, 1, 0)
    assert counts["BiasGelu"] + counts["DequantizeLinear"] == 0
    assert sqnr_db(output(model), output(candidate)) > 25.0


def test_only_what_is_asked_for_changes(model: OnnxModel) -> None:
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"inner": DYNAMIC}), NOTHING)
    before = {t.name for t in model.proto.graph.initializer}
    after = {t.name for t in candidate.proto.graph.initializer}
    assert before - after == {"wi"}
    assert candidate.size_bytes < model.size_bytes


def test_shared_weight_is_stored_once() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("MatMul", "b w", "y")]
    model = ADAPTER.load(build(nodes, {"x": ("N", 8)}, {"y": ("N", 8)}, {"w": normal(8, 8)}))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"a": DYNAMIC, "b": DYNAMIC}, recipe=EXACT_HERE), NOTHING)
    names = [t.name for t in candidate.proto.graph.initializer]
    assert sum(name.endswith("integers") for name in names) == 1
    assert "w" in names  # the fp32 op reads it
    x = {"x": normal(4, 8, seed=1)}
    assert sqnr_db(output(model, x), output(candidate, x)) > 25.0


def test_reduce_range_keeps_weights_to_seven_bits(model: OnnxModel) -> None:
    config = QuantizationConfig(ops={"inner": DYNAMIC}, recipe=Recipe(reduce_range=True))
    candidate = ADAPTER.apply(model, config, NOTHING)
    integers = next(t for t in candidate.proto.graph.initializer if t.name.endswith("integers"))
    assert np.abs(np.frombuffer(integers.raw_data, np.int8)).max() <= 64


def test_dynamic_head_of_a_convolutional_model() -> None:
    model = ADAPTER.load(small_cnn())
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    config = ADAPTER.space(model).preferred.replace({"logits": DYNAMIC})
    candidate = ADAPTER.apply(model, config, statistics)
    assert optimized_op_counts(candidate.proto)["DynamicQuantizeMatMul"] == 1
    feeds = image_batches(1)[0]
    assert sqnr_db(output(model, feeds), output(candidate, feeds)) > 15.0


def test_profile_knows_dynamic_ops(model: OnnxModel) -> None:
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, NOTHING)
    before, after = ADAPTER.op_seconds([model, candidate], token_batches(1)[0], Execution())
    assert {*MATMULS, "logits"} <= set(before)
    assert {*MATMULS, "logits"} <= set(after)


def convolution(dimensions: int, group: int = 1, *, bias: bool = True, **options: Any) -> onnx.ModelProto:
    """One convolution of 6 channels to 8 over 9 values in every dimension."""
    constants = {"w": normal(8, 6 // group, *[3] * dimensions)} | ({"b": normal(8, seed=1)} if bias else {})
    nodes = [node("Conv", "x w b" if bias else "x w", "y", group=group, **options)]
    return build(nodes, {"x": ("N", 6, *[9] * dimensions)}, {"y": None}, constants)


CONVOLUTIONS = {
    "over time": convolution(1),
    "of pictures": convolution(2, pads=[1, 1, 0, 2]),
    "of volumes": convolution(3, strides=[2, 1, 2]),
    "without bias": convolution(2, bias=False),
    "in groups": convolution(2, group=2, dilations=[2, 2]),
    "padded by itself": convolution(2, auto_pad="SAME_UPPER", strides=[2, 2]),
}


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_that_of_the_definition(kind: str, granularity: Granularity) -> None:
    """u8 activations by the range of the call, weights of 8 bits, exact integer sums."""
    proto = CONVOLUTIONS[kind]
    x = normal(2, *[dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]], seed=5, scale=2.0)
    model = ADAPTER.load(proto)
    choice = dataclasses.replace(DYNAMIC, weight=dataclasses.replace(PER_TENSOR, granularity=granularity))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": choice}), NOTHING)
    scale = (max(0.0, float(x.max())) - min(0.0, float(x.min()))) / 255
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    axes = tuple(range(1, x.ndim)) if granularity is Granularity.PER_CHANNEL else None
    weight_scale = np.abs(constants["w"]).max(axis=axes, keepdims=True) / 127
    rounded = onnx.ModelProto()
    rounded.CopyFrom(proto)
    rounded.graph.initializer[0].CopyFrom(
        numpy_helper.from_array((np.rint(constants["w"] / weight_scale) * weight_scale).astype(np.float32), "w")
    )
    expected = output(OnnxModel(proto=rounded), {"x": (np.rint(x / np.float32(scale)) * scale).astype(np.float32)})
    # A value between two integers may go either way.
    actual = output(candidate, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=scale * np.abs(constants["w"]).max())
    assert sqnr_db(expected, actual) > 50.0
    counts = optimized_op_counts(candidate.proto)
    assert (counts["ConvInteger"], counts["Conv"], counts["DynamicQuantizeLinear"]) == (1, 0, 1)
    integers = next(each for each in candidate.proto.graph.initializer if each.name.endswith("/integers"))
    assert integers.data_type == onnx.TensorProto.UINT8  # s8 has no fast kernel on the left side of a product


def test_convolutions_that_read_one_tensor_share_its_quantization_and_weights() -> None:
    further = node("Conv", "x w b", "c", dilations=[2, 2], pads=[1, 1, 1, 1])
    nodes = [node("Conv", "x w b", "a"), further, node("Add", "a c", "y")]
    proto = build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": normal(4, 3, 3, 3), "b": normal(4, seed=1)})
    model = ADAPTER.load(proto)
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"a": DYNAMIC, "c": DYNAMIC}), NOTHING)
    assert len(candidate.proto.graph.initializer) == 4  # integers, scale, zero point, bias
    counts = Counter(each.op_type for each in candidate.proto.graph.node)
    assert (counts["DynamicQuantizeLinear"], counts["ConvInteger"]) == (1, 2)
    x = {"x": image_batches()[0]["x"]}
    assert sqnr_db(output(model, x), output(candidate, x)) > 30.0


def test_dynamic_convolutions_mix_with_static_and_fp32_ones() -> None:
    model = ADAPTER.load(small_cnn())
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    preferred = ADAPTER.space(model).preferred
    recipe = dataclasses.replace(preferred.recipe, reduce_range=True)  # saturates on no CPU
    preferred = dataclasses.replace(preferred, recipe=recipe)
    feeds = image_batches()[0]
    for ops in ({"c1": DYNAMIC}, {"c2": DYNAMIC, "c3": FP32}, {"c1": FP32, "c3": DYNAMIC}):
        candidate = ADAPTER.apply(model, preferred.replace(ops), statistics)
        counts = optimized_op_counts(candidate.proto)
        kinds = Counter(choice.precision for choice in preferred.replace(ops).ops.values())
        assert counts["ConvInteger"] == 1
        assert counts["QLinearConv"] == 3 - len(ops)
        assert kinds[Precision.INT8_DYNAMIC] == 1
        assert sqnr_db(output(model, feeds), output(candidate, feeds)) > 20.0
    assert ADAPTER.saturating_ops(ADAPTER.apply(model, QuantizationConfig(ops={"c1": DYNAMIC}), NOTHING)) == ()


def test_what_a_dynamic_convolution_takes_is_that_of_all_its_parts() -> None:
    model = ADAPTER.load(small_cnn())
    ops = quantizable_ops(Graph(model.proto))[0]
    parts = ("quantize", "ConvInteger", "Cast", "scales", "rescale", "bias")
    seconds = {f"c2/{part}": 2.0**index for index, part in enumerate(parts)}
    assert by_op(seconds, Graph(model.proto), ops) == {"c2": 63.0}
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"c2": DYNAMIC}), NOTHING)
    names = {each.name for each in candidate.proto.graph.node}
    assert set(seconds) <= names
