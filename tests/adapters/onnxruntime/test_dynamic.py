"""Dynamic int8: fused into integer kernels, mixed with static int8, exact about what it reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autotune.adapter import Array, Execution
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.session import optimized_op_counts
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from tests.adapters.onnxruntime.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.onnxruntime.saturating import EXACT_HERE, integer_product
from tests.adapters.onnxruntime.transformers import small_transformer, token_batches

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = dataclasses.replace(PER_TENSOR, granularity=Granularity.PER_CHANNEL)
DYNAMIC = OpConfig(precision=Precision.INT8_DYNAMIC, weight=PER_CHANNEL)
STATIC = OpConfig(
    precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8), weight=PER_CHANNEL, calibration=MINMAX
)
PRODUCTS = ("q_product", "k_product", "v_product", "projected", "inner", "down")
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


def test_products_of_a_transformer_are_dynamic_first(model: OnnxModel) -> None:
    space = ADAPTER.space(model)
    for name in (*PRODUCTS, "logits"):
        assert [p.precision for p in space.by_name[name].precisions] == [
            Precision.INT8_DYNAMIC,
            Precision.INT8,
            Precision.FP32,
        ]
    assert space.by_name["residual"].precisions[0].precision is Precision.FP32


def test_products_of_a_convolutional_model_are_static_first() -> None:
    space = ADAPTER.space(ADAPTER.load(small_cnn()))
    assert [p.precision for p in space.by_name["logits"].precisions][:2] == [Precision.INT8, Precision.INT8_DYNAMIC]


def test_every_product_is_fused_with_its_bias(model: OnnxModel) -> None:
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


@pytest.mark.parametrize("granularity", list(Granularity))
def test_weight_schemes(model: OnnxModel, granularity: Granularity) -> None:
    choice = dataclasses.replace(DYNAMIC, weight=dataclasses.replace(PER_TENSOR, granularity=granularity))
    candidate = ADAPTER.apply(
        model, QuantizationConfig(ops=dict.fromkeys(PRODUCTS, choice), recipe=EXACT_HERE), NOTHING
    )
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == len(PRODUCTS)
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


def test_static_products_take_their_bias_along(model: OnnxModel, statistics: CalibrationStatistics) -> None:
    candidate = ADAPTER.apply(
        model, QuantizationConfig(ops=dict.fromkeys(PRODUCTS, STATIC), recipe=EXACT_HERE), statistics
    )
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] == len(PRODUCTS)
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
    assert {*PRODUCTS, "logits"} <= set(before)
    assert {*PRODUCTS, "logits"} <= set(after)
