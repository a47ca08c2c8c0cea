"""Whole runs for size: tables and large MatMuls end in 4 or 8 bits under every strategy that looks at precisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import autotune
from autotune.adapter import Array
from autotune.config import Precision
from tests.adapters.onnx.graphs import build, node, normal


def classifier() -> onnx.ModelProto:
    """Token ids through a table and a large product to logits."""
    nodes = [node("Gather", "table ids", "e"), node("ReduceMean", "e", "pooled", axes=[1], keepdims=0)]
    nodes += [node("MatMul", "pooled w", "hidden"), node("MatMul", "hidden v", "logits")]
    constants = {"table": normal(400, 256, scale=1.0), "w": normal(256, 300, seed=1), "v": normal(300, 5, seed=2)}
    proto = build(nodes, {"ids": ("N", 8)}, {"logits": None}, constants)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


@pytest.mark.parametrize(
    ("strategy", "options", "trials"), [("auto", {}, 8), ("basic", {"uniform": 16}, 16), ("pareto", {}, 25)]
)
def test_a_real_model_shrinks_under_every_strategy_that_looks_at_precisions(
    strategy: str, options: dict[str, int], trials: int
) -> None:
    ids: Array = np.random.default_rng(0).integers(0, 400, (300, 8))
    expected: list[Array] = []

    def agreement(model: Callable[[object], Any]) -> float:
        answers = np.asarray(model(ids)).reshape(len(ids), -1).argmax(1)
        expected.append(answers)
        return float((answers == expected[0]).mean())

    tuner = autotune.Tuner(
        criterion=autotune.Criterion(relative=0.1),
        strategy=strategy,
        strategy_options=options,
        objective="size",
        max_trials=trials,
    )
    result = tuner.tune(classifier(), [ids[:32]], agreement)
    assert result.best.config["e"].precision in (Precision.INT4_WEIGHT, Precision.INT8_WEIGHT)
    sizes = [trial.measurement.size_bytes for trial in (result.best, result.baseline) if trial.measurement is not None]
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[0] < 0.4 * sizes[1]
