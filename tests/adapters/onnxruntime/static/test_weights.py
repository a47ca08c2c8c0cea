"""Weights as integers: whose scales they have, who shares them, and room for the bias."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.static.weights import quantize_weights, weight_grids
from autotune.algorithms import AffineParameters
from autotune.config import (
    FP32,
    LEAST_ERROR,
    MINMAX,
    MSE,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = dataclasses.replace(PER_TENSOR, granularity=Granularity.PER_CHANNEL)
CHOICE = OpConfig(
    precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8), weight=PER_CHANNEL, calibration=MINMAX
)
TINY = float(np.finfo(np.float32).tiny)


def chain(first: Array, second: Array, bias: Array | None = None, *, shared: bool = False) -> onnx.ModelProto:
    """Two 1 x 1 convolutions."""
    names = ("x w1 b", "a w1" if shared else "a w2")
    constants = {"w1": first, "b": np.zeros(len(first), np.float32) if bias is None else bias}
    nodes = [node("Conv", names[0], "a"), node("Conv", names[1], "y")]
    weights = constants if shared else {**constants, "w2": second}
    return build(nodes, {"x": ("N", first.shape[1], 2, 2)}, {"y": None}, weights)


def activations(scale: float = 0.1) -> dict[str, AffineParameters]:
    parameters = AffineParameters(np.asarray(scale, np.float32), np.asarray(0, np.uint8))
    return dict.fromkeys(("x", "a", "y"), parameters)


def grids(proto: onnx.ModelProto, config: QuantizationConfig, scale: float = 0.1) -> dict[str, AffineParameters]:
    model = OnnxModel(proto=proto)
    ops = [op for op in quantizable_ops(Graph(proto))[0] if op.name in config.ops]
    return weight_grids(model, ops, config, activations(scale))


def quantized(proto: onnx.ModelProto, config: QuantizationConfig) -> onnx.ModelProto:
    model = OnnxModel(proto=proto)
    ops = [op for op in quantizable_ops(Graph(proto))[0] if op.name in config.ops]
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    quantize_weights(result, model, ops, config, weight_grids(model, ops, config, activations()))
    return result


def typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With the types of tensors, which decide what can be quantized."""
    return onnx.shape_inference.infer_shapes(proto)


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_a_scale_for_each_channel_is_its_largest_weight_over_127() -> None:
    weight = np.array([[1.27, -0.5], [0.1, -2.54]], np.float32).reshape(2, 2, 1, 1)
    proto = typed(chain(weight, normal(3, 2, 1, 1)))
    found = grids(proto, QuantizationConfig(ops={"a": CHOICE, "y": dataclasses.replace(CHOICE, weight=PER_TENSOR)}))
    np.testing.assert_allclose(found["a"].scale, [0.01, 0.02], rtol=1e-6)
    assert found["a"].zero_point.tolist() == [0, 0]
    assert found["y"].scale.shape == ()
    assert found["y"].scale == pytest.approx(np.abs(normal(3, 2, 1, 1)).max() / 127, rel=1e-6)


def test_only_mse_clips_weights() -> None:
    weight = np.append(normal(1, 9_999), [[3.0]], axis=1).reshape(1, 10_000, 1, 1).astype(np.float32)
    proto = typed(chain(weight, normal(3, 1, 1, 1)))
    choices = {
        algorithm: dataclasses.replace(CHOICE, calibration=algorithm) for algorithm in (MINMAX, MSE, LEAST_ERROR)
    }
    scales = {
        algorithm: float(grids(proto, QuantizationConfig(ops={"a": choice}))["a"].scale[0])
        for algorithm, choice in choices.items()
    }
    assert scales[MINMAX] == scales[LEAST_ERROR] == pytest.approx(3 / 127, rel=1e-6)
    assert scales[MSE] < scales[MINMAX]


def test_a_large_bias_widens_the_scales_of_its_own_channel_alone() -> None:
    weight = np.full((2, 1, 1, 1), 1.27e-6, np.float32)
    proto = typed(chain(weight, normal(3, 2, 1, 1), np.array([0.0, -1e3], np.float32)))
    found = grids(proto, QuantizationConfig(ops={"a": CHOICE}), scale=1e-3)["a"]
    assert found.scale[0] == pytest.approx(1e-8, rel=1e-5)
    assert 1e3 / (found.scale[1] * 1e-3) == pytest.approx(2**31 - 1, rel=1e-3)
    assert 1e3 / (float(found.scale[1]) * 1e-3) < 2**31 - 1
    whole = grids(proto, QuantizationConfig(ops={"a": dataclasses.replace(CHOICE, weight=PER_TENSOR)}), scale=1e-3)["a"]
    assert whole.scale == pytest.approx(float(found.scale[1]), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e-12, 1e-30, TINY, 1e30])
@pytest.mark.parametrize("weight", [0.0, 1e-44, 1e-38, 1e-30, 1.0, 1e6])
def test_the_scale_of_a_bias_neither_vanishes_nor_overflows(weight: float, scale: float) -> None:
    """Dead channels of trained nets hold weights of 1e-40, spectra values of 1e-12."""
    proto = typed(chain(np.full((2, 1, 1, 1), weight, np.float32), normal(3, 2, 1, 1)))
    found = grids(proto, QuantizationConfig(ops={"a": CHOICE}), scale)["a"]
    product = np.float32(scale) * found.scale
    assert (product >= TINY).all()
    assert np.isfinite(found.scale * np.float32(127)).all()


def test_dead_channels_leave_the_others_alone() -> None:
    """0 / 0 would be the integer of their bias: "invalid value encountered in cast", an error in tests."""
    weight = normal(4, 3, 1, 1)
    weight[1], weight[2] = 1e-42, 0.0
    proto = chain(weight, normal(3, 4, 1, 1))
    model = ADAPTER.load(proto)
    feeds = [{"x": normal(8, 3, 2, 2, seed=5, scale=1e-6)}]
    statistics = ADAPTER.calibrate(model, feeds, seed=0)
    preferred = ADAPTER.space(model).preferred
    config = dataclasses.replace(preferred, recipe=dataclasses.replace(preferred.recipe, reduce_range=True))
    candidate = ADAPTER.apply(model, config, statistics)
    expected, actual = (ADAPTER.runner(each, Execution())(feeds[0])[0] for each in (model, candidate))
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_a_weight_is_stored_once_where_its_readers_agree() -> None:
    proto = typed(chain(normal(2, 2, 1, 1), normal(0), shared=True))
    result = quantized(proto, QuantizationConfig(ops={"a": CHOICE, "y": CHOICE}))
    nodes = {each.name: each for each in result.graph.node}
    assert nodes["a"].input[1] == nodes["y"].input[1] == "w1_dequantized"
    assert sorted(constants(result)) == ["b", "w1_quantized", "w1_scale", "w1_zero_point"]


def test_readers_that_disagree_have_integers_of_their_own() -> None:
    proto = typed(chain(normal(2, 2, 1, 1), normal(0), shared=True))
    choices = {"a": CHOICE, "y": dataclasses.replace(CHOICE, weight=PER_TENSOR)}
    nodes = {each.name: each for each in quantized(proto, QuantizationConfig(ops=choices)).graph.node}
    assert nodes["a"].input[1] == "w1_dequantized"
    assert nodes["y"].input[1] == "w1/y_dequantized"
    assert nodes["w1_DequantizeLinear"].attribute[0].i == 0
    assert not nodes["w1/y_DequantizeLinear"].attribute


def test_a_reader_in_fp32_keeps_the_original() -> None:
    proto = typed(chain(normal(2, 2, 1, 1), normal(0), shared=True))
    result = quantized(proto, QuantizationConfig(ops={"a": CHOICE, "y": FP32}))
    nodes = {each.name: each for each in result.graph.node}
    assert nodes["y"].input[1] == "w1"
    np.testing.assert_array_equal(constants(result)["w1"], normal(2, 2, 1, 1))


def test_integers_stand_for_the_weights_within_half_a_step() -> None:
    weight = normal(4, 3, 1, 1)
    proto = typed(chain(weight, normal(3, 4, 1, 1)))
    result = constants(quantized(proto, QuantizationConfig(ops={"a": CHOICE})))
    scale = result["w1_scale"][:, None, None, None]
    assert (np.abs(result["w1_quantized"] * scale - weight) <= scale * 0.5001).all()
    assert result["w1_quantized"].dtype == np.int8
    assert np.abs(result["w1_quantized"]).reshape(4, -1).max(axis=1).tolist() == [127] * 4
    assert "w1" not in result


def test_constants_that_are_not_finite_are_named() -> None:
    proto = build(
        [node("Add", "x c", "y")], {"x": ("N", 4)}, {"y": None}, {"c": np.array([1, np.nan, 2, 3], np.float32)}
    )
    model = ADAPTER.load(proto)
    finite = build([node("Add", "x c", "y")], {"x": ("N", 4)}, {"y": None}, {"c": normal(4)})
    statistics = ADAPTER.calibrate(ADAPTER.load(finite), [{"x": normal(2, 4)}], seed=0)
    config = QuantizationConfig(ops={"y": dataclasses.replace(CHOICE, weight=None)})
    with pytest.raises(ApplyError, match="'c' is not: leave 'y' in fp32"):
        ADAPTER.apply(model, config, statistics)
