"""Runs that start from the answer of an earlier one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import InputError
from autotune.results.outcome import started_text
from autotune.results.started import StartedFrom
from autotune.results.summary import read_summary
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.warm_start import judged
from tests.conftest import Recorder, dense_network
from tests.numpy_adapter import S8_CHANNELS, U8
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT

Score = Callable[[Any], float]

STATIC = OpConfig(precision=Precision.INT8, activation=U8, weight=S8_CHANNELS, calibration=MINMAX)
FOUND = QuantizationConfig(ops={"dense_1": STATIC, "head": STATIC})
NEVER_MET = Criterion(absolute=0.0)


def tuner(**options: Any) -> autotune.Tuner:
    return autotune.Tuner(
        **{**CHEAP, "objective": "size", "strategy": "random", "max_trials": 3, "criterion": TOLERANT, **options}
    )


def test_last_weeks_answer_is_the_first_candidate(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    first = tuner(workspace=tmp_path / "last").tune(network, images, score)
    retrained = dense_network(5)
    for source in (tmp_path / "last", f"{tmp_path / 'last'}:{first.best.number}", first.best.config):
        result = tuner(start_from=source).tune(retrained, images, _scorer(images))
        assert result.history[1].config == first.best.config
        assert result.history[1].note == f"started from {result.started_from.source}"  # type: ignore[union-attr]
        assert result.started_from is not None
        assert (result.started_from.confirmed, result.started_from.trial) == (True, 1)
        assert len(result.history) == 4, "without `stop_when_confirmed` the search goes on"


def _scorer(images: Sequence[Any]) -> Recorder:
    return Recorder(images)


def test_one_evaluation_confirms_and_ends_the_run(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    score = _scorer(images)
    result = tuner(start_from=FOUND, stop_when_confirmed=True, workspace=tmp_path).tune(network, images, score)
    assert len(result.history) == 2
    assert score.calls == 2
    assert result.best.config == FOUND
    assert "is confirmed" in result.end_reason
    text = started_text(result)
    assert text is not None
    assert text.startswith(f"Confirmed: the config of config {FOUND.fingerprint} keeps the target")
    assert "(trial 1), and is the answer" in text
    assert "Confirmed: the config" in result.report(tmp_path / "report.html").read_text()
    stored = read_summary(tmp_path)
    assert stored.started_from == result.started_from


def test_a_refuted_start_goes_on_searching(network: NumpyModel, images: Sequence[Any], score: Score) -> None:
    result = tuner(start_from=FOUND, stop_when_confirmed=True, criterion=NEVER_MET).tune(network, images, score)
    assert len(result.history) == 4
    assert result.started_from == StartedFrom(
        source=f"config {FOUND.fingerprint}", verdict=Verdict.MISSED, trial=1, reason="it misses the target"
    )
    assert (started_text(result) or "").startswith("Refuted: ")


def test_a_run_that_continues_does_not_try_it_again(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    tuner(start_from=FOUND, workspace=tmp_path, max_trials=1).tune(network, images, score)
    again = tuner(start_from=FOUND, workspace=tmp_path, max_trials=2).tune(network, images, score)
    assert sum(trial.config == FOUND for trial in again.history) == 1
    assert again.started_from is not None
    assert again.started_from.trial == 1


def test_the_workspace_itself_can_be_started_from_afresh(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    first = tuner(workspace=tmp_path).tune(network, images, score)
    weekly = tuner(workspace=tmp_path, start_from=tmp_path, fresh=True, stop_when_confirmed=True)
    result = weekly.tune(dense_network(5), images, _scorer(images))
    assert result.best.config == first.best.config
    assert len(result.history) == 2


def test_fp32_is_nothing_to_start_from(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    first = tuner(workspace=tmp_path, criterion=NEVER_MET, max_trials=1).tune(network, images, score)
    assert first.best.config.is_fp32
    result = tuner(start_from=tmp_path, max_trials=1).tune(network, images, score)
    assert any("is fp32, so that there is no config to start from" in note for note in result.notes)
    assert result.started_from is not None
    assert (result.started_from.verdict, result.started_from.trial) == (Verdict.UNDECIDED, None)
    assert len(result.history) == 2


def test_renamed_ops_are_mapped_and_said_so(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    first = tuner(workspace=tmp_path).tune(network, images, score)
    names = {layer.name: f"node_{index}" for index, layer in enumerate(network.layers)} | {"data": "data"}
    renamed = dataclasses.replace(
        network,
        layers=tuple(
            dataclasses.replace(each, name=names[each.name], reads=tuple(names[read] for read in each.reads))
            for each in network.layers
        ),
    )
    result = tuner(start_from=tmp_path).tune(renamed, images, _scorer(images))
    assert result.history[1].config.ops == {names[op]: choice for op, choice in first.best.config.ops.items()}
    assert any("4 ops mapped by the structure" in note for note in result.notes)


def test_another_runtime_is_a_note(network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path) -> None:
    found = tuner(workspace=tmp_path).tune(network, images, score).best.config
    elsewhere = dataclasses.replace(found, runtime="elsewhere")
    result = tuner(start_from=elsewhere, max_trials=1).tune(network, images, score)
    assert any("found on elsewhere, and tried on numpy" in note for note in result.notes), result.notes
    assert result.history[1].config == found
    result = tuner(start_from=tmp_path, max_trials=1).tune(network, images, score)
    assert not any("found on" in note for note in result.notes)


def test_what_cannot_be_started_from_is_an_error(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is nothing of that name"):
        tuner(start_from=tmp_path / "none").tune(network, images, score)
    with pytest.raises(InputError, match="`stop_when_confirmed` needs `start_from`"):
        tuner(stop_when_confirmed=True)
    other = QuantizationConfig(ops={"conv_7": STATIC})
    result = tuner(start_from=other, max_trials=1).tune(network, images, score)
    assert any("could be mapped" in note for note in result.notes)


def _trial(state: TrialState = TrialState.COMPLETED, reason: str | None = None, **figures: Any) -> Trial:
    measurement = Measurement(**{"verdict": Verdict.MET, **figures})
    return Trial(number=1, config=FOUND, state=state, measurement=measurement, reason=reason)


def _speed(low: float, high: float, *, decided: bool = True) -> dict[str, Any]:
    return {"speedup": (low + high) / 2, "speedup_interval": Interval(low=low, high=high), "latency_decided": decided}


BASELINE = Trial(
    number=0,
    config=QuantizationConfig(),
    state=TrialState.COMPLETED,
    measurement=Measurement(size_bytes=100, speedup=1.0),
)


@pytest.mark.parametrize(
    ("trial", "objective", "verdict"),
    [
        (_trial(**_speed(1.5, 1.6)), Objective.LATENCY, Verdict.MET),
        (_trial(**_speed(0.8, 0.9)), Objective.LATENCY, Verdict.MISSED),
        (_trial(**_speed(0.9, 1.3, decided=False)), Objective.LATENCY, Verdict.UNDECIDED),
        (_trial(verdict=Verdict.MISSED, **_speed(1.5, 1.6)), Objective.LATENCY, Verdict.MISSED),
        (_trial(verdict=Verdict.UNDECIDED, **_speed(1.5, 1.6)), Objective.LATENCY, Verdict.UNDECIDED),
        (_trial(TrialState.PRUNED, "slower", verdict=None, **_speed(0.5, 0.6)), Objective.LATENCY, Verdict.MISSED),
        (_trial(size_bytes=30), Objective.SIZE, Verdict.MET),
        (_trial(size_bytes=100), Objective.SIZE, Verdict.MISSED),
    ],
)
def test_confirmed_is_what_keeps_the_target_and_improves(trial: Trial, objective: Objective, verdict: Verdict) -> None:
    assert judged(trial, BASELINE, objective)[0] is verdict


def test_a_failed_start_is_refuted_with_its_reason() -> None:
    failed = Trial(number=1, config=FOUND, state=TrialState.FAILED, reason="no kernel")
    assert judged(failed, BASELINE, Objective.LATENCY) == (Verdict.MISSED, "it failed: no kernel")


def test_a_summary_without_a_start_is_stored_as_it_was(
    network: NumpyModel, images: Sequence[Any], score: Score
) -> None:
    result = tuner(max_trials=1).tune(network, images, score)
    assert result.started_from is None
    assert "started_from" not in json.loads(json.dumps(result.to_json()))
    assert started_text(result) is None
