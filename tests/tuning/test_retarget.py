"""Workspaces that go on with another target, objective or number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

import autotune
from autotune.criterion import Criterion, Verdict
from autotune.errors import WorkspaceError
from autotune.results.summary import read_summary
from autotune.strategy import Objective
from autotune.trial import TrialState
from autotune.tuning.history import CONSTRAINT
from autotune.tuning.storage import STUDY_NAME, open_storage
from tests.conftest import Recorder, dense_network
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT

STRICT = Criterion(absolute=0.0)


def tuner(workspace: Path, **options: Any) -> autotune.Tuner:
    return autotune.Tuner(
        **{**CHEAP, "objective": "size", "strategy": "random", "max_trials": 4, "criterion": TOLERANT, **options},
        workspace=workspace,
    )


@pytest.fixture
def first(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> autotune.TuningResult:
    return tuner(tmp_path).tune(network, images, Recorder(images))


def study(workspace: Path) -> optuna.Study:
    return optuna.load_study(study_name=STUDY_NAME, storage=open_storage(workspace))


def test_another_target_judges_what_was_measured_without_an_evaluation(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    losses = sorted(trial.loss for trial in first.history[1:] if trial.loss is not None)
    between = Criterion(absolute=(losses[0] + losses[-1]) / 2)
    score = Recorder(images)
    second = tuner(tmp_path, criterion=between).tune(network, images, score)
    assert score.calls == 0
    assert [each.config for each in second.history] == [each.config for each in first.history]
    for was, now in zip(first.history[1:], second.history[1:], strict=True):
        assert now.loss == was.loss
        assert now.met == ((was.loss or 0.0) <= between.target)
    assert second.best.config != first.best.config or second.best.met
    assert any("4 were judged anew" in note for note in second.notes), second.notes
    for trial in study(tmp_path).trials:
        measured = second.trial(trial.number).measurement
        assert measured is not None
        assert trial.value == measured.size_bytes
        assert trial.constraints[CONSTRAINT] == pytest.approx((measured.loss or 0.0) - between.target)
    third = tuner(tmp_path).tune(network, images, Recorder(images))
    assert third.best == first.best
    assert [each.loss for each in third.history] == [each.loss for each in first.history]


def test_a_target_that_nothing_keeps_is_missed(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    assert not first.best.config.is_fp32
    second = tuner(tmp_path, criterion=STRICT).tune(network, images, Recorder(images))
    assert (second.verdict, second.best.number) == (Verdict.MISSED, 0)
    assert read_summary(tmp_path).criterion == STRICT


def test_a_relative_target_takes_the_place_of_an_absolute_one(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    second = tuner(tmp_path, criterion=Criterion(relative=0.9)).tune(network, images, Recorder(images))
    for was, now in zip(first.history[1:], second.history[1:], strict=True):
        assert now.loss == pytest.approx(was.loss)  # fp32 scores 1.0 here


def test_another_objective_takes_the_figures_that_are_there(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    score = Recorder(images)
    second = tuner(tmp_path, objective="latency").tune(network, images, score)
    assert second.objective is Objective.LATENCY
    assert score.calls == 0
    for trial in study(tmp_path).trials:
        measured = first.trial(trial.number).measurement
        assert measured is not None
        assert measured.speedup is not None
        assert trial.value == pytest.approx(1 / measured.speedup)


def test_another_number_of_threads_keeps_accuracies_and_times_anew(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    score = Recorder(images)
    second = tuner(tmp_path, threads=2).tune(network, images, score)
    assert score.calls == 0, "accuracies do not depend on the number of threads"
    old = {trial.config: trial for trial in first.history}
    again = [trial for trial in second.history[1:] if trial.state is TrialState.COMPLETED]
    assert {trial.config for trial in again} == {trial.config for trial in first.history[1:] if trial.met}
    for trial in again:
        measured = trial.measurement
        assert measured is not None
        assert trial.loss == old[trial.config].loss
        assert measured.latency_ms is not None
        assert measured.latency_ms != (old[trial.config].measurement or measured).latency_ms or trial.number == 0
    assert second.baseline.measurement is not None
    assert second.baseline.measurement.latency_ms != (first.baseline.measurement or None).latency_ms  # type: ignore[union-attr]
    assert any("accuracies are kept" in note for note in second.notes)


def test_target_and_threads_may_change_at_once(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    assert first.best.met
    score = Recorder(images)
    second = tuner(tmp_path, threads=2, criterion=STRICT).tune(network, images, score)
    assert second.verdict is Verdict.MISSED
    assert score.calls == 0


def test_another_model_is_still_refused(first: autotune.TuningResult, images: Sequence[Any], tmp_path: Path) -> None:
    assert first.best
    with pytest.raises(WorkspaceError, match="holds trials of another run"):
        tuner(tmp_path, criterion=STRICT).tune(dense_network(4), images, Recorder(images))


def test_memory_that_nobody_measured_is_refused(
    first: autotune.TuningResult, network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    assert first.best
    with pytest.raises(WorkspaceError, match=r"was not measured"):
        tuner(tmp_path, objective="memory", isolation="process").tune(network, images, Recorder(images))


@pytest.mark.parametrize("step", ["add", "delete", "copy", "delete copy"])
def test_a_run_that_is_killed_while_it_rewrites_loses_nothing(
    first: autotune.TuningResult,
    network: NumpyModel,
    images: Sequence[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    class Killed(KeyboardInterrupt):
        pass

    calls = {"delete": 0}
    delete, copy, add = optuna.delete_study, optuna.copy_study, optuna.Study.add_trial

    def killing_delete(**options: Any) -> None:
        calls["delete"] += 1
        if (step, calls["delete"]) == ("delete copy", 2):
            raise Killed
        delete(**options)
        if (step, calls["delete"]) == ("delete", 1):
            raise Killed

    def killing_copy(**options: Any) -> None:
        copy(**options)
        if step == "copy":
            raise Killed

    def killing_add(self: optuna.Study, trial: Any) -> None:
        if step == "add" and trial.number == 2:
            raise Killed
        add(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna, "delete_study", killing_delete)
        patch.setattr(optuna, "copy_study", killing_copy)
        patch.setattr(optuna.Study, "add_trial", killing_add)
        with pytest.raises(Killed):
            tuner(tmp_path, criterion=STRICT).tune(network, images, Recorder(images))
    score = Recorder(images)
    second = tuner(tmp_path, criterion=STRICT).tune(network, images, score)
    assert score.calls == 0
    assert [each.config for each in second.history] == [each.config for each in first.history]
    assert second.verdict is Verdict.MISSED
    names = {each.study_name for each in optuna.get_all_study_summaries(open_storage(tmp_path))}
    assert names == {STUDY_NAME, "NumpyModel"}  # the history, and the study for optuna-dashboard
