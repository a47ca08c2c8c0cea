from __future__ import annotations

import numpy as np
import pytest

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.space import observed_tensors, tuning_space
from autotune.adapters.onnxruntime.choices.unbounded import bounded_space
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.config import Precision
from autotune.host import current_host
from autotune.space import OpSpace, PrecisionSpace, TuningSpace
from tests.adapters.onnx import shapes

GRAPH = Graph(OnnxRuntimeAdapter().load(shapes.masked_attention()).proto)
RANGED = {Precision.INT8, Precision.INT8_DYNAMIC}


def statistics(names: set[str], unbounded: set[str]) -> CalibrationStatistics:
    collector = StatisticsCollector({}, 0)
    for name in names:
        collector.update(name, np.array([0.0, -np.inf if name in unbounded else 1.0], np.float32))
    return collector.finish(1)


def ranged(space: TuningSpace) -> set[str]:
    """Ops that may compute with an integer range of what they read."""
    return {op.name for op in space.ops if RANGED & {within.precision for within in op.precisions}}


@pytest.mark.parametrize(
    ("unbounded", "left_out"),
    [
        (set(), set()),
        ({"mask", "masked"}, {"Add_masked", "Softmax_shares"}),
        ({"q"}, {"MatMul_q", "MatMul_scores"}),
    ],
)
def test_ops_around_infinities_have_no_integers(unbounded: set[str], left_out: set[str]) -> None:
    space = tuning_space(GRAPH, current_host())
    names, _ = observed_tensors(GRAPH)
    bounded, notes = bounded_space(space, GRAPH, statistics(set(names), unbounded))
    assert ranged(space) - ranged(bounded) == left_out
    assert all(repr(name) in "".join(notes) for name in left_out)
    assert bool(notes) == bool(left_out)
    assert [op.name for op in bounded.ops] == [op.name for op in space.ops]


def test_half_precision_ends_before_infinity_too() -> None:
    within = tuple(
        PrecisionSpace(precision=precision) for precision in (Precision.FP16, Precision.BF16, Precision.FP32)
    )
    names, _ = observed_tensors(GRAPH)
    op = OpSpace(name="Add_masked", op_type="Add", precisions=within)
    for gathered, left in (
        (statistics(set(names), {"mask"}), [Precision.BF16, Precision.FP32]),
        (statistics(set(names) - {"mask"}, set()), [Precision.BF16, Precision.FP32]),
        (statistics(set(names), set()), [Precision.FP16, Precision.BF16, Precision.FP32]),
    ):
        bounded, _ = bounded_space(TuningSpace(ops=(op,)), GRAPH, gathered)
        assert [each.precision for each in bounded.ops[0].precisions] == left


def test_what_no_data_reached_has_no_range_and_dynamic_ops_need_none() -> None:
    space = tuning_space(GRAPH, current_host())
    names, _ = observed_tensors(GRAPH)
    bounded, notes = bounded_space(space, GRAPH, statistics(set(names) - {"context", "y"}, set()))
    head = bounded.by_name["MatMul_y"]
    assert head.space_of(Precision.INT8) is None
    assert head.space_of(Precision.INT8_DYNAMIC) is not None
    assert len(notes) == 1
    assert "'MatMul_context', 'MatMul_y'" in notes[0]
    assert "empty in all batches" in notes[0]


def test_channels_are_what_a_constant_makes() -> None:
    _, axes = observed_tensors(GRAPH)
    # Scores and their followers count tokens along the last axis, which differs from text to text.
    assert axes["x"] == axes["q"] == axes["context"] == axes["y"] == 2
    assert not {"scores", "masked", "wide", "shares", "kt", "mask"} & set(axes)
