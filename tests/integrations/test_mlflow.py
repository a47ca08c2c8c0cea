"""A run as MLflow has it, in a store of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from tests.numpy_framework import NumpyModel

mlflow = pytest.importorskip("mlflow", reason="needs `pip install '.[mlflow]'`")

from autotune.integrations.mlflow import MlflowObserver, log_result  # noqa: E402  # what is skipped comes before

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow.set_experiment("tuning").experiment_id
    mlflow.set_tracking_uri("")


def test_trials_are_runs_within_the_run(
    store: str, network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"objective": "size", "strategy": "random", "max_trials": 3, "framework": "numpy"}
    with mlflow.start_run() as outer:
        result = autotune.tune(network, images, score, observer=MlflowObserver(), latency_max_s=0.05, **options)
        log_result(result, result.save_files(tmp_path / "tuned.npz"))
    client = mlflow.MlflowClient()
    found = client.get_run(outer.info.run_id)
    assert found.data.tags["autotune.verdict"] == str(result.verdict)
    assert found.data.metrics["size_bytes"] == result.best.measurement.size_bytes  # type: ignore[union-attr]  # measured
    nested = [
        run for run in client.search_runs([store]) if run.data.tags.get("mlflow.parentRunId") == outer.info.run_id
    ]
    by_number = {int(run.data.tags["autotune.trial"]): run for run in nested}
    assert sorted(by_number) == [trial.number for trial in result.history]
    for trial in result.history:
        run = by_number[trial.number]
        assert run.data.tags["autotune.config"] == trial.config.fingerprint
        assert run.data.metrics.get("accuracy") == (trial.measurement.accuracy if trial.measurement else None)
        assert run.info.status == "FINISHED"
    names = {each.path for each in client.list_artifacts(outer.info.run_id)}
    assert names == {"report.html", "model"}
    (model,) = client.list_artifacts(outer.info.run_id, "model")
    assert model.file_size == (tmp_path / "tuned.npz").stat().st_size


def test_a_failed_trial_is_a_failed_run(store: str) -> None:
    config = autotune.QuantizationConfig()
    trial = autotune.Trial(number=4, config=config, state=autotune.TrialState.FAILED, reason="it crashed")
    with mlflow.start_run():
        MlflowObserver().trial_finished(trial, None)
        assert mlflow.active_run() is not None
    (run,) = [each for each in mlflow.MlflowClient().search_runs([store]) if "autotune.trial" in each.data.tags]
    assert (run.info.status, run.data.tags["autotune.reason"]) == ("FAILED", "it crashed")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("lost", [0, 2])
def test_a_server_that_is_lost_costs_the_log_and_not_the_search(
    lost: int,
    network: NumpyModel,
    images: Sequence[Any],
    score: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = mlflow.start_run

    def started(**options: Any) -> Any:
        if options["run_name"] == f"trial {lost}":
            raise mlflow.exceptions.MlflowException("connection refused")
        return start(**options)

    options: dict[str, Any] = {"objective": "size", "strategy": "random", "max_trials": 3, "framework": "numpy"}
    with mlflow.start_run():
        monkeypatch.setattr(mlflow, "start_run", started)
        run = autotune.Tuner(observer=MlflowObserver(), latency_max_s=0.05, **options)
        if lost == 0:
            with pytest.raises(mlflow.exceptions.MlflowException, match="connection refused"):
                run.tune(network, images, score)
            return
        result = run.tune(network, images, score)
    assert len(result.history) == 4
    assert "Trial 2 is not in MLflow: connection refused" in caplog.text
    runs = mlflow.search_runs(experiment_names=["tuning"], output_format="list")
    found = [each.data.tags.get("autotune.trial") for each in runs]
    assert {number for number in found if number} == {"0", "1", "3"}
