"""Bias correction and weight rounding: each lessens the error it is about, and leaves what it cannot serve."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, convolution_of
from autotune.algorithms.gptq import (
    convolution_moments,
)
from autotune.algorithms.graph import Node, Values
from autotune.config import (
    FP32,
    BiasCorrection,
    CalibrationAlgorithm,
    CalibrationMethod,
    Granularity,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
    WeightRounding,
)
from tests.adapters.onnx.graphs import build, node, normal, small_cnn
from tests.adapters.onnx.recipe_graphs import chain
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, BATCHES, config, prepared, run, sqnr_db

pytestmark = pytest.mark.numeric

LAYERS = [("dense", "relu6"), ("depthwise", "relu6"), ("pointwise", "none"), ("dense", "relu"), ("depthwise", "none")]
FAST, FULL = Recipe(bias_correction=BiasCorrection.FAST), Recipe(bias_correction=BiasCorrection.FULL)
EVERYTHING = Recipe(equalization=True, bias_correction=BiasCorrection.FULL, weight_rounding=WeightRounding.GPTQ)
PER_TENSOR = Granularity.PER_TENSOR
S8_PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)


def mean_error(model: OnnxModel, quantized: OnnxModel) -> float:
    """Root mean square over channels of the shift of a channel's mean."""
    differences = [run(quantized, feeds) - run(model, feeds) for feeds in BATCHES]
    return float(np.sqrt(np.square(np.concatenate(differences).mean(axis=(0, 2, 3))).mean()))


@pytest.mark.parametrize("recipe", [FAST, FULL], ids=["fast", "full"])
def test_shift_of_the_mean_shrinks(recipe: Recipe) -> None:
    ratios = []
    for seed in range(6):
        model, statistics = prepared(chain(LAYERS, seed))
        plain = ADAPTER.apply(model, config(model, granularity=PER_TENSOR), statistics)
        corrected = ADAPTER.apply(model, config(model, recipe, granularity=PER_TENSOR), statistics)
        ratios.append(mean_error(model, corrected) / mean_error(model, plain))
    assert np.median(ratios) < (0.3 if recipe is FULL else 0.8)


def test_full_correction_does_not_make_up_for_outliers_that_calibration_leaves_out() -> None:
    """Few values lose what a range cuts off; a bias that makes up for it would shift all of them."""
    clipping = CalibrationAlgorithm(method=CalibrationMethod.PERCENTILE, percentile=90.0)
    ratios = []
    for seed in range(6):
        model, statistics = prepared(chain([("dense", "relu"), ("dense", "relu"), ("pointwise", "none")], seed))
        plain, full = (
            ADAPTER.apply(model, calibrated(config(model, recipe), clipping), statistics) for recipe in (Recipe(), FULL)
        )
        within = [np.median(np.abs(run(each) - run(model))) for each in (plain, full)]
        ratios.append(within[1] / within[0])
    assert max(ratios) < 1.1


def calibrated(given: QuantizationConfig, algorithm: CalibrationAlgorithm) -> QuantizationConfig:
    """The same with the ranges of another algorithm."""
    return given.replace({op: dataclasses.replace(choice, calibration=algorithm) for op, choice in given.ops.items()})


def test_full_correction_serves_convolutions_without_bias() -> None:
    model, statistics = prepared(chain(LAYERS, 1, bias=False))
    plain = ADAPTER.apply(model, config(model, granularity=PER_TENSOR), statistics)
    corrected = ADAPTER.apply(model, config(model, FULL, granularity=PER_TENSOR), statistics)
    assert mean_error(model, corrected) < 0.2 * mean_error(model, plain)


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 2]}, {"dilations": [2, 2]}, {"pads": [1, 0, 2, 1]}])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_predict_the_output(groups: int, attributes: dict[str, list[int]]) -> None:
    """The mean square of a convolution's output is ``w H w``, whatever its strides, dilations, pads and groups."""
    weight = normal(4, 4 // groups, 3, 3)
    convolution = node("Conv", "x w", "y", group=groups, **attributes)
    model = ADAPTER.load(build([convolution], {"x": ("N", 4, 9, 9)}, {"y": None}, {"w": weight}))
    feeds = {"x": normal(2, 4, 9, 9, seed=1, scale=1.0)}
    moments = convolution_moments(convolution_of(convolution, 2), (3, 3), [feeds["x"]])
    rows = weight.reshape(groups, 4 // groups, -1)
    predicted = np.einsum("goi,gij,goj->go", rows, moments, rows).ravel()
    np.testing.assert_allclose(predicted, np.square(run(model, feeds)).mean(axis=(0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_everything_together_fuses_and_helps(granularity: Granularity) -> None:
    gains = []
    for seed in range(4):
        model, statistics = prepared(chain(LAYERS, seed))
        plain = ADAPTER.apply(model, config(model, granularity=granularity), statistics)
        better = ADAPTER.apply(model, config(model, EVERYTHING, granularity=granularity), statistics)
        assert optimized_op_counts(better.proto) == {"QuantizeLinear": 1, "QLinearConv": 5, "DequantizeLinear": 1}
        gains.append(sqnr_db(model, better) - sqnr_db(model, plain))
    assert np.mean(gains) > 3.0


def test_residuals_pools_and_heads_fuse() -> None:
    model, statistics = prepared(small_cnn())
    plain = ADAPTER.apply(model, config(model), statistics)
    better = ADAPTER.apply(model, config(model, EVERYTHING), statistics)
    assert optimized_op_counts(better.proto) == optimized_op_counts(plain.proto)
    assert run(better).shape == run(model).shape


def test_shared_weights_stay_with_a_note() -> None:
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "a"), node("Conv", "a w b", "y")]
    constants = {"w": normal(3, 3, 1, 1), "b": normal(3, seed=1)}
    model, statistics = prepared(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, constants))
    plain = ADAPTER.apply(model, config(model), statistics)
    left = ADAPTER.apply(model, config(model, EVERYTHING), statistics)
    assert left.fingerprint == plain.fingerprint
    assert any("other ops read them too" in note for note in left.notes)


def test_recipes_leave_the_model_as_it_is() -> None:
    model, statistics = prepared(chain(LAYERS, 0))
    before = model.fingerprint, model.proto.SerializeToString(deterministic=True)
    ADAPTER.apply(model, config(model, EVERYTHING), statistics)
    assert (OnnxModel(proto=model.proto).fingerprint, model.proto.SerializeToString(deterministic=True)) == before


def test_what_no_quantized_op_precedes_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of five convolutions alone is int8: up to there both models are the same."""
    model, statistics = prepared(chain([("dense", "relu6")] * 5, 0))
    everywhere = config(model, FULL)
    ops = list(everywhere.ops)
    ran: list[str] = []
    convolutions = {each.name for each in model.proto.graph.node if each.op_type == "Conv"}
    run_node = OnnxGraph.run

    def counted(self: OnnxGraph, node: Node, *rest: Any) -> dict[str, Values]:
        ran.append("Conv" if node.name in convolutions else "other")
        return run_node(self, node, *rest)

    monkeypatch.setattr(OnnxGraph, "run", counted)
    whole = ADAPTER.apply(model, everywhere, statistics)
    assert ran.count("Conv") == 10
    ran.clear()
    last = ADAPTER.apply(model, everywhere.replace(dict.fromkeys(ops[:-1], FP32)), statistics)
    assert ran.count("Conv") == 6
    assert mean_error(model, last) < mean_error(model, whole)
