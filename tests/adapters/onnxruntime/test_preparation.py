"""Weights that are listed as inputs stop ONNX Runtime from fusing; the adapter's preparation mends it, on a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import autotune
from autotune.adapters import get_adapter
from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Verdict
from autotune.evaluation import Evaluator
from autotune.restriction import OpRestriction, SpaceRestriction
from autotune.trial import Measurement
from tests.tuning.scripted import script_speeds

FP32_ALONE = SpaceRestriction(op_name={"*": OpRestriction(precision=(Precision.FP32,))})


@pytest.fixture
def weights_as_inputs(network: onnx.ModelProto) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(network)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return proto


def _one_trial(model: onnx.ModelProto, images: Any, score: Any, **options: Any) -> Any:
    criterion = autotune.Criterion(relative=0.9)
    tuner = autotune.Tuner(restriction=FP32_ALONE, criterion=criterion, latency_max_s=0.1, warmup=1, **options)
    return tuner.tune(model, images, score)


@pytest.fixture
def prepared_speedup(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scripted speedup of the prepared model; accuracy is measured."""
    script = [2.0]
    script_speeds(monkeypatch, lambda _candidate: script[0])
    return script


def test_the_baseline_is_the_file_as_it_is(
    weights_as_inputs: onnx.ModelProto, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[Any] = []
    baseline = Evaluator.baseline

    def noted(self: Any, **options: Any) -> Measurement:
        run.append(self._model)
        return baseline(self, **options)

    monkeypatch.setattr(Evaluator, "baseline", noted)
    result = _one_trial(weights_as_inputs, images, score)
    (model,) = run
    assert model.proto == weights_as_inputs
    assert result.baseline.measurement.size_bytes == weights_as_inputs.ByteSize()


def test_preparation_is_the_answer_where_nothing_else_keeps_the_target(
    weights_as_inputs: onnx.ModelProto, images: Any, score: Any, prepared_speedup: list[float], tmp_path: Path
) -> None:
    assert prepared_speedup
    result = _one_trial(weights_as_inputs, images, score, workspace=tmp_path)
    assert result.verdict is Verdict.MET
    assert result.best.config.prepared
    assert (tmp_path / "best.onnx").is_file()
    saved = onnx.load(result.save(tmp_path / "out.onnx"))
    assert len(saved.graph.input) == 1
    assert "BatchNormalization" not in {node.op_type for node in saved.graph.node}


def test_preparation_that_is_not_proven_faster_leaves_the_users_file(
    weights_as_inputs: onnx.ModelProto, images: Any, score: Any, prepared_speedup: list[float], tmp_path: Path
) -> None:
    prepared_speedup[0] = 1.005
    result = _one_trial(weights_as_inputs, images, score)
    assert [trial.number for trial in result.history] == [0]
    assert score.calls == 1, "its accuracy is not worth an evaluation"
    saved = onnx.load(result.save(tmp_path / "out.onnx"))
    assert saved.graph == weights_as_inputs.graph


def test_an_adapter_gives_back_what_it_was_given(weights_as_inputs: onnx.ModelProto) -> None:
    adapter: Any = get_adapter("onnxruntime")
    model = adapter.load(weights_as_inputs)
    assert adapter.as_given(model).proto == weights_as_inputs
    assert adapter.executes_another_graph(model)
    candidate = adapter.apply(model, QuantizationConfig(prepared=True), None)
    assert candidate.fingerprint == model.fingerprint
    assert candidate.given is None, "a candidate travels to a worker without the user's model"
    assert np.isclose(adapter.as_given(candidate).size_bytes, model.size_bytes)
