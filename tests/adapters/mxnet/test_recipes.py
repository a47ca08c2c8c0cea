"""Recipes: the folded model computes what the user's does, and corrections of constants reach the kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Example, Execution
from autotune.adapters.mxnet.adapter import MxnetAdapter
from autotune.adapters.mxnet.channels import prepare_channels
from autotune.adapters.mxnet.framework import mx
from autotune.adapters.mxnet.model import MxnetModel
from autotune.algorithms.graph import Clip, Layer, Sum
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Precision, QuantizationConfig, Recipe, WeightRounding
from tests.adapters.mxnet.networks import batches, images, mobile, residual, saved, shortcut

ADAPTER = MxnetAdapter()
NETWORKS = {"residual": residual, "mobile": mobile, "shortcut": shortcut}


def calibrated(name: str) -> tuple[MxnetModel, CalibrationStatistics]:
    model = ADAPTER.load(saved(NETWORKS[name]()), Example([images()]))
    return model, ADAPTER.calibrate(model, batches(), seed=0)


def candidate(model: MxnetModel, statistics: CalibrationStatistics, recipe: Recipe) -> MxnetModel:
    space, _ = ADAPTER.calibrated_space(ADAPTER.space(model), model, statistics)
    ops = {name: each for name, each in space.preferred.ops.items() if each.precision is Precision.INT8}
    return ADAPTER.apply(model, QuantizationConfig(ops=ops, recipe=recipe), statistics)


def outputs(model: MxnetModel, x: Array | None = None) -> Array:
    return ADAPTER.runner(model, Execution(threads=1))({"data": images(seed=9) if x is None else x})[0]


def sqnr_db(reference: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()))


def unequal(model: MxnetModel) -> MxnetModel:
    """The same function with channels of very unequal ranges between the two ends of a depthwise convolution."""
    factor = np.geomspace(1, 60, len(model.arguments["expand_weight"])).astype(np.float32)
    arguments = dict(model.arguments)
    for name in ("expand_weight", "expand_bias"):
        arguments[name] = arguments[name] / factor.reshape(-1, *[1] * (arguments[name].ndim - 1))
    arguments["depthwise_weight"] = arguments["depthwise_weight"] * factor.reshape(-1, 1, 1, 1)
    return dataclasses.replace(model, arguments=arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_nothing_but_the_symbol(name: str) -> None:
    model, _ = calibrated(name)
    np.testing.assert_allclose(outputs(model.prepared), outputs(model), rtol=1e-4, atol=1e-5)
    assert "BatchNorm" not in {node["op"] for node in model.prepared.graph.nodes}
    assert all(node.bias is not None for node in model.prepared.layers.nodes if isinstance(node, Layer))


@pytest.mark.parametrize(
    "options", [{"fix_gamma": True}, {"fix_gamma": None}, {"eps": 0.1}, {"use_global_stats": True}]
)
@pytest.mark.parametrize("shared", [False, True])
def test_normalizations_of_any_kind_compute_as_before(options: dict[str, Any], shared: bool) -> None:
    x = mx.sym.Convolution(mx.sym.var("data"), name="a", num_filter=4, kernel=(3, 3), no_bias=True)
    given = {name: value for name, value in {"fix_gamma": False, **options}.items() if value is not None}
    normal = mx.sym.BatchNorm(x, name="norm", **given)
    head = mx.sym.Convolution(normal, name="b", num_filter=2, kernel=(1, 1))
    whole = mx.sym.Group([head, x]) if shared else head
    model = ADAPTER.load(saved(whole), Example([images()]))
    np.testing.assert_allclose(outputs(model.prepared), outputs(model), rtol=1e-4, atol=1e-4)
    left = [node["op"] for node in model.prepared.graph.nodes if node["op"] == "BatchNorm"]
    assert bool(left) is shared


@pytest.mark.parametrize("name", NETWORKS)
def test_nodes_that_run_one_by_one_compute_what_the_symbol_does(name: str) -> None:
    model, _ = calibrated(name)
    layers = model.prepared.layers
    values = {"data": [images(seed=9)]}
    for node in layers.nodes:
        values |= layers.run(node, values)
    (output,) = layers.outputs
    np.testing.assert_allclose(values[output][0], outputs(model), rtol=1e-4, atol=1e-5)
    kinds = {type(node) for node in layers.nodes}
    assert {Layer, Clip, Sum} <= kinds
    (head,) = [node for node in layers.nodes if node.name in ("head", "last")]
    assert isinstance(head, Layer)


def test_equalized_channels_compute_the_same_in_fp32() -> None:
    model, _ = calibrated("mobile")
    model = unequal(model)
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    ops = {name: each for name, each in ADAPTER.space(model).preferred.ops.items() if name != "project"}
    config = QuantizationConfig(ops=ops, recipe=Recipe(equalization=True))
    quantized = {op.source for op in model.ops if op.name in ops}
    found = prepare_channels(model.prepared, config, statistics, quantized=quantized)
    seen = batches()[0]["data"]
    assert found.ranges
    assert "clip" in {node["op"] for node in model.prepared.graph.nodes}
    assert "broadcast_minimum" in {node["op"] for node in found.reference.graph.nodes}
    np.testing.assert_allclose(outputs(found.reference, seen), outputs(model, seen), rtol=1e-3, atol=1e-3)


def test_equalization_helps_where_channels_are_unequal() -> None:
    model, _ = calibrated("mobile")
    model = unequal(model)
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    preferred = ADAPTER.space(model).preferred.ops
    ops = {name: preferred[name] for name in ("expand", "depthwise")}  # others read tensors of few values
    plain, equal = (
        ADAPTER.apply(model, QuantizationConfig(ops=ops, recipe=Recipe(equalization=each)), statistics)
        for each in (False, True)
    )
    assert sqnr_db(outputs(model), outputs(equal)) > sqnr_db(outputs(model), outputs(plain)) + 3


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(bias_correction=BiasCorrection.FAST),
        Recipe(bias_correction=BiasCorrection.FULL),
        Recipe(weight_rounding=WeightRounding.GPTQ),
        Recipe(weight_rounding=WeightRounding.GPTQ, equalization=True, bias_correction=BiasCorrection.FULL),
    ],
    ids=["fast", "full", "gptq", "all"],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_recipes_change_constants_and_stay_near(name: str, recipe: Recipe) -> None:
    model, statistics = calibrated(name)
    plain, made = candidate(model, statistics, Recipe()), candidate(model, statistics, recipe)
    assert plain.fingerprint != made.fingerprint
    assert sqnr_db(outputs(model), outputs(made)) > 25
    assert made.graph.integer_ops() == plain.graph.integer_ops()
    assert not [line for line in made.notes if "MXNet" in line]


def test_weights_come_out_as_the_integers_that_were_chosen() -> None:
    """MXNet chooses scales of weights anew: the largest of each channel becomes 127, so that one must be that."""
    model, statistics = calibrated("residual")
    made = candidate(model, statistics, Recipe(weight_rounding=WeightRounding.GPTQ))
    for name in ("first_weight", "second_weight", "third_weight"):
        weight = made.arguments[name]
        rows = weight.reshape(len(weight), -1)
        steps = 127 * rows / np.abs(rows).max(axis=1, keepdims=True)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert not np.array_equal(weight, model.prepared.arguments[name])
