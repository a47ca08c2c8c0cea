from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from autotune.adapter import Array
from autotune.adapters.openvino.layers import OpenVinoGraph
from autotune.adapters.openvino.nodes import convolution_of
from autotune.adapters.openvino.ops import op_name, quantizable_ops
from autotune.algorithms.graph import Convolution, Values
from autotune.config import BiasCorrection, Recipe, WeightRounding
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, Calibrated, calibrated, wide

GPTQ = Recipe(weight_rounding=WeightRounding.GPTQ)


def chain() -> onnx.ModelProto:
    """Two convolutions of which the first has no bias, so that errors of one reach the other."""
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "r"),
        node("Conv", "r v b", "y", pads=[1, 1, 1, 1]),
    ]
    constants = {"w": normal(24, 8, 3, 3), "v": normal(16, 24, 3, 3, seed=1), "b": normal(16, seed=2)}
    return build(nodes, {"x": ("N", 8, 12, 12)}, {"y": None}, constants)


@pytest.fixture(scope="module")
def convolutions() -> Calibrated:
    return calibrated(chain(), [{"x": normal(16, 8, 12, 12, seed=seed, scale=1.0) + 1} for seed in range(2)])


def shift(subject: Calibrated, recipe: Recipe) -> float:
    """How far the means of the output's channels are from those of fp32."""
    return float(np.abs(difference(subject, recipe).mean(axis=(0, 2, 3))).mean())


def difference(subject: Calibrated, recipe: Recipe) -> Array:
    candidate = subject.int8(recipe=recipe)
    feeds = subject.batches[0]
    ours, exact = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (candidate, subject.model))
    return np.asarray(ours - exact)


@pytest.mark.parametrize("name", ["wide", "chain"])
def test_nodes_one_after_the_other_compute_what_the_model_does(name: str, convolutions: Calibrated) -> None:
    subject = wide() if name == "wide" else convolutions
    layers = OpenVinoGraph(subject.model.graph.clone())
    values: dict[str, Values] = {"x": [batch["x"] for batch in subject.batches]}
    for each in layers.nodes:
        values.update(layers.run(each, values))
    (written,) = layers.outputs
    for batch, found in zip(subject.batches, values[written], strict=True):
        expected = ADAPTER.runner(subject.model, ONE_THREAD)(batch)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_node_runs_with_other_constants_and_keeps_its_own() -> None:
    layers = OpenVinoGraph(wide().model.graph.clone())
    first = next(each for each in layers.nodes if each.name == "c1")
    values: dict[str, Values] = {"x": [wide().batches[0]["x"]]}
    (written,) = first.writes
    before = layers.run(first, values)[written][0]
    doubled = {name: 2 * layers.constants[name] for name in ("c1/weight", "c1/bias")}
    np.testing.assert_allclose(layers.run(first, values, doubled)[written][0], 2 * before, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layers.run(first, values)[written][0], before)


def test_full_bias_correction_mends_what_earlier_ops_shift(convolutions: Calibrated) -> None:
    coarse = Recipe(reduce_range=True)
    plain, fast, full = (
        shift(convolutions, dataclasses.replace(coarse, bias_correction=each))
        for each in (BiasCorrection.NONE, BiasCorrection.FAST, BiasCorrection.FULL)
    )
    assert fast < 0.7 * plain
    assert full < 0.5 * fast


def test_gptq_errs_less_than_the_nearest_integers(convolutions: Calibrated) -> None:
    nearest, gptq = (
        float(np.square(difference(convolutions, recipe)).mean())
        for recipe in (Recipe(reduce_range=True), dataclasses.replace(GPTQ, reduce_range=True))
    )
    assert gptq < 0.9 * nearest


def test_gptq_keeps_pairs_within_their_bound(convolutions: Calibrated) -> None:
    assert ADAPTER.saturating_ops(convolutions.int8(recipe=dataclasses.replace(GPTQ, bound_pairs=True))) == ()


def test_recipes_without_samples_say_what_they_do_instead(convolutions: Calibrated) -> None:
    bare = dataclasses.replace(convolutions, statistics=dataclasses.replace(convolutions.statistics, examples=()))
    full = bare.int8(recipe=Recipe(bias_correction=BiasCorrection.FULL))
    assert "need calibration samples, and none was kept" in full.told[-1]
    fast = convolutions.int8(recipe=Recipe(bias_correction=BiasCorrection.FAST))
    assert full.fingerprint == fast.fingerprint


def test_a_head_that_answers_once_per_sample_keeps_its_bias() -> None:
    recipes = [Recipe(bias_correction=each) for each in (BiasCorrection.FULL, BiasCorrection.NONE)]
    full, none = (wide().int8("logits", recipe=recipe) for recipe in recipes)
    feeds = wide().batches[0]
    ours, theirs = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (full, none))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ({"pads": [1, 2, 3, 4]}, (1, 2, 3, 4)),
        ({"auto_pad": "VALID"}, (0, 0, 0, 0)),
        ({"auto_pad": "SAME_UPPER"}, None),
    ],
)
def test_a_convolution_is_told_by_its_numbers(attributes: dict[str, object], pads: tuple[int, ...] | None) -> None:
    proto = build(
        [node("Conv", "x w", "y", strides=[2, 1], dilations=[1, 2], group=2, **attributes)],
        {"x": ("N", 4, 9, 9)},
        {"y": None},
        {"w": normal(6, 2, 3, 3)},
    )
    (op,) = quantizable_ops(ADAPTER.load(proto).graph)[0]
    assert op_name(op.node) == "y"
    assert convolution_of(op) == Convolution(groups=2, strides=(2, 1), dilations=(1, 2), pads=pads)
    subject = calibrated(proto, image_batches(shape=(4, 9, 9)))
    left_alone = ("Weights and bias of 'y' are not corrected: a stack of matrices, or automatic padding",)
    assert subject.int8(recipe=GPTQ).notes == (() if pads is not None else left_alone)
