"""Whole runs on kinds of models whose calls are not stacks of pictures: each is served, or told what is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import autotune
from autotune.config import Precision
from autotune.criterion import Criterion
from autotune.errors import DataError, DeadlineReached, ModelError, WorkspaceError
from autotune.evaluation import LatencyComparison
from autotune.evaluation.accuracy.metrics import SampleFunction
from autotune.evaluation.accuracy.metrics.boxes import Boxes
from autotune.evaluation.latency import Call, Comparison
from autotune.evaluation.latency.sessions import open_sessions
from autotune.restriction import OpRestriction, SpaceRestriction
from tests.adapters.onnx import shapes

OPTIONS: dict[str, Any] = {
    "objective": "size",  # unlike latency the same in every run
    "max_trials": 2,
    "warmup": 1,
    "latency_max_s": 0.2,
    "criterion": Criterion(relative=0.2),
}


def tune(proto: onnx.ModelProto, batches: list[Any], metric: Any = "cosine", **options: Any) -> autotune.TuningResult:
    sources = {"metric": metric, "eval_dataloader": batches} if isinstance(metric, str) else {"eval_fn": metric}
    return autotune.Tuner(**{**OPTIONS, **options}).tune(proto, batches, **sources)


def samples(result: autotune.TuningResult) -> int | None:
    assert result.baseline.measurement is not None
    return result.baseline.measurement.samples_total


def tried(result: autotune.TuningResult) -> list[str]:
    """Why candidates failed."""
    return [trial.reason or "" for trial in result.history if trial.state == "failed"]


def test_utterances_are_one_sample_each() -> None:
    batches = [shapes.normal(length, 8, seed=length) for length in (13, 40, 60, 87)]
    result = tune(shapes.utterance("frames"), batches)
    assert samples(result) == 4
    assert not tried(result)
    assert any("calls of 4 shapes that the data has: x (13, 8); x (40, 8)" in note for note in result.notes)


def test_an_utterance_has_one_label_or_one_for_each_frame() -> None:
    lengths = (5, 9, 12)
    whole = [(shapes.normal(length, 8, seed=length), np.array(length)) for length in lengths]
    frames = [(inputs, np.arange(len(inputs)) % 5) for inputs, _ in whole]

    def score(outputs: Any, labels: Any) -> Any:
        assert len(outputs) == len(labels) == 1
        frames = outputs.shape[1]
        assert np.array_equal(labels[0], frames) or np.array_equal(labels[0], np.arange(frames) % 5)
        return np.ones(1)

    for batches in (whole, frames):
        tuner = autotune.Tuner(**OPTIONS)
        result = tuner.tune(shapes.utterance("frames"), batches, metric=SampleFunction(score), eval_dataloader=batches)
        assert samples(result) == 3


def test_a_time_major_recurrence_counts_its_sequences() -> None:
    result = tune(shapes.time_major_lstm(), [shapes.normal(20, 4, 8), shapes.normal(20, 3, 8, seed=1)])
    assert samples(result) == 7
    assert any("x (20, 1, 8): batch 1" in note for note in result.notes)


def test_a_graph_network_of_graphs_of_any_size() -> None:
    rng = np.random.default_rng(0)
    batches = [(shapes.normal(nodes, 8, seed=nodes), rng.integers(0, nodes, (2, 3 * nodes))) for nodes in (34, 10, 21)]
    for nodes, edges in (("N", "E"), (None, None)):
        result = tune(shapes.graph_network(nodes, edges), batches)
        assert samples(result) == 3
        assert not tried(result)


def test_indices_into_another_input() -> None:
    batches = [(shapes.normal(rows, 8), np.array([rows - 1, 0])) for rows in (4, 9)]
    result = tune(shapes.pointers(), batches)
    assert samples(result) == 2


def test_a_batch_in_a_reshape() -> None:
    result = tune(shapes.baked_batch(4), [shapes.normal(4, 2, 4), shapes.normal(4, 2, 4, seed=1)])
    assert samples(result) == 8
    assert any("batch of 4 alone" in note for note in result.notes)


def test_states_and_a_scalar_rate_go_with_every_sample() -> None:
    def batch(seed: int) -> dict[str, Any]:
        return {"input": shapes.normal(3, 16, seed=seed), "state": np.zeros((2, 3, 6), np.float32), "sr": 16000}

    result = tune(shapes.voice_detector(), [batch(seed) for seed in range(4)])
    assert samples(result) == 12
    assert any("input (1, 16), state (2, 1, 6), sr (): batch 1" in note for note in result.notes)


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min])
def test_masks_with_infinities_leave_what_is_around_them_in_fp32(hidden: float) -> None:
    def batch(length: int, seed: int) -> tuple[Any, Any]:
        mask = np.zeros((2, 1, length), np.float32)
        mask[1, 0, length // 2 :] = hidden
        return shapes.normal(2, length, 8, seed=seed), mask

    batches = [batch(length, length) for length in (7, 12, 9)]
    # Even where the user asks for integers there.
    int8 = OpRestriction(precision=(Precision.INT8,))
    restriction = SpaceRestriction(op_type={"Add": int8, "Softmax": int8, "MatMul": int8})
    result = tune(shapes.masked_attention(), batches, strategy="basic", restriction=restriction)
    assert not tried(result)
    assert samples(result) == 6
    assert any("'Add_masked'" in note and "infinite" in note for note in result.notes)
    tried_configs = [trial.config for trial in result.history[1:]]
    assert tried_configs
    for config in tried_configs:
        assert all(config[name].precision is Precision.FP32 for name in ("Add_masked", "Softmax_shares"))
        assert config["MatMul_q"].precision is not Precision.FP32


def test_a_cache_that_is_empty_at_the_start() -> None:
    batches = [(shapes.normal(1, 6, 8, seed=seed), np.zeros((1, 0, 8), np.float32)) for seed in range(3)]
    result = tune(shapes.cached_decoder(), batches)
    assert samples(result) == 3
    assert not tried(result)
    assert any("'Concat_present'" in note and "empty" in note for note in result.notes)


def test_strings_beside_what_is_quantized() -> None:
    proto = shapes.model(
        [
            shapes.node("MatMul", "x w", "y"),
            shapes.node("Unsqueeze", "text zero", "column"),
        ],
        [shapes.tensor("x", "batch", 8), shapes.tensor("text", "words", dtype=TensorProto.STRING)],
        [shapes.tensor("y", "batch", 5), shapes.tensor("column", 1, "words", dtype=TensorProto.STRING)],
        [shapes.weight("w", 8, 5), shapes.constant("zero", np.array([0]))],
    )
    batches = [{"x": shapes.normal(2, 8, seed=seed), "text": np.array(["a", "b"])} for seed in range(3)]
    result = tune(proto, batches)
    assert not tried(result)
    assert samples(result) == 6


def test_a_damaged_weight_is_named_and_not_blamed_on_the_data() -> None:
    proto = shapes.classifier()
    damaged = numpy_helper.to_array(proto.graph.initializer[1]).copy()
    damaged[3, 2] = np.nan
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(damaged, "w1"))
    with pytest.raises(ModelError, match=r"weights must hold numbers, but 1 of the 80 values of 'w1'"):
        tune(proto, [shapes.normal(4, 8)])


def test_nan_in_the_data_is_blamed_on_the_data() -> None:
    bad = shapes.normal(4, 8)
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match=r"Input 'x' must hold numbers, but 1 of its 32 values in calibration batch 1"):
        tune(shapes.classifier(), [shapes.normal(4, 8), bad])


def test_several_shapes_are_timed_as_one_call() -> None:
    """Both models see all shapes in one order in every timed call, and what is reported is the mean of them."""
    seen: list[list[int]] = []
    timed: list[float] = []

    def opened(*arguments: Any, **options: Any) -> list[Call]:
        calls = open_sessions(*arguments, **options)
        for call in calls:
            outputs: Any = call()
            seen.append([output[0].shape[0] for output in outputs])
        return calls

    class Noted(Comparison):
        def run(self) -> LatencyComparison:
            compared = super().run()
            timed.append(compared.baseline_ms)
            return compared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotune.evaluation.evaluator.open_sessions", opened)
        patch.setattr("autotune.evaluation.evaluator.Comparison", Noted)
        patch.setattr("autotune.evaluation.evaluator.Evaluator.race", unraced)
        result = tune(shapes.utterance("frames"), [shapes.normal(length, 8) for length in (20, 5, 11)])
    assert seen
    assert all(lengths == [5, 11, 20] for lengths in seen)
    assert result.baseline.measurement is not None
    assert result.baseline.measurement.latency_ms == timed[0] / 3


def unraced(*_arguments: Any, **_options: Any) -> Any:
    raise DeadlineReached("scripted: no race")


def test_the_history_knows_the_axis(tmp_path: Path) -> None:
    batches = [shapes.normal(6, 3, 8)]
    tune(shapes.time_major_lstm(None, None), batches, batch_axis=1, workspace=tmp_path)
    with pytest.raises(WorkspaceError, match="batch 1 along 1"):
        tune(shapes.time_major_lstm(None, None), batches, batch_axis=0, workspace=tmp_path)


def test_where_fp32_finds_nothing_the_way_out_is_named() -> None:
    batches = [np.zeros((1, 3, 32, 32), np.float32)] * 2  # scores of one half
    with pytest.raises(DataError, match="must be defined on the fp32 model, but it finds nothing in any image"):
        autotune.Tuner(max_trials=1).tune(shapes.detector(), batches, metric=Boxes(score=0.6), eval_dataloader=batches)
