"""Evidence that a run keeps beside its trials for its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import Precision
from autotune.evaluation import UserFunction
from autotune.results.summary import read_summary
from autotune.source import Convertible
from autotune.strategy import Exhausted
from autotune.tuning.evidence import Evidence
from autotune.tuning.explanation import Explanation
from autotune.tuning.finish import Finishing
from autotune.tuning.limits import SearchEnd
from autotune.tuning.run import Run
from autotune.tuning.search import Search
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel

OPTIONS: dict[str, Any] = {
    "framework": "numpy", "strategy": "random", "criterion": autotune.Criterion(relative=0.5), "warmup": 1,
    "latency_max_s": 0.05, "max_trials": 2,
}  # fmt: skip


@pytest.fixture
def result(network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path) -> autotune.TuningResult:
    return autotune.Tuner(**OPTIONS, workspace=tmp_path).tune(network, images, score)


def test_prices_are_there_though_the_strategy_asked_for_none(result: autotune.TuningResult) -> None:
    ops = set(result.op_types)
    assert set(result.evidence.sensitivity) == ops
    assert set(result.evidence.seconds) == ops
    assert set(result.evidence.readers or {}) == ops


def test_a_workspace_gives_the_evidence_of_the_result(result: autotune.TuningResult, tmp_path: Path) -> None:
    assert read_summary(tmp_path).evidence == result.evidence


def test_histograms_are_of_tensors_that_the_shown_config_quantizes(
    result: autotune.TuningResult, network: NumpyModel
) -> None:
    reads = NumpyAdapter().tensors_read(network)
    shown = result.shown.config
    static = {op for op in shown.ops if shown[op].precision is Precision.INT8}
    expected = {reads[op][0] for op in static if shown[op].calibration is not None}
    assert {tensor.name for tensor in result.evidence.tensors} == expected
    for tensor in result.evidence.tensors:
        assert tensor.low <= 0 <= tensor.high
        assert sum(tensor.counts) > 0
        assert tensor.start < tensor.stop
    noise = [tensor.noise for tensor in result.evidence.tensors]
    assert noise == sorted(noise, reverse=True)


def test_every_run_in_a_workspace_is_told(
    result: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path
) -> None:
    assert result.evidence.runs[0]["model"] == "NumpyModel"
    assert "max_trials=2" in result.evidence.runs[0]["command"]
    again = autotune.Tuner(**{**OPTIONS, "max_trials": 3}, workspace=tmp_path, command="autotune run x.yaml")
    runs = again.tune(network, images, score).evidence.runs
    assert [run["command"] for run in runs] == [result.evidence.runs[0]["command"], "autotune run x.yaml"]


def test_a_run_without_a_workspace_measures_nothing_more(
    network: NumpyModel, images: Sequence[Any], score: Any
) -> None:
    found = autotune.Tuner(**OPTIONS).tune(network, images, score).evidence
    assert not found.seconds


def test_prices_are_there_though_the_time_was_up_after_the_search(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finals, conclude = [], Finishing._conclude

    def concluded(self: Any, *arguments: Any) -> Any:
        finals.append("they take all the time")
        return conclude(self, *arguments)

    monkeypatch.setattr(Finishing, "_conclude", concluded)
    monkeypatch.setattr(Finishing, "_late", lambda *_: bool(finals))
    found = autotune.Tuner(**OPTIONS, timeout_s=600, workspace=tmp_path).tune(network, images, score)
    assert set(found.evidence.seconds) == set(found.evidence.sensitivity) == set(found.op_types)
    assert read_summary(tmp_path).evidence == found.evidence


@pytest.mark.parametrize("limit_and_reserve", [(600, 2), (5, 0.5)])
def test_the_search_leaves_time_for_single_ops(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    limit_and_reserve: tuple[float, float],
) -> None:  # fmt: skip
    timeout_s, reserved = limit_and_reserve
    seen: list[float] = []

    def run(_self: Any, *, reserve_s: float = 0.0) -> SearchEnd:
        seen.append(reserve_s)
        return SearchEnd(reason="enough")

    monkeypatch.setattr(Search, "run", run)
    autotune.Tuner(**OPTIONS, timeout_s=timeout_s, workspace=tmp_path).tune(network, images, score)
    autotune.Tuner(**OPTIONS, timeout_s=timeout_s).tune(network, images, score)
    assert seen == [pytest.approx(reserved), 0]


def test_ctrl_c_while_single_ops_are_timed_keeps_the_answer(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Explanation, "measure", interrupted)
    found = autotune.Tuner(**OPTIONS, timeout_s=600, workspace=tmp_path).tune(network, images, score)
    assert found.interrupted
    assert read_summary(tmp_path).end_reason == found.end_reason


def test_the_worst_ops_are_timed_where_the_profile_leaves_them_out(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = NumpyAdapter.op_seconds

    def fused(self: NumpyAdapter, models: Any, *rest: Any) -> Any:
        return [{op: spent for op, spent in each.items() if op != "dense_1"} for each in profile(self, models, *rest)]

    monkeypatch.setattr(NumpyAdapter, "op_seconds", fused)
    monkeypatch.setattr("autotune.tuning.explanation._TIMED", 99)
    found = autotune.Tuner(**OPTIONS, workspace=tmp_path).tune(network, images, score)
    assert "dense_1" not in found.evidence.seconds
    assert [*found.evidence.returned] == ["dense_1"]
    low, high = found.evidence.returned["dense_1"]
    assert -1 < low <= high
    assert found.evidence.returned_in == found.shown.config.fingerprint
    assert read_summary(tmp_path).evidence == found.evidence


def test_seconds_of_earlier_workspaces_have_no_noise() -> None:
    kept: dict[str, Any] = {"op_latency": {"a": {"fp32": 0.5, "int8": [0.25, 0.01]}}}
    assert Evidence.of(kept.get, None).seconds == {"a": {"fp32": 0.5, "int8": 0.25}}
    assert Evidence.of(lambda _name: None, "openvino") == Evidence()


def test_nothing_is_shown_of_a_config_without_int8(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    options = {**OPTIONS, "max_trials": 1, "strategy": Fp32()}
    assert autotune.Tuner(**options).tune(network, images, score).evidence.tensors == ()


class Fp32(autotune.Strategy):
    def propose(self, problem: Any, trials: Any, draw: Any) -> Any:  # noqa: ARG002
        return Exhausted(reason="there is nothing to try")


def test_a_file_of_another_framework_is_told_by_its_name(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.tflite"
    file.touch()
    monkeypatch.setattr(NumpyAdapter, "load", lambda *_: network)
    source = Convertible("numpy", file)
    run = Run(autotune.Tuner(**OPTIONS, workspace=tmp_path / "run"), NumpyAdapter(), UserFunction(function=score))
    assert run(source, images).evidence.runs[0]["model"] == "net.tflite"
