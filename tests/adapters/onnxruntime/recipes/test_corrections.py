"""Bias correction and weight rounding: each lessens the error it is about, and leaves what it cannot serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Feeds
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, convolution_of
from autotune.algorithms import AffineParameters, WeightLimits, can_saturate, corrections
from autotune.algorithms.bias_correction import convolution_shift, matmul_shift
from autotune.algorithms.gptq import (
    PairBound,
    convolution_moments,
    round_by_gptq,
)
from autotune.algorithms.graph import Node, Values
from autotune.algorithms.layerwise import walk
from autotune.algorithms.saturation import LARGEST_PAIR
from autotune.calibration import CalibrationStatistics
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
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, BATCHES, chain, config, prepared, run, sqnr_db

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
    """What a range cuts off is lost to few values; a bias that makes up for it would shift all of them."""
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


def test_fast_shift_is_that_of_a_convolution_of_the_mean() -> None:
    error = normal(4, 2, 3, 3).astype(np.float64)
    mean = np.arange(1.0, 5.0)
    expected = [sum(error[o, i].sum() * mean[2 * (o // 2) + i] for i in range(2)) for o in range(4)]
    np.testing.assert_allclose(convolution_shift(error, mean, 2), expected)
    np.testing.assert_allclose(matmul_shift(error[:, :, 0, 0], mean[:2]), error[:, :, 0, 0] @ mean[:2])


def test_gptq_beats_rounding_to_nearest_where_inputs_correlate() -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2000, 24)) @ random.standard_normal((24, 24))
    moments = (inputs.T @ inputs / len(inputs))[None]
    rows = random.standard_normal((1, 16, 24)).astype(np.float32)
    scale = np.full((1, 16), 0.1)
    rounded = round_by_gptq(rows, scale, np.zeros((1, 16)), moments, (-128, 127))
    nearest = np.rint(rows / 0.1) * 0.1

    def loss(weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        error = (weights - rows)[0]
        return float(np.einsum("oi,ij,oj->", error, moments[0], error))

    np.testing.assert_allclose(rounded / 0.1, np.rint(rounded / 0.1), atol=1e-4)
    assert loss(rounded.astype(np.float64)) < 0.6 * loss(nearest)


def test_gptq_stays_within_the_integers() -> None:
    rows = np.full((1, 2, 4), 3.0, np.float32)
    moments = np.eye(4)[None] + 0.9
    rounded = round_by_gptq(rows, np.full((1, 2), 0.01), np.zeros((1, 2)), moments, (-64, 63))
    assert rounded.max() <= 0.63 + 1e-6


def test_gptq_makes_up_for_what_a_bound_on_neighbours_takes() -> None:
    """The bound is kept as weights are rounded: cut afterwards, nothing would make up for it."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2000, 24)) @ random.standard_normal((24, 24))
    moments = (inputs.T @ inputs / len(inputs))[None]
    rows = random.standard_normal((1, 16, 24)).astype(np.float32)
    limits = WeightLimits(order=np.arange(rows.size).reshape(16, 24).T)
    scale, zero = np.full((1, 16), 0.024, np.float32), np.zeros((1, 16), np.int8)
    neighbours = limits.neighbours((16, 24), 0)
    assert neighbours is not None
    bound = PairBound(neighbours=neighbours, most=LARGEST_PAIR)
    within = round_by_gptq(rows, scale, zero, moments, (-127, 127), bound)[0]
    free = round_by_gptq(rows, scale, zero, moments, (-127, 127))[0]
    parameters, scheme = AffineParameters(scale[0], zero[0]), S8_PER_CHANNEL

    def loss(weights: Array) -> float:
        error = (weights - rows[0]).astype(np.float64)
        return float(np.einsum("oi,ij,oj->", error, moments[0], error))

    assert can_saturate(np.rint(free / 0.024).astype(np.int64).T)
    assert not can_saturate(np.rint(within / 0.024).astype(np.int64).T)
    np.testing.assert_array_equal(limits.fake_quantize(within, parameters, scheme, 0), within)
    assert loss(within) < 0.7 * loss(limits.fake_quantize(free, parameters, scheme, 0))


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


@pytest.mark.parametrize("granularity", Granularity)
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
    """Of five convolutions the last alone is int8: up to there both models are the same."""
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


@dataclass(frozen=True)
class _Positions:
    """What :func:`corrections._enough` asks of a layer."""

    positions: float


def _chosen(written: int, positions: Sequence[float], kept: int = 32) -> list[int]:
    """Indices of the examples that biases are corrected from where one makes the model write ``written`` values."""
    _, statistics = prepared(chain(LAYERS[:1], 0))
    tensor = dataclasses.replace(next(iter(statistics.tensors.values())), count=100 * written)
    examples = tuple({"x": np.full(1, index, np.float32)} for index in range(kept))
    of_one = CalibrationStatistics(tensors={"x": tensor}, samples=100, examples=examples)
    layers: Any = [_Positions(each) for each in positions]
    return [int(each["x"].item()) for each in corrections._enough(layers, of_one)]


@pytest.mark.parametrize(
    ("written", "used"), [(480_000, 32), (4_300_000, 32), (14_800_000, 9), (27_600_000, 4), (500_000_000, 4)]
)
def test_biases_are_corrected_from_as_few_examples_as_the_model_writes_much(written: int, used: int) -> None:
    """All 32 text lines of a recogniser took 10.6 s of processor time, once for each candidate."""
    chosen = _chosen(written, [1.0, 100.0])
    assert len(chosen) == used
    assert chosen == sorted(set(chosen))
    assert chosen[-1] >= 24  # from all over the data


def test_no_layer_that_all_examples_would_correct_is_left_out() -> None:
    assert len(_chosen(50_000_000, [40.0, 3840.0])) == 7  # 256 values of a channel's mean
    assert len(_chosen(50_000_000, [8.0])) == 32
    assert len(_chosen(50_000_000, [7.9, 40.0])) == 7, "the first has too few, whatever is run"
    assert len(_chosen(50_000_000, [40.0], kept=6)) == 4, "six are too few for it, too"


def test_the_positions_of_a_layer_are_those_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []
    enough = corrections._enough

    def watched(layers: Sequence[Any], statistics: CalibrationStatistics) -> Sequence[Feeds]:
        found.extend(layer.positions for layer in layers)
        return enough(layers, statistics)

    monkeypatch.setattr(corrections, "_enough", watched)
    model, statistics = prepared(chain(LAYERS, 0))
    ADAPTER.apply(model, config(model, FULL), statistics)
    outputs = run(model, BATCHES[0])
    assert found[-1] == outputs[0, 0].size


def test_gptq_reads_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "_ENOUGH_VALUES", 1)
    monkeypatch.setattr(corrections, "_FEWEST_VALUES", 1)
    walked: list[int] = []

    def counted(graph: OnnxGraph, examples: Sequence[Feeds], *rest: Any) -> dict[str, Array]:
        walked.append(len(examples))
        return walk(graph, examples, *rest)

    monkeypatch.setattr(corrections, "walk", counted)
    model, statistics = prepared(chain(LAYERS, 0))
    for recipe in (FULL, EVERYTHING):
        ADAPTER.apply(model, config(model, recipe), statistics)
    assert walked == [4, len(statistics.examples)]
