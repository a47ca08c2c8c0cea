"""Equalization changes no fp32 output, and what it changes helps int8."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.config import FP32, Granularity, QuantizationConfig, Recipe
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnx.recipe_graphs import LAYERS, chain
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config, prepared, relative_error, sqnr_db
from tests.adapters.onnxruntime.saturating import exact_here

pytestmark = pytest.mark.numeric

EQUALIZED = Recipe(equalization=True)


@settings(deadline=None, max_examples=30)
@given(LAYERS, st.integers(0, 2**32 - 1), st.sampled_from(Granularity.PLAIN), st.booleans())
def test_fp32_outputs_stay(layers: list[tuple[str, str]], seed: int, granularity: Granularity, bias: bool) -> None:
    model, statistics = prepared(chain(layers, seed, bias=bias))
    equalized = equalize(model, config(model, EQUALIZED, granularity=granularity), statistics)
    assert relative_error(model, equalized.model) < 1e-4


def test_factors_of_per_tensor_weights_round_nothing() -> None:
    # With other factors than powers of two this chain's outputs changed by 1.3e-4.
    model, statistics = prepared(chain([("dense", "none")] * 4 + [("dense", "relu6")], 2176))
    equalized = equalize(model, config(model, EQUALIZED, granularity=Granularity.PER_TENSOR), statistics)
    assert relative_error(model, equalized.model) < 1e-6


def test_clip_keeps_its_bound_on_data_beyond_calibration() -> None:
    # Convolutions with padding: an absorbed offset holds for data like that of the calibration only.
    model, statistics = prepared(chain([("dense", "relu6"), ("depthwise", "relu6"), ("dense", "none")], 0))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    assert equalized.ranges
    far = {"x": image_batches()[0]["x"] * 50}
    assert relative_error(model, equalized.model, far) < 1e-4


def test_ranges_lie_below_the_bound_of_every_channel_that_reached_it() -> None:
    model, statistics = prepared(chain([("dense", "relu6"), ("depthwise", "relu6"), ("pointwise", "none")], 1))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    bounds = {t.name: onnx.numpy_helper.to_array(t) for t in equalized.model.proto.graph.initializer}
    for tensor, (low, high) in equalized.ranges.items():
        channels = statistics.tensors[tensor].channels
        assert channels is not None
        reached = bounds[f"{tensor}/bound"].ravel()[channels.maximum >= 6.0 - 1e-5]
        assert low == 0.0
        assert high <= reached.min(initial=np.inf) * (1 + 1e-5)


def test_depthwise_input_gets_one_range_in_all_channels() -> None:
    model, statistics = prepared(chain([("dense", "relu"), ("depthwise", "none")], 2))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    after = prepared(equalized.model.proto)[1].tensors["a0"].channels
    before = statistics.tensors["a0"].channels
    assert before is not None
    assert after is not None
    alive = before.maximum > 0
    assert before.maximum[alive].max() > 5 * before.maximum[alive].min()
    np.testing.assert_allclose(after.maximum[alive], after.maximum[alive].max(), rtol=1e-4)


def test_per_tensor_weights_get_one_range_on_both_sides() -> None:
    model, statistics = prepared(chain([("dense", "relu"), ("pointwise", "none")], 3))
    per_tensor = config(model, EQUALIZED, granularity=Granularity.PER_TENSOR)
    weights = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in equalize(model, per_tensor, statistics).model.proto.graph.initializer
    }
    rows = np.abs(weights["w0"]).max(axis=(1, 2, 3))
    columns = np.abs(weights["w1"]).max(axis=(0, 2, 3))
    # Factors are powers of two: the nearest one leaves a factor of two between both sides at the most.
    assert np.abs(np.log2(rows / columns)).max() <= 1.0 + 1e-3


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_int8_gains(granularity: Granularity) -> None:
    layers = [("dense", "relu"), ("depthwise", "relu"), ("pointwise", "relu"), ("depthwise", "none")]
    gains = []
    for seed in range(5):
        model, statistics = prepared(chain(layers, seed))
        plain = ADAPTER.apply(model, config(model, granularity=granularity), statistics)
        better = ADAPTER.apply(model, config(model, EQUALIZED, granularity=granularity), statistics)
        gains.append(sqnr_db(model, better) - sqnr_db(model, plain))
    assert np.mean(gains) > 3.0


def test_absorbed_offset_moves_to_the_next_bias() -> None:
    proto = build(
        [node("Conv", "x w1 b1", "c"), node("Relu", "c", "a"), node("Conv", "a w2 b2", "y")],
        {"x": ("N", 3, 8, 8)},
        {"y": None},
        {
            "w1": normal(4, 3, 1, 1, scale=0.05),
            "b1": np.array([5, 5, 0, 0], np.float32),
            "w2": normal(4, 4, 1, 1, seed=1),
            "b2": normal(4, seed=2),
        },
    )
    model, statistics = prepared(proto)
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    before, after = statistics.tensors["a"].channels, equalized.statistics.tensors["a"].channels
    assert before is not None
    assert after is not None
    assert (before.minimum / before.maximum)[:2].min() > 0.5
    assert (after.minimum / after.maximum)[:2].max() < 0.5
    assert relative_error(model, equalized.model) < 1e-4


def unchanged(model: OnnxModel, other: OnnxModel) -> bool:
    return model.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("shared weight", "shared between ops"),
        ("two readers", "another op reads"),
        ("clip from below zero", "start at"),
    ],
)
def test_pairs_that_cannot_be_served_stay(case: str, reason: str) -> None:
    act = node("Clip", "c low six", "a") if case == "clip from below zero" else node("Relu", "c", "a")
    nodes = [node("Conv", "x w b", "p"), node("Conv", "p w b" if case == "shared weight" else "p v b2", "c"), act]
    nodes += [node("Conv", "a v2 b3", "y")]
    if case == "two readers":
        nodes += [node("Sigmoid", "c", "z")]
    constants = {
        "w": normal(3, 3, 1, 1),
        "v": normal(3, 3, 1, 1, seed=1),
        "v2": normal(3, 3, 1, 1, seed=2),
        "b": normal(3),
        "b2": normal(3, seed=3),
        "b3": normal(3, seed=4),
        "low": np.array(-1, np.float32),
        "six": np.array(6, np.float32),
    }
    outputs = {"y": None, "z": None} if case == "two readers" else {"y": None}
    model, statistics = prepared(build(nodes, {"x": ("N", 3, 8, 8)}, outputs, constants))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    assert any(reason in note for note in equalized.notes)
    assert "a" not in equalized.ranges
    assert relative_error(model, equalized.model) < 1e-5


def test_pair_in_fp32_stays() -> None:
    model, statistics = prepared(chain([("dense", "relu"), ("depthwise", "none"), ("pointwise", "none")], 4))
    last = config(model, EQUALIZED).replace({"c0": FP32, "c1": FP32})
    assert equalize(model, last, statistics).ranges.keys() == {"c1"}
    assert unchanged(equalize(model, QuantizationConfig(), statistics).model, model)


@pytest.mark.parametrize("fp32", ["c0", "c1"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "none"])
def test_what_lies_between_fp32_and_int8_gains(fp32: str, activation: str) -> None:
    gains = []
    for seed in range(5):
        model, statistics = prepared(chain([("dense", activation), ("depthwise", "none")], seed))
        half = config(model).replace({fp32: FP32})
        equalized = dataclasses.replace(half, recipe=exact_here(EQUALIZED))
        assert relative_error(model, equalize(model, equalized, statistics).model) < 1e-4
        better = ADAPTER.apply(model, equalized, statistics)
        counts = optimized_op_counts(better.proto)
        assert counts["QLinearConv"] == 1
        assert counts["Conv"] + counts["FusedConv"] == 1
        gains.append(sqnr_db(model, better) - sqnr_db(model, ADAPTER.apply(model, half, statistics)))
    # A Clip has brought most channels to one range already.
    assert min(gains) > 0.0
    assert np.mean(gains) > (0.3 if activation == "relu6" else 3.0)


def test_no_range_and_no_bound_is_left_in_the_quantized_graph() -> None:
    model, statistics = prepared(chain([("dense", "relu6"), ("depthwise", "relu6"), ("pointwise", "none")], 5))
    quantized = ADAPTER.apply(model, config(model, EQUALIZED), statistics)
    assert {n.op_type for n in quantized.proto.graph.node} == {"QuantizeLinear", "DequantizeLinear", "Conv"}
