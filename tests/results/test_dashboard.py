"""The study that ``optuna-dashboard`` shows: named after the model, with plain figures and the run's own best trial."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

import autotune
from autotune.criterion import Verdict
from autotune.results.dashboard import _trials, differing, write_dashboard
from autotune.results.summary import TuningSummary, read_summary
from autotune.strategy import Objective
from autotune.tuning.storage import open_storage
from tests.numpy_framework import NumpyModel


@pytest.fixture
def summary(network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path) -> TuningSummary:
    """The outcome of a run in the folder ``work``."""
    options: dict[str, Any] = {"objective": "size", "strategy": "random", "max_trials": 4, "framework": "numpy"}
    autotune.tune(network, images, score, workspace=str(tmp_path / "work"), latency_max_s=0.05, **options)
    return read_summary(tmp_path / "work")


def _shown(summary: TuningSummary, folder: Path, model: str) -> optuna.Study:
    name = write_dashboard(folder, summary, model)
    return optuna.load_study(study_name=name, storage=open_storage(folder))


def test_the_study_has_the_models_name_and_the_runs_best_trial(summary: TuningSummary, tmp_path: Path) -> None:
    study = _shown(summary, tmp_path / "work", "digits")
    assert study.study_name == "digits"
    assert study.metric_names == ["size_bytes"]
    assert study.best_trial.user_attrs["number"] == summary.best.number
    assert len(study.trials) == len(summary.history)
    for shown, trial in zip(study.trials, summary.history, strict=True):
        assert trial.measurement is not None
        assert shown.user_attrs["size_bytes"] == trial.measurement.size_bytes
        assert shown.user_attrs.get("accuracy") == trial.measurement.accuracy


def test_parameters_are_what_differs(summary: TuningSummary, tmp_path: Path) -> None:
    study = _shown(summary, tmp_path / "work", "digits")
    names = {name for trial in study.trials for name in trial.params}
    assert names == {*differing(summary.history)}
    assert all(len({trial.params[name] for trial in study.trials}) > 1 for name in names)


def test_the_history_stays_as_it_is_and_the_study_is_written_anew(summary: TuningSummary, tmp_path: Path) -> None:
    for _ in range(2):
        assert len(_shown(summary, tmp_path / "work", "digits").trials) == len(summary.history)
    assert read_summary(tmp_path / "work") == summary
    assert _shown(summary, tmp_path / "work", "autotune").study_name == "autotune (2)"


def test_tune_writes_it_by_itself(summary: TuningSummary, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="NumpyModel", storage=open_storage(tmp_path / "work"))
    assert study.best_trial.user_attrs["number"] == summary.best.number
    assert _shown(summary, tmp_path / "work", "").study_name == "NumpyModel"


def test_trials_take_their_time_one_after_the_other(summary: TuningSummary, tmp_path: Path) -> None:
    trials = _shown(summary, tmp_path / "work", "digits").trials
    spent = [trial.duration_s or 0.0 for trial in summary.history]
    shown = [(each.datetime_complete - each.datetime_start).total_seconds() for each in trials]  # type: ignore[operator]  # both are there
    assert shown == pytest.approx(spent, abs=1e-5)
    assert all(before.datetime_complete == after.datetime_start for before, after in itertools.pairwise(trials))


def test_trials_that_are_not_ranked_keep_their_figure(summary: TuningSummary, tmp_path: Path) -> None:
    measured = summary.history[1].measurement
    assert measured is not None
    missed = dataclasses.replace(summary.history[1], measurement=dataclasses.replace(measured, verdict=Verdict.MISSED))
    history = [summary.history[0], missed, *summary.history[2:]]
    shown = _shown(dataclasses.replace(summary, history=history), tmp_path / "work", "digits").trials[1]
    assert shown.state is optuna.trial.TrialState.PRUNED
    assert shown.intermediate_values == {0: measured.size_bytes}


def test_rows_written_together_read_as_those_written_one_by_one(
    summary: TuningSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path / "work")
    made = _trials(summary, "size_bytes")
    one = optuna.create_study(study_name="one by one", storage=storage)
    one.add_trials(made)
    monkeypatch.setattr(optuna.Study, "add_trials", lambda *_: pytest.fail("they were written one by one"))
    shown = [figures_of(trial) for trial in _shown(summary, tmp_path / "work", "digits").trials]
    assert shown == [figures_of(trial) for trial in one.trials]


def figures_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    names = (
        "number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "intermediate_values",
        "datetime_start", "datetime_complete",
    )  # fmt: skip
    return {name: getattr(trial, name) for name in names}


def test_a_study_of_somebody_elses_stays(summary: TuningSummary, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "work")
    optuna.create_study(study_name="digits", storage=storage).ask()
    for _ in range(2):
        assert _shown(summary, tmp_path / "work", "digits").study_name == "digits (2)"
    assert len(optuna.load_study(study_name="digits", storage=storage).trials) == 1


@pytest.mark.parametrize("objective", Objective)
def test_every_objective_has_a_metric(summary: TuningSummary, tmp_path: Path, objective: Objective) -> None:
    study = _shown(dataclasses.replace(summary, objective=objective), tmp_path / "work", "digits")
    assert len(study.trials) == len(summary.history)
