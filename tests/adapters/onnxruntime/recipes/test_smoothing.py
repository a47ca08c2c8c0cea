"""SmoothQuant changes no fp32 output, and helps where a few channels are large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.recipes.graph import described
from autotune.adapters.onnxruntime.recipes.pipeline import prepare_channels
from autotune.algorithms.graph import Connections
from autotune.algorithms.smoothquant import smoothing_sites
from autotune.calibration import CalibrationStatistics
from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig, Recipe, SmoothQuant
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.onnx.recipe_graphs import pre_norm

ADAPTER = OnnxRuntimeAdapter()
CHOICES = [choice for choice in SmoothQuant if choice is not SmoothQuant.NONE]


def batch(seed: int = 0, channels: int = 24) -> dict[str, Array]:
    return {"x": normal(4, 10, channels, seed=seed, scale=1.0)}


def prepared(proto: onnx.ModelProto, batches: int = 1) -> tuple[OnnxModel, CalibrationStatistics]:
    model = ADAPTER.load(proto)
    return model, ADAPTER.calibrate(model, [batch(100 * seed) for seed in range(batches)], seed=0)


def config(model: OnnxModel, precision: Precision, choice: SmoothQuant) -> QuantizationConfig:
    """Static ranges hold all values, as smoothed ones do: what clipping does for outliers is another matter."""
    ranges = MINMAX if precision is Precision.INT8 else None
    ops: Mapping[str, OpConfig] = {
        op.name: dataclasses.replace(within.preferred, calibration=ranges)
        for op in ADAPTER.space(model).ops
        if op.name in "mk" and (within := op.space_of(precision)) is not None
    }
    return QuantizationConfig(ops=ops, recipe=Recipe(smooth_quant=choice))


def output(model: OnnxModel, seed: int = 7) -> Array:
    return ADAPTER.runner(model, Execution())(batch(seed))[0]


def sqnr_db(reference: Array, actual: Array) -> float:
    return float(10 * np.log10(np.square(reference).mean() / np.square(reference - actual).mean()))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 10),
    st.floats(0.01, 1000.0),
    st.sampled_from(CHOICES),
    st.sampled_from(["layer", "mul"]),
)
def test_fp32_outputs_stay(seed: int, large: float, choice: SmoothQuant, norm: str) -> None:
    model, statistics = prepared(pre_norm(seed, large=large, norm=norm))
    smoothed = prepare_channels(model, config(model, Precision.INT8_DYNAMIC, choice), statistics)
    assert smoothed.ranges
    assert relative_difference(output(model), output(smoothed.model)) < 1e-4


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_DYNAMIC])
@pytest.mark.parametrize("choice", CHOICES)
def test_outliers_cost_less(precision: Precision, choice: SmoothQuant) -> None:
    model, statistics = prepared(pre_norm(), batches=20)  # enough for ranges that hold other batches too
    plain = ADAPTER.apply(model, config(model, precision, SmoothQuant.NONE), statistics)
    smoothed = ADAPTER.apply(model, config(model, precision, choice), statistics)
    reference = output(model)
    assert sqnr_db(reference, output(smoothed)) > sqnr_db(reference, output(plain)) + 1.0


def test_statistics_are_those_of_the_smoothed_model() -> None:
    model, statistics = prepared(pre_norm())
    smoothed = prepare_channels(model, config(model, Precision.INT8, SmoothQuant.HALF), statistics)
    channels = smoothed.statistics.tensors["n"].channels
    again = ADAPTER.calibrate(smoothed.model, [batch()], seed=0).tensors["n"].channels
    assert channels is not None
    assert again is not None
    for field in ("minimum", "maximum", "mean", "variance"):
        np.testing.assert_allclose(getattr(channels, field), getattr(again, field), rtol=1e-3, atol=1e-5)


def test_tensor_that_a_residual_reads_is_left() -> None:
    """As after the normalization of BERT: the division would change what the residual adds."""
    proto = pre_norm()
    proto.graph.node.append(node("ReduceSum", "n", "total"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, None))
    graph = Graph(ADAPTER.load(proto).proto)
    assert not smoothing_sites(Connections(described(graph, quantizable_ops(graph)[0]), graph.outputs))


def test_space_offers_it_where_there_is_something_to_smooth() -> None:
    assert ADAPTER.space(ADAPTER.load(pre_norm())).recipe.smooth_quant == tuple(SmoothQuant)
    bare = build([node("MatMul", "x w", "y")], {"x": ("N", 8)}, {"y": ("N", 8)}, {"w": normal(8, 8)})
    assert ADAPTER.space(ADAPTER.load(bare)).recipe.smooth_quant == (SmoothQuant.NONE,)


def test_recipe_round_trip() -> None:
    recipe = Recipe(smooth_quant=SmoothQuant.THREE_QUARTERS)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.smooth_quant.alpha == 0.75
    assert dataclasses.replace(recipe, smooth_quant=SmoothQuant.AUTO).smooth_quant.alpha is None
