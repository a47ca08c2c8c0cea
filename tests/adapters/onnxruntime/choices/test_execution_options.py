"""Execution options: other kernels or none, the same answers, and a saved model that says how it was run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import autotune
from autotune.adapter import Execution
from autotune.adapters.onnx.options import GraphFormat, GraphOptimization
from autotune.adapters.onnx.session import optimized_op_counts, session_options
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.choices.execution_options import METADATA_KEY, finish
from autotune.adapters.onnxruntime.saturation import saturating_ops
from autotune.config import FP32, QuantizationConfig, Recipe
from autotune.errors import ApplyError, ModelError
from autotune.restriction import SpaceRestriction
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.onnx.recipe_graphs import chain
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config, prepared, run

LAYERS = [("dense", "relu"), ("depthwise", "relu6"), ("pointwise", "none")]
LEVELS = onnxruntime.GraphOptimizationLevel


def candidate(recipe: Recipe) -> OnnxModel:
    model, statistics = prepared(chain(LAYERS, 0))
    return ADAPTER.apply(model, config(model, recipe), statistics)


@pytest.mark.parametrize("fp32", [(), ("c0",)])
def test_qoperator_holds_the_kernels_that_qdq_becomes(fp32: tuple[str, ...]) -> None:
    model, statistics = prepared(chain(LAYERS, 0))
    chosen = {n.name: FP32 for n in model.proto.graph.node if n.output[0] in fp32}
    assert len(chosen) == len(fp32)
    qdq = ADAPTER.apply(model, config(model).replace(chosen), statistics)
    recipe = Recipe(options={"format": GraphFormat.QOPERATOR})
    qoperator = ADAPTER.apply(model, config(model, recipe).replace(chosen), statistics)
    types = [n.op_type for n in qoperator.proto.graph.node]
    assert types.count("QLinearConv") == len(LAYERS) - len(fp32)
    assert types.count("QuantizeLinear") == types.count("DequantizeLinear") == 1
    assert optimized_op_counts(qoperator.proto) == optimized_op_counts(qdq.proto)
    np.testing.assert_array_equal(run(qoperator), run(qdq))
    assert {o.domain for o in qoperator.proto.opset_import} <= {"", "com.microsoft"}
    onnx.checker.check_model(qoperator.proto)


def test_qoperator_can_saturate_where_qdq_can() -> None:
    model, statistics = prepared(chain([("dense", "relu"), ("dense", "none")], 1))
    wide = config(model)
    both = [
        saturating_ops(
            ADAPTER.apply(model, dataclasses.replace(wide, recipe=Recipe(options={"format": each})), statistics)
        )
        for each in GraphFormat
    ]
    assert both[0] == both[1] != ()


def test_weights_in_files_stay_in_qdq(tmp_path: Path) -> None:
    model = dataclasses.replace(candidate(Recipe()), external_dir=tmp_path)
    finished = finish(model, Recipe(options={"format": GraphFormat.QOPERATOR}))
    assert finished.proto is model.proto
    assert "stays in QDQ" in finished.notes[-1]


@pytest.mark.parametrize("optimization", GraphOptimization)
def test_optimization_reaches_the_session_and_survives_saving(optimization: GraphOptimization, tmp_path: Path) -> None:
    made = candidate(Recipe(options={"optimization": optimization}))
    assert made.optimization is optimization
    ADAPTER.save(made, tmp_path / "saved.onnx", {"mine": "1"})
    loaded = ADAPTER.load(tmp_path / "saved.onnx")
    assert loaded.optimization is optimization
    default = optimization is GraphOptimization.ALL
    assert any("session options" in note for note in made.notes) is not default
    options = session_options(Execution(), optimization)
    extended = optimization is GraphOptimization.EXTENDED
    assert options.graph_optimization_level == (LEVELS.ORT_ENABLE_EXTENDED if extended else LEVELS.ORT_ENABLE_ALL)
    np.testing.assert_allclose(run(made), run(candidate(Recipe())), rtol=1e-5, atol=1e-5)


def test_what_onnxruntime_may_take_from_the_model_is_what_was_measured(tmp_path: Path) -> None:
    ADAPTER.save(candidate(Recipe(options={"optimization": GraphOptimization.EXTENDED})), tmp_path / "saved.onnx", {})
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "saved.onnx").metadata_props}
    level = json.loads(metadata["ort_config"])["session_options"]["graph_optimization_level"]
    assert level == LEVELS.ORT_ENABLE_EXTENDED.value


def test_candidates_that_run_differently_are_not_the_same() -> None:
    assert (
        candidate(Recipe()).fingerprint
        != candidate(Recipe(options={"optimization": GraphOptimization.EXTENDED})).fingerprint
    )


def test_unknown_optimization_in_metadata_is_refused() -> None:
    proto = chain(LAYERS, 0)
    proto.metadata_props.add(key=METADATA_KEY, value="astrology")
    with pytest.raises(ModelError, match="astrology"):
        ADAPTER.load(proto)


def test_offers_what_can_make_a_difference() -> None:
    convolutions = ADAPTER.space(prepared(chain(LAYERS, 0))[0]).recipe
    assert convolutions["format"] == tuple(GraphFormat)
    assert convolutions["optimization"] == (
        GraphOptimization.ALL,
        GraphOptimization.PLAIN_LAYOUT,
        GraphOptimization.EXTENDED,
    )
    products = build(
        [node("MatMul", "x w", "p"), node("Erf", "p", "e"), node("MatMul", "e v", "y")],
        {"x": ("N", 8)},
        {"y": None},
        {"w": normal(8, 8), "v": normal(8, 8)},
    )
    offered = ADAPTER.space(ADAPTER.load(products)).recipe["optimization"]
    assert offered == (GraphOptimization.ALL, GraphOptimization.GELU_APPROXIMATION)
    nothing = ADAPTER.load(build([node("Erf", "x", "y")], {"x": ("N", 8)}, {"y": None}, {}))
    assert ADAPTER.space(nothing).recipe["optimization"] == (GraphOptimization.ALL,)


def test_fp32_has_no_execution_options() -> None:
    recipe = Recipe(options={"format": "qoperator", "optimization": "extended"})
    assert QuantizationConfig(recipe=recipe).recipe == Recipe()
    offered = ADAPTER.space(prepared(chain(LAYERS, 0))[0]).recipe
    assert offered.quick(recipe) == Recipe()
    assert offered.executed(recipe) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimisation": "all"}, r"one that the adapter declares.*'optimisation' \(did you mean 'optimization'\?\)"),
        ({"format": "qoperators"}, r"'format' must be one of qdq, qoperator, but got 'qoperators'"),
    ],
)
def test_an_option_that_was_not_declared_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ApplyError, match=message):
        candidate(Recipe(options=options))


def test_a_run_tells_which_option_its_answer_asks_of_the_user(
    network_file: Path, images: Sequence[Any], score: Any
) -> None:
    restriction = SpaceRestriction(recipe={"optimization": ("extended",)})
    criterion = autotune.Criterion(relative=0.05)
    tuner = autotune.Tuner(
        objective="size", max_trials=3, strategy="basic", criterion=criterion, restriction=restriction
    )
    result = tuner.tune(network_file, images, score)
    assert result.best.config.recipe.options == {"optimization": "extended"}
    assert any("ORT_ENABLE_EXTENDED" in note for note in result.notes)
