"""Equalization and SmoothQuant change no fp32 output of an OpenVINO model, cost no speed, and help int8."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.adapter import Feeds
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.openvino import OpenVinoModel
from autotune.adapters.openvino.channels import Channels, prepare_channels
from autotune.adapters.openvino.layers import OpenVinoGraph
from autotune.adapters.openvino.session import compile_for
from autotune.algorithms.graph import Clip, Scaled, Sum
from autotune.config import (
    MINMAX,
    BiasCorrection,
    Granularity,
    QuantizationConfig,
    Recipe,
    SmoothQuant,
)
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnx.recipe_graphs import LAYERS, chain, pre_norm, residual
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, Calibrated, calibrated

pytestmark = pytest.mark.numeric

EQUALIZED = Recipe(equalization=True)
BATCHES = image_batches()
CHOICES = [choice for choice in SmoothQuant if choice is not SmoothQuant.NONE]


def pictures(proto: onnx.ModelProto) -> Calibrated:
    return calibrated(proto, BATCHES)


def tokens(seed: int = 0, **changes: object) -> Calibrated:
    batches = [{"x": normal(4, 10, 24, seed=100 * each, scale=1.0)} for each in range(20)]
    return calibrated(pre_norm(seed, **changes), batches)  # type: ignore[arg-type]  # its own keywords


def int8(
    subject: Calibrated, recipe: Recipe, granularity: Granularity = Granularity.PER_CHANNEL, fp32: tuple[str, ...] = ()
) -> QuantizationConfig:
    """All ops in int8 with ranges of all values but for some."""
    ops = {}
    for op in ADAPTER.space(subject.model).ops:
        weight = op.preferred.weight
        scheme = None if weight is None else dataclasses.replace(weight, granularity=granularity)
        ops[op.name] = dataclasses.replace(op.preferred, calibration=MINMAX, weight=scheme)
    return QuantizationConfig(ops={name: choice for name, choice in ops.items() if name not in fp32}, recipe=recipe)


def prepared(subject: Calibrated, config: QuantizationConfig) -> Channels:
    return prepare_channels(subject.model.graph.clone(), config, subject.statistics)


def error(subject: Calibrated, graph: ov.Model, feeds: Feeds | None = None) -> float:
    """The largest difference from the fp32 model over the largest value."""
    feeds = subject.batches[0] if feeds is None else feeds
    ours, exact = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (OpenVinoModel(graph=graph), subject.model))
    return relative_difference(exact, ours)


def sqnr_db(subject: Calibrated, config: QuantizationConfig) -> float:
    candidate = ADAPTER.apply(subject.model, config, subject.statistics)
    ours, exact = (ADAPTER.runner(model, ONE_THREAD)(subject.batches[0])[0] for model in (candidate, subject.model))
    return float(10 * np.log10(np.square(exact).mean() / np.square(ours - exact).mean()))


def kernels(subject: Calibrated, config: QuantizationConfig) -> Counter[tuple[str, str]]:
    """Kernels that OpenVINO executes: how many there are of each kind and precision."""
    candidate = ADAPTER.apply(subject.model, config, subject.statistics)
    made = compile_for(candidate, tuple(array.shape for array in subject.batches[0].values()), ONE_THREAD)
    infos = [each.get_rt_info() for each in made.get_runtime_model().get_ordered_ops()]
    return Counter((str(info["layerType"].value), str(info["runtimePrecision"].value)) for info in infos)


@settings(deadline=None, max_examples=25)
@given(LAYERS, st.integers(0, 2**32 - 1), st.sampled_from(Granularity.PLAIN), st.booleans(), st.booleans())
def test_fp32_outputs_of_chains_stay(
    layers: list[tuple[str, str]], seed: int, granularity: Granularity, bias: bool, corrected: bool
) -> None:
    subject = pictures(chain(layers, seed, bias=bias))
    correction = BiasCorrection.FAST if corrected else BiasCorrection.NONE
    recipe = dataclasses.replace(EQUALIZED, bias_correction=correction)
    assert error(subject, prepared(subject, int8(subject, recipe, granularity)).reference) < 1e-4


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
def test_fp32_outputs_of_residual_streams_stay(blocks: int, seed: int, rectified: bool) -> None:
    subject = pictures(residual(blocks, seed, rectified=rectified))
    found = prepared(subject, int8(subject, EQUALIZED))
    assert {"stem", "add0"} <= set(found.ranges)
    assert error(subject, found.reference) < 1e-4


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 10), st.floats(0.01, 1000.0), st.sampled_from(CHOICES), st.sampled_from(["layer", "mul"]))
def test_fp32_outputs_of_smoothed_products_stay(seed: int, large: float, choice: SmoothQuant, norm: str) -> None:
    subject = tokens(seed, large=large, norm=norm)
    found = prepared(subject, int8(subject, Recipe(smooth_quant=choice)))
    assert set(found.ranges) == {"n"}
    assert error(subject, found.reference) < 1e-4


def test_bounds_of_clips_hold_beyond_calibration_in_the_reference() -> None:
    subject = pictures(chain([("dense", "relu6"), ("depthwise", "relu6"), ("dense", "none")], 0))
    found = prepared(subject, int8(subject, EQUALIZED))
    far = {"x": BATCHES[0]["x"] * 50}
    assert error(subject, found.reference, far) < 1e-4
    assert error(subject, found.graph, far) > 1e-2
    assert error(subject, subject.model.graph, far) == 0.0


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
@pytest.mark.parametrize("bias", [True, False])
def test_chains_gain_and_keep_their_kernels(granularity: Granularity, bias: bool) -> None:
    layers = [("dense", "relu"), ("depthwise", "relu6"), ("pointwise", "relu"), ("depthwise", "none")]
    recipe = dataclasses.replace(EQUALIZED, bias_correction=BiasCorrection.FAST)
    gains = []
    for seed in range(3):
        subject = pictures(chain(layers, seed, bias=bias))
        plain = int8(subject, dataclasses.replace(recipe, equalization=False), granularity)
        better = dataclasses.replace(plain, recipe=recipe)
        assert kernels(subject, plain) == kernels(subject, better)
        gains.append(sqnr_db(subject, better) - sqnr_db(subject, plain))
    assert np.mean(gains) > 3.0


def test_residual_streams_gain_and_keep_their_kernels() -> None:
    for seed in range(3):
        subject = pictures(residual(2, seed))
        plain, better = int8(subject, Recipe()), int8(subject, EQUALIZED)
        assert kernels(subject, plain) == kernels(subject, better)
        assert sqnr_db(subject, better) > sqnr_db(subject, plain) + 3.0


@pytest.mark.parametrize("choice", CHOICES)
def test_outliers_cost_less_where_they_are_smoothed(choice: SmoothQuant) -> None:
    subject = tokens()
    plain, better = int8(subject, Recipe()), int8(subject, Recipe(smooth_quant=choice))
    assert kernels(subject, plain) == kernels(subject, better)
    assert sqnr_db(subject, better) > sqnr_db(subject, plain) + 1.0


def test_statistics_are_those_of_the_equalized_model() -> None:
    subject = pictures(chain([("dense", "relu"), ("depthwise", "none"), ("pointwise", "none")], 2))
    found = prepared(subject, int8(subject, EQUALIZED))
    again = ADAPTER.calibrate(OpenVinoModel(graph=found.graph), BATCHES, seed=0)
    for name in ("a0", "c1"):
        ours, theirs = found.statistics.tensors[name].channels, again.tensors[name].channels
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours.maximum, theirs.maximum, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-2, atol=1e-3)


def test_what_no_op_quantizes_keeps_its_channels_and_its_bound() -> None:
    """An fp32 op reads the tensor itself, so that no range would take the place of the Clip."""
    subject = pictures(chain([("dense", "relu6"), ("depthwise", "relu6"), ("pointwise", "none")], 1))
    found = prepared(subject, int8(subject, EQUALIZED, fp32=("c1",)))
    assert set(found.ranges) == {"a1"}
    assert error(subject, found.graph, {"x": BATCHES[0]["x"] * 50}) > 1e-2  # the bound of `a1` is left to its range
    alone = prepared(subject, int8(subject, EQUALIZED, fp32=("c1", "c2")))
    assert not alone.ranges
    assert error(subject, alone.graph, {"x": BATCHES[0]["x"] * 50}) == 0.0


def test_a_bias_that_was_added_hides_no_tensor() -> None:
    subject = pictures(chain([("dense", "none"), ("depthwise", "none")], 3, bias=False))
    recipe = dataclasses.replace(EQUALIZED, bias_correction=BiasCorrection.FAST)
    assert set(prepared(subject, int8(subject, recipe)).ranges) == {"c0/biased"}


def test_an_outlier_does_not_stretch_the_range_of_what_was_scaled() -> None:
    batches = [{"x": np.concatenate([batch["x"]] * 50)} for batch in BATCHES]
    batches[0]["x"][0, :, 0, 0] *= 1000
    subject = calibrated(chain([("dense", "relu"), ("depthwise", "none")], 0), batches)
    config = int8(subject, EQUALIZED)
    end = prepared(subject, config).ranges["a0"][1]
    assert end < 0.5 * prepared(subject, config).statistics.tensors["a0"].maximum
    candidate = ADAPTER.apply(subject.model, config, subject.statistics)
    found = {each.get_friendly_name(): each for each in candidate.graph.get_ordered_ops()}
    assert float(found["a0/quantized"].input_value(2).get_node().data) == pytest.approx(end, rel=1e-3)


def test_an_absorbed_offset_moves_to_the_next_bias() -> None:
    proto = build(
        [node("Conv", "x w1 b1", "c"), node("Relu", "c", "a"), node("Conv", "a w2", "y")],
        {"x": ("N", 3, 8, 8)},
        {"y": None},
        {
            "w1": normal(4, 3, 1, 1, scale=0.05),
            "b1": np.array([5, 5, 0, 0], np.float32),
            "w2": normal(4, 4, 1, 1, seed=1),
        },
    )
    subject = pictures(proto)
    recipe = dataclasses.replace(EQUALIZED, bias_correction=BiasCorrection.FAST)  # which gives the second one a bias
    found = prepared(subject, int8(subject, recipe))
    before, after = subject.statistics.tensors["a"].channels, found.statistics.tensors["a"].channels
    assert before is not None
    assert after is not None
    assert (before.minimum / before.maximum)[:2].min() > 0.5
    assert (after.minimum / after.maximum)[:2].max() < 0.5
    assert error(subject, found.reference) < 1e-4


@pytest.mark.parametrize(("case", "reason"), [("two readers", "another op reads"), ("from below zero", "start at")])
def test_what_cannot_be_equalized_is_told(case: str, reason: str) -> None:
    low = -1 if case == "from below zero" else 0
    nodes = [node("Conv", "x w", "c"), node("Clip", "c low six", "a"), node("Conv", "a v", "y")]
    outputs: dict[str, None] = {"y": None}
    if case == "two readers":
        nodes.append(node("Sigmoid", "a", "z"))
        outputs["z"] = None
    constants = {"w": normal(3, 3, 1, 1), "v": normal(3, 3, 1, 1, seed=1)}
    constants |= {"low": np.array(low, np.float32), "six": np.array(6, np.float32)}
    subject = pictures(build(nodes, {"x": ("N", 3, 8, 8)}, outputs, constants))
    candidate = ADAPTER.apply(subject.model, int8(subject, EQUALIZED), subject.statistics)
    assert any(note.startswith("Equalization leaves the input of 'y'") and reason in note for note in candidate.notes)


def test_a_constant_in_a_stream_is_told() -> None:
    nodes = [node("Conv", "x a", "p"), node("Conv", "p b", "q"), node("Add", "p q", "s"), node("Add", "s k", "t")]
    nodes.append(node("Conv", "t c", "y"))
    constants = {"a": normal(4, 3, 1, 1), "b": normal(4, 4, 1, 1, seed=1), "c": normal(4, 4, 1, 1, seed=2)}
    subject = pictures(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, {**constants, "k": normal(4, 1, 1)}))
    candidate = ADAPTER.apply(subject.model, int8(subject, EQUALIZED), subject.statistics)
    assert any("residual stream of 's'" in note and "a constant is added to it" in note for note in candidate.notes)


def test_the_space_offers_what_can_act() -> None:
    convolutions = ADAPTER.space(ADAPTER.load(chain([("dense", "relu"), ("dense", "none")], 0))).recipe
    assert convolutions.equalization == (True, False)
    assert convolutions.smooth_quant == (SmoothQuant.NONE,)
    products = ADAPTER.space(ADAPTER.load(pre_norm())).recipe
    assert products.equalization == (False,)
    assert products.smooth_quant == tuple(SmoothQuant)


def test_nodes_are_what_the_algorithms_know() -> None:
    nodes = [
        node("Clip", "x zero six", "a"),
        node("Min", "a seven", "b"),
        node("Relu", "b", "c"),
        node("Add", "x c", "d"),
        node("Mul", "d v", "e"),
        node("Add", "e v", "f"),
        node("Mul", "f seven", "g"),
        node("Add", "g v", "h"),
    ]
    constants = {name: np.array(value, np.float32) for name, value in (("zero", 0), ("six", 6), ("seven", 7))}
    proto = build(nodes, {"x": ("N", 8)}, {"h": None}, {**constants, "v": normal(8)})
    layers = OpenVinoGraph(ADAPTER.load(proto).graph)
    found = {each.writes[0]: each for each in layers.nodes}
    clip = found["c"]
    assert isinstance(clip, Clip)
    assert (clip.reads, clip.low, clip.high) == (("x",), 0.0, 6.0)
    assert isinstance(found["d"], Sum)
    assert isinstance(found["f"], Scaled)
    assert found["f"].reads == ("d", "e/vector", "f/vector")
    assert not isinstance(found["g"], Scaled | Sum)
    assert isinstance(found["h"], Sum)
    assert not {"a", "b", "e"} & set(found)


def test_a_graph_may_be_deeper_than_a_stack_of_calls() -> None:
    deep = [node("Relu", "x", "r0")] + [node("Sigmoid", f"r{at}", f"r{at + 1}") for at in range(1200)]
    proto = build([*deep, node("Add", "x r1200", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {})
    layers = OpenVinoGraph(ADAPTER.load(proto).graph)
    assert len(layers.nodes) == len(deep) + 1
    assert isinstance(layers.nodes[-1], Sum)
